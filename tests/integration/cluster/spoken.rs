//! Transactions spoken line by line whose slot moves before EXEC.

use super::PATIENT;
use crate::support::{Cluster, Conn, Kind, Sidecar, V};

fn ok() -> V {
    V::Simple("OK".into())
}

fn queued() -> V {
    V::Simple("QUEUED".into())
}

/// A key whose slot has moved since its transaction was queued, on this connection, behind these lines.
fn moved_since(kind: Kind, lines: &[&str], test: impl FnOnce(&Cluster, Conn, &str)) {
    let cluster = Cluster::start(kind, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let key = cluster.key_on(0, "k");
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("SET {key} 0")), ok());
    for line in lines {
        let reply = client.line(&line.replace("KEY", &key));
        assert!(reply == ok() || reply == queued() || reply == V::bulk("0"), "{line}: {reply:?}");
    }
    cluster.migrate_slot(cluster.slot(&key), 0, 1);
    test(&cluster, client, &key);
}

fn its_exec_is_followed_by_what_stands_behind_it(kind: Kind) {
    moved_since(kind, &["MULTI", "SET KEY 1"], |cluster, mut client, key| {
        let replies = client.pipeline(&["EXEC", "ECHO behind", &format!("GET {key}")]);
        assert_eq!(replies, [V::Array(vec![ok()]), V::bulk("behind"), V::bulk("1")]);
        assert_eq!(cluster.node(1).conn().line(&format!("GET {key}")), V::bulk("1"));
        // Nothing of it is left: this is none that is queued.
        assert_eq!(client.line(&format!("SET {key} 2")), ok());
        assert_eq!([client.line("MULTI"), client.line(&format!("INCR {key}"))], [ok(), queued()]);
        assert_eq!(client.line("EXEC"), V::Array(vec![V::Int(3)]));
    });
}

#[test]
fn its_exec_at_redis_is_followed_by_what_stands_behind_it() {
    its_exec_is_followed_by_what_stands_behind_it(Kind::Redis);
}

#[test]
fn its_exec_at_valkey_is_followed_by_what_stands_behind_it() {
    its_exec_is_followed_by_what_stands_behind_it(Kind::Valkey);
}

/// What stands behind EXEC is none of the conversation's: it goes where it belongs.
#[test]
fn what_stands_behind_its_exec_is_another_node_s() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let [a, b] = [0, 1].map(|at| cluster.key_on(at, "k"));
    let mut client = sidecar.conn();
    for guard in [false, true] {
        if guard {
            assert_eq!(client.line(&format!("WATCH {a}")), ok());
        }
        assert_eq!([client.line("MULTI"), client.line(&format!("SET {a} 1"))], [ok(), queued()]);
        let replies = client.pipeline(&["EXEC", &format!("STRLEN {b}"), &format!("SET {b} 1"), &format!("DEL {b}")]);
        assert_eq!(replies, [V::Array(vec![ok()]), V::Int(0), ok(), V::Int(1)]);
    }
}

/// Nobody can tell whether what is watched has changed: it fails, as if it had, and the next begins afresh.
fn guarded_it_fails(kind: Kind) {
    moved_since(kind, &["WATCH KEY", "MULTI", "SET KEY 1"], |cluster, mut client, key| {
        assert_eq!(client.pipeline(&["EXEC", "ECHO behind"]), [V::Nil, V::bulk("behind")]);
        let other = cluster.key_on(0, "other");
        for key in [key, other.as_str()] {
            let lines = [&format!("WATCH {key}"), "MULTI", &format!("SET {key} 1"), "EXEC"];
            assert_eq!(lines.map(|line| client.line(line)), [ok(), ok(), queued(), V::Array(vec![ok()])]);
        }
    });
}

#[test]
fn guarded_it_fails_at_redis() {
    guarded_it_fails(Kind::Redis);
}

#[test]
fn guarded_it_fails_at_valkey() {
    guarded_it_fails(Kind::Valkey);
}

/// It is one slot all the same: nobody is told of two.
#[test]
fn what_is_read_behind_its_watch_may_be_tried_again() {
    moved_since(Kind::Redis, &["WATCH KEY"], |_, mut client, key| {
        let reply = client.line(&format!("GET {key}"));
        assert!(matches!(&reply, V::Error(text) if text.starts_with("TRYAGAIN ")), "{reply:?}");
        let lines = ["MULTI", &format!("SET {key} 1"), "EXEC"];
        assert_eq!(lines.map(|line| client.line(line)), [ok(), queued(), V::Nil]);
        assert_eq!(client.line(&format!("GET {key}")), V::bulk("0"));
    });
}

/// It is too long to be kept until EXEC: nothing of it has been executed, and its client may send it again.
#[test]
fn a_long_one_has_to_be_sent_again_by_its_client() {
    let set = format!("SET KEY {}", "x".repeat(70_000));
    moved_since(Kind::Redis, &["MULTI", &set], |cluster, mut client, key| {
        let reply = client.line("EXEC");
        assert!(matches!(&reply, V::Error(text) if text.starts_with("TRYAGAIN ")), "{reply:?}");
        assert_eq!(cluster.node(1).conn().line(&format!("GET {key}")), V::bulk("0"));
        let again = ["MULTI", &set.replace("KEY", key), "EXEC"];
        assert_eq!(client.pipeline(&again)[2], V::Array(vec![ok()]));
    });
}

/// They are keys of several slots, whatever is tried again: a client told that something has changed would try for ever.
#[test]
fn what_is_watched_at_one_node_guards_nothing_at_another() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let [a, b] = [0, 1].map(|at| cluster.key_on(at, "k"));
    let mut client = sidecar.conn();
    let crosses = |reply: V| assert!(matches!(&reply, V::Error(text) if text.starts_with("CROSSSLOT ")), "{reply:?}");
    let lines = [&format!("WATCH {a}"), "MULTI", &format!("SET {b} 1")];
    assert_eq!(lines.map(|line| client.line(line)), [ok(), ok(), queued()]);
    crosses(client.line("EXEC"));
    assert_eq!(client.line(&format!("GET {b}")), V::Nil);
    assert_eq!(client.line(&format!("WATCH {a}")), ok());
    crosses(client.line(&format!("WATCH {b}")));
    // What is watched stays so.
    cluster.node(0).conn().line(&format!("SET {a} 1"));
    let lines = ["MULTI", &format!("SET {a} 2"), "EXEC", &format!("GET {a}")];
    assert_eq!(lines.map(|line| client.line(line)), [ok(), queued(), V::Nil, V::bulk("1")]);
}
