//! A whole session: a client that sends anything, before an upstream that answers anything. Whatever they do, the
//! sidecache between them stays up, what it says to the client is RESP, nobody hangs, and the next client is served.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use sidecache::config::Config;
use sidecache::limits::AUTHENTICATED;
use sidecache::net::Address;
use sidecache::protocol::reply::ReplyScanner;
use sidecache::protocol::request::{Parsed, RequestParser};
use sidecache::protocol::{Args, encode};
use sidecache::proxy::Proxy;
use sidecache::telemetry::Registry;

/// Far beyond every time-out below, for a machine that stands still now and then.
const HANGS: Duration = Duration::from_secs(30);

/// What a probe asks.
const PROBE: &[&[&str]] = &[&["ECHO", "alive"], &["SET", "probe", "1"], &["GET", "probe"]];

/// Connections on which upstream may have left half a reply behind, and one more.
const TRIES: usize = 4;

/// What upstream says instead of a proper answer, piece by piece, one for each command that it is sent.
type Pieces = Arc<Mutex<Script>>;

#[derive(Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    /// Whether handshakes are answered so too.
    handshakes: bool,
}

/// A sidecache in this process, and where to reach it.
struct Stage {
    addr: SocketAddr,
    script: Pieces,
}

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::new);

/// The input: flags, then what the client sends, and behind `\0\0` what upstream says, in pieces parted by `\0`.
pub fn check(data: &[u8]) {
    let [flags, bytes @ ..] = data else { return };
    let border = bytes.windows(2).position(|pair| pair == b"\0\0");
    let (sent, said) = border.map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let stage = &*STAGE;
    {
        let mut script = stage.script.lock().expect("a lock");
        script.pieces = said.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
        script.handshakes = flags & 2 != 0;
    }
    let hello: &[u8] = if flags & 1 != 0 { b"HELLO 3\r\n" } else { b"" };
    let replies = talk(stage.addr, &[hello, sent].concat(), None);
    assert!(is_resp(&replies), "not RESP: {}", replies.escape_ascii());
    *stage.script.lock().expect("a lock") = Script::default();

    let mut probe = Vec::new();
    PROBE.iter().for_each(|words| encode::request(&mut probe, words));
    // Half of a large reply that nobody asked for takes one client with it: it was told the first half of its own.
    let mut heard = (0..TRIES).map(|_| talk(stage.addr, &probe, Some(PROBE.len())));
    assert!(heard.any(|replies| count(&replies) == PROBE.len()), "the next clients are not served");
}

/// Sends these bytes; what is said until so many replies are in, or, nothing more being sent, until the end.
fn talk(addr: SocketAddr, bytes: &[u8], wanted: Option<usize>) -> Vec<u8> {
    let mut client = TcpStream::connect(addr).expect("a sidecache that listens");
    client.set_read_timeout(Some(HANGS)).expect("a time-out");
    client.set_write_timeout(Some(HANGS)).expect("a time-out");
    // It may have closed before all is sent: a protocol error.
    let _ = client.write_all(bytes);
    if wanted.is_none() {
        let _ = client.shutdown(Shutdown::Write);
    }
    let mut replies = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match client.read(&mut piece) {
            Ok(0) => return replies,
            Ok(n) => {
                replies.extend_from_slice(&piece[..n]);
                if wanted.is_some_and(|wanted| count(&replies) >= wanted) {
                    return replies;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("hangs behind {}", replies.escape_ascii())
            }
            // Closed with bytes of ours unread.
            Err(_) => return replies,
        }
    }
}

