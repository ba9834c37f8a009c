//! The connection itself, transactions, publish and subscribe.
//!
//! Whatever changes the connection is answered here or has a connection of its own; none of it rides a lane.

use crate::command::flags::{
    ADMIN, ALLOW_BUSY, FAST, LOADING, NO_AUTH, NO_MULTI, NOSCRIPT, PUBSUB, SKIP_SLOWLOG, STALE,
};
use crate::command::keys::{ALL, Keys, NONE};
use crate::command::row::{Only, Row, row};
use crate::command::spread::Join::{Agree, Sum, SumPairs, Union};
use crate::command::spread::Spread::All;
use crate::protocol::downgrade::Shape::NullArray;
use crate::telemetry::labels::Class::{Control, Dedicated, Local, Plain, Subscribe, Transaction, Unknown};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("auth", -2, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Local),
    row("client", -2, 0, NONE, Unknown).container(),
    row("client|caching", 3, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Dedicated),
    row("client|capa", -3, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Local).only(Only::Valkey),
    row("client|getname", 2, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Local),
    row("client|getredir", 2, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Dedicated),
    row("client|help", 2, LOADING | STALE, NONE, Plain),
    row("client|id", 2, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Local),
    row("client|import-source", 3, NOSCRIPT | LOADING | STALE, NONE, Dedicated).only(Only::Valkey),
    row("client|info", 2, NOSCRIPT | LOADING | STALE, NONE, Local),
    row("client|kill", -3, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Local),
    row("client|list", -2, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Local),
    row("client|no-evict", 3, ADMIN | NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Local),
    row("client|no-touch", 3, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Local).only(Only::Valkey),
    row("client|pause", -3, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Control).spreads(All(Agree)),
    row("client|reply", 3, NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY, NONE, Local),
    row("client|setinfo", 4, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Local).only(Only::Valkey),
    row("client|setname", 3, NOSCRIPT | LOADING | STALE | ALLOW_BUSY, NONE, Local),
    row("client|tracking", -3, NOSCRIPT | LOADING | STALE, NONE, Dedicated),
    row("client|trackinginfo", 2, NOSCRIPT | LOADING | STALE, NONE, Dedicated),
    row("client|unblock", -3, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Control),
    row("client|unpause", 2, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Control).spreads(All(Agree)),
    row("discard", 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, NONE, Transaction),
    row("echo", 2, LOADING | STALE | FAST, NONE, Local),
    row("exec", 1, NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG, NONE, Transaction).shape(NullArray),
    row("hello", -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Local),
    row("multi", 1, NOSCRIPT | LOADING | STALE | FAST | NO_MULTI | ALLOW_BUSY, NONE, Transaction),
    row("ping", -1, FAST, NONE, Local),
    row("psubscribe", -2, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Subscribe),
    row("publish", 3, PUBSUB | LOADING | STALE | FAST, NONE, Plain),
    row("pubsub", -2, 0, NONE, Unknown).container(),
    row("pubsub|channels", -2, PUBSUB | LOADING | STALE, NONE, Plain).spreads(All(Union)),
    row("pubsub|help", 2, LOADING | STALE, NONE, Plain),
    row("pubsub|numpat", 2, PUBSUB | LOADING | STALE, NONE, Plain).spreads(All(Sum)),
    row("pubsub|numsub", -2, PUBSUB | LOADING | STALE, NONE, Plain).spreads(All(SumPairs)),
    row("pubsub|shardchannels", -2, PUBSUB | LOADING | STALE, NONE, Plain).spreads(All(Union)),
    row("pubsub|shardnumsub", -2, PUBSUB | LOADING | STALE, NONE, Plain).spreads(All(SumPairs)),
    row("punsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Subscribe),
    row("quit", -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Local),
    row("reset", 1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Local),
    row("select", 2, LOADING | STALE | FAST | ALLOW_BUSY, NONE, Local),
    row("spublish", 3, PUBSUB | LOADING | STALE | FAST, Keys::Channels { first: 1, last: 1 }, Plain),
    row("ssubscribe", -2, PUBSUB | NOSCRIPT | LOADING | STALE, Keys::Channels { first: 1, last: -1 }, Subscribe),
    row("subscribe", -2, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Subscribe),
    row("sunsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE, Keys::Channels { first: 1, last: -1 }, Subscribe),
    row("unsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Subscribe),
    row("unwatch", 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, NONE, Transaction),
    row("watch", -2, NOSCRIPT | LOADING | STALE | FAST | NO_MULTI | ALLOW_BUSY, ALL, Transaction),
];
