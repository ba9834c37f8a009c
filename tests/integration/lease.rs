//! The lease: what its lapse costs.

use std::time::Duration;

use crate::support::redis::Server;
use crate::support::resp::V;
use crate::support::sidecar::Sidecar;
use crate::support::wait;

#[test]
fn a_lapsed_lease_costs_one_fetch_and_not_one_per_key() {
    let server = Server::redis();
    // The reply that renews it must be in before it would lapse again.
    let sidecar = Sidecar::start(&server, "[cache]\nmax_staleness = \"4s\"");
    let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    for key in &keys {
        server.outside(&format!("SET {key} {key}"));
    }
    let lines: Vec<String> = keys.iter().map(|key| format!("GET {key}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut client = sidecar.conn();
    for _ in 0..3 {
        client.pipeline(&lines);
    }
    wait::pass(Duration::from_millis(4100));
    server.reset_calls();
    let replies = client.pipeline(&lines);
    assert!(replies.iter().zip(&keys).all(|(reply, key)| *reply == V::bulk(key)));
    let gets = server.calls("get");
    assert!((1..=2).contains(&gets), "{gets} GETs after the lease had lapsed");
}
