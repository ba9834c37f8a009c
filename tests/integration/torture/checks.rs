//! Whether a history keeps the promises. Pure: a history in, findings out.
//!
//! Each key's states have places in one order: `2v` once version `v` is written, `2v + 1` once that value is gone by expiry, a
//! wipe or eviction, 0 before the first write. A read's place is the one that it showed or, where several fit, the earliest not below
//! its floors: so what is unclear never counts against anybody. A read's floors are the places that promises forbid it to be behind:
//!
//! - *harness*: a direct read sees all that was done before it was sent. If not, this harness or the server is wrong.
//! - *P2*: a read by a sidecar sees every write answered by that sidecar before it was sent, or earlier in its pipeline.
//! - *P4*: a read sees every write done `max_staleness` before it was sent: a hit by the lease, a forwarded one anyway.
//! - *P3*: what has shown version v of any key has shown the node as it was after v was sent; whatever reads later on the same
//!   timeline sees all that was done before, on every key. A timeline is a connection in the order of its commands;
//!   with one worker, all connections of a sidecar in one database as one user, by the clock; for news, a whole sidecar, by the clock.
//!
//! In a cluster what is said across keys holds within a group, whose keys are always on one node, and outside of its upsets.
//! A loss ends the history of each key of the group: what is answered from its beginning on is only not invented, until the key's
//! writer has looked what its new owner has; that is where the next key of that name begins. Its readers may be so far behind as
//! P4 allows.
//!
//! Where replicas are read from (`lag`), what a sidecar shows may be so much older, and two reads may show two moments: P2 holds for
//! the connection that has written, P4 with the lag added, P3 for what one command shows.
//!
//! Besides: P5, no value is shown to a read sent after it must have expired (execution is before `done`, so after `done` + its time to
//! live); P6, no version is shown that its key never had, before it was sent, nor absence where nothing can have removed the
//! value; P8, none whose write was said not to have been executed.

mod footing;

use std::collections::{BTreeMap, HashMap, HashSet};

use footing::Footing;

use super::history::{Effect, Event, Fate, History, KeyId, MS, News, Path, Read, Seen, Time, Upset, Wipe, Write};

/// What a server's clock may differ from ours in a value's short life, and its rounding to milliseconds.
const CLOCKS: Time = 5 * MS;

/// How much earlier than ours a server's clock may end a value's life: it reads it once per turn of its loop.
const EARLY: Time = 50 * MS;

/// So many violations of each promise are shown, with what went before.
pub const SHOWN: usize = 3;

/// What was found.
#[derive(Default, Debug)]
pub struct Findings {
    /// How many operations each promise was checked on.
    pub checked: BTreeMap<&'static str, u64>,
    /// How old what was read had become, where it had been overwritten before the read was sent.
    pub stale: Vec<Time>,
    /// The violations, in the order of the clock.
    pub violations: Vec<Violation>,
}

/// A promise broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub promise: &'static str,
    /// When it was seen, as far as is known.
    pub at: Option<Time>,
    /// What was seen, and why it must not be.
    pub text: String,
    /// The last operations on the key.
    pub context: String,
}

/// One key's operations.
#[derive(Default)]
struct States<'a> {
    /// In the order of versions, without the refused; the first may be what the key's predecessor left.
    writes: Vec<&'a Write>,
    refused: HashSet<u64>,
}

/// What is known of a timeline: the node's time, and the places seen.
#[derive(Default)]
struct Timeline {
    /// By group: the node's time, and when that was learnt.
    nodes: HashMap<usize, (Time, Time)>,
    places: HashMap<KeyId, u64>,
}

/// Checks one history.
struct Check<'a> {
    history: &'a History,
    states: Vec<States<'a>>,
    wipes: Vec<&'a Wipe>,
    reads: Vec<&'a Read>,
    news: Vec<&'a News>,
    /// The keys of each name, in the order of their use.
    names: HashMap<&'a str, Vec<KeyId>>,
    findings: Findings,
}

/// Whose writes count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Anybody,
    Sidecar(Path),
    Connection(usize),
}

/// A floor: the promise it rests on, the place, and why.
type Floor = (&'static str, u64, &'static str);

