//! Readers: pipelines of every kind of read, over all slots, hot ones first.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Answers, Client, Field, KeyRef, Log, Slot};
use super::history::{Event, Path, Read, Time, Via};
use super::values::{Kind, Reading, Words, any_reading, leaves, readings, short, value_in, words};
use crate::differential::dice::Dice;
use crate::support::V;
use crate::support::wait::pass;

/// So many slots, the first, are hot: in database 0. Those that only others than A write, and then those that only A does.
pub const HOT: [usize; 2] = [7, 2];

/// Notes what a reply shows. Errors and closed connections show nothing.
pub fn note(
    log: &mut Log,
    key: &KeyRef,
    reading: &Reading,
    reply: &Option<(V, Time)>,
    (conn, sent): (usize, Time),
    own: Option<u64>,
    news: bool,
) {
    let Some((value, done)) = reply else { return };
    if matches!(value, V::Error(text) if is_plausible(text)) {
        return;
    }
    match reading.seen(&key.name, value) {
        Ok(seen) => {
            let read = Read { key: key.id, seen, conn, own, news, how: reading.name, sent, done: *done };
            log.push(Event::Read(read));
        }
        Err(text) => log.push(Event::Wrong("P1", text)),
    }
}

/// Whether an error may be the answer to a read of the right type.
pub fn is_plausible(text: &str) -> bool {
    let standalone =
        ["ERR sidecache: ", "LOADING", "OOM ", "EXECABORT", "ERR max number of clients", "NOAUTH", "NOPERM"];
    let cluster =
        ["CLUSTERDOWN ", "TRYAGAIN ", "MASTERDOWN ", "ERR Script attempted to access a non local key", "ERR not sent"];
    standalone.iter().chain(&cluster).any(|start| text.starts_with(start))
}

/// Something to ask.
enum Ask {
    /// One read.
    One(KeyRef, Reading),
    /// A pair by one MGET.
    Pair(KeyRef, KeyRef),
    /// One read in a transaction.
    Exec(KeyRef, Reading),
    /// One read in a script that does not declare its key: but another of its hash tag, if there is one.
    Script(KeyRef),
}

impl Ask {
    fn commands(&self) -> Vec<Words> {
        match self {
            Ask::One(key, reading) => vec![reading.words(&key.name)],
            Ask::Pair(a, b) => vec![words(&format!("MGET {} {}", a.name, b.name))],
            Ask::Exec(key, reading) => vec![words("MULTI"), reading.words(&key.name), words("EXEC")],
            Ask::Script(key) => {
                let code = "return redis.call('GET',ARGV[1])".to_string();
                let mut command = vec!["EVAL".to_string(), code];
                command.extend(declared(anchor(&key.name)));
                command.push(key.name.clone());
                vec![command]
            }
        }
    }

    fn note(&self, log: &mut Log, replies: &[Option<(V, Time)>], at: (usize, Time)) {
        match (self, replies) {
            (Ask::One(key, reading), [reply]) => note(log, key, reading, reply, at, None, false),
            (Ask::Script(key), [reply]) => note(log, key, &readings(Kind::Text)[0], reply, at, None, true),
            (Ask::Pair(a, b), [Some((V::Array(items), done))]) if items.len() == 2 => {
                let seen = |key: &KeyRef, item: &V| value_in(&key.name, &leaves(item));
                let (Ok(of_a), Ok(of_b)) = (seen(a, &items[0]), seen(b, &items[1])) else {
                    log.push(Event::Wrong("P1", format!("MGET {} {} was answered {:?}", a.name, b.name, items)));
                    return;
                };
                for (key, seen) in [(a, of_a), (b, of_b)] {
                    let (conn, sent) = at;
                    let (own, news, how) = (None, false, "MGET of a pair");
                    log.push(Event::Read(Read { key: key.id, seen, conn, own, news, how, sent, done: *done }));
                }
                log.push(Event::Pair);
            }
            (Ask::Pair(..), [Some((V::Error(text), _))]) if is_plausible(text) => {}
            (Ask::Pair(..), [None]) => {}
            (Ask::Exec(key, reading), [begun, queued, Some((V::Array(items), done))]) if items.len() == 1 => {
                let fine =
                    |reply: &Option<(V, Time)>, word: &str| matches!(reply, Some((V::Simple(text), _)) if text == word);
                if !fine(begun, "OK") || !fine(queued, "QUEUED") {
                    let text = format!("a transaction was answered {begun:?}, {queued:?}, {}", short(&items[0]));
                    log.push(Event::Wrong("P1", text));
                }
                note(log, key, reading, &Some((items[0].clone(), *done)), at, None, true);
            }
            (Ask::Exec(..), [.., None | Some((V::Error(_), _))]) => {}
            (_, replies) => log.push(Event::Wrong("P1", format!("{:?} was answered {replies:?}", self.commands()))),
        }
    }
}

