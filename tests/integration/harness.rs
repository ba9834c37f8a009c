//! The harness's own tests, against direct servers: what it measures with must be right first.

mod many;
mod sidecar;

use std::time::{Duration, Instant};

use crate::support::link::BOTH;
use crate::support::redis::{KINDS, process_state};
use crate::support::resp::{decode, encode};
use crate::support::wait::holds_within;
use crate::support::{Conn, Dir, Kind, Link, Scripted, Server, V, eventually};

/// Long enough to be told from the time that loopback takes, short enough to wait for.
const DELAY: Duration = Duration::from_millis(150);

#[test]
fn a_redis_server_answers() {
    let server = Server::redis();
    let mut conn = server.conn();
    assert_eq!(conn.call(&["SET", "k", "1"]), b"+OK\r\n");
    assert_eq!(conn.call(&["GET", "k"]), b"$1\r\n1\r\n");
    assert_eq!(conn.line("GET none"), V::Nil);
    assert_eq!(conn.pipeline(&["INCR n", "INCR n"]), [V::Int(1), V::Int(2)]);
}

#[test]
fn a_valkey_server_answers() {
    let server = Server::valkey();
    assert_eq!(server.info("server")["server_name"], "valkey");
}

#[test]
fn both_kinds_run_at_the_same_time() {
    let servers = Server::both();
    assert_eq!(servers.each_ref().map(|server| server.kind), KINDS);
    for server in &servers {
        assert_eq!(server.info("server")["process_id"], server.pid().to_string());
    }
}

#[test]
fn a_server_can_be_started_with_arguments() {
    let server = Server::with(Kind::Redis, &["--requirepass", "x"]);
    assert_eq!(server.conn().line("PING"), V::Simple("PONG".into()));
    assert!(Conn::open(server.addr()).line("PING").text().starts_with("NOAUTH"));
}

#[test]
fn a_server_s_calls_are_counted() {
    let server = Server::redis();
    assert_eq!(server.calls("get"), 0);
    server.conn().pipeline(&["GET k", "GET k", "CLIENT TRACKING off"]);
    assert_eq!((server.calls("get"), server.calls("client|tracking")), (2, 1));
    server.reset_calls();
    assert_eq!(server.calls("get"), 0);
}

#[test]
fn a_killed_server_comes_back_on_its_port_and_empty() {
    let server = Server::redis();
    let mut conn = server.conn();
    conn.line("SET k 1");
    let (pid, addr) = (server.pid(), server.addr());
    server.kill();
    conn.expect_closed();
    assert!(Conn::try_open(addr).is_err());
    server.restart();
    assert_eq!(server.conn().line("GET k"), V::Nil);
    assert_ne!(server.pid(), pid);
}

#[test]
fn a_stopped_server_is_silent_and_then_goes_on() {
    let server = Server::redis();
    let mut conn = server.conn();
    server.stop();
    conn.send(&["PING"]);
    conn.nothing_for(Duration::from_millis(50));
    server.cont();
    assert_eq!(conn.value(), V::Simple("PONG".into()));
}

#[test]
fn a_dropped_server_has_ended() {
    let server = Server::redis();
    let pid = server.pid();
    drop(server);
    assert_eq!(process_state(pid), None);
}

#[test]
fn the_client_cuts_frames_exactly() {
    let server = Server::redis();
    let mut conn = Conn::open3(server.addr());
    conn.line("HSET h a 1 b 2");
    conn.line("SADD s x");
    conn.send_raw(&[encode(&["HGETALL", "h"]), encode(&["SMEMBERS", "s"]), encode(&["GET", "none"])].concat());
    assert_eq!(conn.read_frame(), b"%2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n");
    assert_eq!(conn.value(), V::Set(vec![V::bulk("x")]));
    assert_eq!(conn.read_frame(), b"_\r\n");
}

