//! Slots that move: no redirect reaches a client, no old value does.

use std::time::Duration;

use super::{PATIENT, hits, warm};
use crate::support::wait::pass;
use crate::support::{Cluster, Conn, Kind, Sidecar, V, eventually};

fn a_slot_that_moves_is_followed(kind: Kind) {
    let cluster = Cluster::start(kind, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let key = cluster.key_on(0, "k");
    let other = format!("{{{key}}}other");
    let slot = cluster.slot(&key);
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("MSET {key} 1 {other} 1")), V::Simple("OK".into()));
    warm(&sidecar, &key);
    warm(&sidecar, &other);

    // Begun: what is still there is served from there, what is not from the importer (ASK).
    let moving = cluster.begin_move(slot, 0, 1);
    assert_eq!(moving.keys(1), 1);
    let values = client.pipeline(&[&format!("GET {key}"), &format!("GET {other}"), &format!("GET {{{key}}}missing")]);
    assert_eq!(values, [V::bulk("1"), V::bulk("1"), V::Nil]);
    for name in [&key, &other] {
        assert_eq!(client.line(&format!("SET {name} 2")), V::Simple("OK".into()));
        assert_eq!(client.line(&format!("GET {name}")), V::bulk("2"));
        // What came by ASK is not kept: it is asked for again.
    }
    moving.keys(10);
    let before = hits(&sidecar);
    for _ in 0..5 {
        assert_eq!(client.pipeline(&[&format!("GET {key}"), &format!("GET {other}")]), [V::bulk("2"), V::bulk("2")]);
    }
    assert_eq!(hits(&sidecar), before, "what comes by a redirect is never kept");
    moving.finish();
    let values = client.pipeline(&[&format!("SET {key} 3"), &format!("GET {key}"), &format!("INCR {key}")]);
    assert_eq!(values, [V::Simple("OK".into()), V::bulk("3"), V::Int(4)]);
    warm(&sidecar, &key);
    cluster.node(1).conn().line(&format!("SET {key} 5"));
    eventually("the new owner's pushes are met", || client.line(&format!("GET {key}")) == V::bulk("5"));
    assert!(sidecar.metric("sidecache_redirects_total{kind=\"ask\"}") > 0.0);
}

#[test]
fn a_slot_of_redis_that_moves_is_followed() {
    a_slot_that_moves_is_followed(Kind::Redis);
}

#[test]
fn a_slot_of_valkey_that_moves_is_followed() {
    a_slot_that_moves_is_followed(Kind::Valkey);
}

/// The keys stay behind and are dropped there; below Redis 7.2 without a push.
fn a_slot_lost_by_force_is_noticed(kind: Kind) {
    let cluster = Cluster::start(kind, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let key = cluster.key_on(0, "k");
    let mut client = sidecar.conn();
    client.line(&format!("SET {key} 1"));
    warm(&sidecar, &key);
    cluster.force_slot(cluster.slot(&key), 1);
    eventually("the key is gone with its slot", || client.line(&format!("GET {key}")) == V::Nil);
    assert_eq!(client.line(&format!("SET {key} 2")), V::Simple("OK".into()));
    assert_eq!(client.line(&format!("GET {key}")), V::bulk("2"));
}

#[test]
fn a_slot_of_redis_lost_by_force_is_noticed() {
    a_slot_lost_by_force_is_noticed(Kind::Redis);
}

#[test]
fn a_slot_of_valkey_lost_by_force_is_noticed() {
    a_slot_lost_by_force_is_noticed(Kind::Valkey);
}

/// The importer tells nobody who has asked the old owner.
fn a_key_made_at_the_importer_is_not_missing_any_more(kind: Kind) {
    let cluster = Cluster::start(kind, 2, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\ncache.max_staleness = '30s'"));
    let key = cluster.key_on(0, "k");
    warm(&sidecar, &key);
    let moving = cluster.begin_move(cluster.slot(&key), 0, 1);
    assert_eq!(cluster.node(1).conn().pipeline(&["ASKING", &format!("SET {key} new")])[1], V::Simple("OK".into()));
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("STRLEN {key}")), V::Int(3));
    assert_eq!(client.line(&format!("GET {key}")), V::bulk("new"));
    moving.finish();
}

