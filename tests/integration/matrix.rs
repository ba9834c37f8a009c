//! The matrix: every command of the table is answered through a sidecache as the server itself answers it.
//!
//! A server is asked directly, and its twin through a sidecache; the replies are compared byte for byte, in RESP2 and
//! in RESP3. Each sample of a command is told cold, warm (until it is served from the cache, if it may be), inside a
//! transaction that arrives in one write, and inside one that arrives line by line; with its keys, without them, and
//! with keys of another type; and each row with too few and too many arguments. A row without a sample fails, by name.
//! What a server lacks is told too, but no success is asked for: the server says itself what it lacks.

use std::collections::{BTreeMap, BTreeSet};

use sidecache::command::{Row, index};
use sidecache::telemetry::labels::Class;

use crate::samples::{self, CLUSTER, GROUPS, Group, of_row};
use crate::support::redis::Kind;
use crate::support::{V, eventually};

mod alone;
pub mod compare;
mod compatibility;
pub mod exceptions;
mod refusals;
mod rewriting;
mod telling;
pub mod ways;

use compare::How;
use exceptions::{ONLY_ERRORS, VARIES};
use telling::{ALL, Told, run_case};
use ways::Bench;

/// Commands that are told and compared in a state made anew.
struct Case {
    setup: Vec<String>,
    commands: Vec<Vec<String>>,
    /// For the reader of a fault.
    line: String,
    how: How,
    resp3: bool,
}

/// What has been seen of one kind of server.
#[derive(Default)]
struct Seen {
    /// What became of each row's replies.
    rows: BTreeMap<&'static str, Replies>,
    /// Replies served from the cache, by row.
    hits: BTreeSet<&'static str>,
    faults: Vec<String>,
}

/// What became of a row's replies.
#[derive(Clone, Copy, Default)]
struct Replies {
    values: bool,
    errors: bool,
}

#[test]
fn every_command_is_answered_as_redis_answers_it() {
    run_all(Kind::Redis);
}

#[test]
fn every_command_is_answered_as_valkey_answers_it() {
    run_all(Kind::Valkey);
}

fn run_all(kind: Kind) {
    let mut seen = Seen::default();
    let mut bench = Bench::new(kind, &[]);
    for group in &GROUPS {
        run(&mut bench, group, &mut seen);
    }
    wrong_arguments(&mut bench, &mut seen);
    let mut cluster = Bench::new(kind, &["--cluster-enabled", "yes"]);
    for server in &cluster.servers {
        server.outside("CLUSTER ADDSLOTSRANGE 0 16383");
        eventually("the node owns its slots", || server.conn().line("SET a b") == V::Simple("OK".into()));
    }
    run(&mut cluster, &CLUSTER, &mut seen);
    let (count, shown) = (seen.faults.len(), &seen.faults[..seen.faults.len().min(40)]);
    assert!(count == 0, "{count} differences from {kind:?}:\n{}", shown.join("\n"));
    assert_complete(&mut bench, &seen);
}

/// Every command that the server has was answered, with success and with an error, and from the cache if it may be.
fn assert_complete(bench: &mut Bench, seen: &Seen) {
    let mut faults = Vec::new();
    let sampled: BTreeSet<&str> = samples::all().iter().map(|words| of_row(words, |row, _| row.name)).collect();
    for row in index::rows().filter(|row| bench.knows(row.name)) {
        let name = row.name;
        let excused = row.is_container() || ONLY_ERRORS.iter().any(|(listed, ..)| *listed == name);
        let replies = seen.rows.get(name).copied().unwrap_or_default();
        if !sampled.contains(name) && !excused {
            faults.push(format!("{name} has no sample"));
        } else if !replies.values && !excused {
            faults.push(format!("{name} is answered by errors only"));
        } else if !replies.errors && !wrong_numbers(row).is_empty() {
            faults.push(format!("{name} is answered by no error"));
        }
        if matches!(row.class(&ways::NO_ARGS), Class::Read | Class::Mget) && !seen.hits.contains(name) {
            faults.push(format!("{name} is never served from the cache"));
        }
    }
    for (name, _, test) in ONLY_ERRORS {
        let answers = seen.rows.get(name).is_some_and(|replies| replies.values);
        if index::named(name).is_none() || answers {
            faults.push(format!("{name} is no command that is answered by errors only: take it off the list"));
        }
        if test.is_some_and(|test| !alone::is_a_test(test)) {
            faults.push(format!("{name}: there is no test {test:?}"));
        }
    }
    assert!(faults.is_empty(), "{:?}: {faults:#?}", bench.kind);
}

/// All samples of a group, with their keys, without, and with keys of another type.
fn run(bench: &mut Bench, group: &Group, seen: &mut Seen) {
    for resp3 in [false, true] {
        let mut ways = bench.ways(resp3);
        let setup: Vec<String> = group.setup.iter().map(ToString::to_string).collect();
        for line in group.lines {
            let commands = samples::commands(line);
            let how = VARIES.iter().find(|(varies, _, _)| varies == line).map_or(How::Bytes, |&(_, how, _)| how);
            let case = Case { setup: setup.clone(), commands, line: line.to_string(), how, resp3 };
            ways = run_case(bench, ways, &case, &ALL, seen);
            let Some(last) = case.commands.last().filter(|_| case.commands.len() == 1) else { continue };
            let keys = keys(last);
            if keys.is_empty() {
                continue;
            }
            for (state, setup) in [("no keys", Vec::new()), ("other types", of_other_types(&keys, group))] {
                let line = format!("{line} ({state})");
                let case = Case { setup, commands: vec![last.clone()], line, how, resp3 };
                ways = run_case(bench, ways, &case, &[Told::Alone, Told::Whole], seen);
            }
        }
    }
}

/// The keys that a command names.
fn keys(words: &[String]) -> Vec<String> {
    let mut keys = Vec::new();
    of_row(words, |row, args| row.each_key(args, |key| keys.push(String::from_utf8(key.to_vec()).unwrap())));
    keys.sort();
    keys.dedup();
    keys
}

/// What makes keys of a type that the group's commands do not take.
fn of_other_types(keys: &[String], group: &Group) -> Vec<String> {
    let strings = group.setup.iter().any(|line| line.starts_with("SET "));
    let make = |key: &String| if strings { format!("RPUSH '{key}' a") } else { format!("SET '{key}' a") };
    keys.iter().map(make).collect()
}

/// Each row with too few and with too many arguments, and containers with a subcommand that nobody has.
fn wrong_arguments(bench: &mut Bench, seen: &mut Seen) {
    for resp3 in [false, true] {
        let mut ways = bench.ways(resp3);
        for words in index::rows().flat_map(wrong_numbers) {
            let line = words.join(" ");
            let case = Case { setup: Vec::new(), commands: vec![words], line, how: How::Bytes, resp3 };
            ways = run_case(bench, ways, &case, &ALL, seen);
        }
    }
}

/// A row's name with numbers of arguments that no server takes.
fn wrong_numbers(row: &Row) -> Vec<Vec<String>> {
    let name: Vec<String> = row.name.split('|').map(str::to_ascii_uppercase).collect();
    let wanted = usize::from(row.arity.unsigned_abs());
    let few = (wanted > name.len()).then(|| wanted - 1);
    let many = (row.arity > 0).then(|| wanted + 1);
    // Of a container: itself, and a subcommand that nobody has.
    let nobodys = row.is_container().then_some(wanted.max(2));
    let words = |count| {
        let mut words = name.clone();
        words.resize(count, "x".into());
        words
    };
    [few, many, nobodys].into_iter().flatten().map(words).collect()
}
