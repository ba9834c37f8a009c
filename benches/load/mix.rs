//! Which commands a run sends, of which keys, and what must come back.

use std::str::FromStr;

use super::dice::{Dice, Zipf};
use super::twitter;

/// Keys of a Twitter mix, unless it says how many.
const TWITTER_KEYS: u64 = 100_000;

/// `key:000000000042`, as redis-benchmark names them.
const KEY_BYTES: usize = 16;

/// What stands before the digits of a key that is read and set.
const KEY: &str = "key:";

/// The same for counters, which must not be overwritten by values.
const COUNTER: &str = "ctr:";

/// A command of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// GET.
    Get,
    /// SET, with EX where the mix has times to live.
    Set,
    /// SET NX, likewise.
    Add,
    /// INCR of a counter.
    Increment,
    /// DEL.
    Delete,
    /// MGET of so many keys.
    Mget(usize),
}

/// What a run sends. Read from `get:KEYS:BYTES[:ALPHA]`, `set:…` likewise, `mget:N:KEYS:BYTES[:ALPHA]`, or
/// `twitter:CLUSTER[:KEYS]`.
#[derive(Clone, Debug)]
pub struct Mix {
    /// How many keys there are.
    pub keys: u64,
    /// Each value's length.
    pub value_bytes: usize,
    zipf: Zipf,
    uniform: bool,
    /// Hundredths of each command.
    operations: Vec<(Operation, u32)>,
    get: Template,
    delete: Template,
    increment: Template,
    /// One per time to live, with its hundredths.
    set: Vec<(Template, u32)>,
    add: Vec<(Template, u32)>,
    /// MGET's beginning and one key of it.
    mget: (Vec<u8>, Template),
}

/// A request's bytes; a key's number is written over the digits before `digits_end`.
#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    digits_end: usize,
}

/// How a reply is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Right,
    /// A null where a value could have been.
    Missing,
    /// An error, another type or another length.
    Wrong,
}

// === impl Mix ===

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!(
                "{text:?} is none of get:KEYS:BYTES[:ALPHA], set:…, mget:N:KEYS:BYTES[:ALPHA], twitter:CLUSTER[:KEYS]"
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let number = |at: usize| parts.get(at).and_then(|part| part.parse::<u64>().ok()).ok_or_else(usage);
        let plain = |operation: Operation, at: usize| {
            let alpha = match parts.get(at + 2) {
                Some(alpha) => alpha.parse().map_err(|_| usage())?,
                None => 0.0,
            };
            if parts.len() > at + 3 || number(at)? == 0 {
                return Err(usage());
            }
            Ok(Mix::new(number(at)?, KEY_BYTES, number(at + 1)? as usize, alpha, &[(operation, 100)], &[]))
        };
        match parts.first() {
            Some(&"get") => plain(Operation::Get, 1),
            Some(&"set") => plain(Operation::Set, 1),
            Some(&"mget") => plain(Operation::Mget(number(1)?.max(1) as usize), 2),
            Some(&"twitter") if parts.len() <= 3 => {
                let cluster = u32::try_from(number(1)?).ok().and_then(twitter::cluster);
                let cluster = cluster.ok_or_else(|| format!("no statistics of cluster {}", parts[1]))?;
                let keys = if parts.len() == 3 { number(2)?.max(1) } else { TWITTER_KEYS };
                let twitter::Cluster { key_bytes, value_bytes, alpha, operations, ttls, .. } = cluster;
                Ok(Mix::new(keys, *key_bytes, *value_bytes, *alpha, operations, ttls))
            }
            _ => Err(usage()),
        }
    }
}

