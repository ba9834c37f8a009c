//! Counts of times in buckets whose width grows with the time: 60 KiB, a quantile is at most 1/128 too high.

/// Buckets per power of two, as a power of two.
const FINE: u32 = 7;

/// Enough for any `u64`.
const BUCKETS: usize = ((64 - FINE as usize - 1) << FINE) + (2 << FINE);

/// Times, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

// === impl Histogram ===

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS].into(), total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one time.
    #[inline]
    pub fn record(&mut self, nanoseconds: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// The time within which so large a part (0 to 1) of all lie; 0 if there are none.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = ((part * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The longest, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(FINE + 1);
    ((shift as usize) << FINE) + (value >> shift) as usize
}

/// The highest value that falls into this bucket.
fn highest(bucket: usize) -> u64 {
    let shift = (bucket >> FINE).saturating_sub(1);
    let fine = (bucket - (shift << FINE)) as u128;
    (((fine + 1) << shift) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_one_bucket_that_is_wrong_by_little() {
        let mut last = 0;
        for value in
            (0..2000).chain((11..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])).chain([u64::MAX])
        {
            let at = bucket(value);
            assert!(at >= last && at < BUCKETS, "{value}");
            assert!(highest(at) >= value && highest(at) - value <= value / 128, "{value}: {}", highest(at));
            assert!(highest(at) == u64::MAX || bucket(highest(at) + 1) == at + 1, "{value}");
            last = at;
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut histogram = Histogram::default();
        for time in 1..=1000 {
            histogram.record(time * 1000);
        }
        for (part, exact) in [(0.5, 500_000), (0.99, 990_000), (0.999, 999_000), (1.0, 1_000_000)] {
            let found = histogram.quantile(part);
            assert!(found >= exact && found <= exact + exact / 128, "{part}: {found}");
        }
        assert_eq!(histogram.max(), 1_000_000);
        let mut few = Histogram::default();
        (1..=4).for_each(|time| few.record(time));
        assert_eq!([0.0, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0].map(|part| few.quantile(part)), [1, 1, 2, 2, 3, 4, 4]);
    }
}