/// All that happened at one time; sends stand before completions, so that what is simultaneous is not in order.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Point {
    Sent(usize),
    Done(usize),
    Heard(usize),
}

/// Checks it.
pub fn check(history: &History) -> Findings {
    let mut check = Check {
        history,
        states: history.keys.iter().map(|_| States::default()).collect(),
        wipes: Vec::new(),
        reads: Vec::new(),
        news: Vec::new(),
        names: HashMap::new(),
        findings: Findings::default(),
    };
    for (id, key) in history.keys.iter().enumerate() {
        check.names.entry(&key.name).or_default().push(id);
    }
    check.collect();
    check.sweep();
    check.findings
}

impl Timeline {
    fn see(&mut self, key: KeyId, place: u64) {
        let known = self.places.entry(key).or_default();
        *known = place.max(*known);
    }
}

impl States<'_> {
    fn of_version(&self, version: u64) -> Option<&Write> {
        self.writes.binary_search_by_key(&version, |write| write.version).ok().map(|at| self.writes[at])
    }

    /// How many were done at `time`.
    fn done_by(&self, time: Time) -> usize {
        self.writes.partition_point(|write| matches!(write.fate, Fate::Done(done) if done <= time))
    }
}

impl<'a> Check<'a> {
    fn count(&mut self, promise: &'static str, number: u64) {
        *self.findings.checked.entry(promise).or_default() += number;
    }

    fn collect(&mut self) {
        for log in &self.history.logs {
            for event in log {
                match event {
                    Event::Write(write) if write.fate == Fate::Refused => {
                        self.states[write.key].refused.insert(write.version);
                    }
                    Event::Write(write) => self.states[write.key].writes.push(write),
                    Event::Read(read) => self.reads.push(read),
                    Event::Pair => self.pair(),
                    Event::News(news) => self.news.push(news),
                    Event::Wipe(wipe) => self.wipes.push(wipe),
                    Event::Failed { .. } => {}
                    Event::Compared => self.count("P6", 1),
                    Event::Ordered(number) => self.count("P1", *number),
                    Event::Wrong(promise, text) => {
                        let text = text.clone();
                        self.findings.violations.push(Violation { promise, at: None, text, context: String::new() });
                    }
                }
            }
        }
        self.states.iter_mut().for_each(|states| states.writes.sort_by_key(|write| write.version));
        self.succeed();
    }

    /// Both keys of a pair are always written by one command: one MGET is one moment. Where keys may vanish each by itself
    /// (eviction), an absent one says nothing.
    fn pair(&mut self) {
        let [.., a, b] = self.reads[..] else { return };
        let is_judged = !self.may_be_elsewhere(a) && !self.may_be_elsewhere(b);
        if a.seen != b.seen && a.seen != Seen::Absent && b.seen != Seen::Absent {
            let text = format!("MGET of a pair showed {:?} and {:?}", a.seen, b.seen);
            self.violate("P3", text, b);
        } else if is_judged && a.seen != b.seen && !self.history.logs.iter().flatten().any(|e| is_eviction(e, b.done)) {
            self.violate("P3", format!("MGET of a pair showed {:?} and {:?}", a.seen, b.seen), b);
        }
        self.count("P3", 1);
    }

