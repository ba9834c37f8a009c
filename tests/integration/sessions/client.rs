//! CLIENT's subcommands speak of the sidecache's clients, in upstream's words.

use std::time::{Duration, Instant};

use super::Pair;
use crate::support::redis::Kind;
use crate::support::resp::Stream;
use crate::support::wait::eventually_some;
use crate::support::{Conn, Server, Sidecar, V, eventually};

fn started() -> (Server, Sidecar) {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    (server, sidecar)
}

#[test]
fn a_client_has_the_name_it_has_given_itself() {
    let (server, sidecar) = started();
    for mut pair in [Pair::new(&sidecar, &server), Pair::new3(&sidecar, &server)] {
        pair.all_alike(&[
            "CLIENT GETNAME",
            "CLIENT SETNAME me",
            "CLIENT GETNAME",
            "CLIENT SETNAME",
            "CLIENT SETNAME a b",
            "CLIENT GETNAME x",
        ]);
        pair.alike_args(&["CLIENT", "SETNAME", "a b"], 1);
        pair.alike("CLIENT GETNAME");
        pair.alike_args(&["CLIENT", "SETNAME", ""], 1);
        pair.alike("CLIENT GETNAME");
        pair.all_alike(&[
            "CLIENT NO-EVICT on",
            "CLIENT NO-EVICT off",
            "CLIENT NO-EVICT maybe",
            "CLIENT NO-EVICT",
            "CLIENT GETREDIR",
            "CLIENT",
        ]);
        pair.all_alike(&[
            "client setname You",
            "Client GetName",
            "WATCH k",
            "CLIENT GETNAME",
            "CLIENT SETNAME z",
            "UNWATCH",
            "CLIENT GETNAME",
        ]);
    }
}

#[test]
fn what_drivers_say_at_the_start_of_a_connection_is_taken() {
    let server = Server::with(Kind::Valkey, &[]);
    let sidecar = Sidecar::start(&server, "");
    let mut pair = Pair::new(&sidecar, &server);
    pair.all_alike(&[
        "CLIENT SETINFO LIB-NAME x",
        "CLIENT SETINFO lib-ver 1.0",
        "CLIENT SETINFO BAD x",
        "CLIENT SETINFO LIB-NAME",
        "CLIENT CAPA redirect",
    ]);
    pair.alike_args(&["CLIENT", "SETINFO", "LIB-NAME", "a b"], 1);
    pair.alike_args(&["CLIENT", "SETINFO", "lib-ver", "1\n2"], 1);
    pair.all_alike(&["CLIENT NO-TOUCH on", "CLIENT NO-TOUCH off", "CLIENT NO-TOUCH bad"]);
    let line = pair.through.line("CLIENT INFO").text();
    assert!(line.contains(" lib-name=x ") && line.contains(" lib-ver=1.0"), "{line}");
}

#[test]
fn what_upstream_lacks_it_refuses_itself() {
    // Redis knows SETINFO and NO-TOUCH from 7.2 on, CAPA not at all.
    let (server, sidecar) = started();
    for mut pair in [Pair::new(&sidecar, &server), Pair::new3(&sidecar, &server)] {
        for state in ["GET k", "WATCH k"] {
            pair.all_alike(&[
                state,
                "CLIENT SETINFO LIB-NAME x",
                "CLIENT SETINFO LIB-NAME",
                "CLIENT NO-TOUCH on",
                "CLIENT CAPA redirect",
                "CLIENT GETNAME",
            ]);
            pair.alike_at_once(&["GET k", "CLIENT SETINFO LIB-NAME x", "CLIENT GETNAME", "GET k"], 4);
        }
    }
}

#[test]
fn ids_lists_and_kills_are_about_the_sidecars_own_clients() {
    let (_server, sidecar) = started();
    let [mut a, mut b, mut c] = [(); 3].map(|()| sidecar.conn());
    let ids: Vec<i64> = [&mut a, &mut b, &mut c].into_iter().map(|conn| conn.line("CLIENT ID").int()).collect();
    assert!(ids[0] < ids[1] && ids[1] < ids[2], "{ids:?}");
    b.line("CLIENT SETNAME bee");
    b.line("SELECT 3");
    let list = a.line("CLIENT LIST").text();
    let line = list.lines().find(|line| line.contains("name=bee")).expect("b's line");
    assert!(line.starts_with(&format!("id={} ", ids[1])) && line.contains(" db=3 "), "{line}");
    assert_eq!(list.lines().count(), 3, "{list}");
    assert_eq!(a.line(&format!("CLIENT LIST ID {} {}", ids[0], ids[2])).text().lines().count(), 2);
    assert_eq!(a.line("CLIENT INFO").text().split(' ').next(), Some(&*format!("id={}", ids[0])));

    assert_eq!(a.line(&format!("CLIENT KILL ID {}", ids[1])).int(), 1);
    b.expect_closed();
    assert_eq!(a.line(&format!("CLIENT KILL ID {}", ids[1])).int(), 0);
    let address = c.line("CLIENT INFO").text();
    let address = address.split(' ').find_map(|word| word.strip_prefix("addr=")).unwrap();
    assert_eq!(a.line(&format!("CLIENT KILL {address}")), V::Simple("OK".into()));
    c.expect_closed();
    assert_eq!(a.line("CLIENT KILL TYPE normal").int(), 0, "SKIPME is the default");
}

