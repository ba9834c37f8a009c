//! A client that notes what happens to it: pipelines whose end is tagged, the times of sending and of each reply.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use super::cluster::follower::Follower;
use super::cluster::terrain::Terrain;
use super::history::{Event, Key, KeyId, Path, Seen, Time, Via, now};
use super::values::{Kind, Words, short, words};
use crate::support::resp::{decode, encode};
use crate::support::wait::pass;
use crate::support::{Conn, V};

/// The second user and its password.
pub const USER: [&str; 2] = ["app", "secret"];

/// What a client notes, in the order of its commands.
pub type Log = Vec<Event>;

/// A key as clients use it.
#[derive(Clone, Debug)]
pub struct KeyRef {
    /// Its number.
    pub id: KeyId,
    /// Its name.
    pub name: String,
}

/// Where one writer writes: a key, or a pair of them; others take their place when the fate of a write is not known.
pub struct Slot {
    /// What the names begin with.
    prefix: String,
    /// The database.
    pub db: u32,
    /// The type.
    pub kind: Kind,
    /// Whether it is two keys.
    pub pair: bool,
    /// The group of its keys.
    pub group: usize,
    /// Whether it moves from node to node by key: what a server itself gets wrong then must not be asked of it.
    pub moves: bool,
    /// Whether its node may lose it by force: Redis 7.0 then drops its keys without a word to its replicas, which show them
    /// again when they are masters.
    pub drops: bool,
    current: RwLock<Vec<KeyRef>>,
    renewals: AtomicUsize,
}

/// What all threads of a round share.
pub struct Field {
    /// Of A, B and the server.
    pub addrs: [SocketAddr; 3],
    /// The slots of all writers.
    pub slots: Vec<Slot>,
    /// The keys so far.
    pub keys: Mutex<Vec<Key>>,
    /// The connections so far.
    pub conns: Mutex<Vec<Via>>,
    /// Set when the clients are to end.
    pub ends: AtomicBool,
    /// The bound on staleness.
    pub max_staleness: Duration,
    /// Whether replicas are read from, which are nodes of their own: what is read before a write may be executed behind it.
    pub lags: bool,
    /// The cluster, if it is one.
    pub terrain: Option<Terrain>,
}

impl Field {
    /// A version that nobody has had.
    pub fn version() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        1 + LAST.fetch_add(1, Ordering::SeqCst)
    }

    /// Whether the clients are to go on.
    pub fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::SeqCst)
    }

    /// A slot in this round.
    pub fn slot(&self, prefix: &str, db: u32, kind: Kind, pair: bool, group: usize) -> Slot {
        let (prefix, current, renewals) = (prefix.into(), RwLock::default(), AtomicUsize::new(0));
        let slot = Slot { prefix, db, kind, pair, group, moves: false, drops: false, current, renewals };
        slot.renew(self);
        slot
    }
}

impl Slot {
    /// Its keys: one or two.
    pub fn current(&self) -> Vec<KeyRef> {
        self.current.read().unwrap().clone()
    }

    /// Gives up its keys, and takes others.
    pub fn renew(&self, field: &Field) {
        let turn = self.renewals.fetch_add(1, Ordering::SeqCst);
        let names: &[&str] = if self.pair { &["a", "b"] } else { &["s"] };
        let name = |part: &&str| (format!("{}:{:?}:{part}:{turn}", self.prefix, self.kind), None);
        self.take_up(field, names.iter().map(name).collect());
    }

    /// Goes on with keys of the same names, which were seen to be so when a loss was over.
    pub fn begin_anew(&self, field: &Field, seen: &[Seen]) {
        let current = self.current().into_iter().map(|key| key.name);
        self.take_up(field, current.zip(seen.iter().map(|seen| Some(*seen))).collect());
    }

    fn take_up(&self, field: &Field, names: Vec<(String, Option<Seen>)>) {
        let mut keys = field.keys.lock().unwrap();
        let mut current = Vec::new();
        for (name, holds) in names {
            current.push(KeyRef { id: keys.len(), name: name.clone() });
            keys.push(Key { name, db: self.db, group: self.group, born: now(), holds });
        }
        *self.current.write().unwrap() = current;
    }
}

