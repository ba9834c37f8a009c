//! One write against all reads: what a tracking client of the server itself is told of it, and what a sidecache serves
//! after it.
//!
//! *Invariant:* nothing but pushes can drop an entry here. Entries live for an hour and so does the lease, and the
//! sidecache's user has no right to INFO, so that its polls see nothing. No audit looks either: what it finds stops the cache.

use std::collections::BTreeSet;
use std::time::Duration;

use super::commands::{Command, Write, is_cacheable};
use super::exceptions::SILENT;
use crate::matrix::compare::{How, alike};
use crate::support::redis::Kind;
use crate::support::resp::encode;
use crate::support::wait::holds_within;
use crate::support::{Conn, Server, Sidecar, V};

const TOML: &str = "upstream.user = 'polled_not'\nupstream.password = 'any'\nupstream.connect_timeout = '20s'\nupstream.command_timeout = '20s'\n\
    cache.audit_every = 0\ncache.max_age = '1h'\ncache.max_staleness = '1h'";

/// How long a batch may take to be served as it should: it is a thousand reads, each time they are told, on a machine
/// that may have much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has been seen of one kind of server.
#[derive(Default)]
pub struct Seen {
    /// Writes that were told.
    pub writes: BTreeSet<&'static str>,
    /// Writes that have changed a cached reply.
    pub effective: BTreeSet<&'static str>,
    /// Reads that were served from the cache before a write.
    pub kept: BTreeSet<&'static str>,
    /// Reads whose cached replies a write has changed.
    pub changed: BTreeSet<&'static str>,
    /// Write and read: the reply changed, and no push told.
    pub silent: BTreeSet<(&'static str, &'static str)>,
    pub faults: Vec<String>,
}

/// A server, a sidecache before it, and who looks on.
pub struct Bench {
    sidecar: Sidecar,
    /// Dropped after the sidecache, which would complain of its loss.
    _server: Server,
    /// Where MIGRATE takes keys.
    other: Server,
    client: Conn,
    /// Writes and reads directly; tracks nothing.
    outside: Conn,
    /// Reads directly, and is pushed what changes.
    tracking: Conn,
    /// What makes each state.
    setup: Vec<Command>,
    reads: Vec<Command>,
}

/// A read in its space, with its reply before the write.
struct Asked<'a> {
    read: &'a Command,
    space: usize,
    before: Vec<u8>,
    after: Vec<u8>,
}

// === impl Asked ===

impl Asked<'_> {
    fn request(&self) -> Vec<u8> {
        encode(&self.read.words_in(self.space))
    }

    fn has_changed(&self) -> bool {
        !self.alike(&self.before, &self.after)
    }

    fn alike(&self, one: &[u8], other: &[u8]) -> bool {
        let how = if self.read.row().is_unordered() { How::Order } else { How::Bytes };
        alike(how, one, other)
    }

    /// Whether the sidecache keeps it.
    fn is_kept(&self) -> bool {
        is_cacheable(self.read) && !self.before.starts_with(b"-")
    }
}

// === impl Bench ===

impl Bench {
    /// Fresh servers, and the reads that some state answers with success.
    pub fn new(kind: Kind, setup: Vec<Command>, reads: Vec<Command>) -> Bench {
        let [server, other] = [(); 2].map(|()| Server::with(kind, &["--hz", "100"]));
        server.outside("ACL SETUSER polled_not on nopass ~* &* +@all -info");
        let sidecar = Sidecar::start(&server, TOML);
        sidecar.allow_log("upstream denies INFO");
        let (client, mut tracking) = (sidecar.conn(), server.conn());
        assert_eq!(tracking.call(&["HELLO", "3"])[0], b'%');
        assert_eq!(tracking.line("CLIENT TRACKING ON"), V::Simple("OK".into()));
        let mut bench =
            Bench { client, outside: server.conn(), tracking, sidecar, _server: server, other, setup, reads };
        bench.renew(1, &[]);
        let requests: Vec<Vec<u8>> = bench.reads.iter().map(|read| encode(&read.words_in(0))).collect();
        let mut answers = ask(&mut bench.outside, &requests).into_iter();
        bench.reads.retain(|_| !answers.next().unwrap().starts_with(b"-"));
        bench
    }

