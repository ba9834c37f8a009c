//! Commands that several nodes share: cut by slot, sent to all, or scanned one after the other.

use std::collections::BTreeSet;

use super::{PATIENT, hits};
use crate::support::{Cluster, Conn, Kind, Sidecar, V, eventually};

fn ok() -> V {
    V::Simple("OK".into())
}

#[test]
fn keys_of_several_slots_are_split_and_their_replies_joined() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let [a, b, c] = [0, 1, 2].map(|at| cluster.key_on(at, "k"));
    // Two slots of one node are several slots too.
    let d = (0..)
        .map(|n| format!("d{n}"))
        .find(|d| cluster.owner_of(d) == 0 && cluster.slot(d) != cluster.slot(&a))
        .unwrap();
    for mut client in [sidecar.conn(), sidecar.conn3()] {
        assert_eq!(client.line(&format!("MSET {a} 1 {b} 2 {c} 3 {d} 4")), ok());
        let values = V::Array(["3", "1", "4", "2", "1"].map(V::bulk).to_vec());
        assert_eq!(client.line(&format!("MGET {c} {a} {d} {b} {a}")), values);
        assert_eq!(client.line(&format!("EXISTS {a} {b} {c} {d} {a} missing")), V::Int(5));
        assert_eq!(client.line(&format!("TOUCH {a} {b}")), V::Int(2));
        assert_eq!(client.line(&format!("UNLINK {a} {b}")), V::Int(2));
        assert_eq!(client.line(&format!("DEL {a} {c} {d}")), V::Int(2));
        // In a pipeline every reply stays in its place.
        let replies =
            client.pipeline(&[&format!("SET {a} 1"), &format!("MGET {a} {b}"), "PING", &format!("DEL {a} {b}")]);
        let nil = V::Nil;
        assert_eq!(replies, [ok(), V::Array(vec![V::bulk("1"), nil]), V::Simple("PONG".into()), V::Int(1)]);
        // What cannot be split is refused as the cluster refuses it.
        let refused = V::Error("CROSSSLOT Keys in request don't hash to the same slot".into());
        assert_eq!(client.line(&format!("MSETNX {a} 1 {b} 2")), refused);
        assert_eq!(client.line(&format!("RENAME {a} {b}")), refused);
        let replies = client.pipeline(&["MULTI", &format!("SET {a} 1"), &format!("SET {b} 1"), "EXEC"]);
        assert_eq!(replies, [ok(), V::Simple("QUEUED".into()), V::Simple("QUEUED".into()), refused.clone()]);
        assert_eq!(client.line(&format!("EXISTS {a} {b}")), V::Int(0));
    }
}

#[test]
fn keys_of_several_slots_are_refused_where_the_configuration_wants_it() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\nupstream.cross_slot = 'error'"));
    let [a, b] = [0, 1].map(|at| cluster.key_on(at, "k"));
    let refused = V::Error("CROSSSLOT Keys in request don't hash to the same slot".into());
    let mut client = sidecar.conn();
    for line in
        [format!("MGET {a} {b}"), format!("MSET {a} 1 {b} 2"), format!("DEL {a} {b}"), format!("EXISTS {a} {b}")]
    {
        assert_eq!(client.line(&line), refused, "{line}");
    }
}

#[test]
fn an_mget_over_several_slots_is_answered_from_the_cache() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let [a, b] = [0, 1].map(|at| cluster.key_on(at, "k"));
    let mut client = sidecar.conn();
    client.line(&format!("MSET {a} 1 {b} 2"));
    let mget = format!("MGET {a} {b}");
    let whole_hits = || sidecar.metric("sidecache_commands_total{class=\"mget\",outcome=\"hit\"}");
    eventually("both are in the cache", || {
        let before = whole_hits();
        assert_eq!(client.line(&mget), V::Array(vec![V::bulk("1"), V::bulk("2")]));
        whole_hits() == before + 2.0
    });
    cluster.node(1).conn().line(&format!("SET {b} 3"));
    eventually("the write from outside is seen", || client.line(&mget) == V::Array(vec![V::bulk("1"), V::bulk("3")]));
    // By an inside write at once.
    client.line(&format!("SET {a} 4"));
    assert_eq!(client.line(&mget), V::Array(vec![V::bulk("4"), V::bulk("3")]));
    assert_eq!(hits(&sidecar), 0.0);
}

