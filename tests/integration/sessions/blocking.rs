//! Blocking commands: woken, timed out, among others in a pipeline, left behind.

use super::Pair;
use crate::support::redis::Kind;
use crate::support::{Server, Sidecar, V, eventually};

fn blocked(server: &Server, count: &str) {
    eventually("so many are blocked upstream", || server.info("clients")["blocked_clients"] == count);
}

#[test]
fn a_blocked_client_is_woken_by_a_push_from_inside_and_from_outside() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut waiter = sidecar.conn();
    for outside in [false, true] {
        waiter.send(&["BLPOP", "a", "b", "0"]);
        blocked(&server, "1");
        if outside {
            server.outside("RPUSH b x")
        } else {
            sidecar.conn().line("RPUSH b x")
        };
        assert_eq!(waiter.value(), V::Array(vec![V::bulk("b"), V::bulk("x")]));
    }
}

#[test]
fn time_outs_and_ready_lists_are_answered_as_upstream_does_in_both_versions() {
    let server = Server::redis();
    let (sidecar, twin) = (Sidecar::start(&server, ""), Server::redis());
    for mut pair in [Pair::new(&sidecar, &twin), Pair::new3(&sidecar, &twin)] {
        pair.all_alike(&[
            "BLPOP no 0.01",
            "BRPOP no 0.01",
            "BLMOVE no no2 LEFT LEFT 0.01",
            "BRPOPLPUSH no no2 0.01",
            "BLMPOP 0.01 1 no LEFT",
            "BZPOPMIN no 0.01",
        ]);
        pair.all_alike(&["BZMPOP 0.01 1 no MIN", "XREAD BLOCK 10 STREAMS no $", "BLPOP", "BLPOP a abc", "BLPOP a -1"]);
        pair.alike_at_once(
            &["DEL l", "RPUSH l 1 2 3 4 5", "BLPOP l 0", "LRANGE l 0 -1", "BLMOVE l m LEFT RIGHT 0", "GET k"],
            6,
        );
        pair.alike("DEL l m");
        pair.alike_at_once(&["MULTI", "RPUSH q 1", "BLPOP q 0", "BLPOP q 0", "EXEC", "EXISTS q"], 6);
        pair.alike_at_once(&["SET k 1", "GET k", "BLPOP no 0.01", "GET k", "SET k 2", "BLPOP no 0.01", "GET k"], 7);
    }
}

#[test]
fn what_is_pipelined_behind_a_blocking_command_waits_for_it() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut conn = sidecar.conn();
    conn.send_raw(b"SET k before\r\nGET k\r\nBLPOP list 0\r\nSET k after\r\nGET k\r\n");
    assert_eq!((conn.value(), conn.value()), (V::Simple("OK".into()), V::bulk("before")));
    blocked(&server, "1");
    assert_eq!(server.outside("GET k").text(), "before");
    server.outside("RPUSH list x");
    assert_eq!(conn.value().items()[1].text(), "x");
    assert_eq!((conn.value(), conn.value()), (V::Simple("OK".into()), V::bulk("after")));
}

#[test]
fn a_client_that_leaves_while_blocked_is_unblocked_upstream_and_takes_no_element() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    for before in ["", "WATCH k\r\n", "WATCH k\r\nCLIENT GETNAME\r\n"] {
        for behind in ["", "CLIENT GETNAME\r\n", "GET k\r\n", "RESET\r\n"] {
            let mut conn = sidecar.conn();
            conn.send_raw(format!("{before}BLPOP list 0\r\n{behind}").as_bytes());
            blocked(&server, "1");
            drop(conn);
            blocked(&server, "0");
        }
    }
    server.outside("RPUSH list x");
    assert_eq!(server.outside("LLEN list").int(), 1);
}

#[test]
fn xread_sees_what_is_added_after_it_was_sent() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut reader = sidecar.conn();
    for i in 1..20 {
        reader.send(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]);
        blocked(&server, "1");
        server.outside(&format!("XADD s {i}-1 f v{i}"));
        let reply = reader.value();
        let entry = &reply.items()[0].items()[1].items()[0];
        assert_eq!(entry.items()[0].text(), format!("{i}-1"));
    }
}

