//! The torture of a cluster: slots, masters and nodes come and go under constant load, and every promise is checked on the whole
//! history.
//!
//! Three kinds of hash tags: those that stay with their master, whatever becomes of that; those whose slot is moved about with its
//! keys; those whose slot is given away without. Sidecar A has one worker, B two. A short form runs with all tests, from a
//! fixed seed; the long one is `make torture-cluster`. `sentinels` does the same to a master that Sentinels watch over.

pub mod counters;
pub mod faults;
pub mod follower;
pub mod optimists;
pub mod play;
pub mod sentinels;
pub mod terrain;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checks;
use super::client::{Field, Log, Slot};
use super::faults::{Phase, quiet_expiry};
use super::history::{self, Event, MS, Path, Seen};
use super::report::Report;
use super::values::{KINDS, Kind, readings};
use super::{Deck, STEP, number};
use crate::support::Cluster;
use crate::support::redis::Kind as Brand;
use crate::support::wait::pass;
use faults::{FAULTS, Fault, Storm};
use follower::Follower;
use play::{Play, Shown, sidecars};
use terrain::Terrain;

/// In CI, for each server, without what it takes to start it.
const SHORT: Duration = Duration::from_secs(18);

/// What a round takes at most, so that a history fits in memory.
const ROUND: Duration = Duration::from_secs(60);

/// How long clients warm up before anything happens.
pub const WARM: Duration = Duration::from_millis(500);

/// Bounds on staleness, one for each round in turn.
const BOUNDS_MS: [u64; 2] = [500, 1000];

/// Whom sidecars read from, one for each round in turn.
pub const READ_FROM: [&str; 6] = ["master", "prefer-replica", "master", "nearest", "master", "replica"];

/// How far behind their masters replicas may be that are read from.
pub const LAG: Duration = Duration::from_millis(700);

