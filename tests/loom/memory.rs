//! Every order that memory allows of what workers do to each other: one fills and hits while another writes.
//!
//! The product's own `coherence`, `generation`, `flight` and `entry` run here on loom's atomics. What goes over the
//! network, to the server and to clients, is modelled by loads that acquire and stores that release: less than a server
//! that does one thing after the other gives. Loom takes SeqCst for acquire and release, so that nothing here rests on
//! more. Each check must also be able to fail: with its steps in the wrong order, or with `Relaxed` everywhere.
#![allow(missing_docs, reason = "nothing here is used by anybody else")]
#![allow(clippy::expect_used, clippy::panic, reason = "a check says loudly what is wrong")]

#[allow(clippy::wrong_self_convention, reason = "names are the product's affair")]
#[allow(dead_code, reason = "the product uses the rest")]
mod cache;
#[allow(dead_code, reason = "the product uses the rest")]
#[path = "../../src/coherence.rs"]
mod coherence;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use cache::atomic::RELAXED;
use cache::entry::Namespace;
use cache::flight::Joining;
use cache::{Config, Entry, Flight, Lookup, Mode};
use coherence::{Coherence, Keys, Shared, Standing};
use sidecache::{command, net, protocol, switch, telemetry};

const NOW: u64 = 1 << 40;

/// What the threads share: the workers' state, the server's value, and what clients tell each other.
#[derive(Default)]
struct Node {
    shared: Arc<Shared>,
    value: AtomicU64,
    told: AtomicU64,
}

/// What is done wrong, so that a check fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The key is not bumped when its write is answered.
    NoBumpAtReply,
    /// The client is told before the key is bumped.
    ToldBeforeBump,
    /// The generation is noted after the value was read.
    NotedLate,
    /// The flag is looked at before the epoch is noted.
    FlagFirst,
    /// The flag is set after the epoch is bumped, or taken back before.
    FlagLate,
}

/// A worker with a lane that is up and was heard just now.
fn worker(node: &Node) -> (Coherence, Standing) {
    let coherence = Coherence::new(Arc::clone(&node.shared), &Config::default(), 7);
    let standing = Standing::new(0);
    standing.begin(Mode::Tracking);
    standing.lease.renew(NOW);
    (coherence, standing)
}

fn flight(coherence: &Coherence, standing: &Standing) -> Flight<()> {
    let slot = coherence.shared.generations.slot(b"k");
    Flight {
        key: Lookup { hash: 1, namespace: Namespace(0), request: b"k" }.to_key(),
        slot,
        generation: coherence.shared.generations.current(slot),
        lane_epoch: standing.epoch(),
        node_epoch: coherence.shared.node.current(),
        sent: NOW,
        order: 1,
        max_age: 1 << 40,
        fill: true,
        tracked: true,
        row: command::index::named("get").expect("GET"),
        shape: None,
        caching: Cell::new(true),
        pttl: Cell::new(Some(-1)),
        landed: Cell::new(false),
        waiters: RefCell::default(),
    }
}

fn filled(coherence: &Coherence, standing: &Standing, flight: &Flight<()>) -> Option<Entry> {
    coherence.fill(flight, standing, b"_\r\n", b"_\r\n").ok()
}

