//! One row of the command table, and the questions that a command's way asks of it.
//!
//! *Invariant:* every answer is a function of the row and of the arguments; where the arguments are
//! not what the command expects, the answer is the careful one, since upstream will refuse the
//! command in its own words. Not here: the rows (`table`), refusals (`policy`).

use crate::command::flags::{Flags, READONLY, WRITE};
use crate::command::keys::{Keys, is, waits};
use crate::command::spread::Spread;
use crate::protocol::Args;
use crate::protocol::downgrade::Shape;
use crate::telemetry::labels::Class;

/// It has subcommands; the row stands for the bare name and for subcommands that the table lacks.
const CONTAINER: u8 = 1;
/// It changes data and hands out what others put there.
const NEWS: u8 = 1 << 1;
/// The order of its reply's elements is free.
const UNORDERED: u8 = 1 << 2;
/// Answered here in front of a cluster, forwarded otherwise.
const OF_THE_CLUSTER: u8 = 1 << 3;
/// Its third word is a slot, whose owner it goes to.
const BY_SLOT: u8 = 1 << 4;

/// A command or a subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Lower case; a subcommand as `config|get`.
    pub name: &'static str,
    /// The number of arguments, the name included; below zero: at least that many. Where servers differ, the laxer one.
    pub arity: i16,
    /// As servers report them.
    pub flags: Flags,
    /// Where the keys stand.
    pub keys: Keys,
    /// The class when the arguments do not matter; see [`Row::class`].
    base: Class,
    /// What in the arguments changes the answers.
    depends: Depends,
    /// The RESP2 shape, from `shape_from` arguments on.
    shape: Shape,
    /// The number of arguments from which `shape` holds.
    shape_from: u8,
    /// CONTAINER, NEWS, UNORDERED, OF_THE_CLUSTER, BY_SLOT.
    traits: u8,
    /// Where the `|` stands in `name`; zero: no subcommand.
    split: u8,
    /// Which nodes of a cluster it goes to.
    spread: Spread,
    /// Which servers have it.
    pub only: Only,
}

/// Which servers have a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Only {
    /// Redis 7.0 and Valkey 9.1.
    Both,
    /// Redis 7.0 alone.
    Redis,
    /// Valkey 9.1 alone.
    Valkey,
}

/// What in the arguments changes a row's answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depends {
    /// Nothing.
    No,
    /// EXISTS: cacheable with one key only.
    OneKey,
    /// SORT_RO: cacheable without BY and GET, which read keys that no server tracks.
    NoExternalKeys,
    /// XREAD, XREADGROUP: BLOCK waits.
    Block,
    /// SET: with GET it hands out the old value.
    SetGet,
}

/// A row with the commonest answers; the methods below change them.
pub const fn row(name: &'static str, arity: i16, flags: u32, keys: Keys, base: Class) -> Row {
    Row {
        name,
        arity,
        flags: Flags(flags),
        keys,
        base,
        depends: Depends::No,
        shape: Shape::Same,
        shape_from: 0,
        traits: 0,
        split: split(name),
        spread: Spread::One,
        only: Only::Both,
    }
}

// === impl Row ===

impl Row {
    /// It has subcommands.
    pub const fn container(mut self) -> Row {
        self.traits |= CONTAINER;
        self
    }

    /// It changes data and hands out what others put there.
    pub const fn news(mut self) -> Row {
        self.traits |= NEWS;
        self
    }

    /// The order of its reply's elements is free.
    pub const fn unordered(mut self) -> Row {
        self.traits |= UNORDERED;
        self
    }

    /// Answered here in front of a cluster, forwarded otherwise.
    pub const fn of_the_cluster(mut self) -> Row {
        self.traits |= OF_THE_CLUSTER;
        self
    }

    /// Its third word is a slot, whose owner it goes to.
    pub const fn by_slot(mut self) -> Row {
        self.traits |= BY_SLOT;
        self
    }

    /// What in the arguments matters.
    pub const fn depends(mut self, depends: Depends) -> Row {
        self.depends = depends;
        self
    }

    /// Its RESP2 shape.
    pub const fn shape(self, shape: Shape) -> Row {
        self.shape_from(0, shape)
    }

    /// Its RESP2 shape from `argc` arguments on.
    pub const fn shape_from(mut self, argc: u8, shape: Shape) -> Row {
        self.shape = shape;
        self.shape_from = argc;
        self
    }

    /// Which nodes of a cluster it goes to.
    pub const fn spreads(mut self, spread: Spread) -> Row {
        self.spread = spread;
        self
    }

    /// Which servers have it.
    pub const fn only(mut self, only: Only) -> Row {
        self.only = only;
        self
    }

    /// The class in view of the arguments.
    pub fn class(&self, args: &Args<'_>) -> Class {
        match self.depends {
            Depends::No | Depends::SetGet if self.traits & CONTAINER == 0 => self.base,
            Depends::OneKey if args.len() != 2 => Class::Plain,
            Depends::NoExternalKeys if has_word(args, 2, &[b"by", b"get"]) => Class::Plain,
            Depends::Block if waits(args) => Class::Blocking,
            // The bare name: upstream says that the subcommand is missing.
            _ if self.is_container() && args.len() == 1 => Class::Plain,
            _ => self.base,
        }
    }

