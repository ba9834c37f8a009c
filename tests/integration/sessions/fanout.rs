//! Many subscribers share one subscription at upstream; each of them sees what it would see alone.

use std::sync::Mutex;

use crate::support::link::Dir;
use crate::support::redis::KINDS;
use crate::support::{Conn, Link, Scripted, Server, Sidecar, V, eventually};

/// Connections to the server that are subscribed.
fn subscribed_upstream(server: &Server) -> usize {
    server.outside("CLIENT LIST TYPE pubsub").text().lines().count()
}

#[track_caller]
fn ok(conn: &mut Conn, line: &str) {
    assert_eq!(conn.line(line), V::Simple("OK".into()), "{line}");
}

#[test]
fn a_thousand_subscribers_cost_one_connection_per_worker_and_each_gets_every_message() {
    for (threads, kind) in [(1, KINDS[0]), (2, KINDS[1])] {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, &format!("threads = {threads}\nupstream.waiting_pool.max = 1"));
        let mut subscribers: Vec<Conn> =
            (0..1000).map(|i| if i % 2 == 0 { sidecar.conn() } else { sidecar.conn3() }).collect();
        for (i, subscriber) in subscribers.iter_mut().enumerate() {
            let line = if i % 10 == 0 { "PSUBSCRIBE c*" } else { "SUBSCRIBE ch" };
            assert_eq!(subscriber.line(line).items()[2].int(), 1);
        }
        assert_eq!(subscribed_upstream(&server), threads);
        assert_eq!(server.outside("PUBSUB NUMSUB ch").items()[1].int(), threads as i64);

        let mut inside = sidecar.conn();
        let counts = V::Array(vec![V::bulk("ch"), V::Int(900), V::bulk("nosuch"), V::Int(0)]);
        assert_eq!(inside.line("PUBSUB NUMSUB ch nosuch"), counts);
        assert_eq!(inside.line("PUBSUB NUMPAT").int(), 1);
        assert_eq!(inside.line("PUBLISH ch inside").int(), 1000);
        assert_eq!(inside.line("PUBLISH c pattern").int(), 100);
        assert_eq!(inside.line("PUBLISH x nobody").int(), 0);
        server.outside("PUBLISH ch outside");
        for (i, subscriber) in subscribers.iter_mut().enumerate() {
            let pattern = i % 10 == 0;
            let texts: &[&str] = if pattern { &["inside", "pattern", "outside"] } else { &["inside", "outside"] };
            for text in texts {
                let message = subscriber.value();
                assert_eq!(matches!(message, V::Push(_)), i % 2 == 1, "subscriber {i}");
                assert_eq!(message.items().last(), Some(&V::bulk(*text)), "subscriber {i}");
                assert_eq!(message.items().len(), if pattern { 4 } else { 3 });
            }
        }
        assert_eq!(sidecar.metric("sidecache_messages_total"), 2100.0);
        subscribers.truncate(11);
        eventually("only eleven are left", || inside.line("PUBLISH ch again").int() == 11);
        drop(subscribers);
        eventually("nobody is left", || subscribed_upstream(&server) == 0);
        assert_eq!(inside.line("PUBLISH ch nobody").int(), 0);
    }
}

#[test]
fn receivers_are_counted_right_as_soon_as_a_subscription_is_confirmed_or_ended() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "threads = 2");
    let (mut inside, mut one, mut two) = (sidecar.conn(), sidecar.conn(), sidecar.conn3());
    for round in 0..50 {
        let mut count = |publish: &str| inside.line(publish).int();
        one.line("SUBSCRIBE a");
        assert_eq!(count("PUBLISH a x"), 1, "round {round}");
        one.value();
        two.line("SUBSCRIBE a");
        assert_eq!(count("PUBLISH a x"), 2, "round {round}");
        one.value();
        two.value();
        two.line("SSUBSCRIBE a");
        assert_eq!(count("SPUBLISH a x"), 1, "round {round}");
        two.value();
        one.line("UNSUBSCRIBE");
        assert_eq!(count("PUBLISH a x"), 1, "round {round}");
        two.value();
        two.line("UNSUBSCRIBE a");
        two.line("SUNSUBSCRIBE");
        assert_eq!(count("PUBLISH a x"), 0, "round {round}");
        assert_eq!(count("SPUBLISH a x"), 0, "round {round}");
    }
    let mut list = one.line("CLIENT LIST TYPE pubsub").text();
    assert_eq!(list, "");
    two.line("PSUBSCRIBE p*");
    two.line("SUBSCRIBE a");
    list = one.line("CLIENT LIST TYPE pubsub").text();
    assert!(list.contains(" flags=P ") && list.contains(" sub=1 psub=1 ssub=0 "), "{list}");
}

