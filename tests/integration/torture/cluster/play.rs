//! Who plays in a round before a cluster, or a master that Sentinels watch over: two sidecars and their clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::client::{Field, Log};
use super::super::faults::Phase;
use super::super::history::{Event, History, Path, Time};
use super::super::readers::{self, Habit};
use super::super::{Ending, HITS, writers};
use super::terrain::Terrain;
use super::{COUNTED, EXPECTED, Ground, LAG, counters, optimists};
use crate::differential::dice::Dice;
use crate::support::Sidecar;
use crate::support::sidecar::Upstream;
use crate::support::wait::{PATIENCE, holds_within};

/// Writers: by which ways, and the longest pause between two writes in microseconds.
const WRITERS: [(&[Path], usize); 4] = [
    (&[Path::A], 6000),
    (&[Path::B, Path::Direct], 6000),
    (&[Path::A, Path::B, Path::Direct], 4000),
    (&[Path::Direct], 4000),
];

/// Readers.
const READERS: [(Path, Habit); 7] = [
    (Path::A, Habit::Broad),
    (Path::A, Habit::Broad),
    (Path::A, Habit::Narrow),
    (Path::A, Habit::Narrow),
    (Path::B, Habit::Broad),
    (Path::B, Habit::Narrow),
    (Path::Direct, Habit::Rare),
];

/// All that a round needs.
pub struct Play<'a> {
    /// The hash tags.
    pub ground: &'a Ground,
    /// A and B.
    pub sidecars: [Sidecar; 2],
    /// Some server.
    pub direct: SocketAddr,
    /// What clients know.
    pub terrain: Terrain,
    /// The bound on staleness.
    pub bound: Duration,
}

/// What a round has shown.
pub struct Shown {
    pub history: History,
    pub phases: Vec<Phase>,
    pub hits: f64,
    /// What sidecars counted, by name.
    pub counted: Vec<(&'static str, f64)>,
}

/// A with one worker, B with two.
pub fn sidecars(upstream: &impl Upstream, bound: Duration, read_from: &str) -> [Sidecar; 2] {
    [1, 2].map(|threads| {
        let toml = format!(
            "threads = {threads}\ncache.max_staleness = '{}ms'\ncache.audit_every = 100\n\
             [upstream]\nbackoff_max = '100ms'\nread_from = '{read_from}'\nreplica_max_lag = '{}ms'",
            bound.as_millis(),
            LAG.as_millis()
        );
        let sidecar = Sidecar::start(upstream, &toml);
        EXPECTED.iter().for_each(|text| sidecar.allow_log(text));
        sidecar
    })
}

impl Play<'_> {
    /// Runs the clients while `storm` does what it does, and gives what all have noted. Replicas may be behind by `lag`.
    pub fn run(self, lag: Duration, seed: u64, storm: impl FnOnce(&Arc<Field>, u64) -> (Log, Vec<Phase>)) -> Shown {
        let Play { ground, sidecars, direct, terrain, bound } = self;
        let mut field = Field {
            addrs: [sidecars[0].addr(), sidecars[1].addr(), direct],
            slots: Vec::new(),
            keys: std::sync::Mutex::default(),
            conns: std::sync::Mutex::default(),
            ends: false.into(),
            max_staleness: bound,
            lags: !lag.is_zero(),
            terrain: Some(terrain),
        };
        let owners = ground.lay_out(&mut field, WRITERS.len());
        let field = Arc::new(field);
        let names: Vec<String> = ground.tags.iter().map(|tag| tag.name.clone()).collect();
        let taken = optimists::Taken::default();
        let (mut logs, phases) = std::thread::scope(|scope| {
            let (field, names, taken) = (&field, &names, &taken);
            let ends = Ending(field);
            let mut seeds = Dice::new(seed);
            let mut seed = || u64::try_from(seeds.below(1 << 40)).unwrap();
            let mut clients = Vec::new();
            for (slots, (paths, pause)) in owners.iter().zip(WRITERS) {
                let writer = writers::Writer::new(field, slots.clone(), paths, pause, seed());
                clients.push(scope.spawn(move || writer.run()));
            }
            for (path, habit) in READERS {
                let reader = readers::Reader::new(field, path, habit, seed());
                clients.push(scope.spawn(move || reader.run()));
            }
            for path in [Path::A, Path::B] {
                let of_counting = seed();
                clients.push(scope.spawn(move || counters::count(field, path, names, of_counting)));
                let of_hoping = seed();
                clients.push(scope.spawn(move || optimists::hope(field, path, names, taken, of_hoping)));
            }
            let (log, phases) = storm(field, seed());
            drop(ends);
            let ended = holds_within(3 * PATIENCE, || clients.iter().all(|client| client.is_finished()));
            assert!(ended, "clients hang");
            let mut logs: Vec<Log> = clients.into_iter().map(|client| client.join().unwrap()).collect();
            logs.push(log);
            (logs, phases)
        });
        let sum = |name: &str| sidecars.iter().map(|sidecar| sidecar.metric(name)).sum();
        let mut counted = COUNTED.map(|(what, name)| (what, sum(name))).to_vec();
        counted.push(("guarded transactions done", taken.done()));
        let hits = sum(HITS);
        let complaints: Vec<String> = sidecars.iter().flat_map(Sidecar::complaints).collect();
        sidecars.iter().for_each(|sidecar| sidecar.allow_log(""));
        let field = Arc::into_inner(field).unwrap();
        let (keys, conns) = (field.keys.into_inner().unwrap(), field.conns.into_inner().unwrap());
        logs.push(complaints.iter().map(|line| Event::Wrong("log", line.clone())).collect());
        let nanoseconds = |time: Duration| Time::try_from(time.as_nanos()).unwrap();
        let (max_staleness, lag) = (nanoseconds(bound), nanoseconds(lag));
        let upsets = field.terrain.unwrap().upsets();
        drop(sidecars);
        Shown {
            history: History {
                keys,
                conns,
                logs,
                threads: [1, 2],
                max_staleness,
                lag,
                moving: ground.moving(),
                upsets,
            },
            phases,
            hits,
            counted,
        }
    }
}
