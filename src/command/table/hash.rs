//! Hashes, with the time-outs of single fields that Valkey has.
//!
//! HRANDFIELD WITHVALUES is the one reply whose shape differs without any RESP3 type in it.

use crate::command::flags::{DENYOOM, FAST, READONLY, WRITE};
use crate::command::keys::ONE;
use crate::command::row::{Only, Row, row};
use crate::protocol::downgrade::Shape::Pairs;
use crate::telemetry::labels::Class::{Plain, Read, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("hdel", -3, WRITE | FAST, ONE, Write),
    row("hexists", 3, READONLY | FAST, ONE, Read),
    row("hexpire", -6, WRITE | FAST, ONE, Write).only(Only::Valkey),
    row("hexpireat", -6, WRITE | FAST, ONE, Write).only(Only::Valkey),
    row("hexpiretime", -5, READONLY | FAST, ONE, Plain).only(Only::Valkey),
    row("hget", 3, READONLY | FAST, ONE, Read),
    row("hgetall", 2, READONLY, ONE, Read).unordered(),
    row("hgetdel", -5, WRITE | FAST, ONE, Write).news().only(Only::Valkey),
    row("hgetex", -5, WRITE | FAST, ONE, Write).news().only(Only::Valkey),
    row("hincrby", 4, WRITE | DENYOOM | FAST, ONE, Write),
    row("hincrbyfloat", 4, WRITE | DENYOOM | FAST, ONE, Write),
    row("hkeys", 2, READONLY, ONE, Read).unordered(),
    row("hlen", 2, READONLY | FAST, ONE, Read),
    row("hmget", -3, READONLY | FAST, ONE, Read),
    row("hmset", -4, WRITE | DENYOOM | FAST, ONE, Write),
    row("hpersist", -5, WRITE | FAST, ONE, Write).only(Only::Valkey),
    row("hpexpire", -6, WRITE | FAST, ONE, Write).only(Only::Valkey),
    row("hpexpireat", -6, WRITE | FAST, ONE, Write).only(Only::Valkey),
    row("hpexpiretime", -5, READONLY | FAST, ONE, Plain).only(Only::Valkey),
    row("hpttl", -5, READONLY | FAST, ONE, Plain).only(Only::Valkey),
    row("hrandfield", -2, READONLY, ONE, Plain).shape(Pairs),
    row("hscan", -3, READONLY, ONE, Plain),
    row("hset", -4, WRITE | DENYOOM | FAST, ONE, Write),
    row("hsetex", -6, WRITE | DENYOOM | FAST, ONE, Write).only(Only::Valkey),
    row("hsetnx", 4, WRITE | DENYOOM | FAST, ONE, Write),
    row("hstrlen", 3, READONLY | FAST, ONE, Read),
    row("httl", -5, READONLY | FAST, ONE, Plain).only(Only::Valkey),
    row("hvals", 2, READONLY, ONE, Read).unordered(),
];
