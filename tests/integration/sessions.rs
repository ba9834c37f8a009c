//! A client's session is its own, and the answers are upstream's own: compared with a direct connection where a
//! server can be asked the same, byte for byte.

use crate::support::resp::{encode, words};
use crate::support::{Conn, Server, Sidecar};

mod blocking;
mod client;
mod fanout;
mod hello;
mod leaks;
mod pause;
mod pubsub;
mod refusals;
mod tracking;

/// One client of the sidecache and one of a server, that are told the same: of the same server if they only read, of
/// another one in the same state if they write.
pub struct Pair {
    /// Through the sidecache.
    pub through: Conn,
    /// To the server.
    pub direct: Conn,
}

impl Pair {
    /// Two fresh connections, not authenticated.
    pub fn new(sidecar: &Sidecar, server: &Server) -> Pair {
        Pair { through: sidecar.conn(), direct: Conn::open(server.addr()) }
    }

    /// The same in RESP3.
    pub fn new3(sidecar: &Sidecar, server: &Server) -> Pair {
        Pair { through: sidecar.conn3(), direct: Conn::open3(server.addr()) }
    }

    /// Sends a line to both; the replies, one frame each, must be the same.
    #[track_caller]
    pub fn alike(&mut self, line: &str) {
        self.alike_args(&words(line), 1);
    }

    /// All lines, one after the other.
    #[track_caller]
    pub fn all_alike(&mut self, lines: &[&str]) {
        for line in lines {
            self.alike(line);
        }
    }

    /// Sends a command to both; so many frames must be the same.
    #[track_caller]
    pub fn alike_args(&mut self, args: &[&str], frames: usize) {
        self.alike_raw(&encode(args), frames, &format!("{args:?}"));
    }

    /// Sends the lines in one write to both; so many frames must be the same.
    #[track_caller]
    pub fn alike_at_once(&mut self, lines: &[&str], frames: usize) {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| encode(&words(line))).collect();
        self.alike_raw(&bytes, frames, &format!("{lines:?}"));
    }

    /// Sends these bytes to both; so many frames must be the same, but for ids in HELLO's reply.
    #[track_caller]
    pub fn alike_raw(&mut self, bytes: &[u8], frames: usize, shown: &str) {
        self.direct.send_raw(bytes);
        self.through.send_raw(bytes);
        for _ in 0..frames {
            let expected = without_id(self.direct.read_frame());
            let got = without_id(self.through.read_frame());
            assert_eq!(got, expected, "{shown}");
        }
    }

    /// Both ends are closed, and nothing comes before.
    #[track_caller]
    pub fn both_closed(&mut self) {
        self.direct.expect_closed();
        self.through.expect_closed();
    }
}

/// A reply to HELLO with its id set to 0; anything else as it is.
fn without_id(frame: Vec<u8>) -> String {
    let text = String::from_utf8_lossy(&frame).into_owned();
    let mark = "$2\r\nid\r\n:";
    let Some(at) = text.find(mark).filter(|_| text.contains("proto")) else { return text };
    let (head, tail) = text.split_at(at + mark.len());
    format!("{head}0{}", tail.trim_start_matches(|c: char| c.is_ascii_digit()))
}