#[test]
fn the_decoder_needs_the_last_byte_and_leaves_the_next_frame() {
    let frames: [&[u8]; 9] = [
        b"+OK\r\n",
        b"$-1\r\n",
        b"*2\r\n:1\r\n*1\r\n$3\r\na\r\n\r\n",
        b"%1\r\n+a\r\n#t\r\n",
        b">2\r\n+invalidate\r\n_\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"!5\r\nERR x\r\n",
        b"|1\r\n+ttl\r\n:1\r\n,3.14\r\n",
        b"*0\r\n",
    ];
    for frame in frames {
        for cut in 0..frame.len() {
            assert_eq!(decode(&frame[..cut]), None);
        }
        let with_more = [frame, b"+more"].concat();
        assert_eq!(decode(&with_more).unwrap().1, frame.len());
    }
}

#[test]
fn the_client_sees_the_end_of_a_connection() {
    let server = Server::redis();
    let mut conn = server.conn();
    assert!(!conn.at_eof());
    assert_eq!(conn.call(&["QUIT"]), b"+OK\r\n");
    conn.expect_closed();
    assert!(conn.at_eof());
}

#[test]
fn a_link_passes_bytes_and_counts_them() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let mut conn = Conn::open(link.addr());
    let big = "x".repeat(1 << 20);
    assert_eq!(conn.call(&["SET", "k", &big]), b"+OK\r\n");
    assert_eq!(conn.ask(&["GET", "k"]), V::bulk(&big));
    assert_eq!(link.bytes(Dir::ToClient), 5 + 10 + (1 << 20) + 2);
    assert!(link.connections()[0].said(Dir::ToServer, "SET"));
}

#[test]
fn a_link_delays_each_direction_and_connection_on_its_own() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let (mut slow, mut quick) = (Conn::open(link.addr()), Conn::open(link.addr()));
    slow.line("ECHO slow");
    quick.line("ECHO quick");
    let took = |conn: &mut Conn| {
        let start = Instant::now();
        conn.line("PING");
        start.elapsed()
    };
    for dir in BOTH {
        let those = link.those(|connection| connection.said(Dir::ToServer, "slow"));
        those[0].delay(dir, DELAY);
        assert!(took(&mut slow) >= DELAY, "{dir:?}");
        // Longer than anybody waits.
        those[0].delay(dir, Duration::from_secs(3600));
        slow.send(&["PING"]);
        quick.line("PING");
        slow.nothing_for(Duration::from_millis(20));
        those[0].delay(dir, Duration::ZERO);
        assert_eq!(slow.value(), V::Simple("PONG".into()), "{dir:?}");
    }
    link.delay(Dir::ToClient, DELAY);
    assert!(took(&mut Conn::open(link.addr())) >= DELAY, "a connection to come");
}

#[test]
fn a_link_keeps_order_while_its_delay_shrinks() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let mut conn = Conn::open(link.addr());
    conn.line("PING");
    link.delay(Dir::ToServer, Duration::from_secs(60));
    conn.send(&["RPUSH", "l", "1"]);
    eventually("the first command is in the link", || link.bytes(Dir::ToServer) > 40);
    link.delay(Dir::ToServer, Duration::ZERO);
    conn.send(&["RPUSH", "l", "2"]);
    assert_eq!((conn.value(), conn.value()), (V::Int(1), V::Int(2)));
    assert_eq!(server.outside("LRANGE l 0 -1"), V::Array(vec![V::bulk("1"), V::bulk("2")]));
}

#[test]
fn a_link_holds_bytes_and_lets_them_go() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let mut conn = Conn::open(link.addr());
    conn.line("PING");
    link.hold();
    conn.send(&["SET", "k", "1"]);
    conn.nothing_for(Duration::from_millis(30));
    assert_eq!(server.calls("set"), 0);
    link.resume();
    assert_eq!(conn.value(), V::Simple("OK".into()));
}

#[test]
fn a_link_swallows_bytes() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let mut conn = Conn::open(link.addr());
    conn.line("PING");
    link.connections()[0].swallow(Dir::ToClient);
    let before = link.bytes(Dir::ToClient);
    conn.send(&["INCR", "n"]);
    eventually("the reply is swallowed", || link.bytes(Dir::ToClient) == before + 4);
    conn.nothing_for(Duration::from_millis(30));
    link.resume();
    assert_eq!(conn.line("INCR n"), V::Int(2));
}