#[test]
fn who_comes_later_gets_nothing_from_before_and_who_has_left_nothing_from_after() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "threads = 1");
    let (mut early, mut late) = (sidecar.conn(), sidecar.conn());
    early.line("SUBSCRIBE ch");
    // An entry, so that messages wait for the lane's fence, which is held.
    let mut reader = sidecar.conn();
    eventually("it is in the cache", || {
        reader.line("GET k");
        sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}") > 0.0
    });
    let lanes = || link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
    lanes().iter().for_each(|lane| lane.hold(Dir::ToClient));
    server.outside("PUBLISH ch before");
    late.send(&["SUBSCRIBE", "ch"]);
    eventually("upstream has subscribed it", || server.calls("subscribe") == 2);
    early.send(&["UNSUBSCRIBE", "ch"]);
    early.send(&["PING"]);
    lanes().iter().for_each(|lane| lane.resume(Dir::ToClient));
    assert_eq!(early.value().items()[2].text(), "before", "it was published while it was subscribed");
    assert_eq!(early.value().items()[0].text(), "unsubscribe");
    assert_eq!(early.value(), V::Simple("PONG".into()));
    assert_eq!(late.value().items()[0].text(), "subscribe");
    server.outside("PUBLISH ch after");
    assert_eq!(late.value().items()[2].text(), "after");
    assert_eq!(early.line("PING"), V::Simple("PONG".into()), "and nothing before it");
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_the_others_go_on() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "client.output_pause_bytes = 65536\nclient.output_limit_bytes = 262144");
    sidecar.allow_log("does not read its replies");
    let (mut slow, mut quick) = (sidecar.conn(), sidecar.conn());
    slow.line("SUBSCRIBE ch");
    quick.line("SUBSCRIBE ch");
    let large = "x".repeat(20_000);
    let mut publisher = server.conn();
    let closed = || sidecar.metric("sidecache_clients_closed_total{reason=\"output_limit\"}") == 1.0;
    let mut sent = 0;
    while !closed() {
        publisher.ask(&["PUBLISH", "ch", &format!("{sent} {large}")]);
        assert!(quick.value().items()[2].text().starts_with(&format!("{sent} ")));
        sent += 1;
        assert!(sent < 100_000, "a socket takes no 2 GB");
    }
    publisher.ask(&["PUBLISH", "ch", "the end"]);
    assert_eq!(quick.value().items()[2].text(), "the end");
    eventually("it is gone", || sidecar.conn().line("PUBSUB NUMSUB ch").items()[1].int() == 1);
}

