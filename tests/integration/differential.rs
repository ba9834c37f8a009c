//! Random pipelines are answered byte for byte as a real server answers them: one server behind a sidecache, one asked
//! directly, both in the same state.
//!
//! The pipelines come from seeds, so every run in CI is the same. To look further: `SIDECACHE_SEEDS=1000000..2000000`
//! and `SIDECACHE_SECONDS=300`. A failure shows the shortest pipeline found that still fails.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::redis::Kind;
use crate::support::resp::Stream;
use crate::support::wait::PATIENCE;
use crate::support::{Conn, Server, Sidecar};

pub mod dice;
mod pipelines;

use dice::Dice;
use pipelines::{Case, Request};

/// Pipelines in CI, for each kind of server.
const CASES: u64 = 400;

/// So many failing pipelines are shortened and shown, no more.
const FAULTS: usize = 8;

/// How long a reply may take while a failing pipeline is shortened: each try may end in silence.
const SHORT_PATIENCE: Duration = Duration::from_millis(700);

/// What is compared.
struct Bench {
    sidecar: Sidecar,
    /// The server behind the sidecache, and the one that is asked directly.
    servers: [Server; 2],
    /// Another client of the sidecache: what it is answered, the worker has read after the bytes before it.
    witness: Conn,
}

/// A group's bytes on both ways, where they differ.
struct Difference {
    expected: String,
    got: String,
}

impl Bench {
    fn new(kind: Kind) -> Bench {
        let servers = [Server::with(kind, &[]), Server::with(kind, &[])];
        // Audits often: what they find is one more way to fail.
        let sidecar = Sidecar::start(&servers[0], "cache.audit_every = 20");
        for server in &servers {
            assert_eq!(server.conn().call(&["FUNCTION", "LOAD", pipelines::LIBRARY]), b"$3\r\nlib\r\n");
        }
        let witness = sidecar.conn();
        Bench { servers, sidecar, witness }
    }

    /// Runs one case on both ways.
    fn run(&mut self, case: &Case, patience: Duration) -> Result<(), Difference> {
        let flushed = [&mut self.witness, &mut self.servers[1].conn()].map(|conn| conn.call(&["FLUSHALL"]));
        assert_eq!(flushed, [b"+OK\r\n", b"+OK\r\n"]);
        let mut through = open(self.sidecar.addr(), case.resp3, patience);
        let mut direct = open(self.servers[1].addr(), case.resp3, patience);
        let mut dice = Dice::new(case.cuts);
        for group in &case.groups {
            let bytes: Vec<u8> = group.iter().flat_map(|request| request.bytes.clone()).collect();
            let expected = send_whole(&mut direct, &bytes, group);
            let (got, open) = self.send_cut(&mut through, &bytes, expected.len(), &mut dice);
            let expected: Vec<u8> = expected.concat();
            if got != expected {
                return Err(Difference { expected: lines(&expected), got: lines(&got) });
            }
            if !open {
                break;
            }
        }
        self.ends_alike(&mut through, &mut direct)
    }

    /// Sends a group in pieces and reads so many frames, or up to the end.
    fn send_cut(&mut self, conn: &mut Conn, bytes: &[u8], frames: usize, dice: &mut Dice) -> (Vec<u8>, bool) {
        let mut rest = bytes;
        while !rest.is_empty() && dice.percent(40) {
            let (piece, more) = rest.split_at(1 + dice.below(rest.len()));
            let _ = conn.try_send_raw(piece);
            rest = more;
            if dice.percent(50) {
                assert_eq!(self.witness.call(&["ECHO", "on"]), b"$2\r\non\r\n");
            }
        }
        let _ = conn.try_send_raw(rest);
        let mut got = Vec::new();
        for _ in 0..frames {
            match conn.try_read_frame() {
                Ok(frame) => got.extend(frame),
                Err(error) => {
                    got.extend(format!("[no reply: {error}]").into_bytes());
                    return (got, false);
                }
            }
        }
        (got, true)
    }

