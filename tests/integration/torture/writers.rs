//! Writers: each owns its slots and writes them by all ways there are, one write after the other.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Answers, Client, Field, KeyRef, Log, Slot};
use super::cluster;
use super::history::{Effect, Event, Fate, MS, Path, Seen, Time, Via, Wipe, Write, now};
use super::readers::{anchor, declared, note};
use super::values::{Kind, Words, any_reading, commands, readings, text, words};
use crate::differential::dice::Dice;
use crate::support::V;
use crate::support::wait::pass;

/// Runs the commands in its arguments, each behind its number of words: keys that nobody has declared.
const SCRIPT: &str =
    "local i=1 while i<=#ARGV do local n=tonumber(ARGV[i]) redis.call(unpack(ARGV,i+1,i+n)) i=i+n+1 end return 1";

/// Databases that are swapped, two by two.
const SWAPPED: std::ops::Range<u32> = 4..15;

/// A way to have commands executed as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By itself, if it is one.
    Plain,
    /// MULTI … EXEC in one write.
    Whole,
    /// MULTI … EXEC line by line.
    Interactive,
    /// A script that declares no keys.
    Script,
    /// Made elsewhere, then renamed.
    Rename,
    /// Made elsewhere, then copied.
    Copy,
    /// Made elsewhere, dumped, and restored here.
    Restore,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Plain => "plain",
            Way::Whole => "MULTI whole",
            Way::Interactive => "MULTI interactive",
            Way::Script => "EVAL",
            Way::Rename => "RENAME",
            Way::Copy => "COPY",
            Way::Restore => "RESTORE",
        }
    }
}

/// One writer.
pub struct Writer {
    field: Arc<Field>,
    slots: Vec<usize>,
    /// How many losses each slot's keys have come to know.
    losses: Vec<usize>,
    clients: Vec<Client>,
    dice: Dice,
    /// The longest pause between two writes, in microseconds.
    pause: usize,
    /// What it has noted.
    pub log: Log,
}

impl Writer {
    /// A writer of these slots by these ways; the pause is the longest one between two writes, in microseconds.
    pub fn new(field: &Arc<Field>, slots: Vec<usize>, paths: &[Path], pause: usize, seed: u64) -> Writer {
        let mut clients = Vec::new();
        for &path in paths {
            let is_cluster = field.terrain.is_some();
            for db in [0, 1] {
                let db_or_0 = if is_cluster { 0 } else { db };
                clients.push(Client::new(field, Via { path, db: db_or_0, app: false }, db == 1));
            }
            clients.push(Client::new(field, Via { path, db: 0, app: !is_cluster }, false));
        }
        let seen = slots.iter().map(|_| 0).collect();
        Writer { field: Arc::clone(field), slots, losses: seen, clients, dice: Dice::new(seed), pause, log: Log::new() }
    }

    /// Writes until the round ends.
    pub fn run(mut self) -> Log {
        while self.field.goes_on() {
            // Wipes and swaps empty the caches: mostly there is something in them.
            if self.field.terrain.is_none() && self.dice.below(1500) < 1 {
                self.wipe();
            } else {
                self.write();
            }
            pass(Duration::from_micros(u64::try_from(self.dice.below(self.pause)).unwrap()));
        }
        self.log
    }

    fn client(&mut self, db: u32) -> usize {
        let fit: Vec<usize> = (0..self.clients.len()).filter(|at| self.clients[*at].via().db == db).collect();
        fit[self.dice.below(fit.len())]
    }

    fn wipe(&mut self) {
        let db = u32::try_from(self.dice.below(2)).unwrap();
        let at = self.client(db);
        let all = self.dice.percent(40);
        let path = self.clients[at].via().path;
        let line = if all { "FLUSHALL" } else { "FLUSHDB" };
        let Some(answers) = self.clients[at].tagged(&mut self.log, &[words(line)]) else { return };
        let fate = fate_of(&answers.replies[0], Way::Plain);
        let (whole, done) = match fate {
            Fate::Refused => return,
            Fate::Done(done) => (true, Some(done)),
            Fate::Maybe => (false, None),
        };
        self.log.push(Event::Wipe(Wipe { db: (!all).then_some(db), path, sent: answers.sent, done, whole }));
    }

