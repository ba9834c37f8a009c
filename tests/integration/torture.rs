//! The torture: many clients through two sidecars and past them, everything going wrong at random, and every promise checked
//! on the whole history.
//!
//! A short form runs with all tests, from a fixed seed. The long one is `make torture`, for as long as `TORTURE_SECONDS` says
//! (600), from `TORTURE_SEED`, with all faults or those that `TORTURE_FAULTS` names. The seed fixes the workload and the
//! faults, not what the machine's scheduler makes of them: a violation may need several runs to come again, and so is
//! shown with the key's last operations.

pub mod checks;
pub mod client;
mod cluster;
pub mod faults;
pub mod history;
mod made_up;
pub mod news;
pub mod readers;
pub mod report;
pub mod values;
pub mod writers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::{Field, Log, Slot, USER};
use faults::{FAULTS, Fault, Phase, Stage, Storm};
use history::{Event, History, Path, Time};
use readers::Habit;
use report::Report;
use values::{KINDS, Kind};

use crate::differential::dice::Dice;
use crate::support::redis::Kind as Brand;
use crate::support::wait::{PATIENCE, holds_within, pass};
use crate::support::{Link, Server, Sidecar};

/// In CI, for each server.
const SHORT: Duration = Duration::from_secs(20);

/// What a round takes at most, so that a history fits in memory.
const ROUND: Duration = Duration::from_secs(20);

/// How long clients warm up before the first fault.
const WARM: Duration = Duration::from_millis(700);

/// More than a clock is slewed by in a round, and less than what checks allow for.
pub const STEP: Duration = Duration::from_millis(4);

/// Writers of their own slots.
const WRITERS: u64 = 3;

/// The readers.
const READERS: [(Path, Habit); 10] = [
    (Path::A, Habit::Broad),
    (Path::A, Habit::Broad),
    (Path::A, Habit::Broad),
    (Path::B, Habit::Broad),
    (Path::Direct, Habit::Rare),
    (Path::A, Habit::Narrow),
    (Path::A, Habit::Narrow),
    (Path::A, Habit::Narrow),
    (Path::A, Habit::Inside),
    (Path::B, Habit::Narrow),
];

/// Bounds on staleness, one for each round in turn.
const BOUNDS_MS: [u64; 3] = [300, 1000, 200];

/// Workers of the first sidecar, one for each round in turn.
const THREADS: [usize; 2] = [1, 4];

/// What sidecars may complain of here.
const EXPECTED: [&str; 5] =
    ["lane lost", "no connection to upstream", "cannot accept", "does not read its replies", "upstream denies INFO"];

/// Reads answered from memory.
pub const HITS: &str = "sidecache_commands_total{class=\"read\",outcome=\"hit\"}";

/// A round's surroundings.
struct Setting {
    brand: Brand,
    threads: usize,
    bound: Duration,
    seed: u64,
}

impl Stage {
    fn new(setting: &Setting) -> Stage {
        let user = format!(">{}", USER[1]);
        let args = ["--user", USER[0], "on", &user, "~*", "&*", "+@all", "--notify-keyspace-events", "KEA"];
        let server = Server::with(setting.brand, &args);
        faults::quiet_expiry(&server);
        let links = [Link::to(server.addr()), Link::to(server.addr())];
        let sidecars = [(0, setting.threads), (1, 1)].map(|(at, threads)| {
            let toml = format!(
                "threads = {threads}\ncache.max_staleness = '{}ms'\ncache.audit_every = 100\n\
                 upstream.command_timeout = '1s'\nupstream.connect_timeout = '500ms'\nupstream.backoff_max = '100ms'",
                setting.bound.as_millis()
            );
            let sidecar = Sidecar::start(&links[at], &toml);
            EXPECTED.iter().for_each(|text| sidecar.allow_log(text));
            sidecar
        });
        Stage { sidecars, links, server }
    }
}

