//! The lease: what its lapse costs.

use crate::coherence::stage::Stage;
use crate::support::resp::{encode, words};
use crate::support::{Dir, Kind, V, eventually};

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
