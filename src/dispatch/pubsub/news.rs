//! What comes on a subscribed connection and answers no command: messages and confirmations.
//!
//! *Invariant:* only a whole value, or its first piece, is ever judged. Pure: no socket, no task.

use crate::protocol::frame::decode;

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

/// What answers no command.
#[derive(Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// A message, for whoever is subscribed to this.
    Message {
        /// Of what kind the subscription is.
        topic: Topic,
        /// Its name; empty if it lies beyond the piece at hand.
        name: &'a [u8],
    },
    /// Something is subscribed to, or not any more; no channel: nothing was.
    Confirmation {
        /// Of what kind.
        topic: Topic,
        /// Whether it is subscribed to from now on.
        begins: bool,
        /// Its name.
        name: Option<Vec<u8>>,
    },
}

// === impl Topic ===

impl Topic {
    /// The commands that begin and end subscriptions of this kind, as confirmations name them.
    pub fn word(self, begins: bool) -> &'static str {
        match (self, begins) {
            (Topic::Channel, true) => "subscribe",
            (Topic::Channel, false) => "unsubscribe",
            (Topic::Pattern, true) => "psubscribe",
            (Topic::Pattern, false) => "punsubscribe",
            (Topic::Shard, true) => "ssubscribe",
            (Topic::Shard, false) => "sunsubscribe",
        }
    }

    /// What such a command, or its confirmation, is about, and whether it begins it.
    pub fn of_word(word: &[u8]) -> Option<(Topic, bool)> {
        let all = [Topic::Channel, Topic::Pattern, Topic::Shard]
            .into_iter()
            .flat_map(|topic| [(topic, true), (topic, false)]);
        all.into_iter().find(|(topic, begins)| topic.word(*begins).as_bytes() == word)
    }
}

/// What a push, or in RESP2 an array, is; the bytes begin with the value.
pub fn news_of(bytes: &[u8]) -> Option<News<'_>> {
    // A cheap look first: arrays of other commands begin otherwise, nearly always.
    let (word, rest) = bulk(bytes.get(memchr::memchr(b'\n', bytes)? + 1..)?)?;
    let topic = match word {
        b"message" => Topic::Channel,
        b"pmessage" => Topic::Pattern,
        b"smessage" => Topic::Shard,
        _ => {
            let (topic, begins) = Topic::of_word(word)?;
            let value = decode(bytes).ok()?;
            let [_, name, _count] = value.as_array()? else { return None };
            return Some(News::Confirmation { topic, begins, name: name.as_bytes().map(<[u8]>::to_vec) });
        }
    };
    Some(News::Message { topic, name: bulk(rest).map(|(name, _)| name).unwrap_or_default() })
}

/// The bulk string at the front, and what follows it.
fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.strip_prefix(b"$")?;
    let (len, rest) = bytes.split_at_checked(memchr::memchr(b'\r', bytes)?)?;
    let len: usize = std::str::from_utf8(len).ok()?.parse().ok()?;
    let (content, rest) = rest.strip_prefix(b"\r\n")?.split_at_checked(len)?;
    Some((content, rest.strip_prefix(b"\r\n")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_confirmations_are_told_from_other_arrays() {
        let message = |topic, name| Some(News::Message { topic, name });
        let cases: [(&[u8], Option<News<'_>>); 6] = [
            (b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\nx\r\n", message(Topic::Channel, b"ch")),
            (b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$2\r\nch\r\n$0\r\n\r\n", message(Topic::Pattern, b"c*")),
            (b"*3\r\n$8\r\nsmessage\r\n$4\r\na\r\nb\r\n$1\r\nx\r\n", message(Topic::Shard, b"a\r\nb")),
            (
                b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n",
                Some(News::Confirmation { topic: Topic::Channel, begins: false, name: None }),
            ),
            (b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", None),
            (b">2\r\n$10\r\ninvalidate\r\n_\r\n", None),
        ];
        for (bytes, news) in cases {
            assert_eq!(news_of(bytes), news, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