/// A client's way: to whom, in which database, as whom, in which RESP version. It connects anew when it must.
pub struct Client {
    via: Via,
    resp3: bool,
    field: Arc<Field>,
    conn: Option<(Conn, usize)>,
    /// What it speaks to a cluster itself by, and the number of that.
    follower: Option<(Follower, usize)>,
    /// The next pipeline is sent in two parts with so much time between them.
    pub rest: Option<Duration>,
    tags: u64,
}

/// What became of a pipeline.
pub struct Answers {
    /// Before the first byte left.
    pub sent: Time,
    /// The replies and when each had come; `None` from where the connection was closed.
    pub replies: Vec<Option<(V, Time)>>,
    /// Their bytes.
    pub frames: Vec<Vec<u8>>,
    /// The connection's number.
    pub conn: usize,
}

impl Client {
    /// A client; it is not connected yet.
    pub fn new(field: &Arc<Field>, via: Via, resp3: bool) -> Client {
        let follows = field.terrain.is_some() && via.path == Path::Direct;
        let follower = follows.then(|| (Follower::default(), Client::next_number(field, via)));
        Client { via, resp3, field: Arc::clone(field), conn: None, follower, rest: None, tags: 0 }
    }

    /// A plain one in database 0.
    pub fn plain(field: &Arc<Field>, path: Path) -> Client {
        Client::new(field, Via { path, db: 0, app: false }, false)
    }

    /// Its way.
    pub fn via(&self) -> Via {
        self.via
    }

    /// The number of its connection; one that nobody has if it has none.
    pub fn number(&self) -> usize {
        let conn = self.conn.as_ref().map(|(_, number)| *number);
        conn.or(self.follower.as_ref().map(|(_, number)| *number)).unwrap_or(usize::MAX)
    }

    /// Leaves.
    pub fn leave(&mut self) {
        self.conn = None;
    }

    /// Sends all in one write, with a tag behind them that must come back behind their replies.
    pub fn tagged(&mut self, log: &mut Log, commands: &[Words]) -> Option<Answers> {
        self.tags += 1;
        let tag = format!("tag-{}-{}", self.conn.as_ref().map_or(0, |(_, number)| *number), self.tags);
        let mut all = commands.to_vec();
        all.push(words(&format!("ECHO {tag}")));
        let mut answers = self.exchange(log, &all)?;
        match answers.replies.pop().flatten() {
            Some((V::Bulk(text), _)) if text == tag.as_bytes() => {
                log.push(Event::Ordered(u64::try_from(all.len()).unwrap()));
            }
            Some((V::Error(_), _)) | None => {}
            Some((other, _)) => {
                let before: Vec<String> = answers.replies.iter().flatten().map(|(reply, _)| short(reply)).collect();
                let text = format!("ECHO {tag} was answered {} behind {commands:?} {before:?}", short(&other));
                log.push(Event::Wrong("P1", text));
                self.leave();
            }
        }
        Some(answers)
    }

    /// As `tagged`, or without a tag, of a transaction spoken line by line: what happens to the node that it is with may cost it an
    /// error that no other client gets, and so counts as no failure.
    pub fn spoken(&mut self, log: &mut Log, commands: &[Words], tagged: bool) -> Option<Answers> {
        let mut own = Log::new();
        let answers = if tagged { self.tagged(&mut own, commands) } else { self.exchange(&mut own, commands) };
        log.extend(own.into_iter().filter(|event| !matches!(event, Event::Failed { .. })));
        answers
    }

