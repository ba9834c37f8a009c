//! Frames that must be understood, not only passed on: control replies, handshakes, pushes.
//!
//! Invariant: bytes reach the recursive decoder of `redis-protocol` only after our own scanner has bounded them; an
//! invalidation in a shape that is not known is one of everything. Not here: the data path, which never decodes.

use redis_protocol::resp3;

use super::number;
use super::reply::{ReplyError, ReplyScanner};
use crate::limits::DECODED_DEPTH;

/// The bytes with which every invalidation push begins.
const INVALIDATION: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";

/// A decoded reply. Texts are bytes, since Redis does not promise UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value, in any of its spellings.
    Null,
    /// A simple string.
    Simple(Vec<u8>),
    /// An error, simple or bulk, its code word first.
    Error(Vec<u8>),
    /// An integer.
    Integer(i64),
    /// A double.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// A bulk or verbatim string (without its format) or the digits of a big number.
    Bulk(Vec<u8>),
    /// An array, set or push.
    Array(Vec<Value>),
    /// A map, in the order and with the repetitions in which it was sent.
    Map(Vec<(Value, Value)>),
}

/// What an invalidation push says.
#[derive(Clone, Debug)]
pub enum Invalidation<'a> {
    /// Everything: FLUSHALL, FLUSHDB, or a shape that is not known.
    All,
    /// These keys.
    Keys(KeyIter<'a>),
}

/// The keys of an invalidation push.
#[derive(Clone, Debug)]
pub struct KeyIter<'a> {
    /// Bulk strings, checked to be such.
    rest: &'a [u8],
}

// === impl Value ===

impl Value {
    /// The bytes of a simple or bulk string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(text) | Value::Bulk(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is an integer.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The elements of an array, set or push.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The value under `key` in a map, or in an array of keys and values, as RESP2 spells a map.
    pub fn field(&self, key: &str) -> Option<&Value> {
        let is_key = |candidate: &Value| candidate.as_bytes() == Some(key.as_bytes());
        match self {
            Value::Map(pairs) => pairs.iter().find(|(candidate, _)| is_key(candidate)).map(|(_, value)| value),
            Value::Array(elements) => {
                elements.chunks_exact(2).find(|pair| pair.first().is_some_and(is_key)).and_then(|pair| pair.get(1))
            }
            _ => None,
        }
    }
}

// === impl KeyIter ===

impl<'a> Iterator for KeyIter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (key, rest) = bulk(self.rest)?;
        self.rest = rest;
        Some(key)
    }
}

/// The one value that is all of `frame`, attributes of the whole cut off. For cold paths: every text is copied.
///
/// # Errors
/// Bytes that are not exactly one value, or one that cannot be decoded.
pub fn decode(frame: &[u8]) -> Result<Value, ReplyError> {
    let bounds = ReplyScanner::within(DECODED_DEPTH).scan(frame)?.filter(|bounds| bounds.len == frame.len());
    let bounds = bounds.ok_or(ReplyError::Undecodable)?;
    let value = frame.get(bounds.start..).unwrap_or_default();
    if let (b'+' | b'-', Some(text)) = (bounds.kind, value.get(1..value.len().saturating_sub(2))) {
        // An error may quote bytes that are not UTF-8, which the decoder would refuse.
        let text = text.to_vec();
        return Ok(if bounds.kind == b'-' { Value::Error(text) } else { Value::Simple(text) });
    }
    let (value, rest) = self::value(value)?;
    if rest.is_empty() { Ok(value) } else { Err(ReplyError::Undecodable) }
}

/// What a push is about (`invalidate`, `message`, …), the push beginning at its own `>`.
pub fn push_kind(push: &[u8]) -> Option<&[u8]> {
    let header_end = push.iter().position(|&byte| byte == b'\n')?;
    let first = push.strip_prefix(b">").and(push.get(header_end + 1..))?;
    match first.split_first()? {
        (b'+', text) => text.split(|&byte| byte == b'\r').next(),
        _ => bulk(first).map(|(kind, _)| kind),
    }
}

/// What the whole push `push`, beginning at its own `>`, invalidates; nothing if it is a push of another kind.
pub fn invalidation(push: &[u8]) -> Option<Invalidation<'_>> {
    let Some(keys) = push.strip_prefix(INVALIDATION) else {
        // Another spelling of the same must not be missed.
        return (push_kind(push)? == b"invalidate").then_some(Invalidation::All);
    };
    Some(listed(keys).map_or(Invalidation::All, Invalidation::Keys))
}

