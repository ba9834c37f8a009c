//! What upstream says of a command that the table lacks: a module's, or a newer server's.
//!
//! Made from one element of a `COMMAND INFO` reply, which the caller has bounded and cut. *Invariant:*
//! never more trust than the server's words carry: a command that neither only reads nor writes keys it
//! names stays Unknown, and goes on a connection of its own. Not here: asking, and remembering the answer.

use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame;

use crate::command::flags::{ADMIN, BLOCKING, Flags, MOVABLEKEYS, NO_AUTH, NOSCRIPT, PUBSUB, READONLY, WRITE};
use crate::command::keys::{Keys, range};
use crate::protocol::Args;
use crate::protocol::downgrade::{Shape, rewrite_whole};
use crate::telemetry::labels::Class;

/// Deepest nesting of containers in an answer; servers have two levels.
const DEPTH: usize = 4;

/// A command as upstream describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Lower case; a subcommand as `name|sub`.
    pub name: Box<str>,
    /// As in a row.
    pub arity: i16,
    /// As in a row.
    pub flags: Flags,
    /// From first, last and step.
    pub keys: Keys,
    /// A container's subcommands.
    pub subcommands: Vec<Learned>,
}

/// A RESP value reduced to what `COMMAND INFO` uses.
enum Value {
    Text(Bytes),
    Number(i64),
    List(Vec<Value>),
    Other,
}

// === impl Learned ===

impl Learned {
    /// The commands of a `COMMAND INFO` reply, RESP2 or RESP3, one for each name asked: none for a name upstream lacks
    /// too. No value at all if the frame is not such a reply.
    pub fn parse(frame: &[u8]) -> Option<Vec<Option<Learned>>> {
        let Value::List(commands) = decode(frame)? else { return None };
        Some(commands.iter().map(|command| learn(command, DEPTH)).collect())
    }

    /// This command, or the subcommand that `args` name.
    pub fn narrow(&self, args: &Args<'_>) -> &Learned {
        let Some(word) = args.get(1) else { return self };
        let is_it = |sub: &&Learned| {
            sub.name.rsplit_once('|').is_some_and(|(_, own)| own.as_bytes().eq_ignore_ascii_case(word))
        };
        self.subcommands.iter().find(is_it).unwrap_or(self)
    }

    /// Which way it may go: Plain if it only reads, Write if it names all keys it writes, Script if it may write others;
    /// Unknown, a connection of its own, for all else.
    pub fn class(&self) -> Class {
        let alone = [BLOCKING, PUBSUB, ADMIN, NO_AUTH, NOSCRIPT].iter().any(|&bit| self.flags.has(bit));
        match () {
            () if alone || !self.subcommands.is_empty() => Class::Unknown,
            () if self.flags.has(READONLY) && !self.is_write() => Class::Plain,
            () if self.is_write() && self.tells_keys() => Class::Write,
            () if self.is_write() => Class::Script,
            () => Class::Unknown,
        }
    }

    /// Calls `each` with every key; false, and no call, if upstream did not say where all of them stand.
    pub fn each_key<'a>(&self, args: &Args<'a>, each: impl FnMut(&'a [u8])) -> bool {
        !self.flags.has(MOVABLEKEYS) && self.keys.each(args, each)
    }

    /// Whether it may change data.
    pub fn is_write(&self) -> bool {
        self.flags.has(WRITE)
    }

    /// A write without any key place writes something that it does not name.
    fn tells_keys(&self) -> bool {
        !self.flags.has(MOVABLEKEYS) && self.keys != Keys::None
    }
}

/// One command's description: name, arity, flags, first, last, step, categories, tips, key specs, subcommands.
fn learn(command: &Value, depth: usize) -> Option<Learned> {
    let Value::List(parts) = command else { return None };
    let number = |i: usize| match parts.get(i) {
        Some(&Value::Number(n)) => Some(n),
        _ => None,
    };
    let Some(Value::Text(name)) = parts.first() else { return None };
    let Some(Value::List(flags)) = parts.get(2) else { return None };
    let flags = flags.iter().fold(Flags::default(), |set, flag| match flag {
        Value::Text(name) => set.with(name),
        _ => set,
    });
    let keys = match u8::try_from(number(3)?).ok()? {
        0 => Keys::None,
        first => range(first, i8::try_from(number(4)?).ok()?, u8::try_from(number(5)?.max(1)).ok()?),
    };
    let subcommands = match parts.get(9) {
        Some(Value::List(subs)) if depth > 0 => subs.iter().filter_map(|sub| learn(sub, depth - 1)).collect(),
        _ => Vec::new(),
    };
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase().into_boxed_str();
    Some(Learned { name, arity: i16::try_from(number(1)?).ok()?, flags, keys, subcommands })
}

/// As RESP2, whichever it was: the decoder of RESP3 refuses sets of maps, and servers send such for key specs.
fn decode(frame: &[u8]) -> Option<Value> {
    let mut resp2 = Vec::with_capacity(frame.len());
    rewrite_whole(frame, Shape::Same, &mut resp2);
    match redis_protocol::resp2::decode::decode_bytes(&Bytes::from(resp2)) {
        Ok(Some((value, _))) => Some(value_of(value)),
        _ => None,
    }
}

fn value_of(frame: BytesFrame) -> Value {
    match frame {
        BytesFrame::BulkString(text) | BytesFrame::SimpleString(text) => Value::Text(text),
        BytesFrame::Integer(number) => Value::Number(number),
        BytesFrame::Array(items) => Value::List(items.into_iter().map(value_of).collect()),
        _ => Value::Other,
    }
}
