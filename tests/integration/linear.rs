//! Linearizability: while all writers are inside, each key behaves as if the clients took turns, hits and forwarded
//! replies alike; under delays of each connection and direction, and while lanes are lost.
//!
//! What a lane's own clients read, together with all writes and all that is news, must be linearizable, lane by lane:
//! one lane has one order (P3), and what is written, or told by scripts and transactions, nobody may lag behind (P2,
//! P3). With one worker and one user that is everything there is. Between two lanes a plain read may be older than
//! another's by what is on its way, until the write is answered.
//!
//! The rounds come from seeds; `SIDECACHE_SEEDS=1000..2000` and `SIDECACHE_SECONDS=300` look further. What happens in
//! a round is the machine's choice too: a seed that failed may pass when it is run again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::coherence::stage::Stage;
use crate::differential::dice::Dice;
use crate::support::link::BOTH;
use crate::support::{Dir, Kind, V};

mod clients;
mod history;
mod proofs;

use clients::{Client, KEYS, Recorded, Round};
use history::{Operation, Verdict, judge};

/// Clients of the upstream user; as many again as `app` where two users take part.
const CLIENTS: usize = 6;

/// Operations of each client in a round.
const OPERATIONS: usize = 25;

/// What a test runs.
struct Case {
    kind: Kind,
    threads: usize,
    /// Whether half of the clients are another user, and so on other lanes.
    users: bool,
    /// How often lanes are lost, in a hundred operations.
    losses: usize,
    /// Rounds in CI.
    rounds: u64,
}

#[test]
fn one_worker_is_linearizable_under_delays() {
    run(&Case { kind: Kind::Redis, threads: 1, users: false, losses: 0, rounds: 40 });
}

#[test]
fn two_users_of_a_worker_are_each_linearizable_with_all_writes() {
    run(&Case { kind: Kind::Valkey, threads: 1, users: true, losses: 0, rounds: 20 });
}

#[test]
fn each_of_four_workers_is_linearizable_with_all_writes() {
    run(&Case { kind: Kind::Valkey, threads: 4, users: false, losses: 0, rounds: 40 });
}

#[test]
fn one_worker_is_linearizable_while_lanes_are_lost() {
    run(&Case { kind: Kind::Redis, threads: 1, users: false, losses: 2, rounds: 6 });
}

#[test]
fn each_of_four_workers_is_linearizable_with_all_writes_while_lanes_are_lost() {
    run(&Case { kind: Kind::Redis, threads: 4, users: false, losses: 2, rounds: 6 });
}

fn run(case: &Case) {
    let patience = if case.losses > 0 { "200ms" } else { "20s" };
    let toml = format!("upstream.command_timeout = '{patience}'\nupstream.connect_timeout = '20s'");
    let stage = Stage::new(case.kind, case.threads, &toml);
    if case.losses > 0 {
        stage.sidecar.allow_log("");
    }
    let mut clients = clients(&stage, case);
    let (seeds, limit) = seeds(case.rounds);
    let begun = Instant::now();
    let (mut decided, mut undecided) = (0, 0);
    for seed in seeds.take_while(|_| begun.elapsed() < limit) {
        if case.losses > 0 {
            // A lane that was lost has a successor, and a client may have been closed with it: all begin anew.
            stage.link.cut();
            clients = self::clients(&stage, case);
        }
        let recorded = round(&stage, case, seed, &mut clients);
        for (verdict, what) in verdicts(&clients, &recorded) {
            match verdict {
                Verdict::Linearizable => decided += 1,
                Verdict::Undecided => undecided += 1,
                Verdict::Violated(told) => panic!("{} workers, seed {seed}, {what}: {told}", case.threads),
            }
        }
    }
    assert!(
        case.losses > 0 || undecided == 0,
        "{undecided} of {} undecided though all was answered",
        decided + undecided
    );
    assert!(stage.hits() > 0.0, "nothing was served from the cache");
}

