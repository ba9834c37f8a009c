//! The cases: who says what, and what else may happen meanwhile, each time in every order.

use super::upstream::KEYS;

/// A client's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read of a key that is read often.
    Read(usize),
    /// The first read of a key: fetched plainly, not kept.
    Glance(usize),
    /// A write of a key.
    Write(usize),
    /// A write whose reply tells what others wrote.
    Pop(usize),
    /// FLUSHALL.
    Flush,
    /// A read on a dedicated connection.
    Learn(usize),
}

/// A case; the counts are of what may still happen, at any time.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub name: &'static str,
    pub workers: usize,
    /// Upstream cannot track: entries live by age, P3 does not hold.
    pub by_age: bool,
    /// Each client's worker and commands.
    pub clients: Vec<(usize, Vec<Op>)>,
    /// Entries from the beginning on: worker and key.
    pub warm: Vec<(usize, usize)>,
    /// The values of the beginning live so many milliseconds.
    pub ttl: Option<u64>,
    /// Outside writes of each key.
    pub outside: [u8; KEYS],
    pub flushes: u8,
    pub ticks: u8,
    pub losses: u8,
    /// Fences that take too long.
    pub failed_fences: u8,
    /// Refusals of CLIENT CACHING.
    pub busy: u8,
}

/// The keys.
const A: usize = 0;
const B: usize = 1;

/// All cases.
pub fn all() -> Vec<Case> {
    use Op::{Flush, Glance, Learn, Pop, Read, Write};
    let case = |name, workers, clients: &[(usize, &[Op])]| Case {
        name,
        workers,
        clients: clients.iter().map(|(worker, ops)| (*worker, ops.to_vec())).collect(),
        ..Case::default()
    };
    let each = |worker, keys: &[usize]| keys.iter().map(|&key| (worker, key)).collect::<Vec<_>>();
    vec![
        Case {
            warm: each(1, &[A]),
            ..case("own writes, two workers", 2, &[(0, &[Write(A), Read(A)]), (1, &[Read(A), Read(A)])])
        },
        Case {
            warm: each(1, &[A]),
            outside: [1, 0],
            ..case("own and outside writes, two workers", 2, &[(0, &[Write(A), Read(A)]), (1, &[Read(A), Read(A)])])
        },
        Case {
            outside: [1, 0],
            ..case("fills beside writes, two workers", 2, &[(0, &[Write(A)]), (1, &[Read(A), Read(A)])])
        },
        Case {
            warm: each(0, &[A]),
            ..case("three clients, two workers", 2, &[(0, &[Read(A), Read(B)]), (0, &[Write(B)]), (1, &[Write(A)])])
        },
        Case {
            warm: each(0, &[A]),
            outside: [0, 1],
            ..case("a parked read is lost", 1, &[(0, &[Read(B), Read(A), Read(B)]), (0, &[Write(A)])])
        },
        Case {
            warm: each(0, &[A]),
            outside: [1, 1],
            ..case("hits in a pipeline", 1, &[(0, &[Read(B), Read(A), Read(B)]), (0, &[Read(A)])])
        },
        Case {
            warm: each(0, &[A]),
            outside: [1, 0],
            ..case("a write behind a hit", 1, &[(0, &[Read(B), Read(A), Write(A), Read(A)])])
        },
        Case { outside: [1, 1], ..case("joined flights", 1, &[(0, &[Read(A), Read(B)]), (0, &[Read(B), Read(A)])]) },
        Case {
            outside: [1, 1],
            ..case("first reads joined", 1, &[(0, &[Glance(A), Read(B)]), (0, &[Read(B), Glance(A)])])
        },
        Case { outside: [1, 0], ticks: 5, ..case("joined flights grow old", 1, &[(0, &[Read(A)]), (0, &[Read(A)])]) },
        Case { warm: each(0, &[A]), outside: [1, 0], ticks: 5, ..case("leases", 1, &[(0, &[Read(A), Read(A)])]) },
        Case { outside: [1, 0], ticks: 4, busy: 1, ..case("a busy server", 1, &[(0, &[Read(A), Read(A)])]) },
        Case { ttl: Some(2), outside: [1, 0], ticks: 4, ..case("expiry", 1, &[(0, &[Read(A), Read(A)])]) },
        Case {
            warm: each(1, &[A]),
            losses: 1,
            ..case("a lost write, two workers", 2, &[(0, &[Write(A)]), (1, &[Read(A), Read(A)])])
        },
        Case {
            warm: each(0, &[A]),
            losses: 1,
            outside: [1, 1],
            ..case("reads sent again", 1, &[(0, &[Read(A), Read(B)]), (0, &[Read(A)])])
        },
        Case {
            warm: each(0, &[A]),
            losses: 1,
            outside: [1, 0],
            ticks: 3,
            ..case("a lost lane", 1, &[(0, &[Read(B), Read(A)])])
        },
        Case {
            by_age: true,
            warm: each(1, &[A]),
            outside: [1, 0],
            ..case("own writes by age, two workers", 2, &[(0, &[Write(A), Read(A)]), (1, &[Read(A), Read(A)])])
        },
        Case { by_age: true, outside: [1, 0], ticks: 5, ..case("age", 1, &[(0, &[Read(A), Read(A)])]) },
        Case {
            warm: each(1, &[A]),
            ..case("an inside flush, two workers", 2, &[(0, &[Flush, Read(A)]), (1, &[Read(A), Read(A)])])
        },
        Case {
            warm: each(0, &[A]),
            flushes: 1,
            outside: [1, 0],
            ticks: 3,
            ..case("an outside flush", 1, &[(0, &[Read(A), Read(A)])])
        },
        Case {
            warm: each(0, &[B]),
            outside: [1, 1],
            failed_fences: 1,
            ..case("news and the own lane", 1, &[(0, &[Learn(A), Read(B)]), (0, &[Read(B)])])
        },
        Case {
            warm: each(1, &[B]),
            outside: [1, 1],
            failed_fences: 1,
            ..case("news and another worker's lane", 2, &[(0, &[Learn(A)]), (1, &[Read(B), Read(B)])])
        },
        Case {
            warm: each(1, &[B]),
            outside: [1, 1],
            ..case("news on a lane", 2, &[(0, &[Pop(A), Read(B)]), (1, &[Read(B)])])
        },
    ]
}
