//! How long to wait before the next connection attempt: exponential, with full jitter.
//!
//! Full jitter (anything from zero to the bound) spreads the sidecars of a fleet that lost upstream in the
//! same instant best of all. Pure: no clock, no sleep; the seed is an argument.

use std::time::Duration;

/// The state of one sequence of attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first pause.
    min: Duration,
    /// The bound that no pause exceeds.
    max: Duration,
    /// Failures since the last success.
    failures: u32,
    /// State of the generator (splitmix64: eight bytes, and even a poor seed gives good numbers).
    random: u64,
}

// === impl Backoff ===

impl Backoff {
    /// A sequence whose bounds double from `min` to `max`. Different seeds give different pauses.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff { min, max: max.max(min), failures: 0, random: seed }
    }

    /// The pause after one more failure: between zero and this failure's bound.
    pub fn pause(&mut self) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // The high half of the product: uniform without a division.
        let drawn = (u128::from(self.draw()) * (u128::from(nanos) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(drawn).unwrap_or(u64::MAX))
    }

    /// An attempt succeeded: the next failure begins anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn bound(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.min.saturating_mul(factor).min(self.max)
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(20);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn no_pause_exceeds_its_bound_and_the_bounds_double() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(MIN, MAX, seed);
            for bound in [20, 40, 80, 160, 320, 640, 1000, 1000] {
                assert!(backoff.pause() <= Duration::from_millis(bound));
            }
        }
    }

    #[test]
    fn pauses_fill_the_whole_range() {
        let mut pauses: Vec<Duration> = (0..1000).map(|seed| Backoff::new(MIN, MAX, seed).pause()).collect();
        pauses.sort();
        assert!(pauses[10] < MIN / 20 && pauses[990] > MIN * 19 / 20);
        assert!(pauses[500] > MIN * 4 / 10 && pauses[500] < MIN * 6 / 10);
    }

    #[test]
    fn a_success_begins_anew_and_years_of_failure_do_not_overflow() {
        let mut backoff = Backoff::new(MIN, MAX, 1);
        for _ in 0..100 {
            assert!(backoff.pause() <= MAX);
        }
        backoff.failures = u32::MAX;
        assert!(backoff.pause() <= MAX);
        backoff.reset();
        assert!(backoff.pause() <= MIN);
        assert_eq!(backoff.failures(), 1);
    }
}
