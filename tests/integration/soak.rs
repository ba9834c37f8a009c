//! The soak: for half an hour what clients of real caches do, through two sidecars and past them, calm and faults in turn; and
//! at the end nothing is left of it, neither memory nor descriptors nor a complaint that no fault explains.
//!
//! The torture asks whether a promise can be broken, this whether a process that lives for long stays what it was. The same two
//! sidecars live from the first round to the last. A round is one mix of [`mixes`], its keys new ones: first calm, then
//! torture's faults, with subscribers and blocked clients beside the callers; its history is judged as torture's are. Then
//! all clients leave, and whatever was under way must end.
//!
//! A short form runs with all tests, each server with half of the mixes. The long one is `make soak`, for as long as `SOAK_SECONDS`
//! says (1800), from `SOAK_SEED`.

mod callers;
mod complaints;
mod mixes;
mod process;
mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use callers::{Caller, Habits};
use complaints::{Window, judge};
use mixes::{ABSENT, MIXES, Mix, Zipf};
use process::{Growth, Holdings, memory, under_way};
use report::{Reads, Report, Round};

use crate::differential::dice::Dice;
use crate::support::redis::Kind as Brand;
use crate::support::wait::{PATIENCE, eventually, holds_within, pass};
use crate::support::{Link, Server, Sidecar};
use crate::torture::client::{Client, Field, Log, USER};
use crate::torture::faults::{FAULTS, Fault, Stage, Storm, quiet_expiry};
use crate::torture::history::{History, Path, Time, Via, wall_ahead};
use crate::torture::values::Kind;
use crate::torture::{Deck, Ending, HITS, STEP, checks, news, number};

/// In CI, for each server.
const SHORT: Duration = Duration::from_secs(15);

/// What a round takes at most, so that a history fits in memory.
const ROUND: Duration = Duration::from_secs(20);

/// The bound on staleness.
const BOUND: Duration = Duration::from_millis(300);

/// Memory for the cache: so little that it is full soon.
const CACHE: u64 = 4 << 20;

/// How long connections that nobody uses are kept.
const IDLE: &str = "2s";

/// What the last client may leave behind is gone after this long at most: far beyond `IDLE`, since the machine may stand still.
const GONE: Duration = Duration::from_secs(60);

/// A fault lasts so many milliseconds at most where time is long: beyond `command_timeout`, within the tests' patience.
const LONGEST: usize = 5500;

/// The callers: by which way, and whether as the second user.
const CALLERS: [(Path, bool); 8] = [
    (Path::A, false),
    (Path::A, false),
    (Path::A, true),
    (Path::A, false),
    (Path::B, false),
    (Path::B, true),
    (Path::Direct, false),
    (Path::Direct, false),
];

/// Keys that news is told of, beside those of the mix.
const TOLD: usize = 3;

/// What goes on and for how long.
struct Plan {
    brand: Brand,
    time: Duration,
    seed: u64,
    mixes: Vec<Mix>,
    /// Whether faults may last longer than commands do.
    long: bool,
}

/// Nothing is given up while a machine stands still for three seconds: a lane that is lost without a fault is a finding here.
fn set_the_stage(brand: Brand) -> Stage {
    let user = format!(">{}", USER[1]);
    let args = ["--user", USER[0], "on", &user, "~*", "&*", "+@all", "--notify-keyspace-events", "KEA"];
    let server = Server::with(brand, &args);
    quiet_expiry(&server);
    let links = [Link::to(server.addr()), Link::to(server.addr())];
    let sidecars = [(0, 2), (1, 1)].map(|(at, threads)| {
        let toml = format!(
            "threads = {threads}\ncache.max_staleness = '{}ms'\ncache.audit_every = 100\ncache.bytes = {CACHE}\n\
             upstream.command_timeout = '4s'\nupstream.connect_timeout = '4s'\nupstream.backoff_max = '100ms'\n\
             upstream.lane_idle_timeout = '{IDLE}'\nupstream.pool.idle_timeout = '{IDLE}'\n\
             upstream.waiting_pool.idle_timeout = '{IDLE}'",
            BOUND.as_millis()
        );
        let sidecar = Sidecar::start(&links[at], &toml);
        // Its log is judged at the end.
        sidecar.allow_log("");
        sidecar
    });
    Stage { sidecars, links, server }
}

/// Waits until nothing is under way any more in either sidecar; what still is, if that takes too long.
fn settle(stage: &Stage, rests: bool) -> Vec<String> {
    let mut left = Vec::new();
    holds_within(GONE, || {
        left = stage.sidecars.iter().flat_map(|sidecar| under_way(&sidecar.metrics(), rests)).collect();
        left.is_empty()
    });
    left
}