impl Mix {
    fn new(
        keys: u64,
        key_bytes: usize,
        value_bytes: usize,
        alpha: f64,
        operations: &[(Operation, u32)],
        ttls: &[(u32, u32)],
    ) -> Mix {
        let value = "v".repeat(value_bytes);
        let of_key = |before: &[&str], name: &str, after: &[&str]| Template::new(before, name, key_bytes, after);
        let writes = |flags: &[&str]| -> Vec<(Template, u32)> {
            let with = |ttl: Option<String>| {
                let mut after = vec![value.as_str()];
                after.extend_from_slice(flags);
                if let Some(ttl) = &ttl {
                    after.extend(["EX", ttl]);
                }
                of_key(&["SET"], KEY, &after)
            };
            match ttls {
                [] => vec![(with(None), 100)],
                _ => ttls.iter().map(|(ttl, part)| (with(Some(ttl.to_string())), *part)).collect(),
            }
        };
        let several = match operations {
            [(Operation::Mget(count), _)] => *count,
            _ => 1,
        };
        Mix {
            keys,
            value_bytes,
            zipf: Zipf::new(keys, alpha),
            uniform: alpha == 0.0,
            operations: operations.to_vec(),
            get: of_key(&["GET"], KEY, &[]),
            delete: of_key(&["DEL"], KEY, &[]),
            increment: of_key(&["INCR"], COUNTER, &[]),
            set: writes(&[]),
            add: writes(&["NX"]),
            mget: (format!("*{}\r\n$4\r\nMGET\r\n", several + 1).into_bytes(), Template::argument(KEY, key_bytes)),
        }
    }

    /// Draws a command and writes its request.
    pub fn append(&self, dice: &mut Dice, out: &mut Vec<u8>) -> Operation {
        let operation = match self.operations.as_slice() {
            [(only, _)] => *only,
            all => drawn(all, dice).copied().unwrap_or(Operation::Get),
        };
        let key = self.key(dice);
        match operation {
            Operation::Get => self.get.append(key, out),
            Operation::Delete => self.delete.append(key, out),
            Operation::Increment => self.increment.append(key, out),
            Operation::Set => self.append_set(key, dice, out),
            Operation::Add => {
                if let Some(add) = drawn(&self.add, dice) {
                    add.append(key, out);
                }
            }
            Operation::Mget(count) => {
                out.extend_from_slice(&self.mget.0);
                self.mget.1.append(key, out);
                for _ in 1..count {
                    self.mget.1.append(self.key(dice), out);
                }
            }
        }
        operation
    }

    /// Writes a SET of this key, as the mix sets it.
    pub fn append_set(&self, key: u64, dice: &mut Dice, out: &mut Vec<u8>) {
        if let Some(set) = drawn(&self.set, dice) {
            set.append(key, out);
        }
    }

    /// Judges a whole reply to a command of this mix.
    pub fn judge(&self, operation: Operation, reply: &[u8]) -> Verdict {
        let right = match (operation, reply.first()) {
            (Operation::Get, Some(b'$')) => match number_of(reply) {
                Some(-1) => return Verdict::Missing,
                length => length == i64::try_from(self.value_bytes).ok(),
            },
            (Operation::Set, _) => reply == b"+OK\r\n",
            (Operation::Add, _) => reply == b"+OK\r\n" || reply == b"$-1\r\n",
            (Operation::Increment | Operation::Delete, Some(b':')) => true,
            (Operation::Mget(count), Some(b'*')) => number_of(reply) == i64::try_from(count).ok(),
            _ => false,
        };
        if right { Verdict::Right } else { Verdict::Wrong }
    }

    fn key(&self, dice: &mut Dice) -> u64 {
        if self.uniform { dice.below(self.keys) } else { self.zipf.draw(dice) }
    }
}

/// One of several, by their hundredths.
fn drawn<'a, T>(from: &'a [(T, u32)], dice: &mut Dice) -> Option<&'a T> {
    if let [(only, _)] = from {
        return Some(only);
    }
    let mut left = dice.below(100) as u32;
    for (one, part) in from {
        if left < *part {
            return Some(one);
        }
        left -= part;
    }
    from.first().map(|(first, _)| first)
}

/// The number in a reply's first line.
fn number_of(reply: &[u8]) -> Option<i64> {
    let end = reply.iter().position(|&byte| byte == b'\r')?;
    std::str::from_utf8(reply.get(1..end)?).ok()?.parse().ok()
}

