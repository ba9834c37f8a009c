//! CLIENT PAUSE ... WRITE through the sidecache: who writes waits, who reads does not.

use crate::support::redis::KINDS;
use crate::support::resp::{encode, words};
use crate::support::{Conn, Server, Sidecar, V, eventually};

const PAUSE: &str = "CLIENT PAUSE 100000 WRITE";

fn ok() -> V {
    V::Simple("OK".into())
}

fn blocked(server: &Server, count: usize) {
    let count = count.to_string();
    eventually("so many are blocked upstream", || server.info("clients")["blocked_clients"] == count);
}

#[test]
fn what_writes_waits_for_the_end_of_a_pause_and_what_reads_does_not() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "");
        let (mut pauser, mut reader) = (sidecar.conn(), sidecar.conn());
        pauser.line("SET k old");
        assert_eq!([(); 3].map(|()| reader.line("GET k").text()), ["old"; 3]);
        let mut transaction = sidecar.conn();
        assert_eq!(transaction.line("MULTI"), ok());
        transaction.line("SET t 1");
        assert_eq!(pauser.line(PAUSE), ok());

        let large = format!("SET large {}", "x".repeat(300_000));
        let held: [&[&str]; 9] = [
            &["SET k new"],
            &["PFCOUNT hll"],
            &["PUBLISH ch hello"],
            &["EVAL return(1) 0"],
            &["MULTI", "INCR n", "EXEC"],
            &["FLUSHALL"],
            &["FUNCTION FLUSH"],
            &["SORT list STORE sorted"],
            &[&large],
        ];
        let mut waiters: Vec<(Conn, &[&str])> = held.map(|lines| (sidecar.conn(), lines)).into();
        for (conn, lines) in &mut waiters {
            conn.send_raw(&lines.iter().flat_map(|line| encode(&words(line))).collect::<Vec<u8>>());
        }
        transaction.send(&["EXEC"]);
        blocked(&server, held.len() + 1);
        for line in [
            "GET k",
            "GET other",
            "MGET k l",
            "EVAL_RO return(7) 0",
            "STRLEN k",
            "DBSIZE",
            "INFO",
            "SCRIPT LOAD return(1)",
        ] {
            assert!(!matches!(reader.line(line), V::Error(_)), "{line}");
        }
        assert_eq!(reader.line("GET k").text(), "old");
        assert!(matches!(&reader.pipeline(&["MULTI", "GET k", "PING", "EXEC"])[3], V::Array(_)));
        assert!(reader.line("SET k").text().contains("wrong number of arguments"));

        assert_eq!(pauser.line("CLIENT UNPAUSE"), ok());
        for (conn, lines) in &mut waiters {
            assert!(lines.iter().all(|_| !matches!(conn.value(), V::Error(_))), "{lines:.80?}");
        }
        assert_eq!(transaction.value(), V::Array(vec![ok()]));
        blocked(&server, 0);
        assert_eq!(pauser.line("SET k newest"), ok());
        assert_eq!(reader.line("GET k").text(), "newest");
    }
}

#[test]
fn a_pause_may_last_longer_than_command_timeout() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.command_timeout = '4s'");
    let mut pauser = sidecar.conn();
    assert_eq!(pauser.line("CLIENT PAUSE 6000 WRITE"), ok());
    let mut conns = [(); 3].map(|()| sidecar.conn());
    conns[0].send(&["SET", "a", "1"]);
    conns[1].send_raw(b"WATCH k\r\nMULTI\r\nSET b 1\r\nEXEC\r\n");
    conns[2].send_raw(b"MULTI\r\nSET c 1\r\nEXEC\r\nGET c\r\n");
    assert_eq!(conns[0].value(), ok());
    let queued = V::Simple("QUEUED".into());
    let done = V::Array(vec![ok()]);
    assert_eq!([(); 4].map(|()| conns[1].value()), [ok(), ok(), queued.clone(), done.clone()]);
    assert_eq!([(); 4].map(|()| conns[2].value()), [ok(), queued, done, V::bulk("1")]);
}

#[test]
fn a_pause_does_not_overtake_what_the_lanes_carry() {
    let server = Server::redis();
    // A held lane would keep its readers for longer than these wait.
    let sidecar = Sidecar::start(&server, "threads = 2\nupstream.command_timeout = '60s'");
    let mut pauser = sidecar.conn();
    let mut writers: Vec<Conn> = (0..8).map(|_| sidecar.conn()).collect();
    const WRITES: usize = 2000;
    for round in 0..5 {
        let writes = format!("SET k {round}\r\n").repeat(WRITES);
        for writer in &mut writers {
            writer.send_raw(writes.as_bytes());
        }
        assert_eq!(pauser.line(PAUSE), ok());
        for i in 0..4 {
            assert_eq!(sidecar.conn().line(&format!("GET no{round}{i}")), V::Nil);
        }
        assert_eq!(pauser.line("CLIENT UNPAUSE"), ok());
        for writer in &mut writers {
            assert!((0..WRITES).all(|_| writer.value() == ok()));
        }
    }
}

#[test]
fn a_pause_in_a_transaction_begins_with_its_end() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let (mut pauser, mut writer, mut reader) = (sidecar.conn(), sidecar.conn(), sidecar.conn());
    for line in ["MULTI", "SET a 1", PAUSE, "SET b 2"] {
        pauser.line(line);
    }
    assert_eq!(writer.line("SET before 1"), ok());
    assert_eq!(pauser.line("EXEC"), V::Array(vec![ok(), ok(), ok()]));
    writer.send(&["SET", "c", "3"]);
    blocked(&server, 1);
    assert_eq!(reader.pipeline(&["GET a", "GET b", "GET c"]), [V::bulk("1"), V::bulk("2"), V::Nil]);
    assert_eq!(pauser.line("CLIENT UNPAUSE"), ok());
    assert_eq!(writer.value(), ok());
}

#[test]
fn who_leaves_during_a_pause_has_not_written() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut pauser = sidecar.conn();
    assert_eq!(pauser.line(PAUSE), ok());
    let mut writer = sidecar.conn();
    writer.send(&["SET", "k", "1"]);
    blocked(&server, 1);
    drop(writer);
    blocked(&server, 0);
    assert_eq!(pauser.line("CLIENT UNPAUSE"), ok());
    assert_eq!(server.outside("GET k"), V::Nil);
}

#[test]
fn a_pause_that_upstream_refuses_holds_nobody() {
    let server = Server::redis();
    server.outside("ACL SETUSER pat on >pw ~* +@all -client|pause");
    // Whoever took a connection for waiting would be refused it while the other has the only one.
    let sidecar = Sidecar::start(&server, "upstream.waiting_pool.max = 1");
    let (mut pat, mut waiter) = (sidecar.conn(), sidecar.conn());
    assert_eq!(pat.line("AUTH pat pw"), ok());
    waiter.send(&["BLPOP", "list", "0"]);
    blocked(&server, 1);
    assert!(pat.line(PAUSE).text().starts_with("NOPERM"));
    let mut writer = sidecar.conn();
    assert_eq!(writer.line("SET k 1"), ok());
    for line in ["CLIENT PAUSE abc", "CLIENT PAUSE -1", "CLIENT PAUSE 100000 NOSUCH"] {
        assert!(matches!(writer.line(line), V::Error(_)), "{line}");
        assert_eq!(writer.line("SET k 1"), ok());
    }
}
