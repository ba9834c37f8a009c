//! What a torture has found, as text for people and for the documentation.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

use super::checks::{Findings, SHOWN, Violation};
use super::faults::Phase;
use super::history::{Event, Fate, History, MS, Path, Time, Write};

/// Staleness is counted by the millisecond up to here.
const MOST_MS: usize = 5000;

/// What one fault has cost.
#[derive(Default)]
struct Cost {
    times: u64,
    slowest: Time,
    gap: Time,
    back: Time,
    last_error: Time,
}

/// The sum of all rounds.
pub struct Report {
    /// What was done to it.
    pub what: &'static str,
    /// Which server.
    pub server: String,
    /// The seed to repeat it.
    pub seed: u64,
    /// How long it took.
    pub seconds: u64,
    rounds: u64,
    checked: BTreeMap<&'static str, u64>,
    operations: u64,
    failed: u64,
    hits: f64,
    stale: Vec<u64>,
    stalest: Time,
    /// The largest part of the bound that was used, in percent.
    of_bound: u64,
    costs: BTreeMap<String, Cost>,
    /// How often commands failed how.
    failures: BTreeMap<String, u64>,
    /// What sidecars have counted besides.
    counted: BTreeMap<&'static str, f64>,
    /// The faults of the round in which a promise was broken.
    storm: Vec<String>,
    /// How often each promise was broken, and how long after its round's beginning first.
    broken: BTreeMap<&'static str, (u64, Option<Time>)>,
    /// The promises broken.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Of no rounds yet.
    pub fn new(what: &'static str, server: String, seed: u64) -> Report {
        Report {
            what,
            server,
            seed,
            seconds: 0,
            rounds: 0,
            checked: BTreeMap::new(),
            operations: 0,
            failed: 0,
            hits: 0.0,
            stale: vec![0; MOST_MS + 1],
            stalest: 0,
            of_bound: 0,
            costs: BTreeMap::new(),
            failures: BTreeMap::new(),
            counted: BTreeMap::new(),
            storm: Vec::new(),
            broken: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// Adds a round.
    pub fn add(&mut self, history: &History, phases: &[Phase], hits: f64, findings: Findings) {
        self.hits += hits;
        self.rounds += 1;
        for (promise, number) in findings.checked {
            *self.checked.entry(promise).or_default() += number;
        }
        for stale in findings.stale {
            self.stale[usize::try_from(stale / MS).unwrap().min(MOST_MS)] += 1;
            self.stalest = self.stalest.max(stale);
            self.of_bound = self.of_bound.max(stale * 100 / (history.max_staleness + history.lag));
        }
        let begun = history.logs.iter().flatten().filter_map(times).map(|(sent, _, _)| sent).min().unwrap_or(0);
        if !findings.violations.is_empty() {
            let ms = |time: Time| time.saturating_sub(begun) / MS;
            let shown = |p: &Phase| {
                format!("  {:?} from {} to {}, back at {} ms", p.faults, ms(p.from), ms(p.healed), ms(p.back))
            };
            self.storm = phases.iter().map(shown).collect();
        }
        for violation in findings.violations {
            let broken = self.broken.entry(violation.promise).or_insert((0, None));
            broken.0 += 1;
            let after = violation.at.map(|at| at.saturating_sub(begun));
            broken.1 = [broken.1, after].into_iter().flatten().min();
            self.violations.push(violation);
        }
        let times: Vec<(Time, Time, bool)> = history.logs.iter().flatten().filter_map(times).collect();
        self.operations += u64::try_from(times.len()).unwrap();
        self.failed += times.iter().filter(|(_, _, failed)| *failed).map(|_| 1).sum::<u64>();
        for event in history.logs.iter().flatten() {
            if let Event::Failed { path, how, .. } = event {
                let digits: String = how.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).take(100).collect();
                *self.failures.entry(format!("{path:?}: {digits}")).or_default() += 1;
            }
        }
        let answers = answers(history);
        for (at, phase) in phases.iter().enumerate() {
            let until = phases.get(at + 1).map_or(Time::MAX, |next| next.from);
            let during = times.iter().filter(|(sent, done, _)| *sent <= phase.back && *done >= phase.from);
            let after = times.iter().filter(|(_, done, failed)| *failed && (phase.healed..until).contains(done));
            let slowest = during.map(|(sent, done, _)| done - sent).max().unwrap_or(0);
            let last_error = after.map(|(_, done, _)| done - phase.healed).max().unwrap_or(0);
            let names = &phase.faults;
            // What came of two at once is the first's only in name.
            let name = if names.len() > 1 { "two at once".to_string() } else { names.concat() };
            let cost = self.costs.entry(name).or_default();
            cost.times += 1;
            cost.slowest = cost.slowest.max(slowest);
            cost.gap = cost.gap.max(gap(&answers, phase));
            cost.back = cost.back.max(phase.back - phase.healed);
            cost.last_error = cost.last_error.max(last_error);
        }
    }

    /// Adds what sidecars have counted.
    pub fn count(&mut self, counted: &[(&'static str, f64)]) {
        for (what, number) in counted {
            *self.counted.entry(what).or_default() += number;
        }
    }

    /// Shows it all, keeps it in a file, and fails if a promise was broken.
    #[track_caller]
    pub fn close(&self, name: &str) {
        println!("{self}");
        let file = format!("{}/{}.txt", env!("CARGO_TARGET_TMPDIR"), name.to_lowercase());
        std::fs::write(&file, self.to_string()).unwrap();
        assert!(self.violations.is_empty(), "{} violations, seed {}; see {file}", self.violations.len(), self.seed);
    }

    /// The staleness, in ms, that so many percent of what was stale do not exceed.
    fn percentile(&self, percent: u64) -> usize {
        let total: u64 = self.stale.iter().sum();
        let mut below = 0;
        for (ms, number) in self.stale.iter().enumerate() {
            below += number;
            if below * 100 >= total * percent {
                return ms + 1;
            }
        }
        MOST_MS
    }
}

/// When what was asked of each sidecar, of each group of keys, was answered well.
fn answers(history: &History) -> Vec<Vec<Time>> {
    let mut answers: BTreeMap<(Path, usize), Vec<Time>> = BTreeMap::new();
    for event in history.logs.iter().flatten() {
        let (path, key, done) = match event {
            Event::Read(read) => (history.conns[read.conn].path, read.key, read.done),
            Event::Write(Write { path, key, fate: Fate::Done(done), .. }) => (*path, *key, *done),
            _ => continue,
        };
        if path != Path::Direct {
            answers.entry((path, history.keys[key].group)).or_default().push(done);
        }
    }
    answers
        .into_values()
        .map(|mut times| {
            times.sort_unstable();
            times
        })
        .collect()
}

/// The longest time in which a sidecar answered nothing about a group of keys.
fn gap(answers: &[Vec<Time>], phase: &Phase) -> Time {
    let pairs = answers.iter().flat_map(|times| times.windows(2));
    let during = pairs.filter(|pair| pair[0] <= phase.back && pair[1] >= phase.from);
    during.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn times(event: &Event) -> Option<(Time, Time, bool)> {
    match event {
        Event::Read(read) => Some((read.sent, read.done, false)),
        Event::Write(write) => match write.fate {
            Fate::Done(done) => Some((write.sent, done, false)),
            _ => None,
        },
        Event::Failed { sent, done, .. } => Some((*sent, *done, true)),
        _ => None,
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Report { what, server, seed, seconds, rounds, operations, failed, hits, .. } = self;
        writeln!(f, "{what} of {server}: seed {seed}, {rounds} rounds, {seconds} s")?;
        writeln!(f, "  reads and writes {operations}, of them hits {hits}; pipelines with errors or closed {failed}")?;
        for (promise, number) in &self.checked {
            writeln!(f, "  checked {promise:8} {number}")?;
        }
        let stale: u64 = self.stale.iter().sum();
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let most = self.stalest as f64 / MS as f64;
        writeln!(
            f,
            "  stale reads {stale}: staleness below {p50} ms for half, {p99} ms for 99 %, at most {most:.1} ms ({} % of the bound)",
            self.of_bound
        )?;
        self.counted.iter().try_for_each(|(what, number)| writeln!(f, "  {what} {number}"))?;
        self.failures.iter().try_for_each(|(how, number)| writeln!(f, "  failed {number}: {how}"))?;
        let head = ["slowest ms", "gap ms", "back ms", "last error ms"];
        writeln!(f, "  {:20} {:>5} {:>12} {:>12} {:>12} {:>14}", "fault", "times", head[0], head[1], head[2], head[3])?;
        for (name, cost) in &self.costs {
            let [slowest, gap, back, last] = [cost.slowest, cost.gap, cost.back, cost.last_error].map(|time| time / MS);
            writeln!(f, "  {name:20} {:>5} {slowest:>12} {gap:>12} {back:>12} {last:>14}", cost.times)?;
        }
        writeln!(f, "  violations {}", self.violations.len())?;
        for (promise, (times, first)) in &self.broken {
            let first = first.map(|time| format!(", first after {} ms", time / MS)).unwrap_or_default();
            writeln!(f, "  {promise} broken {times} times{first}")?;
        }
        self.storm.iter().try_for_each(|phase| writeln!(f, "{phase}"))?;
        for promise in self.broken.keys() {
            for violation in self.violations.iter().filter(|violation| violation.promise == *promise).take(SHOWN) {
                writeln!(f, "\n{promise}: {}\n{}", violation.text, violation.context)?;
            }
        }
        Ok(())
    }
}
