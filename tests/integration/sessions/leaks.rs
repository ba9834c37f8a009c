//! No state of one client reaches another, whichever connections they have shared.

use super::Pair;
use crate::support::redis::KINDS;
use crate::support::{Server, Sidecar, V};

/// What a client may leave behind, each line a pipeline that ends with the client's leaving.
const LEFT: [&[&str]; 26] = [
    &["SELECT 1"],
    &["MULTI"],
    &["MULTI", "SET k stolen"],
    &["MULTI", "MULTI"],
    &["MULTI", "NOSUCH"],
    &["MULTI", "SELECT 1", "EXEC"],
    &["MULTI", "CLIENT REPLY OFF"],
    &["MULTI", "DISCARD x"],
    &["MULTI x"],
    &["EXEC", "DISCARD", "EXEC x"],
    &["WATCH k"],
    &["WATCH k", "EXEC"],
    &["WATCH k", "DISCARD"],
    &["WATCH k", "SELECT 1", "GET k"],
    &["WATCH k", "MULTI", "EXEC x"],
    &["CLIENT REPLY OFF", "WATCH k"],
    &["CLIENT REPLY OFF"],
    &["CLIENT REPLY SKIP"],
    &["CLIENT SETNAME x"],
    &["HELLO 3"],
    &["HELLO 3", "WATCH k", "UNWATCH"],
    &["HELLO 3", "CLIENT TRACKING on NOLOOP"],
    &["SUBSCRIBE k"],
    &["SUBSCRIBE k", "UNSUBSCRIBE k"],
    &["PSUBSCRIBE *", "PUNSUBSCRIBE"],
    &["CLIENT NO-EVICT on", "READONLY"],
];

#[test]
fn what_a_client_leaves_behind_reaches_no_other() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "upstream.pool.max = 1\nupstream.waiting_pool.max = 1");
        server.outside("SET k mine");
        for left in LEFT {
            for behind in [&[][..], &["BLPOP nolist 0.01"], &["FOO"], &["UNWATCH"]] {
                let mut leaving = sidecar.conn();
                for line in left.iter().chain(behind) {
                    leaving.send(&crate::support::resp::words(line));
                }
                leaving.send(&["QUIT"]);
                while leaving.try_read_frame().is_ok() {}
            }
            let mut pair = Pair::new(&sidecar, &server);
            pair.alike_at_once(
                &["GET k", "CLIENT GETNAME", "WATCH k", "GET k", "MULTI", "GET k", "EXEC", "GET k", "HGETALL nokey"],
                9,
            );
            pair.all_alike(&["MULTI", "GET k", "EXEC", "BLPOP nolist 0.01", "GET k", "EXEC", "FOO", "UNWATCH"]);
            server.outside("SET k mine");
            pair.all_alike(&["MULTI", "GET k"]);
            server.outside("SET k mine");
            pair.all_alike(&["EXEC", "BLPOP nolist 0.01", "SUBSCRIBE c", "UNSUBSCRIBE c", "PING"]);
        }
    }
}

#[test]
fn two_clients_in_transactions_at_once_are_apart() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let (mut a, mut b) = (sidecar.conn(), sidecar.conn());
    for (conn, line) in [(&mut a, "WATCH k"), (&mut b, "SELECT 1")] {
        conn.line(line);
    }
    for line in ["MULTI", "SET k a"] {
        a.line(line);
        b.line(&line.replace(" a", " b"));
    }
    assert_eq!(b.line("EXEC").items().len(), 1);
    assert_eq!(a.line("EXEC").items().len(), 1);
    assert_eq!((a.line("GET k"), b.line("GET k")), (V::bulk("a"), V::bulk("b")));
}

#[test]
fn a_watched_key_changed_by_another_client_of_the_sidecar_stops_the_transaction() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let (mut a, mut b) = (sidecar.conn(), sidecar.conn());
    for resp3 in [false, true] {
        if resp3 {
            a.line("HELLO 3");
        }
        a.line("WATCH k");
        b.line("SET k b");
        assert_eq!(a.pipeline(&["MULTI", "SET k a", "EXEC", "GET k"])[2..], [V::Nil, V::bulk("b")]);
        a.line("WATCH k");
        assert_eq!(a.line("SET k own"), V::Simple("OK".into()));
        assert_eq!(a.pipeline(&["MULTI", "SET k a", "EXEC"])[2], V::Nil);
    }
}

#[test]
fn the_database_after_a_transaction_is_the_one_that_its_selects_have_led_to() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    for db in 0..3 {
        server.conn().pipeline(&[&format!("SELECT {db}"), &format!("SET k {db}")]);
    }
    for lines in [
        &["SELECT 1"][..],
        &["GET k", "SELECT 1", "SELECT 99"],
        &["SELECT 99"],
        &["MULTI", "SELECT 1"],
        &["WATCH k", "GET k", "SELECT 2", "SELECT 99", "GET k"],
        &["SELECT 1", "NOSUCH"],
    ] {
        let mut pair = Pair::new(&sidecar, &server);
        let lines: Vec<&str> = ["MULTI"].iter().chain(lines).chain(&["EXEC", "GET k", "GET k"]).copied().collect();
        pair.alike_at_once(&lines, lines.len());
        pair.all_alike(&lines);
    }
}
