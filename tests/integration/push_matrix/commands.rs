//! The reads and the writes of the push matrix, made of the samples.
//!
//! All groups' states lie side by side, each key named `group:key`; and several such spaces, each key named
//! `space:group:key`, so that one write can be aimed at many keys at once without one aim disturbing another.

use sidecache::command::Row;
use sidecache::command::flags::READONLY;
use sidecache::telemetry::labels::Class;

use super::exceptions::VARYING;
use crate::matrix::exceptions::NOT_KEPT;
use crate::samples::{self, GROUPS, Group, of_row};

/// The groups that hold data, with the names that their keys carry.
const DATA: [(&str, &Group); 9] = [
    ("string", &GROUPS[0]),
    ("hash", &GROUPS[1]),
    ("list", &GROUPS[2]),
    ("set", &GROUPS[3]),
    ("zset", &GROUPS[4]),
    ("stream", &GROUPS[5]),
    ("geo", &GROUPS[6]),
    ("any", &GROUPS[7]),
    ("script", &GROUPS[8]),
];

/// A key of each type: what commands are aimed at beside their own.
const AIMS: [&str; 7] = ["string:s", "hash:h", "list:l", "set:s", "zset:z", "stream:x", "geo:g"];

/// Keys that only reads are aimed at: numbers, HyperLogLogs, and what is not there.
const READ_TOO: [&str; 4] = ["string:n", "string:f", "string:h", "string:d"];

/// Writes whose samples change nothing that a cached read tells, with more of an effect; what is one write begins with
/// MULTI. A word behind `@` is a key that the command does not name.
const STRONGER: [(usize, &str); 26] = [
    (0, "MSETNX none x d y"),
    (0, "SETNX none x"),
    (0, "EXPIRE s -1"),
    (0, "PEXPIRE s -1"),
    (0, "EXPIREAT s 1"),
    (0, "PEXPIREAT s 1"),
    (0, "GETEX s PXAT 1"),
    (1, "HSETNX h new x"),
    (1, "HEXPIREAT h 1 FIELDS 1 f"),
    (1, "HPEXPIRE h 0 FIELDS 1 f"),
    (1, "HPEXPIREAT h 1 FIELDS 2 f g"),
    (1, "HGETEX h PXAT 1 FIELDS 1 f"),
    (2, "RPUSH none a ; LPUSHX none x"),
    (5, "XTRIM x MAXLEN 0"),
    (5, "XGROUP CREATE none g $ MKSTREAM"),
    (5, "XREADGROUP GROUP g c STREAMS x > ; XGROUP DELCONSUMER x g c"),
    (7, "RENAMENX s fresh"),
    (7, "RESTORE-ASKING s 0 '\0\x04v361\n\x003%Hpy\x166i' REPLACE"),
    (7, "MIGRATE 127.0.0.1 PORT s 0 60000 REPLACE"),
    (7, "MIGRATE 127.0.0.1 PORT '' 0 60000 REPLACE KEYS s l"),
    (7, "SET w_1 y"),
    (7, "MULTI ; SET s x ; DEL l ; EXEC"),
    (8, "EVAL 'return redis.call(\"set\",KEYS[1],\"x\")' 1 s"),
    (8, "EVAL 'return redis.call(\"set\",ARGV[1],\"x\")' 0 @s"),
    (
        8,
        "SCRIPT LOAD 'return redis.call(\"set\",KEYS[1],\"x\")' ; EVALSHA 4ad233bc26479c6535c97fc60467238583cab2f3 1 s",
    ),
    (8, "FCALL put 1 s x"),
];

/// The library that the last of them needs.
const LIBRARY: &str = "FUNCTION LOAD REPLACE '#!lua name=push\nredis.register_function(\"put\", \
    function(keys, args) return redis.call(\"set\", keys[1], args[1]) end)'";

/// A command whose keys carry their group's name.
#[derive(Clone, PartialEq)]
pub struct Command {
    words: Vec<String>,
    /// The places of its keys.
    keys: Vec<usize>,
    /// The places of what else names keys: patterns, and keys that only a script knows.
    hidden: Vec<usize>,
}

/// One write, and what must have happened before it.
pub struct Write {
    /// The row of the command that is tried.
    pub row: &'static Row,
    /// As in the samples.
    pub line: String,
    /// Further setup.
    pub before: Vec<Command>,
    /// The write itself at its own keys, and then aimed at others: each for a space of its own.
    pub aimed: Vec<Vec<Command>>,
}

// === impl Command ===

impl Command {
    fn new(group: &str, mut words: Vec<String>) -> Command {
        let keys = places(&words);
        let names_keys = |word: &String| word.starts_with('@') || word.ends_with("_*");
        let hidden: Vec<usize> = (1..words.len()).filter(|&at| names_keys(&words[at])).collect();
        for &at in keys.iter().chain(&hidden) {
            words[at] = format!("{group}:{}", words[at].trim_start_matches('@'));
        }
        Command { words, keys, hidden }
    }

