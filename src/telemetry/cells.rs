//! What one worker counts: plain cells with one writer each, readable from any thread.
//!
//! Invariant: only the owner writes, so a load and a store suffice (2-3 ns; a shared atomic
//! add costs ten times that under contention). Sums over several cells may be torn by a few
//! commands; no value ever goes back. Not here: names and help (`metrics`), sums (`registry`).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::labels::{Bypass, Class, ErrorKind, FillRefused, Outcome};
use super::metrics::{Counter, Gauge, Histogram};

/// The first bucket holds all up to 2^10 ns, about a microsecond.
const FIRST_OCTAVE: u32 = 10;
/// The last bound is 2^36 ns, about 69 seconds.
const LAST_OCTAVE: u32 = 36;
/// Buckets with a bound, two per octave.
pub const BOUNDS: usize = ((LAST_OCTAVE - FIRST_OCTAVE) * 2 + 1) as usize;

/// One worker's counts. Aligned to two cache lines (processors fetch them in pairs), so that
/// no two workers write to one line.
#[derive(Debug)]
#[repr(align(128))]
pub struct Cells {
    commands: [AtomicU64; Class::ALL.len() * Outcome::ALL.len()],
    bypass: [AtomicU64; Bypass::ALL.len()],
    fills_refused: [AtomicU64; FillRefused::ALL.len()],
    errors: [AtomicU64; ErrorKind::ALL.len()],
    counters: [AtomicU64; Counter::ALL.len()],
    gauges: [AtomicI64; Gauge::ALL.len()],
    histograms: [Buckets; Histogram::ALL.len()],
}

/// One histogram's counts.
#[derive(Debug)]
struct Buckets {
    /// How many lie in each bucket (not cumulative); the last has no bound.
    counts: [AtomicU64; BOUNDS + 1],
    /// The sum of what was observed, in nanoseconds.
    nanos: AtomicU64,
}

/// A histogram's values at one moment, of one worker or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// How many lie in each bucket (not cumulative); the last has no bound.
    pub counts: [u64; BOUNDS + 1],
    /// The sum of what was observed, in nanoseconds.
    pub nanos: u64,
}

// === impl Cells: the worker's side ===

impl Cells {
    /// Counts a command's end.
    pub fn command(&self, class: Class, outcome: Outcome) {
        add(&self.commands[class as usize * Outcome::ALL.len() + outcome as usize], 1);
    }

    /// Counts a cacheable read that went past the cache.
    pub fn bypass(&self, reason: Bypass) {
        add(&self.bypass[reason as usize], 1);
    }

    /// Counts a fetched reply that was not put in.
    pub fn fill_refused(&self, reason: FillRefused) {
        add(&self.fills_refused[reason as usize], 1);
    }

    /// Counts an error of our own.
    pub fn error(&self, kind: ErrorKind) {
        add(&self.errors[kind as usize], 1);
    }

    /// Adds `n` to a counter.
    pub fn add(&self, counter: Counter, n: u64) {
        add(&self.counters[counter as usize], n);
    }

    /// Sets this worker's part of a gauge.
    pub fn set(&self, gauge: Gauge, value: i64) {
        self.gauges[gauge as usize].store(value, Relaxed);
    }

    /// Moves this worker's part of a gauge by `delta`.
    pub fn shift(&self, gauge: Gauge, delta: i64) {
        let cell = &self.gauges[gauge as usize];
        cell.store(cell.load(Relaxed).wrapping_add(delta), Relaxed);
    }

    /// Observes a duration of `nanos`, `times` over (hits of one batch share one measurement).
    pub fn observe(&self, histogram: Histogram, nanos: u64, times: u64) {
        let buckets = &self.histograms[histogram as usize];
        add(&buckets.counts[bucket(nanos)], times);
        add(&buckets.nanos, nanos.wrapping_mul(times));
    }
}

// === impl Cells: the reader's side ===

impl Cells {
    /// Commands that ended so.
    pub fn commands(&self, class: Class, outcome: Outcome) -> u64 {
        self.commands[class as usize * Outcome::ALL.len() + outcome as usize].load(Relaxed)
    }

    /// Reads that went past the cache for `reason`.
    pub fn bypassed(&self, reason: Bypass) -> u64 {
        self.bypass[reason as usize].load(Relaxed)
    }

