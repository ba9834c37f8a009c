//! Positions.
//!
//! GEORADIUS and GEORADIUSBYMEMBER are writes even without STORE, and no server tracks them.

use crate::command::flags::{DENYOOM, MOVABLEKEYS, READONLY, WRITE};
use crate::command::keys::{Keys, ONE, TWO};
use crate::command::row::{Row, row};
use crate::protocol::downgrade::Shape::NullArrayParts;
use crate::telemetry::labels::Class::{Read, Write};

/// The rows, by name.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("geoadd", -5, WRITE | DENYOOM, ONE, Write),
    row("geodist", -4, READONLY, ONE, Read),
    row("geohash", -2, READONLY, ONE, Read),
    row("geopos", -2, READONLY, ONE, Read).shape(NullArrayParts),
    row("georadius", -6, WRITE | DENYOOM | MOVABLEKEYS, Keys::StoreOrDist { from: 6 }, Write).news(),
    row("georadius_ro", -6, READONLY, ONE, Read),
    row("georadiusbymember", -5, WRITE | DENYOOM | MOVABLEKEYS, Keys::StoreOrDist { from: 5 }, Write).news(),
    row("georadiusbymember_ro", -5, READONLY, ONE, Read),
    row("geosearch", -7, READONLY, ONE, Read),
    row("geosearchstore", -8, WRITE | DENYOOM, TWO, Write),
];
