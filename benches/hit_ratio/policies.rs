//! Who stays: the product's store and those that it is set beside. Each returns the share of reads that were hits.

use std::collections::BTreeSet;

use foldhash::quality::RandomState;
use sidecache::cache::admission::Miss;
use sidecache::cache::entry::Namespace;
use sidecache::cache::{Admission, Basis, Config, Entry, Generations, Lookup, Store};

use super::{NEVER, PER_SECOND, Trace};

/// No cache of so many bytes can do better. A span between two reads takes its bytes for as long as it lasts, as far as
/// it lies in the half that counts; there are `memory` × that half's length of them in all.
pub fn bound(trace: &Trace, memory: u64) -> f64 {
    let mut spans = Vec::new();
    let mut reads = 0_u64;
    for (at, request) in trace.requests.iter().enumerate() {
        reads += u64::from(request.is_read && at >= trace.half());
        let next = trace.next_read[at];
        // A span that begins with a write ends in a miss.
        if request.is_read && next != NEVER && next as usize >= trace.half() {
            spans.push(trace.cost(request.key) * (next as usize - at.max(trace.half())) as u64);
        }
    }
    spans.sort_unstable();
    let mut left = memory * (trace.requests.len() - trace.half()) as u64;
    let hits = spans.iter().take_while(|&&span| {
        let fits = span <= left;
        left = left.saturating_sub(span);
        fits
    });
    hits.count() as f64 / reads as f64
}

/// Evicts what is read again last, or what is never read again before it is written; keeps nothing of that kind.
pub fn belady(trace: &Trace, memory: u64) -> f64 {
    // Who is kept, by when it is read next.
    let mut kept = BTreeSet::new();
    let mut held = 0;
    trace.ratio(|at, request| {
        let is_hit = kept.remove(&(at as u32, request.key));
        if is_hit {
            held -= trace.cost(request.key);
        }
        let next = trace.next_read[at];
        // A write is kept for nobody: what is written is fetched by the next read.
        if request.is_read && next != NEVER {
            kept.insert((next, request.key));
            held += trace.cost(request.key);
            while held > memory {
                let Some((_, last)) = kept.pop_last() else { break };
                held -= trace.cost(last);
            }
        }
        request.is_read && is_hit
    })
}

/// Whose reply may be kept at all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// As dispatch has it: of keys that are read again while the product's sketch remembers them; a first read goes out
    /// plain.
    Again,
    /// The same with a memory of all reads in the window: what the sketch's size costs is the difference.
    AgainOfAll,
    /// Everybody's.
    All,
}

/// The product's store, behind one or another admission.
pub fn sidecache(trace: &Trace, memory: u64, admitted: Admitted) -> f64 {
    let (seed, namespace) = (RandomState::default(), Namespace(0));
    let (store, generations) = (Store::new(memory), Generations::new());
    let window = Config::default().admission_window.as_secs() as u32;
    let admission = Admission::new(memory, window);
    let mut last_read = vec![None; trace.wires.len()];
    let mut written = vec![0_u64; trace.wires.len()];
    let zeros = vec![0; 512 * 1024];
    trace.ratio(|at, request| {
        let generation = &mut written[request.key as usize];
        if !request.is_read {
            *generation += 1;
            return false;
        }
        let (wire, reply) = &trace.wires[request.key as usize];
        let lookup = Lookup::new(&seed, namespace, wire);
        if store.look(&lookup, |entry| (entry.stamp() == *generation).then_some(())).is_some() {
            return true;
        }
        let now = (at / PER_SECOND) as u32 + 1;
        let last = last_read[request.key as usize].replace(now);
        let is_admitted = match admitted {
            Admitted::Again => {
                let served = store.served(&lookup);
                let admitted = admission.admits(&Miss { hash: lookup.hash, now, served });
                if served.is_some() && !admitted {
                    store.remove(&lookup);
                }
                admitted
            }
            Admitted::AgainOfAll => last.is_some_and(|last| now - last <= window),
            Admitted::All => true,
        };
        if is_admitted {
            let basis =
                Basis { slot: generations.slot(wire), stamp: *generation, sent: 0, deadline: u64::MAX, tracked: true };
            let reply = zeros.get(..*reply).unwrap_or_default();
            store.insert(lookup.hash, Entry::new(&lookup, reply, basis));
        }
        false
    })
}

/// Evicts what was read longest ago; a write makes room at once.
pub fn lru(trace: &Trace, memory: u64) -> f64 {
    // Who is kept, by when it was read last; and that time by key.
    let mut kept = BTreeSet::new();
    let mut last_read = vec![NEVER; trace.wires.len()];
    let mut held = 0;
    trace.ratio(|at, request| {
        let last = std::mem::replace(&mut last_read[request.key as usize], NEVER);
        let is_kept = kept.remove(&(last, request.key));
        if is_kept {
            held -= trace.cost(request.key);
        }
        if !request.is_read {
            return false;
        }
        last_read[request.key as usize] = at as u32;
        kept.insert((at as u32, request.key));
        held += trace.cost(request.key);
        while held > memory {
            let Some((_, first)) = kept.pop_first() else { break };
            held -= trace.cost(first);
        }
        is_kept
    })
}

/// Weighs an entry by its key's cost.
#[derive(Clone)]
struct Costs<'a>(&'a Trace);

impl quick_cache::Weighter<u32, u64> for Costs<'_> {
    fn weight(&self, key: &u32, _: &u64) -> u64 {
        self.0.cost(*key)
    }
}

/// quick_cache's policy, a relative of S3-FIFO and CLOCK-Pro; a write makes room at once.
pub fn quick_cache(trace: &Trace, memory: u64) -> f64 {
    let mean = trace.wires.iter().map(|(request, reply)| (request.len() + reply) as u64 + 420).sum::<u64>()
        / trace.wires.len() as u64;
    let expected = (memory / mean).max(1) as usize;
    let mut cache = quick_cache::unsync::Cache::with_weighter(expected, memory, Costs(trace));
    trace.ratio(|_, request| {
        if !request.is_read {
            cache.remove(&request.key);
            return false;
        }
        let is_hit = cache.get(&request.key).is_some();
        if !is_hit {
            cache.insert(request.key, 0);
        }
        is_hit
    })
}
