//! The lease: what it counts from, what renews it, and what its lapse costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::coherence::stage::Stage;
use crate::support::resp::{encode, words};
use crate::support::{Dir, Kind, Link, Scripted, Server, Sidecar, V, eventually};

/// Patience that no busy machine uses up.
const PATIENT: &str = "upstream.connect_timeout = '20s'\nupstream.command_timeout = '60s'";

#[test]
fn a_lapsed_lease_costs_one_fetch_and_not_one_per_key() {
    // The reply that renews it must be in before it would lapse again.
    let stage = Stage::unpolled(Kind::Redis, 1, "cache.max_staleness = '5s'\nupstream.command_timeout = '1m'");
    let (server, sidecar) = (&stage.server, &stage.sidecar);
    let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    for key in &keys {
        server.outside(&format!("SET {key} {key}"));
    }
    let lines: Vec<String> = keys.iter().map(|key| format!("GET {key}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (mut client, mut other) = (sidecar.conn(), sidecar.conn());
    for _ in 0..3 {
        client.pipeline(&lines);
    }
    server.reset_calls();
    let reads =
        |outcome: &str| sidecar.metric(&format!("sidecache_commands_total{{class=\"read\",outcome=\"{outcome}\"}}"));
    let lane = stage.lanes().pop().unwrap();
    lane.hold(Dir::ToClient);
    // Hits keep the background polls awake, without which there would be none either.
    let misses = reads("miss");
    eventually("it has lapsed", || {
        let hits = reads("hit");
        other.send(&["GET", "k0"]);
        eventually("it is a hit or none", || reads("hit") > hits || reads("miss") > misses);
        reads("miss") > misses || other.value() != V::bulk("k0")
    });
    client.send_raw(&lines.iter().flat_map(|line| encode(&words(line))).collect::<Vec<u8>>());
    eventually("all wait for it", || sidecar.metric("sidecache_parked_reads") >= 99.0);
    lane.resume(Dir::ToClient);
    for key in &keys {
        assert_eq!(client.value(), V::bulk(key));
    }
    assert_eq!(other.value(), V::bulk("k0"));
    let gets = server.calls("get");
    assert!((1..=2).contains(&gets), "{gets} GETs after the lease had lapsed");
}

#[test]
fn the_lease_counts_from_when_the_answered_command_was_sent() {
    let stage = Stage::new(Kind::Redis, 1, &format!("cache.max_staleness = '100ms'\n{PATIENT}"));
    stage.server.outside("SET k v");
    let mut client = stage.sidecar.conn();
    // Whatever is answered was asked longer ago than the bound: nothing is proven by it.
    stage.slow_lanes(Duration::from_millis(250));
    stage.server.reset_calls();
    (0..5).for_each(|_| assert_eq!(client.line("GET k"), V::bulk("v")));
    assert_eq!(stage.server.calls("get"), 5);
}

#[test]
fn an_upstream_that_answers_by_errors_alone_renews_no_lease() {
    let loading = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&loading);
    let upstream = Scripted::start(move |turn| {
        turn.take("PING");
        while let Some(command) = turn.next() {
            match command[0].as_str() {
                _ if now.load(Ordering::SeqCst) => turn.reply("-LOADING Redis is loading\r\n"),
                "GET" => turn.reply("$1\r\nv\r\n"),
                "PING" => turn.reply("+PONG\r\n"),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, &format!("cache.max_staleness = '500ms'\n{PATIENT}"));
    let mut client = sidecar.conn();
    (0..4).for_each(|_| assert_eq!(client.line("GET k"), V::bulk("v")));
    loading.store(true, Ordering::SeqCst);
    eventually("hits end", || matches!(client.line("GET k"), V::Error(_)));
}

#[test]
fn it_ends_with_its_lane() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "cache.max_staleness = '1m'\nupstream.connect_timeout = '300ms'");
    crate::faults::allow_loss(&sidecar);
    let mut client = sidecar.conn();
    assert_eq!(client.line("PING"), V::Simple("PONG".into()));
    link.refuse(true);
    link.cut();
    eventually("the loss is seen", || sidecar.metric("sidecache_lane_losses_total") == 1.0);
    assert!(matches!(client.line("PING"), V::Error(_)), "nobody has heard of upstream since");
}
