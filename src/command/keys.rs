//! Where a command's keys stand among its arguments.
//!
//! *Invariant:* what [`Keys::each`] names is what the server's own `COMMAND GETKEYS` names for the
//! same arguments; where the arguments are too broken to tell it names nothing and says so, and the
//! caller must then treat the command as one that may touch any key. Not here: which command has
//! which places (the table), and what the keys are for.

use crate::protocol::Args;

/// No keys.
pub const NONE: Keys = Keys::None;
/// One key, the first argument.
pub const ONE: Keys = range(1, 1, 1);
/// One key behind a subcommand.
pub const SECOND: Keys = range(2, 2, 1);
/// The first two arguments.
pub const TWO: Keys = range(1, 2, 1);
/// All arguments.
pub const ALL: Keys = range(1, -1, 1);

/// The places of keys, as data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    /// There are none.
    None,
    /// From `first` to `last` (below zero: counted from the end), every `step`-th argument.
    Range {
        /// The first key's place.
        first: u8,
        /// The last key's place.
        last: i8,
        /// From one key to the next.
        step: u8,
    },
    /// Argument `at` says how many keys follow it, `step` apart; `dest`, unless zero, is one more before it.
    Counted {
        /// The destination's place, or zero.
        dest: u8,
        /// The count's place.
        at: u8,
        /// From one key to the next.
        step: u8,
    },
    /// XREAD: the first half of what follows STREAMS.
    Streams,
    /// SORT: the first argument, and what follows the last STORE from `from` on.
    Store {
        /// Where options begin.
        from: u8,
    },
    /// GEORADIUS: the first argument, and what follows the last STORE or STOREDIST from `from` on.
    StoreOrDist {
        /// Where options begin.
        from: u8,
    },
    /// MIGRATE: the third argument, or, when that is empty, what follows KEYS.
    Migrate,
    /// No keys, but arguments (SPUBLISH's shard channels, CLUSTERSCAN's cursor) that say to which slot the command goes.
    Channels {
        /// The first one's place.
        first: u8,
        /// The last one's place; below zero: counted from the end.
        last: i8,
    },
}

/// Keys from `first` to `last`, every `step`-th argument.
pub const fn range(first: u8, last: i8, step: u8) -> Keys {
    Keys::Range { first, last, step }
}

/// As many keys as argument `at` says.
pub const fn counted(dest: u8, at: u8, step: u8) -> Keys {
    Keys::Counted { dest, at, step }
}

impl Keys {
    /// Calls `each` with every key in the order of the arguments; false, and no call, if they cannot be told.
    pub fn each<'a>(&self, args: &Args<'a>, mut each: impl FnMut(&'a [u8])) -> bool {
        let argc = args.len();
        match *self {
            Keys::None | Keys::Channels { .. } => true,
            Keys::Range { first, last, step } => match end(argc, first, last) {
                Some(end) => visit(args, (first as usize..end).step_by(step as usize), each),
                None => false,
            },
            Keys::Counted { dest, at, step } => {
                let Some(count) = count(args, at as usize, step as usize) else { return false };
                if dest > 0 {
                    visit(args, dest as usize..dest as usize + 1, &mut each);
                }
                visit(args, (at as usize + 1..).step_by(step as usize).take(count), each)
            }
            Keys::Streams => match streams(args) {
                Some((first, count)) => visit(args, first..first + count, each),
                None => false,
            },
            Keys::Store { from } => {
                let dest = last_option(args, from as usize, &SORT_OPTIONS, &[b"store"]);
                visit(args, (1..2).chain(dest), each)
            }
            Keys::StoreOrDist { from } => {
                let dest = last_option(args, from as usize, &[], &[b"store", b"storedist"]);
                visit(args, (1..2).chain(dest), each)
            }
            Keys::Migrate => visit(args, migrated(args), each),
        }
    }

