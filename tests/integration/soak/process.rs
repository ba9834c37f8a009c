//! What a sidecar's process holds: memory, file descriptors, threads, and what its metrics say is under way. Pure judges of
//! samples of it.

use std::collections::HashMap;

use crate::limits::rss;
use crate::support::Sidecar;

/// Gauges that are zero when nobody is there and nothing is under way: of all their series, the sums.
const ZERO: [&str; 13] = [
    "sidecache_clients",
    "sidecache_clients_paused",
    "sidecache_flights",
    "sidecache_parked_reads",
    "sidecache_lane_fifo_commands",
    "sidecache_lane_output_bytes",
    "sidecache_held_replies",
    "sidecache_held_bytes",
    "sidecache_subscriptions",
    "sidecache_pool_in_use",
    "sidecache_pool_waiting",
    "sidecache_lanes{state=\"connecting\"}",
    "sidecache_lanes{state=\"backoff\"}",
];

/// What is held for a while after the last client has left, and then no more.
const IDLE: [&str; 1] = ["sidecache_pool_idle"];

/// Of memory, what one cycle may leave more than another without a leak: the allocator keeps pages where single blocks are in
/// use, and faults (replies of 4 MiB that nobody reads) make it ask for some at other times each time.
const PAGES: u64 = 8 << 20;

/// What faults touch for the first time, where there was no warm-up to have them all: six replies of 4 MiB that wait for
/// clients who do not read.
const TOUCHED: u64 = 24 << 20;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Of these, connections to upstream; some are kept for the next client.
    pub upstream: usize,
    /// Threads.
    pub threads: usize,
}

impl Holdings {
    /// Those of a sidecar now, whose upstream has this port.
    pub fn of(sidecar: &Sidecar, port: u16) -> Holdings {
        let process = format!("/proc/{}", sidecar.pid());
        let open = std::fs::read_dir(format!("{process}/fd")).unwrap().flatten();
        let open: Vec<_> = open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
        let sockets = std::fs::read_to_string(format!("{process}/net/tcp")).unwrap();
        let upstream = sockets.lines().filter_map(|line| inode_of_socket_to(line, port));
        let upstream = upstream.filter(|inode| open.contains(&format!("socket:[{inode}]").into())).count();
        let threads = std::fs::read_dir(format!("{process}/task")).unwrap().count();
        Holdings { descriptors: open.len(), upstream, threads }
    }

    /// What there is more of than at the start; `all`: even connections kept for the next client.
    pub fn beyond(self, start: Holdings, all: bool) -> Vec<String> {
        let own = |of: Holdings| of.descriptors.saturating_sub(of.upstream);
        let mut pairs = vec![
            ("file descriptors beside connections to upstream", own(self), own(start)),
            ("threads", self.threads, start.threads),
        ];
        if all {
            // INFO is asked for on one of its own as long as somebody reads the metrics.
            pairs.push(("connections to upstream", self.upstream, start.upstream.max(1)));
        }
        let more = pairs.into_iter().filter(|(_, now, start)| now > start);
        more.map(|(what, now, start)| format!("{now} {what}, {start} at the start")).collect()
    }
}

/// Of a line of /proc/net/tcp the inode, if its other end is this port.
fn inode_of_socket_to(line: &str, port: u16) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let there = fields.get(2)?.rsplit_once(':')?.1;
    (u16::from_str_radix(there, 16).ok()? == port).then_some(fields.get(9).copied()?)
}

/// What is still under way, by the gauges; `rests`: what is kept for the next client counts too.
pub fn under_way(metrics: &HashMap<String, f64>, rests: bool) -> Vec<String> {
    let kept: &[&str] = if rests { &IDLE } else { &[] };
    let not_zero = |gauge: &str| {
        let sum = sum(metrics, gauge);
        (sum != 0.0).then(|| format!("{gauge} is {sum}"))
    };
    ZERO.iter().chain(kept).filter_map(|gauge| not_zero(gauge)).collect()
}

/// The sum over all series of this name, or the one series that this is.
fn sum(metrics: &HashMap<String, f64>, gauge: &str) -> f64 {
    let of = |name: &str| name == gauge || name.split('{').next() == Some(gauge);
    metrics.iter().filter(|(name, _)| of(name)).map(|(_, value)| value).sum()
}

/// Bytes of memory that a sidecar has.
pub fn memory(sidecar: &Sidecar) -> u64 {
    u64::try_from(rss(sidecar)).unwrap()
}

/// By how much memory has grown since the warm-up, and by how much it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The mean of the cycle that it is measured from.
    pub from: u64,
    /// The mean of the last cycle.
    pub to: u64,
    /// What it may be more.
    pub allowed: u64,
}