/// A script's declaration of keys.
pub fn declared(keys: impl IntoIterator<Item = String>) -> Words {
    let keys: Words = keys.into_iter().collect();
    [vec![keys.len().to_string()], keys].concat()
}

/// Some other key with the hash tag of this one, if it has any.
pub fn anchor(key: &str) -> Option<String> {
    Some(format!("{}}}anchor", key.split_once('}')?.0))
}

/// How a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Pipelines over all slots.
    Broad,
    /// One hot key at a time, so that whoever is answered from memory goes on for as long as memory answers.
    Narrow,
    /// As the second, but of keys that the same sidecar writes by another lane.
    Inside,
    /// As the first, but rarely: of the server itself.
    Rare,
}

/// One reader.
pub struct Reader {
    field: Arc<Field>,
    clients: Vec<Client>,
    dice: Dice,
    habit: Habit,
    /// The hot slot that it looks at for a while.
    favourite: usize,
    log: Log,
}

impl Reader {
    /// In every database, as both users, in both RESP versions.
    pub fn new(field: &Arc<Field>, path: Path, habit: Habit, seed: u64) -> Reader {
        let mut dice = Dice::new(seed);
        let mut vias = vec![(0, false), (0, true), (1, false), (0, false)];
        if field.terrain.is_some() {
            vias = vec![(0, false); 4];
        } else if path != Path::B {
            // Databases that A swaps: from B it would be a swap from outside, which is out of contract.
            vias.extend(field.slots.iter().map(|slot| slot.db).filter(|db| *db > 1).map(|db| (db, false)));
        }
        let client = |(db, app)| Client::new(field, Via { path, db, app }, dice.percent(50));
        let clients = vias.into_iter().map(client).collect();
        Reader { field: Arc::clone(field), clients, dice, habit, favourite: 0, log: Log::new() }
    }

    /// Reads until the round ends.
    pub fn run(mut self) -> Log {
        while self.field.goes_on() {
            // The databases that are swapped less often; of the others, the second has no hot keys.
            let most = match self.habit {
                Habit::Narrow => 2,
                _ if self.dice.percent(85) => 4,
                _ => self.clients.len(),
            };
            let at = if self.habit == Habit::Inside { 1 } else { self.dice.below(most) };
            if self.habit == Habit::Narrow && self.dice.percent(5) {
                self.queue(at);
            } else if matches!(self.habit, Habit::Narrow | Habit::Inside) {
                self.glance(at);
            } else if !self.is_alone(at) && self.dice.percent(2) {
                self.line_by_line(at);
            } else {
                self.pipeline(at);
            }
            if self.dice.below(200) == 0 {
                self.clients[at].leave();
            }
            let longest = match self.habit {
                Habit::Broad => 1500,
                Habit::Narrow | Habit::Inside => 400,
                Habit::Rare => 30_000,
            };
            pass(Duration::from_micros(u64::try_from(self.dice.below(longest)).unwrap()));
        }
        self.log
    }

