//! Those who use a cache as a mix says: each asks for all keys, and writes those that are its own.

use std::sync::Arc;
use std::time::Duration;

use super::mixes::{ABSENT, Mix, Operation, Zipf, value, version_in};
use crate::differential::dice::Dice;
use crate::support::V;
use crate::support::wait::pass;
use crate::torture::client::{Answers, Client, Field, KeyRef, Log};
use crate::torture::history::{Effect, Event, Fate, MS, Path, Read, Seen, Time, Write};
use crate::torture::readers::is_plausible;
use crate::torture::values::{Words, short, words};
use crate::torture::writers::{Way, fate_of};

/// Bytes of the first values that are written at once.
const FIRST: usize = 100_000;

/// What all callers of a round do.
pub struct Habits {
    /// The mix.
    pub mix: Mix,
    /// How often each key is asked for.
    pub zipf: Zipf,
    /// How long the round is to take.
    pub round: Duration,
    /// How many share the keys.
    pub callers: usize,
}

/// A command on its way.
struct Asked {
    key: KeyRef,
    slot: usize,
    operation: Operation,
    version: u64,
    expires: Option<Time>,
}

/// One of them.
pub struct Caller {
    field: Arc<Field>,
    habits: Arc<Habits>,
    client: Client,
    /// Its number; key n is its own if n modulo the number of callers is this.
    number: usize,
    dice: Dice,
    log: Log,
}

impl Caller {
    /// Number so-and-so, by this way.
    pub fn new(field: &Arc<Field>, habits: &Arc<Habits>, number: usize, client: Client, seed: u64) -> Caller {
        let (field, habits) = (Arc::clone(field), Arc::clone(habits));
        Caller { field, habits, client, number, dice: Dice::new(seed), log: Log::new() }
    }

    /// Writes each of its keys, then goes on as the mix says until the round ends.
    pub fn run(mut self) -> Log {
        let Habits { mix, callers, .. } = *self.habits;
        let own: Vec<usize> = (self.number..mix.keys).step_by(callers).collect();
        for some in own.chunks(FIRST.div_ceil(mix.value)) {
            let asked = some.iter().map(|slot| self.asked(Operation::Set, *slot)).collect();
            self.ask(asked);
        }
        let outside = self.client.via().path == Path::Direct;
        while self.field.goes_on() {
            let number = if self.dice.percent(80) { 1 } else { 2 + self.dice.below(7) };
            let mut asked: Vec<Asked> = Vec::new();
            for _ in 0..number {
                let next = self.next(outside);
                // A key's next write goes out when the reply to the last is in.
                if next.operation == Operation::Get || asked.iter().all(|one| one.slot != next.slot) {
                    asked.push(next);
                }
            }
            self.ask(asked);
            let longest = if outside { 20_000 } else { 400 };
            pass(Duration::from_micros(u64::try_from(self.dice.below(longest)).unwrap()));
        }
        self.log
    }

    fn next(&mut self, outside: bool) -> Asked {
        let habits = Arc::clone(&self.habits);
        let Mix { keys, .. } = habits.mix;
        let mut operation = habits.mix.operation(&mut self.dice);
        if outside && operation == Operation::Get && self.dice.percent(80) {
            // These are there to write.
            operation = Operation::Set;
        }
        if operation == Operation::Get {
            let absent = habits.mix.is_miss(&mut self.dice);
            let slot = if absent { keys + self.dice.below(ABSENT) } else { habits.zipf.rank(&mut self.dice) };
            return self.asked(operation, slot);
        }
        let rank = habits.zipf.rank(&mut self.dice);
        let own = rank - rank % habits.callers + self.number;
        self.asked(operation, if own < keys { own } else { self.number })
    }

    fn asked(&mut self, operation: Operation, slot: usize) -> Asked {
        let key = self.field.slots[slot].current().remove(0);
        let writes = operation != Operation::Get;
        let version = if writes { Field::version() } else { 0 };
        let lives = writes && operation != Operation::Delete;
        let round = usize::try_from(self.habits.round.as_millis()).unwrap();
        let expires = lives.then(|| Time::try_from(self.habits.mix.ttl_ms(round, &mut self.dice)).unwrap() * MS);
        Asked { key, slot, operation, version, expires }
    }

