//! What upstream itself says in trouble is passed on; what no Redis would say ends the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{allow_loss, is_ready};
use crate::support::resp::{encode, words};
use crate::support::{Kind, Scripted, Server, Sidecar, V, eventually};

#[test]
fn out_of_memory_is_upstreams_own_error_and_reads_go_on() {
    let server = Server::redis();
    server.outside("SET k v");
    server.outside("CONFIG SET maxmemory 1");
    let sidecar = Sidecar::start(&server, "");
    let (mut conn, mut direct) = (sidecar.conn(), server.conn());
    for line in ["SET k 2", "LPUSH l 1", "EVAL return(redis.call('set','k','2')) 1 k", "GET k"] {
        assert_eq!(conn.line(line), direct.line(line), "{line}");
    }
    assert!(conn.line("SET k 2").text().starts_with("OOM "));
    let block = ["MULTI", "SET k 2", "EXEC"];
    assert_eq!(conn.pipeline(&block), direct.pipeline(&block));
}

#[test]
fn a_read_only_replica_says_so_itself() {
    let primary = Server::redis();
    primary.outside("SET k v");
    let port = primary.port().to_string();
    let replica = Server::with(Kind::Redis, &["--replicaof", "127.0.0.1", &port]);
    eventually("the replica is in sync", || replica.outside("GET k") == V::bulk("v"));
    let sidecar = Sidecar::start(&replica, "");
    let mut conn = sidecar.conn();
    assert!(conn.line("SET k 2").text().starts_with("READONLY "));
    assert_eq!(conn.line("GET k"), V::bulk("v"));
}

#[test]
fn a_loading_upstream_says_so_itself_and_nothing_of_it_is_cached() {
    let loading = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&loading);
    let upstream = Scripted::start(move |turn| {
        while let Some(command) = turn.next() {
            // INFO is answered while a server loads.
            let loads = now.load(Ordering::SeqCst) && command[0] != "INFO";
            turn.reply(if loads { "-LOADING Redis is loading\r\n" } else { "$1\r\nv\r\n" });
        }
    });
    let sidecar = Sidecar::start(&upstream, "");
    let mut conn = sidecar.conn();
    for _ in 0..3 {
        assert_eq!(conn.call(&["GET", "k"]), b"-LOADING Redis is loading\r\n");
    }
    loading.store(false, Ordering::SeqCst);
    assert_eq!(conn.line("GET k"), V::bulk("v"));
}

#[test]
fn an_upstream_with_too_many_clients_says_so_itself_until_it_has_room() {
    let server = Server::with(Kind::Redis, &["--maxclients", "3"]);
    let others = [server.admitted(), server.admitted(), server.admitted()];
    let sidecar = Sidecar::start_alone(&server, "upstream.backoff_max = '100ms'");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    let text = conn.line("GET k").text();
    assert!(text.contains("max number of clients reached"), "{text}");
    assert!(!is_ready(&sidecar));
    drop(others);
    eventually("it is ready, though nobody asks", || is_ready(&sidecar));
    assert_eq!(conn.line("GET k"), V::Nil);
}

/// A server that says `mad` once, in answer to the first GET, and behaves from the next connection on.
fn mad_once(mad: &'static str) -> Scripted {
    let said = AtomicBool::new(false);
    Scripted::start(move |turn| {
        while let Some(command) = turn.next() {
            let first = command[0] == "GET" && !said.swap(true, Ordering::SeqCst);
            turn.reply(if first { mad } else { "$4\r\nsane\r\n" });
        }
    })
}

#[test]
fn garbage_from_upstream_ends_the_connection_and_nothing_of_it_reaches_a_client() {
    for mad in ["garbage\r\n", "$-7\r\n", "*1\r\n%x\r\n", ":12a\r\n", "$3\r\nabcde"] {
        let upstream = mad_once(mad);
        let sidecar = Sidecar::start(&upstream, "");
        allow_loss(&sidecar);
        let mut conn = sidecar.conn();
        let replies = conn.pipeline(&["GET k", "GET j"]);
        for reply in &replies {
            let sane = *reply == V::bulk("sane");
            assert!(sane || reply.text().starts_with("ERR sidecache: the connection"), "{mad:?}: {reply:?}");
        }
        assert_ne!(replies[0], V::bulk("sane"), "{mad:?}");
        assert_eq!(conn.line("GET k"), V::bulk("sane"), "{mad:?}");
    }
}

#[test]
fn a_reply_too_many_ends_the_connection_before_it_can_shift_another() {
    let upstream = mad_once("$1\r\n1\r\n$7\r\nunasked\r\n");
    let sidecar = Sidecar::start(&upstream, "");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("GET k"), V::bulk("1"));
    eventually("the lane is lost", || sidecar.metric("sidecache_lane_losses_total") == 1.0);
    assert_eq!(conn.pipeline(&["GET k", "GET j"]), [V::bulk("sane"), V::bulk("sane")]);
}

#[test]
fn a_rotated_password_is_read_anew_at_the_next_connect() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "old\n").unwrap();
    let server = Server::with(Kind::Redis, &["--requirepass", "old"]);
    let sidecar = Sidecar::start(&server, &format!("upstream.password_file = '{}'", file.display()));
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("SET k 1"), V::Simple("OK".into()));
    let mut operator = server.conn();
    operator.line("CONFIG SET requirepass new");
    std::fs::write(&file, "new\n").unwrap();
    operator.line("CLIENT KILL TYPE normal SKIPME yes");
    eventually("it is back", || conn.line("GET k") == V::bulk("1"));
    assert_eq!(conn.line("WATCH k"), V::Simple("OK".into()), "dedicated connections too");
}

#[test]
fn an_exec_that_does_not_end_the_transaction_ends_the_lane() {
    // Redis has no such reply: whoever sends it may still be in MULTI, for everybody on the lane.
    let large = "x".repeat(3 << 20);
    for reply in [String::from("+QUEUED\r\n"), format!("${}\r\n{large}\r\n", large.len())] {
        let upstream = Scripted::start(move |turn| {
            while let Some(command) = turn.next() {
                match command.join(" ").as_str() {
                    "GET k" => turn.reply("$1\r\nv\r\n"),
                    "EXEC" => turn.reply(&reply),
                    _ => turn.reply("+QUEUED\r\n"),
                }
            }
        });
        let sidecar = Sidecar::start(&upstream, "");
        let mut conn = sidecar.conn();
        assert_eq!(conn.line("GET k"), V::bulk("v"));
        allow_loss(&sidecar);
        conn.send_raw(&["MULTI", "GET k", "EXEC"].map(|line| encode(&words(line))).concat());
        eventually("the lane is given up", || sidecar.metric("sidecache_lane_losses_total") == 1.0);
        assert_eq!(sidecar.conn().line("GET k"), V::bulk("v"));
    }
}