impl Growth {
    /// Of samples taken at the ends of rounds, each mix's in turn, so that only whole cycles of mixes can be compared. The
    /// first cycle is the warm-up: the cache fills, the allocator takes its pages. Where there are only two, the first is
    /// what the second is compared with: the cache may have filled meanwhile, and faults have come that had not before.
    pub fn of(samples: &[u64], cycle: usize, cache: u64) -> Growth {
        let means: Vec<u64> =
            samples.chunks_exact(cycle).map(|some| some.iter().sum::<u64>() / some.len() as u64).collect();
        assert!(means.len() > 1, "{} samples are no two cycles of {cycle}", samples.len());
        let warm = means.len() > 2;
        let from = means[usize::from(warm)];
        let allowed = PAGES + from / 10 + if warm { 0 } else { 2 * cache + TOUCHED };
        Growth { from, to: means[means.len() - 1], allowed }
    }

    /// What is wrong with it.
    pub fn complaint(self) -> Option<String> {
        let Growth { from, to, allowed } = self;
        let text = || format!("memory has grown from {from} to {to} bytes, {allowed} allowed");
        (to > from + allowed).then(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_descriptor_or_a_thread_that_stays_is_named() {
        let start = Holdings { descriptors: 12, upstream: 1, threads: 4 };
        assert!(start.beyond(start, true).is_empty());
        let leaked = Holdings { descriptors: 13, ..start };
        let more = "12 file descriptors beside connections to upstream, 11 at the start";
        assert_eq!(leaked.beyond(start, false), [more]);
        let kept = Holdings { descriptors: 15, upstream: 4, ..start };
        assert!(kept.beyond(start, false).is_empty());
        assert_eq!(kept.beyond(start, true), ["4 connections to upstream, 1 at the start"]);
        assert!(!Holdings { upstream: 0, ..start }.beyond(start, false).is_empty());
        assert_eq!(Holdings { threads: 5, ..start }.beyond(start, false), ["5 threads, 4 at the start"]);
    }

    #[test]
    fn a_socket_is_known_by_its_other_end() {
        let line =
            "  7: 0100007F:18EC 0100007F:A2F1 01 00000000:00000000 00:00000000 00000000  1000  0 39592434 1 0 20";
        assert_eq!(inode_of_socket_to(line, 0xA2F1), Some("39592434"));
        assert_eq!(inode_of_socket_to(line, 0x18EC), None);
        assert_eq!(inode_of_socket_to("  sl  local_address rem_address   st tx_queue", 1), None);
    }

    #[test]
    fn what_is_under_way_is_named() {
        let with = |name: &str, value: f64| HashMap::from([(name.to_string(), value), ("sidecache_up".into(), 1.0)]);
        assert!(under_way(&with("sidecache_clients", 0.0), false).is_empty());
        for gauge in ZERO {
            assert_eq!(under_way(&with(gauge, 2.0), false), [format!("{gauge} is 2")]);
        }
        let waiting = "sidecache_pool_waiting{pool=\"control\"}";
        assert_eq!(under_way(&with(waiting, 1.0), false), ["sidecache_pool_waiting is 1"]);
        let idle = with("sidecache_pool_idle{pool=\"control\"}", 1.0);
        assert!(under_way(&idle, false).is_empty());
        assert_eq!(under_way(&idle, true), ["sidecache_pool_idle is 1"]);
        assert!(under_way(&with("sidecache_lanes{state=\"tracking\"}", 1.0), true).is_empty());
    }

    #[test]
    fn memory_that_grows_is_told_from_memory_that_goes_up_and_down() {
        let grown = |samples: &[u64]| Growth::of(samples, 2, 8 * MIB).complaint();
        let up_and_down = [20, 40, 40, 70, 41, 69, 44, 74, 40, 70].map(|mib| mib * MIB);
        assert_eq!(grown(&up_and_down), None, "the first cycle is no measure");
        let leaks = [20, 40, 40, 70, 44, 74, 48, 78, 60, 90].map(|mib| mib * MIB);
        assert!(grown(&leaks).is_some_and(|text| text.starts_with("memory has grown from 57671680 to 78643200")));
        // Of a mix that has not come round yet nothing is said.
        assert_eq!(grown(&[leaks.as_slice(), &[900 * MIB]].concat()), grown(&leaks));
        let short = [20, 40, 35, 60].map(|mib| mib * MIB);
        assert_eq!(grown(&short), None, "the cache may have filled");
        assert!(grown(&[20, 40, 80, 110].map(|mib| mib * MIB)).is_some());
    }
}