#[test]
fn a_link_cuts_in_the_middle_of_a_reply() {
    let server = Server::redis();
    server.outside("SET k 0123456789");
    let link = Link::to(server.addr());
    let mut conn = Conn::open(link.addr());
    conn.line("PING");
    link.connections()[0].cut_in_next(Dir::ToClient);
    conn.send(&["GET", "k"]);
    let error = conn.try_read_frame().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(!conn.at_eof(), "half of the reply has come");
    assert!(!link.connections()[0].is_open());
}

#[test]
fn a_link_cuts_resets_and_refuses() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    for end in [Link::cut, Link::reset] {
        let mut conn = Conn::open(link.addr());
        conn.line("PING");
        end(&link);
        conn.expect_closed();
    }
    link.refuse(true);
    let refused = Conn::try_open(link.addr()).and_then(|mut conn| {
        conn.try_send_raw(b"PING\r\n");
        conn.try_read_frame()
    });
    assert!(refused.is_err());
    link.refuse(false);
    let mut accepted = Conn::open(link.addr());
    assert_eq!(accepted.line("PING"), V::Simple("PONG".into()));
    eventually("the server sees the cut ones leave", || server.info("clients")["connected_clients"] == "2");
}

#[test]
fn a_reset_shows_as_a_reset() {
    use std::io::{Read, Write};
    let server = Server::redis();
    let link = Link::to(server.addr());
    let mut stream = std::net::TcpStream::connect(link.addr()).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    stream.read_exact(&mut [0; 7]).unwrap();
    link.reset();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_scripted_upstream_shakes_hands_by_itself_and_follows_its_script() {
    let upstream = Scripted::start(|turn| {
        if turn.expect("GET k") {
            turn.invalidate(&["k", "j"]);
            turn.reply("$1\r\n1\r\n");
        }
    });
    let mut conn = Conn::open3(upstream.addr());
    assert_eq!(conn.line("CLIENT TRACKING ON OPTIN"), V::Simple("OK".into()));
    assert_eq!(conn.line("CLIENT TRACKINGINFO").field("redirect"), Some(&V::Int(0)));
    conn.send(&["GET", "k"]);
    assert_eq!(conn.value(), V::Push(vec![V::bulk("invalidate"), V::Array(vec![V::bulk("k"), V::bulk("j")])]));
    assert_eq!(conn.value(), V::bulk("1"));
    conn.expect_closed();
    assert_eq!((upstream.received("GET k"), upstream.received("HELLO 3"), upstream.opened()), (1, 1, 1));
}

#[test]
fn a_scripted_upstream_hands_over_what_the_script_takes() {
    let upstream = Scripted::start(|turn| {
        turn.take("PING");
        turn.answer("CLIENT CACHING", "-BUSY\r\n");
        turn.expect("PING");
        turn.reply("-LOADING\r\n");
        turn.idle();
    });
    let mut conn = Conn::open(upstream.addr());
    assert_eq!(conn.call(&["CLIENT", "CACHING", "YES"]), b"-BUSY\r\n");
    assert_eq!(conn.call(&["PING"]), b"-LOADING\r\n");
}

#[test]
fn a_script_that_fails_fails_the_test() {
    let upstream = Scripted::start(|turn| {
        turn.expect("GET k");
    });
    let mut conn = Conn::open(upstream.addr());
    conn.send(&["GET", "j"]);
    conn.expect_closed();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(upstream)));
    assert!(dropped.is_err());
}

#[test]
fn a_table_of_replies_is_a_script() {
    let upstream = Scripted::replies(&[("GET k", "$1\r\n1\r\n")]);
    let mut conn = Conn::open(upstream.addr());
    assert_eq!(conn.pipeline(&["GET k", "PING"]), [V::bulk("1"), V::Simple("PONG".into())]);
    assert!(conn.line("GET j").text().starts_with("ERR"));
}

#[test]
fn waiting_ends_when_the_condition_holds_or_patience_is_over() {
    let mut looks = 0;
    eventually("three looks", || {
        looks += 1;
        looks == 3
    });
    assert!(!holds_within(Duration::from_millis(10), || false));
}