#[test]
fn who_hears_that_a_client_was_killed_finds_it_closed() {
    let server = Server::redis();
    for threads in [1, 2] {
        let sidecar = Sidecar::start(&server, &format!("threads = {threads}"));
        let mut killer = sidecar.conn();
        killer.line("PING");
        for _ in 0..5 {
            let victims: Vec<Conn> = (0..100).map(|_| sidecar.conn3()).collect();
            let asked = Instant::now();
            assert_eq!(killer.line("CLIENT KILL TYPE normal").int(), 100);
            // Killing waits for a second at most: what stands still for longer is not waited for.
            let waited = asked.elapsed() < Duration::from_secs(1);
            for victim in victims {
                let Stream::Tcp(socket) = victim.writer() else { unreachable!() };
                socket.set_nonblocking(true).unwrap();
                let is_closed = || socket.peek(&mut [0]).ok() == Some(0);
                assert!(is_closed() || !waited);
                eventually("it is closed", is_closed);
            }
        }
    }
}

#[test]
fn a_client_that_kills_itself_is_answered_and_closed() {
    let (server, sidecar) = started();
    let mut pair = Pair::new(&sidecar, &server);
    for conn in [&mut pair.through, &mut pair.direct] {
        let id = conn.line("CLIENT ID").int();
        assert_eq!(conn.line(&format!("CLIENT KILL ID {id}")).int(), 0);
        conn.send_raw(format!("CLIENT KILL ID {id} SKIPME no\r\nSET late 1\r\n").as_bytes());
        assert_eq!(conn.value().int(), 1);
        conn.expect_closed();
    }
    assert_eq!(server.outside("EXISTS late").int(), 0);
}

#[test]
fn a_killed_client_in_any_state_leaves_and_so_does_what_waits_for_it_upstream() {
    let (server, sidecar) = started();
    let mut killer = sidecar.conn();
    for state in ["BLPOP nolist 0", "SUBSCRIBE ch", "MULTI", "WATCH k", "MONITOR", "GET k"] {
        let mut victim = sidecar.conn();
        let id = victim.line("CLIENT ID").int();
        victim.send(&crate::support::resp::words(state));
        if state.starts_with("BLPOP") {
            eventually("blocked upstream", || server.info("clients")["blocked_clients"] == "1");
        } else {
            victim.value();
        }
        assert_eq!(killer.line(&format!("CLIENT KILL ID {id}")).int(), 1, "{state}");
        victim.expect_closed();
    }
    eventually("unblocked upstream", || server.info("clients")["blocked_clients"] == "0");
    eventually("unsubscribed upstream", || server.outside("PUBSUB NUMSUB ch").items()[1].int() == 0);
}

#[test]
fn the_list_tells_what_state_a_client_is_in_with_redis_letters() {
    let (server, sidecar) = started();
    for state in ["BLPOP nolist 0", "SUBSCRIBE ch", "MULTI", "MONITOR", "WATCH k", "GET k"] {
        let [direct, through] = [server.addr(), sidecar.addr()].map(|addr| {
            let (mut observer, mut client) = (Conn::open(addr), Conn::open(addr));
            let id = client.line("CLIENT ID").int();
            client.send(&crate::support::resp::words(state));
            let mut line = String::new();
            let flags = eventually_some("the letters are there", || {
                line = observer.line(&format!("CLIENT LIST ID {id}")).text();
                let flags = line.split(' ').find_map(|word| word.strip_prefix("flags="))?;
                (flags != "N" || matches!(state, "WATCH k" | "GET k")).then(|| flags.to_owned())
            });
            let subscribers = observer.line("CLIENT LIST TYPE pubsub").text();
            (flags, subscribers.contains(&format!("id={id} ")))
        });
        assert_eq!(through, direct, "{state}");
    }
}

#[test]
fn whoever_may_not_kill_clients_upstream_may_not_here() {
    let (server, sidecar) = started();
    server.outside("ACL SETUSER some on >secret ~* +@all -client|kill");
    let (mut victim, mut some) = (sidecar.conn(), sidecar.conn());
    some.line("AUTH some secret");
    let id = victim.line("CLIENT ID").int();
    let refused = some.line(&format!("CLIENT KILL ID {id}"));
    let mut direct = server.conn();
    direct.line("AUTH some secret");
    assert_eq!(refused, direct.line("CLIENT KILL ID 1"));
    assert!(refused.text().starts_with("NOPERM"), "{refused:?}");
    assert_eq!(victim.line("CLIENT ID").int(), id, "it lives");
    server.outside("ACL SETUSER some +client|kill");
    assert_eq!(some.line(&format!("CLIENT KILL ID {id}")).int(), 1);
    victim.expect_closed();
}