/// One worker reads a key while another writes it: after the writer's client has been told, the reader neither serves
/// what it has filled, nor has anybody join its flight, unless the write is in it.
fn write_beside_fill(wrong: Wrong) {
    let node = Arc::new(Node::default());
    let of_writer = Arc::clone(&node);
    let writer = thread::spawn(move || {
        let (coherence, _) = worker(&of_writer);
        let key = Keys::One(of_writer.shared.generations.slot(b"k"));
        coherence.written(&key);
        of_writer.value.store(1, Ordering::Release);
        if wrong == Wrong::ToldBeforeBump {
            of_writer.told.store(1, Ordering::Release);
        }
        if wrong != Wrong::NoBumpAtReply {
            coherence.written(&key);
        }
        of_writer.told.store(1, Ordering::Release);
    });
    let (coherence, standing) = worker(&node);
    let early = (wrong == Wrong::NotedLate).then(|| node.value.load(Ordering::Acquire));
    let flight = flight(&coherence, &standing);
    let value = early.unwrap_or_else(|| node.value.load(Ordering::Acquire));
    let entry = filled(&coherence, &standing, &flight);
    if node.told.load(Ordering::Acquire) == 1 {
        let valid = entry.is_some_and(|entry| coherence.valid(&entry, &standing, NOW));
        assert!(!valid || value == 1, "P2: a hit after the write was answered");
        assert!(!flight.may_join(&joining(&coherence, &standing)) || value == 1, "P2: a flight from before the write");
    }
    writer.join().expect("the writer");
}

/// The same of FLUSHALL and the node's epoch; `sweep` bumps as `dispatch` does.
fn flush_beside_fill(wrong: Wrong) {
    let node = Arc::new(Node::default());
    let of_writer = Arc::clone(&node);
    let writer = thread::spawn(move || {
        of_writer.shared.node.bump();
        of_writer.value.store(1, Ordering::Release);
        if wrong != Wrong::NoBumpAtReply {
            of_writer.shared.node.bump();
        }
        of_writer.told.store(1, Ordering::Release);
    });
    let (coherence, standing) = worker(&node);
    let flight = flight(&coherence, &standing);
    let value = node.value.load(Ordering::Acquire);
    let entry = filled(&coherence, &standing, &flight);
    if node.told.load(Ordering::Acquire) == 1 {
        let valid = entry.is_some_and(|entry| coherence.valid(&entry, &standing, NOW));
        assert!(!valid || value == 1, "P2: a hit after the FLUSHALL was answered");
        assert!(!flight.may_join(&joining(&coherence, &standing)) || value == 1, "P2: a flight from before it");
    }
    writer.join().expect("the writer");
}

/// Two workers write, each is seen.
fn two_writers(wrong: Wrong) {
    let node = Arc::new(Node::default());
    let writers = [1, 2].map(|bit| {
        let node = Arc::clone(&node);
        thread::spawn(move || {
            let (coherence, _) = worker(&node);
            let key = Keys::One(node.shared.generations.slot(b"k"));
            node.value.fetch_add(bit, Ordering::AcqRel);
            if wrong != Wrong::NoBumpAtReply {
                coherence.written(&key);
            }
            node.told.fetch_add(bit, Ordering::AcqRel);
        })
    });
    let (coherence, standing) = worker(&node);
    let flight = flight(&coherence, &standing);
    let value = node.value.load(Ordering::Acquire);
    let entry = filled(&coherence, &standing, &flight);
    let told = node.told.load(Ordering::Acquire);
    let valid = entry.is_some_and(|entry| coherence.valid(&entry, &standing, NOW));
    assert!(!valid || value & told == told, "P2: a hit on {value} after {told} were answered");
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
}

/// The background polls look again after a rest, in which a SWAPDB may have been: they drop all entries, then allow
/// hits. Nobody serves an entry from before.
fn rest_is_over(wrong: Wrong) {
    let node = Arc::new(Node::default());
    node.shared.unwatched.store(true, Ordering::SeqCst);
    let (coherence, standing) = worker(&node);
    let entry = filled(&coherence, &standing, &flight(&coherence, &standing)).expect("nothing has changed");
    let of_polls = Arc::clone(&node);
    let polls = thread::spawn(move || {
        if wrong == Wrong::FlagLate {
            of_polls.shared.unwatched.store(false, Ordering::SeqCst);
        }
        of_polls.shared.node.bump();
        of_polls.shared.unwatched.store(false, Ordering::SeqCst);
    });
    assert!(!coherence.valid(&entry, &standing, NOW), "a hit on what was filled before the SWAPDB");
    polls.join().expect("the polls");
}

