//! Limits: before authentication, of output, of idleness, of clients.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{alike, started};
use crate::limits::rss;
use crate::support::redis::Kind;
use crate::support::{Conn, Server, Sidecar, V, eventually};

#[test]
fn before_authentication_requests_are_as_small_as_redis_wants_them() {
    let server = Server::with(Kind::Redis, &["--requirepass", "secret"]);
    let sidecar = Sidecar::start(&server, "upstream.password = 'secret'\nclient.require_auth = true");
    let big_bulk = format!("*2\r\n$3\r\nGET\r\n$16385\r\n{}\r\n", "x".repeat(16_385));
    let fitting = format!("*2\r\n$3\r\nGET\r\n$16384\r\n{}\r\n", "x".repeat(16_384));
    for case in ["*11\r\n", &big_bulk, &fitting, "*10\r\n$4\r\nPING\r\n", "*1000000\r\n"] {
        let shown = &case[..case.len().min(40)];
        let direct = Conn::open(server.addr());
        alike(sidecar.conn(), direct, case.as_bytes(), &format!("{shown:?}"));
    }
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("AUTH secret"), V::Simple("OK".into()));
    assert_eq!(conn.ask(&["ECHO", &"x".repeat(20_000)]).text().len(), 20_000);
}

/// Sends GETs of a value until the socket takes no more; how many bytes were taken.
fn stuff(conn: &Conn, request: &[u8], most: usize) -> usize {
    let mut writer = conn.writer();
    if let crate::support::resp::Stream::Tcp(stream) = &writer {
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    let mut sent = 0;
    while sent < most && writer.write_all(request).is_ok() {
        sent += request.len();
    }
    sent
}

#[test]
fn a_client_that_never_reads_is_paused_and_costs_no_more_than_its_share() {
    let (server, sidecar) = started("client.output_pause_bytes = '256KiB'");
    server.conn().ask(&[&b"SET"[..], b"k", &vec![b'x'; 10_000]]);
    let lazy = sidecar.conn();
    let request = b"GET k\r\n".repeat(1000);
    // 20 MB of requests for 30 GB of replies: only what fits into sockets and limits is taken.
    let sent = stuff(&lazy, &request, 20_000_000);
    assert!(sent < 20_000_000, "all was taken");
    eventually("it is paused", || sidecar.metric("sidecache_clients_paused") == 1.0);
    let rss = rss(&sidecar);
    assert!(rss < 100 << 20, "{rss} bytes");
    // Others do not notice.
    let mut other = sidecar.conn();
    for _ in 0..100 {
        assert_eq!(other.line("STRLEN k").int(), 10_000);
    }
    drop(lazy);
    eventually("it is gone", || sidecar.metric("sidecache_clients_paused") == 0.0);
}

#[test]
fn a_paused_client_that_reads_again_gets_everything_in_order() {
    let (server, sidecar) = started("client.output_pause_bytes = '64KiB'");
    server.conn().ask(&[&b"SET"[..], b"k", &vec![b'x'; 20_000]]);
    let mut conn = sidecar.conn();
    let bytes: Vec<u8> = (0..2000).flat_map(|i| format!("GET k\r\nECHO {i}\r\n").into_bytes()).collect();
    let mut writer = conn.writer();
    let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    eventually("it is paused", || sidecar.metric("sidecache_clients_paused") == 1.0);
    for i in 0..2000 {
        assert_eq!(conn.value().text().len(), 20_000);
        assert_eq!(conn.value().text(), i.to_string());
    }
    writing.join().unwrap();
}

#[test]
fn a_subscriber_that_never_reads_is_closed_at_its_limit_and_upstream_is_free() {
    let (server, sidecar) = started("client.output_limit_bytes = '4MiB'\nclient.output_pause_bytes = '64KiB'");
    sidecar.allow_log("output_limit_bytes");
    sidecar.allow_log("client");
    let unlimited = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0"];
    assert_eq!(server.conn().ask(&unlimited), V::Simple("OK".into()));
    let mut lazy = sidecar.conn();
    lazy.line("SUBSCRIBE ch");
    let message = "x".repeat(100_000);
    let mut publisher = server.conn();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut sent = 0;
    // Either it is closed or what waits for it stays upstream; in no case does it wait here.
    while sent < 400 && Instant::now() < deadline {
        publisher.ask(&["PUBLISH", "ch", &message]);
        sent += 1;
    }
    let rss = rss(&sidecar);
    assert!(rss < 60 << 20, "{rss} bytes");
    drop(lazy);
    eventually("upstream is free", || server.outside("PUBSUB NUMSUB ch").items()[1].int() == 0);
}

#[test]
fn a_reply_beyond_the_output_limit_closes_a_client_that_does_not_read() {
    let (server, sidecar) = started(
        "client.output_limit_bytes = '1MiB'\nclient.output_pause_bytes = '256KiB'\nupstream.large_request_bytes = '32MiB'",
    );
    sidecar.allow_log("output_limit_bytes");
    server.conn().ask(&[&b"SET"[..], b"big", &vec![b'x'; 20_000_000]]);
    let lazy = sidecar.conn();
    let mut writer = lazy.writer();
    writer.write_all(&b"GET big\r\n".repeat(20)).unwrap();
    eventually("it is closed", || {
        sidecar.metric("sidecache_clients") == 0.0 || sidecar.metric("sidecache_clients_paused") == 1.0
    });
    assert_eq!(sidecar.conn().line("STRLEN big").int(), 20_000_000);
}

#[test]
fn an_idle_client_is_closed_and_one_that_waits_is_not() {
    let (server, sidecar) = started("client.idle_timeout = '5s'");
    let (mut idle, mut blocked, mut subscribed, mut busy) =
        (sidecar.conn(), sidecar.conn(), sidecar.conn(), sidecar.conn());
    let begun = Instant::now();
    idle.line("GET k");
    blocked.send(&["BLPOP", "list", "0"]);
    subscribed.line("SUBSCRIBE ch");
    while !idle.at_eof() {
        busy.line("PING");
        assert!(begun.elapsed() < Duration::from_secs(30), "the idle client is still there");
    }
    assert!(begun.elapsed() >= Duration::from_secs(5), "too early");
    assert_eq!(busy.line("PING"), V::Simple("PONG".into()));
    server.outside("RPUSH list x");
    assert_eq!(blocked.value().items()[1].text(), "x");
    server.outside("PUBLISH ch m");
    assert_eq!(subscribed.value().items()[2].text(), "m");
    assert!(sidecar.metric("sidecache_clients_closed_total{reason=\"idle\"}") >= 1.0);
}

#[test]
fn one_client_too_many_is_told_so_in_redis_own_words() {
    let (_server, sidecar) = started("client.max_clients = 2");
    eventually("the harness's own client has left", || sidecar.metric("sidecache_clients") == 0.0);
    let (mut first, second) = (sidecar.conn(), sidecar.conn());
    eventually("both are in", || sidecar.metric("sidecache_clients") == 2.0);
    let mut third = sidecar.conn();
    assert_eq!(third.value(), V::Error("ERR max number of clients reached".into()));
    third.expect_closed();
    assert_eq!(first.line("PING"), V::Simple("PONG".into()));
    drop(second);
    eventually("there is room again", || {
        let mut conn = sidecar.conn();
        conn.try_send_raw(b"PING\r\n") && conn.try_read_frame().is_ok_and(|frame| frame == b"+PONG\r\n")
    });
}