// === impl Template ===

impl Template {
    /// A request whose arguments are these, the key and those behind it.
    fn new(before: &[&str], name: &str, key_bytes: usize, after: &[&str]) -> Template {
        let mut bytes = format!("*{}\r\n", before.len() + 1 + after.len()).into_bytes();
        for argument in before {
            bytes.extend_from_slice(bulk(argument).as_bytes());
        }
        let key = Template::argument(name, key_bytes);
        let digits_end = bytes.len() + key.digits_end;
        bytes.extend_from_slice(&key.bytes);
        for argument in after {
            bytes.extend_from_slice(bulk(argument).as_bytes());
        }
        Template { bytes, digits_end }
    }

    /// The key alone, as a bulk string.
    fn argument(name: &str, key_bytes: usize) -> Template {
        let bytes = bulk(&format!("{name}{}", "0".repeat(key_bytes - name.len()))).into_bytes();
        let digits_end = bytes.len() - 2;
        Template { bytes, digits_end }
    }

    #[inline]
    fn append(&self, key: u64, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        let (mut left, mut at) = (key, begin + self.digits_end);
        while left > 0 {
            at -= 1;
            out[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(mix: &str) -> String {
        let mix: Mix = mix.parse().expect("a mix");
        let mut out = Vec::new();
        mix.append(&mut Dice::new(1), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn requests_are_well_framed() {
        assert_eq!(text("get:1:100"), "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000000\r\n");
        assert_eq!(text("set:1:3"), "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000000\r\n$3\r\nvvv\r\n");
        let key = "$16\r\nkey:000000000000\r\n";
        assert_eq!(text("mget:2:1:3"), format!("*3\r\n$4\r\nMGET\r\n{key}{key}"));
        let mix: Mix = "twitter:19".parse().expect("a mix");
        let mut out = Vec::new();
        mix.append_set(12_345, &mut Dice::new(1), &mut out);
        let expected = format!(
            "*5\r\n$3\r\nSET\r\n$42\r\nkey:{:038}\r\n$101\r\n{}\r\n$2\r\nEX\r\n$5\r\n25200\r\n",
            12_345,
            "v".repeat(101)
        );
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn what_is_no_mix_is_refused() {
        for text in
            ["", "get", "get:1", "get:0:1", "get:1:1:x", "get:1:1:1:1", "mget:1:1", "twitter:1", "twitter:52:1:1"]
        {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }

    #[test]
    fn commands_are_drawn_in_their_parts() {
        let mix: Mix = "twitter:23:1000".parse().expect("a mix");
        let (mut dice, mut out, mut sets) = (Dice::new(5), Vec::new(), 0);
        for _ in 0..10_000 {
            out.clear();
            sets += u32::from(mix.append(&mut dice, &mut out) == Operation::Set);
        }
        assert!((2900..3300).contains(&sets), "{sets} of 10,000, wanted 31 %");
    }

    #[test]
    fn a_reply_of_another_type_or_length_is_wrong() {
        let mix: Mix = "get:1:3".parse().expect("a mix");
        let judged = |operation, reply: &str| mix.judge(operation, reply.as_bytes());
        assert_eq!(judged(Operation::Get, "$3\r\nvvv\r\n"), Verdict::Right);
        assert_eq!(judged(Operation::Get, "$-1\r\n"), Verdict::Missing);
        assert_eq!(judged(Operation::Get, "$2\r\nvv\r\n"), Verdict::Wrong);
        assert_eq!(judged(Operation::Get, "+OK\r\n"), Verdict::Wrong);
        assert_eq!(judged(Operation::Set, "-ERR no\r\n"), Verdict::Wrong);
        assert_eq!(judged(Operation::Add, "$-1\r\n"), Verdict::Right);
        assert_eq!(judged(Operation::Mget(2), "*1\r\n$-1\r\n"), Verdict::Wrong);
        assert_eq!(judged(Operation::Delete, ":0\r\n"), Verdict::Right);
    }
}