#[test]
fn a_producer_is_served_while_consumers_wait() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.pool.max = 2\nupstream.waiting_pool.max = 8");
    let mut consumers: Vec<_> = (0..8).map(|_| sidecar.conn()).collect();
    for consumer in &mut consumers {
        consumer.send(&["BLPOP", "queue", "0"]);
    }
    blocked(&server, "8");
    let mut producer = sidecar.conn();
    for line in ["WATCH queue", "MULTI"] {
        assert_eq!(producer.line(line), V::Simple("OK".into()));
    }
    for _ in 0..8 {
        producer.line("RPUSH queue x");
    }
    assert_eq!(producer.line("EXEC").items().len(), 8);
    for consumer in &mut consumers {
        assert_eq!(consumer.value().items()[1].text(), "x");
    }
}

#[test]
fn more_waiters_than_connections_are_told_so_and_nothing_hangs() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.waiting_pool.max = 1\nupstream.waiting_pool.wait_timeout = '4s'");
    let (mut first, mut second) = (sidecar.conn(), sidecar.conn());
    first.send(&["BLPOP", "queue", "0"]);
    blocked(&server, "1");
    let reply = second.line("BLPOP queue 0");
    assert!(reply.text().contains("upstream.waiting_pool.max"), "{reply:?}");
    second.line("RPUSH queue x");
    assert_eq!(first.value().items()[1].text(), "x");
    second.send(&["BLPOP", "queue", "0"]);
    blocked(&server, "1");
}

#[test]
fn wait_counts_the_replicas_that_have_the_clients_writes() {
    let server = Server::with(Kind::Redis, &["--repl-diskless-sync-delay", "0"]);
    let replica = Server::with(Kind::Redis, &["--replicaof", &format!("127.0.0.1 {}", server.port())]);
    let sidecar = Sidecar::start(&server, "");
    let online = |replica: &String| replica.contains("state=online");
    eventually("the replica is in step", || server.info("replication").get("slave0").is_some_and(online));
    let mut conn = sidecar.conn();
    conn.line("SET k 1");
    assert_eq!(conn.line("WAIT 1 5000").int(), 1);
    replica.stop();
    conn.line("SET k 2");
    assert_eq!(conn.line("WAIT 1 50").int(), 0);
    replica.cont();
    assert_eq!(conn.pipeline(&["SET k 3", "WAIT 1 5000", "GET k"])[1..], [V::Int(1), V::bulk("3")]);
    assert_eq!(conn.line("WAIT a b"), server.conn().line("WAIT a b"));
}

#[test]
fn waitaof_counts_who_has_the_clients_writes_on_disk() {
    let kept = ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
    let server = Server::with(Kind::Valkey, &kept);
    let upstream = format!("127.0.0.1 {}", server.port());
    let replica = Server::with(Kind::Valkey, &[&kept[..], &["--replicaof", &upstream]].concat());
    let sidecar = Sidecar::start(&server, "");
    let online = |replica: &String| replica.contains("state=online");
    eventually("the replica is in step", || server.info("replication").get("slave0").is_some_and(online));
    let mut conn = sidecar.conn();
    conn.line("SET k 1");
    assert_eq!(conn.line("WAITAOF 1 1 8000"), V::Array(vec![V::Int(1), V::Int(1)]));
    replica.stop();
    conn.line("SET k 2");
    assert_eq!(conn.line("WAITAOF 1 1 50"), V::Array(vec![V::Int(1), V::Int(0)]));
    replica.cont();
}

#[test]
fn a_running_script_is_killed_from_another_client() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.command_timeout = '20s'");
    server.outside("CONFIG SET busy-reply-threshold 50");
    // Of whichever database: to select it upstream would not be possible.
    let (mut runner, mut killer) = (sidecar.conn(), sidecar.conn());
    assert_eq!(killer.line("SELECT 9"), V::Simple("OK".into()));
    runner.send(&["EVAL", "while true do end", "0"]);
    eventually("SCRIPT KILL is taken", || killer.line("SCRIPT KILL") == V::Simple("OK".into()));
    let reply = runner.value().text();
    assert!(reply.contains("Script killed by user"), "{reply}");
    assert!(killer.line("SCRIPT KILL").text().starts_with("NOTBUSY"));
}