/// What both sidecars hold now.
fn holdings(stage: &Stage) -> [Holdings; 2] {
    [0, 1].map(|at| Holdings::of(&stage.sidecars[at], stage.links[at].addr().port()))
}

/// Reads by both sidecars so far, and those of them that were hits.
fn reads(stage: &Stage) -> Reads {
    let mut reads = Reads::default();
    for metrics in stage.sidecars.iter().map(Sidecar::metrics) {
        let of_reads = metrics.iter().filter(|(name, _)| name.starts_with("sidecache_commands_total{class=\"read\""));
        reads.all += of_reads.map(|(_, value)| value).sum::<f64>();
        reads.hits += metrics.get(HITS).copied().unwrap_or(0.0);
    }
    reads
}

/// The slots of a mix: those that callers write, those that nobody does, and those that news is told of.
fn lay_out(field: &mut Field, mix: &Mix, number: usize) -> Vec<usize> {
    // What a slot puts behind its prefix as long as it has its first key.
    let suffix = ":Text:s:0".len();
    let mut slots = Vec::new();
    for rank in 0..mix.keys + ABSENT {
        slots.push(field.slot(&mix.prefix(number, rank, suffix), 0, Kind::Text, false, 0));
    }
    let told = slots.len()..slots.len() + TOLD;
    slots.extend(told.clone().map(|at| field.slot(&format!("told{number}-{at}"), 0, Kind::Text, false, 0)));
    field.slots = slots;
    told.collect()
}