    /// One read of a hot key, always by the same command: mostly a hit.
    fn glance(&mut self, at: usize) {
        let field = Arc::clone(&self.field);
        if self.habit == Habit::Inside {
            self.favourite = HOT[0] + self.dice.below(HOT[1]);
        } else if self.dice.below(2000) == 0 {
            self.favourite = self.dice.below(HOT[0] + HOT[1]);
        }
        let slot = &field.slots[self.favourite];
        let ask = match &slot.current()[..] {
            [a, b] => Ask::Pair(a.clone(), b.clone()),
            keys => Ask::One(keys[0].clone(), readings(slot.kind)[0]),
        };
        let Some(answers) = self.clients[at].exchange(&mut self.log, &ask.commands()) else { return };
        ask.note(&mut self.log, &answers.replies, (answers.conn, answers.sent));
    }

    /// Reads of hot keys, mostly in memory, behind one that mostly is not: they must wait for it, and be judged anew then.
    fn queue(&mut self, at: usize) {
        let field = Arc::clone(&self.field);
        let hot = |dice: &mut Dice| &field.slots[dice.below(HOT[0])];
        let first = hot(&mut self.dice);
        let mut asks = vec![Ask::One(first.current().remove(0), any_reading(first.kind, &mut self.dice))];
        for slot in [hot(&mut self.dice), &field.slots[self.favourite], hot(&mut self.dice)] {
            asks.push(Ask::One(slot.current().remove(0), readings(slot.kind)[0]));
        }
        let commands: Vec<Words> = asks.iter().flat_map(Ask::commands).collect();
        let Some(answers) = self.clients[at].tagged(&mut self.log, &commands) else { return };
        for (ask, reply) in asks.iter().zip(answers.replies.chunks(1)) {
            ask.note(&mut self.log, reply, (answers.conn, answers.sent));
        }
    }

    /// Whether it asks the nodes of a cluster itself, one command at a time.
    fn is_alone(&self, at: usize) -> bool {
        self.field.terrain.is_some() && self.clients[at].via().path == Path::Direct
    }

    fn slot<'a>(&mut self, field: &'a Field, at: usize) -> &'a Slot {
        let db = self.clients[at].via().db;
        let fit: Vec<&Slot> = field.slots.iter().filter(|slot| slot.db == db).collect();
        let among = if self.dice.percent(60) { fit.len().min(5) } else { fit.len() };
        fit[self.dice.below(among)]
    }

    fn pipeline(&mut self, at: usize) {
        let field = Arc::clone(&self.field);
        let mut asks = Vec::new();
        // While a slot moves, what names two of its keys may have to wait, and so may a transaction; they are given up if a
        // transaction sent behind them need not.
        let mut waits = Vec::new();
        for _ in 0..1 + self.dice.below(8) {
            let slot = self.slot(&field, at);
            let keys = slot.current();
            let key = keys[self.dice.below(keys.len())].clone();
            let reading = any_reading(slot.kind, &mut self.dice);
            asks.push(match (&keys[..], self.dice.below(100)) {
                ([a, b], 0..60) => {
                    waits.extend(slot.moves.then_some(slot.group));
                    Ask::Pair(a.clone(), b.clone())
                }
                (_, 90..95) if !(self.is_alone(at) || waits.contains(&slot.group)) => {
                    waits.extend(slot.moves.then_some(slot.group));
                    Ask::Exec(key, reading)
                }
                (_, 95..98) if slot.kind == Kind::Text && !slot.moves => Ask::Script(key),
                _ => Ask::One(key, reading),
            });
        }
        let commands: Vec<Vec<Words>> = asks.iter().map(Ask::commands).collect();
        let Some(answers) = self.clients[at].tagged(&mut self.log, &commands.concat()) else { return };
        let Answers { sent, replies, conn, .. } = answers;
        let mut from = 0;
        for (ask, commands) in asks.iter().zip(&commands) {
            ask.note(&mut self.log, &replies[from..from + commands.len()], (conn, sent));
            from += commands.len();
        }
    }

    /// A transaction on a connection of its own.
    fn line_by_line(&mut self, at: usize) {
        let field = Arc::clone(&self.field);
        let slot = self.slot(&field, at);
        let key = slot.current().remove(0);
        let reading = any_reading(slot.kind, &mut self.dice);
        for command in [words("MULTI"), reading.words(&key.name)] {
            let answers = self.clients[at].spoken(&mut self.log, &[command], false);
            let queued = |answers: Answers| matches!(answers.replies[0], Some((V::Simple(_), _)));
            if !answers.is_some_and(queued) {
                self.clients[at].leave();
                return;
            }
        }
        let Some(answers) = self.clients[at].spoken(&mut self.log, &[words("EXEC")], false) else { return };
        if let Some((V::Array(items), done)) = &answers.replies[0] {
            note(
                &mut self.log,
                &key,
                &reading,
                &Some((items[0].clone(), *done)),
                (answers.conn, answers.sent),
                None,
                true,
            );
        }
    }
}