    /// Nothing more comes than the end, or the answers to what ends every state.
    fn ends_alike(&mut self, through: &mut Conn, direct: &mut Conn) -> Result<(), Difference> {
        let last = ["RESET", "ECHO end"];
        let ends = [direct, through].map(|conn| {
            let mut bytes = Vec::new();
            for line in last {
                let words: Vec<&str> = line.split(' ').collect();
                let _ = conn.try_send_raw(&crate::support::resp::encode(&words));
                match conn.try_read_frame() {
                    Ok(frame) => bytes.extend(frame),
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => bytes.extend(b"[the end]"),
                    Err(error) => bytes.extend(format!("[{error}]").into_bytes()),
                }
            }
            lines(&bytes)
        });
        let [expected, got] = ends;
        if expected == got { Ok(()) } else { Err(Difference { expected, got }) }
    }

    /// A shorter case that still fails, and how it fails.
    fn shortened(&mut self, case: Case, difference: Difference) -> (Case, Difference) {
        let (mut case, mut difference) = (case, difference);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut shorter = true;
        while shorter {
            shorter = false;
            for candidate in candidates(&case) {
                if Instant::now() > deadline {
                    return (case, difference);
                }
                if let Err(found) = self.run(&candidate, SHORT_PATIENCE) {
                    (case, difference, shorter) = (candidate, found, true);
                    break;
                }
            }
        }
        (case, difference)
    }
}

/// All cases with one request, or one break between groups, less.
fn candidates(case: &Case) -> Vec<Case> {
    let mut candidates = Vec::new();
    for (g, group) in case.groups.iter().enumerate() {
        if case.groups.len() > 1 {
            let mut without = case.clone();
            without.groups.remove(g);
            candidates.push(without);
        }
        if group.len() > 1 {
            for r in 0..group.len() {
                let mut without = case.clone();
                without.groups[g].remove(r);
                candidates.push(without);
            }
        }
    }
    candidates
}

fn open(addr: SocketAddr, resp3: bool, patience: Duration) -> Conn {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.set_write_timeout(Some(patience)).unwrap();
    let mut conn = Conn::from_stream(Stream::Tcp(stream));
    if resp3 {
        assert_eq!(conn.call(&["HELLO", "3"])[0], b'%');
    }
    conn
}

/// Sends a group to the server that is asked directly; its frames, fewer if it closes.
fn send_whole(conn: &mut Conn, bytes: &[u8], group: &[Request]) -> Vec<Vec<u8>> {
    let _ = conn.try_send_raw(bytes);
    let mut frames = Vec::new();
    for _ in group.iter().filter(|request| request.answered) {
        match conn.try_read_frame() {
            Ok(frame) => frames.push(frame),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => panic!("the server itself does not answer: {error} after {frames:?}"),
        }
    }
    frames
}

fn lines(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\\r\\n ")
}

/// The seeds to run, and for how long at most.
fn seeds() -> (std::ops::Range<u64>, Duration) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    // A test that lasts two minutes is ended from outside.
    let seconds = Duration::from_secs(number("SIDECACHE_SECONDS").unwrap_or(80));
    let Ok(text) = std::env::var("SIDECACHE_SEEDS") else { return (0..CASES, seconds) };
    let (from, to) = text.split_once("..").expect("SIDECACHE_SEEDS=from..to");
    (from.parse().unwrap()..to.parse().unwrap(), seconds)
}

fn compare(kind: Kind) {
    let mut bench = Bench::new(kind);
    let (seeds, limit) = seeds();
    let begun = Instant::now();
    let mut faults = Vec::new();
    for seed in seeds {
        if begun.elapsed() > limit || faults.len() >= FAULTS {
            break;
        }
        let case = pipelines::case(seed);
        if let Err(difference) = bench.run(&case, PATIENCE) {
            let (case, difference) = bench.shortened(case, difference);
            faults.push(format!("{kind:?}, seed {seed}, {}", told(&case, &difference)));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn told(case: &Case, difference: &Difference) -> String {
    let group = |group: &Vec<Request>| group.iter().map(|r| r.shown.as_str()).collect::<Vec<_>>().join("\n  ");
    let groups: Vec<String> = case.groups.iter().map(group).collect();
    let version = if case.resp3 { 3 } else { 2 };
    let Difference { expected, got } = difference;
    format!("RESP{version}:\n  {}\nexpected: {expected}\ngot:      {got}\n", groups.join("\n  -\n  "))
}

#[test]
fn random_pipelines_are_answered_as_redis_itself_answers_them() {
    compare(Kind::Redis);
}

#[test]
fn random_pipelines_are_answered_as_valkey_itself_answers_them() {
    compare(Kind::Valkey);
}
