//! Publish and subscribe, as upstream itself does it.

use super::Pair;
use crate::support::redis::KINDS;
use crate::support::{Server, Sidecar, V, eventually};

#[test]
fn subscribing_and_unsubscribing_are_confirmed_as_upstream_does() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "");
        for mut pair in [Pair::new(&sidecar, &server), Pair::new3(&sidecar, &server)] {
            pair.alike_args(&["SUBSCRIBE", "a", "b", "a"], 3);
            pair.alike_args(&["PSUBSCRIBE", "p*", "q*"], 2);
            pair.alike("SSUBSCRIBE s");
            pair.alike_args(&["UNSUBSCRIBE", "a", "nosuch"], 2);
            pair.alike("PUNSUBSCRIBE q*");
            pair.all_alike(&["PING", "PING hello", "UNSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"]);
            pair.all_alike(&[
                "GET k",
                "SET k 1",
                "GET k",
                "SUBSCRIBE",
                "UNSUBSCRIBE",
                "PUNSUBSCRIBE",
                "SUNSUBSCRIBE x",
                "GET k",
            ]);
            pair.alike_at_once(&["SUBSCRIBE a b", "UNSUBSCRIBE b a", "GET k", "PING"], 6);
            pair.alike_at_once(
                &["GET k", "SUBSCRIBE a", "PING", "UNSUBSCRIBE a", "GET k", "MULTI", "GET k", "EXEC"],
                8,
            );
        }
    }
}

#[test]
fn in_subscribe_mode_resp2_refuses_what_upstream_refuses() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut pair = Pair::new(&sidecar, &server);
    pair.all_alike(&[
        "SUBSCRIBE a",
        "GET k",
        "SET k 1",
        "MULTI",
        "EXEC",
        "DISCARD",
        "CLIENT GETNAME",
        "CLIENT SETNAME x",
        "SELECT 1",
        "ECHO x",
        "NOSUCH",
        "GET",
        "PING a b",
    ]);
    pair.alike_at_once(&["GET k", "PING", "GET k", "UNSUBSCRIBE a", "GET k"], 5);
    pair.all_alike(&["SUBSCRIBE a", "RESET", "GET k", "SUBSCRIBE b"]);
    pair.alike_at_once(&["QUIT", "GET k"], 1);
    pair.both_closed();
}

#[test]
fn in_subscribe_mode_resp3_goes_on_as_usual() {
    let server = Server::redis();
    let (sidecar, twin) = (Sidecar::start(&server, ""), Server::redis());
    let mut pair = Pair::new3(&sidecar, &twin);
    pair.all_alike(&[
        "SUBSCRIBE a",
        "SET k 1",
        "GET k",
        "CLIENT SETNAME x",
        "CLIENT GETNAME",
        "SELECT 1",
        "GET k",
        "SELECT 0",
        "GET k",
    ]);
    pair.alike_at_once(&["MULTI", "GET k", "SET k 2", "EXEC", "GET k", "PING", "PING x", "NOSUCH"], 8);
    pair.all_alike(&["UNSUBSCRIBE", "GET k", "SELECT 1", "GET k"]);
}

#[test]
fn messages_reach_subscribers_through_the_sidecar_and_from_outside() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "");
        for resp3 in [false, true] {
            let mut pair = if resp3 { Pair::new3(&sidecar, &server) } else { Pair::new(&sidecar, &server) };
            pair.alike("SUBSCRIBE news");
            pair.alike("PSUBSCRIBE n*");
            pair.alike("SSUBSCRIBE shard");
            assert_eq!(sidecar.conn().line("PUBLISH news inside").int(), 4);
            server.outside("PUBLISH news outside");
            sidecar.conn().line("SPUBLISH shard s");
            server.outside("PUBLISH other no");
            for _ in 0..5 {
                let (got, expected) = (pair.through.read_frame(), pair.direct.read_frame());
                assert_eq!(got, expected);
            }
            pair.all_alike(&["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "PING"]);
            eventually("nobody subscribes", || server.outside("PUBSUB NUMPAT").int() == 0);
        }
    }
}

#[test]
fn messages_stand_between_the_replies_of_a_pipeline_and_none_is_lost() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut subscriber = sidecar.conn3();
    subscriber.line("SUBSCRIBE ch");
    let publisher = std::thread::spawn({
        let mut conn = server.conn();
        move || (0..500).for_each(|i| assert_eq!(conn.line(&format!("PUBLISH ch {i}")).int(), 1))
    });
    let (mut messages, mut replies) = (0, 0);
    for round in 0..50 {
        let bytes: Vec<u8> = (0..10).flat_map(|i| format!("ECHO {}\r\n", round * 10 + i).into_bytes()).collect();
        subscriber.send_raw(&bytes);
        let until = replies + 10;
        while replies < until {
            match subscriber.value() {
                V::Push(items) => {
                    assert_eq!(items[2].text(), messages.to_string());
                    messages += 1;
                }
                reply => {
                    assert_eq!(reply.text(), replies.to_string());
                    replies += 1;
                }
            }
        }
    }
    while messages < 500 {
        assert_eq!(subscriber.value().items()[2].text(), messages.to_string());
        messages += 1;
    }
    publisher.join().unwrap();
}

#[test]
fn a_message_published_by_the_subscriber_itself_comes_as_upstream_sends_it() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut pair = Pair::new3(&sidecar, &server);
    pair.all_alike(&["SUBSCRIBE mine"]);
    // Both subscribe: the publisher is told of two receivers, and each of the two gets the message.
    pair.through.send(&["PUBLISH", "mine", "x"]);
    let mut frames = [pair.through.value(), pair.through.value()];
    frames.sort_by_key(|frame| matches!(frame, V::Push(_)));
    assert_eq!((&frames[0], &frames[1]), (&V::Int(2), &pair.direct.value()));
}

#[test]
fn a_subscriber_that_leaves_is_unsubscribed_upstream() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut subscriber = sidecar.conn();
    subscriber.line("SUBSCRIBE gone");
    eventually("subscribed", || server.outside("PUBSUB NUMSUB gone").items()[1].int() == 1);
    drop(subscriber);
    eventually("unsubscribed", || server.outside("PUBSUB NUMSUB gone").items()[1].int() == 0);
}
