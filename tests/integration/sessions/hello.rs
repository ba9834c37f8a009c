//! HELLO, AUTH, SELECT, RESET, QUIT: upstream's own answers, for each user its own rights.

use super::Pair;
use crate::support::redis::{KINDS, Kind};
use crate::support::{Server, Sidecar, V, eventually};

const ALICE: &str = "ACL SETUSER alice on >secret ~a:* ~k +@all -flushall -@dangerous";

#[test]
fn hello_is_answered_in_all_its_forms_as_upstream_does() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "");
        server.outside(ALICE);
        let mut pair = Pair::new(&sidecar, &server);
        pair.all_alike(&["HELLO", "HELLO 2", "HELLO 3", "HELLO", "HELLO 2", "HELLO 3 SETNAME me", "CLIENT GETNAME"]);
        pair.all_alike(&[
            "HELLO 1",
            "HELLO 4",
            "HELLO abc",
            "HELLO 99999999999999999999",
            "HELLO 3 BAD",
            "HELLO 3 SETNAME",
        ]);
        pair.all_alike(&[
            "HELLO 3 AUTH x",
            "HELLO 3 AUTH nobody x",
            "HELLO 2 AUTH alice wrong",
            "GET nokey",
            "CLIENT GETNAME",
        ]);
        pair.all_alike(&[
            "HELLO 2 AUTH alice secret SETNAME al",
            "CLIENT GETNAME",
            "ACL WHOAMI",
            "GET b",
            "GET k",
            "hello 3 setname b auth alice secret",
        ]);
        pair.alike_args(&["HELLO", "3", "SETNAME", "a b"], 1);
        pair.all_alike(&["CLIENT GETNAME", "GET nokey"]);
    }
}

#[test]
fn before_authentication_everything_is_answered_as_upstream_does() {
    for kind in KINDS {
        let server = Server::with(kind, &["--requirepass", "secret"]);
        let sidecar = Sidecar::start(&server, "upstream.password = 'secret'\nclient.require_auth = true");
        let mut pair = Pair::new(&sidecar, &server);
        // Redis 7.0 looks for unknown names and at the number of arguments first; Valkey 9 and we do not.
        pair.all_alike(&[
            "GET k",
            "PING",
            "HELLO",
            "HELLO 3",
            "HELLO 2",
            "SELECT 1",
            "MULTI",
            "EXEC",
            "SUBSCRIBE a",
            "CLIENT SETNAME x",
        ]);
        pair.all_alike(&[
            "AUTH",
            "AUTH wrong",
            "AUTH default wrong",
            "AUTH nobody secret",
            "AUTH a b c",
            "HELLO 3 AUTH default wrong",
        ]);
        pair.all_alike(&[
            "PING",
            "HELLO 3 AUTH default secret",
            "GET nokey",
            "RESET",
            "GET nokey",
            "AUTH secret",
            "GET nokey",
        ]);
        let mut pair = Pair::new(&sidecar, &server);
        pair.alike_at_once(&["GET a", "AUTH secret", "GET a", "AUTH wrong", "GET a", "QUIT", "GET a"], 6);
        pair.both_closed();
    }
}

#[test]
fn a_client_that_does_not_authenticate_acts_as_the_configured_user() {
    let server = Server::with(Kind::Redis, &["--requirepass", "secret"]);
    let sidecar = Sidecar::start(&server, "upstream.password = 'secret'");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("SET k 1"), V::Simple("OK".into()));
    assert_eq!(conn.line("ACL WHOAMI").text(), "default");
    let mut pair = Pair { through: conn, direct: server.conn() };
    pair.all_alike(&["AUTH wrong", "GET k", "AUTH secret", "GET k", "RESET"]);
}

#[test]
fn each_user_has_its_own_rights_and_its_own_cache() {
    let server = Server::redis();
    server.outside(ALICE);
    server.outside("ACL SETUSER bob on >word ~* +@all -get");
    let sidecar = Sidecar::start(&server, "");
    let [mut alice, mut bob, mut nobody] = [(); 3].map(|()| Pair::new(&sidecar, &server));
    nobody.all_alike(&["SET k 1", "SET b 2", "SET a:1 x"]);
    alice.alike("AUTH alice secret");
    bob.alike("AUTH bob word");
    for _ in 0..4 {
        nobody.all_alike(&["GET k", "GET b", "MGET k b"]);
        alice.all_alike(&["GET k", "GET b", "MGET k b", "MGET k a:1", "FLUSHALL", "GET a:1", "CONFIG GET save"]);
        bob.all_alike(&["GET k", "GET b", "MGET k b", "STRLEN k"]);
    }
    bob.alike_at_once(&["MULTI", "GET k", "STRLEN k", "EXEC", "STRLEN k"], 5);
    alice.all_alike(&["MULTI", "GET k", "GET b", "EXEC", "GET k", "PING", "WATCH b", "SUBSCRIBE nochannel"]);
}

#[test]
fn a_password_that_was_right_is_upstreams_to_judge_each_time() {
    let server = Server::redis();
    server.outside(ALICE);
    let sidecar = Sidecar::start(&server, "upstream.connect_timeout = '20s'");
    let (mut first, mut second) = (sidecar.conn(), sidecar.conn());
    assert_eq!(first.line("AUTH alice secret"), V::Simple("OK".into()));
    server.outside("ACL SETUSER alice resetpass >other");
    // The lane of who has come with it before is there as it was.
    assert_eq!(second.line("AUTH alice secret"), server.conn().line("AUTH alice secret"));
}

