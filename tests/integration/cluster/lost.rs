//! A master is lost for good: what was certainly not sent to it waits for the one that takes over.

use super::PATIENT;
use crate::support::cluster::SHORT_NODE_TIMEOUT;
use crate::support::wait::LONG_PATIENCE;
use crate::support::{Cluster, Conn, Kind, Sidecar, V};

/// Two thirds of a cluster's masters go on; of the third, node 0, only its replica does, and need not know it yet. One key
/// of each master is there, and the first is given.
fn lost(kind: Kind, test: impl FnOnce(&Sidecar, &str, &dyn Fn())) {
    let cluster = Cluster::start(kind, 3, 1);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\nupstream.failover_wait = '60s'"));
    ["lane lost", "no connection to upstream"].iter().for_each(|text| sidecar.allow_log(text));
    for at in 0..3 {
        let mut node = cluster.node(at).conn();
        assert_eq!(node.line(&format!("SET {} 1", cluster.key_on(at, "k"))), V::Simple("OK".into()));
        assert_eq!(node.line("WAIT 1 0"), V::Int(1));
    }
    cluster.settle();
    cluster.set_node_timeout(SHORT_NODE_TIMEOUT);
    test(&sidecar, &cluster.key_on(0, "k"), &|| cluster.node(0).kill());
}

fn patient(sidecar: &Sidecar) -> Conn {
    let mut client = sidecar.conn();
    client.set_patience(LONG_PATIENCE);
    client
}

fn ok() -> V {
    V::Simple("OK".into())
}

fn dedicated_connections_wait_for_who_takes_over(kind: Kind) {
    lost(kind, |sidecar, key, kill| {
        let [mut blocking, mut watching, mut queueing, mut large] = std::array::from_fn(|_| patient(sidecar));
        kill();
        blocking.send(&["BLPOP", &format!("{{{key}}}l"), "0.01"]);
        watching.send(&["WATCH", key]);
        assert_eq!(queueing.line("MULTI"), ok());
        queueing.send(&["SET", &format!("{{{key}}}m"), "2"]);
        large.send(&["SET", &format!("{{{key}}}n"), &"x".repeat(70_000)]);
        assert_eq!(blocking.value(), V::Nil);
        assert_eq!(watching.value(), ok());
        assert_eq!(queueing.value(), V::Simple("QUEUED".into()));
        assert_eq!(large.value(), ok());
        // The conversations go on where they have begun.
        assert_eq!(queueing.line("EXEC"), V::Array(vec![ok()]));
        assert_eq!(watching.line("MULTI"), ok());
        assert_eq!(watching.line(&format!("GET {{{key}}}m")), V::Simple("QUEUED".into()));
        assert_eq!(watching.line("EXEC"), V::Array(vec![V::bulk("2")]));
        assert_eq!(large.line(&format!("STRLEN {{{key}}}n")), V::Int(70_000));
    });
}

#[test]
fn dedicated_connections_wait_for_who_takes_over_in_redis() {
    dedicated_connections_wait_for_who_takes_over(Kind::Redis);
}

#[test]
fn dedicated_connections_wait_for_who_takes_over_in_valkey() {
    dedicated_connections_wait_for_who_takes_over(Kind::Valkey);
}

#[test]
fn shard_channels_are_subscribed_to_at_who_takes_over() {
    lost(Kind::Redis, |sidecar, key, kill| {
        let channel = format!("{{{key}}}c");
        let mut clients: [Conn; 3] = std::array::from_fn(|_| patient(sidecar));
        kill();
        clients.iter_mut().for_each(|client| client.send(&["SSUBSCRIBE", &channel, &format!("{channel}2")]));
        for client in &mut clients {
            let confirmed = |name: &str, count| V::Array(vec![V::bulk("ssubscribe"), V::bulk(name), V::Int(count)]);
            assert_eq!(client.value(), confirmed(&channel, 1));
            assert_eq!(client.value(), confirmed(&format!("{channel}2"), 2));
        }
        assert_eq!(patient(sidecar).line(&format!("SPUBLISH {channel} news")), V::Int(3));
        for client in &mut clients {
            let message = vec![V::bulk("smessage"), V::bulk(&channel), V::bulk("news")];
            assert_eq!(client.value(), V::Array(message));
        }
    });
}

fn all_masters_are_asked_and_the_new_one_for_the_old(kind: Kind) {
    lost(kind, |sidecar, key, kill| {
        let asked: [&[&str]; 6] = [
            &["DBSIZE"],
            &["KEYS", "*"],
            &["SCAN", "0", "COUNT", "100"],
            &["SCRIPT", "LOAD", "return 1"],
            &["WAIT", "0", "1"],
            &["SCRIPT", "KILL"],
        ];
        let mut clients = asked.map(|_| patient(sidecar));
        kill();
        clients.iter_mut().zip(asked).for_each(|(client, words)| client.send(words));
        let [size, keys, scan, load, wait, idle] = clients.map(|mut client| client.value());
        assert_eq!(size, V::Int(3));
        assert_eq!(keys.items().len(), 3);
        // The lost one's shard is the first.
        assert_eq!(scan.items()[1], V::Array(vec![V::bulk(key)]));
        assert_eq!(load, V::bulk("e0e1f9fabfc9d4800c877a703b823ac0578ff8db"));
        assert_eq!(wait, V::Int(0));
        assert!(matches!(&idle, V::Error(text) if text.starts_with("NOTBUSY")), "{idle:?}");
        // The new one has it too.
        let call = format!("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 {key}");
        assert_eq!(patient(sidecar).line(&call), V::Int(1));
    });
}

#[test]
fn all_masters_of_redis_are_asked_and_the_new_one_for_the_old() {
    all_masters_are_asked_and_the_new_one_for_the_old(Kind::Redis);
}

#[test]
fn all_masters_of_valkey_are_asked_and_the_new_one_for_the_old() {
    all_masters_are_asked_and_the_new_one_for_the_old(Kind::Valkey);
}

#[test]
fn a_flush_empties_who_takes_over() {
    lost(Kind::Redis, |sidecar, key, kill| {
        let mut client = patient(sidecar);
        assert_eq!(client.line(&format!("GET {key}")), V::bulk("1"));
        kill();
        assert_eq!(client.line("FLUSHALL"), ok());
        assert_eq!(client.line(&format!("GET {key}")), V::Nil);
        assert_eq!(client.line("DBSIZE"), V::Int(0));
    });
}

#[test]
fn a_master_that_others_have_replaced_is_asked_for_no_longer() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\nupstream.failover_wait = '60s'"));
    ["lane lost", "no connection to upstream"].iter().for_each(|text| sidecar.allow_log(text));
    let mut client = patient(&sidecar);
    cluster.node(0).kill();
    client.send(&["DBSIZE"]);
    let mut other = cluster.node(1).conn();
    for what in ["DELSLOTSRANGE", "ADDSLOTSRANGE"] {
        assert_eq!(other.line(&format!("CLUSTER {what} 0 8191")), ok());
    }
    // Of the other it has been asked already.
    let reply = client.value();
    let is_honest = |text: &str| text.contains("the cluster's masters have changed") && text.contains("not executed");
    assert!(matches!(&reply, V::Error(text) if is_honest(text)), "{reply:?}");
    assert_eq!(client.line("DBSIZE"), V::Int(0));
}