    fn sweep(&mut self) {
        let mut points: Vec<(Time, Point)> = Vec::new();
        for (at, read) in self.reads.iter().enumerate() {
            points.extend([(read.sent, Point::Sent(at)), (read.done, Point::Done(at))]);
        }
        points.extend(self.news.iter().enumerate().map(|(at, news)| (news.heard, Point::Heard(at))));
        points.sort_unstable();
        let mut conns: HashMap<usize, Timeline> = HashMap::new();
        let mut scopes: HashMap<(Path, u32, bool), Timeline> = HashMap::new();
        let mut told: HashMap<Path, Timeline> = HashMap::new();
        let mut floors: Vec<Vec<Floor>> = vec![Vec::new(); self.reads.len()];
        for (_, point) in points {
            match point {
                Point::Sent(at) => {
                    let read = self.reads[at];
                    let via = self.history.conns[read.conn];
                    let scope = (via.path, via.db, via.app);
                    let mut found = self.floors_at_sending(read, via.path);
                    self.push_timeline(&mut found, read, scopes.get(&scope), "an earlier read on this timeline");
                    self.push_timeline(&mut found, read, told.get(&via.path), "news through this sidecar");
                    floors[at] = found;
                }
                Point::Done(at) => {
                    let read = self.reads[at];
                    let via = self.history.conns[read.conn];
                    let mut found = std::mem::take(&mut floors[at]);
                    self.push_timeline(&mut found, read, conns.get(&read.conn), "an earlier read by this connection");
                    let Some((place, node)) = self.judge(read, via.path, &found) else { continue };
                    let group = self.history.keys[read.key].group;
                    let is_calm = self.is_calm(group, read.sent, read.done);
                    let see = |timeline: &mut Timeline| {
                        timeline.see(read.key, place);
                        if is_calm {
                            let known = timeline.nodes.entry(group).or_default();
                            let goes_on = self.is_calm(group, known.1, read.sent);
                            *known = (if goes_on { known.0.max(node) } else { node }, read.done);
                        }
                    };
                    see(conns.entry(read.conn).or_default());
                    if self.is_one_timeline(via.path) {
                        see(scopes.entry((via.path, via.db, via.app)).or_default());
                    }
                    if read.news && via.path != Path::Direct {
                        see(told.entry(via.path).or_default());
                    }
                }
                Point::Heard(at) => {
                    let news = self.news[at];
                    let write = self.states[news.key].of_version(news.version);
                    // Where its fate is not known, the news may have gone out without it.
                    if let Some(Write { sent, fate: Fate::Done(_), .. }) = write {
                        let timeline = told.entry(news.path).or_default();
                        timeline.see(news.key, 2 * news.version);
                        let known = timeline.nodes.entry(self.history.keys[news.key].group).or_default();
                        *known = (known.0.max(*sent), news.heard);
                        self.count("P3 news", 1);
                    }
                }
            }
        }
    }

    /// With several workers a sidecar is as many timelines, and who is whose client is not known.
    fn is_one_timeline(&self, path: Path) -> bool {
        match path {
            Path::A => self.history.threads[0] == 1,
            Path::B => self.history.threads[1] == 1,
            Path::Direct => true,
        }
    }

    fn floors_at_sending(&self, read: &Read, path: Path) -> Vec<Floor> {
        let mut floors = Vec::new();
        if path == Path::Direct {
            // For a moment two nodes may hold themselves for the owner.
            let is_calm = self.is_calm(self.history.keys[read.key].group, read.sent, read.done);
            let late = if is_calm { 0 } else { self.history.max_staleness };
            let place = self.place_by(read.key, read.sent.saturating_sub(late), Own::Anybody);
            floors.push(("harness", place, "done before this direct read"));
            return floors;
        }
        let bound = read.sent.saturating_sub(self.oldest());
        let own = if self.history.lag > 0 { Own::Connection(read.conn) } else { Own::Sidecar(path) };
        floors.push(("P2", self.place_by(read.key, read.sent, own), "answered by this sidecar before"));
        floors.push(("P2", 2 * read.own.unwrap_or(0), "earlier in the same pipeline"));
        if self.footing(read) != Footing::Firm {
            return floors;
        }
        floors.push(("P4", self.place_by(read.key, bound, Own::Anybody), "done max_staleness before"));
        floors
    }

    fn push_timeline(&self, floors: &mut Vec<Floor>, read: &Read, timeline: Option<&Timeline>, why: &'static str) {
        let Some(timeline) = timeline else { return };
        let walks = self.history.lag == 0 || self.history.conns[read.conn].path == Path::Direct;
        if self.footing(read) != Footing::Firm || !walks {
            return;
        }
        let own = timeline.places.get(&read.key).copied().unwrap_or(0);
        let group = self.history.keys[read.key].group;
        let (node, learnt) = timeline.nodes.get(&group).copied().unwrap_or_default();
        let counts = self.is_calm(group, learnt, read.done);
        let across = if counts { self.place_by(read.key, node, Own::Anybody) } else { 0 };
        floors.push(("P3", own.max(across), why));
    }

    /// How old what a sidecar shows may be.
    fn oldest(&self) -> Time {
        self.history.max_staleness + self.history.lag
    }

