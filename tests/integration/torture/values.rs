//! What is written and how it is read: commands for each type, values that name their key and version, and what a reply
//! shows of them.

use super::history::Seen;
use crate::differential::dice::Dice;
use crate::support::V;

/// A command's words.
pub type Words = Vec<String>;

/// A type of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string
    Text,
    /// A hash with two fields of the same value
    Hash,
    /// A list with two elements of the same value
    List,
    /// A set of one member
    Set,
    /// A sorted set whose one member is the key's name, with the version as score
    Zset,
    /// A stream whose last entry has the version as id
    Stream,
}

/// All of them.
pub const KINDS: [Kind; 6] = [Kind::Text, Kind::Hash, Kind::List, Kind::Set, Kind::Zset, Kind::Stream];

/// A value that names its key and version; its length tells versions apart too, for STRLEN.
pub fn text(name: &str, version: u64, large: bool) -> String {
    let length = if large { 90_000 } else { 60 } + usize::try_from(version % 61).unwrap();
    let mut text = format!("{name}|{version}|");
    while text.len() < length {
        text.push('x');
    }
    text
}

/// The words of a line.
pub fn words(line: &str) -> Words {
    line.split(' ').map(ToString::to_string).collect()
}

/// What makes `key` hold this value, whatever it held; several commands must be executed as one.
pub fn commands(kind: Kind, key: &str, name: &str, version: u64, value: &str) -> Vec<Words> {
    let of = |line: &str| vec![words(&format!("DEL {key}")), words(line)];
    match kind {
        Kind::Text => vec![words(&format!("SET {key} {value}"))],
        Kind::Hash => of(&format!("HSET {key} v {value} w {value}")),
        Kind::List => of(&format!("RPUSH {key} {value} {value}")),
        Kind::Set => of(&format!("SADD {key} {value}")),
        Kind::Zset => of(&format!("ZADD {key} {version} {name}")),
        Kind::Stream => of(&format!("XADD {key} {version}-1 v {value}")),
    }
}

/// How a reply tells what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tells {
    /// By values in it.
    Values,
    /// By a score.
    Score,
    /// By a length in bytes, zero being absent.
    Length,
    /// By a number, zero being absent.
    Count,
    /// By a word, `none` being absent.
    Word,
}

/// A way to read a key.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The command's name.
    pub name: &'static str,
    before: &'static str,
    after: &'static str,
    tells: Tells,
}

const fn reading(before: &'static str, after: &'static str, tells: Tells) -> Reading {
    Reading { name: before, before, after, tells }
}

const ANY: [Reading; 2] = [reading("EXISTS", "", Tells::Count), reading("TYPE", "", Tells::Word)];
const TEXT: [Reading; 5] = [
    reading("GET", "", Tells::Values),
    reading("GET", "", Tells::Values),
    reading("MGET", "", Tells::Values),
    reading("GETRANGE", " 0 -1", Tells::Values),
    reading("STRLEN", "", Tells::Length),
];
const HASH: [Reading; 5] = [
    reading("HGET", " v", Tells::Values),
    reading("HMGET", " v w", Tells::Values),
    reading("HGETALL", "", Tells::Values),
    reading("HVALS", "", Tells::Values),
    reading("HLEN", "", Tells::Count),
];
const LIST: [Reading; 3] = [
    reading("LINDEX", " 0", Tells::Values),
    reading("LRANGE", " 0 -1", Tells::Values),
    reading("LLEN", "", Tells::Count),
];
const SET: [Reading; 2] = [reading("SMEMBERS", "", Tells::Values), reading("SCARD", "", Tells::Count)];
const ZSET: [Reading; 3] = [
    reading("ZRANGE", " 0 -1 WITHSCORES", Tells::Score),
    reading("ZRANGEBYSCORE", " -inf +inf WITHSCORES", Tells::Score),
    reading("ZCARD", "", Tells::Count),
];
const STREAM: [Reading; 3] = [
    reading("XREVRANGE", " + - COUNT 1", Tells::Values),
    reading("XRANGE", " - +", Tells::Values),
    reading("XLEN", "", Tells::Count),
];