    fn write(&mut self) {
        let field = Arc::clone(&self.field);
        // Some keys are seldom written, and so are mostly hits.
        let most = if self.dice.percent(70) { self.slots.len() / 2 } else { self.slots.len() };
        let among = self.dice.below(most);
        let slot = &field.slots[self.slots[among]];
        if !self.has_looked(among) {
            return;
        }
        if slot.kind == Kind::Text && !slot.pair && self.field.terrain.is_some() && self.dice.percent(15) {
            return self.chain(slot);
        }
        let keys = slot.current();
        let version = Field::version();
        let at = self.client(slot.db);
        let gone = self.dice.percent(12);
        let large = slot.kind == Kind::Text && !slot.pair && self.dice.below(100) < 1;
        let expires = !gone && !slot.pair && !slot.moves && self.dice.percent(20);
        let expires = expires.then(|| 20 + self.dice.below(400));
        let mut way = *[
            Way::Plain,
            Way::Plain,
            Way::Plain,
            Way::Whole,
            Way::Interactive,
            Way::Script,
            Way::Rename,
            Way::Copy,
            Way::Restore,
        ]
        .get(self.dice.below(9))
        .unwrap();
        let mut plan = if gone { self.removal(&keys) } else { values(slot, &keys, version, large) };
        if slot.drops && !gone && plan.len() > 1 {
            // Removing what is not there is not replicated, and what a replica has kept would be added to.
            plan.insert(0, words(&format!("SET {} -", keys[0].name)));
        }
        if let Some(ms) = expires {
            if slot.kind == Kind::Text {
                plan[0].extend(words(&format!("PX {ms}")));
            } else {
                plan.push(words(&format!("PEXPIRE {} {ms}", keys[0].name)));
            }
        }
        let elsewhere = matches!(way, Way::Rename | Way::Copy | Way::Restore);
        if (way == Way::Plain && plan.len() > 1) || (elsewhere && (gone || slot.pair || expires.is_some())) {
            way = Way::Whole;
        }
        // Nobody but a sidecar follows a transaction to another node.
        let alone = field.terrain.is_some() && self.clients[at].via().path == Path::Direct;
        if alone && way == Way::Interactive || field.terrain.is_some() && elsewhere && slot.moves {
            way = Way::Whole;
        }
        // A transaction this long is not kept to be sent again elsewhere.
        if large && slot.moves && !gone && way == Way::Whole {
            way = Way::Plain;
        }
        // A key that a script has removed is elsewhere for its next command.
        if slot.moves && plan.len() > 1 {
            if alone {
                return;
            }
            way = Way::Whole;
        }
        if alone && (way == Way::Whole || plan.len() > 1) {
            way = Way::Script;
        }
        let outcome = match way {
            Way::Plain => self.in_pipeline(at, &keys, slot, version, &plan, way),
            Way::Whole => {
                plan.insert(0, words("MULTI"));
                plan.push(words("EXEC"));
                self.in_pipeline(at, &keys, slot, version, &plan, way)
            }
            Way::Script => self.in_pipeline(at, &keys, slot, version, &[script(&plan, &keys, slot.moves)], way),
            Way::Interactive => self.line_by_line(at, &plan),
            Way::Rename | Way::Copy | Way::Restore => self.bring(at, &keys[0], slot.kind, version, large, way),
        };
        let Some((sent, fate, tail)) = outcome else { return };
        let length = text(&keys[0].name, version, large).len();
        let effect = if gone { Effect::Gone } else { Effect::Value(length) };
        for key in &keys {
            let expires = expires.map(|ms| u64::try_from(ms).unwrap() * MS);
            let path = self.clients[at].via().path;
            let how = if gone { "removal" } else { way.name() };
            let conn = self.clients[at].number();
            self.log.push(Event::Write(Write { key: key.id, version, effect, expires, path, conn, how, sent, fate }));
        }
        self.log.extend(tail);
        match fate {
            Fate::Maybe => slot.renew(&field),
            Fate::Done(_) => self.look(at, &keys, slot.kind),
            Fate::Refused => {}
        }
    }

