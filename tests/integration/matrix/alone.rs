//! Commands with a case of their own: what works on in the background, what is binary, what wants another client.

use std::path::Path;
use std::time::Duration;

use super::ways::PATIENT;
use crate::samples::{self, of_row};
use crate::support::redis::{KINDS, Kind};
use crate::support::resp::{encode, words};
use crate::support::{Conn, Server, Sidecar, V, eventually};

/// Whether the integration tests have a test of this name.
pub fn is_a_test(name: &str) -> bool {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration")];
    let wanted = format!("#[test]\nfn {name}()");
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if std::fs::read_to_string(path).is_ok_and(|text| text.contains(&wanted)) {
            return true;
        }
    }
    false
}

/// Upstream, a sidecache before it, and a client of each in both versions of the protocol.
fn each_way(mut tell: impl FnMut(&Server, &mut Conn)) {
    for kind in KINDS {
        let server = Server::with(kind, &["--hz", "100"]);
        let sidecar = Sidecar::start(&server, PATIENT);
        for mut conn in [server.conn(), Conn::open3(server.addr()), sidecar.conn(), sidecar.conn3()] {
            tell(&server, &mut conn);
        }
    }
}

#[test]
fn saving_in_the_background_is_started() {
    each_way(|server, conn| {
        for (line, count, work) in [
            ("BGSAVE", "rdb_saves", "Background saving"),
            ("BGREWRITEAOF", "aof_rewrites", "Background append only file rewriting"),
        ] {
            let before: u32 = server.info("persistence")[count].parse().unwrap();
            let has_done = |more: u32| {
                let told = server.info("persistence");
                let over = told["rdb_bgsave_in_progress"] == "0" && told["aof_rewrite_in_progress"] == "0";
                over && told[count] == (before + more).to_string()
            };
            assert_eq!(conn.line(line), V::Simple(format!("{work} started")));
            eventually("it is done", || has_done(1));
            // In a transaction servers only make a note of it.
            let replies = conn.pipeline(&["MULTI", line, "EXEC"]);
            assert_eq!(replies[2], V::Array(vec![V::Simple(format!("{work} scheduled"))]));
            eventually("it is done again", || has_done(2));
        }
    });
}

#[test]
fn a_self_test_is_passed() {
    // Half a second's work on an idle machine, and more than the tests' patience on a busy one.
    let long = Duration::from_secs(60);
    for server in Server::both() {
        let sidecar = Sidecar::start(&server, "upstream.command_timeout = '60s'");
        let mut conn = sidecar.conn();
        conn.send(&["PFSELFTEST"]);
        assert_eq!(conn.try_read_within(long), Some(V::Simple("OK".into())));
    }
}

#[test]
fn what_is_dumped_is_restored() {
    const LIBRARY: &str = "#!lua name=lib\nredis.register_function('f', function() return 7 end)";
    each_way(|_, conn| {
        conn.call(&["SET", "k", "\r\n\0\u{e9}"]);
        assert_eq!(conn.call(&["FUNCTION", "LOAD", "REPLACE", LIBRARY]), b"$3\r\nlib\r\n");
        let [V::Bulk(key), V::Bulk(functions)] = [conn.line("DUMP k"), conn.line("FUNCTION DUMP")] else {
            panic!("no dumps");
        };
        assert_eq!(conn.line("FLUSHALL"), V::Simple("OK".into()));
        assert_eq!(conn.line("FUNCTION FLUSH"), V::Simple("OK".into()));
        assert_eq!(conn.call(&[&b"RESTORE"[..], b"k", b"0", &key]), b"+OK\r\n");
        assert_eq!(conn.call(&[&b"FUNCTION"[..], b"RESTORE", &functions]), b"+OK\r\n");
        assert_eq!(conn.line("GET k"), V::bulk("\r\n\0\u{e9}"));
        assert_eq!(conn.line("FCALL f 0"), V::Int(7));
    });
}

#[test]
fn a_function_is_killed_from_another_connection() {
    const LIBRARY: &str = "#!lua name=lib\nredis.register_function('f', function() while true do end end)";
    for kind in KINDS {
        let server = Server::with(kind, &["--busy-reply-threshold", "50"]);
        let sidecar = Sidecar::start(&server, PATIENT);
        for (mut runner, mut killer) in [(sidecar.conn(), sidecar.conn()), (sidecar.conn3(), sidecar.conn3())] {
            runner.call(&["FUNCTION", "LOAD", "REPLACE", LIBRARY]);
            runner.send(&["FCALL", "f", "0"]);
            eventually("FUNCTION KILL is taken", || killer.line("FUNCTION KILL") == V::Simple("OK".into()));
            assert!(runner.value().text().contains("killed"));
            assert!(killer.line("FUNCTION KILL").text().starts_with("NOTBUSY"));
        }
    }
}

#[test]
fn a_transaction_that_arrives_in_one_write_takes_no_connection_of_its_own() {
    let server = Server::with(Kind::Valkey, &[]);
    let one = "upstream.pool.max = 1\nupstream.pool.wait_timeout = '4s'";
    let sidecar = Sidecar::start(&server, &format!("{PATIENT}\n{one}"));
    let mut holder = sidecar.conn();
    assert_eq!(holder.line("WATCH none"), V::Simple("OK".into()));
    let has_none = |reply: &V| matches!(reply, V::Error(text) if text.contains("no free connection"));
    let rides = |words: &Vec<String>| of_row(words, |row, args| row.lane_safe_in_multi(args));
    let mut conn = sidecar.conn();
    for words in samples::all().into_iter().filter(rides) {
        conn.send_raw(&[encode(&["MULTI"]), encode(&words), encode(&["EXEC"])].concat());
        let replies = [conn.value(), conn.value(), conn.value()];
        assert!(!replies.iter().any(has_none), "{words:?}: {replies:?}");
    }
    conn.send_raw(&["MULTI", "SELECT 1", "EXEC"].map(|line| encode(&words(line))).concat());
    assert!(has_none(&conn.value()), "what does not ride is told that there is none");
    conn.expect_closed();
}