#[test]
fn a_message_never_stands_in_the_midst_of_a_reply() {
    let (half, whole) = ("y".repeat(2 << 20), 4 << 20);
    let (go, goes) = std::sync::mpsc::channel();
    let (tell, tells) = std::sync::mpsc::channel::<()>();
    let (goes, tells, part) = (Mutex::new(goes), Mutex::new(tells), half.clone());
    let upstream = Scripted::start(move |turn| {
        while let Some(command) = turn.next() {
            match command.join(" ").as_str() {
                "GET large" => {
                    turn.reply(format!("${whole}\r\n{part}"));
                    goes.lock().unwrap().recv().unwrap();
                    turn.reply(format!("{part}\r\n"));
                }
                "SUBSCRIBE ch" => {
                    turn.reply(">3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
                    while tells.lock().unwrap().recv().is_ok() {
                        turn.reply(">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\nx\r\n");
                    }
                }
                "WATCH k" => turn.reply("+OK\r\n"),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    // Without a cache no message waits for a fence, which would stand behind the large reply.
    let sidecar = Sidecar::start(&upstream, "threads = 1\ncache.mode = 'off'");
    let mut subscriber = sidecar.conn3();
    assert!(matches!(subscriber.line("SUBSCRIBE ch"), V::Push(_)));
    for round in 1..=2 {
        if round == 2 {
            // From here on it has a connection of its own.
            ok(&mut subscriber, "WATCH k");
        }
        let before = sidecar.metric_sum("sidecache_client_bytes_total");
        subscriber.send(&["GET", "large"]);
        eventually("a part of it has left", || sidecar.metric_sum("sidecache_client_bytes_total") > before + 100_000.0);
        tell.send(()).unwrap();
        eventually("the message is here", || sidecar.metric("sidecache_messages_total") == f64::from(round));
        go.send(()).unwrap();
        assert!(subscriber.value() == V::bulk(half.repeat(2)), "round {round}");
        assert!(matches!(subscriber.value(), V::Push(_)), "round {round}");
    }
    drop(tell);
}

#[test]
fn who_may_not_subscribe_is_told_by_upstream_and_the_others_notice_nothing() {
    let server = Server::redis();
    server.outside("ACL SETUSER limited on >secret ~* +@all resetchannels &mine*");
    let sidecar = Sidecar::start(&server, "");
    let (mut direct, mut one, mut two) = (server.conn(), sidecar.conn(), sidecar.conn());
    for conn in [&mut direct, &mut one, &mut two] {
        ok(conn, "AUTH limited secret");
    }
    one.line("SUBSCRIBE mine");
    for line in ["SUBSCRIBE mine other", "PSUBSCRIBE *", "SSUBSCRIBE other"] {
        assert_eq!(two.line(line), direct.line(line), "{line}");
    }
    assert_eq!(two.line("GET k"), V::Nil, "it is not in subscribe mode");
    assert_eq!(two.line("SUBSCRIBE mine").items()[2].int(), 1);
    server.outside("PUBLISH mine x");
    for conn in [&mut one, &mut two] {
        assert_eq!(conn.value().items()[2].text(), "x");
    }
}

#[test]
fn subscribers_are_closed_when_upstream_is_lost_and_can_come_again() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "threads = 1");
    let (mut one, mut two, mut other) = (sidecar.conn(), sidecar.conn3(), sidecar.conn());
    one.line("SUBSCRIBE ch");
    two.line("SUBSCRIBE ch");
    assert_eq!(other.line("GET k"), V::Nil);
    let shared = link.those(|connection| connection.said(Dir::ToServer, "SUBSCRIBE"));
    assert_eq!(shared.len(), 1);
    shared[0].cut();
    one.expect_closed();
    two.expect_closed();
    assert_eq!(other.line("GET k"), V::Nil);
    let mut again = sidecar.conn();
    assert_eq!(again.line("SUBSCRIBE ch").items()[2].int(), 1);
    assert_eq!(other.line("PUBLISH ch x").int(), 1);
    assert_eq!(again.value().items()[2].text(), "x");
}

#[test]
fn a_subscription_that_upstream_does_not_confirm_in_time_is_an_error() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.command_timeout = '300ms'");
    crate::faults::allow_loss(&sidecar);
    let mut client = sidecar.conn();
    server.stop();
    assert!(client.line("SUBSCRIBE a b").text().starts_with("ERR sidecache: "));
    server.cont();
    eventually("it can be done", || {
        let mut client = sidecar.conn();
        matches!(client.line("SUBSCRIBE a"), V::Array(_))
    });
}

#[test]
fn the_resp_version_may_change_while_subscribed() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let (mut through, mut direct) = (sidecar.conn3(), Conn::open3(server.addr()));
    for conn in [&mut through, &mut direct] {
        conn.line("SUBSCRIBE ch");
        conn.line("HELLO 2");
    }
    for line in ["GET k", "PING", "HELLO 3", "UNSUBSCRIBE ch"] {
        assert_eq!(through.line(line), direct.line(line), "{line}");
    }
    through.line("PSUBSCRIBE p*");
    through.line("HELLO 2");
    server.outside("PUBLISH p x");
    assert!(matches!(through.value(), V::Array(_)));
}

#[test]
fn what_is_published_before_unsubscribing_is_heard_before_its_confirmation() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "threads = 1");
    let (mut alone, mut one, mut two) = (sidecar.conn3(), sidecar.conn3(), sidecar.conn());
    two.line("SUBSCRIBE shared");
    for round in 0..100 {
        for (subscriber, channel) in [(&mut alone, "own"), (&mut one, "shared")] {
            subscriber.line(&format!("SUBSCRIBE {channel}"));
            subscriber.send(&["PUBLISH", channel, "x"]);
            subscriber.send(&["UNSUBSCRIBE", channel]);
            let heard: Vec<V> = (0..3).map(|_| subscriber.value()).collect();
            let words: Vec<String> =
                heard.iter().filter(|value| matches!(value, V::Push(_))).map(|push| push.items()[0].text()).collect();
            assert_eq!(words, ["message", "unsubscribe"], "round {round}: {heard:?}");
        }
        assert_eq!(two.value().items()[2].text(), "x");
    }
}