    /// Reads what has been written by the same way, as whoever.
    fn look(&mut self, wrote: usize, keys: &[KeyRef], kind: Kind) {
        let Via { path, db, .. } = self.clients[wrote].via();
        let alike = |at: &usize| self.clients[*at].via().path == path && self.clients[*at].via().db == db;
        let fit: Vec<usize> = (0..self.clients.len()).filter(alike).collect();
        let (at, key) = (fit[self.dice.below(fit.len())], &keys[self.dice.below(keys.len())]);
        let reading = readings(kind)[0];
        let Some(answers) = self.clients[at].exchange(&mut self.log, &[reading.words(&key.name)]) else { return };
        note(&mut self.log, key, &reading, &answers.replies[0], (answers.conn, answers.sent), None, false);
    }

    /// What a loss has left of a slot's keys, before they are written again; false if it cannot be told yet.
    fn has_looked(&mut self, among: usize) -> bool {
        let field = Arc::clone(&self.field);
        let (slot, Some(terrain)) = (&field.slots[self.slots[among]], &field.terrain) else { return true };
        let losses = terrain.losses(slot.group);
        if losses == self.losses[among] {
            return true;
        }
        let Some(seen) = cluster::look(&field, slot, &mut self.log) else { return false };
        slot.begin_anew(&field, &seen);
        self.losses[among] = losses;
        true
    }

    /// Several writes of one key in one pipeline, which may arrive in two parts: the last one stays.
    fn chain(&mut self, slot: &Slot) {
        let key = slot.current().remove(0);
        let at = self.client(0);
        let versions: Vec<u64> = (0..2 + self.dice.below(4)).map(|_| Field::version()).collect();
        let set = |version: &u64| words(&format!("SET {} {}", key.name, text(&key.name, *version, false)));
        let mut all: Vec<Words> = versions.iter().map(set).collect();
        all.push(readings(Kind::Text)[0].words(&key.name));
        self.clients[at].rest = self.dice.percent(50).then(|| Duration::from_micros(self.dice.below(3000) as u64));
        let Some(answers) = self.clients[at].tagged(&mut self.log, &all) else { return };
        let Answers { sent, replies, conn, .. } = &answers;
        let mut own = None;
        let mut is_known = true;
        for (version, reply) in versions.iter().zip(replies) {
            let mut fate = fate_of(reply, Way::Plain);
            is_known &= fate != Fate::Maybe;
            if !is_known && fate != Fate::Refused {
                // What went before it may be executed behind it.
                fate = Fate::Maybe;
            }
            own = if matches!(fate, Fate::Done(_)) { Some(*version) } else { own };
            let effect = Effect::Value(text(&key.name, *version, false).len());
            let (path, how) = (self.clients[at].via().path, "chain of SET");
            let (key, version, sent, conn) = (key.id, *version, *sent, *conn);
            self.log.push(Event::Write(Write { key, version, effect, expires: None, path, conn, how, sent, fate }));
        }
        let own = own.filter(|_| is_known);
        note(&mut self.log, &key, &readings(Kind::Text)[0], &replies[versions.len()], (*conn, *sent), own, false);
        if !is_known {
            slot.renew(&self.field);
        }
    }

    fn removal(&mut self, keys: &[KeyRef]) -> Vec<Words> {
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let names = names.join(" ");
        let command = self.dice.pick(&["DEL", "UNLINK", "PEXPIRE"]);
        vec![match command {
            "PEXPIRE" if keys.len() == 1 => words(&format!("PEXPIRE {names} 0")),
            "PEXPIRE" => words(&format!("DEL {names}")),
            other => words(&format!("{other} {names}")),
        }]
    }