/// The quiescent: keys of its own in database 2, which nobody else writes. What the server says of such a key before and after
/// is what a sidecar must say in between, byte for byte: values are never repeated, so equal answers mean that
/// the key was so all the time; and the first is given `max_staleness` before the sidecar is asked, so that not even a wipe before it
/// can still be unseen.
pub fn compare(field: &Arc<Field>, seed: u64) -> Log {
    let mut dice = Dice::new(seed);
    let mut log = Log::new();
    let via = |path| Via { path, db: 2, app: false };
    let client = |path, resp3| Client::new(field, via(path), resp3);
    let mut clients = [false, true].map(|resp3| [Path::A, Path::B, Path::Direct].map(|path| client(path, resp3)));
    while field.goes_on() {
        let version = Field::version();
        let mut make = Vec::new();
        let mut ask = Vec::new();
        for kind in super::values::KINDS {
            let name = format!("quiet:{kind:?}");
            let value = super::values::text(&name, version, false);
            make.extend(if dice.percent(15) {
                vec![words(&format!("DEL {name}"))]
            } else {
                super::values::commands(kind, &name, &name, version, &value)
            });
            ask.extend(readings(kind).iter().map(|reading| reading.words(&name)));
        }
        let writer = dice.below(3);
        if clients[0][writer].tagged(&mut log, &make).is_none() {
            continue;
        }
        let frames = |clients: &mut [[Client; 3]; 2], path: usize, log: &mut Log| {
            let answers = clients.iter_mut().filter_map(|of| of[path].tagged(log, &ask));
            answers.map(|answers| answers.frames).collect::<Frames>()
        };
        let before = frames(&mut clients, 2, &mut log);
        pass(field.max_staleness);
        // Twice: the second finds what the first has put in.
        let shown = [0, 1, 0, 1].map(|path| (path, frames(&mut clients, path, &mut log)));
        let after = frames(&mut clients, 2, &mut log);
        for (path, shown) in shown {
            same(&mut log, &ask, path, [&before, &shown, &after]);
        }
    }
    log
}

/// What was answered, in RESP2 and in RESP3, as bytes.
type Frames = Vec<Vec<Vec<u8>>>;

/// Where the server said the same before and after, the sidecar must have said it too.
pub fn same(log: &mut Log, ask: &[Words], path: usize, [before, shown, after]: [&Frames; 3]) {
    if [before, shown, after].iter().any(|frames| frames.len() != 2) {
        return;
    }
    for version in 0..2 {
        for (at, command) in ask.iter().enumerate() {
            let of = |frames: &Frames| frames[version].get(at).cloned();
            let (Some(first), Some(got), Some(last)) = (of(before), of(shown), of(after)) else { continue };
            if first != last || [&first, &got].iter().any(|frame| frame.starts_with(b"-")) {
                continue;
            }
            log.push(Event::Compared);
            if got != first {
                let [got, first] = [got, first].map(|frame| String::from_utf8_lossy(&frame).into_owned());
                let text =
                    format!("{command:?} in RESP{} by sidecar {path}: {got:?} instead of {first:?}", version + 2);
                log.push(Event::Wrong("P6", text));
            }
        }
    }
}
