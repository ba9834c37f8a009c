//! What no push tells in a cluster lives no longer than the bound, and what proves nothing keeps nothing alive.

use std::time::Duration;

use super::{PATIENT, hits, warm};
use crate::support::cluster::SHORT_NODE_TIMEOUT;
use crate::support::wait::{in_the_end, pass};
use crate::support::{Cluster, Kind, Sidecar, V, eventually};

/// So long that the lease does not lapse by itself, and well below `max_age` and the tests' patience.
const BOUND: &str = "cache.audit_every = 0\ncache.max_staleness = '4s'";

/// Reads of a key that nobody writes go to its owner again.
#[track_caller]
fn is_asked_again(cluster: &Cluster, sidecar: &Sidecar, key: &str) {
    warm(sidecar, key);
    let mut client = sidecar.conn();
    let calls = cluster.node(0).calls("get");
    eventually("it is asked for again", || {
        client.line(&format!("GET {key}"));
        cluster.node(0).calls("get") > calls
    });
}

/// A key that is made at its slot's new owner is told of by nobody.
#[test]
fn that_a_key_is_missing_is_asked_again_within_the_bound() {
    let cluster = Cluster::start(Kind::Valkey, 2, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\n{BOUND}"));
    is_asked_again(&cluster, &sidecar, &cluster.key_on(0, "k"));
}

/// Below Redis 7.2 nobody is told of keys that are dropped with their slot.
#[test]
fn a_value_is_asked_for_again_within_the_bound_where_lost_slots_are_not_told_of() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\n{BOUND}"));
    let key = cluster.key_on(0, "k");
    assert_eq!(sidecar.conn().line(&format!("SET {key} 1")), V::Simple("OK".into()));
    is_asked_again(&cluster, &sidecar, &key);
}

/// The key is dropped with its slot, without a push, and stays away when the slot comes back.
#[test]
fn a_slot_that_was_lost_and_comes_back_shows_nothing_of_before() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\ncache.max_staleness = '30s'"));
    let key = cluster.key_on(0, "k");
    let slot = cluster.slot(&key);
    assert_eq!(sidecar.conn().line(&format!("SET {key} 1")), V::Simple("OK".into()));
    warm(&sidecar, &key);
    for to in [1, 0] {
        let changes = sidecar.metric("sidecache_topology_changes_total");
        cluster.force_slot(slot, to);
        eventually("the sidecar knows", || sidecar.metric("sidecache_topology_changes_total") > changes);
    }
    assert_eq!(sidecar.conn().line(&format!("GET {key}")), V::Nil);
}

/// It answers PING with PONG, CLIENT CACHING with OK and commands with CLUSTERDOWN: none of these proves that what it said
/// before still holds.
#[test]
fn what_an_isolated_master_says_keeps_no_hits_alive() {
    // On which entries do not end with the bound by themselves.
    let cluster = Cluster::start(Kind::Valkey, 3, 0);
    let bound = Duration::from_secs(1);
    let toml = "cache.max_staleness = '1s'\nupstream.command_timeout = '4s'";
    let sidecar = Sidecar::start(&cluster, toml);
    ["lane lost", "no node of the cluster", "no connection to upstream"]
        .iter()
        .for_each(|text| sidecar.allow_log(text));
    let key = cluster.key_on(0, "k");
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
    warm(&sidecar, &key);
    cluster.set_node_timeout(SHORT_NODE_TIMEOUT);
    [1, 2].iter().for_each(|&at| cluster.node(at).stop());
    let mut direct = cluster.node(0).conn();
    in_the_end("it knows", || {
        // Hits that go on keep the background polls awake, without which there are none.
        client.line(&format!("GET {key}"));
        direct.line("CLUSTER INFO").text().contains("cluster_state:fail")
    });
    pass(bound);
    // Whatever it answers to others.
    let mut other = sidecar.conn();
    for _ in 0..2 {
        other.line("PING");
        let before = hits(&sidecar);
        let reply = client.line(&format!("GET {key}"));
        assert!(matches!(reply, V::Error(_)) && hits(&sidecar) == before, "{reply:?}");
    }
    [1, 2].iter().for_each(|&at| cluster.node(at).cont());
    cluster.settle();
}