    /// In one write, with reads of the same key before and behind it; gives the reads behind, to be noted behind the write.
    fn in_pipeline(
        &mut self,
        at: usize,
        keys: &[KeyRef],
        slot: &Slot,
        version: u64,
        plan: &[Words],
        way: Way,
    ) -> Option<(Time, Fate, Log)> {
        let before: Vec<_> = (0..self.dice.below(3)).map(|_| any_reading(slot.kind, &mut self.dice)).collect();
        let after: Vec<_> = (0..self.dice.below(3)).map(|_| any_reading(slot.kind, &mut self.dice)).collect();
        let key = &keys[self.dice.below(keys.len())];
        let mut all: Vec<Words> = before.iter().map(|reading| reading.words(&key.name)).collect();
        all.extend_from_slice(plan);
        all.extend(after.iter().map(|reading| reading.words(&key.name)));
        let answers = self.clients[at].tagged(&mut self.log, &all)?;
        let Answers { sent, replies, conn, .. } = &answers;
        let closing = before.len() + plan.len() - 1;
        let fate = fate_of(&replies[closing], way);
        for (reading, reply) in before.iter().zip(replies) {
            note(&mut self.log, key, reading, reply, (*conn, *sent), None, false);
            let too_new = matches!(self.log.last(), Some(Event::Read(read)) if read.seen == Seen::Version(version));
            if too_new && !self.field.lags {
                let text = format!("{} of {} showed {version}, sent behind it", reading.name, key.name);
                self.log.push(Event::Wrong("P1", text));
            }
        }
        let own = matches!(fate, Fate::Done(_)).then_some(version);
        let mut tail = Log::new();
        for (reading, reply) in after.iter().zip(&replies[closing + 1..]) {
            note(&mut tail, key, reading, reply, (*conn, *sent), own, false);
        }
        Some((*sent, fate, tail))
    }

    fn line_by_line(&mut self, at: usize, plan: &[Words]) -> Option<(Time, Fate, Log)> {
        let queued = |answers: &Answers| matches!(&answers.replies[0], Some((V::Simple(_), _)));
        for command in std::iter::once(&words("MULTI")).chain(plan) {
            let answers = self.clients[at].spoken(&mut self.log, std::slice::from_ref(command), false)?;
            if !queued(&answers) {
                // Without EXEC nothing is executed.
                self.clients[at].leave();
                return None;
            }
        }
        let answers = self.clients[at].spoken(&mut self.log, &[words("EXEC")], true)?;
        Some((answers.sent, fate_of(&answers.replies[0], Way::Interactive), Log::new()))
    }

    /// What is elsewhere may be wiped before it gets here: then nothing is written.
    fn bring(
        &mut self,
        at: usize,
        key: &KeyRef,
        kind: Kind,
        version: u64,
        large: bool,
        way: Way,
    ) -> Option<(Time, Fate, Log)> {
        let tag = key.name.split_inclusive('}').next().filter(|tag| tag.ends_with('}')).unwrap_or_default();
        let elsewhere = format!("{tag}elsewhere:{version}");
        let value = text(&key.name, version, large);
        let mut make = commands(kind, &elsewhere, &key.name, version, &value);
        make.push(words(&format!("PEXPIRE {elsewhere} 60000")));
        make.push(words(&format!("PERSIST {elsewhere}")));
        let begun = self.clients[at].tagged(&mut self.log, &make)?;
        if begun.replies.iter().any(|reply| matches!(reply, None | Some((V::Error(_), _)))) {
            return None;
        }
        let last = match way {
            Way::Rename => words(&format!("RENAME {elsewhere} {}", key.name)),
            Way::Copy => words(&format!("COPY {elsewhere} {} REPLACE", key.name)),
            _ => {
                let dumped = self.clients[at].tagged(&mut self.log, &[words(&format!("DUMP {elsewhere}"))])?;
                let Some((V::Bulk(payload), _)) = &dumped.replies[0] else { return None };
                return self.restore(at, key, payload);
            }
        };
        let answers = self.clients[at].tagged(&mut self.log, &[last])?;
        // It may have been made whenever this began: a wipe between the two left nothing to bring here, or nothing here.
        Some((answers.sent, fate_of(&answers.replies[0], way), Log::new()))
    }

    /// Bytes do not fit into words: a script takes them in hexadecimal.
    fn restore(&mut self, at: usize, key: &KeyRef, payload: &[u8]) -> Option<(Time, Fate, Log)> {
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        let code = "return redis.call('RESTORE',KEYS[1],0,(string.gsub(ARGV[1],'..',function(x) return string.char(tonumber(x,16)) end)),'REPLACE')";
        let command = vec!["EVAL".into(), code.into(), "1".into(), key.name.clone(), hex];
        let answers = self.clients[at].tagged(&mut self.log, &[command])?;
        Some((answers.sent, fate_of(&answers.replies[0], Way::Script), Log::new()))
    }
}

fn values(slot: &Slot, keys: &[KeyRef], version: u64, large: bool) -> Vec<Words> {
    let value = |key: &KeyRef| text(&key.name, version, large);
    match keys {
        [a, b] => vec![words(&format!("MSET {} {} {} {}", a.name, value(a), b.name, value(b)))],
        _ => commands(slot.kind, &keys[0].name, &keys[0].name, version, &value(&keys[0])),
    }
}