    /// Calls `each` with whatever says to which slot the command goes: its keys, or its shard channels.
    pub fn each_of_slot<'a>(&self, args: &Args<'a>, each: impl FnMut(&'a [u8])) -> bool {
        match *self {
            Keys::Channels { first, last } => range(first, last, 1).each(args, each),
            _ => self.each(args, each),
        }
    }
}

/// SORT's options and how many arguments each takes, so that none is mistaken for STORE.
const SORT_OPTIONS: [(&[u8], usize); 3] = [(b"limit", 2), (b"get", 1), (b"by", 1)];

/// One behind the last key's place, if at least one key is there.
fn end(argc: usize, first: u8, last: i8) -> Option<usize> {
    let end = if last < 0 { argc.checked_sub(last.unsigned_abs() as usize)? + 1 } else { last as usize + 1 };
    (first as usize <= end.saturating_sub(1) && end <= argc).then_some(end)
}

/// The count in argument `at`, if that many keys do follow.
fn count(args: &Args<'_>, at: usize, step: usize) -> Option<usize> {
    let count: usize = std::str::from_utf8(args.get(at)?).ok()?.parse().ok()?;
    (count <= (args.len() - at - 1) / step.max(1)).then_some(count)
}

/// XREAD's options, up to STREAMS: the first stream's place and their number; XREAD and XREADGROUP as the servers parse them.
fn streams(args: &Args<'_>) -> Option<(usize, usize)> {
    let mut at = 1;
    while let Some(word) = args.get(at) {
        at += 1;
        if is(word, b"streams") {
            let rest = args.len() - at;
            return (rest > 0 && rest.is_multiple_of(2)).then_some((at, rest / 2));
        }
        at += match () {
            () if is(word, b"block") || is(word, b"count") => 1,
            () if is(word, b"group") => 2,
            () if is(word, b"noack") => 0,
            () => return None,
        };
    }
    None
}

/// Whether `word` stands among the options of XREAD or XREADGROUP.
pub(super) fn waits(args: &Args<'_>) -> bool {
    let mut at = 1;
    while let Some(word) = args.get(at) {
        at += match () {
            () if is(word, b"block") => return true,
            () if is(word, b"count") => 2,
            () if is(word, b"group") => 3,
            () if is(word, b"streams") => return false,
            () => 1,
        };
    }
    false
}

/// The place behind the last of `options` from `from` on, stepping over what `others` take.
fn last_option(args: &Args<'_>, from: usize, others: &[(&[u8], usize)], options: &[&[u8]]) -> Option<usize> {
    let mut found = None;
    let mut at = from;
    while let Some(word) = args.get(at) {
        if let Some(&(_, takes)) = others.iter().find(|(name, _)| is(word, name)) {
            at += takes;
        } else if at + 1 < args.len() && options.iter().any(|name| is(word, name)) {
            found = Some(at + 1);
            at += 1;
        }
        at += 1;
    }
    found
}

/// The places of MIGRATE's keys.
fn migrated(args: &Args<'_>) -> std::ops::Range<usize> {
    if args.get(3).is_some_and(|key| !key.is_empty()) {
        return 3..4;
    }
    let mut at = 6;
    while let Some(word) = args.get(at) {
        at += 1;
        match () {
            () if is(word, b"keys") => return at..args.len(),
            () if is(word, b"auth") => at += 1,
            () if is(word, b"auth2") => at += 2,
            () => {}
        }
    }
    3..4
}

/// Calls `each` with the arguments at `places`; false if one is not there.
fn visit<'a>(args: &Args<'a>, places: impl Iterator<Item = usize>, mut each: impl FnMut(&'a [u8])) -> bool {
    for place in places {
        match args.get(place) {
            Some(key) => each(key),
            None => return false,
        }
    }
    true
}

/// Whether an argument is this keyword.
pub(super) fn is(word: &[u8], keyword: &[u8]) -> bool {
    word.eq_ignore_ascii_case(keyword)
}
