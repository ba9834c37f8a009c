//! The pools of dedicated connections under consumers, producers and those who come too many.

use std::time::{Duration, Instant};

use crate::support::resp::{encode, words};
use crate::support::wait::eventually_some;
use crate::support::{Server, Sidecar, V, eventually};

#[test]
fn two_hundred_blocked_consumers_do_not_starve_the_producer_they_wait_for() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut consumers: Vec<_> = (0..200).map(|_| sidecar.conn()).collect();
    for (n, consumer) in consumers.iter_mut().enumerate() {
        consumer.send(&["BLPOP", &format!("queue:{n}"), "0"]);
    }
    eventually("all of them wait", || server.info("clients")["blocked_clients"] == "200");
    let mut producer = sidecar.conn();
    for n in 0..200 {
        assert_eq!(producer.line("WATCH total"), V::Simple("OK".into()));
        assert_eq!(producer.line("MULTI"), V::Simple("OK".into()));
        assert_eq!(producer.line("INCR total"), V::Simple("QUEUED".into()));
        assert_eq!(producer.line(&format!("RPUSH queue:{n} job-{n}")), V::Simple("QUEUED".into()));
        assert_eq!(producer.line("EXEC"), V::Array(vec![V::Int(n + 1), V::Int(1)]));
    }
    for (n, consumer) in consumers.iter_mut().enumerate() {
        assert_eq!(consumer.value(), V::Array(vec![V::bulk(format!("queue:{n}")), V::bulk(format!("job-{n}"))]));
    }
    let idle = r#"sidecache_pool_idle{pool="waiting"}"#;
    eventually("their connections rest in the pool", || sidecar.metric(idle) == 200.0);
    assert_eq!(sidecar.metric(r#"sidecache_pool_connections_created_total{pool="waiting"}"#), 200.0);
    assert_eq!(sidecar.metric(r#"sidecache_pool_timeouts_total{pool="transaction"}"#), 0.0);
}

#[test]
fn an_exhausted_pool_is_a_clear_error_in_time_and_shows_in_its_numbers() {
    let server = Server::redis();
    // What waits is published once a second.
    let short = "upstream.pool.max = 2\nupstream.pool.wait_timeout = '4s'\n\
                 upstream.waiting_pool.max = 2\nupstream.waiting_pool.wait_timeout = '8s'";
    let sidecar = Sidecar::start(&server, short);
    let mut watchers = [sidecar.conn(), sidecar.conn()];
    let mut blocked = [sidecar.conn(), sidecar.conn()];
    watchers.iter_mut().for_each(|conn| assert_eq!(conn.line("WATCH k"), V::Simple("OK".into())));
    blocked.iter_mut().for_each(|conn| conn.send(&["BLPOP", "l", "0"]));
    eventually("both pools are full", || {
        let in_use = |pool: &str| sidecar.metric(&format!("sidecache_pool_in_use{{pool=\"{pool}\"}}"));
        (in_use("transaction"), in_use("waiting")) == (2.0, 2.0)
    });
    let (mut third, mut waiting) = (sidecar.conn(), sidecar.conn());
    waiting.send(&["BLPOP", "l", "0"]);
    eventually("one waits", || sidecar.metric(r#"sidecache_pool_waiting{pool="waiting"}"#) == 1.0);
    let begun = Instant::now();
    let text = third.line("WATCH k").text();
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(text.contains("raise upstream.pool.max") && text.contains("not sent"), "{text}");
    assert!(waiting.value().text().contains("raise upstream.waiting_pool.max"));
    assert_eq!(sidecar.metric(r#"sidecache_pool_timeouts_total{pool="transaction"}"#), 1.0);
    assert_eq!(sidecar.metric(r#"sidecache_errors_total{kind="pool_exhausted"}"#), 2.0);
    // One is given back, and the third gets it.
    assert_eq!(watchers[0].line("UNWATCH"), V::Simple("OK".into()));
    third.expect_closed();
    third = sidecar.conn();
    assert_eq!(third.line("WATCH k"), V::Simple("OK".into()));
    assert_eq!(third.line("GET k"), V::Nil);
}

#[test]
fn what_stands_behind_a_multi_or_watch_that_got_no_connection_is_not_executed() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.pool.max = 1\nupstream.pool.wait_timeout = '50ms'");
    // Its connection may take longer than the wait.
    let _holder = eventually_some("somebody holds the only one", || {
        let mut conn = sidecar.conn();
        (conn.line("WATCH k") == V::Simple("OK".into())).then_some(conn)
    });
    // A block with a SELECT does not ride the lane.
    for lines in [&["MULTI", "SELECT 0", "SET k 1", "EXEC"][..], &["WATCH j", "SET k 1"]] {
        let mut conn = sidecar.conn();
        conn.send_raw(&lines.iter().flat_map(|line| encode(&words(line))).collect::<Vec<u8>>());
        assert!(conn.value().text().contains("upstream.pool.max"), "{lines:?}");
        conn.expect_closed();
    }
    assert_eq!(server.outside("EXISTS k").int(), 0);
}

#[test]
fn a_large_value_for_a_stopped_upstream_fails_in_time() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.command_timeout = '5s'");
    sidecar.allow_log("lane lost");
    sidecar.allow_log("no connection to upstream");
    let mut conn = sidecar.conn();
    let large = "x".repeat(32 << 20);
    assert_eq!(conn.call(&["SET", "large", &large]), b"+OK\r\n");
    server.stop();
    let V::Error(text) = conn.ask(&["SET", "large", &large]) else { panic!("no error") };
    assert!(text.starts_with("ERR sidecache: "), "{text}");
    server.cont();
    eventually("it is back", || conn.line("GET k") == V::Nil);
}
