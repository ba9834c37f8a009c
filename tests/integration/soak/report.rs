//! What a soak has found, as text: torture's report of it, and what only a soak asks.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};
use std::ops::Sub;

use super::complaints::{Complaints, Window};
use super::mixes::Mix;
use super::process::{Growth, Holdings};
use crate::torture::checks::Findings;
use crate::torture::faults::Phase;
use crate::torture::history::{Event, Fate, History, MS, Time};
use crate::torture::report::Report as OfTorture;

/// Reads through the sidecars.
#[derive(Clone, Copy, Default, Debug)]
pub struct Reads {
    /// All of them.
    pub all: f64,
    /// Those answered from memory.
    pub hits: f64,
}

impl Sub for Reads {
    type Output = Reads;

    fn sub(self, before: Reads) -> Reads {
        Reads { all: self.all - before.all, hits: self.hits - before.hits }
    }
}

/// What happened in one round.
pub struct Round {
    /// What the callers did.
    pub mix: Mix,
    /// All of it.
    pub history: History,
    /// The faults.
    pub phases: Vec<Phase>,
    /// The windows of its log.
    pub windows: Vec<Window>,
    /// Reads while nothing was wrong.
    pub calm: Reads,
    /// All reads.
    pub all: Reads,
    /// Memory of both sidecars at the end of the calm.
    pub loaded: [u64; 2],
    /// Memory of both when all clients had left.
    pub settled: [u64; 2],
    /// What was still under way then.
    pub unsettled: Vec<String>,
}

/// The sum over one mix's rounds.
#[derive(Default)]
struct OfMix {
    what: &'static str,
    reads: u64,
    writes: u64,
    absent: u64,
    calm: Reads,
    all: Reads,
    slowest_calm: Time,
}

/// The sum of all rounds.
pub struct Report {
    /// What the histories showed.
    pub of_torture: OfTorture,
    /// What else is wrong.
    pub findings: Vec<String>,
    /// Memory of both sidecars at the end of each round.
    pub settled: Vec<[u64; 2]>,
    /// Rounds not judged, since the wall clock was stepped.
    pub stepped: u64,
    loaded: Vec<[u64; 2]>,
    mixes: BTreeMap<&'static str, OfMix>,
    start: [Holdings; 2],
    end: [Holdings; 2],
    growth: Vec<Growth>,
    kinds: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Of no rounds yet.
    pub fn new(server: String, seed: u64, start: [Holdings; 2]) -> Report {
        Report {
            of_torture: OfTorture::new("soak", server, seed),
            findings: Vec::new(),
            settled: Vec::new(),
            stepped: 0,
            loaded: Vec::new(),
            mixes: BTreeMap::new(),
            start,
            end: start,
            growth: Vec::new(),
            kinds: BTreeMap::new(),
        }
    }

    /// Adds a round, and what its history showed if that was judged.
    pub fn add(&mut self, round: Round, findings: Option<Findings>) {
        let Round { mix, history, phases, calm, all, .. } = round;
        let of = self.mixes.entry(mix.name).or_default();
        of.what = mix.what;
        let trouble = phases.first().map_or(Time::MAX, |phase| phase.from);
        for event in history.logs.iter().flatten() {
            let took = match event {
                Event::Read(read) => {
                    of.reads += 1;
                    of.absent += u64::from(read.seen == crate::torture::history::Seen::Absent);
                    (read.sent, read.done)
                }
                Event::Write(write) => {
                    of.writes += 1;
                    let Fate::Done(done) = write.fate else { continue };
                    (write.sent, done)
                }
                _ => continue,
            };
            if took.1 < trouble {
                of.slowest_calm = of.slowest_calm.max(took.1 - took.0);
            }
        }
        for (sum, more) in [(&mut of.calm, calm), (&mut of.all, all)] {
            sum.all += more.all;
            sum.hits += more.hits;
        }
        self.loaded.push(round.loaded);
        self.settled.push(round.settled);
        let number = self.settled.len();
        self.findings.extend(round.unsettled.into_iter().map(|left| format!("after round {number} {left}")));
        match findings {
            Some(findings) => self.of_torture.add(&history, &phases, all.hits, findings),
            None => self.stepped += 1,
        }
    }

    /// What both sidecars hold at the end, and what of that is too much.
    pub fn ends(&mut self, end: [Holdings; 2], beyond: Vec<String>) {
        self.end = end;
        self.findings.extend(beyond);
        if self.mixes.values().all(|of| of.all.hits == 0.0) {
            self.findings.push("there were no hits: nothing was tried".to_string());
        }
    }

    /// How a sidecar's memory has grown.
    pub fn grows(&mut self, sidecar: usize, growth: Growth) {
        self.growth.push(growth);
        self.findings.extend(growth.complaint().map(|text| format!("sidecar {sidecar}: {text}")));
    }

    /// What a sidecar has complained of.
    pub fn complains(&mut self, complaints: Complaints) {
        for (kind, number) in complaints.kinds {
            *self.kinds.entry(kind).or_default() += number;
        }
        self.findings.extend(complaints.unexplained);
    }
}

fn percent(reads: Reads) -> f64 {
    100.0 * reads.hits / reads.all.max(1.0)
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", self.of_torture)?;
        writeln!(
            f,
            "  {:11} {:20} {:>9} {:>9} {:>8} {:>12} {:>12} {:>16}",
            "mix", "", "reads", "writes", "absent %", "hits, calm %", "hits, all %", "slowest, calm ms"
        )?;
        for (name, of) in &self.mixes {
            let absent = 100.0 * of.absent as f64 / of.reads.max(1) as f64;
            let (calm, all, slowest) = (percent(of.calm), percent(of.all), of.slowest_calm / MS);
            writeln!(
                f,
                "  {name:11} {:20} {:>9} {:>9} {absent:>8.1} {calm:>12.1} {all:>12.1} {slowest:>16}",
                of.what, of.reads, of.writes
            )?;
        }
        for (at, sidecar) in ["A", "B"].into_iter().enumerate() {
            let kib = |samples: &[[u64; 2]]| {
                let all = samples.iter().map(|both| (both[at] / 1024).to_string());
                all.collect::<Vec<_>>().join(" ")
            };
            writeln!(f, "  {sidecar}: KiB under load, round by round: {}", kib(&self.loaded))?;
            writeln!(f, "  {sidecar}: KiB when all had left: {}", kib(&self.settled))?;
            if let Some(Growth { from, to, allowed }) = self.growth.get(at) {
                let [from, to, allowed] = [from, to, allowed].map(|bytes| bytes / 1024);
                writeln!(
                    f,
                    "  {sidecar}: KiB of a cycle's mean: {from} after the warm-up, {to} at the end; {allowed} more allowed"
                )?;
            }
            let (start, end) = (self.start[at], self.end[at]);
            writeln!(
                f,
                "  {sidecar}: file descriptors {} at the start, {} at the end (connections to upstream {}, {}); threads {}, {}",
                start.descriptors, end.descriptors, start.upstream, end.upstream, start.threads, end.threads
            )?;
        }
        for (kind, number) in &self.kinds {
            writeln!(f, "  log: {number} times \"{kind}\", each in the time of a fault that may cause it")?;
        }
        if self.stepped > 0 {
            writeln!(f, "  {} rounds and the log are not judged: the wall clock was stepped", self.stepped)?;
        }
        writeln!(f, "  findings {}", self.findings.len())?;
        self.findings.iter().take(20).try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}
