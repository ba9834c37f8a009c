//! A replica becomes the master while replicas are read from: who reads is shown nothing older than before, and goes on.

use std::time::Duration;

use super::PATIENT;
use crate::support::cluster::{NODE_TIMEOUT, SHORT_NODE_TIMEOUT};
use crate::support::wait::in_the_end;
use crate::support::{Cluster, Dir, Fresh, Kind, Link, Sidecar, V};

/// Bounds on staleness, of the cache and of replicas, and what may come of both together.
const BOUNDS: &str = "cache.max_staleness = '500ms'\nupstream.replica_max_lag = '1s'";
/// See `BOUNDS`.
const OLDEST: Duration = Duration::from_millis(1500);

/// What is said where `read_from = "replica"` and none is fit.
const NONE_IS_FIT: &str = "no replica of upstream";

/// Reads of keys with this hash tag are executed by the replica at this place, and none is sent on from there.
#[track_caller]
fn is_read_from(cluster: &Cluster, sidecar: &Sidecar, tag: &str, replica: usize) {
    let moved = || sidecar.metric("sidecache_redirects_total{kind=\"moved\"}");
    let mut client = sidecar.conn();
    in_the_end("it is read from", || {
        cluster.node(replica).reset_calls();
        let before = moved();
        // Names that nobody has asked for yet are in no cache.
        let missing = (0..20).map(|n| client.line(&format!("GET {{{tag}}}:{replica}:{n}:{before}")));
        let answered = missing.filter(|reply| *reply == V::Nil).count();
        answered == 20 && cluster.node(replica).calls("get") == 20 && moved() == before
    });
}

/// Two nodes take turns as master; nothing that was acknowledged is lost.
fn on_demand(kind: Kind, read_from: &str) {
    let cluster = Cluster::start(kind, 1, 1);
    let toml = format!("{PATIENT}\n{BOUNDS}\nthreads = 2\nupstream.read_from = '{read_from}'");
    let sidecar = Sidecar::start(&cluster, &toml);
    is_read_from(&cluster, &sidecar, "k", 1);
    let load = Fresh::start(&sidecar, "{k}", 3, OLDEST);
    load.go_on();
    for (new, old) in [(1, 0), (0, 1)] {
        cluster.fail_over(new, "");
        load.go_on();
        is_read_from(&cluster, &sidecar, "k", old);
    }
    let wrong = load.end();
    let wrong: Vec<&String> = match read_from {
        // Until the old master has become a replica there is none.
        "replica" => wrong.iter().filter(|wrong| !wrong.contains(NONE_IS_FIT)).collect(),
        _ => wrong.iter().collect(),
    };
    assert!(wrong.is_empty(), "{}: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

#[test]
fn a_replica_of_redis_is_promoted_where_replicas_are_preferred() {
    on_demand(Kind::Redis, "prefer-replica");
}

#[test]
fn a_replica_of_valkey_is_promoted_where_replicas_are_preferred() {
    on_demand(Kind::Valkey, "prefer-replica");
}

#[test]
fn a_replica_of_redis_is_promoted_where_replicas_alone_are_read_from() {
    on_demand(Kind::Redis, "replica");
}

#[test]
fn a_replica_of_valkey_is_promoted_where_replicas_alone_are_read_from() {
    on_demand(Kind::Valkey, "replica");
}

/// Who was killed comes back as a replica, and is read from.
fn by_the_loss_of_its_master(kind: Kind, read_from: &str) {
    let cluster = Cluster::start(kind, 3, 1);
    let toml = format!("{PATIENT}\n{BOUNDS}\nupstream.read_from = '{read_from}'");
    let sidecar = Sidecar::start(&cluster, &toml);
    ["lane lost", "no connection to upstream"].iter().for_each(|text| sidecar.allow_log(text));
    let key = cluster.key_on(0, "k");
    let replica = cluster.replicas_of(0)[0];
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
    is_read_from(&cluster, &sidecar, &key, replica);
    cluster.settle();
    cluster.set_node_timeout(SHORT_NODE_TIMEOUT);
    cluster.node(0).kill();
    assert_eq!(cluster.await_new_owner(cluster.slot(&key), 0), replica);
    // Nobody else has it now. The client has not read since, and may be told so.
    let get = format!("GET {key}");
    in_the_end("it is read", || match client.line(&get) {
        V::Error(error) => {
            assert!(read_from == "replica" && error.contains(NONE_IS_FIT), "{error}");
            true
        }
        reply => reply == V::bulk("1"),
    });
    assert_eq!(client.line(&format!("SET {key} 2")), V::Simple("OK".into()));
    if read_from != "replica" {
        assert_eq!(client.line(&get), V::bulk("2"));
    }
    cluster.node(0).restart();
    cluster.set_node_timeout(NODE_TIMEOUT);
    cluster.settle();
    is_read_from(&cluster, &sidecar, &key, 0);
    assert_eq!(client.line(&get), V::bulk("2"));
}

#[test]
fn a_replica_of_redis_takes_over_where_replicas_are_preferred() {
    by_the_loss_of_its_master(Kind::Redis, "prefer-replica");
}

#[test]
fn a_replica_of_valkey_takes_over_where_replicas_alone_are_read_from() {
    by_the_loss_of_its_master(Kind::Valkey, "replica");
}

/// A lane that was opened to read from a replica would go on answering from what that has, should its node become a replica
/// again. That it is an owner now is known by a redirect alone: nobody tells who replicates whom.
#[test]
fn a_lane_that_read_from_a_replica_is_told_otherwise_before_its_node_gets_what_is_an_owner_s() {
    let cluster = Cluster::start(Kind::Redis, 1, 1);
    let links = [0, 1].map(|at| Link::to(cluster.node(at).addr()));
    let sidecar = Sidecar::start(
        &*super::behind(&links),
        &format!("{PATIENT}\n{}\nupstream.read_from = 'prefer-replica'", super::mapped(&cluster, &links)),
    );
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), V::Simple("OK".into()));
    is_read_from(&cluster, &sidecar, "k", 1);
    super::keep_the_map_from(&sidecar, &links);
    cluster.fail_over(1, "");
    assert_eq!(client.line("SET k promoted"), V::Simple("OK".into()));
    let lanes = links[1].those(|connection| connection.said(Dir::ToServer, "TRACKING"));
    let [lane] = &lanes[..] else { panic!("{} lanes", lanes.len()) };
    let [opened, told, used] = ["READONLY", "READWRITE", "promoted"].map(|text| lane.position(Dir::ToServer, text));
    assert!(opened.is_some() && opened < told && told < used && used.is_some(), "{opened:?} {told:?} {used:?}");
}
