//! The torture of a cluster: slots, masters and nodes come and go under constant load, and every promise is checked on the whole
//! history.
//!
//! Three kinds of hash tags: those that stay with their master, whatever becomes of that; those whose slot is moved about with its
//! keys; those whose slot is given away without. Sidecar A has one worker, B two. A short form runs with all tests, from a
//! fixed seed; the long one is `make torture-cluster`.

pub mod counters;
pub mod faults;
pub mod follower;
pub mod terrain;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checks;
use super::client::{Field, Log, Slot};
use super::faults::{Phase, quiet_expiry};
use super::history::{self, Event, History, Path, Seen, Time};
use super::readers::{self, Habit};
use super::report::Report;
use super::values::{KINDS, Kind, readings};
use super::{Deck, Ending, HITS, STEP, number, writers};
use crate::differential::dice::Dice;
use crate::support::redis::Kind as Brand;
use crate::support::wait::{PATIENCE, holds_within, pass};
use crate::support::{Cluster, Sidecar};
use faults::{FAULTS, Fault, Storm};
use follower::Follower;
use terrain::Terrain;

/// In CI, for each server, without what it takes to start it.
const SHORT: Duration = Duration::from_secs(18);

/// What a round takes at most, so that a history fits in memory.
const ROUND: Duration = Duration::from_secs(60);

/// How long clients warm up before anything happens.
const WARM: Duration = Duration::from_millis(500);

/// Bounds on staleness, one for each round in turn.
const BOUNDS_MS: [u64; 2] = [500, 1000];

/// What sidecars may complain of here.
const EXPECTED: [&str; 3] = ["lane lost", "no connection to upstream", "no node of the cluster tells"];

/// A hash tag, and what may happen to its slot.
pub struct Tag {
    /// What stands in the braces.
    pub name: String,
    /// Its slot.
    pub slot: u16,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Moves,
    Forced,
}

/// The hash tags; a group of keys is what has one of them.
pub struct Ground {
    /// By group.
    pub tags: Vec<Tag>,
}

impl Ground {
    fn of(cluster: &Cluster) -> Ground {
        let tag = |prefix: &str, at: usize, fate| {
            let name = cluster.key_on(at, prefix);
            Tag { slot: cluster.slot(&name), name, fate }
        };
        let mut tags: Vec<Tag> = (0..3).map(|at| tag("s", at, Fate::Stays)).collect();
        tags.extend((0..3).map(|at| tag("m", at, Fate::Moves)));
        tags.extend((0..2).map(|at| tag("f", at, Fate::Forced)));
        Ground { tags }
    }

    fn those(&self, fate: Fate) -> Vec<usize> {
        (0..self.tags.len()).filter(|&group| self.tags[group].fate == fate).collect()
    }

    /// The groups that stay, one on each master.
    pub fn still(&self) -> impl Iterator<Item = usize> {
        self.those(Fate::Stays).into_iter()
    }

    /// The groups whose slots are moved with their keys.
    pub fn moving(&self) -> Vec<usize> {
        self.those(Fate::Moves)
    }

    /// The groups whose slots are moved without.
    pub fn forced(&self) -> Vec<usize> {
        self.those(Fate::Forced)
    }

    /// The slots, and which are whose of so many writers.
    fn lay_out(&self, field: &mut Field, writers: usize) -> Vec<Vec<usize>> {
        let mut owners = vec![Vec::new(); writers];
        let mut slots: Vec<Slot> = Vec::new();
        let mut put = |group: usize, number: usize, kind: Kind, pair: bool| {
            let tag = &self.tags[group];
            owners[slots.len() % writers].push(slots.len());
            let mut slot = field.slot(&format!("{{{}}}k{number}", tag.name), 0, kind, pair, group);
            slot.moves = tag.fate == Fate::Moves;
            slots.push(slot);
        };
        // The first are read most.
        let order = [0, 3, 6, 4, 1, 5, 2, 7];
        order.iter().for_each(|&group| put(group, 0, Kind::Text, group % 2 == 1));
        for group in order {
            put(group, 1, Kind::Text, true);
            put(group, 2, Kind::Text, false);
            put(group, 3, KINDS[1 + group % (KINDS.len() - 1)], false);
        }
        field.slots = slots;
        owners
    }
}