/// Whole replies; the last may be cut off with the connection.
fn is_resp(mut replies: &[u8]) -> bool {
    let mut scanner = ReplyScanner::default();
    loop {
        match scanner.scan(replies) {
            Ok(Some(frame)) => replies = &replies[frame.len..],
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn count(mut replies: &[u8]) -> usize {
    let mut scanner = ReplyScanner::default();
    let mut count = 0;
    while let Ok(Some(frame)) = scanner.scan(replies) {
        replies = &replies[frame.len..];
        count += 1;
    }
    count
}

// === impl Stage ===

impl Stage {
    fn new() -> Stage {
        let script = Pieces::default();
        let mut config = Config::default();
        config.client.listen = vec!["127.0.0.1:0".into()];
        // They would hold up whoever comes next, as they should.
        config.client.refuse = vec!["client|pause".into(), "client|kill".into()];
        config.admin.listen = None;
        config.upstream.url = format!("redis://{}", upstream(Arc::clone(&script)));
        config.upstream.command_timeout = Duration::from_millis(30);
        config.upstream.connect_timeout = Duration::from_millis(30);
        config.upstream.backoff_min = Duration::from_millis(1);
        config.upstream.backoff_max = Duration::from_millis(2);
        config.upstream.pool.wait_timeout = Duration::from_millis(30);
        config.upstream.waiting_pool.wait_timeout = Duration::from_millis(30);
        config.cache.admission_window = Duration::from_secs(3600);
        let proxy = Proxy::start(config, Arc::new(Registry::new())).expect("a sidecache");
        let addr = proxy.addresses().iter().find_map(|address| match address {
            Address::Tcp { host, port } => format!("{host}:{port}").parse().ok(),
            Address::Unix(_) => None,
        });
        // For as long as the process lives: there is no good end to an endless test.
        std::mem::forget(proxy);
        Stage { addr: addr.expect("an address"), script }
    }
}

/// A server that answers as scripted, and properly when the script has ended.
fn upstream(script: Pieces) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || serve(stream, &script));
        }
    });
    addr
}

fn serve(mut stream: TcpStream, script: &Mutex<Script>) {
    let (mut parser, mut buf) = (RequestParser::default(), Vec::new());
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => buf.extend_from_slice(&piece[..n]),
            _ => return,
        }
        let mut replies = Vec::new();
        loop {
            let used = match parser.parse(&buf, &AUTHENTICATED) {
                Ok(Parsed::Request { len }) => {
                    answer(&parser.args(&buf[..len]), script, &mut replies);
                    len
                }
                Ok(Parsed::Inline { len, .. } | Parsed::Empty { len }) => len,
                Ok(Parsed::Incomplete) => break,
                Err(error) => panic!("upstream is sent {}: {error}", buf.escape_ascii()),
            };
            buf.drain(..used);
        }
        if stream.write_all(&replies).is_err() {
            return;
        }
    }
}

/// The next piece of the script, or what a server would say.
fn answer(args: &Args<'_>, script: &Mutex<Script>, replies: &mut Vec<u8>) {
    let word = |i| args.get(i).map(<[u8]>::to_ascii_uppercase).unwrap_or_default();
    let (name, sub) = (word(0), word(1));
    let own: Option<&[u8]> = match (&name[..], &sub[..]) {
        (b"HELLO", b"3") => Some(b"%2\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:7\r\n"),
        (b"HELLO", _) => Some(b"*4\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:7\r\n"),
        (b"CLIENT", b"TRACKINGINFO") => Some(
            b"%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$5\r\noptin\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n*0\r\n",
        ),
        (b"CLIENT", b"ID") => Some(b":7\r\n"),
        (b"CLIENT", b"KILL") => Some(b":0\r\n"),
        (b"AUTH" | b"SELECT" | b"CLIENT", _) => Some(b"+OK\r\n"),
        (b"INFO", _) => Some(b"$22\r\nredis_version:7.0.15\r\n\r\n"),
        _ => None,
    };
    let mut script = script.lock().expect("a lock");
    if (own.is_none() || script.handshakes)
        && let Some(piece) = script.pieces.pop_front()
    {
        return replies.extend_from_slice(&piece);
    }
    replies.extend_from_slice(match (&name[..], own) {
        (_, Some(own)) => own,
        (b"PING", _) => b"+PONG\r\n",
        (b"PTTL", _) => b":-1\r\n",
        (b"GET", _) => b"$1\r\n1\r\n",
        _ => b"+OK\r\n",
    });
}