    /// The last place that the key had certainly reached at `time`, by these writes and wipes.
    fn place_by(&self, key: KeyId, time: Time, own: Own) -> u64 {
        let states = &self.states[key];
        let by = |of: Path| match own {
            Own::Anybody => true,
            Own::Sidecar(path) => path == of,
            Own::Connection(conn) => self.history.conns[conn].path == of,
        };
        let is_own = |conn: usize| !matches!(own, Own::Connection(of) if of != conn);
        let born = self.history.keys[key].born;
        let counts =
            |write: &&&'a Write| by(write.path) && is_own(write.conn) && (own == Own::Anybody || write.sent >= born);
        let written = states.writes[..states.done_by(time)].iter().rev().find(counts);
        let mut place = written.map_or(0, |write| 2 * write.version);
        let db = self.history.keys[key].db;
        for wipe in &self.wipes {
            let counts = wipe.whole && by(wipe.path) && wipe.db.is_none_or(|of| of == db);
            if counts && wipe.done.is_some_and(|done| done <= time) {
                let before = states.done_by(wipe.sent);
                place = place.max(states.writes[..before].last().map_or(0, |write| 2 * write.version + 1));
            }
        }
        place
    }

    /// The place of a read and the node's time that it proves; `None` if it must not have been.
    fn judge(&mut self, read: &Read, path: Path, floors: &[Floor]) -> Option<(u64, Time)> {
        for (promise, _, _) in floors {
            self.count(if path == Path::Direct { "harness" } else { promise }, 1);
        }
        if let Some((promise, why)) = self.impossible(read, path) {
            self.violate(promise, why, read);
            return None;
        }
        let footing = self.footing(read);
        if footing == Footing::Lost || footing == Footing::New && floors.iter().all(|floor| floor.1 == 0) {
            return None;
        }
        let highest = floors.iter().map(|floor| floor.1).max().unwrap_or(0);
        if let Some(place) = self.place_at_least(read, highest) {
            let Seen::Version(version) = read.seen else { return Some((place, 0)) };
            let states = &self.states[read.key];
            let next = states.writes.iter().find(|write| write.version > version);
            if let Some(Write { fate: Fate::Done(done), .. }) = next {
                let stale = read.sent.saturating_sub(*done);
                if stale > 0 && path != Path::Direct {
                    self.findings.stale.push(stale);
                }
            }
            return Some((place, states.of_version(version).map_or(0, |write| write.sent)));
        }
        let failing = floors.iter().find(|floor| self.place_at_least(read, floor.1).is_none());
        let (promise, text) = match failing {
            Some((promise, place, why)) if self.place_at_least(read, 0).is_some() => {
                (*promise, format!("behind version {} ({why})", place / 2))
            }
            _ => ("P6", "the key never looked like this".to_string()),
        };
        let promise = if path == Path::Direct { "harness" } else { promise };
        self.violate(promise, text, read);
        None
    }

    /// What cannot be whatever came before it.
    fn impossible(&mut self, read: &Read, path: Path) -> Option<(&'static str, String)> {
        let named = |promise| if path == Path::Direct { "harness" } else { promise };
        let Seen::Version(version) = read.seen else { return None };
        let states = &self.states[read.key];
        if states.refused.contains(&version) {
            return Some((named("P8"), format!("version {version}, whose write was said not to have been executed")));
        }
        let Some(write) = states.of_version(version) else {
            let excused = self.footing(read) != Footing::Firm && self.had(read.key, version).is_some();
            let never = (named("P6"), format!("version {version}, which this key never had, or has lost"));
            return (!excused).then_some(never);
        };
        if write.sent > read.done {
            return Some((named("P6"), format!("version {version} before it was sent")));
        }
        let (Some(expires), Fate::Done(done)) = (write.expires, write.fate) else { return None };
        self.count("P5", 1);
        let overrun = read.sent.checked_sub(done + expires + CLOCKS)?;
        Some((named("P5"), format!("version {version}, {} ms after it must have expired", overrun / MS)))
    }

