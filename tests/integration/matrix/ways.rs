//! Two ways to the same answer: a server that is asked directly, and its twin behind a sidecache.
//!
//! Twins are in the same state, since both are told the same. What is made by asking one of them alone, or by looking
//! at the clock, is not compared.

use sidecache::command::index;
use sidecache::command::policy::Policy;
use sidecache::protocol::Args;
use sidecache::telemetry::labels::Class;

use crate::samples;
use crate::support::redis::Kind;
use crate::support::resp::encode;
use crate::support::{Conn, Server, Sidecar};

/// Waits end within milliseconds of their time, not with the next of ten ticks a second.
const SERVER: [&str; 2] = ["--hz", "100"];

/// Settings for a busy machine: nothing is given up here that the tests still wait for.
pub const PATIENT: &str = "upstream.connect_timeout = '20s'\nupstream.command_timeout = '20s'";

/// The same for connections of one's own.
const WAITING: &str = "upstream.pool.wait_timeout = '20s'\nupstream.waiting_pool.wait_timeout = '20s'";

/// For what a row says of itself whatever the arguments.
pub const NO_ARGS: Args<'static> = Args { raw: b"", ranges: &[] };

/// One reply of each: the server's that was asked directly, and the sidecache's.
pub type Both = [Vec<u8>; 2];

/// The twins, and the sidecache before the second.
pub struct Bench {
    /// Which server it is.
    pub kind: Kind,
    /// Before the second of the twins.
    pub sidecar: Sidecar,
    /// The first is asked directly.
    pub servers: [Server; 2],
    /// Who makes each state anew: a client of its own on each way.
    desks: [Conn; 2],
    /// Reads answered from the cache, when that was last asked.
    hits: f64,
}

/// One client on each way.
pub struct Ways {
    conns: [Conn; 2],
}

// === impl Bench ===

impl Bench {
    /// Fresh servers with further arguments, and a sidecache that allows what is refused by default.
    pub fn new(kind: Kind, args: &[&str]) -> Bench {
        let args: Vec<&str> = SERVER.iter().chain(args).copied().collect();
        let servers = [(); 2].map(|()| Server::with(kind, &args));
        let sidecar =
            Sidecar::start(&servers[1], &format!("{PATIENT}\n{WAITING}\nclient.allow = {:?}", refused_by_default()));
        let desks = [servers[0].conn(), sidecar.conn()];
        Bench { kind, sidecar, servers, desks, hits: 0.0 }
    }

    /// Two clients, one on each way.
    pub fn ways(&self, resp3: bool) -> Ways {
        let addrs = [self.servers[0].addr(), self.sidecar.addr()];
        Ways { conns: addrs.map(|addr| if resp3 { Conn::open3(addr) } else { Conn::open(addr) }) }
    }

    /// Makes the twins' state anew: nothing but what these lines make.
    pub fn renew(&mut self, setup: &[String]) -> Result<(), String> {
        let lines = std::iter::once("FLUSHALL").chain(setup.iter().map(String::as_str));
        let commands: Vec<Vec<String>> = lines.flat_map(samples::commands).collect();
        let bytes: Vec<u8> = commands.iter().flat_map(|words| encode(words)).collect();
        self.desks.iter_mut().for_each(|desk| desk.send_raw(&bytes));
        for words in &commands {
            let [direct, through] = self.desks.each_mut().map(Conn::read_frame);
            if direct != through {
                return Err(format!("{}: {:?} and {:?}", words.join(" "), show(&direct), show(&through)));
            }
        }
        Ok(())
    }

    /// Whether reads have been answered from the cache since this was last asked.
    pub fn has_hit(&mut self) -> bool {
        let (_, body) = self.sidecar.http("/metrics");
        let hits = body.lines().filter(|line| line.contains("outcome=\"hit\""));
        let hits = hits.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
        std::mem::replace(&mut self.hits, hits) < hits
    }

    /// Whether the server has a command: its own words, not ours.
    pub fn knows(&mut self, name: &str) -> bool {
        !matches!(self.desks[0].ask(&["COMMAND", "INFO", name]).items(), [crate::support::V::Nil])
    }
}

// === impl Ways ===

impl Ways {
    /// Tells both the same, one command after the other, and gives their replies; a command with several replies
    /// gives them as one.
    pub fn tell(&mut self, commands: &[Vec<String>]) -> Result<Vec<Both>, String> {
        commands.iter().map(|words| self.send(&encode(words)).and_then(|()| self.replies(words))).collect()
    }

    /// As `tell`, in one write.
    pub fn tell_at_once(&mut self, commands: &[Vec<String>]) -> Result<Vec<Both>, String> {
        self.send(&commands.iter().flat_map(|words| encode(words)).collect::<Vec<u8>>())?;
        commands.iter().map(|words| self.replies(words)).collect()
    }

    /// Nothing more comes than the answers to what ends every state, or the end.
    pub fn ends_alike(mut self) -> Result<(), String> {
        let last = encode(&["RESET"]).into_iter().chain(encode(&["ECHO", "end"])).collect::<Vec<u8>>();
        let ends = self.conns.each_mut().map(|conn| {
            conn.try_send_raw(&last);
            let mut end = Vec::new();
            while !end.ends_with(b"$3\r\nend\r\n") {
                match conn.try_read_frame() {
                    Ok(frame) => end.extend(frame),
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                    Err(error) => return format!("{:?} and then {error}", show(&end)),
                }
            }
            show(&end)
        });
        if ends[0] == ends[1] { Ok(()) } else { Err(format!("at the end {:?} and {:?}", ends[0], ends[1])) }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let sent = self.conns.each_mut().map(|conn| conn.try_send_raw(bytes));
        if sent == [true; 2] { Ok(()) } else { Err(format!("closed: {sent:?}")) }
    }

    fn replies(&mut self, words: &[String]) -> Result<Both, String> {
        let mut both = Both::default();
        for (conn, reply) in self.conns.iter_mut().zip(&mut both) {
            for _ in 0..frames(words) {
                reply.extend(conn.try_read_frame().map_err(|error| {
                    format!("{} has no reply: {error}, the other way gave {:?}", words.join(" "), show(reply))
                })?);
            }
        }
        Ok(both)
    }
}

/// How many frames answer a command: each channel is confirmed.
fn frames(words: &[String]) -> usize {
    let confirms = words[0].to_ascii_lowercase().ends_with("subscribe");
    if confirms { (words.len() - 1).max(1) } else { 1 }
}

/// The names of all that is refused unless allowed.
pub fn refused_by_default() -> Vec<&'static str> {
    index::rows().filter(|row| Policy::default().refusal(row, &NO_ARGS).is_some()).map(|row| row.name).collect()
}

/// The class of a command.
pub fn class_of(words: &[String]) -> Class {
    samples::of_row(words, sidecache::command::Row::class)
}

/// As much of a reply as a reader wants to see.
pub fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(300).collect()
}
