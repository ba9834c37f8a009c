//! What the conversation has made of the connection, and what replies are taken for.

use std::collections::HashSet;

use super::{in_use, ok, send_all};
use crate::support::{Scripted, Server, Sidecar, V, eventually};

#[test]
fn transactions_gone_wrong_leave_nothing_to_the_next_client() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.pool.max = 1");
    let wrong: [&[&str]; 9] = [
        &["MULTI", "MULTI", "EXEC"],
        &["WATCH k", "EXEC", "UNWATCH"],
        &["WATCH k", "DISCARD", "UNWATCH"],
        &["MULTI", "WATCH k", "EXEC"],
        &["MULTI", "NOSUCH", "EXEC"],
        &["EXEC"],
        &["WATCH k", "EXEC"],
        &["WATCH k", "DISCARD"],
        &["WATCH", "DISCARD"],
    ];
    for lines in wrong {
        for at_once in [true, false] {
            let (mut direct, mut conn) = (server.conn(), sidecar.conn());
            if at_once {
                assert_eq!(conn.pipeline(lines), direct.pipeline(lines), "{lines:?}");
            } else {
                lines.iter().for_each(|line| assert_eq!(conn.line(line), direct.line(line), "{lines:?}: {line}"));
            }
            drop(conn);
            eventually("the connection is given back", || in_use(&sidecar, "transaction") == 0.0);
            let mut next = sidecar.conn();
            server.outside("SET k 1");
            assert_eq!(next.line("WATCH other"), ok(), "{lines:?}");
            server.outside("SET k 2");
            assert_eq!([next.line("MULTI"), next.line("GET k")], [ok(), V::Simple("QUEUED".into())], "{lines:?}");
            assert_eq!(next.line("EXEC"), V::Array(vec![V::bulk("2")]), "{lines:?}");
        }
    }
}

#[test]
fn a_connection_that_has_carried_an_unknown_command_serves_nobody_else() {
    let upstream = Scripted::start(|turn| {
        while let Some(command) = turn.next() {
            match command[0].as_str() {
                "COMMAND" => turn.reply("*1\r\n*-1\r\n"),
                "MOD.ACT" => turn.reply("+OK\r\n"),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, "upstream.pool.max = 1");
    let mut conn = sidecar.conn();
    (0..3).for_each(|_| assert_eq!(conn.line("MOD.ACT"), ok()));
    let commands = upstream.commands();
    let of: HashSet<usize> =
        commands.iter().filter(|(_, command)| command[0] == "MOD.ACT").map(|(of, _)| *of).collect();
    assert_eq!(of.len(), 3);
}

#[test]
fn what_exec_subscribed_to_stays_with_its_client() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.pool.max = 1");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH k"), ok());
    let replies = conn.pipeline(&["MULTI", "SUBSCRIBE c", "EXEC"]);
    assert_eq!((&replies[0], &replies[1]), (&ok(), &V::Simple("QUEUED".into())));
    server.outside("PUBLISH c m");
    assert_eq!(conn.value(), V::Array(vec![V::bulk("message"), V::bulk("c"), V::bulk("m")]));
    drop(conn);
    eventually("its connection is closed", || server.outside("PUBLISH c m") == V::Int(0));
    let mut next = sidecar.conn();
    assert_eq!([next.line("WATCH k"), next.line("GET k")], [ok(), V::Nil]);
    next.nothing_for(std::time::Duration::from_millis(100));
}

#[test]
fn an_array_that_looks_like_a_message_is_a_reply_all_the_same() {
    let server = Server::redis();
    server.outside("RPUSH l message c m");
    server.outside("RPUSH s subscribe c 1");
    let sidecar = Sidecar::start(&server, "");
    let list = |words: [&str; 3]| V::Array(words.map(V::bulk).to_vec());
    let (message, confirmation) = (list(["message", "c", "m"]), list(["subscribe", "c", "1"]));
    let mut conn = sidecar.conn3();
    conn.line("SUBSCRIBE c");
    for _ in 0..2 {
        assert_eq!(conn.line("LRANGE l 0 -1"), message);
        assert_eq!(conn.line("LRANGE s 0 -1"), confirmation);
    }
    // A reply taken for news would still be owed: what is answered here waits for it.
    assert!(conn.line("CLIENT ID").int() > 0);
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH k"), ok());
    send_all(&mut conn, &["LRANGE l 0 -1", "LRANGE s 0 -1", "SUBSCRIBE d", "UNSUBSCRIBE d", "CLIENT ID"]);
    assert_eq!([conn.value(), conn.value()], [message, confirmation]);
    assert_eq!([conn.value().items()[0].text(), conn.value().items()[0].text()], ["subscribe", "unsubscribe"]);
    assert!(conn.value().int() > 0);
}

#[test]
fn client_reply_silences_replies_each_in_its_turn_and_no_messages() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    for mut conn in [server.conn(), sidecar.conn()] {
        let lines = ["WATCH k", "CLIENT REPLY SKIP", "SET k 1", "GET k", "CLIENT REPLY OFF", "GET k", "SET k 2"];
        send_all(&mut conn, &lines);
        send_all(&mut conn, &["CLIENT REPLY ON", "GET k", "UNWATCH"]);
        assert_eq!([conn.value(), conn.value(), conn.value()], [ok(), V::bulk("1"), ok()]);
        assert_eq!([conn.value(), conn.value()], [V::bulk("2"), ok()]);
        send_all(&mut conn, &["CLIENT REPLY OFF", "SUBSCRIBE c"]);
        assert_eq!(conn.value().items()[0], V::bulk("subscribe"));
        eventually("it is subscribed", || server.outside("PUBLISH c m") == V::Int(1));
        assert_eq!(conn.value().items()[2], V::bulk("m"));
        drop(conn);
        eventually("it is gone", || server.outside("PUBLISH c m") == V::Int(0));
    }
}

#[test]
fn wait_in_a_transaction_is_queued_alone() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH k"), ok());
    let queued = || V::Simple("QUEUED".into());
    let replies = conn.pipeline(&["MULTI", "SET k 1", "WAIT 0 0", "GET k", "EXEC"]);
    let done = V::Array(vec![ok(), V::Int(0), V::bulk("1")]);
    assert_eq!(replies, [ok(), queued(), queued(), queued(), done]);
}

#[test]
fn a_database_is_a_number_as_servers_read_it() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let (mut direct, mut conn) = (server.conn(), sidecar.conn());
    for db in ["+1", "01", "-1", "1x", "99", " 1", "1"] {
        for conn in [&mut direct, &mut conn] {
            conn.line("WATCH k");
        }
        assert_eq!(conn.ask(&["SELECT", db]), direct.ask(&["SELECT", db]), "{db}");
        let lines = [&format!("SET db:{db} 1")[..], "UNWATCH", "DBSIZE"];
        assert_eq!(conn.pipeline(&lines)[2], direct.pipeline(&lines)[2], "{db}");
    }
}
