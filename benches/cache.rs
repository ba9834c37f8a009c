//! What it costs to find and to keep a reply: the store (an index of ours, and moka, which hears of some reads) beside quick_cache.
//!
//! Nanoseconds per operation on a store of 100,000 entries of 100 B, looked up with a hash that is there already, as on a
//! command's way; `docs/performance.md` has the figures and what follows from them. The keys that are looked up are few
//! and hot (64) or all of them in a scattered order.

#![allow(missing_docs, reason = "criterion's macros write public functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use foldhash::quality::RandomState;
use sidecache::cache::entry::Namespace;
use sidecache::cache::{Basis, Entry, Generations, Lookup, Store};

/// Entries in each store.
const ENTRIES: usize = 100_000;

/// Keys that are asked for again and again.
const HOT: usize = 64;

/// Coprime to `ENTRIES`: steps through all of them in an order that no cache line or prefetcher likes.
const STRIDE: usize = 61_803;

/// Room for everything: eviction is not measured.
const CAPACITY: u64 = 1 << 30;

/// Requests as clients send them.
fn requests(prefix: &str) -> Vec<Vec<u8>> {
    (0..ENTRIES).map(|i| format!("*2\r\n$3\r\nGET\r\n$16\r\n{prefix}:{i:012}\r\n").into_bytes()).collect()
}

fn entry(generations: &Generations, lookup: &Lookup<'_>) -> Entry {
    let slot = generations.slot(lookup.request);
    Entry::new(lookup, &[b'v'; 106], Basis { slot, stamp: 0, sent: 0, deadline: u64::MAX, tracked: true })
}

/// quick_cache by the same hash.
type Quick = quick_cache::unsync::Cache<u64, Entry, quick_cache::UnitWeighter, RandomState>;

/// Measures `find` over look-ups in turn.
fn each<T>(c: &mut Criterion, name: &str, lookups: &[Lookup<'_>], mut find: impl FnMut(&Lookup<'_>) -> T) {
    let mut at = 0;
    c.bench_function(name, |b| {
        b.iter(|| {
            at = if at + 1 == lookups.len() { 0 } else { at + 1 };
            black_box(find(black_box(&lookups[at])))
        });
    });
}

fn look_ups(c: &mut Criterion) {
    let seed = RandomState::default();
    let generations = Generations::new();
    let (known, strange) = (requests("key"), requests("not"));
    fn all<'a>(seed: &RandomState, from: &'a [Vec<u8>]) -> Vec<Lookup<'a>> {
        (0..ENTRIES).map(|i| Lookup::new(seed, Namespace(0), &from[i * STRIDE % ENTRIES])).collect()
    }
    let (scattered, missing) = (all(&seed, &known), all(&seed, &strange));
    let store = Store::new(CAPACITY);
    let mut quick = Quick::with(2 * ENTRIES, 2 * ENTRIES as u64, Default::default(), seed.clone(), Default::default());
    for lookup in &scattered {
        let entry = entry(&generations, lookup);
        quick.insert(lookup.hash, entry.clone());
        store.insert(lookup.hash, entry);
    }
    store.tidy();
    let hot = &scattered[ENTRIES - HOT..];

    each(c, "look up/hot/store", hot, |lookup| store.look(lookup, |entry| Some(entry.reply().len())));
    each(c, "look up/hot/quick_cache", hot, |lookup| quick.get(&lookup.hash).map(|entry| entry.reply().len()));
    each(c, "look up/scattered/store", &scattered, |lookup| store.look(lookup, |entry| Some(entry.reply().len())));
    each(c, "look up/scattered/quick_cache", &scattered, |lookup| {
        quick.get(&lookup.hash).map(|entry| entry.reply().len())
    });
    each(c, "look up/missing/store", &missing, |lookup| store.look(lookup, |entry| Some(entry.reply().len())));
    each(c, "look up/missing/quick_cache", &missing, |lookup| quick.get(&lookup.hash).is_some());
    c.bench_function("hash a request of 37 B", |b| {
        b.iter(|| Lookup::new(&seed, Namespace(0), black_box(&known[0])).hash);
    });
    replace(c, &generations, &scattered, &store, &mut quick);
}

/// What a fill does: an entry takes an older one's place.
fn replace(c: &mut Criterion, generations: &Generations, lookups: &[Lookup<'_>], store: &Store, quick: &mut Quick) {
    let fresh: Vec<_> = lookups.iter().map(|lookup| (lookup.hash, entry(generations, lookup))).collect();
    let mut at = 0;
    let mut next = || {
        at = (at + 1) % ENTRIES;
        fresh[at].clone()
    };
    c.bench_function("insert/store", |b| {
        b.iter(|| {
            let (hash, entry) = next();
            store.insert(hash, entry);
        });
    });
    c.bench_function("insert/quick_cache", |b| {
        b.iter(|| {
            let (hash, entry) = next();
            quick.insert(hash, entry);
        });
    });
}

criterion_group!(benches, look_ups);
criterion_main!(benches);
