//! In front of a master that Sentinels watch over: the application sees one Redis, whoever is the master.

mod away;
mod failovers;
mod leaving;
mod load;
mod promptness;
mod replicas;

use crate::support::{Kind, Sentinels, Sidecar, V, eventually};

/// Patience that no busy machine uses up.
const PATIENT: &str = "upstream.connect_timeout = '20s'\nupstream.command_timeout = '60s'\nupstream.failover_wait = '60s'\n\
                       upstream.pool.wait_timeout = '60s'\nupstream.waiting_pool.wait_timeout = '60s'";

/// A master that goes is told of.
fn allow_loss(sidecar: &Sidecar) {
    for line in ["lane lost", "no connection to upstream", "a Sentinel does not answer"] {
        sidecar.allow_log(line);
    }
}

/// Hits served so far.
fn hits(sidecar: &Sidecar) -> f64 {
    sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}")
}

fn the_master_is_found_and_its_keys_are_cached(kind: Kind) {
    let all = Sentinels::start(kind);
    let sidecar = Sidecar::start(&all, PATIENT);
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), V::Simple("OK".into()));
    eventually("it is a hit", || {
        let before = hits(&sidecar);
        assert_eq!(client.line("GET k"), V::bulk("1"));
        hits(&sidecar) > before
    });
    all.server(0).outside("SET k 2");
    eventually("the write from outside is seen", || client.line("GET k") == V::bulk("2"));
    eventually("all Sentinels answer", || sidecar.metric("sidecache_sentinels") == 3.0);
}

#[test]
fn the_master_of_redis_is_found_and_its_keys_are_cached() {
    the_master_is_found_and_its_keys_are_cached(Kind::Redis);
}

#[test]
fn the_master_of_valkey_is_found_and_its_keys_are_cached() {
    the_master_is_found_and_its_keys_are_cached(Kind::Valkey);
}