/// What the keys of a slot are now, by the word of their owner.
pub fn look(field: &Arc<Field>, slot: &Slot, log: &mut Log) -> Option<Vec<Seen>> {
    let mut follower = Follower::default();
    let mut seen = Vec::new();
    for key in slot.current() {
        let reading = readings(slot.kind)[0];
        let frame = follower.ask(field, &reading.words(&key.name))?;
        let (value, _) = crate::support::resp::decode(&frame)?;
        match reading.seen(&key.name, &value) {
            Ok(shown) => seen.push(shown),
            Err(text) => {
                log.push(Event::Wrong("harness", text));
                return None;
            }
        }
    }
    Some(seen)
}

/// What a round has shown.
struct Shown {
    history: History,
    phases: Vec<Phase>,
    hits: f64,
    /// What sidecars counted, by name.
    counted: Vec<(&'static str, f64)>,
}

/// What sidecars count that tells of a cluster.
const COUNTED: [(&str, &str); 5] = [
    ("slot map refreshes", "sidecache_slot_map_refreshes_total"),
    ("topology changes", "sidecache_topology_changes_total"),
    ("MOVED followed", "sidecache_redirects_total{kind=\"moved\"}"),
    ("ASK followed", "sidecache_redirects_total{kind=\"ask\"}"),
    ("tried again", "sidecache_redirects_total{kind=\"try_again\"}"),
];

/// Clients on a fresh cluster, faults from the deck until `time` is over.
fn round(brand: Brand, bound: Duration, seed: u64, time: Duration, deck: &mut Deck<Fault>) -> Shown {
    let mut cluster = Cluster::start(brand, 3, 1);
    (0..cluster.len()).for_each(|at| quiet_expiry(cluster.node(at)));
    let ground = Ground::of(&cluster);
    let sidecars = [1, 2].map(|threads| {
        let toml = format!(
            "threads = {threads}\ncache.max_staleness = '{}ms'\ncache.audit_every = 100\nupstream.backoff_max = '100ms'",
            bound.as_millis()
        );
        let sidecar = Sidecar::start(&cluster, &toml);
        EXPECTED.iter().for_each(|text| sidecar.allow_log(text));
        sidecar
    });
    let terrain = Terrain::default();
    *terrain.seeds.lock().unwrap() = (0..cluster.len()).map(|at| cluster.node(at).addr()).collect();
    let mut field = Field {
        addrs: [sidecars[0].addr(), sidecars[1].addr(), cluster.node(0).addr()],
        slots: Vec::new(),
        keys: std::sync::Mutex::default(),
        conns: std::sync::Mutex::default(),
        ends: false.into(),
        max_staleness: bound,
        terrain: Some(terrain),
    };
    let ways: [(&[Path], usize); 4] = [
        (&[Path::A], 6000),
        (&[Path::B, Path::Direct], 6000),
        (&[Path::A, Path::B, Path::Direct], 4000),
        (&[Path::Direct], 4000),
    ];
    let owners = ground.lay_out(&mut field, ways.len());
    let field = Arc::new(field);
    let names: Vec<String> = ground.tags.iter().map(|tag| tag.name.clone()).collect();
    let begun = Instant::now();
    let (mut logs, phases) = std::thread::scope(|scope| {
        let (field, names) = (&field, &names);
        let ends = Ending(field);
        let mut seeds = Dice::new(seed);
        let mut seed = || u64::try_from(seeds.below(1 << 40)).unwrap();
        let mut clients = Vec::new();
        for (slots, (paths, pause)) in owners.iter().zip(ways) {
            let writer = writers::Writer::new(field, slots.clone(), paths, pause, seed());
            clients.push(scope.spawn(move || writer.run()));
        }
        for (path, habit) in [
            (Path::A, Habit::Broad),
            (Path::A, Habit::Broad),
            (Path::A, Habit::Narrow),
            (Path::A, Habit::Narrow),
            (Path::B, Habit::Broad),
            (Path::B, Habit::Narrow),
            (Path::Direct, Habit::Rare),
        ] {
            let reader = readers::Reader::new(field, path, habit, seed());
            clients.push(scope.spawn(move || reader.run()));
        }
        for path in [Path::A, Path::B] {
            let seed = seed();
            clients.push(scope.spawn(move || counters::count(field, path, names, seed)));
        }
        let mut storm = Storm::new(&mut cluster, &ground, field, seed());
        pass(WARM);
        while begun.elapsed() < time {
            storm.strike(deck.next());
        }
        drop(ends);
        let ended = holds_within(3 * PATIENCE, || clients.iter().all(|client| client.is_finished()));
        assert!(ended, "clients hang");
        let mut logs: Vec<Log> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        logs.push(storm.log);
        (logs, storm.phases)
    });
    let sum = |name: &str| sidecars.iter().map(|sidecar| sidecar.metric(name)).sum();
    let counted = COUNTED.map(|(what, name)| (what, sum(name))).to_vec();
    let hits = sum(HITS);
    let complaints: Vec<String> = sidecars.iter().flat_map(Sidecar::complaints).collect();
    sidecars.iter().for_each(|sidecar| sidecar.allow_log(""));
    let field = Arc::into_inner(field).unwrap();
    let (keys, conns) = (field.keys.into_inner().unwrap(), field.conns.into_inner().unwrap());
    logs.push(complaints.iter().map(|line| Event::Wrong("log", line.clone())).collect());
    logs.push(errors_of_moves(&logs, &phases));
    let max_staleness = Time::try_from(bound.as_nanos()).unwrap();
    let upsets = field.terrain.unwrap().upsets();
    drop(sidecars);
    Shown { history: History { keys, conns, logs, threads: [1, 2], max_staleness, upsets }, phases, hits, counted }
}

/// Moving slots costs a sidecar's clients no error at all.
fn errors_of_moves(logs: &[Log], phases: &[Phase]) -> Log {
    let moves = [Fault::Reshard, Fault::NodeAdded].map(|fault| format!("{fault:?}"));
    let mut wrong = Log::new();
    for event in logs.iter().flatten() {
        let Event::Failed { path: Path::A | Path::B, sent, done, how } = event else { continue };
        let during = |phase: &&Phase| *sent >= phase.from && *done <= phase.back;
        if let Some(phase) = phases.iter().filter(|phase| moves.contains(&phase.faults[0])).find(during) {
            wrong.push(Event::Wrong("P7", format!("in {:?}: {how}", phase.faults)));
        }
    }
    wrong
}

/// Round after round; ends early when a promise is broken.
fn torture(brand: Brand, time: Duration, seed: u64, faults: &[Fault]) {
    println!("torture of a cluster of {brand:?}: {} s, seed {seed}", time.as_secs());
    let begun = Instant::now();
    let mut report = Report::new("torture", format!("a cluster of {brand:?}"), seed);
    let mut deck = Deck::new(seed, faults);
    let rounds = time.as_secs().div_ceil(ROUND.as_secs()).max(1);
    let each = time / u32::try_from(rounds).unwrap();
    for number in 0..rounds {
        let bound = Duration::from_millis(BOUNDS_MS[usize::try_from(number).unwrap() % BOUNDS_MS.len()]);
        let ahead = history::wall_ahead();
        let shown = round(brand, bound, seed.wrapping_mul(1_000_003).wrapping_add(number), each, &mut deck);
        let stepped = history::wall_ahead().abs_diff(ahead);
        if stepped > STEP {
            // Servers expire keys by the wall clock: such a round proves nothing.
            println!("round {number} is not judged: the wall clock was stepped by {stepped:?}");
            continue;
        }
        report.add(&shown.history, &shown.phases, shown.hits, checks::check(&shown.history));
        report.count(&shown.counted);
        if !report.violations.is_empty() {
            break;
        }
    }
    report.seconds = begun.elapsed().as_secs();
    report.close(&format!("torture-cluster-{brand:?}"));
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
#[ignore = "takes as long as one likes: make torture-cluster"]
fn long() {
    let time = Duration::from_secs(number("TORTURE_SECONDS", 600));
    let seed = number("TORTURE_SEED", std::process::id().into());
    let faults = super::named(&FAULTS);
    for brand in [Brand::Redis, Brand::Valkey] {
        torture(brand, time / 2, seed, &faults);
    }
}
