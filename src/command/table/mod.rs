//! The rows, in files by the servers' own groups.
//!
//! *Invariant:* one row per command and subcommand of Redis 7.0.15 and Valkey 9.1; where the servers
//! differ a row holds the laxer arity and both servers' flags, and the comparison with real servers
//! lists the difference. Columns: name, arity, flags, keys, class; then what is special.

use crate::command::row::Row;

mod cluster;
mod generic;
mod geo;
mod hash;
mod list;
mod script;
mod server;
mod session;
mod set;
mod sorted_set;
mod stream;
mod string;

/// All rows, by group; the commonest groups first, so that they lie close together in the index.
pub static GROUPS: [&[Row]; 12] = [
    string::ROWS,
    hash::ROWS,
    list::ROWS,
    set::ROWS,
    sorted_set::ROWS,
    stream::ROWS,
    geo::ROWS,
    generic::ROWS,
    session::ROWS,
    script::ROWS,
    cluster::ROWS,
    server::ROWS,
];