/// The keys in `array`, if it is an array of bulk strings and no more.
fn listed(array: &[u8]) -> Option<KeyIter<'_>> {
    let (header, rest) = array.strip_prefix(b"*").and(split_line(array))?;
    let count = number::integer(header.get(1..)?)?;
    let keys = KeyIter { rest };
    let mut walk = keys.clone();
    let found = walk.by_ref().count();
    // An empty list, which no server sends, is of no known meaning.
    (found > 0 && usize::try_from(count) == Ok(found) && walk.rest.is_empty()).then_some(keys)
}

/// The bulk string at the front of `bytes` and what follows it.
#[inline]
fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, header) = match number::short_header(bytes) {
        Some(short) if bytes.first() == Some(&b'$') => short,
        _ => {
            let (header, _) = bytes.strip_prefix(b"$").and(split_line(bytes))?;
            (usize::try_from(number::integer(header.get(1..)?)?).ok()?, header.len() + 2)
        }
    };
    let (content, rest) = bytes.get(header..)?.split_at_checked(len)?;
    Some((content, rest.strip_prefix(b"\r\n")?))
}

/// The line at the front of `bytes`, without its end, and what follows it.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\r', bytes)?;
    let (line, rest) = bytes.split_at_checked(end)?;
    Some((line, rest.strip_prefix(b"\r\n")?))
}

/// The value at the front of `bytes`, which the scanner has found to be whole, and what follows it. Aggregates are
/// taken apart here: the decoder's lose order and duplicates, and refuse a set of maps, as in COMMAND INFO.
fn value(bytes: &[u8]) -> Result<(Value, &[u8]), ReplyError> {
    let (line, mut rest) = split_line(bytes).ok_or(ReplyError::Undecodable)?;
    let (kind, count) = match line.split_first() {
        Some((b'*', b"-1")) => return Ok((Value::Null, rest)),
        Some((&kind @ (b'*' | b'~' | b'>' | b'%' | b'|'), count)) => (kind, count),
        _ => return leaf(bytes),
    };
    let is_map = matches!(kind, b'%' | b'|');
    let count = number::integer(count).ok_or(ReplyError::InvalidLength)?;
    let mut elements = Vec::new();
    for _ in 0..if is_map { count.saturating_mul(2) } else { count } {
        let found;
        (found, rest) = element(rest)?;
        elements.push(found);
    }
    if !is_map {
        return Ok((Value::Array(elements), rest));
    }
    let mut elements = elements.into_iter();
    let pairs = std::iter::from_fn(|| elements.next().zip(elements.next())).collect();
    Ok((Value::Map(pairs), rest))
}

/// The element of an aggregate at the front of `bytes`, behind attributes and pushes, which are none, and what follows
/// it. A loop, since the scanner bounds the nesting but not how many of those stand in a row.
fn element(mut bytes: &[u8]) -> Result<(Value, &[u8]), ReplyError> {
    while let Some(b'|' | b'>') = bytes.first() {
        (_, bytes) = value(bytes)?;
    }
    value(bytes)
}

