//! INFO's section of our own, added to upstream's reply.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};

use super::worker::Worker;
use crate::cache::Mode;
use crate::protocol::Args;
use crate::protocol::frame::decode;
use crate::telemetry::labels::{Class, Outcome};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::upstream::cluster::Cluster;
use crate::upstream::topology::Topology;

/// Whether an INFO asks for the section.
pub fn asks_for_section(args: &Args<'_>) -> bool {
    let named = |word: &[u8]| {
        [&b"all"[..], b"everything", b"default", b"sidecache"].iter().any(|name| word.eq_ignore_ascii_case(name))
    };
    args.len() == 1 || (1..args.len()).any(|i| args.get(i).is_some_and(named))
}

// === impl Worker ===

impl Worker {
    /// Upstream's INFO with our section behind it, in the reply's own type; anything else as it is.
    pub fn with_section(&self, reply: &[u8]) -> Bytes {
        let Ok(value) = decode(reply) else { return Bytes::copy_from_slice(reply) };
        let (Some(text), false) = (value.as_bytes(), matches!(reply.first(), Some(b'-' | b'!'))) else {
            return Bytes::copy_from_slice(reply);
        };
        let section = self.section();
        let gap: &[u8] = if text.is_empty() { b"" } else { b"\r\n" };
        let mut whole = BytesMut::new();
        // Writing to a BytesMut does not fail.
        if reply.first() == Some(&b'=') {
            let _ = write!(whole, "={}\r\ntxt:", 4 + text.len() + gap.len() + section.len());
        } else {
            let _ = write!(whole, "${}\r\n", text.len() + gap.len() + section.len());
        }
        for part in [text, gap, section.as_bytes(), b"\r\n"] {
            whole.extend_from_slice(part);
        }
        whole.freeze()
    }

    fn section(&self) -> String {
        let registry = &self.registry;
        let outcome =
            |outcome| [Class::Read, Class::Mget].iter().map(|&class| registry.commands(class, outcome)).sum::<u64>();
        let (hits, misses, coalesced) = (outcome(Outcome::Hit), outcome(Outcome::Miss), outcome(Outcome::Coalesced));
        let all = (hits + misses + coalesced).max(1) as f64;
        let lanes = self.lanes.borrow();
        let leased = lanes.iter().any(|lane| lane.standing.lease.holds(self.now(), self.coherence.max_staleness));
        let mode = match (self.settings.cache.mode, lanes.iter().any(|lane| lane.standing.mode() == Mode::Ttl)) {
            (Mode::Off, _) => "off",
            (Mode::Ttl, _) => "ttl",
            (Mode::Tracking, true) => {
                "ttl (upstream cannot track: entries live ttl_mode_age, one timeline is not promised)"
            }
            (Mode::Tracking, false) => "tracking",
        };
        let mut text = String::from("# Sidecache\r\n");
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = write!(text, "{name}:{value}\r\n");
        };
        line("sidecache_version", &env!("CARGO_PKG_VERSION"));
        line("sidecache_upstream", &self.settings.topology);
        if let Topology::Sentinel(sentinel) = &self.settings.topology {
            line("sidecache_master", &sentinel.master().map_or_else(|| "unknown".into(), |master| master.to_string()));
            line("sidecache_sentinels", &registry.gauge(Gauge::Sentinels));
        }
        line("sidecache_mode", &mode);
        line("sidecache_threads", &self.peers.senders.len());
        line("sidecache_clients", &registry.gauge(Gauge::Clients));
        line("sidecache_max_staleness_ms", &self.settings.cache.max_staleness.as_millis());
        line("sidecache_lease_held", &u8::from(leased));
        line("sidecache_hits", &hits);
        line("sidecache_misses", &misses);
        line("sidecache_coalesced", &coalesced);
        line("sidecache_hit_ratio", &format!("{:.4}", hits as f64 / all));
        line("sidecache_entries", &registry.gauge(Gauge::Entries));
        line("sidecache_cache_bytes", &registry.gauge(Gauge::CacheBytes));
        line("sidecache_fills", &registry.counter(Counter::Fills));
        line("sidecache_invalidated_keys", &registry.counter(Counter::InvalidatedKeys));
        line("sidecache_audit_checks", &registry.counter(Counter::AuditChecks));
        line("sidecache_audit_violations", &registry.counter(Counter::AuditViolations));
        if let Some(cluster) = self.settings.topology.cluster() {
            self.nodes(cluster, &mut line);
        }
        text
    }

    /// A cluster's nodes, as INFO has replicas: one line each. The lanes are this worker's own.
    fn nodes(&self, cluster: &Cluster, line: &mut impl FnMut(&str, &dyn std::fmt::Display)) {
        let (nodes, masters) = (cluster.nodes(), cluster.masters());
        line("sidecache_nodes", &nodes.len());
        line("sidecache_masters", &masters.len());
        line("sidecache_slots_unowned", &cluster.unowned());
        for (place, (id, node)) in nodes.iter().enumerate() {
            let lanes = self.lanes.borrow();
            let of_node = || lanes.iter().filter(|lane| lane.node == *id);
            let leased = of_node().filter(|lane| lane.standing.lease.holds(self.now(), self.coherence.max_staleness));
            let up = |mode| of_node().filter(|lane| lane.queue.is_up() && lane.standing.mode() == mode).count();
            let mut text = format!("address={},id={}", node.address, node.id);
            let _ = match node.replica_of.and_then(|master| cluster.address(master)) {
                Some(master) => write!(text, ",role=replica,master={master}"),
                None => write!(text, ",role=master,slots={}", node.slots),
            };
            let (lanes, leased) = (of_node().count(), leased.count());
            let (tracking, ttl) = (up(Mode::Tracking), up(Mode::Ttl));
            let _ = write!(text, ",lanes={lanes},leased={leased},tracking={tracking},ttl={ttl}");
            line(&format!("sidecache_node{place}"), &text);
        }
    }
}