/// Keys that move must be declared.
fn script(plan: &[Words], keys: &[KeyRef], declares: bool) -> Words {
    let mut all = vec!["EVAL".to_string(), SCRIPT.to_string()];
    let names = keys.iter().map(|key| key.name.clone());
    all.extend(if declares { declared(names) } else { declared(anchor(&keys[0].name)) });
    for command in plan {
        all.push(command.len().to_string());
        all.extend_from_slice(command);
    }
    all
}

/// What the reply that closes a write says of it. An error counts as "not executed" only where it says so, or where it is
/// one of the server's that come before execution; a script may have been executed in part.
pub fn fate_of(reply: &Option<(V, Time)>, way: Way) -> Fate {
    let unharmed = |text: &str| {
        let ours = text.contains("not executed") || text.contains("not sent");
        let before = ["EXECABORT", "OOM ", "LOADING", "ERR no such key", "NOAUTH", "ERR max number of clients"];
        let elsewhere = ["CLUSTERDOWN ", "TRYAGAIN ", "MASTERDOWN ", "READONLY "];
        let before = before.iter().chain(&elsewhere);
        ours || (way != Way::Script && before.into_iter().any(|start| text.starts_with(start)))
    };
    match reply {
        None => Fate::Maybe,
        Some((V::Error(text), _)) if unharmed(text) => Fate::Refused,
        Some((V::Error(_), _)) => Fate::Maybe,
        Some((V::Array(items), _)) if items.iter().any(|item| matches!(item, V::Error(_))) => Fate::Maybe,
        Some((V::Int(0), _)) if way == Way::Copy => Fate::Refused,
        Some((_, done)) => Fate::Done(*done),
    }
}

/// Reads the keys so many times.
fn glance(reader: &mut Client, log: &mut Log, keys: &[KeyRef], times: usize) {
    for key in keys.iter().cycle().take(times * keys.len()) {
        let reading = readings(Kind::Text)[0];
        let Some(answers) = reader.exchange(log, &[reading.words(&key.name)]) else { return };
        note(log, key, &reading, &answers.replies[0], (answers.conn, answers.sent), None, false);
    }
}

/// Writes a pair by SWAPDB through A: the values are put in place in the other database, then the two are swapped.
/// Goes on with two others when it is not known what was executed.
pub fn swap(field: &Arc<Field>, slots: &[usize]) -> Log {
    let (mut log, mut swaps) = (Log::new(), 0);
    for (db, at) in SWAPPED.step_by(2).zip(slots) {
        let slot = &field.slots[*at];
        let mut stage = Client::new(field, Via { path: Path::Direct, db: db + 1, app: false }, false);
        let mut swapper = Client::new(field, Via { path: Path::A, db, app: false }, false);
        let mut reader = Client::new(field, Via { path: Path::A, db, app: false }, false);
        while field.goes_on() {
            let keys = slot.current();
            let version = Field::version();
            let sent = now();
            let plan = values(slot, &keys, version, false);
            let Some(staged) = stage.tagged(&mut log, &plan) else { continue };
            match fate_of(&staged.replies[0], Way::Plain) {
                Fate::Done(_) => {}
                Fate::Refused => continue,
                Fate::Maybe => break,
            }
            // Now that no push will name them any more, into the cache with them: the swap itself tells nobody.
            glance(&mut reader, &mut log, &keys, 3);
            let swapped = swapper.tagged(&mut log, &[words(&format!("SWAPDB {db} {}", db + 1))]);
            let fate = swapped.map_or(Fate::Refused, |answers| fate_of(&answers.replies[0], Way::Plain));
            let effect = Effect::Value(text(&keys[0].name, version, false).len());
            for key in &keys {
                let (path, conn, how) = (Path::A, swapper.number(), "SWAPDB");
                let key = key.id;
                log.push(Event::Write(Write { key, version, effect, expires: None, path, conn, how, sent, fate }));
            }
            if fate == Fate::Maybe {
                break;
            }
            glance(&mut reader, &mut log, &keys, 1);
            swaps += 1;
            pass(Duration::from_millis(if swaps % 5 == 0 { 2000 } else { 3 }));
        }
    }
    log
}
