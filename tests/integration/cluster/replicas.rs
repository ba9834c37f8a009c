//! Reads from replicas: what they are spared, who must not read from them, and when they are not fit.

use super::PATIENT;
use crate::support::{Cluster, Kind, Server, Sidecar, V, eventually};

/// Calls of a command at a node so far.
fn calls(server: &Server, command: &str) -> u64 {
    server.calls(command)
}

/// A cluster of one master and one replica, with a key, and a sidecar that reads from replicas.
fn stage(kind: Kind, toml: &str) -> (Cluster, Sidecar) {
    let cluster = Cluster::start(kind, 1, 1);
    cluster.node(0).conn().line("SET k 1");
    cluster.settle();
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\n{toml}"));
    (cluster, sidecar)
}

fn reads_go_to_a_replica_and_stay_coherent(kind: Kind) {
    let (cluster, sidecar) = stage(kind, "upstream.read_from = 'prefer-replica'");
    let mut client = sidecar.conn();
    eventually("the replica is read from", || {
        assert_eq!(client.line("GET k"), V::bulk("1"));
        calls(cluster.node(1), "get") > 0
    });
    // The replica's pushes keep its entries right.
    super::warm(&sidecar, "k");
    cluster.node(0).conn().line("SET k 2");
    eventually("the write is seen", || client.line("GET k") == V::bulk("2"));
}

#[test]
fn reads_go_to_a_replica_of_redis_and_stay_coherent() {
    reads_go_to_a_replica_and_stay_coherent(Kind::Redis);
}

#[test]
fn reads_go_to_a_replica_of_valkey_and_stay_coherent() {
    reads_go_to_a_replica_and_stay_coherent(Kind::Valkey);
}

#[test]
fn who_has_written_reads_from_the_master_until_the_replica_has_it_too() {
    let (cluster, sidecar) =
        stage(Kind::Redis, "upstream.read_from = 'prefer-replica'\nupstream.replica_max_lag = '1h'");
    let mut client = sidecar.conn();
    eventually("the replica is read from", || {
        client.line("GET k");
        calls(cluster.node(1), "get") > 0
    });
    // From here on it gets nothing new, and still counts as fit: its lag is allowed.
    cluster.node(1).stop();
    assert_eq!(client.line("SET k 2"), V::Simple("OK".into()));
    for _ in 0..100 {
        assert_eq!(client.line("GET k"), V::bulk("2"));
    }
    cluster.node(1).cont();
    cluster.settle();
    cluster.node(1).reset_calls();
    eventually("it goes back to the replica", || {
        assert_eq!(client.line("GET k"), V::bulk("2"));
        calls(cluster.node(1), "get") > 0
    });
}

/// Line by line, too.
#[test]
fn who_has_written_in_a_transaction_reads_from_the_master() {
    let (cluster, sidecar) =
        stage(Kind::Redis, "upstream.read_from = 'prefer-replica'\nupstream.replica_max_lag = '1h'");
    let mut client = sidecar.conn();
    eventually("the replica is read from", || {
        client.line("GET k");
        calls(cluster.node(1), "get") > 0
    });
    cluster.node(1).stop();
    for (number, begin) in [(2, "MULTI"), (3, "WATCH k")] {
        assert_eq!(client.line(begin), V::Simple("OK".into()));
        if begin != "MULTI" {
            assert_eq!(client.line("MULTI"), V::Simple("OK".into()));
        }
        assert_eq!(client.line(&format!("SET k {number}")), V::Simple("QUEUED".into()));
        assert_eq!(client.line("EXEC"), V::Array(vec![V::Simple("OK".into())]));
        assert_eq!(client.line("GET k"), V::bulk(number.to_string()));
        // As one who has written nothing yet.
        client = sidecar.conn();
    }
    cluster.node(1).cont();
    cluster.settle();
}

#[test]
fn a_replica_that_is_away_is_not_read_from() {
    let (cluster, sidecar) = stage(Kind::Redis, "upstream.read_from = 'prefer-replica'");
    let mut client = sidecar.conn();
    eventually("the replica is read from", || {
        client.line("GET k");
        calls(cluster.node(1), "get") > 0
    });
    sidecar.allow_log("lane lost");
    sidecar.allow_log("no connection to upstream");
    cluster.node(1).kill();
    for _ in 0..20 {
        assert_eq!(client.line("GET k"), V::bulk("1"));
        assert_eq!(client.line("GET missing"), V::Nil);
    }
}

#[test]
fn where_replicas_alone_are_wanted_reads_fail_without_one() {
    let cluster = Cluster::start(Kind::Redis, 1, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\nupstream.read_from = 'replica'"));
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), V::Simple("OK".into()));
    let V::Error(error) = client.line("GET k") else { panic!("answered") };
    assert!(error.contains("no replica") && error.contains("read_from"), "{error}");
}