#[test]
fn who_becomes_another_user_has_each_subscription_once() {
    let server = Server::redis();
    server.outside("ACL SETUSER other on >secret ~* &* +@all");
    let sidecar = Sidecar::start(&server, "threads = 1");
    let mut subscriber = sidecar.conn3();
    subscriber.line("SUBSCRIBE ch");
    ok(&mut subscriber, "AUTH other secret");
    assert_eq!(subscriber.line("SUBSCRIBE ch").items()[2].int(), 1);
    server.outside("PUBLISH ch once");
    assert_eq!(subscriber.value().items()[2].text(), "once");
    let end = subscriber.line("UNSUBSCRIBE ch");
    assert_eq!((end.items()[0].text().as_str(), end.items()[2].int()), ("unsubscribe", 0), "{end:?}");
    eventually("nobody is left", || subscribed_upstream(&server) == 0);
    for side in ["client", "upstream"] {
        let series = format!("sidecache_subscriptions{{side=\"{side}\"}}");
        eventually("none is counted", || sidecar.metric(&series) == 0.0);
    }
}

#[test]
fn many_names_at_once_are_shared_as_others_are() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.large_request_bytes = '1KiB'");
    let names: Vec<String> = (0..200).map(|i| format!("channel:{i}")).collect();
    let many: Vec<&str> = std::iter::once("SUBSCRIBE").chain(names.iter().map(String::as_str)).collect();
    for mut subscriber in [sidecar.conn(), sidecar.conn3()] {
        assert_eq!(subscriber.line("SUBSCRIBE ch").items()[2].int(), 1);
        if matches!(subscriber.line("PING"), V::Simple(_)) {
            // RESP3: the same on a connection of its own.
            ok(&mut subscriber, "WATCH k");
        }
        subscriber.send(&many);
        for i in 0..200 {
            assert_eq!(subscriber.value().items()[2].int(), i + 2);
        }
        assert_eq!(subscriber.line("UNSUBSCRIBE ch").items()[2].int(), 200);
        server.outside("PUBLISH ch unheard");
        server.outside("PUBLISH channel:7 heard");
        assert_eq!(subscriber.value().items()[2].text(), "heard");
    }
}

#[test]
fn nothing_stays_subscribed_if_the_last_one_left_while_another_was_refused() {
    let server = Server::redis();
    server.outside("ACL SETUSER limited on >secret ~* +@all resetchannels &mine*");
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "threads = 1");
    let (mut first, mut second) = (sidecar.conn(), sidecar.conn());
    ok(&mut first, "AUTH limited secret");
    ok(&mut second, "AUTH limited secret");
    first.line("SUBSCRIBE mine");
    let shared = &link.those(|connection| connection.said(Dir::ToServer, "SUBSCRIBE"))[0];
    shared.hold(Dir::ToServer);
    second.send(&["SUBSCRIBE", "mine", "other"]);
    eventually("it is under way", || shared.said(Dir::ToServer, "other"));
    first.send(&["UNSUBSCRIBE", "mine"]);
    shared.resume(Dir::ToServer);
    assert!(matches!(second.value(), V::Error(_)));
    assert_eq!(first.value().items()[0].text(), "unsubscribe");
    eventually("nobody is left", || subscribed_upstream(&server) == 0);
}

