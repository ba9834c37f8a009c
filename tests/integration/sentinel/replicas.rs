//! Reads from the replicas of a master that Sentinels watch over, also when one of them takes its place.

use std::time::Duration;

use super::{PATIENT, allow_loss};
use crate::support::wait::in_the_end;
use crate::support::{Fresh, Kind, Sentinels, Sidecar, V, eventually};

/// Bounds on staleness, of the cache and of replicas, and what may come of both together.
const BOUNDS: &str = "cache.max_staleness = '500ms'\nupstream.replica_max_lag = '1s'";
/// See `BOUNDS`.
const OLDEST: Duration = Duration::from_millis(1500);

/// A sidecar that reads so.
fn sidecar(all: &Sentinels, read_from: &str) -> Sidecar {
    let sidecar = Sidecar::start(all, &format!("{PATIENT}\n{BOUNDS}\nupstream.read_from = '{read_from}'"));
    allow_loss(&sidecar);
    sidecar
}

/// Reads are executed by replicas of this master, and by nobody else.
#[track_caller]
fn replicas_are_read_from(all: &Sentinels, sidecar: &Sidecar, master: usize) {
    let mut client = sidecar.conn();
    let mut round = 0;
    let running: Vec<usize> = (0..3).filter(|&at| all.runs(at)).collect();
    in_the_end("they are read from", || {
        round += 1;
        running.iter().for_each(|&at| all.server(at).reset_calls());
        let answered = (0..20).filter(|n| client.line(&format!("GET {master}:{round}:{n}")) == V::Nil).count();
        let others = running.iter().filter(|&&at| at != master).map(|&at| all.server(at).calls("get"));
        answered == 20 && others.sum::<u64>() == 20 && all.server(master).calls("get") == 0
    });
}

fn reads_go_to_replicas_and_stay_coherent(kind: Kind) {
    let all = Sentinels::start(kind);
    let sidecar = sidecar(&all, "prefer-replica");
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), V::Simple("OK".into()));
    assert_eq!(client.line("GET k"), V::bulk("1"));
    replicas_are_read_from(&all, &sidecar, 0);
    eventually("it is a hit", || {
        let before = super::hits(&sidecar);
        assert_eq!(client.line("GET k"), V::bulk("1"));
        super::hits(&sidecar) > before
    });
    all.server(0).outside("SET k 2");
    eventually("the replica's push is met", || client.line("GET k") == V::bulk("2"));
    // One goes, and the other is read from; both go, and the master is.
    all.server(1).kill();
    replicas_are_read_from(&all, &sidecar, 0);
    all.server(2).kill();
    assert_eq!(client.line("GET k"), V::bulk("2"));
    eventually("the master is read from", || {
        client.line("GET missing");
        all.server(0).calls("get") > 0
    });
}

#[test]
fn reads_go_to_replicas_of_redis_and_stay_coherent() {
    reads_go_to_replicas_and_stay_coherent(Kind::Redis);
}

#[test]
fn reads_go_to_replicas_of_valkey_and_stay_coherent() {
    reads_go_to_replicas_and_stay_coherent(Kind::Valkey);
}

#[test]
fn who_has_written_reads_from_the_master_until_a_replica_has_it_too() {
    let all = Sentinels::start(Kind::Redis);
    let sidecar = Sidecar::start(
        &all,
        &format!("{PATIENT}\nupstream.read_from = 'prefer-replica'\nupstream.replica_max_lag = '1h'"),
    );
    replicas_are_read_from(&all, &sidecar, 0);
    // From here on they get nothing new, and still count as fit: their lag is allowed.
    [1, 2].iter().for_each(|&at| all.server(at).stop());
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 2"), V::Simple("OK".into()));
    (0..100).for_each(|_| assert_eq!(client.line("GET k"), V::bulk("2")));
    [1, 2].iter().for_each(|&at| all.server(at).cont());
    allow_loss(&sidecar);
    replicas_are_read_from(&all, &sidecar, 0);
    assert_eq!(client.line("GET k"), V::bulk("2"));
}

/// By command, and under load: what the failover loses is at most each client's last write before it.
fn a_replica_is_promoted(kind: Kind, read_from: &str) {
    let all = Sentinels::start(kind);
    let sidecar = sidecar(&all, read_from);
    // The master may be the nearest.
    let settles = |master| {
        if read_from != "nearest" {
            replicas_are_read_from(&all, &sidecar, master);
        }
    };
    settles(0);
    let load = Fresh::start(&sidecar, "k", 3, OLDEST);
    load.go_on();
    let new = all.fail_over();
    load.go_on();
    all.await_replicas_of(new);
    settles(new);
    load.go_on();
    let wrong = load.end();
    let failovers = sidecar.metric("sidecache_topology_changes_total") as usize;
    let (lost, errors): (Vec<&String>, Vec<&String>) = wrong.iter().partition(|wrong| wrong.contains("read"));
    assert!(lost.len() <= 4 * failovers, "{lost:?}");
    eprintln!("{kind:?}, {read_from}: {} errors, {} lost: {:?}", errors.len(), lost.len(), errors.first());
    let honest = ["no replica of upstream", "lost", "not sent"];
    assert!(errors.iter().all(|error| honest.iter().any(|text| error.contains(text))), "{errors:?}");
}

#[test]
fn a_replica_of_redis_is_promoted_where_replicas_are_preferred() {
    a_replica_is_promoted(Kind::Redis, "prefer-replica");
}

#[test]
fn a_replica_of_valkey_is_promoted_where_the_nearest_is_read_from() {
    a_replica_is_promoted(Kind::Valkey, "nearest");
}

/// By the loss of its master, which comes back as a replica.
fn a_replica_takes_over(kind: Kind) {
    let all = Sentinels::start(kind);
    let sidecar = sidecar(&all, "replica");
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), V::Simple("OK".into()));
    replicas_are_read_from(&all, &sidecar, 0);
    all.await_replicas_of(0);
    assert_eq!(client.line("WAIT 2 20000"), V::Int(2));
    all.server(0).kill();
    let new = all.await_other_master(0);
    assert_eq!(client.line("SET k 2"), V::Simple("OK".into()));
    replicas_are_read_from(&all, &sidecar, new);
    in_the_end("it is read", || client.line("GET k") == V::bulk("2"));
    all.server(0).restart();
    all.await_replicas_of(new);
    // With the other one gone, there is none but that.
    all.server(3 - new).kill();
    replicas_are_read_from(&all, &sidecar, new);
    assert_eq!(client.line("GET k"), V::bulk("2"));
}

#[test]
fn a_replica_of_redis_takes_over_where_replicas_alone_are_read_from() {
    a_replica_takes_over(Kind::Redis);
}

#[test]
fn a_replica_of_valkey_takes_over_where_replicas_alone_are_read_from() {
    a_replica_takes_over(Kind::Valkey);
}
