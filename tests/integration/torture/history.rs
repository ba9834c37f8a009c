//! What happened in a round: every write, read, piece of news and wipe, with the times between which it happened.
//!
//! *Invariant:* an operation took effect between `sent`, read before its bytes left, and `done`, read after its reply had
//! come, both on one clock that all threads share (CLOCK_MONOTONIC). So *a.done ≤ b.sent* proves that a was before b;
//! a thread that stands still widens intervals, and can hide a fault but never make one up.
//!
//! *Invariant:* a key has one writer, whose next write of it goes out after the reply to the last. So the order of a key's
//! versions is the server's own. A write whose fate is not known is its key's last: its writer goes on with another
//! key, or the old write, executed late, would turn the server's own order round.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds since the clock was first looked at.
pub type Time = u64;

/// The number of a key in its round.
pub type KeyId = usize;

/// One millisecond.
pub const MS: Time = 1_000_000;

/// The present.
pub fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap()
}

/// What a wall clock, as servers expire by, is ahead of ours; read where nothing came between, as far as that can be had.
pub fn wall_ahead() -> Duration {
    let readings = (0..20).map(|_| {
        let (before, wall, after) = (now(), SystemTime::now(), now());
        (after - before, wall.duration_since(SystemTime::UNIX_EPOCH).unwrap() - Duration::from_nanos(after))
    });
    readings.min().unwrap().1
}

/// By which way a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Through the first sidecar, which suffers most.
    A,
    /// Through the second one, before the same server.
    B,
    /// To the server itself.
    Direct,
}

/// A connection: what it reads is a walk along one timeline.
#[derive(Clone, Copy, Debug)]
pub struct Via {
    /// To whom.
    pub path: Path,
    /// Its database.
    pub db: u32,
    /// Whether it acts as the second user.
    pub app: bool,
}

/// A key of the round.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name; unique in the round, but for keys that follow each other, see `holds`.
    pub name: String,
    /// Its database.
    pub db: u32,
    /// Keys of one group are always on one node.
    pub group: usize,
    /// When it was taken into use.
    pub born: Time,
    /// It follows the key of the same name after a loss: what that one, and so this one, was seen to be when all was over.
    pub holds: Option<Seen>,
}

/// What a fault may do to the keys of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// They go from node to node, and nothing is lost: what holds per node does not hold from one to the other.
    Moves,
    /// What was acknowledged may be lost, as Redis itself loses it: the keys begin anew with what their new owner has.
    Loses,
}

/// A time in which something happens to a group of keys.
#[derive(Clone, Debug)]
pub struct Upset {
    /// The group.
    pub group: usize,
    /// What.
    pub harm: Harm,
    /// Before it began.
    pub from: Time,
    /// When it was over on every node.
    pub until: Time,
}

/// What a write leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A value that names the version, so many bytes long.
    Value(usize),
    /// No key.
    Gone,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Executed; when the reply had come.
    Done(Time),
    /// Perhaps executed, now or later.
    Maybe,
    /// Not executed, and never will be: the error said so.
    Refused,
}

/// A write of one key.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: KeyId,
    /// Unique in the process and rising with each write of a key.
    pub version: u64,
    /// What it leaves.
    pub effect: Effect,
    /// After how long the value expires, from its execution.
    pub expires: Option<Time>,
    /// By which way.
    pub path: Path,
    /// The connection; one that nobody has if it is not known.
    pub conn: usize,
    /// How, for the context of a violation.
    pub how: &'static str,
    /// Before it was executed.
    pub sent: Time,
    /// What became of it.
    pub fate: Fate,
}

/// What a read showed of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The value of this version.
    Version(u64),
    /// A value of so many bytes.
    Length(usize),
    /// Some value.
    Present,
    /// No key.
    Absent,
}

/// A read of one key that was answered.
#[derive(Clone, Debug)]
pub struct Read {
    /// The key.
    pub key: KeyId,
    /// What it showed.
    pub seen: Seen,
    /// The connection.
    pub conn: usize,
    /// The version that the same client wrote, successfully, earlier in the same pipeline.
    pub own: Option<u64>,
    /// Whether it is news: a transaction's or a script's result.
    pub news: bool,
    /// The command's name.
    pub how: &'static str,
    /// Before it was executed or looked up.
    pub sent: Time,
    /// After its reply had come.
    pub done: Time,
}

/// Somebody heard of a write by another way than reading the key.
#[derive(Clone, Debug)]
pub struct News {
    /// Through which sidecar.
    pub path: Path,
    /// The key that was written before the news was sent.
    pub key: KeyId,
    /// The version of that write.
    pub version: u64,
    /// After the news had come.
    pub heard: Time,
    /// By which way.
    pub how: &'static str,
}

/// Something that removes keys: FLUSHALL, FLUSHDB, a server killed, eviction.
#[derive(Clone, Debug)]
pub struct Wipe {
    /// Of which database; all if `None`.
    pub db: Option<u32>,
    /// By which way.
    pub path: Path,
    /// Before the first key was removed.
    pub sent: Time,
    /// After the last was removed; never known if `None`.
    pub done: Option<Time>,
    /// Whether every key was removed; if not, each may have been.
    pub whole: bool,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A write.
    Write(Write),
    /// A read.
    Read(Read),
    /// Two reads by one MGET of a pair: of the last two events.
    Pair,
    /// Some news.
    News(News),
    /// A wipe.
    Wipe(Wipe),
    /// A command answered with an error, or by a closed connection.
    Failed {
        /// By which way.
        path: Path,
        /// When it was sent.
        sent: Time,
        /// When that was known.
        done: Time,
        /// The first error.
        how: String,
        /// The whole exchange, where a sidecar was asked.
        exchange: String,
    },
    /// A cached reply compared byte by byte with what the server said before and after it.
    Compared,
    /// Tags of a pipeline that came back in their places.
    Ordered(u64),
    /// What whoever saw it knows to be wrong: the promise, and what was seen.
    Wrong(&'static str, String),
}

/// All of a round.
#[derive(Default, Debug)]
pub struct History {
    /// The keys by their numbers.
    pub keys: Vec<Key>,
    /// The connections by their numbers.
    pub conns: Vec<Via>,
    /// What each client has noted, in the order of its commands.
    pub logs: Vec<Vec<Event>>,
    /// Workers of the sidecars A and B.
    pub threads: [usize; 2],
    /// The bound on staleness.
    pub max_staleness: Time,
    /// How far behind their masters the replicas may be that sidecars read from; 0 if they do not.
    pub lag: Time,
    /// The groups whose slots are moved key by key.
    pub moving: Vec<usize>,
    /// What has happened to groups of keys.
    pub upsets: Vec<Upset>,
}

impl Key {
    /// A key of a server that holds all keys.
    pub fn new(name: &str, db: u32) -> Key {
        Key { name: name.into(), db, group: 0, born: 0, holds: None }
    }
}