    /// Replies not put in for `reason`.
    pub fn fills_refused(&self, reason: FillRefused) -> u64 {
        self.fills_refused[reason as usize].load(Relaxed)
    }

    /// Errors of this kind.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.errors[kind as usize].load(Relaxed)
    }

    /// A counter's value.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Relaxed)
    }

    /// A gauge's value.
    pub fn gauge(&self, gauge: Gauge) -> i64 {
        self.gauges[gauge as usize].load(Relaxed)
    }

    /// A histogram's values.
    pub fn distribution(&self, histogram: Histogram) -> Distribution {
        let buckets = &self.histograms[histogram as usize];
        Distribution {
            counts: std::array::from_fn(|i| buckets.counts[i].load(Relaxed)),
            nanos: buckets.nanos.load(Relaxed),
        }
    }
}

impl Default for Cells {
    fn default() -> Self {
        Cells {
            commands: zeros(),
            bypass: zeros(),
            fills_refused: zeros(),
            errors: zeros(),
            counters: zeros(),
            gauges: std::array::from_fn(|_| AtomicI64::new(0)),
            histograms: std::array::from_fn(|_| Buckets { counts: zeros(), nanos: AtomicU64::new(0) }),
        }
    }
}

// === impl Distribution ===

impl Distribution {
    /// Nothing observed.
    pub const EMPTY: Distribution = Distribution { counts: [0; BOUNDS + 1], nanos: 0 };

    /// Adds another worker's values.
    pub fn merge(&mut self, other: &Distribution) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The upper bound of bucket `i` in nanoseconds, inclusive: 2^k, 3 * 2^(k-1), 2^(k+1) …
pub const fn bound(i: usize) -> u64 {
    let octave = FIRST_OCTAVE + (i as u32) / 2;
    if i.is_multiple_of(2) { 1 << octave } else { 3 << (octave - 1) }
}

/// The bucket that holds a duration.
fn bucket(nanos: u64) -> usize {
    // One less, so that a bound itself falls into the bucket that it bounds.
    let below = nanos.saturating_sub(1);
    if below < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = below.ilog2();
    let upper_half = (below >> (octave - 1)) & 1;
    (((octave - FIRST_OCTAVE) * 2 + 1 + upper_half as u32) as usize).min(BOUNDS)
}

/// Adds to a cell that only the caller writes.
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_twice_per_octave_from_a_microsecond_to_a_minute() {
        assert_eq!([bound(0), bound(1), bound(2), bound(3)], [1024, 1536, 2048, 3072]);
        assert_eq!(bound(BOUNDS - 1), 1 << LAST_OCTAVE);
        assert!((1..BOUNDS).all(|i| bound(i) > bound(i - 1)));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        for i in 0..BOUNDS {
            assert_eq!(bucket(bound(i)), i, "the bound itself");
            assert_eq!(bucket(bound(i) + 1), i + 1, "one beyond it");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BOUNDS);
    }

    #[test]
    fn every_cell_counts_on_its_own() {
        let cells = Cells::default();
        for class in Class::ALL {
            for outcome in Outcome::ALL {
                cells.command(*class, *outcome);
            }
        }
        let once = |class: &Class| Outcome::ALL.iter().all(|outcome| cells.commands(*class, *outcome) == 1);
        assert!(Class::ALL.iter().all(once));
        for (n, counter) in Counter::ALL.iter().enumerate() {
            cells.add(*counter, n as u64);
        }
        for (n, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(cells.counter(*counter), n as u64, "{counter:?}");
        }
    }

    #[test]
    fn a_gauge_is_set_and_shifted() {
        let cells = Cells::default();
        cells.set(Gauge::Clients, 5);
        cells.shift(Gauge::Clients, -7);
        assert_eq!(cells.gauge(Gauge::Clients), -2);
    }

    #[test]
    fn observing_many_at_once_counts_each() {
        let cells = Cells::default();
        cells.observe(Histogram::HitLatency, 1500, 3);
        cells.observe(Histogram::HitLatency, 100, 1);
        let seen = cells.distribution(Histogram::HitLatency);
        assert_eq!((seen.counts[0], seen.counts[1], seen.count(), seen.nanos), (1, 3, 4, 4600));
    }
}
