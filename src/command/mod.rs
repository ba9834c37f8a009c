//! The command table: every command of Redis 7.0 and Valkey 9.1 as a row of data, and how to find it.
//!
//! *Invariant:* a row says of a command what real servers say of it (a test compares them), and beside
//! it the class: which way the command goes. No other module holds command names, save those that
//! answer or build commands themselves. Not here: the ways (`dispatch`), the network.
//!
//! `table` holds the rows, `row` their questions, `keys` the places of keys, `flags` the servers' words,
//! `index` the look-up, `policy` refusals, `learned` what upstream says of names that the table lacks; `spread` which
//! nodes of a cluster a command goes to, `join` what makes one reply of theirs, `cursor` SCAN over all of them,
//! `timeout` what is left of a blocking command's when it is sent again.

pub mod cursor;
pub mod flags;
pub mod index;
pub mod join;
pub mod keys;
pub mod learned;
pub mod policy;
pub mod row;
pub mod spread;
pub mod table;
mod timeout;

pub use index::look_up;
pub use keys::Keys;
pub use learned::Learned;
pub use policy::Policy;
pub use row::Row;
pub use spread::{Join, Split, Spread};

#[cfg(test)]
mod tests;
