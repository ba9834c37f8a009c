//! Seeded chance: the same seed draws the same commands, keys and times on every machine.

/// A sequence of numbers that look random (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// Draws ranks from 0 on, each with a chance of `(rank + 1)^-alpha` (Hörmann and Derflinger's rejection by inversion: the
/// same time for any number of ranks, and no table).
#[derive(Clone, Debug)]
pub struct Zipf {
    ranks: f64,
    alpha: f64,
    /// The integrals from which a draw is inverted: at the first rank and behind the last one.
    first: f64,
    last: f64,
    /// A draw so near to its rank needs no second look.
    near: f64,
}

// === impl Dice ===

impl Dice {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `end`, each as likely as the others up to one part in 2⁶⁴ / `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// At least 0 and less than 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A time between two events of a Poisson process, as a multiple of the mean.
    pub fn gap(&mut self) -> f64 {
        -(-self.unit()).ln_1p()
    }
}

// === impl Zipf ===

impl Zipf {
    /// Over so many ranks; an `alpha` of 0 draws them all alike.
    pub fn new(ranks: u64, alpha: f64) -> Self {
        let mut zipf = Zipf { ranks: ranks.max(1) as f64, alpha, first: 0.0, last: 0.0, near: 0.0 };
        zipf.first = zipf.integral(1.5) - 1.0;
        zipf.last = zipf.integral(zipf.ranks + 0.5);
        zipf.near = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.chance(2.0));
        zipf
    }

    /// A rank, the most likely one being 0.
    pub fn draw(&self, dice: &mut Dice) -> u64 {
        loop {
            let u = self.last + dice.unit() * (self.first - self.last);
            let x = self.inverse(u);
            let rank = (x + 0.5).floor().clamp(1.0, self.ranks);
            if rank - x <= self.near || u >= self.integral(rank + 0.5) - self.chance(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn chance(&self, x: f64) -> f64 {
        (-self.alpha * x.ln()).exp()
    }

    /// The integral of `chance`, in a form that holds at `alpha` = 1 too.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.alpha) * log;
        let ratio = if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 };
        ratio * log
    }

    fn inverse(&self, u: f64) -> f64 {
        let t = (u * (1.0 - self.alpha)).max(-1.0);
        let ratio = if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 };
        (ratio * u).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_as_often_as_their_chance_says() {
        const DRAWS: u32 = 200_000;
        for alpha in [0.0, 0.735, 1.0, 1.2117, 2.0] {
            let (zipf, mut dice) = (Zipf::new(1000, alpha), Dice::new(7));
            let mut counts = vec![0_u32; 1000];
            for _ in 0..DRAWS {
                counts[zipf.draw(&mut dice) as usize] += 1;
            }
            let all: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-alpha)).sum();
            for ranks in [0..1, 1..10, 10..100, 100..1000_usize] {
                let chance: f64 = ranks.clone().map(|rank| ((rank + 1) as f64).powf(-alpha)).sum::<f64>() / all;
                let drawn = f64::from(counts[ranks.clone()].iter().sum::<u32>()) / f64::from(DRAWS);
                // Seeded, so this either always holds or never: five standard deviations.
                let most = 5.0 * (chance * (1.0 - chance) / f64::from(DRAWS)).sqrt() + 1e-6;
                assert!((drawn - chance).abs() < most, "alpha {alpha}, ranks {ranks:?}: {drawn} for {chance}");
            }
        }
    }

    #[test]
    fn gaps_have_the_mean_of_one() {
        let mut dice = Dice::new(3);
        let mean = (0..100_000).map(|_| dice.gap()).sum::<f64>() / 1e5;
        assert!((0.98..1.02).contains(&mean), "{mean}");
    }
}