/// The background polls see hash fields with TTLs: whoever fills from then on, or has before, has its entries' age
/// bounded. A worker notes the epoch first and looks at the flag then (`read`: `board`, `lead`).
fn hash_ttls_seen(wrong: Wrong) {
    let node = Arc::new(Node::default());
    let of_polls = Arc::clone(&node);
    let polls = thread::spawn(move || {
        let shared = &of_polls.shared;
        if wrong != Wrong::FlagLate {
            shared.hash_ttls.store(true, Ordering::SeqCst);
        }
        shared.node.bump();
        shared.hash_ttls.store(true, Ordering::SeqCst);
        of_polls.told.store(1, Ordering::Release);
    });
    let (coherence, standing) = worker(&node);
    let early = (wrong == Wrong::FlagFirst).then(|| node.shared.hash_ttls.load(Ordering::Relaxed));
    let flight = flight(&coherence, &standing);
    let bounded = early.unwrap_or_else(|| node.shared.hash_ttls.load(Ordering::Relaxed));
    let entry = filled(&coherence, &standing, &flight);
    if node.told.load(Ordering::Acquire) == 1 {
        let valid = entry.is_some_and(|entry| coherence.valid(&entry, &standing, NOW));
        assert!(!valid || bounded, "an entry without a bound outlives the poll");
    }
    polls.join().expect("the polls");
}

fn joining(coherence: &Coherence, standing: &Standing) -> Joining {
    Joining {
        after: 0,
        generation: coherence.shared.generations.current(coherence.shared.generations.slot(b"k")),
        lane_epoch: standing.epoch(),
        node_epoch: coherence.shared.node.current(),
        now: NOW,
        max_staleness: coherence.max_staleness,
    }
}

/// A check, by its name, its threads, and what makes it fail.
type Check = (&'static str, fn(Wrong), usize, &'static [Wrong]);

const CHECKS: [Check; 5] = [
    ("a write beside a fill", write_beside_fill, 2, &[Wrong::NoBumpAtReply, Wrong::ToldBeforeBump, Wrong::NotedLate]),
    ("FLUSHALL beside a fill", flush_beside_fill, 2, &[Wrong::NoBumpAtReply]),
    ("two writers", two_writers, 3, &[Wrong::NoBumpAtReply]),
    ("the polls' rest is over", rest_is_over, 2, &[Wrong::FlagLate]),
    ("hash fields with TTLs", hash_ttls_seen, 2, &[Wrong::FlagFirst, Wrong::FlagLate]),
];

fn main() {
    for (name, check, threads, wrongs) in CHECKS {
        let (begun, count) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        explore(threads, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            check(Wrong::Nothing);
        });
        println!("{name}: {} orders, {} ms", count.load(Ordering::Relaxed), begun.elapsed().as_millis());
        wrongs.iter().for_each(|&wrong| assert_fails(name, check, threads, wrong));
        RELAXED.store(true, Ordering::SeqCst);
        assert_fails(name, check, threads, Wrong::Nothing);
        RELAXED.store(false, Ordering::SeqCst);
    }
}

/// Of two threads all orders; of three, which would take minutes, those that interrupt none more than twice.
fn explore(threads: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = (threads > 2).then_some(2);
    builder.check(check);
}

/// Must find an order in which the check fails.
fn assert_fails(name: &str, check: fn(Wrong), threads: usize, wrong: Wrong) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let fails = catch_unwind(AssertUnwindSafe(|| explore(threads, move || check(wrong)))).is_err();
    std::panic::set_hook(hook);
    let relaxed = if RELAXED.load(Ordering::SeqCst) { ", all Relaxed" } else { "" };
    assert!(fails, "{name}: nothing is noticed of {wrong:?}{relaxed}");
    println!("  fails as it must: {wrong:?}{relaxed}");
}
