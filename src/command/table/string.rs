//! Strings, bit strings and HyperLogLogs.
//!
//! PFCOUNT reads, yet may rewrite its key's cached cardinality: plain, never cached. BITFIELD is a write even if it
//! only reads, and no server tracks it.

use crate::command::flags::{ADMIN, DENYOOM, FAST, MOVABLEKEYS, READONLY, WRITE};
use crate::command::keys::{ALL, NONE, ONE, SECOND, TWO, counted, range};
use crate::command::row::{Depends, Only, Row, row};
use crate::command::spread::Join::Agree;
use crate::command::spread::Split::{Elements, Joined};
use crate::command::spread::Spread::Split;
use crate::telemetry::labels::Class::{Mget, Plain, Read, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("append", 3, WRITE | DENYOOM | FAST, ONE, Write),
    row("bitcount", -2, READONLY, ONE, Read),
    row("bitfield", -2, WRITE | DENYOOM, ONE, Write).news(),
    row("bitfield_ro", -2, READONLY | FAST, ONE, Read),
    row("bitop", -4, WRITE | DENYOOM, range(2, -1, 1), Write),
    row("bitpos", -3, READONLY, ONE, Read),
    row("decr", 2, WRITE | DENYOOM | FAST, ONE, Write),
    row("decrby", 3, WRITE | DENYOOM | FAST, ONE, Write),
    row("delifeq", 3, WRITE | FAST, ONE, Write).only(Only::Valkey),
    row("get", 2, READONLY | FAST, ONE, Read),
    row("getbit", 3, READONLY | FAST, ONE, Read),
    row("getdel", 2, WRITE | FAST, ONE, Write).news(),
    row("getex", -2, WRITE | FAST, ONE, Write).news(),
    row("getrange", 4, READONLY, ONE, Read),
    row("getset", 3, WRITE | DENYOOM | FAST, ONE, Write).news(),
    row("incr", 2, WRITE | DENYOOM | FAST, ONE, Write),
    row("incrby", 3, WRITE | DENYOOM | FAST, ONE, Write),
    row("incrbyfloat", 3, WRITE | DENYOOM | FAST, ONE, Write),
    row("lcs", -3, READONLY, TWO, Plain),
    row("mget", -2, READONLY | FAST, ALL, Mget).spreads(Split(Elements)),
    row("mset", -3, WRITE | DENYOOM, range(1, -1, 2), Write).spreads(Split(Joined(Agree))),
    row("msetex", -4, WRITE | DENYOOM | MOVABLEKEYS, counted(0, 1, 2), Write).only(Only::Valkey),
    row("msetnx", -3, WRITE | DENYOOM, range(1, -1, 2), Write),
    row("pfadd", -2, WRITE | DENYOOM | FAST, ONE, Write),
    row("pfcount", -2, READONLY, ALL, Plain),
    row("pfdebug", 3, WRITE | DENYOOM | ADMIN, SECOND, Write),
    row("pfmerge", -2, WRITE | DENYOOM, ALL, Write),
    row("pfselftest", 1, ADMIN, NONE, Plain),
    row("psetex", 4, WRITE | DENYOOM, ONE, Write),
    row("set", -3, WRITE | DENYOOM, ONE, Write).news().depends(Depends::SetGet),
    row("setbit", 4, WRITE | DENYOOM, ONE, Write),
    row("setex", 4, WRITE | DENYOOM, ONE, Write),
    row("setnx", 3, WRITE | DENYOOM | FAST, ONE, Write),
    row("setrange", 4, WRITE | DENYOOM, ONE, Write),
    row("strlen", 2, READONLY | FAST, ONE, Read),
    row("substr", 4, READONLY, ONE, Read),
];
