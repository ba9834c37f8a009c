//! Streams and their consumer groups.
//!
//! Consumer-group commands change the key without an invalidation, so nothing that shows groups is cached:
//! XINFO and XPENDING are plain. XRANGE with COUNT 0 answers null.

use crate::command::flags::{BLOCKING, DENYOOM, FAST, LOADING, MOVABLEKEYS, READONLY, STALE, WRITE};
use crate::command::keys::{Keys, NONE, ONE, SECOND};
use crate::command::row::{Depends, Row, row};
use crate::protocol::downgrade::Shape::{NullArray, Pending, Streams};
use crate::telemetry::labels::Class::{Plain, Read, Unknown, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("xack", -4, WRITE | FAST, ONE, Write),
    row("xadd", -5, WRITE | DENYOOM | FAST, ONE, Write),
    row("xautoclaim", -6, WRITE | FAST, ONE, Write).news(),
    row("xclaim", -6, WRITE | FAST, ONE, Write).news(),
    row("xdel", -3, WRITE | FAST, ONE, Write),
    row("xgroup", -2, 0, NONE, Unknown).container(),
    row("xgroup|create", -5, WRITE | DENYOOM, SECOND, Write),
    row("xgroup|createconsumer", 5, WRITE | DENYOOM, SECOND, Write),
    row("xgroup|delconsumer", 5, WRITE, SECOND, Write),
    row("xgroup|destroy", 4, WRITE, SECOND, Write),
    row("xgroup|help", 2, LOADING | STALE, NONE, Plain),
    row("xgroup|setid", -5, WRITE, SECOND, Write),
    row("xinfo", -2, 0, NONE, Unknown).container(),
    row("xinfo|consumers", 4, READONLY, SECOND, Plain),
    row("xinfo|groups", 3, READONLY, SECOND, Plain),
    row("xinfo|help", 2, LOADING | STALE, NONE, Plain),
    row("xinfo|stream", -3, READONLY, SECOND, Plain),
    row("xlen", 2, READONLY | FAST, ONE, Read),
    row("xpending", -3, READONLY, ONE, Plain).shape(Pending),
    row("xrange", -4, READONLY, ONE, Read).shape(NullArray),
    row("xread", -4, READONLY | BLOCKING | MOVABLEKEYS, Keys::Streams, Plain).depends(Depends::Block).shape(Streams),
    row("xreadgroup", -7, WRITE | BLOCKING | MOVABLEKEYS, Keys::Streams, Write).news().depends(Depends::Block).shape(Streams),
    row("xrevrange", -4, READONLY, ONE, Read).shape(NullArray),
    row("xsetid", -3, WRITE | DENYOOM | FAST, ONE, Write),
    row("xtrim", -4, WRITE, ONE, Write),
];
