//! Commands on keys of any type.
//!
//! TTL and its like decay, random and cursor commands differ from call to call: none of them is cached.

use crate::command::flags::{BLOCKING, DENYOOM, FAST, LOADING, MOVABLEKEYS, NOSCRIPT, READONLY, STALE, WRITE};
use crate::command::keys::{ALL, Keys, NONE, ONE, SECOND, TWO};
use crate::command::row::{Depends, Only, Row, row};
use crate::command::spread::Join::{Any, Concat, Min, Sum};
use crate::command::spread::Split::Joined;
use crate::command::spread::Spread::{All, Scan, Split};
use crate::telemetry::labels::Class::{Dedicated, Plain, Read, Unknown, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("copy", -3, WRITE | DENYOOM, TWO, Write),
    row("del", -2, WRITE, ALL, Write).spreads(Split(Joined(Sum))),
    row("dump", 2, READONLY, ONE, Plain),
    row("exists", -2, READONLY | FAST, ALL, Read).depends(Depends::OneKey).spreads(Split(Joined(Sum))),
    row("expire", -3, WRITE | FAST, ONE, Write),
    row("expireat", -3, WRITE | FAST, ONE, Write),
    row("expiretime", 2, READONLY | FAST, ONE, Plain),
    row("keys", 2, READONLY, NONE, Plain).unordered().spreads(All(Concat)),
    row("migrate", -6, WRITE | MOVABLEKEYS, Keys::Migrate, Write),
    row("move", 3, WRITE | FAST, ONE, Write),
    row("object", -2, 0, NONE, Unknown).container(),
    row("object|encoding", 3, READONLY, SECOND, Plain),
    row("object|freq", 3, READONLY, SECOND, Plain),
    row("object|help", 2, LOADING | STALE, NONE, Plain),
    row("object|idletime", 3, READONLY, SECOND, Plain),
    row("object|refcount", 3, READONLY, SECOND, Plain),
    row("persist", 2, WRITE | FAST, ONE, Write),
    row("pexpire", -3, WRITE | FAST, ONE, Write),
    row("pexpireat", -3, WRITE | FAST, ONE, Write),
    row("pexpiretime", 2, READONLY | FAST, ONE, Plain),
    row("pttl", 2, READONLY | FAST, ONE, Plain),
    row("randomkey", 1, READONLY, NONE, Plain).spreads(All(Any)),
    row("rename", 3, WRITE, TWO, Write),
    row("renamenx", 3, WRITE | FAST, TWO, Write),
    row("restore", -4, WRITE | DENYOOM, ONE, Write),
    row("scan", -2, READONLY, NONE, Plain).spreads(Scan),
    row("sort", -2, WRITE | DENYOOM | MOVABLEKEYS, Keys::Store { from: 2 }, Write).news(),
    row("sort_ro", -2, READONLY | MOVABLEKEYS, ONE, Read).depends(Depends::NoExternalKeys),
    row("touch", -2, READONLY | FAST, ALL, Plain).spreads(Split(Joined(Sum))),
    row("ttl", 2, READONLY | FAST, ONE, Plain),
    row("type", 2, READONLY | FAST, ONE, Read),
    row("unlink", -2, WRITE | FAST, ALL, Write).spreads(Split(Joined(Sum))),
    row("wait", 3, NOSCRIPT | BLOCKING, NONE, Dedicated).spreads(All(Min)),
    row("waitaof", 4, BLOCKING, NONE, Dedicated).only(Only::Valkey).spreads(All(Min)),
];