#[test]
fn a_key_made_at_the_importer_of_redis_is_not_missing_any_more() {
    a_key_made_at_the_importer_is_not_missing_any_more(Kind::Redis);
}

#[test]
fn a_key_made_at_the_importer_of_valkey_is_not_missing_any_more() {
    a_key_made_at_the_importer_is_not_missing_any_more(Kind::Valkey);
}

#[test]
fn what_is_on_its_way_to_a_node_that_leaves_is_still_answered() {
    let mut cluster = Cluster::start(Kind::Redis, 2, 0);
    let leaver = cluster.add();
    let key = cluster.key_on(0, "k");
    let slot = cluster.slot(&key);
    cluster.migrate_slot(slot, 0, leaver);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));

    let node = cluster.node(leaver);
    node.outside("CLIENT PAUSE 60000 WRITE");
    client.send(&["SET", &key, "2"]);
    eventually("the write waits there", || node.info("clients")["blocked_clients"] == "1");
    cluster.force_slot(slot, 0);
    cluster.forget(leaver);
    let gone = format!("nodes_gone={}", node.addr());
    eventually("it has left", || sidecar.logs().iter().any(|line| line.contains(&gone)));
    node.outside("CLIENT UNPAUSE");
    assert_eq!(client.value(), V::Simple("OK".into()));
    assert_eq!(client.line(&format!("GET {key}")), V::bulk("2"));
}

/// Whoever still waits for it is told; nobody else need know, and nothing of it is left.
#[test]
fn a_node_that_has_left_may_end_unlamented() {
    let mut cluster = Cluster::start(Kind::Redis, 2, 0);
    let leaver = cluster.add();
    let key = cluster.key_on(0, "k");
    let slot = cluster.slot(&key);
    cluster.migrate_slot(slot, 0, leaver);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    let states = ["tracking", "connecting", "backoff"].map(|state| format!("sidecache_lanes{{state=\"{state}\"}}"));
    let lanes = || states.each_ref().map(|state| sidecar.metric(state));
    assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
    eventually("one lane goes there, one to where clients begin", || lanes() == [2.0, 0.0, 0.0]);
    client.pipeline(&[&format!("WATCH {key}"), "UNWATCH"]);
    let idle = || sidecar.metric("sidecache_pool_idle{pool=\"transaction\"}");
    eventually("its pool keeps a connection", || idle() > 0.0);

    let node = cluster.node(leaver);
    node.outside("CLIENT PAUSE 60000 WRITE");
    client.send(&["SET", &key, "2"]);
    eventually("the write waits there", || node.info("clients")["blocked_clients"] == "1");
    cluster.force_slot(slot, 0);
    cluster.forget(leaver);
    let gone = format!("nodes_gone={}", node.addr());
    eventually("it has left", || sidecar.logs().iter().any(|line| line.contains(&gone)));
    node.kill();
    assert!(matches!(client.value(), V::Error(_)));
    assert_eq!(client.line(&format!("SET {key} 3")), V::Simple("OK".into()));
    eventually("nothing is left of it", || idle() == 0.0 && lanes() == [1.0, 0.0, 0.0]);
}

/// Its lane is closed though it came by it.
#[test]
fn who_came_by_a_node_that_has_left_is_served_as_before() {
    let cluster = Cluster::start(Kind::Redis, 2, 1);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    let key = cluster.key_on(0, "k");
    assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
    let leaver = cluster.node(0);
    cluster.fail_over(cluster.replicas_of(0)[0], "TAKEOVER");
    cluster.forget(0);
    let gone = format!("nodes_gone={}", leaver.addr());
    eventually("it has left", || sidecar.logs().iter().any(|line| line.contains(&gone)));
    eventually("nobody is connected there any more", || {
        !leaver.outside("CLIENT LIST TYPE normal").text().contains("name=sidecache")
    });
    assert_eq!(client.line("HELLO 3").field("proto"), Some(&V::Int(3)));
    assert_eq!(client.line(&format!("SET {key} 2")), V::Simple("OK".into()));
}

