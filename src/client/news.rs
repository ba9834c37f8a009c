//! What comes on a subscribed connection and answers no command: messages and confirmations.
//!
//! *Invariant:* only a value's first piece is ever judged. Pure: no socket, no task.

use super::effects::Topic;
use crate::protocol::frame::decode;
use crate::upstream::connection::Piece;

/// What answers no command.
pub enum Kind {
    /// A message of a channel or pattern.
    Message,
    /// Something is subscribed to, or not any more; no channel: nothing was.
    Confirmation {
        /// Of what kind.
        topic: Topic,
        /// Whether it is subscribed to from now on.
        begins: bool,
        /// Its name.
        channel: Option<Vec<u8>>,
    },
}

/// What a message or confirmation is.
pub fn kind_of(piece: &Piece) -> Option<Kind> {
    let bytes = piece.bytes.get(piece.start..)?;
    // A cheap look first: arrays of other commands begin otherwise, nearly always.
    let word = bytes.get(memchr::memchr(b'\n', bytes)? + 1..)?;
    if !word.starts_with(b"$") {
        return None;
    }
    let word = word.get(memchr::memchr(b'\n', word)? + 1..)?;
    let word = word.get(..memchr::memchr(b'\r', word)?)?;
    let (topic, begins) = match word {
        b"message" | b"pmessage" | b"smessage" => return Some(Kind::Message),
        b"subscribe" => (Topic::Channel, true),
        b"unsubscribe" => (Topic::Channel, false),
        b"psubscribe" => (Topic::Pattern, true),
        b"punsubscribe" => (Topic::Pattern, false),
        b"ssubscribe" => (Topic::Shard, true),
        b"sunsubscribe" => (Topic::Shard, false),
        _ => return None,
    };
    let value = decode(bytes).ok()?;
    let [_, channel, _count] = value.as_array()? else { return None };
    Some(Kind::Confirmation { topic, begins, channel: channel.as_bytes().map(<[u8]>::to_vec) })
}