/// What sidecars may complain of here.
pub const EXPECTED: [&str; 4] =
    ["lane lost", "no connection to upstream", "no node of the cluster tells", "a Sentinel does not answer"];

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
    /// Whether one server has all groups, which are as one then.
    is_one: bool,
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
        Ground { tags, is_one: false }
    }

    /// Of one server at a time.
    fn of_one() -> Ground {
        let tag = |at| Tag { name: format!("t{at}"), slot: 0, fate: Fate::Stays };
        Ground { tags: (0..8).map(tag).collect(), is_one: true }
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
            let group = if self.is_one { 0 } else { group };
            let mut slot = field.slot(&format!("{{{}}}k{number}", tag.name), 0, kind, pair, group);
            slot.moves = tag.fate == Fate::Moves;
            slot.drops = tag.fate == Fate::Forced;
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
        // Nobody was there to ask: Sentinels may take half a minute to agree.
        if frame.starts_with(b"-ERR not sent") {
            return None;
        }
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

/// A round's surroundings.
#[derive(Clone, Copy)]
struct Setting {
    brand: Brand,
    bound: Duration,
    /// Whom the sidecars read from.
    read_from: &'static str,
    seed: u64,
}

/// What sidecars count that tells of a cluster.
pub const COUNTED: [(&str, &str); 5] = [
    ("slot map refreshes", "sidecache_slot_map_refreshes_total"),
    ("topology changes", "sidecache_topology_changes_total"),
    ("MOVED followed", "sidecache_redirects_total{kind=\"moved\"}"),
    ("ASK followed", "sidecache_redirects_total{kind=\"ask\"}"),
    ("tried again", "sidecache_redirects_total{kind=\"try_again\"}"),
];

/// Clients on a fresh cluster, faults from the deck until `time` is over.
fn round(setting: &Setting, time: Duration, deck: &mut Deck<Fault>) -> Shown {
    let mut cluster = Cluster::start(setting.brand, 3, 1);
    (0..cluster.len()).for_each(|at| quiet_expiry(cluster.node(at)));
    let ground = Ground::of(&cluster);
    let sidecars = sidecars(&cluster, setting.bound, setting.read_from);
    let terrain = Terrain::default();
    *terrain.seeds.lock().unwrap() = (0..cluster.len()).map(|at| cluster.node(at).addr()).collect();
    let play = Play { ground: &ground, sidecars, direct: cluster.node(0).addr(), terrain, bound: setting.bound };
    let lag = if setting.read_from == "master" { Duration::ZERO } else { LAG };
    let mut shown = play.run(lag, setting.seed, |field, seed| {
        let mut storm = Storm::new(&mut cluster, &ground, field, seed);
        pass(WARM);
        let begun = Instant::now();
        while begun.elapsed() < time {
            storm.strike(deck.next());
        }
        (storm.log, storm.phases)
    });
    let wrong = errors_of(&[Fault::Reshard, Fault::NodeAdded], &shown.history.logs, &shown.phases);
    shown.history.logs.push(wrong);
    shown
}

/// Some of what happens (moving slots) costs a sidecar's clients no error at all.
pub fn errors_of<F: std::fmt::Debug>(harmless: &[F], logs: &[Log], phases: &[Phase]) -> Log {
    let moves: Vec<String> = harmless.iter().map(|fault| format!("{fault:?}")).collect();
    let mut wrong = Log::new();
    for event in logs.iter().flatten() {
        let Event::Failed { path: path @ (Path::A | Path::B), sent, done, how, exchange } = event else { continue };
        let during = |phase: &&Phase| *sent >= phase.from && *done <= phase.back;
        if let Some(phase) = phases.iter().filter(|phase| moves.contains(&phase.faults[0])).find(during) {
            let took = (done - sent) / MS;
            let text = format!("in {:?}, {path:?} within {took} ms: {how}; {exchange}", phase.faults);
            wrong.push(Event::Wrong("P7", text));
        }
    }
    wrong
}

/// How a round is played: the bound, whom sidecars read from, the seed, for how long.
type Round<'a> = &'a mut dyn FnMut(Duration, &'static str, u64, Duration) -> Shown;

/// Round after round, with these to be read from in turn; ends early when a promise is broken.
pub fn rounds(what: &str, time: Duration, seed: u64, read_from: &[&'static str], round: Round) {
    println!("torture of {what}: {} s, seed {seed}", time.as_secs());
    let begun = Instant::now();
    let mut report = Report::new("torture", what.to_string(), seed);
    let rounds = time.as_secs().div_ceil(ROUND.as_secs()).max(1);
    let each = time / u32::try_from(rounds).unwrap();
    for number in 0..rounds {
        let at = usize::try_from(number).unwrap();
        let (bound, read_from) =
            (Duration::from_millis(BOUNDS_MS[at % BOUNDS_MS.len()]), read_from[at % read_from.len()]);
        let ahead = history::wall_ahead();
        let shown = round(bound, read_from, seed.wrapping_mul(1_000_003).wrapping_add(number), each);
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
    let of = if read_from.len() == 1 { read_from[0] } else { "all" };
    report.close(&format!("torture of {what} {of}").replace(' ', "-"));
}

fn torture(brand: Brand, time: Duration, seed: u64, faults: &[Fault], read_from: &[&'static str]) {
    let mut deck = Deck::new(seed, faults);
    rounds(&format!("a cluster of {brand:?}"), time, seed, read_from, &mut |bound, read_from, seed, time| {
        round(&Setting { brand, bound, read_from, seed }, time, &mut deck)
    });
}

#[test]
fn redis_under_torture_breaks_no_promise() {
    torture(Brand::Redis, SHORT, 1, &FAULTS, &["master"]);
}

#[test]
fn valkey_under_torture_breaks_no_promise() {
    torture(Brand::Valkey, SHORT, 2, &FAULTS, &["master"]);
}

/// What makes masters of replicas, and what else changes who has what.
const PROMOTING: [Fault; 4] = [Fault::FailOver, Fault::MasterKilled, Fault::Reshard, Fault::FailOver];

#[test]
fn redis_read_from_replicas_under_torture_breaks_no_promise() {
    torture(Brand::Redis, SHORT, 3, &PROMOTING, &["prefer-replica"]);
}

#[test]
fn valkey_read_from_replicas_under_torture_breaks_no_promise() {
    torture(Brand::Valkey, SHORT, 4, &PROMOTING, &["nearest"]);
}

#[test]
#[ignore = "takes as long as one likes: make torture-cluster"]
fn long() {
    let time = Duration::from_secs(number("TORTURE_SECONDS", 600));
    let seed = number("TORTURE_SEED", std::process::id().into());
    let (faults, of_sentinels) = (super::those_named(&FAULTS), super::those_named(&sentinels::FAULTS));
    assert!(!faults.is_empty() || !of_sentinels.is_empty(), "TORTURE_FAULTS names none of {FAULTS:?}");
    // Sentinels have less to do.
    let third = if faults.is_empty() { time } else { time / 3 };
    let rest = if of_sentinels.is_empty() { time } else { time - time / 3 };
    if !of_sentinels.is_empty() {
        sentinels::long(third, seed, &of_sentinels);
    }
    if !faults.is_empty() {
        for brand in [Brand::Redis, Brand::Valkey] {
            torture(brand, rest / 2, seed, &faults, &READ_FROM);
        }
    }
}