#[test]
fn a_right_taken_away_or_a_user_deleted_through_the_sidecar_ends_its_hits() {
    for how in ["ACL SETUSER alice -get", "ACL SETUSER alice resetkeys", "ACL DELUSER alice"] {
        let server = Server::redis();
        server.outside(ALICE);
        let sidecar = Sidecar::start(&server, "");
        let (mut admin, mut alice) = (sidecar.conn(), sidecar.conn());
        assert_eq!(alice.line("AUTH alice secret"), V::Simple("OK".into()));
        admin.line("SET k 1");
        for _ in 0..3 {
            assert_eq!(alice.line("GET k").text(), "1");
        }
        assert!(!matches!(admin.line(how), V::Error(_)));
        // A deleted user's connections are closed by upstream; the lane is lost.
        sidecar.allow_log("lane lost");
        sidecar.allow_log("no connection to upstream");
        eventually("no value after the right is gone", || {
            let reply = alice.line("GET k");
            assert!(matches!(reply, V::Error(_)), "{how}: {reply:?}");
            reply.text().starts_with("NOPERM") || reply.text().starts_with("WRONGPASS")
        });
        if how.contains("DELUSER") {
            alice.expect_closed();
        }
    }
}

#[test]
fn select_is_answered_by_upstream_and_only_its_own_client_is_moved() {
    for kind in KINDS {
        let server = Server::with(kind, &["--databases", "4"]);
        let twin = Server::with(kind, &["--databases", "4"]);
        let sidecar = Sidecar::start(&server, "");
        let mut pair = Pair::new(&sidecar, &twin);
        pair.all_alike(&[
            "SET k zero",
            "SELECT 1",
            "GET k",
            "SET k one",
            "SELECT 4",
            "GET k",
            "SELECT 99",
            "SELECT abc",
            "SELECT -1",
            "SELECT",
        ]);
        pair.all_alike(&[
            "SELECT 1 2",
            "GET k",
            "SELECT 3",
            "GET k",
            "SELECT 0",
            "GET k",
            "SELECT 00",
            "GET k",
            "SELECT 99999999999",
            "SELECT 1.0",
            "GET k",
        ]);
        let other = &mut sidecar.conn();
        for _ in 0..3 {
            assert_eq!(other.line("GET k").text(), "zero");
            pair.all_alike(&["SELECT 1", "GET k"]);
        }
        pair.alike_at_once(
            &[
                "SELECT 0", "GET k", "SELECT 1", "GET k", "SET k 2", "SELECT 0", "GET k", "MOVE k 2", "SELECT 2",
                "GET k",
            ],
            10,
        );
    }
}

#[test]
fn the_resp_version_changes_on_a_connection_of_ones_own_too() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.pool.max = 1");
    let mut pair = Pair::new(&sidecar, &server);
    pair.alike("WATCH k");
    pair.all_alike(&["HELLO 3", "HGETALL k", "HELLO 3 SETNAME", "HELLO 4", "GET k", "UNWATCH", "HGETALL k"]);
    // The next one who has that connection speaks as it likes.
    let mut next = Pair::new(&sidecar, &server);
    next.all_alike(&["WATCH k", "HGETALL k", "UNWATCH"]);
    pair.all_alike(&["CLIENT TRACKING on", "HGETALL k"]);
    pair.all_alike(&["HELLO 2", "HGETALL k", "PING"]);
}

#[test]
fn reset_makes_a_client_a_new_one() {
    let server = Server::redis();
    let twin = Server::redis();
    for server in [&server, &twin] {
        server.outside(ALICE);
    }
    let sidecar = Sidecar::start(&server, "");
    for before in [
        "SELECT 1",
        "HELLO 3",
        "MULTI",
        "WATCH k",
        "CLIENT SETNAME x",
        "AUTH alice secret",
        "CLIENT REPLY ON",
        "SUBSCRIBE c",
        "MONITOR",
    ] {
        let mut pair = Pair::new(&sidecar, &twin);
        pair.all_alike(&[before, "RESET", "GET k", "CLIENT GETNAME", "ACL WHOAMI", "EXEC", "HGETALL k", "PING"]);
        for server in [&server, &twin] {
            server.outside("SET k 1");
        }
        pair.alike_at_once(&["MULTI", "GET k", "EXEC", "DEL k"], 4);
    }
}

#[test]
fn quit_in_a_pipeline_is_answered_and_what_follows_it_is_not_executed() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    for lines in [
        &["SET k 1", "GET k", "QUIT", "SET k 2"][..],
        &["MULTI", "SET k 3", "QUIT", "EXEC"],
        &["WATCH k", "GET k", "QUIT", "SET k 4"],
        &["QUIT", "QUIT"],
        &["EVAL return{1} 0", "QUIT", "SET k 5"],
    ] {
        let mut pair = Pair::new(&sidecar, &server);
        let replies = lines.iter().position(|line| *line == "QUIT").unwrap() + 1;
        pair.alike_at_once(lines, replies);
        pair.both_closed();
    }
    assert_eq!(server.outside("GET k").text(), "1");
}
