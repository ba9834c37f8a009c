//! The cluster's own commands.
//!
//! Commands that change the cluster are refused. What tells of its nodes is answered here in front of a cluster, and
//! forwarded otherwise: cluster clients are to stay. READONLY and READWRITE would change a lane's connection: answered here.

use crate::command::flags::{ADMIN, FAST, LOADING, NO_ASYNC_LOADING, NOSCRIPT, READONLY, STALE, WRITE};
use crate::command::keys::{Keys, NONE};
use crate::command::row::{Only, Row, row};
use crate::telemetry::labels::Class::{Local, Plain, Refused, Unknown};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("asking", 1, FAST, NONE, Refused),
    row("cluster", -2, 0, NONE, Unknown).container(),
    row("clusterscan", -2, READONLY, Keys::Channels { first: 1, last: 1 }, Plain).only(Only::Valkey),
    row("cluster|addslots", -3, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|addslotsrange", -4, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|bumpepoch", 2, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|cancelslotmigrations", 2, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused).only(Only::Valkey),
    row("cluster|count-failure-reports", 3, ADMIN | STALE, NONE, Plain).of_the_cluster(),
    row("cluster|countkeysinslot", 3, STALE, NONE, Plain).by_slot(),
    row("cluster|delslots", -3, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|delslotsrange", -4, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|failover", -2, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|flushslot", -3, WRITE | ADMIN | NO_ASYNC_LOADING, NONE, Refused).only(Only::Valkey),
    row("cluster|flushslots", 2, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|forget", 3, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|getkeysinslot", 4, STALE, NONE, Plain).by_slot(),
    row("cluster|getslotmigrations", 2, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Plain).only(Only::Valkey),
    row("cluster|help", 2, LOADING | STALE, NONE, Plain),
    row("cluster|info", 2, LOADING | STALE, NONE, Plain),
    row("cluster|keyslot", 3, STALE, NONE, Plain).of_the_cluster(),
    row("cluster|links", 2, STALE, NONE, Plain),
    row("cluster|meet", -4, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|migrateslots", -4, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused).only(Only::Valkey),
    row("cluster|myid", 2, LOADING | STALE, NONE, Plain).of_the_cluster(),
    row("cluster|myshardid", 2, LOADING | STALE, NONE, Plain).of_the_cluster().only(Only::Valkey),
    row("cluster|nodes", 2, LOADING | STALE, NONE, Plain).of_the_cluster(),
    row("cluster|replicas", 3, ADMIN | STALE, NONE, Plain).of_the_cluster(),
    row("cluster|replicate", -3, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|reset", -2, ADMIN | NOSCRIPT | STALE, NONE, Refused),
    row("cluster|saveconfig", 2, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|set-config-epoch", 3, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|setslot", -4, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused),
    row("cluster|shards", 2, LOADING | STALE, NONE, Plain).of_the_cluster(),
    row("cluster|slaves", 3, ADMIN | STALE, NONE, Plain).of_the_cluster(),
    row("cluster|slot-stats", -4, LOADING | STALE, NONE, Plain).only(Only::Valkey),
    row("cluster|slots", 2, LOADING | STALE, NONE, Plain).of_the_cluster(),
    row("cluster|syncslots", -3, ADMIN | STALE | NO_ASYNC_LOADING, NONE, Refused).only(Only::Valkey),
    row("readonly", 1, LOADING | STALE | FAST, NONE, Local).of_the_cluster(),
    row("readwrite", 1, LOADING | STALE | FAST, NONE, Local).of_the_cluster(),
];
