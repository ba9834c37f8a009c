//! The harness's clusters and Sentinels: slots move, masters change, nodes come and go.

use crate::support::cluster::SHORT_NODE_TIMEOUT;
use crate::support::{Cluster, Kind, Sentinels, V};

/// Everything that a test may do to a cluster without failing anything over.
fn a_cluster_s_slots_move(kind: Kind) {
    let mut cluster = Cluster::start(kind, 3, 0);
    assert_eq!((cluster.len(), cluster.running()), (3, vec![0, 1, 2]));
    assert_eq!((cluster.owner(0), cluster.owner(16383), cluster.slot("foo")), (0, 2, 12182));
    let key = cluster.key_on(0, "k");
    let slot = cluster.slot(&key);
    let ask = |cluster: &Cluster, at: usize, line: &str| cluster.node(at).conn().line(line);
    assert_eq!(ask(&cluster, 0, &format!("SET {key} 1")), V::Simple("OK".into()));

    // Begun, then with the key gone, then finished.
    let moving = cluster.begin_move(slot, 0, 1);
    assert_eq!(ask(&cluster, 0, &format!("GET {key}")), V::bulk("1"));
    assert_eq!((moving.keys(10), moving.keys(10)), (1, 0));
    let [asked, moved] = ["ASK", "MOVED"].map(|word| format!("{word} {slot} {}", cluster.node(1).addr()));
    assert_eq!(ask(&cluster, 0, &format!("GET {key}")), V::Error(asked));
    moving.finish();
    assert_eq!(ask(&cluster, 0, &format!("GET {key}")), V::Error(moved));
    assert_eq!(ask(&cluster, 1, &format!("GET {key}")), V::bulk("1"));

    cluster.migrate_slot(slot, 1, 2);
    assert_eq!((cluster.owner_of(&key), ask(&cluster, 2, &format!("GET {key}"))), (2, V::bulk("1")));
    if kind == Kind::Valkey {
        cluster.migrate_slots_at_once(slot, slot, 2, 1);
        assert_eq!(ask(&cluster, 1, &format!("GET {key}")), V::bulk("1"));
    }
    // By force: the key is lost.
    cluster.force_slot(slot, 0);
    assert_eq!(ask(&cluster, 0, &format!("GET {key}")), V::Nil);

    let new = cluster.add();
    cluster.migrate_slot(slot, 0, new);
    assert_eq!(cluster.owner_of(&key), new);
    cluster.migrate_slot(slot, new, 0);
    cluster.forget(new);
    cluster.settle();
}

fn a_cluster_s_masters_change(kind: Kind) {
    let cluster = Cluster::start(kind, 3, 1);
    assert_eq!((cluster.replicas_of(0), cluster.replicas_of(2)), (vec![3], vec![5]));
    let [first, second, third] = [0, 1, 2].map(|at| cluster.slot(&cluster.key_on(at, "k")));
    cluster.fail_over(3, "");
    assert_eq!((cluster.owner(first), cluster.replicas_of(3)), (3, vec![0]));
    cluster.fail_over(4, "TAKEOVER");
    assert_eq!(cluster.owner(second), 4);
    // Whether killed or silent, a master is replaced, and is a replica when it is back.
    cluster.set_node_timeout(SHORT_NODE_TIMEOUT);
    cluster.node(2).kill();
    assert_eq!(cluster.await_new_owner(third, 2), 5);
    cluster.node(2).restart();
    cluster.settle();
    let [master, replica] = if cluster.owner(third) == 5 { [5, 2] } else { [2, 5] };
    cluster.node(master).stop();
    assert_eq!(cluster.await_new_owner(third, master), replica);
    cluster.node(master).cont();
    cluster.settle();
}

fn a_master_under_sentinels_changes(kind: Kind) {
    let all = Sentinels::start(kind);
    assert_eq!((all.master(), all.master_by(2)), (Some(0), 0));
    let second = all.fail_over();
    all.await_replicas_of(second);
    all.server(second).kill();
    let third = all.await_other_master(second);
    // One Sentinel may be away; it hears of a failover when it is back.
    all.sentinel(0).kill();
    all.server(second).restart();
    all.await_replicas_of(third);
    all.server(third).stop();
    let fourth = all.await_other_master(third);
    all.sentinel(0).restart();
    all.server(third).cont();
    all.await_replicas_of(fourth);
    assert_eq!(all.await_other_master(third), fourth);
}

#[test]
fn a_redis_cluster_s_slots_move() {
    a_cluster_s_slots_move(Kind::Redis);
}

#[test]
fn a_valkey_cluster_s_slots_move() {
    a_cluster_s_slots_move(Kind::Valkey);
}

#[test]
fn a_redis_cluster_s_masters_change() {
    a_cluster_s_masters_change(Kind::Redis);
}

#[test]
fn a_valkey_cluster_s_masters_change() {
    a_cluster_s_masters_change(Kind::Valkey);
}

#[test]
fn a_redis_master_under_sentinels_changes() {
    a_master_under_sentinels_changes(Kind::Redis);
}

#[test]
fn a_valkey_master_under_sentinels_changes() {
    a_master_under_sentinels_changes(Kind::Valkey);
}
