//! Refused commands, commands nobody knows, and what the configuration says of them: one reply per command, always.

use super::Pair;
use crate::support::redis::{KINDS, Kind};
use crate::support::{Server, Sidecar, V};

fn is_refusal(reply: &V) -> bool {
    matches!(reply, V::Error(text) if text.starts_with("NOPERM sidecache:") && text.contains("client."))
}

#[test]
fn a_refused_command_has_one_reply_that_names_the_key_of_the_configuration() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "client.refuse = ['keys', 'config|set']");
    let mut conn = sidecar.conn();
    for line in [
        "SHUTDOWN",
        "DEBUG SLEEP 0",
        "REPLICAOF no one",
        "SLAVEOF no one",
        "PSYNC ? -1",
        "SYNC",
        "REPLCONF a b",
        "FAILOVER",
        "MODULE LOAD x",
        "CLUSTER RESET",
        "SCRIPT DEBUG YES",
        "KEYS *",
        "CONFIG SET save x",
        "config set save y",
    ] {
        let replies = conn.pipeline(&["ECHO a", line, "ECHO b"]);
        assert_eq!((&replies[0], &replies[2]), (&V::bulk("a"), &V::bulk("b")), "{line}");
        assert!(is_refusal(&replies[1]), "{line}: {:?}", replies[1]);
    }
    assert!(!matches!(conn.line("CONFIG GET save"), V::Error(_)));
    let remedy = |text: String| text.rsplit(", ").next().unwrap().to_string();
    assert_eq!(remedy(conn.line("DEBUG SLEEP 0").text()), "add it to client.allow");
    assert_eq!(remedy(conn.line("KEYS *").text()), "take it out of client.refuse");
}

#[test]
fn a_refused_command_inside_multi_spoils_the_transaction() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "client.refuse = ['keys']");
        let mut conn = sidecar.conn();
        for refused in ["DEBUG SLEEP 0", "KEYS *", "SHUTDOWN"] {
            // In one write and line by line.
            let replies = conn.pipeline(&["MULTI", "SET k 1", refused, "SET k 2", "EXEC", "EXISTS k"]);
            assert!(is_refusal(&replies[2]), "{replies:?}");
            assert!(matches!(&replies[4], V::Error(text) if text.starts_with("EXECABORT")), "{replies:?}");
            assert_eq!(replies[5], V::Int(0));
            conn.line("MULTI");
            conn.line("SET k 1");
            assert!(is_refusal(&conn.line(refused)));
            assert!(matches!(conn.line("EXEC"), V::Error(text) if text.starts_with("EXECABORT")));
            assert_eq!(conn.line("EXISTS k"), V::Int(0));
        }
        for impossible in ["CLIENT GETNAME", "CLIENT KILL ID 1", "CLIENT ID", "CLIENT REPLY OFF", "HELLO 3", "AUTH x"] {
            let replies = conn.pipeline(&["MULTI", "SET k 1", impossible, "EXEC", "EXISTS k"]);
            assert!(replies[2].text().starts_with("ERR sidecache: "), "{replies:?}");
            assert!(replies[3].text().starts_with("EXECABORT"), "{replies:?}");
            assert_eq!(replies[4], V::Int(0));
        }
    }
}

#[test]
fn a_refused_command_is_allowed_if_the_configuration_says_so() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "client.allow = ['debug']");
    let mut pair = Pair::new(&sidecar, &server);
    pair.all_alike(&["SET k 1", "DEBUG SLEEP 0", "DEBUG STRINGMATCH-LEN 3 a", "GET k"]);
    pair.alike_at_once(&["GET k", "DEBUG SLEEP 0", "GET k"], 3);
}

#[test]
fn a_renamed_command_is_upstreams_own_and_is_asked_about_once() {
    let renamed = ["GET FETCH", "HGETALL WHOLE", "FLUSHALL "].map(|pair| format!("--rename-command {pair}"));
    let renamed: Vec<&str> = renamed.iter().flat_map(|option| option.split(' ')).collect();
    let (server, twin) = (Server::with(Kind::Redis, &renamed), Server::with(Kind::Redis, &renamed));
    let sidecar = Sidecar::start(&server, "");
    server.reset_calls();
    for mut pair in [Pair::new(&sidecar, &twin), Pair::new3(&sidecar, &twin)] {
        pair.all_alike(&[
            "SET k 1",
            "FETCH k",
            "HSET h a 1",
            "WHOLE h",
            "GET k",
            "HGETALL h",
            "FLUSHALL",
            "FETCH",
            "FETCH h",
        ]);
        for _ in 0..5 {
            pair.alike("FETCH k");
        }
        pair.alike_at_once(&["SET k 2", "FETCH k", "SET k 3", "FETCH k", "WHOLE h", "NOSUCH", "NOSUCH", "FETCH k"], 8);
        pair.alike_at_once(&["MULTI", "FETCH k", "WHOLE h", "EXEC"], 4);
        pair.alike_at_once(&["MULTI", "FETCH k", "NOSUCH", "EXEC"], 4);
    }
    assert_eq!(server.calls("command|info"), 3, "FETCH, WHOLE and NOSUCH, once each");
}

#[test]
fn unknown_commands_are_answered_in_upstreams_words() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "client.plain = ['nosuchplain']");
        for mut pair in [Pair::new(&sidecar, &server), Pair::new3(&sidecar, &server)] {
            pair.all_alike(&[
                "NOSUCH",
                "nosuch a b",
                "NoSuch x",
                "NOSUCHPLAIN a",
                "CLIENT NOSUCH",
                "CONFIG NOSUCH a",
                "OBJECT NOSUCH k",
                "XGROUP NOSUCH",
            ]);
            pair.alike_at_once(&["SET k 1", "NOSUCH", "GET k", "OTHER a", "GET k"], 5);
            pair.alike_args(&["", "x"], 1);
            pair.alike_args(&["no\r\nsuch", "x\r\n"], 1);
        }
    }
}

#[test]
fn a_refused_unknown_name_is_refused_without_asking_upstream() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "client.refuse = ['nosuch']");
    server.reset_calls();
    assert!(is_refusal(&sidecar.conn().line("NOSUCH a")));
    assert_eq!(server.calls("command|info"), 0);
}

#[test]
fn ping_and_echo_have_upstreams_forms_in_every_state() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    for state in ["GET k", "WATCH k", "MULTI", "SELECT 1", "HELLO 3"] {
        let mut pair = Pair::new(&sidecar, &server);
        pair.all_alike(&[state, "PING", "PING hello", "PING a b", "ECHO x", "ECHO", "ECHO a b", "ping", "PiNg x"]);
        pair.alike_args(&["PING", ""], 1);
        pair.alike_args(&["ECHO", "line\r\nbreak"], 1);
        pair.all_alike(&["READONLY", "READWRITE", "READONLY x"]);
    }
}
