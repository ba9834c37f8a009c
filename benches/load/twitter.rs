//! What some of Twitter's production caches see: sizes, skew, commands and times to live.
//!
//! From the statistics per cluster that Juncheng Yang, Yao Yue and K. V. Rashmi published with "A large scale analysis of
//! hundreds of in-memory cache clusters at Twitter" (OSDI 2020; traces of March 2020). Memcached's commands are sent as
//! Redis's nearest: `gets` as GET, `cas` as SET, `add` as SET NX, `incr` as INCR of a key of its own. Parts of commands
//! that the statistics leave out (they round to hundredths) are gets. How many keys there are is not published: the run
//! says.

use super::mix::Operation;

/// One cluster's statistics.
#[derive(Debug)]
pub struct Cluster {
    /// Its number in the paper's table.
    pub number: u32,
    /// Mean length of a key.
    pub key_bytes: usize,
    /// Mean length of a value.
    pub value_bytes: usize,
    /// Of the Zipf distribution that fits its keys.
    pub alpha: f64,
    /// Commands in hundredths.
    pub operations: &'static [(Operation, u32)],
    /// Times to live in seconds, in hundredths of the writes.
    pub ttls: &'static [(u32, u32)],
}

use Operation::{Add, Delete, Get, Increment, Set};

const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;

/// Those that a cache beside the application has something to do with, and some that are hard for it.
pub const CLUSTERS: [Cluster; 9] = [
    Cluster {
        number: 4,
        key_bytes: 67,
        value_bytes: 2439,
        alpha: 1.1004,
        operations: &[(Get, 93), (Set, 7)],
        ttls: &[(60, 39), (300, 24), (HOUR, 13), (600, 12), (4 * HOUR, 9), (DAY, 3)],
    },
    Cluster {
        number: 7,
        key_bytes: 17,
        value_bytes: 1936,
        alpha: 1.0666,
        operations: &[(Get, 82), (Set, 18)],
        ttls: &[(6480, 28), (6120, 24), (6840, 23), (5760, 13), (2 * HOUR, 12)],
    },
    Cluster {
        number: 14,
        key_bytes: 96,
        value_bytes: 414,
        alpha: 1.2959,
        operations: &[(Get, 65), (Delete, 22), (Set, 13)],
        ttls: &[(DAY, 100)],
    },
    Cluster {
        number: 16,
        key_bytes: 18,
        value_bytes: 115,
        alpha: 1.7862,
        operations: &[(Get, 95), (Set, 4), (Add, 1)],
        ttls: &[(HOUR, 100)],
    },
    Cluster {
        number: 19,
        key_bytes: 42,
        value_bytes: 101,
        alpha: 0.735,
        operations: &[(Get, 75), (Set, 25)],
        // From 6.6 to 7.5 hours, all alike.
        ttls: &[(7 * HOUR, 100)],
    },
    Cluster {
        number: 23,
        key_bytes: 35,
        value_bytes: 224,
        alpha: 0.274,
        operations: &[(Get, 37), (Set, 31), (Increment, 30), (Delete, 2)],
        ttls: &[(120, 92), (2700, 5), (5, 3)],
    },
    Cluster {
        number: 29,
        key_bytes: 36,
        value_bytes: 799,
        alpha: 1.2323,
        operations: &[(Get, 87), (Set, 13)],
        ttls: &[(HOUR, 67), (2 * HOUR, 33)],
    },
    Cluster {
        number: 34,
        key_bytes: 33,
        value_bytes: 322,
        alpha: 1.1401,
        operations: &[(Get, 94), (Set, 6)],
        // From 9.7 to 11.1 hours, all alike.
        ttls: &[(10 * HOUR, 100)],
    },
    Cluster {
        number: 52,
        key_bytes: 20,
        value_bytes: 273,
        alpha: 1.2117,
        operations: &[(Get, 94), (Add, 4), (Set, 2)],
        ttls: &[(DAY, 66), (14 * DAY, 27), (12 * HOUR, 7)],
    },
];

/// The cluster of this number.
pub fn cluster(number: u32) -> Option<&'static Cluster> {
    CLUSTERS.iter().find(|cluster| cluster.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_a_whole() {
        for cluster in &CLUSTERS {
            let operations: u32 = cluster.operations.iter().map(|(_, part)| part).sum();
            let ttls: u32 = cluster.ttls.iter().map(|(_, part)| part).sum();
            assert_eq!((operations, ttls), (100, 100), "cluster {}", cluster.number);
        }
    }
}