fn scan_all(client: &mut Conn, count: &str) -> BTreeSet<String> {
    let (mut keys, mut cursor) = (BTreeSet::new(), "0".to_string());
    loop {
        let reply = client.line(&format!("SCAN {cursor} COUNT {count}"));
        let [next, found] = reply.items() else { panic!("{reply:?}") };
        for key in found.items() {
            keys.insert(key.text());
        }
        cursor = next.text();
        if cursor == "0" {
            return keys;
        }
    }
}

#[test]
fn what_concerns_all_nodes_goes_to_all() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    let keys: BTreeSet<String> = (0..300).map(|n| format!("key{n}")).collect();
    for key in &keys {
        assert_eq!(client.line(&format!("SET {key} 1")), ok());
    }
    assert_eq!(client.line("DBSIZE"), V::Int(300));
    assert_eq!(scan_all(&mut client, "7"), keys);
    let found: BTreeSet<String> = client.line("KEYS *").items().iter().map(V::text).collect();
    assert_eq!(found, keys);
    assert!(keys.contains(&client.line("RANDOMKEY").text()));
    // Scripts and functions are everywhere.
    let sha = client.ask(&["SCRIPT", "LOAD", "return redis.call('GET', KEYS[1])"]).text();
    for key in keys.iter().take(30) {
        assert_eq!(client.ask(&["EVALSHA", &sha, "1", key]), V::bulk("1"));
    }
    assert_eq!(client.ask(&["SCRIPT", "EXISTS", &sha, "0000"]), V::Array(vec![V::Int(1), V::Int(0)]));
    assert_eq!(client.line("SCRIPT FLUSH"), ok());
    assert_eq!(client.ask(&["SCRIPT", "EXISTS", &sha]), V::Array(vec![V::Int(0)]));
    // A sweep drops what is cached of every node.
    for at in 0..3 {
        super::warm(&sidecar, &cluster.key_on(at, "key"));
    }
    assert_eq!(client.line("FLUSHALL"), ok());
    for key in keys.iter().take(30) {
        assert_eq!(client.line(&format!("GET {key}")), V::Nil);
    }
    assert_eq!(client.line("DBSIZE"), V::Int(0));
    assert_eq!(scan_all(&mut client, "10"), BTreeSet::new());
    assert!(matches!(client.line("SCAN nonsense"), V::Error(_)));
    assert!(matches!(client.line("SELECT 1"), V::Error(_)));
}

#[test]
fn transactions_spoken_line_by_line_go_to_their_first_key_s_node() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let queued = || V::Simple("QUEUED".into());
    let mut client = sidecar.conn();
    for at in 0..3 {
        let key = cluster.key_on(at, "k");
        assert_eq!(client.line("MULTI"), ok());
        assert_eq!(client.line(&format!("SET {key} {at}")), queued());
        assert_eq!(client.line(&format!("GET {key}")), queued());
        assert_eq!(client.line("EXEC"), V::Array(vec![ok(), V::bulk(at.to_string())]));
        // Watched, and changed by another.
        assert_eq!(client.line(&format!("WATCH {key}")), ok());
        assert_eq!(client.line(&format!("GET {key}")), V::bulk(at.to_string()));
        cluster.node(at).conn().line(&format!("SET {key} other"));
        assert_eq!(client.pipeline(&["MULTI", &format!("SET {key} mine"), "EXEC"])[2], V::Nil);
        assert_eq!(client.line(&format!("GET {key}")), V::bulk("other"));
    }
    assert_eq!(client.line("MULTI"), ok());
    assert_eq!(client.line("EXEC"), V::Array(Vec::new()));
    assert_eq!(client.line("MULTI"), ok());
    assert_eq!(client.line("DISCARD"), ok());
    // Over several nodes.
    let [a, b] = [0, 1].map(|at| cluster.key_on(at, "k"));
    assert_eq!(client.line("MULTI"), ok());
    assert_eq!(client.line(&format!("SET {a} 1")), queued());
    assert_eq!(client.line(&format!("SET {b} 1")), queued());
    assert_eq!(client.line("EXEC"), V::Error("CROSSSLOT Keys in request don't hash to the same slot".into()));
    eventually("its connection is given back", || sidecar.metric("sidecache_pool_in_use{pool=\"transaction\"}") == 0.0);
    // Blocking commands wait at their key's node.
    for at in 0..3 {
        let list = cluster.key_on(at, "list");
        client.send(&["BLPOP", &list, "0"]);
        cluster.node(at).conn().line(&format!("RPUSH {list} x"));
        assert_eq!(client.value(), V::Array(vec![V::bulk(&list), V::bulk("x")]));
    }
}