    /// Calls `each` with every key, in the order of the arguments; false, and no call, if they cannot be told
    /// (then the command may touch any key).
    pub fn each_key<'a>(&self, args: &Args<'a>, each: impl FnMut(&'a [u8])) -> bool {
        self.keys.each(args, each)
    }

    /// The key of a command that has exactly one place for one: all of class Read.
    pub fn single_key<'a>(&self, args: &Args<'a>) -> Option<&'a [u8]> {
        match self.keys {
            Keys::Range { first, last, .. } if first as i8 == last || (last == -1 && args.len() == 2) => {
                args.get(first as usize)
            }
            _ => None,
        }
    }

    /// Whether data may be changed by it: by its flags, or because it is a script or a sweep. MULTI, EXEC and
    /// what the table lacks answer for themselves.
    pub fn is_write(&self) -> bool {
        self.flags.has(WRITE) || matches!(self.base, Class::Script | Class::Sweep)
    }

    /// Whether upstream holds it during a CLIENT PAUSE of writes: it writes, or has replicas do something.
    pub fn is_held_by_pause(&self) -> bool {
        self.flags.has(WRITE) || self.base == Class::Script || matches!(self.name, "publish" | "spublish" | "pfcount")
    }

    /// Whether it may be sent again although it may have been executed: servers say that it only reads.
    pub fn is_read_only(&self) -> bool {
        self.flags.has(READONLY) && !self.is_write()
    }

    /// Whether `argc` arguments, the name included, are a number that a server may accept.
    pub fn arity_ok(&self, argc: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { argc >= wanted } else { argc == wanted }
    }

    /// How its RESP3 reply becomes RESP2, in view of the arguments.
    pub fn shape_of(&self, args: &Args<'_>) -> Shape {
        if args.len() >= usize::from(self.shape_from) { self.shape } else { Shape::Same }
    }

    /// Whether it may ride a connection that others share, outside MULTI: it neither changes the connection,
    /// nor waits, nor must be somewhere else.
    pub fn lane_safe(&self, args: &Args<'_>) -> bool {
        is_lane_safe(self.class(args))
    }

    /// Whether it may stand in a MULTI block on a connection that others share. Blocking commands may: inside
    /// MULTI they do not wait. So may PING and ECHO, which are only queued there.
    pub fn lane_safe_in_multi(&self, args: &Args<'_>) -> bool {
        match self.class(args) {
            Class::Blocking => true,
            Class::Local => matches!(self.name, "ping" | "echo"),
            class => is_lane_safe(class),
        }
    }

    /// Whether it changes data and also hands out what others put there: pops, GETSET, SET with GET, XREADGROUP.
    /// Counters (INCR) are not meant: they tell a number, not what others wrote.
    pub fn brings_news(&self, args: &Args<'_>) -> bool {
        let news = self.traits & NEWS != 0;
        if self.depends == Depends::SetGet { news && has_word(args, 3, &[b"get"]) } else { news }
    }

    /// Whether the order of its reply's elements is free.
    pub fn is_unordered(&self) -> bool {
        self.traits & UNORDERED != 0
    }

    /// Whether it is answered here in front of a cluster, though forwarded otherwise.
    pub fn is_of_the_cluster(&self) -> bool {
        self.traits & OF_THE_CLUSTER != 0
    }

    /// Whether its answer, forwarded, would show clients the nodes that they are not to see, or change its connection.
    pub fn tells_of_nodes(&self) -> bool {
        self.is_of_the_cluster() && self.name != "cluster|keyslot"
    }

    /// Which nodes of a cluster it goes to.
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// The slot whose owner it goes to, for a command that names one by its number.
    pub fn slot(&self, args: &Args<'_>) -> Option<u16> {
        if self.traits & BY_SLOT == 0 {
            return None;
        }
        std::str::from_utf8(args.get(2)?).ok()?.parse().ok()
    }

    /// Whether it has subcommands: the row then stands for the bare name and for subcommands that the table lacks.
    pub fn is_container(&self) -> bool {
        self.traits & CONTAINER != 0
    }

    /// The container's name of a subcommand, or the name itself.
    pub fn family(&self) -> &'static str {
        self.name.get(..usize::from(self.split)).filter(|name| !name.is_empty()).unwrap_or(self.name)
    }

    /// The subcommand's own name, if it is one.
    pub fn subcommand(&self) -> Option<&'static str> {
        if self.split == 0 { None } else { self.name.get(usize::from(self.split) + 1..) }
    }
}

/// Whether commands of this class may ride a connection that others share.
fn is_lane_safe(class: Class) -> bool {
    matches!(class, Class::Read | Class::Mget | Class::Plain | Class::Write | Class::Script | Class::Sweep)
}

/// Whether one of `words` stands among the arguments from `from` on.
fn has_word(args: &Args<'_>, from: usize, words: &[&[u8]]) -> bool {
    (from..args.len()).filter_map(|i| args.get(i)).any(|arg| words.iter().any(|word| is(arg, word)))
}

/// Where the `|` stands.
const fn split(name: &str) -> u8 {
    let bytes = name.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'|' {
            return i as u8;
        }
        i += 1;
    }
    0
}