#[test]
fn receivers_are_counted_by_patterns_with_the_servers_own_corners() {
    let patterns =
        ["", "*", "**", "?", "a*", "*a", "[", "[^", "[a", "[^a", "[]a", "[a-", "[c-a]", "\\", "a\\", "[\\]]", "\\*"];
    let channels = ["", "a", "b", "*", "[", "]", "^", "-", "\\", "a\\", "ba", "[a"];
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "");
        let (mut one, mut two, mut inside) = (sidecar.conn(), sidecar.conn(), sidecar.conn());
        for subscriber in [&mut one, &mut two] {
            for pattern in patterns {
                subscriber.ask(&["PSUBSCRIBE", pattern]);
            }
        }
        let mut outside = server.conn();
        for channel in channels {
            let upstream = outside.ask(&["PUBLISH", channel, "x"]).int();
            assert_eq!(inside.ask(&["PUBLISH", channel, "x"]).int(), 2 * upstream, "{channel:?}");
        }
    }
}

#[test]
fn who_is_closed_between_a_message_and_a_confirmation_is_counted_no_more() {
    let times = std::sync::atomic::AtomicUsize::new(0);
    let upstream = Scripted::start(move |turn| {
        while let Some(command) = turn.next() {
            match command.join(" ").as_str() {
                "SUBSCRIBE ch" => {
                    let confirmation = ">3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n";
                    let text = "x".repeat(10_000);
                    let message = format!(">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$10000\r\n{text}\r\n");
                    let again = times.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0;
                    turn.reply(if again { message + confirmation } else { confirmation.into() });
                }
                "unsubscribe ch" => turn.reply(">3\r\n$11\r\nunsubscribe\r\n$2\r\nch\r\n:0\r\n"),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let limits = "client.output_pause_bytes = 4096\nclient.output_limit_bytes = 8192";
    let sidecar = Sidecar::start(&upstream, &format!("threads = 1\ncache.mode = 'off'\n{limits}"));
    sidecar.allow_log("does not read its replies");
    let mut subscriber = sidecar.conn3();
    subscriber.line("SUBSCRIBE ch");
    let side = |side: &str| sidecar.metric(&format!("sidecache_subscriptions{{side=\"{side}\"}}"));
    eventually("it is counted", || side("client") == 1.0);
    subscriber.send(&["SUBSCRIBE", "ch"]);
    subscriber.expect_closed();
    eventually("none is counted", || (side("client"), side("upstream")) == (0.0, 0.0));
}

#[test]
fn an_end_that_upstream_refuses_is_counted_right_and_comes_with_the_last_subscriber() {
    let server = Server::with(KINDS[0], &["--lua-time-limit", "50"]);
    let sidecar = Sidecar::start(&server, "threads = 1\ncache.mode = 'off'");
    sidecar.allow_log("BUSY");
    let (mut one, mut two, mut other) = (sidecar.conn(), sidecar.conn(), sidecar.conn());
    one.pipeline(&["SUBSCRIBE a", "SUBSCRIBE never-again"]);
    other.line("SUBSCRIBE b");
    let mut busy = server.conn();
    busy.send(&["EVAL", "while true do end", "0"]);
    eventually("upstream is busy", || matches!(two.line("GET k"), V::Error(text) if text.starts_with("BUSY")));
    assert_eq!(one.line("UNSUBSCRIBE a").items()[2].int(), 1);
    assert_eq!(one.line("UNSUBSCRIBE never-again").items()[2].int(), 0);
    ok(&mut server.conn(), "SCRIPT KILL");
    busy.value();
    assert_eq!(two.line("PUBLISH a nobody").int(), 0);
    one.line("SUBSCRIBE a");
    assert_eq!(sidecar.conn().line("PUBLISH a x").int(), 1);
    assert_eq!(one.value().items()[2].text(), "x");
    drop((one, other));
    eventually("nobody is left", || subscribed_upstream(&server) == 0);
    for side in ["client", "upstream"] {
        let series = format!("sidecache_subscriptions{{side=\"{side}\"}}");
        eventually("none is counted", || sidecar.metric(&series) == 0.0);
    }
}
