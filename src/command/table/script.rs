//! Scripts and functions.
//!
//! EVAL_RO, EVALSHA_RO and FCALL_RO cannot write: plain. They are not cached, since servers below 7.2 track only
//! the keys that a script declares.

use crate::command::flags::{
    ALLOW_BUSY, DENYOOM, LOADING, MOVABLEKEYS, NO_MANDATORY_KEYS, NOSCRIPT, READONLY, SKIP_MONITOR, STALE, WRITE,
};
use crate::command::keys::{NONE, counted};
use crate::command::row::{Only, Row, row};
use crate::command::spread::Join::{Agree, Any, Min};
use crate::command::spread::Spread::All;
use crate::telemetry::labels::Class::{Control, Plain, Refused, Script, Unknown};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("eval", -3, NOSCRIPT | STALE | MOVABLEKEYS | SKIP_MONITOR | NO_MANDATORY_KEYS, counted(0, 2, 1), Script),
    row("eval_ro", -3, READONLY | NOSCRIPT | STALE | MOVABLEKEYS | SKIP_MONITOR | NO_MANDATORY_KEYS, counted(0, 2, 1), Plain),
    row("evalsha", -3, NOSCRIPT | STALE | MOVABLEKEYS | SKIP_MONITOR | NO_MANDATORY_KEYS, counted(0, 2, 1), Script),
    row("evalsha_ro", -3, READONLY | NOSCRIPT | STALE | MOVABLEKEYS | SKIP_MONITOR | NO_MANDATORY_KEYS, counted(0, 2, 1), Plain),
    row("fcall", -3, NOSCRIPT | STALE | MOVABLEKEYS | SKIP_MONITOR | NO_MANDATORY_KEYS, counted(0, 2, 1), Script),
    row("fcall_ro", -3, READONLY | NOSCRIPT | STALE | MOVABLEKEYS | SKIP_MONITOR | NO_MANDATORY_KEYS, counted(0, 2, 1), Plain),
    row("function", -2, 0, NONE, Unknown).container(),
    row("function|delete", 3, WRITE | NOSCRIPT, NONE, Plain).spreads(All(Agree)),
    row("function|dump", 2, NOSCRIPT, NONE, Plain),
    row("function|flush", -2, WRITE | NOSCRIPT, NONE, Plain).spreads(All(Agree)),
    row("function|help", 2, LOADING | STALE, NONE, Plain),
    row("function|kill", 2, NOSCRIPT | ALLOW_BUSY, NONE, Control).spreads(All(Any)),
    row("function|list", -2, NOSCRIPT, NONE, Plain),
    row("function|load", -3, WRITE | DENYOOM | NOSCRIPT, NONE, Plain).spreads(All(Agree)),
    row("function|restore", -3, WRITE | DENYOOM | NOSCRIPT, NONE, Plain).spreads(All(Agree)),
    row("function|stats", 2, NOSCRIPT | ALLOW_BUSY, NONE, Plain),
    row("script", -2, 0, NONE, Unknown).container(),
    row("script|debug", -3, NOSCRIPT, NONE, Refused),
    row("script|exists", -3, NOSCRIPT | STALE, NONE, Plain).spreads(All(Min)),
    row("script|flush", -2, NOSCRIPT | STALE, NONE, Plain).spreads(All(Agree)),
    row("script|help", 2, LOADING | STALE, NONE, Plain),
    row("script|kill", 2, NOSCRIPT | ALLOW_BUSY, NONE, Control).spreads(All(Any)),
    row("script|load", 3, NOSCRIPT | STALE, NONE, Plain).spreads(All(Agree)),
    row("script|show", 3, NOSCRIPT | STALE, NONE, Plain).only(Only::Valkey),
];