/// The slots: each writer's, the swapper's, the teller's; gives whose are whose.
fn lay_out(field: &mut Field) -> Vec<Vec<usize>> {
    let mut owners: Vec<Vec<usize>> = vec![Vec::new(); 4 + usize::try_from(WRITERS).unwrap()];
    let mut slots = Vec::new();
    let mut put = |owner: usize, db: u32, kind: Kind, pair: bool| {
        owners[owner].push(slots.len());
        // Names recur in other databases, so that what crosses them shows.
        let alike = |slot: &&Slot| (slot.db, slot.kind, slot.pair) == (db, kind, pair);
        let number = slots.iter().filter(alike).count();
        slots.push(field.slot(&format!("k{number}"), db, kind, pair, 0));
    };
    // The first of a database are read most.
    let outside = 2 + usize::try_from(WRITERS).unwrap();
    KINDS.into_iter().for_each(|kind| put(outside, 0, kind, false));
    put(outside, 0, Kind::Text, true);
    [Kind::Text, Kind::Hash].into_iter().for_each(|kind| put(outside + 1, 0, kind, false));
    for owner in 2..2 + usize::try_from(WRITERS).unwrap() {
        put(owner, 0, Kind::Text, true);
        put(owner, 0, Kind::Text, false);
        put(owner, 1, Kind::Text, false);
    }
    for _ in 0..3 {
        put(1, 0, Kind::Text, false);
    }
    for owner in 2..2 + usize::try_from(WRITERS).unwrap() {
        for kind in KINDS {
            put(owner, 0, kind, false);
        }
        put(owner, 1, Kind::Hash, false);
    }
    for db in (4..15).step_by(2) {
        put(0, db, Kind::Text, true);
    }
    field.slots = slots;
    owners
}

/// Has the clients end when dropped, so that nobody waits for them should the round fail.
pub struct Ending<'a>(pub &'a Field);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::SeqCst);
    }
}

/// A round: clients, faults from the deck until `time` is over, and what happened.
fn round(setting: &Setting, time: Duration, deck: &mut Deck<Fault>) -> (History, Vec<Phase>, f64) {
    let begun = Instant::now();
    let stage = Stage::new(setting);
    let mut field = Field {
        addrs: [stage.sidecars[0].addr(), stage.sidecars[1].addr(), stage.server.addr()],
        slots: Vec::new(),
        keys: std::sync::Mutex::default(),
        conns: std::sync::Mutex::default(),
        ends: false.into(),
        max_staleness: setting.bound,
        lags: false,
        terrain: None,
    };
    let owners = lay_out(&mut field);
    let field = Arc::new(field);
    let (mut logs, phases) = std::thread::scope(|scope| {
        let field = &field;
        let ends = Ending(field);
        let mut seeds = Dice::new(setting.seed);
        let mut seed = || u64::try_from(seeds.below(1 << 40)).unwrap();
        let mut clients = Vec::new();
        for slots in &owners[2..] {
            let (paths, pause): (&[Path], usize) = match slots[0].checked_sub(readers::HOT[0]) {
                // Hot keys are seldom written, or they would mostly be misses.
                None => (&[Path::B, Path::Direct], 15_000),
                Some(at) if at < readers::HOT[1] => (&[Path::A], 15_000),
                Some(_) => (&[Path::A, Path::B, Path::Direct], 5000),
            };
            let writer = writers::Writer::new(field, slots.clone(), paths, pause, seed());
            clients.push(scope.spawn(move || writer.run()));
        }
        for (path, habit) in READERS {
            let reader = readers::Reader::new(field, path, habit, seed());
            clients.push(scope.spawn(move || reader.run()));
        }
        let (swapper, teller) = (&owners[0], &owners[1]);
        clients.push(scope.spawn(move || writers::swap(field, swapper)));
        let of_news = seed();
        clients.push(scope.spawn(move || news::tell(field, teller, of_news)));
        for (ear, path) in news::EARS.iter().zip([Path::A, Path::A, Path::A, Path::B]) {
            clients.push(scope.spawn(move || news::hear(field, path, ear)));
        }
        let of_comparing = seed();
        clients.push(scope.spawn(move || readers::compare(field, of_comparing)));
        let mut storm = Storm::new(&stage, field, seed());
        pass(WARM);
        while begun.elapsed() < time {
            storm.strike(deck.next());
        }
        drop(ends);
        // Who waits for a message gets one.
        let mut waker = stage.server.conn();
        let ended = holds_within(3 * PATIENCE, || {
            waker.pipeline(&["PUBLISH news end", "SET event:end 1 PX 100"]);
            clients.iter().all(|client| client.is_finished())
        });
        assert!(ended, "clients hang");
        let mut logs: Vec<Log> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        logs.push(storm.log);
        (logs, storm.phases)
    });
    let hits = stage.sidecars.iter().map(|sidecar| sidecar.metric(HITS)).sum();
    let complaints: Vec<String> = stage.sidecars.iter().flat_map(Sidecar::complaints).collect();
    stage.sidecars.iter().for_each(|sidecar| sidecar.allow_log(""));
    let field = Arc::into_inner(field).unwrap();
    let (keys, conns) = (field.keys.into_inner().unwrap(), field.conns.into_inner().unwrap());
    logs.push(complaints.iter().map(|line| Event::Wrong("log", line.clone())).collect());
    let max_staleness = Time::try_from(setting.bound.as_nanos()).unwrap();
    let (threads, moving, upsets) = ([setting.threads, 1], Vec::new(), Vec::new());
    (History { keys, conns, logs, threads, max_staleness, lag: 0, moving, upsets }, phases, hits)
}

