//! News: a write, and word of it by a message, an event or an element; and those who hear it and then read.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Field, KeyRef, Log};
use super::history::{Effect, Event, Fate, News, Path, Via, Write};
use super::readers::note;
use super::values::{Kind, leaves, readings, text, words};
use crate::differential::dice::Dice;
use crate::support::V;
use crate::support::wait::pass;

/// A way to hear: its name, how to begin to listen, and what to send each time; nothing if frames come by themselves.
pub struct Ear {
    /// What it is called.
    pub name: &'static str,
    listen: &'static str,
    ask: &'static str,
}

/// All of them. A list is taken from by one hearer only.
pub const EARS: [Ear; 4] = [
    Ear { name: "a message", listen: "SUBSCRIBE news", ask: "" },
    Ear { name: "an event", listen: "PSUBSCRIBE __keyspace@0__:event:*", ask: "" },
    Ear { name: "a popped element", listen: "", ask: "BLPOP queue 0.3" },
    Ear { name: "a stream's entry", listen: "", ask: "XREAD BLOCK 300 STREAMS log $" },
];

/// Writes these slots, each write with its news behind it on the same connection, so executed behind it.
pub fn tell(field: &Arc<Field>, slots: &[usize], seed: u64) -> Log {
    let mut dice = Dice::new(seed);
    let mut log = Log::new();
    let mut clients = [Path::Direct, Path::B, Path::A].map(|path| Client::plain(field, path));
    while field.goes_on() {
        let slot = &field.slots[slots[dice.below(slots.len())]];
        let KeyRef { id, name } = slot.current().remove(0);
        let version = Field::version();
        let value = text(&name, version, false);
        let client = &mut clients[if dice.percent(70) { 0 } else { 1 + dice.below(2) }];
        let word = format!("{id}|{version}");
        let plan = [
            format!("SET {name} {value}"),
            format!("PUBLISH news {word}"),
            format!("SET event:{word} 1 PX 200"),
            format!("RPUSH queue {word}"),
            "LTRIM queue -20 -1".to_string(),
            format!("XADD log MAXLEN 20 * news {word}"),
        ];
        let path = client.via().path;
        if let Some(answers) = client.tagged(&mut log, &plan.map(|line| words(&line))) {
            let fate = match &answers.replies[0] {
                Some((V::Simple(_), done)) => Fate::Done(*done),
                Some((V::Error(text), _)) if text.contains("not executed") || text.starts_with("OOM") => Fate::Refused,
                _ => Fate::Maybe,
            };
            let (effect, sent, how) = (Effect::Value(value.len()), answers.sent, "SET with news");
            let (key, conn) = (id, answers.conn);
            log.push(Event::Write(Write { key, version, effect, expires: None, path, conn, how, sent, fate }));
            if fate == Fate::Maybe {
                slot.renew(field);
            }
        }
        pass(Duration::from_micros(u64::try_from(dice.below(6000)).unwrap()));
    }
    log
}

/// Listens through this sidecar and reads what it hears of, through other connections of it.
pub fn hear(field: &Arc<Field>, path: Path, ear: &Ear) -> Log {
    let mut log = Log::new();
    let mut hearer = Client::new(field, Via { path, db: 0, app: false }, ear.name == "an event");
    let mut others = [false, true].map(|app| Client::new(field, Via { path, db: 0, app }, app));
    let mut listens = false;
    while field.goes_on() {
        if !ear.listen.is_empty() && !listens {
            let begun = hearer.exchange(&mut log, &[words(ear.listen)]);
            listens = begun.is_some_and(|answers| matches!(&answers.replies[0], Some((V::Array(_) | V::Push(_), _))));
            if !listens {
                hearer.leave();
                continue;
            }
        }
        let frame = if ear.ask.is_empty() {
            let frame = hearer.next_frame();
            listens = frame.is_some();
            frame
        } else {
            hearer.exchange(&mut log, &[words(ear.ask)]).and_then(|mut answers| answers.replies.remove(0))
        };
        let Some((frame, heard)) = frame else { continue };
        if matches!(frame, V::Error(_)) {
            continue;
        }
        for (key, version) in leaves(&frame).iter().filter_map(|leaf| news_in(field, leaf)) {
            let number = key.id;
            log.push(Event::News(News { path, key: number, version, heard, how: ear.name }));
            for other in &mut others {
                let reading = readings(Kind::Text)[0];
                if let Some(answers) = other.tagged(&mut log, &[reading.words(&key.name)]) {
                    let at = (answers.conn, answers.sent);
                    note(&mut log, &key, &reading, &answers.replies[0], at, None, false);
                }
            }
        }
    }
    log
}

/// The key and version that a word tells of, behind an event's name or by itself.
fn news_in(field: &Field, word: &str) -> Option<(KeyRef, u64)> {
    let (id, version) = word.rsplit(':').next()?.split_once('|')?;
    let (id, version) = (id.parse::<usize>().ok()?, version.parse().ok()?);
    let name = field.keys.lock().unwrap().get(id)?.name.clone();
    Some((KeyRef { id, name }, version))
}
