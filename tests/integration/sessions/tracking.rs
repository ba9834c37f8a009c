//! A client's own CLIENT TRACKING, and MONITOR.

use super::Pair;
use crate::support::redis::KINDS;
use crate::support::{Server, Sidecar, V, eventually};

#[test]
fn a_client_that_tracks_is_told_of_changes_as_upstream_tells_it() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut pair = Pair::new3(&sidecar, &server);
    pair.all_alike(&["CLIENT TRACKING on", "SET k 1", "GET k"]);
    pair.all_alike(&[
        "CLIENT TRACKINGINFO",
        "CLIENT GETNAME",
        "CLIENT SETNAME me",
        "CLIENT GETNAME",
        "CLIENT CACHING yes",
        "GET nokey",
    ]);
    server.outside("SET k 2");
    assert_eq!(pair.through.read_frame(), pair.direct.read_frame());
    pair.all_alike(&["GET k", "GET k"]);
    server.outside("FLUSHALL");
    assert_eq!(pair.through.read_frame(), pair.direct.read_frame());
    pair.all_alike(&[
        "CLIENT TRACKING off",
        "GET k",
        "CLIENT TRACKING on BCAST PREFIX a PREFIX b",
        "CLIENT TRACKINGINFO",
    ]);
    server.outside("SET a1 2");
    assert_eq!(pair.through.read_frame(), pair.direct.read_frame());
    pair.all_alike(&[
        "CLIENT TRACKING on BCAST PREFIX a",
        "CLIENT TRACKING on NOLOOP",
        "CLIENT TRACKING maybe",
        "PING",
        "RESET",
        "GET k",
    ]);
}

#[test]
fn tracking_without_loop_or_by_opting_in_is_upstreams_own() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut pair = Pair::new3(&sidecar, &server);
    pair.all_alike(&[
        "CLIENT TRACKING on OPTIN NOLOOP",
        "CLIENT TRACKINGINFO",
        "CLIENT CACHING yes",
        "GET k",
        "GET j",
        "SET j 1",
    ]);
    server.outside("SET j 2");
    server.outside("SET k 2");
    let push = V::Push(vec![V::bulk("invalidate"), V::Array(vec![V::bulk("k")])]);
    assert_eq!(pair.direct.value(), push);
    assert_eq!(pair.through.value(), push);
}

#[test]
fn a_resp2_client_cannot_track_without_redirection_as_upstream_says() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut pair = Pair::new(&sidecar, &server);
    pair.all_alike(&[
        "CLIENT TRACKING on",
        "CLIENT TRACKING on REDIRECT 999999",
        "CLIENT TRACKING off",
        "GET k",
        "CLIENT CACHING yes",
    ]);
}

#[test]
fn a_resp2_client_tracks_with_another_clients_help() {
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, "");
        let (mut told, mut reader) = (sidecar.conn(), sidecar.conn());
        let id = told.line("CLIENT ID").int();
        let missing = V::Error("ERR The client ID you want redirect to does not exist".into());
        assert_eq!(reader.line(&format!("CLIENT TRACKING on REDIRECT {id}")), missing, "it does not listen yet");
        told.line("SUBSCRIBE __redis__:invalidate");
        assert_eq!(reader.line(&format!("CLIENT TRACKING on REDIRECT {id}")), V::Simple("OK".into()));
        assert_eq!(reader.line("CLIENT GETREDIR").int(), id);
        assert_eq!(reader.line("CLIENT TRACKINGINFO").field("redirect"), Some(&V::Int(id)));
        assert_eq!(reader.line("GET k"), V::Nil);
        server.outside("SET k 1");
        let message = [V::bulk("message"), V::bulk("__redis__:invalidate"), V::Array(vec![V::bulk("k")])];
        assert_eq!(told.value(), V::Array(message.to_vec()));
        drop(told);
        eventually("the one who listened is gone", || {
            let clients = server.outside("CLIENT LIST TYPE pubsub").text();
            clients.is_empty()
        });
        assert_eq!(reader.line("GET k"), V::bulk("1"));
        reader.line("CLIENT TRACKING off");
        assert_eq!(reader.line("CLIENT GETREDIR").int(), -1);
    }
}

#[test]
fn a_monitor_sees_commands_and_its_connection_serves_nobody_else() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut monitor = sidecar.conn();
    assert_eq!(monitor.line("MONITOR"), V::Simple("OK".into()));
    sidecar.conn().line("SET k by-us");
    server.outside("SET k by-others");
    let mut seen = String::new();
    while !(seen.contains("by-us") && seen.contains("by-others")) {
        seen.push_str(&monitor.value().text());
    }
    drop(monitor);
    let mut conn = sidecar.conn();
    for _ in 0..5 {
        assert_eq!(conn.pipeline(&["WATCH k", "GET k", "UNWATCH"])[1], V::bulk("by-others"));
    }
}

#[test]
fn who_shares_subscriptions_and_watches_may_subscribe_to_its_own_invalidations() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let mut client = sidecar.conn3();
    client.line("SUBSCRIBE ch");
    client.line("WATCH k");
    assert_eq!(client.line("SUBSCRIBE __redis__:invalidate").items()[0].text(), "subscribe");
    assert_eq!(client.line("PING"), V::Simple("PONG".into()));
}

#[test]
fn a_redirection_names_its_client_when_that_has_left() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    // Ids here and upstream are not the same.
    let others = [(); 9].map(|()| sidecar.conn().line("CLIENT ID").int());
    let (mut target, mut tracker) = (sidecar.conn(), sidecar.conn3());
    let id = target.line("CLIENT ID").int();
    assert!(id > others[8], "{id}");
    target.line("SUBSCRIBE __redis__:invalidate");
    assert_eq!(tracker.line(&format!("CLIENT TRACKING on REDIRECT {id}")), V::Simple("OK".into()));
    assert_eq!(tracker.line("CLIENT GETREDIR").int(), id);
    drop(target);
    let subscribers = || server.outside("PUBSUB NUMSUB __redis__:invalidate").items()[1].int();
    eventually("its connection has gone", || subscribers() == 0);
    assert_eq!(tracker.line("CLIENT GETREDIR").int(), id);
    assert_eq!(tracker.line("CLIENT TRACKINGINFO").field("redirect"), Some(&V::Int(id)));
}
