//! What clients of real caches do: how large keys and values are, which keys are asked for, how often they are written, by what.
//!
//! The figures are those published with J. Yang, Y. Yue, K. V. Rashmi, "A large scale analysis of hundreds of in-memory cache
//! clusters at Twitter" (OSDI 2020), of the traces of March 2020, by cluster. Ours are the number of keys, the commands that
//! stand for memcached's, and the times: shares of a cluster's times to live are kept, and so are their proportions, but the
//! commonest is half a round here, so that values expire while they are looked at.

use crate::differential::dice::Dice;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `get` and `gets`: GET.
    Get,
    /// `set`: SET.
    Set,
    /// `add`: SET … NX.
    Add,
    /// `cas`: SET … XX.
    Cas,
    /// `incr`, which changes a value and answers with one: SET … GET, so that the value still names its version.
    Incr,
    /// `delete`: DEL.
    Delete,
}

use Operation::{Add, Cas, Delete, Get, Incr, Set};

/// What the clients of one cluster do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// The cluster.
    pub name: &'static str,
    /// What it stands for.
    pub what: &'static str,
    /// The share of reads that ask for what is not there.
    pub misses: f64,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// How much more often than the n-th the first key is asked for: n to the power of this.
    pub alpha: f64,
    /// Times to live in seconds, each with its percentage; what is missing in the sum was not published.
    pub ttls: &'static [(usize, usize)],
    /// Operations, each with its percentage.
    pub operations: &'static [(Operation, usize)],
    /// Keys that are written.
    pub keys: usize,
}

/// Keys of a mix that nobody ever writes.
pub const ABSENT: usize = 200;

/// The mixes in the order of rounds.
pub const MIXES: [Mix; 6] = [
    Mix {
        name: "cluster52",
        what: "read-mostly, small",
        misses: 0.0189,
        key: 20,
        value: 273,
        alpha: 1.2117,
        ttls: &[(86_400, 65), (1_209_600, 27), (43_200, 7)],
        operations: &[(Get, 93), (Add, 4), (Cas, 2)],
        keys: 2000,
    },
    Mix {
        name: "cluster19",
        what: "flat",
        misses: 0.4549,
        key: 42,
        value: 101,
        alpha: 0.735,
        ttls: &[
            (27_000, 8),
            (26_640, 7),
            (23_760, 7),
            (25_920, 7),
            (24_120, 7),
            (25_200, 7),
            (25_560, 7),
            (24_480, 7),
            (24_840, 7),
            (26_280, 6),
        ],
        operations: &[(Get, 75), (Set, 25)],
        keys: 3000,
    },
    Mix {
        name: "cluster50",
        what: "very large values",
        misses: 0.459,
        key: 18,
        value: 67_485,
        alpha: 1.2816,
        ttls: &[(900, 73), (1200, 24), (1199, 3)],
        operations: &[(Get, 52), (Set, 48)],
        keys: 100,
    },
    Mix {
        name: "cluster34",
        what: "skewed",
        misses: 0.0819,
        key: 33,
        value: 322,
        alpha: 1.1401,
        ttls: &[
            (38_160, 4),
            (37_800, 4),
            (39_960, 4),
            (35_280, 4),
            (40_320, 4),
            (38_520, 4),
            (34_920, 4),
            (36_000, 4),
            (36_360, 4),
            (37_440, 3),
        ],
        operations: &[(Get, 94), (Set, 6)],
        keys: 2000,
    },
    Mix {
        name: "cluster7",
        what: "large values",
        misses: 0.2004,
        key: 17,
        value: 1936,
        alpha: 1.0666,
        ttls: &[(6480, 28), (6120, 24), (6840, 23), (5760, 13), (7200, 12)],
        operations: &[(Get, 82), (Set, 18)],
        keys: 2000,
    },
    Mix {
        name: "cluster23",
        what: "write-heavy",
        misses: 0.0259,
        key: 35,
        value: 224,
        alpha: 0.274,
        ttls: &[(120, 93), (2700, 5), (5, 3)],
        operations: &[(Set, 31), (Get, 36), (Incr, 30), (Delete, 2)],
        keys: 2000,
    },
];

/// One of these, each as often as its percentage says.
fn any<T: Copy>(of: &[(T, usize)], dice: &mut Dice) -> T {
    let mut left = dice.below(of.iter().map(|(_, percent)| percent).sum());
    for (this, percent) in of {
        match left.checked_sub(*percent) {
            Some(rest) => left = rest,
            None => return *this,
        }
    }
    of[0].0
}