/// Faults in random order, again and again.
pub struct Deck<F> {
    dice: Dice,
    all: Vec<F>,
    left: Vec<F>,
}

impl<F: Copy> Deck<F> {
    /// Of these.
    pub fn new(seed: u64, all: &[F]) -> Deck<F> {
        Deck { dice: Dice::new(seed), all: all.to_vec(), left: Vec::new() }
    }

    /// The next one.
    pub fn next(&mut self) -> F {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        self.left.remove(self.dice.below(self.left.len()))
    }
}

/// Round after round; ends early when a promise is broken.
fn torture(brand: Brand, time: Duration, seed: u64, faults: &[Fault]) {
    println!("torture of {brand:?}: {} s, seed {seed}", time.as_secs());
    let begun = Instant::now();
    let mut report = Report::new("torture", format!("{brand:?}"), seed);
    let mut deck = Deck::new(seed, faults);
    let rounds = time.as_secs().div_ceil(ROUND.as_secs()).max(2);
    let each = time / u32::try_from(rounds).unwrap();
    for number in 0..rounds {
        let at = usize::try_from(number).unwrap();
        let (threads, bound) = (THREADS[at % THREADS.len()], Duration::from_millis(BOUNDS_MS[at % BOUNDS_MS.len()]));
        let setting = Setting { brand, threads, bound, seed: seed.wrapping_mul(1_000_003).wrapping_add(number) };
        let ahead = history::wall_ahead();
        let (history, phases, hits) = round(&setting, each, &mut deck);
        let stepped = history::wall_ahead().abs_diff(ahead);
        if stepped > STEP {
            // Servers expire keys by the wall clock: such a round proves nothing.
            println!("round {number} is not judged: the wall clock was stepped by {stepped:?}");
            continue;
        }
        report.add(&history, &phases, hits, checks::check(&history));
        if !report.violations.is_empty() || begun.elapsed() >= time {
            break;
        }
    }
    report.seconds = begun.elapsed().as_secs();
    report.close(&format!("torture-{brand:?}"));
}

/// A setting of the environment.
pub fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { otherwise } else { text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")) }
}

/// The faults that TORTURE_FAULTS names, or all.
fn named<F: Copy + std::fmt::Debug>(all: &[F]) -> Vec<F> {
    let faults = those_named(all);
    assert!(!faults.is_empty(), "TORTURE_FAULTS names none of {all:?}");
    faults
}

/// As `named`; none of these may be.
fn those_named<F: Copy + std::fmt::Debug>(all: &[F]) -> Vec<F> {
    let wanted = std::env::var("TORTURE_FAULTS").unwrap_or_default();
    let named = |fault: &F| wanted.is_empty() || wanted.split(',').any(|name| name == format!("{fault:?}"));
    all.iter().copied().filter(named).collect()
}

#[test]
fn redis_under_torture_breaks_no_promise() {
    torture(Brand::Redis, SHORT, 1, &FAULTS);
}

#[test]
fn valkey_under_torture_breaks_no_promise() {
    torture(Brand::Valkey, SHORT, 2, &FAULTS);
}

#[test]
#[ignore = "takes as long as one likes: make torture"]
fn long() {
    let time = Duration::from_secs(number("TORTURE_SECONDS", 600));
    let seed = number("TORTURE_SEED", std::process::id().into());
    let faults = named(&FAULTS);
    for brand in [Brand::Redis, Brand::Valkey] {
        torture(brand, time / 2, seed, &faults);
    }
}
