//! The ids of clients: applications know ours, upstream those of its connections. Where a command or a reply names one it
//! is translated; a client that has no connection of its own has no id there.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::connection::Connection;
use super::effects::Standing;
use crate::command::Row;
use crate::protocol::{Args, encode};
use crate::upstream::connection::Piece;

/// Before the id in CLIENT TRACKINGINFO's reply.
const REDIRECT: &[u8] = b"$8\r\nredirect\r\n";

// === impl Connection ===

impl Connection {
    /// A command that names one of our clients, for upstream.
    pub(super) fn translated(&self, standing: &mut Standing, row: Option<&Row>, args: &Args<'_>) -> Option<BytesMut> {
        let at = match row?.name {
            "client|unblock" => 2,
            "client|tracking" => {
                let is_redirect = |word: &[u8]| word.eq_ignore_ascii_case(b"redirect");
                (3..args.len()).find(|&i| args.get(i).is_some_and(is_redirect))? + 1
            }
            _ => return None,
        };
        let id: u64 = std::str::from_utf8(args.get(at)?).ok()?.parse().ok()?;
        let upstream_id = self.registry.get(id).map_or(0, |card| card.upstream_id.load(Ordering::Relaxed));
        // Zero turns a redirection off; what upstream has never given it refuses as it should.
        let upstream_id = if upstream_id == 0 && id != 0 { i64::MAX as u64 } else { upstream_id };
        if row?.name == "client|tracking" {
            standing.redirect = (id, upstream_id);
        }
        let id = upstream_id.to_string();
        let mut words: Vec<&[u8]> = (0..args.len()).filter_map(|i| args.get(i)).collect();
        *words.get_mut(at)? = id.as_bytes();
        let mut request = BytesMut::new();
        encode::request(&mut request, &words);
        Some(request)
    }

    /// A reply to CLIENT GETREDIR or TRACKINGINFO, for the client. Who is named in it may have left.
    pub(super) fn with_our_id(&self, standing: &Standing, piece: &Piece) -> Option<Piece> {
        let bytes = piece.bytes.get(piece.start..)?;
        let at = match piece.kind {
            b':' => 0,
            _ => memchr::memmem::find(bytes, REDIRECT)? + REDIRECT.len(),
        };
        let number = bytes.get(at..)?.strip_prefix(b":")?;
        let number = number.get(..memchr::memchr(b'\r', number)?)?;
        let upstream_id: u64 = std::str::from_utf8(number).ok()?.parse().ok().filter(|&id| id > 0)?;
        let (ours, theirs) = standing.redirect;
        let found = || self.registry.find(|card| card.upstream_id.load(Ordering::Relaxed) == upstream_id);
        let ours = if theirs == upstream_id { ours } else { found()?.id };
        let end = at + 1 + number.len();
        let ours = ours.to_string();
        let parts = [bytes.get(..=at)?, ours.as_bytes(), bytes.get(end..)?];
        Some(Piece { bytes: Bytes::from(parts.concat()), start: 0, ..piece.clone() })
    }
}
