//! The slowest look-ups: a histogram of single ones while the same store, or another worker's, is written at full speed.
//!
//! A store belongs to one worker, so "beside a writer" has two meanings: *own* inserts, which fall between the worker's
//! look-ups and whose housekeeping moka does inside them; and *another worker*, whose store has nothing in common with
//! this one but the machine. Every insert is of a new key into a full store, so that each evicts. A look-up is timed by
//! two readings of the clock; what two readings cost with nothing between them (their median) is taken off. Keys are
//! drawn by Zipf with 1.1 from twice as many as fit. A look-up during which the operating system ran something else
//! counts as long as it took: on a busy machine the tail is the machine's. `idle` shows that tail: the same time spent
//! in the same loop without a store.
//!
//! `cargo bench --bench look_up_latency [-- --seconds 5]` prints a table and, last, one line of JSON.

#![allow(missing_docs, reason = "nothing here is used by anybody else")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use foldhash::quality::RandomState;
use sidecache::cache::entry::Namespace;
use sidecache::cache::{Basis, Entry, Generations, Lookup, Store};

use dice::{Dice, Zipf};
use histogram::Histogram;

#[allow(dead_code, unused_imports, reason = "the load generator uses the rest, and its tests are run there")]
#[path = "load/dice.rs"]
mod dice;
#[allow(dead_code, unused_imports, reason = "the load generator uses the rest, and its tests are run there")]
#[path = "load/histogram.rs"]
mod histogram;

/// The product's default.
const MEMORY: u64 = 64 << 20;

/// Keys that are looked up; about half of them fit.
const KEYS: u64 = 200_000;

/// Bytes of a reply.
const REPLY: usize = 106;

#[derive(Parser)]
struct Options {
    /// For each line of the table.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// What `cargo bench` says to every benchmark.
    #[arg(long)]
    bench: bool,
}

/// Who writes while look-ups are timed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Nobody,
    /// This worker, one insert after so many look-ups.
    Own(u32),
    /// Another worker, into its own store, without pause.
    Another,
}

/// A store with requests for all keys.
struct Stage {
    store: Store,
    seed: RandomState,
    generations: Generations,
    requests: Vec<Vec<u8>>,
    fresh: u64,
}

fn main() {
    let options = Options::parse();
    let seconds = Duration::from_secs_f64(options.seconds);
    let empty = empty_pair();
    println!("| written by | look-ups | p50 µs | p99 µs | p99.9 µs | p99.99 µs | max µs |");
    println!("|---|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    let mut show = |name: &str, histogram: &Histogram, count: u64| {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let parts = [0.5, 0.99, 0.999, 0.9999].map(|part| us(histogram.quantile(part)));
        let cells: Vec<String> = parts.iter().map(|part| format!("{part:.2}")).collect();
        println!("| {name} | {count} | {} | {:.1} |", cells.join(" | "), us(histogram.max()));
        let [p50, p99, p999, p9999] = parts;
        rows.push(format!(
            "{{\"writer\":\"{name}\",\"look_ups\":{count},\"us\":{{\"p50\":{p50},\"p99\":{p99},\"p99.9\":{p999},\
             \"p99.99\":{p9999},\"max\":{}}}}}",
            us(histogram.max())
        ));
    };
    let (histogram, count) = idle(seconds, empty);
    show("idle: no store at all", &histogram, count);
    for (name, writer) in [
        ("nobody", Writer::Nobody),
        ("this worker, after every look-up", Writer::Own(1)),
        ("this worker, after every tenth", Writer::Own(10)),
        ("another worker, without pause", Writer::Another),
    ] {
        let (histogram, count) = measure(writer, seconds, empty);
        show(name, &histogram, count);
    }
    println!("{{\"empty_pair_ns\":{empty},\"rows\":[{}]}}", rows.join(","));
}

/// What two readings of the clock cost, in nanoseconds.
fn empty_pair() -> u64 {
    let mut histogram = Histogram::default();
    for _ in 0..1_000_000 {
        let begin = Instant::now();
        histogram.record(black_box(begin).elapsed().as_nanos() as u64);
    }
    histogram.quantile(0.5)
}

fn idle(seconds: Duration, empty: u64) -> (Histogram, u64) {
    let (mut histogram, mut count, end) = (Histogram::default(), 0, Instant::now() + seconds);
    let (zipf, mut dice) = (Zipf::new(KEYS, 1.1), Dice::new(1));
    while Instant::now() < end {
        black_box(zipf.draw(&mut dice));
        let begin = Instant::now();
        histogram.record((black_box(begin).elapsed().as_nanos() as u64).saturating_sub(empty));
        count += 1;
    }
    (histogram, count)
}

fn measure(writer: Writer, seconds: Duration, empty: u64) -> (Histogram, u64) {
    let mut stage = Stage::full();
    let (zipf, mut dice) = (Zipf::new(KEYS, 1.1), Dice::new(1));
    let (mut histogram, mut count) = (Histogram::default(), 0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        if writer == Writer::Another {
            scope.spawn(|| {
                let mut other = Stage::full();
                while !over.load(Ordering::Relaxed) {
                    other.insert_fresh();
                }
            });
        }
        let mut until_insert = 0;
        let end = Instant::now() + seconds;
        while Instant::now() < end {
            let request = &stage.requests[zipf.draw(&mut dice) as usize];
            let lookup = Lookup::new(&stage.seed, Namespace(0), request);
            let begin = Instant::now();
            let found = black_box(stage.store.look(black_box(&lookup), |entry| Some(entry.clone())));
            let took = begin.elapsed();
            histogram.record((took.as_nanos() as u64).saturating_sub(empty));
            count += 1;
            if found.is_none() && writer == Writer::Nobody {
                // Else the store would hold what nobody asks for.
                stage.insert(lookup);
            }
            if let Writer::Own(every) = writer {
                until_insert += 1;
                if until_insert >= every {
                    until_insert = 0;
                    stage.insert_fresh();
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    (histogram, count)
}

// === impl Stage ===

impl Stage {
    /// Every key has been put in, the most popular last.
    fn full() -> Stage {
        let stage = Stage {
            store: Store::new(MEMORY),
            seed: RandomState::default(),
            generations: Generations::new(),
            requests: (0..KEYS)
                .map(|key| format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n").into_bytes())
                .collect(),
            fresh: 0,
        };
        for request in stage.requests.iter().rev() {
            stage.insert(Lookup::new(&stage.seed, Namespace(0), request));
        }
        stage.store.tidy();
        stage
    }

    fn insert(&self, lookup: Lookup<'_>) {
        let slot = self.generations.slot(lookup.request);
        let basis = Basis { slot, stamp: 0, sent: 0, deadline: u64::MAX, tracked: true };
        self.store.insert(lookup.hash, Entry::new(&lookup, &[b'v'; REPLY], basis));
    }

    /// A key that was never there.
    fn insert_fresh(&mut self) {
        self.fresh += 1;
        let request = format!("*2\r\n$3\r\nGET\r\n$16\r\nnew:{:012}\r\n", self.fresh);
        self.insert(Lookup::new(&self.seed, Namespace(0), request.as_bytes()));
    }
}