    /// Its row.
    pub fn row(&self) -> &'static Row {
        of_row(&self.words, |row, _| row)
    }

    /// As it is told in this space.
    pub fn words_in(&self, space: usize) -> Vec<String> {
        let mut words = self.words.clone();
        self.keys.iter().chain(&self.hidden).for_each(|&at| words[at] = format!("{space}:{}", words[at]));
        words
    }

    /// The keys it names, in this space.
    pub fn keys_in(&self, space: usize) -> impl Iterator<Item = String> {
        self.keys.iter().map(move |&at| format!("{space}:{}", self.words[at]))
    }

    /// Whether it names a key that one of `others` names.
    pub fn meets(&self, others: &[Command]) -> bool {
        let names = |key: &String| others.iter().any(|other| other.keys.iter().any(|&at| other.words[at] == *key));
        self.keys.iter().any(|&at| names(&self.words[at]))
    }

    /// The same command with another key in this one's places.
    fn with(&self, key: &str, other: &str) -> Command {
        let mut command = self.clone();
        for &at in &self.keys {
            if command.words[at] == key {
                command.words[at] = other.to_string();
            }
        }
        command
    }

    /// Whether any key's reply means something, and is kept: MGET says nil of a key of another type, which is not;
    /// and by name only members of equal scores have an order.
    fn may_be_aimed(&self) -> bool {
        let name = self.row().name;
        self.keys.len() == 1
            && name != "mget"
            && !name.contains("lex")
            && !self.words.iter().any(|word| word == "BYLEX")
    }

    /// Copies of it, each with one of its keys replaced by a key of another type.
    fn aimed(&self, at: &[&str]) -> Vec<Command> {
        let mut keys: Vec<&String> = self.keys.iter().map(|&at| &self.words[at]).collect();
        keys.sort();
        keys.dedup();
        let aims =
            |key: &String| at.iter().filter(|aim| *aim != key).map(|aim| self.with(key, aim)).collect::<Vec<_>>();
        keys.into_iter().flat_map(aims).collect()
    }
}

/// The places of keys; none where a command's keys cannot be told.
fn places(words: &[String]) -> Vec<usize> {
    of_row(words, |row, args| {
        let mut places = Vec::new();
        let place = |key: &[u8]| (1..args.len()).find(|&at| args.get(at).is_some_and(|arg| std::ptr::eq(arg, key)));
        row.each_key(args, |key| places.extend(place(key).filter(|_| !key.is_empty())));
        places
    })
}

/// What makes every group's state.
pub fn setup() -> Vec<Command> {
    let lines = DATA.iter().flat_map(|(name, group)| group.setup.iter().map(move |line| (name, line)));
    lines.flat_map(|(name, line)| commands(name, line)).chain(commands("script", LIBRARY)).collect()
}

fn commands(group: &str, line: &str) -> Vec<Command> {
    samples::commands(line).into_iter().map(|words| Command::new(group, words)).collect()
}

/// All sampled reads of keys, cached or not, each also aimed at keys of other types.
pub fn reads() -> Vec<Command> {
    let mut reads: Vec<Command> = Vec::new();
    let read_at = [&AIMS[..], &READ_TOO].concat();
    for (name, group) in DATA {
        let lines = group.lines.iter().filter(|line| !line.contains(" ; ") && is_kept(line));
        for read in lines.flat_map(|line| commands(name, line)).filter(is_read) {
            let aimed = if read.may_be_aimed() { read.aimed(&read_at) } else { Vec::new() };
            for read in std::iter::once(read).chain(aimed) {
                if !reads.contains(&read) {
                    reads.push(read);
                }
            }
        }
    }
    reads
}

/// Whether what a line reads may be kept. One that makes a key fat would have it remembered as such.
fn is_kept(line: &str) -> bool {
    !NOT_KEPT.iter().any(|(listed, _)| *listed == line)
}

fn is_read(command: &Command) -> bool {
    let row = command.row();
    let waits = of_row(&command.words, Row::class) == Class::Blocking;
    // In its longer form it tells how long each message has been idle.
    let varies = row.name == "xpending" && command.words.len() > 3;
    row.flags.has(READONLY)
        && !command.keys.is_empty()
        && !waits
        && !varies
        && !VARYING.iter().any(|(name, _)| *name == row.name)
}

/// Whether the table lets its reply be cached.
pub fn is_cacheable(command: &Command) -> bool {
    matches!(of_row(&command.words, Row::class), Class::Read | Class::Mget)
}

/// Every sampled write: the last write of a line, what stands before it being setup.
pub fn writes() -> Vec<Write> {
    let sampled = DATA.iter().flat_map(|(name, group)| group.lines.iter().map(move |line| (*name, *line)));
    let stronger = STRONGER.iter().map(|&(group, line)| (DATA[group].0, line));
    sampled.chain(stronger).filter(|(_, line)| is_kept(line)).filter_map(|(group, line)| write(group, line)).collect()
}

fn write(group: &str, line: &str) -> Option<Write> {
    let mut commands = commands(group, line);
    let is_apart = |command: &Command| matches!(command.row().family(), "config" | "watch" | "flushall");
    if line.starts_with("MULTI ; SET") {
        let row = commands.last()?.row();
        return Some(Write { row, line: line.into(), before: Vec::new(), aimed: vec![commands] });
    }
    let at = commands.iter().rposition(|command| command.row().is_write())?;
    if commands[..at].iter().any(is_apart) || commands[0].row().name == "multi" {
        return None;
    }
    let write = commands.swap_remove(at);
    commands.truncate(at);
    let aimed = std::iter::once(write.clone()).chain(write.aimed(&AIMS)).map(|write| vec![write]).collect();
    Some(Write { row: write.row(), line: line.into(), before: commands, aimed })
}