    /// Whether the server has a command.
    pub fn knows(&mut self, name: &str) -> bool {
        !matches!(self.outside.ask(&["COMMAND", "INFO", name]).items(), [V::Nil])
    }

    /// All spaces' states anew.
    fn renew(&mut self, spaces: usize, before: &[Command]) {
        let flush = encode(&["FLUSHALL"]);
        let commands = self.setup.iter().chain(before);
        let lines = (0..spaces).flat_map(|space| commands.clone().map(move |command| encode(&command.words_in(space))));
        let requests: Vec<Vec<u8>> = std::iter::once(flush).chain(lines).collect();
        ask(&mut self.outside, &requests);
    }

    /// One write, at all its aims at once: in the first space all reads look on, in the others those of its keys.
    pub fn run(&mut self, write: &Write, seen: &mut Seen) {
        self.renew(write.aimed.len(), &write.before);
        let reads = std::mem::take(&mut self.reads);
        let places = (0..write.aimed.len()).flat_map(|space| reads.iter().map(move |read| (space, read)));
        let places = places.filter(|&(space, read)| space == 0 || read.meets(&write.aimed[space]));
        let mut asked: Vec<Asked<'_>> =
            places.map(|(space, read)| Asked { read, space, before: Vec::new(), after: Vec::new() }).collect();
        self.try_all(write, &mut asked, seen);
        self.reads = reads;
    }

