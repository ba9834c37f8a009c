//! How many reads the cache answers with so much memory, beside plain LRU and beside what no cache could do better.
//!
//! The product's own admission and store are driven by seeded traces: keys drawn by Zipf with the parameters of Twitter's
//! caches (benches/load/twitter.rs), writes of the same keys between the reads, sizes per key spread around the published
//! mean (exponentially; only means are published). Every policy is charged the same bytes for an entry. The first half
//! of a trace warms up, the second counts. A read of a key that was written since it was kept is a miss for everybody.
//!
//! Columns: *bound* is an upper bound for any cache whatsoever: of all spans between two reads of a key, the cheapest in
//! bytes × time are taken until the memory is used up (PFOO-L; Berger, Beckmann and Harchol-Balter, "Practical bounds on
//! optimal caching with variable object sizes", 2018). *Belady* evicts what is read again last, which is optimal for
//! equal sizes and good for others. *sidecache* is admission and store as dispatch uses them; *large sketch* the same with
//! an admission that forgets nobody within its window; *store* keeps first reads too. Not here: age limits and leases,
//! which cost hits for other reasons than memory.
//!
//! `cargo bench --bench hit_ratio [-- --requests 2000000 --keys 500000]` prints a table and, last, one line of JSON.

#![allow(missing_docs, reason = "nothing here is used by anybody else")]

#[allow(dead_code, unused_imports, reason = "the load generator uses the rest, and its tests are run there")]
#[path = "load/dice.rs"]
mod dice;
#[allow(dead_code, unused_imports, reason = "the load generator uses the rest, and its tests are run there")]
#[path = "load/mix.rs"]
mod mix;
#[path = "hit_ratio/policies.rs"]
mod policies;
#[allow(dead_code, unused_imports, reason = "the load generator uses the rest, and its tests are run there")]
#[path = "load/twitter.rs"]
mod twitter;

use clap::Parser;

use dice::{Dice, Zipf};
use mix::Operation;
use policies::Admitted;
use twitter::Cluster;

/// The clusters whose parameters the traces have.
const CLUSTERS: [u32; 7] = [52, 34, 7, 29, 14, 19, 23];

/// The product's default, and a small part of it.
const MEMORIES: [u64; 3] = [2 << 20, 16 << 20, 64 << 20];

/// Reads and writes in a second, as the admission's window sees them.
const PER_SECOND: usize = 10_000;

/// What an entry costs beyond request and reply; the store's own figure.
const OVERHEAD: usize = 400;

#[derive(Parser)]
struct Options {
    /// Reads and writes of a trace.
    #[arg(long, default_value_t = 2_000_000)]
    requests: usize,
    /// Different keys that a trace may name.
    #[arg(long, default_value_t = 500_000)]
    keys: u64,
    /// For everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` says to every benchmark.
    #[arg(long)]
    bench: bool,
}

/// One read or write.
#[derive(Clone, Copy)]
struct Request {
    key: u32,
    is_read: bool,
}

/// What all policies are given.
struct Trace {
    requests: Vec<Request>,
    /// Each key's request and reply.
    wires: Vec<(Vec<u8>, usize)>,
    /// For each request, the next read of its key, if no write comes before it; `NEVER` otherwise.
    next_read: Vec<u32>,
}

const NEVER: u32 = u32::MAX;

fn main() {
    let options = Options::parse();
    println!("| keys as in | memory | bound | Belady | sidecache | large sketch | store | LRU | quick_cache |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for number in CLUSTERS {
        let Some(cluster) = twitter::cluster(number) else { continue };
        let trace = Trace::new(cluster, &options);
        for memory in MEMORIES {
            let found = [
                ("bound", policies::bound(&trace, memory)),
                ("belady", policies::belady(&trace, memory)),
                ("sidecache", policies::sidecache(&trace, memory, Admitted::Again)),
                ("large_sketch", policies::sidecache(&trace, memory, Admitted::AgainOfAll)),
                ("store", policies::sidecache(&trace, memory, Admitted::All)),
                ("lru", policies::lru(&trace, memory)),
                ("quick_cache", policies::quick_cache(&trace, memory)),
            ];
            let cells: Vec<String> = found.iter().map(|(_, ratio)| format!("{:.1} %", ratio * 100.0)).collect();
            println!("| cluster {number} | {} MiB | {} |", memory >> 20, cells.join(" | "));
            let fields: Vec<String> = found.iter().map(|(name, ratio)| format!("\"{name}\":{ratio:.5}")).collect();
            rows.push(format!("{{\"cluster\":{number},\"bytes\":{memory},{}}}", fields.join(",")));
        }
    }
    let Options { requests, keys, seed, .. } = options;
    println!("{{\"requests\":{requests},\"keys\":{keys},\"seed\":{seed},\"rows\":[{}]}}", rows.join(","));
}

// === impl Trace ===

impl Trace {
    fn new(cluster: &Cluster, options: &Options) -> Trace {
        let (zipf, mut dice) = (Zipf::new(options.keys, cluster.alpha), Dice::new(options.seed));
        let wires = (0..options.keys)
            .map(|key| {
                let name = format!("key:{key:0width$}", width = cluster.key_bytes - 4);
                let value = ((dice.gap() * cluster.value_bytes as f64) as usize).clamp(1, 256 * 1024);
                let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{name}\r\n", name.len());
                (request.into_bytes(), value + format!("${value}\r\n\r\n").len())
            })
            .collect();
        // INCR is of keys that nobody reads: it does not touch the cache.
        let parts: Vec<_> = cluster.operations.iter().filter(|(op, _)| *op != Operation::Increment).collect();
        let (reads, all) = parts.iter().fold((0, 0), |(reads, all), (operation, part)| {
            (reads + if *operation == Operation::Get { *part } else { 0 }, all + part)
        });
        let requests: Vec<Request> = (0..options.requests)
            .map(|_| Request {
                key: zipf.draw(&mut dice) as u32,
                is_read: dice.below(u64::from(all)) < u64::from(reads),
            })
            .collect();
        let mut next_of_key = vec![NEVER; options.keys as usize];
        let mut next_read = vec![NEVER; requests.len()];
        for (at, request) in requests.iter().enumerate().rev() {
            let next = &mut next_of_key[request.key as usize];
            next_read[at] = *next;
            *next = if request.is_read { at as u32 } else { NEVER };
        }
        Trace { requests, wires, next_read }
    }

    /// The bytes that any policy is charged for an entry.
    fn cost(&self, key: u32) -> u64 {
        let (request, reply) = &self.wires[key as usize];
        (request.len() + reply + OVERHEAD) as u64
    }

    /// Where counting begins.
    fn half(&self) -> usize {
        self.requests.len() / 2
    }

    /// The share of the reads that count for which `is_hit` says so; it is asked about every request, in order.
    fn ratio(&self, mut is_hit: impl FnMut(usize, Request) -> bool) -> f64 {
        let (mut reads, mut hits) = (0_u64, 0_u64);
        for (at, request) in self.requests.iter().enumerate() {
            let hit = is_hit(at, *request);
            if at >= self.half() && request.is_read {
                reads += 1;
                hits += u64::from(hit);
            }
        }
        hits as f64 / reads as f64
    }
}
