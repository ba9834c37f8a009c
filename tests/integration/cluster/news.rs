//! Messages, scripts and what else is more than one node's affair.

use super::PATIENT;
use crate::support::{Cluster, Kind, Sidecar, V, eventually};

fn push(words: &[&str]) -> V {
    V::Push(words.iter().map(V::bulk).collect())
}

#[test]
fn messages_reach_whoever_is_subscribed_wherever_they_are_published() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut subscriber = sidecar.conn3();
    subscriber.send(&["SUBSCRIBE", "news"]);
    subscriber.value();
    for at in 0..3 {
        let text = format!("from {at}");
        cluster.node(at).conn().ask(&["PUBLISH", "news", &text]);
        assert_eq!(subscriber.value(), push(&["message", "news", &text]));
    }
    assert_eq!(sidecar.conn().line("PUBLISH news inside"), V::Int(1));
    assert_eq!(subscriber.value(), push(&["message", "news", "inside"]));
}

fn shard_channels_follow_their_slots(kind: Kind) {
    let cluster = Cluster::start(kind, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let channels = [0, 1, 2].map(|at| cluster.key_on(at, "ch"));
    let mut subscriber = sidecar.conn3();
    // Of several slots at once, as from one Redis.
    subscriber.send(&["SSUBSCRIBE", &channels[0], &channels[1], &channels[2]]);
    let mut confirmed: Vec<String> = (0..3).map(|_| subscriber.value().items()[1].text()).collect();
    confirmed.sort_unstable();
    let mut expected = channels.to_vec();
    expected.sort_unstable();
    assert_eq!(confirmed, expected);
    let mut publisher = sidecar.conn();
    for channel in &channels {
        assert_eq!(publisher.line(&format!("SPUBLISH {channel} x")), V::Int(1));
        assert_eq!(subscriber.value(), push(&["smessage", channel, "x"]));
    }
    // The slot moves: the subscription goes with it, and its client is told nothing.
    cluster.migrate_slot(cluster.slot(&channels[0]), 0, 1);
    let count = || {
        let reply = cluster.node(1).conn().line(&format!("PUBSUB SHARDNUMSUB {}", channels[0]));
        reply.items()[1].clone()
    };
    eventually("it is subscribed to at the new owner", || count() == V::Int(1));
    cluster.node(1).conn().line(&format!("SPUBLISH {} moved", channels[0]));
    assert_eq!(subscriber.value(), push(&["smessage", &channels[0], "moved"]));
    subscriber.send(&["SUNSUBSCRIBE", &channels[0]]);
    assert_eq!(subscriber.value().items()[0], V::bulk("sunsubscribe"));
    eventually("it is not any more", || count() == V::Int(0));
}

#[test]
fn shard_channels_of_redis_follow_their_slots() {
    shard_channels_follow_their_slots(Kind::Redis);
}

#[test]
fn shard_channels_of_valkey_follow_their_slots() {
    shard_channels_follow_their_slots(Kind::Valkey);
}

#[test]
fn a_script_that_has_come_by_is_found_at_every_node() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, "threads = 2");
    let script = "return {KEYS[1], ARGV[1]}";
    let sha = "5".repeat(40);
    let sha = sha.as_str();
    let [a, b, c] = [0, 1, 2].map(|at| cluster.key_on(at, "k"));
    let mut client = sidecar.conn();
    assert!(matches!(client.ask(&["EVALSHA", sha, "1", &a, "x"]), V::Error(error) if error.starts_with("NOSCRIPT")));
    let reply = |key: &str| V::Array(vec![V::bulk(key), V::bulk("x")]);
    assert_eq!(client.ask(&["EVAL", script, "1", &a, "x"]), reply(&a));
    let sha = cluster.node(0).conn().ask(&["SCRIPT", "LOAD", script]).text();
    for key in [&b, &c] {
        assert_eq!(sidecar.conn().ask(&["EVALSHA", &sha, "1", key, "x"]), reply(key));
    }
    assert_eq!(client.line("SCRIPT FLUSH"), V::Simple("OK".into()));
    assert!(matches!(client.ask(&["EVALSHA", &sha, "1", &b, "x"]), V::Error(error) if error.starts_with("NOSCRIPT")));
}

#[test]
fn what_all_nodes_must_be_told_on_connections_of_their_own_they_are() {
    let cluster = Cluster::start(Kind::Redis, 3, 1);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    for at in 0..3 {
        client.line(&format!("SET {} 1", cluster.key_on(at, "k")));
    }
    assert_eq!(client.line("WAIT 1 10000"), V::Int(1));
    // As many as the master with the fewest has.
    let replica = cluster.replicas_of(1)[0];
    cluster.node(replica).stop();
    client.line(&format!("SET {} 2", cluster.key_on(1, "k")));
    assert_eq!(client.line("WAIT 1 100"), V::Int(0));
    cluster.node(replica).cont();
    assert!(matches!(client.line("SCRIPT KILL"), V::Error(error) if error.starts_with("NOTBUSY")));
    assert_eq!(client.line("SAVE"), V::Simple("OK".into()));
    // One master runs a script without an end.
    let key = cluster.key_on(2, "k");
    let mut busy = sidecar.conn();
    busy.send(&["EVAL", "while true do end", "1", &key]);
    eventually("it is killed", || client.line("SCRIPT KILL") == V::Simple("OK".into()));
    assert!(matches!(busy.value(), V::Error(_)));
}

#[test]
fn a_script_s_own_words_are_no_refusal_of_its_node() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, "");
    let key = cluster.key_on(0, "k");
    let other = cluster.node(1).addr();
    let words =
        ["TRYAGAIN later".into(), "READONLY today".into(), format!("MOVED 1 {other}"), format!("ASK 1 {other}")];
    let mut client = sidecar.conn();
    for (runs, words) in (1..).zip(&words) {
        let script = format!("redis.call('INCR', KEYS[1]) return redis.error_reply('{words}')");
        let V::Error(error) = client.ask(&["EVAL", &script, "1", &key]) else { panic!("{words}") };
        assert!(error.starts_with(words.as_str()), "{error}");
        assert_eq!(client.line(&format!("GET {key}")), V::bulk(runs.to_string()), "{words}: it is executed once");
    }
}
