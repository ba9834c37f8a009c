//! Sample invocations of every command, run by the matrix and asked for their keys by the chapter on the table.
//!
//! A line is a sequence of commands parted by ` ; `; single quotes keep blanks together. It runs in a state made
//! anew: everything flushed, then its group's setup. A new row of the table wants a line here.

use sidecache::command::{Row, look_up};
use sidecache::protocol::Args;

use crate::support::resp::encode;

mod generic;
mod ordered;
mod server;
mod session;
mod types;

pub use server::CLUSTER;
pub use session::{REFUSED, SESSION};

/// Lines that share a setup.
pub struct Group {
    /// Runs before each line.
    pub setup: &'static [&'static str],
    /// The lines.
    pub lines: &'static [&'static str],
}

/// For a server that is no part of a cluster.
pub const GROUPS: [Group; 12] = [
    types::STRINGS,
    types::HASHES,
    types::LISTS,
    types::SETS,
    ordered::SORTED_SETS,
    ordered::STREAMS,
    ordered::POSITIONS,
    generic::ANY_TYPE,
    server::SCRIPTS,
    server::SERVER,
    SESSION,
    REFUSED,
];

/// Not run, only asked for their keys: they change roles, connections or wait too long.
pub const ONLY_KEYS: [&str; 10] = [
    "RESTORE-ASKING k 0 x",
    "WATCH a b",
    "SSUBSCRIBE a b",
    "SUNSUBSCRIBE a",
    "EVAL x 3 a b c d",
    "ZUNIONSTORE d 3 a b c WEIGHTS 1 2 3",
    "ZDIFFSTORE d 1 a",
    "XREADGROUP GROUP streams streams COUNT 1 BLOCK 0 NOACK STREAMS a b > >",
    "XREAD BLOCK 0 STREAMS streams 0",
    "SORT a LIMIT 0 store x BY store GET store",
];

/// The commands of a line, each cut into words.
pub fn commands(line: &str) -> Vec<Vec<String>> {
    line.split(" ; ").map(words).collect()
}

/// A command cut at blanks, save those between single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in command.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_string());
        } else {
            words.extend(part.split_ascii_whitespace().map(str::to_string));
        }
    }
    words
}

/// Every command of every line, those for a cluster and those only asked for their keys included.
pub fn all() -> Vec<Vec<String>> {
    let lines = GROUPS.iter().chain([&CLUSTER]).flat_map(|group| group.lines.iter().chain(group.setup));
    lines.chain(&ONLY_KEYS).flat_map(|line| commands(line)).collect()
}

/// The request's bytes and argument places, as the parser gives them.
fn parts(words: &[String]) -> (Vec<u8>, Vec<(u32, u32)>) {
    let raw = encode(words);
    let mut ranges = Vec::new();
    let mut at = raw.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for word in words {
        at += format!("${}\r\n", word.len()).len();
        ranges.push((at as u32, (at + word.len()) as u32));
        at += word.len() + 2;
    }
    (raw, ranges)
}

/// The row of a command and what `ask` wants to know of it.
#[track_caller]
pub fn of_row<T>(words: &[String], ask: impl FnOnce(&'static Row, &Args<'_>) -> T) -> T {
    let (raw, ranges) = parts(words);
    let args = Args { raw: &raw, ranges: &ranges };
    let row = look_up(&args).unwrap_or_else(|| panic!("no row for {words:?}"));
    ask(row, &args)
}