    fn try_all(&mut self, write: &Write, asked: &mut [Asked<'_>], seen: &mut Seen) {
        let requests: Vec<Vec<u8>> = asked.iter().map(Asked::request).collect();
        let replies = self.say(&requests);
        asked.iter_mut().zip(replies).for_each(|(asked, reply)| asked.before = reply);
        self.tracking.send_raw(&requests.concat());
        requests.iter().for_each(|_| drop(reply(&mut self.tracking, &mut Vec::new())));
        self.pushed();
        if let Err(fault) = self.warm(asked) {
            return seen.faults.push(format!("{}: {fault}", write.line));
        }
        let writes = write
            .aimed
            .iter()
            .enumerate()
            .flat_map(|(space, commands)| commands.iter().map(move |command| encode(&command.words_in(space))));
        let writes: Vec<Vec<u8>> = writes.map(|bytes| self.with_port(bytes)).collect();
        ask(&mut self.outside, &writes);
        let pushed = self.pushed();
        let replies = self.say(&requests);
        asked.iter_mut().zip(replies).for_each(|(asked, reply)| asked.after = reply);
        seen.note(write, asked, &pushed);
        if let Err(fault) = self.compare(asked, &pushed) {
            seen.faults.push(format!("{}: {fault}", write.line));
        }
    }

    /// What the server says to reads. They are told twice: PFCOUNT writes what it has counted, and so changes the
    /// replies of others.
    fn say(&mut self, requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
        ask(&mut self.outside, requests);
        ask(&mut self.outside, requests)
    }

    /// Reads until all that may be kept is served from the cache, as the server itself says it.
    fn warm(&mut self, asked: &[Asked<'_>]) -> Result<(), String> {
        let kept: Vec<&Asked<'_>> = asked.iter().filter(|asked| asked.is_kept()).collect();
        let requests: Vec<Vec<u8>> = kept.iter().map(|asked| asked.request()).collect();
        let mut wrong = Vec::new();
        // Behind other commands that are unanswered an MGET is only forwarded: it is asked for by itself as well.
        let alone = kept.iter().filter(|asked| asked.read.row().name == "mget").map(|asked| asked.request());
        let alone: Vec<Vec<u8>> = alone.collect();
        let warm = holds_within(PATIENCE, || {
            alone.iter().for_each(|request| drop(ask(&mut self.client, std::slice::from_ref(request))));
            let hits = hits(&self.sidecar);
            let replies = ask(&mut self.client, &requests);
            wrong = differences(&kept, &replies, |asked| &asked.before);
            wrong.is_empty() && self::hits(&self.sidecar) - hits >= kept.len() as f64
        });
        if warm { Ok(()) } else { Err(format!("is not all served from the cache; differently: {wrong:?}")) }
    }

    /// What is served must become what the server says, and stay that.
    fn compare(&mut self, asked: &[Asked<'_>], pushed: &Pushed) -> Result<(), String> {
        let told = |asked: &&Asked<'_>| asked.is_kept() && (!asked.has_changed() || pushed.tells(asked));
        let kept: Vec<&Asked<'_>> = asked.iter().filter(told).collect();
        let requests: Vec<Vec<u8>> = kept.iter().map(|asked| asked.request()).collect();
        let mut wrong = Vec::new();
        let right = holds_within(PATIENCE, || {
            let replies = ask(&mut self.client, &requests);
            wrong = differences(&kept, &replies, |asked| &asked.after);
            wrong.is_empty()
        });
        let still = ask(&mut self.outside, &requests);
        let moved = differences(&kept, &still, |asked| &asked.after);
        match (right, moved.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("what it changed is not seen by {wrong:?}")),
            (_, false) => Err(format!("the server itself says otherwise a moment later: {moved:?}")),
        }
    }

    /// Every push up to now: those of writes that have been answered stand before the answer to this PING.
    fn pushed(&mut self) -> Pushed {
        let mut pushes = Vec::new();
        self.tracking.send(&["PING"]);
        reply(&mut self.tracking, &mut pushes);
        let mut pushed = Pushed::default();
        for push in pushes {
            match &push.items()[1] {
                V::Nil => pushed.all = true,
                keys => pushed.keys.extend(keys.items().iter().map(V::text)),
            }
        }
        pushed
    }

    fn with_port(&self, request: Vec<u8>) -> Vec<u8> {
        let port = format!("${}\r\n{}\r\n", 5, self.other.port());
        let text = request.windows(10).position(|part| part == b"$4\r\nPORT\r\n");
        text.map_or(request.clone(), |at| [&request[..at], port.as_bytes(), &request[at + 10..]].concat())
    }
}

/// The keys that pushes have named.
#[derive(Default)]
struct Pushed {
    all: bool,
    keys: BTreeSet<String>,
}

// === impl Pushed ===

impl Pushed {
    fn tells(&self, asked: &Asked<'_>) -> bool {
        self.all || asked.read.keys_in(asked.space).any(|key| self.keys.contains(&key))
    }
}

// === impl Seen ===

impl Seen {
    fn note(&mut self, write: &Write, asked: &[Asked<'_>], pushed: &Pushed) {
        self.writes.insert(write.row.name);
        for asked in asked {
            let read = asked.read.row().name;
            let (kept, changed) = (asked.is_kept(), asked.has_changed());
            if kept {
                self.kept.insert(read);
            }
            if kept && changed {
                self.effective.insert(write.row.name);
                self.changed.insert(read);
            }
            if !changed || pushed.tells(asked) {
                continue;
            }
            self.silent.insert((write.row.name, read));
            let names = |&(name, of, _): &(&str, &[&str], &str)| {
                name == write.row.name && (of == ["*"] || of.contains(&read) && !kept)
            };
            if !SILENT.iter().any(names) {
                let kept = if kept { "cached " } else { "" };
                self.faults.push(format!("{}: no push tells of what it changes for the {kept}{read}", write.row.name));
            }
        }
    }
}

fn hits(sidecar: &Sidecar) -> f64 {
    let (_, body) = sidecar.http("/metrics");
    let hits =
        body.lines().filter(|line| line.starts_with("sidecache_commands_total") && line.contains("outcome=\"hit\""));
    hits.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Sends all in one write and reads as many replies.
fn ask(conn: &mut Conn, requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
    conn.send_raw(&requests.concat());
    requests.iter().map(|_| conn.read_frame()).collect()
}

/// The next reply; the pushes before it are put aside.
fn reply(conn: &mut Conn, pushes: &mut Vec<V>) -> V {
    loop {
        match conn.value() {
            push @ V::Push(_) => pushes.push(push),
            reply => return reply,
        }
    }
}

/// The reads that were not answered as they should be, with both answers; no more than one wants to see.
fn differences<'a>(
    asked: &[&'a Asked<'_>],
    replies: &[Vec<u8>],
    expected: impl Fn(&'a Asked<'_>) -> &'a Vec<u8>,
) -> Vec<String> {
    let wrong = asked.iter().zip(replies).filter(|(asked, reply)| !asked.alike(reply, expected(asked)));
    let told = wrong.map(|(asked, reply)| {
        let texts = [reply, expected(asked)].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        format!("{:?}: {:?} instead of {:?}", asked.read.words_in(asked.space), texts[0], texts[1])
    });
    told.take(5).collect()
}
