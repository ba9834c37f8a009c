//! Sets.
//!
//! The order of members is free, and differs from call to call.

use crate::command::flags::{DENYOOM, FAST, MOVABLEKEYS, READONLY, WRITE};
use crate::command::keys::{ALL, ONE, TWO, counted};
use crate::command::row::{Row, row};
use crate::telemetry::labels::Class::{Plain, Read, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("sadd", -3, WRITE | DENYOOM | FAST, ONE, Write),
    row("scard", 2, READONLY | FAST, ONE, Read),
    row("sdiff", -2, READONLY, ALL, Plain).unordered(),
    row("sdiffstore", -3, WRITE | DENYOOM, ALL, Write),
    row("sinter", -2, READONLY, ALL, Plain).unordered(),
    row("sintercard", -3, READONLY | MOVABLEKEYS, counted(0, 1, 1), Plain),
    row("sinterstore", -3, WRITE | DENYOOM, ALL, Write),
    row("sismember", 3, READONLY | FAST, ONE, Read),
    row("smembers", 2, READONLY, ONE, Read).unordered(),
    row("smismember", -3, READONLY | FAST, ONE, Read),
    row("smove", 4, WRITE | FAST, TWO, Write),
    row("spop", -2, WRITE | FAST, ONE, Write).news(),
    row("srandmember", -2, READONLY, ONE, Plain),
    row("srem", -3, WRITE | FAST, ONE, Write),
    row("sscan", -3, READONLY, ONE, Plain),
    row("sunion", -2, READONLY, ALL, Plain).unordered(),
    row("sunionstore", -3, WRITE | DENYOOM, ALL, Write),
];
