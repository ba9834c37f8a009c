//! Sorted sets.
//!
//! Scores stand beside their members in RESP3 as pairs, in RESP2 in one flat array.

use crate::command::flags::{BLOCKING, DENYOOM, FAST, MOVABLEKEYS, NOSCRIPT, READONLY, WRITE};
use crate::command::keys::{ONE, TWO, counted, range};
use crate::command::row::{Row, row};
use crate::protocol::downgrade::Shape::{NullArray, Pairs};
use crate::telemetry::labels::Class::{Blocking, Plain, Read, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("bzmpop", -5, WRITE | BLOCKING | MOVABLEKEYS, counted(0, 2, 1), Blocking).news().shape(NullArray),
    row("bzpopmax", -3, WRITE | NOSCRIPT | BLOCKING | FAST, range(1, -2, 1), Blocking).news().shape(NullArray),
    row("bzpopmin", -3, WRITE | NOSCRIPT | BLOCKING | FAST, range(1, -2, 1), Blocking).news().shape(NullArray),
    row("zadd", -4, WRITE | DENYOOM | FAST, ONE, Write),
    row("zcard", 2, READONLY | FAST, ONE, Read),
    row("zcount", 4, READONLY | FAST, ONE, Read),
    row("zdiff", -3, READONLY | MOVABLEKEYS, counted(0, 1, 1), Plain).shape(Pairs),
    row("zdiffstore", -4, WRITE | DENYOOM | MOVABLEKEYS, counted(1, 2, 1), Write),
    row("zincrby", 4, WRITE | DENYOOM | FAST, ONE, Write),
    row("zinter", -3, READONLY | MOVABLEKEYS, counted(0, 1, 1), Plain).shape(Pairs),
    row("zintercard", -3, READONLY | MOVABLEKEYS, counted(0, 1, 1), Plain),
    row("zinterstore", -4, WRITE | DENYOOM | MOVABLEKEYS, counted(1, 2, 1), Write),
    row("zlexcount", 4, READONLY | FAST, ONE, Read),
    row("zmpop", -4, WRITE | MOVABLEKEYS, counted(0, 1, 1), Write).news().shape(NullArray),
    row("zmscore", -3, READONLY | FAST, ONE, Read),
    row("zpopmax", -2, WRITE | FAST, ONE, Write).news().shape(Pairs),
    row("zpopmin", -2, WRITE | FAST, ONE, Write).news().shape(Pairs),
    row("zrandmember", -2, READONLY, ONE, Plain).shape(Pairs),
    row("zrange", -4, READONLY, ONE, Read).shape(Pairs),
    row("zrangebylex", -4, READONLY, ONE, Read),
    row("zrangebyscore", -4, READONLY, ONE, Read).shape(Pairs),
    row("zrangestore", -5, WRITE | DENYOOM, TWO, Write),
    row("zrank", -3, READONLY | FAST, ONE, Read).shape_from(4, NullArray),
    row("zrem", -3, WRITE | FAST, ONE, Write),
    row("zremrangebylex", 4, WRITE, ONE, Write),
    row("zremrangebyrank", 4, WRITE, ONE, Write),
    row("zremrangebyscore", 4, WRITE, ONE, Write),
    row("zrevrange", -4, READONLY, ONE, Read).shape(Pairs),
    row("zrevrangebylex", -4, READONLY, ONE, Read),
    row("zrevrangebyscore", -4, READONLY, ONE, Read).shape(Pairs),
    row("zrevrank", -3, READONLY | FAST, ONE, Read).shape_from(4, NullArray),
    row("zscan", -3, READONLY, ONE, Plain),
    row("zscore", 3, READONLY | FAST, ONE, Read),
    row("zunion", -3, READONLY | MOVABLEKEYS, counted(0, 1, 1), Plain).shape(Pairs),
    row("zunionstore", -4, WRITE | DENYOOM | MOVABLEKEYS, counted(1, 2, 1), Write),
];