    /// The earliest place not below `floor` that the read may have shown.
    fn place_at_least(&self, read: &Read, floor: u64) -> Option<u64> {
        let states = &self.states[read.key];
        let absent = read.seen == Seen::Absent;
        if absent && floor <= 1 {
            return Some(floor);
        }
        let first = states.writes.partition_point(|write| write.version < floor / 2);
        for write in states.writes[first..].iter().take_while(|write| write.sent <= read.done) {
            let here = 2 * write.version;
            let fits = match (read.seen, write.effect) {
                (Seen::Version(version), _) => version == write.version,
                (Seen::Length(length), Effect::Value(of)) => length == of,
                (Seen::Present, effect) => effect != Effect::Gone,
                (Seen::Absent, effect) => effect == Effect::Gone,
                (Seen::Length(_), Effect::Gone) => false,
            };
            if fits && here >= floor {
                return Some(here);
            }
            if absent && here + 1 >= floor && self.may_be_gone(write, read) {
                return Some(here + 1);
            }
        }
        None
    }

    /// Whether something may have removed this write's value before the read was answered.
    fn may_be_gone(&self, write: &Write, read: &Read) -> bool {
        let expired = write.expires.is_some_and(|expires| write.sent + expires <= read.done + EARLY);
        let db = self.history.keys[write.key].db;
        let may_wipe = |wipe: &&Wipe| {
            let later = wipe.done.is_none_or(|done| done >= write.sent);
            wipe.db.is_none_or(|of| of == db) && wipe.sent <= read.done && later
        };
        expired || self.wipes.iter().any(may_wipe)
    }

    fn violate(&mut self, promise: &'static str, text: String, read: &Read) {
        let key = &self.history.keys[read.key];
        let via = self.history.conns[read.conn];
        let text = format!("{} of {} showed {:?}: {text} [{via:?}]", read.how, key.name, read.seen);
        let alike = self.findings.violations.iter().filter(|violation| violation.promise == promise).count();
        let context = if alike < SHOWN { self.context(read) } else { String::new() };
        self.findings.violations.push(Violation { promise, at: Some(read.done), text, context });
    }

    /// The last operations on the key before the read was answered, and wipes, as lines.
    fn context(&self, read: &Read) -> String {
        let mut lines: Vec<(Time, String)> = Vec::new();
        let is_it = |key: KeyId| self.history.keys[key].name == self.history.keys[read.key].name;
        for event in self.history.logs.iter().flatten() {
            match event {
                Event::Write(w) if is_it(w.key) => lines.push((w.sent, shown(event))),
                Event::Read(r) if is_it(r.key) => {
                    lines.push((r.done, format!("{} {:?}", shown(event), self.history.conns[r.conn])));
                }
                Event::News(n) if n.key == read.key => lines.push((n.heard, shown(event))),
                Event::Wipe(w) => lines.push((w.sent, shown(event))),
                _ => {}
            }
        }
        let group = self.history.keys[read.key].group;
        for upset in self.history.upsets.iter().filter(|upset| upset.group == group) {
            let Upset { harm, from, until, .. } = upset;
            lines.push((*from, format!("  from {} to {}: {harm:?}", millis(*from), millis(*until))));
        }
        lines.retain(|(at, _)| *at <= read.done);
        lines.sort();
        let last = lines.into_iter().rev().take(24).map(|(_, line)| line);
        last.collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn is_eviction(event: &Event, by: Time) -> bool {
    matches!(event, Event::Wipe(wipe) if !wipe.whole && wipe.sent <= by)
}

fn millis(time: Time) -> String {
    format!("{:.3}", time as f64 / MS as f64)
}

fn shown(event: &Event) -> String {
    let ms = millis;
    match event {
        Event::Write(w) => {
            let Write { version, effect, expires, path, how, fate, .. } = w;
            let fate = if let Fate::Done(done) = fate { format!("done {}", ms(*done)) } else { format!("{fate:?}") };
            format!("  sent {} {fate}: {how} {version} {effect:?} by {path:?}, expires {expires:?}", ms(w.sent))
        }
        Event::Read(r) => format!("  sent {} done {}: {} -> {:?}", ms(r.sent), ms(r.done), r.how, r.seen),
        Event::News(n) => format!("  heard {}: {} of {} by {:?}", ms(n.heard), n.how, n.version, n.path),
        Event::Wipe(w) => {
            format!("  sent {} done {:?}: wipe of {:?} by {:?}", ms(w.sent), w.done.map(ms), w.db, w.path)
        }
        other => format!("  {other:?}"),
    }
}