/// A way to read a key of this type.
pub fn any_reading(kind: Kind, dice: &mut Dice) -> Reading {
    let all = readings(kind);
    if dice.percent(10) { ANY[dice.below(ANY.len())] } else { all[dice.below(all.len())] }
}

/// All ways to read a key of this type, those for any type last.
pub fn readings(kind: Kind) -> Vec<Reading> {
    let own: &[Reading] = match kind {
        Kind::Text => &TEXT,
        Kind::Hash => &HASH,
        Kind::List => &LIST,
        Kind::Set => &SET,
        Kind::Zset => &ZSET,
        Kind::Stream => &STREAM,
    };
    [own, &ANY].concat()
}

impl Reading {
    /// The command.
    pub fn words(&self, key: &str) -> Words {
        words(&format!("{} {key}{}", self.before, self.after))
    }

    /// What the reply shows of the key of this name; an error says what the reply cannot be.
    pub fn seen(&self, name: &str, reply: &V) -> Result<Seen, String> {
        let odd = || format!("{} {name} was answered {}", self.name, short(reply));
        let number = |reply: &V| if let V::Int(number) = reply { usize::try_from(*number).ok() } else { None };
        let some = |some: bool| if some { Seen::Present } else { Seen::Absent };
        let seen = match (self.tells, reply) {
            (Tells::Length, reply) => match number(reply).ok_or_else(odd)? {
                0 => Seen::Absent,
                length => Seen::Length(length),
            },
            (Tells::Count, reply) => some(number(reply).ok_or_else(odd)? > 0),
            (Tells::Word, V::Simple(word)) => some(word != "none"),
            (Tells::Word | Tells::Values | Tells::Score, V::Int(_) | V::Simple(_)) => return Err(odd()),
            (Tells::Word, _) => return Err(odd()),
            (Tells::Values, reply) => value_in(name, &leaves(reply)).map_err(|()| odd())?,
            (Tells::Score, reply) => score_in(name, &leaves(reply)).map_err(|()| odd())?,
        };
        Ok(seen)
    }
}

/// The version that all values in a reply have; they must all be this key's, whole, and of one version.
pub fn value_in(name: &str, leaves: &[String]) -> Result<Seen, ()> {
    let mut values = leaves.iter().filter(|leaf| leaf.contains('|'));
    let Some(first) = values.next() else {
        return if leaves.iter().all(String::is_empty) { Ok(Seen::Absent) } else { Err(()) };
    };
    let version =
        first.strip_prefix(name).and_then(|rest| rest.strip_prefix('|')).and_then(|rest| rest.split_once('|'));
    let version = version.and_then(|(version, _)| version.parse().ok()).ok_or(())?;
    let whole = *first == text(name, version, first.len() > 1000);
    if whole && values.all(|other| other == first) { Ok(Seen::Version(version)) } else { Err(()) }
}

fn score_in(name: &str, leaves: &[String]) -> Result<Seen, ()> {
    match leaves {
        [] => Ok(Seen::Absent),
        [member, score] if member == name => score.parse().map(Seen::Version).map_err(|_| ()),
        _ => Err(()),
    }
}

/// The texts in a reply, however nested; what is not there is an empty one.
pub fn leaves(reply: &V) -> Vec<String> {
    match reply {
        V::Array(items) | V::Set(items) | V::Push(items) => items.iter().flat_map(leaves).collect(),
        V::Map(pairs) => pairs.iter().flat_map(|(key, value)| [leaves(key), leaves(value)].concat()).collect(),
        V::Nil => vec![String::new()],
        V::Int(number) => vec![number.to_string()],
        V::Bool(is) => vec![is.to_string()],
        text => vec![text.text()],
    }
}

/// The first part of what a reply looks like.
pub fn short(reply: &V) -> String {
    let kind: String = format!("{reply:?}").chars().take_while(char::is_ascii_alphabetic).collect();
    format!("{kind} {:?}", leaves(reply)).chars().take(300).collect()
}