impl Mix {
    /// What comes next.
    pub fn operation(&self, dice: &mut Dice) -> Operation {
        any(self.operations, dice)
    }

    /// How long a value lives, in milliseconds, where a round takes so many.
    pub fn ttl_ms(&self, round_ms: usize, dice: &mut Dice) -> usize {
        let commonest = self.ttls.iter().max_by_key(|(_, percent)| *percent).unwrap().0;
        (any(self.ttls, dice) * round_ms / 2 / commonest).max(20)
    }

    /// How the name of a round's key begins; `suffix` bytes follow.
    pub fn prefix(&self, round: usize, rank: usize, suffix: usize) -> String {
        format!("{:-<width$}", format!("{round}.{rank}"), width = self.key - suffix)
    }

    /// Whether a read asks for a key that is not there.
    pub fn is_miss(&self, dice: &mut Dice) -> bool {
        (dice.below(10_000) as f64) < self.misses * 10_000.0
    }
}

/// Ranks by Zipf's law.
pub struct Zipf {
    /// The share of all that each rank and those before it have.
    shares: Vec<f64>,
}

impl Zipf {
    /// So many ranks.
    pub fn new(ranks: usize, alpha: f64) -> Zipf {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=ranks)
            .map(|rank| {
                sum += (rank as f64).powf(-alpha);
                sum
            })
            .collect();
        Zipf { shares: sums.into_iter().map(|part| part / sum).collect() }
    }

    /// One of them, from 0.
    pub fn rank(&self, dice: &mut Dice) -> usize {
        const FINE: usize = 1 << 40;
        let at = dice.below(FINE) as f64 / FINE as f64;
        self.shares.partition_point(|share| *share <= at).min(self.shares.len() - 1)
    }
}

/// A value that names its key and version, so long.
pub fn value(name: &str, version: u64, length: usize) -> String {
    let head = format!("{name}|{version}|");
    let rest = "x".repeat(length - head.len());
    head + &rest
}

/// The version that a value names; `None` if it is not, byte for byte, a value of this key.
pub fn version_in(name: &str, length: usize, bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let version = text.strip_prefix(name)?.strip_prefix('|')?.split_once('|')?.0.parse().ok()?;
    (text == value(name, version, length)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_drawn_as_it_was_published() {
        let mut dice = Dice::new(1);
        for mix in MIXES {
            let drawn: Vec<Operation> = (0..20_000).map(|_| mix.operation(&mut dice)).collect();
            for (operation, percent) in mix.operations {
                let share = drawn.iter().filter(|drawn| *drawn == operation).count() as f64 / 200.0;
                assert!((share - *percent as f64).abs() < 1.5, "{} {operation:?}: {share} %", mix.name);
            }
            let misses = (0..20_000).filter(|_| mix.is_miss(&mut dice)).count() as f64 / 20_000.0;
            assert!((misses - mix.misses).abs() < 0.015, "{}: {misses}", mix.name);
            assert_eq!(mix.prefix(41, mix.keys - 1, 9).len(), mix.key - 9, "{}", mix.name);
            let most = (0..200).filter(|_| (900..1300).contains(&mix.ttl_ms(2000, &mut dice))).count();
            assert!(most > 90, "{}: {most} of 200 live for half a round", mix.name);
        }
    }

    #[test]
    fn the_first_keys_have_the_share_that_alpha_gives_them() {
        let mut dice = Dice::new(2);
        for (alpha, least, most) in [(1.2, 0.2, 0.26), (0.274, 0.0, 0.01)] {
            let zipf = Zipf::new(2000, alpha);
            let first = (0..20_000).filter(|_| zipf.rank(&mut dice) == 0).count() as f64 / 20_000.0;
            assert!((least..most).contains(&first), "{alpha}: {first}");
        }
    }

    #[test]
    fn a_value_that_is_not_the_key_s_own_is_none() {
        let good = value("k", 7, 40);
        assert_eq!((good.len(), version_in("k", 40, good.as_bytes())), (40, Some(7)));
        let (short, other) = (&good[..39], value("j", 7, 40));
        let torn = good.replacen('x', "y", 1);
        assert!([short, &other, &torn, ""].into_iter().all(|bad| version_in("k", 40, bad.as_bytes()).is_none()));
    }
}