/// The clients of all rounds, each knowing its lane.
fn clients(stage: &Stage, case: &Case) -> Vec<Client> {
    let users = if case.users { 2 } else { 1 };
    let conns = (0..CLIENTS * users).map(|number| {
        let mut conn = stage.sidecar.conn();
        if number >= CLIENTS {
            assert_eq!(conn.line("AUTH app secret"), V::Simple("OK".into()));
        }
        let said = |name: &str| stage.link.those(|connection| connection.said(Dir::ToServer, name));
        Client::new(number, conn, |name| said(name).last().map(|connection| connection.index))
    });
    let clients: Vec<Client> = conns.collect();
    let lanes = lanes(&clients).len();
    assert!(lanes > 1 || case.threads * users == 1, "{lanes} lanes of {} clients", clients.len());
    clients
}

/// The clients' lanes, each once.
fn lanes(clients: &[Client]) -> BTreeSet<usize> {
    clients.iter().map(|client| client.lane).collect()
}

/// All clients at once.
fn round(stage: &Stage, case: &Case, seed: u64, clients: &mut [Client]) -> Vec<Recorded> {
    let trouble = |dice: &mut Dice| trouble(stage, case, dice);
    let mut dice = Dice::new(seed);
    delays(stage, &mut dice);
    let reads = [20, 50, 80, 90][dice.below(4)];
    let round = Round { seed, begun: Instant::now(), operations: OPERATIONS, reads, trouble: &trouble };
    let recorded = std::thread::scope(|scope| {
        let running: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| client.run(&round))).collect();
        running.into_iter().flat_map(|running| running.join().unwrap()).collect()
    });
    stage.link.resume();
    recorded
}

/// Other delays for each direction of each connection: half of them none, so that one overtakes the other.
fn delays(stage: &Stage, dice: &mut Dice) {
    for connection in stage.link.those(|_| true) {
        for dir in BOTH {
            connection.delay(dir, Duration::from_micros([0, 0, 0, 500, 2000, 8000][dice.below(6)]));
        }
    }
}

/// Now and then other delays, or a lane is lost.
fn trouble(stage: &Stage, case: &Case, dice: &mut Dice) {
    if dice.percent(3) {
        delays(stage, dice);
    }
    if !dice.percent(case.losses) {
        return;
    }
    let lanes = stage.lanes();
    if lanes.is_empty() {
        return;
    }
    let lane = &lanes[dice.below(lanes.len())];
    match dice.below(10) {
        0 => lane.cut(),
        1 => lane.reset(),
        2 => lane.cut_in_next(Dir::ToServer),
        3 => lane.cut_in_next(Dir::ToClient),
        4 => lane.hold(Dir::ToServer),
        // What was told is done, and nobody hears of it.
        5..8 => lane.hold(Dir::ToClient),
        8 => stage.link.resume(),
        _ => kill_all(stage),
    }
}

/// The server closes every connection, those of others who do the same included.
fn kill_all(stage: &Stage) {
    let mut killer = stage.server.conn();
    if killer.try_send_raw(b"CLIENT KILL TYPE normal\r\n") {
        let _ = killer.try_read_frame();
    }
}

/// A verdict for each key and lane: of all writes, all news, and the plain reads of that lane's clients.
fn verdicts(clients: &[Client], recorded: &[Recorded]) -> Vec<(Verdict, String)> {
    let both = lanes(clients).into_iter().flat_map(|lane| (0..KEYS).map(move |key| (lane, key)));
    let verdicts = both.map(|(lane, key)| {
        let belongs = |r: &&Recorded| r.key == key && (r.lane == lane || !r.plain || !r.operation.call.only_reads());
        let history: Vec<Operation> = recorded.iter().filter(belongs).map(|r| r.operation.clone()).collect();
        (judge(&history), format!("key {key}, readers on connection {lane}"))
    });
    verdicts.collect()
}

/// The seeds to run, and for how long at most.
fn seeds(rounds: u64) -> (std::ops::Range<u64>, Duration) {
    let (seeds, seconds) = crate::differential::seeds();
    if std::env::var("SIDECACHE_SEEDS").is_ok() { (seeds, seconds) } else { (0..rounds, seconds) }
}
