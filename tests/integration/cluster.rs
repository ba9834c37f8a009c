//! In front of a cluster: the application sees one Redis.

mod channels;
mod lanes;
mod lost;
mod moves;
mod names;
mod news;
mod one_node;
mod overtaking;
mod promoted;
mod replicas;
mod spoken;
mod spread;
mod staleness;

use crate::support::{Cluster, Dir, Kind, Link, Sidecar, V, eventually};

/// Patience that no busy machine uses up.
const PATIENT: &str = "upstream.connect_timeout = '20s'\nupstream.command_timeout = '60s'";

/// Hits served so far.
fn hits(sidecar: &Sidecar) -> f64 {
    sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}")
}

/// Reads a key until it is a hit.
fn warm(sidecar: &Sidecar, key: &str) {
    let mut client = sidecar.conn();
    eventually("it is a hit", || {
        let before = hits(sidecar);
        client.line(&format!("GET {key}"));
        hits(sidecar) > before
    });
}

/// The URL of a cluster whose nodes are behind these links, all of them.
fn behind(links: &[Link]) -> String {
    let seeds: Vec<String> = links.iter().map(|link| link.addr().to_string()).collect();
    format!("redis-cluster://{}", seeds.join(","))
}

/// What says so of the addresses that the nodes themselves tell.
fn mapped(cluster: &Cluster, links: &[Link]) -> String {
    let pairs = links.iter().enumerate().map(|(at, link)| format!("'{}={}'", cluster.node(at).addr(), link.addr()));
    format!("upstream.address_map = [{}]", pairs.collect::<Vec<_>>().join(", "))
}

/// From here on nothing passes but what lanes say that are open: whoever asks for the slot map, or for who replicates whom,
/// gets no answer.
fn keep_the_map_from(sidecar: &Sidecar, links: &[Link]) {
    ["no node of the cluster tells", "lane lost", "no connection to upstream"]
        .iter()
        .for_each(|text| sidecar.allow_log(text));
    for link in links {
        link.hold();
        for lane in link.those(|connection| connection.said(Dir::ToServer, "TRACKING")) {
            [Dir::ToServer, Dir::ToClient].iter().for_each(|&dir| lane.resume(dir));
        }
    }
}

fn every_master_s_keys_are_cached_and_kept_right(kind: Kind) {
    let cluster = Cluster::start(kind, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    for at in 0..3 {
        let key = cluster.key_on(at, "k");
        assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
        assert_eq!(client.line(&format!("GET {key}")), V::bulk("1"));
        warm(&sidecar, &key);
        cluster.node(at).conn().line(&format!("SET {key} 2"));
        eventually("the write from outside is seen", || client.line(&format!("GET {key}")) == V::bulk("2"));
        warm(&sidecar, &key);
        assert_eq!(client.line(&format!("SET {key} 3")), V::Simple("OK".into()));
        assert_eq!(client.line(&format!("GET {key}")), V::bulk("3"));
    }
    assert_eq!(sidecar.metric("sidecache_redirects_total{kind=\"moved\"}"), 0.0);
}

#[test]
fn every_master_of_redis_is_cached_and_kept_right() {
    every_master_s_keys_are_cached_and_kept_right(Kind::Redis);
}

#[test]
fn every_master_of_valkey_is_cached_and_kept_right() {
    every_master_s_keys_are_cached_and_kept_right(Kind::Valkey);
}