    /// Sends all in one write; `None` if it cannot connect.
    pub fn exchange(&mut self, log: &mut Log, commands: &[Words]) -> Option<Answers> {
        if let Some((follower, conn)) = &mut self.follower {
            let answers = one_by_one(&self.field, follower, *conn, commands);
            note_failures(log, self.via.path, commands, &answers);
            return Some(answers);
        }
        if self.conn.is_none() {
            let sent = now();
            self.conn = self.connect(log);
            if self.conn.is_none() {
                let (path, how, exchange) = (self.via.path, "cannot connect".into(), String::new());
                log.push(Event::Failed { path, sent, done: now(), how, exchange });
                pass(Duration::from_millis(5));
                return None;
            }
        }
        let rest = self.rest.take();
        let (conn, number) = self.conn.as_mut()?;
        let conn_number = *number;
        let bytes: Vec<Vec<u8>> = commands.iter().map(|command| encode(command)).collect();
        let (first, second) = bytes.split_at(rest.map_or(bytes.len(), |_| bytes.len() / 2));
        let sent = now();
        let mut open = conn.try_send_raw(&first.concat());
        if let Some(rest) = rest {
            pass(rest);
            open = open && conn.try_send_raw(&second.concat());
        }
        let (mut replies, mut frames) = (Vec::new(), Vec::new());
        for _ in commands {
            let frame = if open { conn.try_read_frame() } else { Err(ErrorKind::UnexpectedEof.into()) };
            match frame {
                Ok(frame) => {
                    replies.push(decode(&frame).map(|(value, _)| (value, now())));
                    frames.push(frame);
                }
                Err(error) => {
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                        let text = format!("no reply to {:?} of {commands:?} {:?}", replies.len(), self.via);
                        log.push(Event::Wrong("P8", text));
                    }
                    open = false;
                    replies.push(None);
                }
            }
        }
        if !open {
            self.leave();
        }
        let answers = Answers { sent, replies, frames, conn: conn_number };
        note_failures(log, self.via.path, commands, &answers);
        Some(answers)
    }

    fn connect(&self, log: &mut Log) -> Option<(Conn, usize)> {
        let mut conn = Conn::try_open(self.field.addrs[self.via.path as usize]).ok()?;
        let mut commands = Vec::new();
        if self.resp3 {
            commands.push(words("HELLO 3"));
        }
        if self.via.app {
            commands.push(words(&format!("AUTH {} {}", USER[0], USER[1])));
        }
        if self.via.db > 0 {
            commands.push(words(&format!("SELECT {}", self.via.db)));
        }
        for command in &commands {
            let reply = if conn.try_send_raw(&encode(command)) { conn.try_read_frame() } else { return None };
            match reply {
                Ok(reply) if reply.starts_with(b"+OK") || reply.starts_with(b"%") => {}
                Ok(reply) if reply.starts_with(b"-") => return None,
                Ok(reply) => {
                    log.push(Event::Wrong("P1", format!("{command:?} was answered {reply:?}")));
                    return None;
                }
                Err(error) => {
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                        log.push(Event::Wrong("P8", format!("no reply to {command:?} {:?}", self.via)));
                    }
                    return None;
                }
            }
        }
        Some((conn, Client::next_number(&self.field, self.via)))
    }

    /// The number of a new connection.
    fn next_number(field: &Field, via: Via) -> usize {
        let mut conns = field.conns.lock().unwrap();
        conns.push(via);
        conns.len() - 1
    }

    /// The next frame that comes by itself, and when; the connection is left if none comes in time.
    pub fn next_frame(&mut self) -> Option<(V, Time)> {
        let (conn, _) = self.conn.as_mut()?;
        match conn.try_read_frame() {
            Ok(frame) => decode(&frame).map(|(value, _)| (value, now())),
            Err(_) => {
                self.leave();
                None
            }
        }
    }
}

/// To a cluster itself, one after the other; what stands behind one of which nobody knows is not sent.
fn one_by_one(field: &Arc<Field>, follower: &mut Follower, conn: usize, commands: &[Words]) -> Answers {
    let sent = now();
    let (mut replies, mut frames) = (Vec::new(), Vec::new());
    for command in commands {
        let frame = if matches!(replies.last(), Some(None)) { None } else { follower.ask(field, command) };
        replies.push(frame.as_ref().and_then(|frame| decode(frame)).map(|(value, _)| (value, now())));
        frames.extend(frame);
    }
    Answers { sent, replies, frames, conn }
}

/// Notes that something has failed, and what must never be seen behind a sidecar: that there is more than one server.
fn note_failures(log: &mut Log, path: Path, commands: &[Words], answers: &Answers) {
    let error = |reply: &Option<(V, Time)>| match reply {
        None => Some("closed".to_string()),
        Some((V::Error(text), _)) => Some(text.clone()),
        Some(_) => None,
    };
    let Some(how) = answers.replies.iter().find_map(error) else { return };
    let mut exchange = String::new();
    if path != Path::Direct {
        let replies: Vec<String> = answers.replies.iter().flatten().map(|(reply, _)| short(reply)).collect();
        exchange = format!("{commands:?} {replies:?}");
    }
    let cluster = ["MOVED ", "ASK ", "CROSSSLOT "].iter().any(|start| how.starts_with(start));
    if cluster && path != Path::Direct {
        log.push(Event::Wrong("P7", format!("{path:?} answered {how}: {exchange}")));
    }
    log.push(Event::Failed { path, sent: answers.sent, done: now(), how, exchange });
}