/// Everything that a client gets for these lines, sent in one write and closed by QUIT.
fn everything(mut conn: Conn, lines: &[&str]) -> Vec<String> {
    let bytes: Vec<u8> = lines
        .iter()
        .chain(&["CLIENT REPLY ON", "QUIT"])
        .flat_map(|line| crate::support::resp::encode(&crate::support::resp::words(line)))
        .collect();
    conn.send_raw(&bytes);
    let mut frames = Vec::new();
    while let Ok(frame) = conn.try_read_frame() {
        frames.push(String::from_utf8_lossy(&frame).into_owned());
    }
    frames
}

#[test]
fn client_reply_silences_what_upstream_would_silence() {
    let (_server, sidecar) = started();
    let twin = Server::redis();
    for lines in [
        &["CLIENT REPLY OFF", "GET k", "SET k 2", "PING", "NOSUCH", "GET"][..],
        &["CLIENT REPLY SKIP", "GET k", "GET k", "PING"],
        &["GET k", "CLIENT REPLY SKIP", "SET k 1", "CLIENT REPLY SKIP", "PING", "ECHO a"],
        &["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "GET k", "GET k"],
        &["CLIENT REPLY OFF", "CLIENT REPLY SKIP", "GET k", "CLIENT REPLY ON", "GET k"],
        &["CLIENT REPLY SKIP", "CLIENT REPLY BAD", "GET k", "GET k"],
        &["CLIENT REPLY SKIP", "MULTI", "GET k", "EXEC", "GET k"],
        &["CLIENT REPLY OFF", "MULTI", "GET k", "EXEC", "GET k", "CLIENT REPLY ON", "GET k"],
        &["WATCH k", "CLIENT REPLY SKIP", "GET k", "GET k", "UNWATCH"],
        &["WATCH k", "CLIENT REPLY OFF", "GET k", "CLIENT REPLY ON", "GET k", "UNWATCH"],
        &["CLIENT REPLY SKIP", "BLPOP nolist 0.01", "GET k"],
        &["CLIENT REPLY SKIP", "SELECT 1", "GET k"],
        &["CLIENT REPLY OFF", "SELECT 1", "SET k 3", "SELECT 0", "CLIENT REPLY ON", "GET k"],
        &["CLIENT REPLY SKIP", "EVAL return{1} 0", "GET k"],
        &["CLIENT REPLY OFF", "HELLO 3", "CLIENT REPLY ON", "GET nokey"],
        &["CLIENT REPLY OFF", "RESET", "GET k"],
        &["CLIENT REPLY OFF", "WAIT 0 0", "CLIENT REPLY ON", "GET k"],
        &["CLIENT REPLY SKIP", "UNWATCH", "GET k", "GET k"],
        &["CLIENT REPLY SKIP", "AUTH default x", "GET k", "GET k"],
        &["CLIENT REPLY SKIP", "NOSUCH", "GET k"],
        &["CLIENT REPLY ON"],
    ] {
        // Through the sidecache, so that the next read through it sees it.
        assert_eq!(sidecar.conn().line("SET k 1"), twin.outside("SET k 1"));
        assert_eq!(everything(sidecar.conn(), lines), everything(twin.conn(), lines), "{lines:?}");
    }
}

#[test]
fn client_unblock_takes_the_sidecars_ids() {
    let (server, sidecar) = started();
    let (mut waiter, mut other) = (sidecar.conn(), sidecar.conn());
    let id = waiter.line("CLIENT ID").int();
    for (how, expected) in
        [("TIMEOUT", V::Nil), ("ERROR", V::Error("UNBLOCKED client unblocked via CLIENT UNBLOCK".into()))]
    {
        waiter.send(&["BLPOP", "nolist", "0"]);
        eventually("blocked upstream", || server.info("clients")["blocked_clients"] == "1");
        assert_eq!(other.line(&format!("CLIENT UNBLOCK {id} {how}")).int(), 1);
        assert_eq!(waiter.value(), expected);
        assert_eq!(other.line(&format!("CLIENT UNBLOCK {id}")).int(), 0);
    }
    assert_eq!(waiter.line("PING"), V::Simple("PONG".into()));
}

#[test]
fn client_pause_holds_writes_and_unpause_is_not_behind_them() {
    let (_server, sidecar) = started();
    let (mut writer, mut other) = (sidecar.conn(), sidecar.conn());
    assert_eq!(other.line("CLIENT PAUSE 60000 WRITE"), V::Simple("OK".into()));
    writer.send(&["SET", "k", "1"]);
    assert_eq!(other.line("CLIENT UNPAUSE"), V::Simple("OK".into()));
    assert_eq!(writer.value(), V::Simple("OK".into()));
}