/// The string, number, boolean or null at the front of `bytes` and what follows it.
fn leaf(bytes: &[u8]) -> Result<(Value, &[u8]), ReplyError> {
    use resp3::types::OwnedFrame as F;
    let undecodable = |_| ReplyError::Undecodable;
    if bytes.starts_with(b"$-1\r\n") {
        // The RESP3 decoder knows no null of RESP2.
        return Ok((Value::Null, bytes.get(5..).unwrap_or_default()));
    }
    let (frame, len) = resp3::decode::complete::decode(bytes).map_err(undecodable)?.ok_or(ReplyError::Undecodable)?;
    let value = match frame {
        F::Null => Value::Null,
        F::SimpleString { data, .. } => Value::Simple(data),
        F::SimpleError { data, .. } => Value::Error(data.into_bytes()),
        F::BlobError { data, .. } => Value::Error(data),
        F::Number { data, .. } => Value::Integer(data),
        F::Double { data, .. } => Value::Double(data),
        F::Boolean { data, .. } => Value::Boolean(data),
        F::BlobString { data, .. } | F::VerbatimString { data, .. } | F::BigNumber { data, .. } => Value::Bulk(data),
        _ => return Err(ReplyError::Undecodable),
    };
    Ok((value, bytes.get(len..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(push: &[u8]) -> Option<Vec<Vec<u8>>> {
        match invalidation(push)? {
            Invalidation::All => None,
            Invalidation::Keys(keys) => Some(keys.map(<[u8]>::to_vec).collect()),
        }
    }

    fn is_all(push: &[u8]) -> bool {
        matches!(invalidation(push), Some(Invalidation::All))
    }

    #[test]
    fn an_invalidation_names_its_keys() {
        let one = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
        assert_eq!(keys(one), Some(vec![b"k".to_vec()]));
        let long = "x".repeat(1000);
        let many = format!(">2\r\n$10\r\ninvalidate\r\n*3\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n$1000\r\n{long}\r\n");
        assert_eq!(keys(many.as_bytes()), Some(vec![Vec::new(), b"\r\n\r\n".to_vec(), long.into_bytes()]));
    }

    #[test]
    fn a_flush_invalidates_everything_whichever_null_it_carries() {
        for null in ["_", "*-1", "$-1"] {
            assert!(is_all(format!(">2\r\n$10\r\ninvalidate\r\n{null}\r\n").as_bytes()), "{null}");
        }
    }

    #[test]
    fn an_invalidation_of_unknown_shape_is_one_of_everything() {
        for push in [
            ">2\r\n$10\r\ninvalidate\r\n*0\r\n",
            ">2\r\n$10\r\ninvalidate\r\n*1\r\n+k\r\n",
            ">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\nk\r\n:1\r\n",
            ">2\r\n$10\r\ninvalidate\r\n$1\r\nk\r\n",
            ">3\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n:0\r\n",
            ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n:1\r\n",
            ">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
        ] {
            assert!(is_all(push.as_bytes()), "{push}");
        }
    }

    #[test]
    fn other_pushes_are_no_invalidations() {
        let message = b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$10\r\ninvalidate\r\n";
        assert!(invalidation(message).is_none());
        assert_eq!(push_kind(message), Some(&b"message"[..]));
        assert_eq!(push_kind(b">1\r\n+pong\r\n"), Some(&b"pong"[..]));
        assert_eq!(push_kind(b"*1\r\n$1\r\na\r\n"), None);
        assert_eq!(push_kind(b">0\r\n"), None);
        assert!(invalidation(b"").is_none());
    }

    #[test]
    fn both_protocols_replies_are_decoded() {
        assert_eq!(decode(b"$-1\r\n"), Ok(Value::Null));
        assert_eq!(decode(b"*-1\r\n"), Ok(Value::Null));
        assert_eq!(decode(b"_\r\n"), Ok(Value::Null));
        assert_eq!(decode(b"-ERR x\r\n"), Ok(Value::Error(b"ERR x".to_vec())));
        assert_eq!(decode(b"*2\r\n$-1\r\n:-7\r\n"), Ok(Value::Array(vec![Value::Null, Value::Integer(-7)])));
        let hello = decode(b"%2\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n").unwrap();
        assert_eq!(hello.field("proto").and_then(Value::as_integer), Some(3));
        let hello = decode(b"*2\r\n$5\r\nproto\r\n:2\r\n").unwrap();
        assert_eq!(hello.field("proto").and_then(Value::as_integer), Some(2));
        assert_eq!(decode(b"|1\r\n+ttl\r\n:1\r\n#t\r\n"), Ok(Value::Boolean(true)));
        assert_eq!(decode(b"=6\r\ntxt:ok\r\n"), Ok(Value::Bulk(b"ok".to_vec())));
    }

    #[test]
    fn a_set_of_maps_is_decoded_in_the_order_it_was_sent() {
        let simple = |text: &str| Value::Simple(text.as_bytes().to_vec());
        let map = Value::Map(vec![(simple("b"), Value::Integer(2)), (simple("a"), Value::Null)]);
        assert_eq!(decode(b"~2\r\n%2\r\n+b\r\n:2\r\n+a\r\n_\r\n+x\r\n"), Ok(Value::Array(vec![map, simple("x")])));
    }

    #[test]
    fn attributes_and_pushes_within_a_reply_are_no_elements() {
        let front = "|1\r\n+ttl\r\n:1\r\n>1\r\n+invalidate\r\n".repeat(50_000);
        let expected = Value::Array(vec![Value::Integer(1), Value::Boolean(false)]);
        assert_eq!(decode(format!("*2\r\n:1\r\n{front}#f\r\n").as_bytes()), Ok(expected));
        assert_eq!(decode(b">1\r\n+pong\r\n"), Ok(Value::Array(vec![Value::Simple(b"pong".to_vec())])));
    }

    #[test]
    fn nesting_that_would_break_the_decoder_is_refused_before_it() {
        assert_eq!(decode("*1\r\n".repeat(10_000).as_bytes()), Err(ReplyError::TooDeep));
        assert_eq!(decode(format!("{}_\r\n", "*1\r\n".repeat(128)).as_bytes()).map(|_| ()), Ok(()));
    }

    #[test]
    fn half_a_frame_and_a_frame_and_more_are_refused() {
        assert_eq!(decode(b"$5\r\nab"), Err(ReplyError::Undecodable));
        assert_eq!(decode(b"+OK\r\n+OK\r\n"), Err(ReplyError::Undecodable));
        assert_eq!(decode(b""), Err(ReplyError::Undecodable));
    }
}
