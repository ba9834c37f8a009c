//! Every queue has an end, and says so when it is reached.

use crate::support::link::Dir;
use crate::support::resp::{encode, words};
use crate::support::{Link, Server, Sidecar, V, eventually};

fn repeated(line: &str, times: usize) -> Vec<u8> {
    encode(&words(line)).repeat(times)
}

#[test]
fn a_lane_takes_so_many_commands_and_refuses_more_at_once() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.lane_max_commands = 100");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("SET k 0"), V::Simple("OK".into()));
    server.stop();
    conn.send_raw(&repeated("INCR k", 300));
    let errors = r#"sidecache_errors_total{kind="lane_full"}"#;
    eventually("the rest is refused", || sidecar.metric(errors) == 200.0);
    server.cont();
    for n in 1..=300 {
        match conn.value() {
            V::Int(value) => assert!(n <= 100 && value == n),
            V::Error(text) => assert!(n > 100 && text.contains("lane_max_commands") && text.contains("not sent")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(conn.line("GET k"), V::bulk("100"));
}

#[test]
fn a_lane_takes_so_many_bytes_and_refuses_more_at_once() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.lane_max_bytes = '1MiB'\nclient.max_pipeline = 4000");
    server.stop();
    let mut conn = sidecar.conn();
    let mut writer = conn.writer();
    let bytes = encode(&["APPEND", "k", &"x".repeat(50_000)]).repeat(400);
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
    let errors = r#"sidecache_errors_total{kind="lane_full"}"#;
    eventually("some are refused", || sidecar.metric(errors) > 100.0);
    sending.join().unwrap();
    server.cont();
    let mut appended = 0;
    for _ in 0..400 {
        match conn.value() {
            V::Int(length) => {
                appended += 1;
                assert_eq!(length, appended * 50_000);
            }
            V::Error(text) => assert!(text.contains("lane_max_bytes"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.outside("STRLEN k"), V::Int(appended * 50_000));
}

#[test]
fn replies_held_for_invalidations_are_bounded() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.held_max_bytes = '4KiB'");
    let mut conn = sidecar.conn();
    let script = "return(string.rep('x',ARGV[1]))";
    assert_eq!(conn.ask(&["EVAL", script, "0", "3000"]), V::bulk("x".repeat(3000)));
    let text = conn.ask(&["EVAL", script, "0", "5000"]).text();
    assert!(text.contains("held_max_bytes") && text.contains("was executed"), "{text}");
    assert_eq!(sidecar.metric(r#"sidecache_errors_total{kind="lane_full"}"#), 1.0);
    assert_eq!(conn.ask(&["EVAL", script, "0", "3000"]), V::bulk("x".repeat(3000)));
    assert_eq!((sidecar.metric("sidecache_held_bytes"), sidecar.metric("sidecache_held_replies")), (0.0, 0.0));
}

#[test]
fn a_large_reply_that_takes_its_value_away_is_not_lost_to_the_bound_on_held_replies() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.held_max_bytes = '1MiB'");
    let mut conn = sidecar.conn();
    let large = "x".repeat(3 << 20);
    assert_eq!(server.conn().call(&["SET", "large", &large]), b"+OK\r\n");
    assert_eq!(conn.ask(&["GETDEL", "large"]), V::bulk(&large));
}

#[test]
fn a_client_parks_so_many_reads_and_the_rest_are_fetched() {
    let server = Server::redis();
    server.outside("SET k v");
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "client.max_pipeline = 5000\ncache.max_staleness = '10s'");
    let mut conn = sidecar.conn();
    let hits = r#"sidecache_commands_total{class="read",outcome="hit"}"#;
    eventually("it is cached", || conn.line("GET k") == V::bulk("v") && sidecar.metric(hits) > 0.0);
    let lane = link.those(|connection| connection.said(Dir::ToServer, "TRACKING")).pop().unwrap();
    lane.hold(Dir::ToClient);
    conn.send_raw(&[repeated("GET missing", 1), repeated("GET k", 3000)].concat());
    eventually("all are taken", || sidecar.metric("sidecache_parked_reads_total") == 3000.0);
    assert!((1.0..=1024.0).contains(&sidecar.metric("sidecache_parked_reads")));
    lane.resume(Dir::ToClient);
    assert_eq!(conn.value(), V::Nil);
    (0..3000).for_each(|_| assert_eq!(conn.value(), V::bulk("v")));
    assert_eq!(sidecar.metric("sidecache_parked_reads"), 0.0);
}

#[test]
fn a_client_that_does_not_read_is_paused_and_the_others_are_not() {
    let server = Server::redis();
    server.conn().call(&["SET", "k", &"x".repeat(50_000)]);
    let sidecar = Sidecar::start(&server, "");
    let mut lazy = sidecar.conn();
    let mut writer = lazy.writer();
    let asking = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &repeated("GET k", 3000)));
    eventually("it is paused", || sidecar.metric("sidecache_clients_paused") == 1.0);
    let before = super::rss(&sidecar);
    let mut other = sidecar.conn();
    for n in 0..200 {
        assert_eq!(other.line(&format!("SET n {n}")), V::Simple("OK".into()));
    }
    assert!(super::rss(&sidecar) < before + (8 << 20));
    (0..3000).for_each(|_| assert_eq!(lazy.read_frame().len(), 50_010));
    asking.join().unwrap().unwrap();
    eventually("it is paused no more", || sidecar.metric("sidecache_clients_paused") == 0.0);
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_at_its_limit_or_paused_below_it() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "client.output_limit_bytes = '4MiB'");
    sidecar.allow_log("output_limit_bytes");
    let mut lazy = sidecar.conn();
    lazy.line("SUBSCRIBE ch");
    let mut publisher = server.conn();
    let message = "x".repeat(100_000);
    let before = super::rss(&sidecar);
    (0..1000).for_each(|_| drop(publisher.call(&["PUBLISH", "ch", &message])));
    assert!(super::rss(&sidecar) < before + (64 << 20));
    // It has lost nothing silently: what it gets is the messages in order, or the end.
    while let Ok(frame) = lazy.try_read_frame() {
        assert!(frame.ends_with(b"x\r\n"));
        if lazy.at_eof() || sidecar.metric("sidecache_clients_paused") == 0.0 {
            break;
        }
    }
}

#[test]
fn clients_beyond_the_limit_are_told_so() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "client.max_clients = 5");
    eventually("the harness's own client has left", || sidecar.metric("sidecache_clients") == 0.0);
    let mut conns: Vec<_> = (0..5).map(|_| sidecar.conn()).collect();
    conns.iter_mut().for_each(|conn| assert_eq!(conn.line("GET k"), V::Nil));
    let mut sixth = sidecar.conn();
    assert_eq!(sixth.read_frame(), b"-ERR max number of clients reached\r\n");
    sixth.expect_closed();
    assert!(sidecar.metric("sidecache_clients_rejected_total") >= 1.0);
    drop(conns.pop());
    eventually("there is room again", || {
        let mut conn = sidecar.conn();
        conn.try_send_raw(b"GET k\r\n") && conn.try_read_frame().is_ok_and(|reply| reply == b"$-1\r\n")
    });
}
