//! Conversations on dedicated connections: what is sent at once, what waits, what is given up, and that nothing of it
//! is left to the next client.

mod bounds;
mod state;

use std::time::{Duration, Instant};

use crate::support::resp::{Stream, decode, encode, words};
use crate::support::{Conn, Server, Sidecar, V, eventually};

/// "OK".
fn ok() -> V {
    V::Simple("OK".into())
}

/// Sends all lines in one write.
fn send_all(conn: &mut Conn, lines: &[&str]) {
    let bytes: Vec<u8> = lines.iter().flat_map(|line| encode(&words(line))).collect();
    conn.send_raw(&bytes);
}

/// Says that nothing more will be said.
fn shut_down(conn: &Conn) {
    if let Stream::Tcp(stream) = conn.writer() {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

/// The next frames up to the end; `None` if that took longer than a sidecache answers who will say no more.
fn told(mut conn: Conn) -> Option<Vec<V>> {
    let said = Instant::now();
    shut_down(&conn);
    let mut replies = Vec::new();
    while let Ok(frame) = conn.try_read_frame() {
        replies.push(decode(&frame).unwrap().0);
    }
    conn.expect_closed();
    (said.elapsed() < Duration::from_secs(1)).then_some(replies)
}

fn in_use(sidecar: &Sidecar, pool: &str) -> f64 {
    sidecar.metric(&format!("sidecache_pool_in_use{{pool=\"{pool}\"}}"))
}

#[test]
fn a_read_right_behind_watch_is_part_of_the_conversation() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut conn = sidecar.conn();
    send_all(&mut conn, &["WATCH k", "GET k"]);
    assert_eq!((conn.value(), conn.value()), (ok(), V::Nil));
    server.outside("SET k 1");
    let replies = conn.pipeline(&["MULTI", "SET k 2", "EXEC", "GET k"]);
    assert_eq!(replies, [ok(), V::Simple("QUEUED".into()), V::Nil, V::bulk("1")]);
    assert!(sidecar.metric(r#"sidecache_cache_bypass_total{reason="transaction"}"#) >= 1.0);
}

/// Upstream has nothing to say about it that would take it along.
#[test]
fn what_is_refused_in_a_conversation_is_told_at_once() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH k"), ok());
    for (line, error) in [("SHUTDOWN", "NOPERM "), ("AUTH none", "ERR sidecache: 'auth' is not possible ")] {
        let reply = conn.line(line);
        assert!(matches!(&reply, V::Error(text) if text.starts_with(error)), "{line}: {reply:?}");
    }
    assert_eq!(conn.line("UNWATCH"), ok());
}

#[test]
fn a_protocol_error_is_told_and_ends_the_connection_alone_and_in_a_conversation() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    for wrong in ["*x\r\n", "*1\r\n$x\r\n"] {
        for begin in ["", "WATCH k\r\n", "SUBSCRIBE c\r\n"] {
            let (mut direct, mut conn) = (server.conn(), sidecar.conn());
            for conn in [&mut direct, &mut conn] {
                conn.send_raw(format!("{begin}{wrong}").as_bytes());
            }
            for _ in 0..1 + usize::from(!begin.is_empty()) {
                assert_eq!(conn.value(), direct.value(), "{begin}{wrong}");
            }
            conn.expect_closed();
        }
    }
}

#[test]
fn who_has_said_all_is_told_all() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut conn = sidecar.conn();
    let large = "x".repeat(100 * 1024);
    conn.send_raw(&[encode(&["SET", "big", &large]), encode(&words("SET after 1")), encode(&["PING"])].concat());
    assert!(told(conn).is_none_or(|replies| replies == [ok(), ok(), V::Simple("PONG".into())]));
    let mut conn = sidecar.conn();
    send_all(&mut conn, &["WATCH k", "MULTI", "SET k 5", "GET k", "EXEC"]);
    assert!(told(conn).is_none_or(|replies| replies[4..] == [V::Array(vec![ok(), V::bulk("5")])]));
    eventually("its connection is given back", || in_use(&sidecar, "transaction") == 0.0);
}

#[test]
fn a_client_that_leaves_while_another_command_is_waited_for_frees_its_connection() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH k"), ok());
    send_all(&mut conn, &["BLPOP q 0", "CLIENT ID"]);
    eventually("it is blocked", || server.info("clients")["blocked_clients"] == "1");
    drop(conn);
    eventually("its connection is closed", || {
        in_use(&sidecar, "transaction") == 0.0 && server.info("clients")["blocked_clients"] == "0"
    });
}

#[test]
fn whoever_kills_itself_in_a_conversation_is_told_before_the_end() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH k"), ok());
    let id = conn.line("CLIENT ID").int();
    assert_eq!(conn.line(&format!("CLIENT KILL ID {id} SKIPME no")), V::Int(1));
    conn.expect_closed();
    eventually("its connection is closed", || in_use(&sidecar, "transaction") == 0.0);
}

#[test]
fn a_name_that_upstream_did_not_explain_is_asked_again_and_answered_once() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    server.outside("ACL SETUSER default -command|info");
    let mut conn = sidecar.conn();
    // Upstream says neither yes nor no: it is nothing that could be learned.
    let before = server.calls("command|info");
    for _ in 0..2 {
        let replies = conn.pipeline(&["ECHO a", "NOSUCH x", "ECHO b"]);
        assert_eq!((&replies[0], &replies[2]), (&V::bulk("a"), &V::bulk("b")));
        assert!(replies[1].text().starts_with("ERR unknown command"), "{replies:?}");
    }
    assert_eq!(server.calls("command|info"), before);
    server.outside("ACL SETUSER default +command|info");
    (0..3).for_each(|_| assert!(conn.line("NOSUCH x").text().starts_with("ERR unknown command")));
    assert_eq!(server.calls("command|info"), before + 1);
    conn.nothing_for(Duration::from_millis(100));
}