    fn ask(&mut self, asked: Vec<Asked>) {
        let commands: Vec<Words> = asked.iter().map(|one| one.words(self.habits.mix.value)).collect();
        let answers = match &commands[..] {
            [] => return,
            [_] => self.client.exchange(&mut self.log, &commands),
            _ => self.client.tagged(&mut self.log, &commands),
        };
        let Some(Answers { sent, replies, conn, .. }) = answers else { return };
        // The writes of this pipeline that were executed.
        let mut done: Vec<(usize, u64)> = Vec::new();
        for (one, reply) in asked.iter().zip(&replies) {
            let own = done.iter().find(|(slot, _)| *slot == one.slot).map(|(_, version)| *version);
            let shows = matches!(one.operation, Operation::Get | Operation::Incr);
            if let (true, Some(reply)) = (shows, reply) {
                note(&mut self.log, one, reply, self.habits.mix.value, (conn, sent), own);
            }
            if one.operation == Operation::Get {
                continue;
            }
            let fate = one.fate(reply);
            let path = self.client.via().path;
            self.log.push(Event::Write(one.write(self.habits.mix.value, path, sent, fate)));
            match fate {
                Fate::Done(_) => done.push((one.slot, one.version)),
                Fate::Maybe => self.field.slots[one.slot].renew(&self.field),
                Fate::Refused => {}
            }
        }
    }
}

impl Asked {
    fn words(&self, length: usize) -> Words {
        let Asked { key: KeyRef { name, .. }, version, .. } = self;
        let how = match self.operation {
            Operation::Get => return words(&format!("GET {name}")),
            Operation::Delete => return words(&format!("DEL {name}")),
            Operation::Set => "",
            Operation::Add => " NX",
            Operation::Cas => " XX",
            Operation::Incr => " GET",
        };
        let ms = self.expires.unwrap_or_default() / MS;
        words(&format!("SET {name} {} PX {ms}{how}", value(name, *version, length)))
    }

    fn fate(&self, reply: &Option<(V, Time)>) -> Fate {
        let conditional = matches!(self.operation, Operation::Add | Operation::Cas);
        match reply {
            Some((V::Nil, _)) if conditional => Fate::Refused,
            reply => fate_of(reply, Way::Plain),
        }
    }

    fn write(&self, length: usize, path: Path, sent: Time, fate: Fate) -> Write {
        let gone = self.operation == Operation::Delete;
        let effect = if gone { Effect::Gone } else { Effect::Value(length) };
        let how = if gone { "DEL" } else { "SET" };
        let (key, version, expires, conn) = (self.key.id, self.version, self.expires, usize::MAX);
        Write { key, version, effect, expires, path, conn, how, sent, fate }
    }
}

/// Notes what a reply shows of a key; errors that may come show nothing.
fn note(
    log: &mut Log,
    asked: &Asked,
    (reply, done): &(V, Time),
    length: usize,
    (conn, sent): (usize, Time),
    own: Option<u64>,
) {
    let KeyRef { id, name } = &asked.key;
    let seen = match reply {
        V::Error(text) if is_plausible(text) => return,
        V::Nil => Some(Seen::Absent),
        V::Bulk(bytes) => version_in(name, length, bytes).map(Seen::Version),
        _ => None,
    };
    let (news, how) = (false, if asked.operation == Operation::Get { "GET" } else { "SET GET" });
    log.push(match seen {
        Some(seen) => Event::Read(Read { key: *id, seen, conn, own, news, how, sent, done: *done }),
        None => Event::Wrong("P1", format!("{how} {name} was answered {}", short(reply))),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_is_not_the_key_s_is_wrong_and_one_that_is_a_read() {
        let key = KeyRef { id: 3, name: "k".into() };
        let asked = Asked { key, slot: 0, operation: Operation::Get, version: 0, expires: None };
        let noted = |reply: V| {
            let mut log = Log::new();
            note(&mut log, &asked, &(reply, 9), 40, (0, 1), Some(5));
            log
        };
        let good = noted(V::bulk(value("k", 7, 40)));
        let is_read = |read: &Read| (read.key, read.seen, read.own, read.done) == (3, Seen::Version(7), Some(5), 9);
        assert!(matches!(&good[..], [Event::Read(read)] if is_read(read)), "{good:?}");
        assert!(matches!(&noted(V::Nil)[..], [Event::Read(Read { seen: Seen::Absent, .. })]));
        assert!(noted(V::Error("ERR sidecache: upstream is away".into())).is_empty());
        for bad in [V::bulk(value("j", 7, 40)), V::Simple("OK".into()), V::Error("WRONGTYPE".into())] {
            assert!(matches!(&noted(bad.clone())[..], [Event::Wrong("P1", _)]), "{bad:?}");
        }
    }

    #[test]
    fn a_condition_that_does_not_hold_has_written_nothing() {
        let fate = |operation: Operation, reply: V| {
            let key = KeyRef { id: 0, name: "k".into() };
            Asked { key, slot: 0, operation, version: 1, expires: None }.fate(&Some((reply, 9)))
        };
        assert_eq!(fate(Operation::Add, V::Nil), Fate::Refused);
        assert_eq!(fate(Operation::Cas, V::Nil), Fate::Refused);
        // Nothing was there before.
        assert_eq!(fate(Operation::Incr, V::Nil), Fate::Done(9));
        assert_eq!(fate(Operation::Add, V::Simple("OK".into())), Fate::Done(9));
    }
}