/// It has waited for longer than commands may take, which is no reason to tell its client of a redirect.
#[test]
fn whoever_is_blocked_for_long_follows_the_slot() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let limit = Duration::from_secs(2);
    let sidecar = Sidecar::start(&cluster, "upstream.command_timeout = '2s'");
    let list = cluster.key_on(0, "list");
    let mut client = sidecar.conn();
    client.send(&["BLPOP", &list, "0"]);
    let is_blocked_at = |at: usize| cluster.node(at).conn().line("INFO clients").text().contains("blocked_clients:1");
    eventually("it waits", || is_blocked_at(0));
    pass(limit);
    cluster.migrate_slot(cluster.slot(&list), 0, 1);
    eventually("it waits at the new owner", || is_blocked_at(1));
    assert_eq!(cluster.node(1).conn().line(&format!("RPUSH {list} 1")), V::Int(1));
    assert_eq!(client.value(), V::Array(vec![V::bulk(&list), V::bulk("1")]));
}

/// A list that a client waits for, whose slot moves meanwhile.
fn while_blocked(sent: &[&[&str]], test: impl FnOnce(&Cluster, &mut Conn, &str)) {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let list = cluster.key_on(0, "list");
    let mut client = sidecar.conn();
    for words in sent {
        client.send(&words.iter().map(|word| if *word == "list" { list.as_str() } else { *word }).collect::<Vec<_>>());
    }
    let is_blocked_at = |at: usize| cluster.node(at).conn().line("INFO clients").text().contains("blocked_clients:1");
    eventually("it waits", || is_blocked_at(0));
    // Of its time-out as much is used up.
    pass(Duration::from_millis(200));
    let mut monitor = cluster.node(1).conn();
    assert_eq!(monitor.line("MONITOR"), V::Simple("OK".into()));
    cluster.migrate_slot(cluster.slot(&list), 0, 1);
    eventually("it waits at the new owner", || is_blocked_at(1));
    test(&cluster, &mut monitor, &list);
    assert_eq!(cluster.node(1).conn().line(&format!("RPUSH {list} 1")), V::Int(1));
    eventually("it has been served", || cluster.node(1).conn().line(&format!("EXISTS {list}")) == V::Int(0));
    let silent = sent.iter().any(|words| words.contains(&"REPLY"));
    if !silent {
        assert_eq!(client.value(), V::Array(vec![V::bulk(&list), V::bulk("1")]));
    }
    assert_eq!(client.line("PING"), V::Simple("PONG".into()));
}

#[test]
fn a_time_out_goes_on_where_it_was_when_a_slot_moves() {
    while_blocked(&[&["BLPOP", "list", "600"]], |_, monitor, list| {
        let line = (0..).map(|_| monitor.value().text()).find(|line| line.contains("\"BLPOP\"")).unwrap();
        let words: Vec<&str> = line.split('"').filter(|word| !word.trim().is_empty()).collect();
        let [.., asked, left] = words[..] else { panic!("{line}") };
        assert_eq!(asked, list);
        let left: f64 = left.parse().unwrap();
        assert!(left > 0.0 && left <= 599.8, "{line}");
    });
}

#[test]
fn who_waits_for_ever_does_so_when_a_slot_moves() {
    while_blocked(&[&["BLPOP", "list", "0"]], |_, monitor, list| {
        let end = format!("\"BLPOP\" \"{list}\" \"0\"");
        assert!((0..).map(|_| monitor.value().text()).any(|line| line.ends_with(&end)));
    });
}

/// That it wants no reply was used up when it was sent first.
#[test]
fn a_command_that_is_sent_on_is_as_silent_as_its_client_wants() {
    while_blocked(&[&["CLIENT", "REPLY", "SKIP"], &["BLPOP", "list", "0"]], |_, _, _| ());
}