/// A round: calm, then faults from the deck until the time is over; what happened, and the windows of its log.
fn round(stage: &Stage, plan: &Plan, mix: Mix, number: usize, time: Duration, deck: &mut Deck<Fault>) -> Round {
    let mut seeds = Dice::new(plan.seed.wrapping_mul(1_000_003).wrapping_add(u64::try_from(number).unwrap()));
    let mut seed = || u64::try_from(seeds.below(1 << 40)).unwrap();
    let begun = Instant::now();
    let mut windows = vec![Window::now(&[])];
    let before = reads(stage);
    let mut field = Field {
        addrs: [stage.sidecars[0].addr(), stage.sidecars[1].addr(), stage.server.addr()],
        slots: Vec::new(),
        keys: std::sync::Mutex::default(),
        conns: std::sync::Mutex::default(),
        ends: false.into(),
        max_staleness: BOUND,
        lags: false,
        terrain: None,
    };
    let told = lay_out(&mut field, &mix, number);
    let field = Arc::new(field);
    let zipf = Zipf::new(mix.keys, mix.alpha);
    let habits = Arc::new(Habits { mix, zipf, round: time, callers: CALLERS.len() });
    let (logs, phases, calm, loaded) = std::thread::scope(|scope| {
        let (field, told) = (&field, &told);
        let ends = Ending(field);
        let mut clients = Vec::new();
        for (number, (path, app)) in CALLERS.into_iter().enumerate() {
            let client = Client::new(field, Via { path, db: 0, app }, number % 2 == 1);
            let caller = Caller::new(field, &habits, number, client, seed());
            clients.push(scope.spawn(move || caller.run()));
        }
        pass((time / 2).saturating_sub(begun.elapsed()));
        let (calm, loaded) = (reads(stage), stage.sidecars.each_ref().map(memory));
        let of_news = seed();
        let mut storm = Storm::new(stage, field, seed());
        storm.longest = if plan.long { LONGEST } else { storm.longest };
        clients.push(scope.spawn(move || news::tell(field, told, of_news)));
        for (ear, path) in news::EARS.iter().zip([Path::A, Path::A, Path::A, Path::B]) {
            clients.push(scope.spawn(move || news::hear(field, path, ear)));
        }
        let mut last = Vec::new();
        while last.is_empty() || begun.elapsed() < time {
            let from = Window::now(&[]).from;
            storm.strike(deck.next());
            let named = |name: &String| FAULTS.iter().copied().find(|fault| format!("{fault:?}") == *name);
            let faults: Vec<Fault> = storm.phases.last().unwrap().faults.iter().filter_map(named).collect();
            // What the fault before has left may show later.
            windows.push(Window { from, faults: [&faults[..], &last].concat() });
            last = faults;
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
        let Storm { log, phases, .. } = storm;
        logs.push(log);
        (logs, phases, calm, loaded)
    });
    let unsettled = settle(stage, false);
    let all = reads(stage);
    let settled = stage.sidecars.each_ref().map(memory);
    // The next round has other keys.
    stage.server.outside("FLUSHALL");
    let field = Arc::into_inner(field).unwrap();
    let (keys, conns) = (field.keys.into_inner().unwrap(), field.conns.into_inner().unwrap());
    let history = History {
        keys,
        conns,
        logs,
        threads: [2, 1],
        max_staleness: Time::try_from(BOUND.as_nanos()).unwrap(),
        lag: 0,
        moving: Vec::new(),
        upsets: Vec::new(),
    };
    Round { mix, history, phases, windows, calm: calm - before, all: all - before, loaded, settled, unsettled }
}

/// Round after round, then what is left.
fn soak(plan: &Plan) {
    let Plan { brand, time, seed, .. } = *plan;
    println!("soak of {brand:?}: {} s, seed {seed}", time.as_secs());
    let begun = Instant::now();
    let mut stage = set_the_stage(brand);
    let rests = |sidecar: &Sidecar| sidecar.logs().iter().any(|line| line.contains("background polls rest"));
    eventually("the polls rest while nothing is read", || stage.sidecars.iter().all(rests));
    assert_eq!(settle(&stage, true), Vec::<String>::new(), "nobody was there yet");
    let start = holdings(&stage);
    let mut report = Report::new(format!("{brand:?}"), seed, start);
    let mut deck = Deck::new(seed, &FAULTS);
    let cycle = plan.mixes.len();
    let most = u64::try_from(ROUND.as_millis()).unwrap() * u64::try_from(cycle).unwrap();
    let cycles = u64::try_from(time.as_millis()).unwrap().div_ceil(most).max(if plan.long { 3 } else { 2 });
    let rounds = usize::try_from(cycles).unwrap() * cycle;
    let mut windows = Vec::new();
    for number in 0..rounds {
        let (mix, ahead) = (plan.mixes[number % cycle], wall_ahead());
        let mut round = round(&stage, plan, mix, number, time / u32::try_from(rounds).unwrap(), &mut deck);
        windows.append(&mut round.windows);
        // Servers expire keys by the wall clock, and by it logs tell times: what it was stepped in proves nothing.
        let stepped = wall_ahead().abs_diff(ahead) > STEP;
        let findings = (!stepped).then(|| checks::check(&round.history));
        report.add(round, findings);
    }
    // Where there is time, until even what is kept for the next client has been closed.
    let left = settle(&stage, plan.long);
    report.findings.extend(left.into_iter().map(|left| format!("at the end {left}")));
    let (mut end, mut beyond) = (start, Vec::new());
    holds_within(GONE, || {
        end = holdings(&stage);
        beyond = end.iter().zip(start).flat_map(|(end, start)| end.beyond(start, plan.long)).collect();
        beyond.is_empty()
    });
    report.ends(end, beyond);
    for at in 0..2 {
        let samples: Vec<u64> = report.settled.iter().map(|both| both[at]).collect();
        report.grows(at, Growth::of(&samples, cycle, CACHE));
        assert!(stage.sidecars[at].terminate().success());
        if report.stepped == 0 {
            report.complains(judge(&stage.sidecars[at].logs(), &windows));
        }
    }
    report.of_torture.seconds = begun.elapsed().as_secs();
    println!("{report}");
    let file = format!("{}/soak-{}.txt", env!("CARGO_TARGET_TMPDIR"), format!("{brand:?}").to_lowercase());
    std::fs::write(&file, report.to_string()).unwrap();
    let found = report.findings.len() + report.of_torture.violations.len();
    assert!(found == 0, "{found} findings, seed {seed}; see {file}");
}

/// Half of the mixes, so that there is time for two rounds of each.
fn short(brand: Brand, mixes: &[Mix], seed: u64) {
    soak(&Plan { brand, time: SHORT, seed, mixes: mixes.to_vec(), long: false });
}

#[test]
fn redis_after_a_soak_has_left_nothing_behind() {
    short(Brand::Redis, &MIXES[..3], 1);
}

#[test]
fn valkey_after_a_soak_has_left_nothing_behind() {
    short(Brand::Valkey, &MIXES[3..], 2);
}

#[test]
#[ignore = "takes as long as one likes: make soak"]
fn long() {
    let time = Duration::from_secs(number("SOAK_SECONDS", 1800));
    let seed = number("SOAK_SEED", std::process::id().into());
    for brand in [Brand::Redis, Brand::Valkey] {
        soak(&Plan { brand, time: time / 2, seed, mixes: MIXES.to_vec(), long: true });
    }
}
