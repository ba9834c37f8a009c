//! Lists, blocking pops included.
//!
//! The blocking commands are reported without `noscript` by Valkey; the rows hold both servers' flags together.

use crate::command::flags::{BLOCKING, DENYOOM, FAST, MOVABLEKEYS, NOSCRIPT, READONLY, WRITE};
use crate::command::keys::{ONE, TWO, counted, range};
use crate::command::row::{Row, row};
use crate::protocol::downgrade::Shape::{NullArray, NullArrayOnTimeout};
use crate::telemetry::labels::Class::{Blocking, Read, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("blmove", 6, WRITE | DENYOOM | NOSCRIPT | BLOCKING, TWO, Blocking).news().shape(NullArrayOnTimeout),
    row("blmpop", -5, WRITE | BLOCKING | MOVABLEKEYS, counted(0, 2, 1), Blocking).news().shape(NullArray),
    row("blpop", -3, WRITE | NOSCRIPT | BLOCKING, range(1, -2, 1), Blocking).news().shape(NullArray),
    row("brpop", -3, WRITE | NOSCRIPT | BLOCKING, range(1, -2, 1), Blocking).news().shape(NullArray),
    row("brpoplpush", 4, WRITE | DENYOOM | NOSCRIPT | BLOCKING, TWO, Blocking).news().shape(NullArrayOnTimeout),
    row("lindex", 3, READONLY, ONE, Read),
    row("linsert", 5, WRITE | DENYOOM, ONE, Write),
    row("llen", 2, READONLY | FAST, ONE, Read),
    row("lmove", 5, WRITE | DENYOOM, TWO, Write).news(),
    row("lmpop", -4, WRITE | MOVABLEKEYS, counted(0, 1, 1), Write).news().shape(NullArray),
    row("lpop", -2, WRITE | FAST, ONE, Write).news().shape_from(3, NullArray),
    row("lpos", -3, READONLY, ONE, Read),
    row("lpush", -3, WRITE | DENYOOM | FAST, ONE, Write),
    row("lpushx", -3, WRITE | DENYOOM | FAST, ONE, Write),
    row("lrange", 4, READONLY, ONE, Read),
    row("lrem", 4, WRITE, ONE, Write),
    row("lset", 4, WRITE | DENYOOM, ONE, Write),
    row("ltrim", 4, WRITE, ONE, Write),
    row("rpop", -2, WRITE | FAST, ONE, Write).news().shape_from(3, NullArray),
    row("rpoplpush", 3, WRITE | DENYOOM, TWO, Write).news(),
    row("rpush", -3, WRITE | DENYOOM | FAST, ONE, Write),
    row("rpushx", -3, WRITE | DENYOOM | FAST, ONE, Write),
];
