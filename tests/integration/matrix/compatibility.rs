//! docs/compatibility.md: how each command goes and what differs, from the table and from what the matrix leaves out; and
//! what passes of Redis's own test suite.

use std::collections::BTreeSet;
use std::fmt::Write;

use sidecache::command::policy::Policy;
use sidecache::command::row::Only;
use sidecache::command::{Row, index};
use sidecache::telemetry::labels::Class;

use super::compare::How;
use super::exceptions::{DIFFERENCES, NOT_FOLLOWED, NOT_KEPT, ONLY_ERRORS, VARIES};
use super::telling::is_not_followed;
use super::ways::{NO_ARGS, class_of};
use crate::samples::{self, of_row};
use crate::support::documents;

/// What stands before the tables.
const BEGIN: &str = "\
# Compatibility

How each command of Redis 7.0 and Valkey 9.1 goes through sidecache, and what a client can notice. Made from the command
table, from the tests in [tests/integration/matrix](../tests/integration/matrix) and from the last run of [Redis's own test
suite](#rediss-own-test-suite); `UPDATE_DOCS=1 cargo test` writes it anew.

The tests tell every command to a server and, through sidecache, to its twin, in RESP2 and in RESP3: cold, warm until it is
served from memory, in a transaction that arrives in one write, in one that arrives line by line, with its keys, without
them, with keys of another type, and with too few and too many arguments. The replies are the same bytes, but for what is
listed here.

## Commands

- *cached*: answered from memory while that is provably fresh, else fetched.
- *shared*: forwarded on the connection that all clients share.
- *shared, empties the cache*: forwarded likewise; everything kept of that server is dropped.
- *own connection*: on a connection to upstream that is this client's for as long as it needs it. All else goes there too
  while a transaction that did not arrive in one write, WATCH, a client's own tracking or a subscription lasts.
- *overtakes*: on a connection of its own at once, since it must not stand behind what it acts on.
- *here*: answered by sidecache, or done by it for this client.
- *refused*: unless `client.allow` names it; then on a connection of its own.

Several words: it depends on the arguments. A command that is not in the table costs a connection of its own until upstream
has told what it is; `client.plain` and `client.refuse` decide otherwise.

| command | goes | known to | differs |
|---|---|---|---|
";

fn document() -> String {
    let mut text = BEGIN.to_string();
    let mut rows: Vec<&Row> = index::rows().filter(|row| !row.is_container()).collect();
    rows.sort_by_key(|row| row.name);
    for row in rows {
        let known = match row.only {
            Only::Both => "both",
            Only::Redis => "Redis 7.0",
            Only::Valkey => "Valkey 9.1",
        };
        let mut goes = ways(row).into_iter().collect::<Vec<_>>().join(" or ");
        if row.is_of_the_cluster() {
            goes = format!("before a cluster here, else {}", if goes == "here" { "own connection" } else { &goes });
        }
        let _ = writeln!(text, "| `{}` | {goes} | {known} | {} |", title(row.name), differences(row));
    }
    text += "\n## Replies that no two servers give alike\n\nThey are compared without what varies.\n\n\
             | told | left out | because |\n|---|---|---|\n";
    for (line, how, reason) in VARIES {
        let _ = writeln!(text, "| `{}` | {} | {reason} |", line.replace('|', "\\|"), left_out(how));
    }
    text += "\n## Cacheable reads that are not kept\n\n| told | because |\n|---|---|\n";
    for (line, reason) in NOT_KEPT {
        let _ = writeln!(text, "| `{line}` | {reason} |");
    }
    text += "\n## Commands of which the matrix shows errors only\n\n| command | because | shown by |\n|---|---|---|\n";
    for (name, reason, test) in ONLY_ERRORS {
        let test = test.map_or(String::new(), |test| format!("`{test}`"));
        let _ = writeln!(text, "| `{}` | {reason} | {test} |", title(name));
    }
    text + &crate::suite::section()
}

fn title(name: &str) -> String {
    name.replace('|', " ").to_ascii_uppercase()
}

/// The ways of a row, over all samples of it.
fn ways(row: &Row) -> BTreeSet<&'static str> {
    let samples = samples::all().into_iter().filter(|words| of_row(words, |of, _| std::ptr::eq(of, row)));
    samples.map(|words| class_of(&words)).chain([row.class(&NO_ARGS)]).map(way).collect()
}

fn way(class: Class) -> &'static str {
    match class {
        Class::Read | Class::Mget => "cached",
        Class::Plain | Class::Write | Class::Script => "shared",
        Class::Sweep => "shared, empties the cache",
        Class::Transaction => "shared if the transaction arrives in one write, else own connection",
        Class::Blocking | Class::Subscribe | Class::Dedicated | Class::Unknown => "own connection",
        Class::Control => "overtakes",
        Class::Local => "here",
        Class::Refused => "refused",
    }
}

fn differences(row: &Row) -> String {
    let refusal = Policy::default().refusal(row, &NO_ARGS).map(|refusal| refusal.reason);
    let told = DIFFERENCES.iter().find(|(name, ..)| *name == row.name).map(|&(_, _, what)| what);
    let not_followed = is_not_followed(row).then_some(NOT_FOLLOWED);
    let shows = row.tells_of_nodes().then_some("before a cluster refused in transactions");
    [refusal, told, not_followed, shows].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn left_out(how: How) -> &'static str {
    match how {
        How::Bytes => "nothing",
        How::Numbers => "numbers",
        How::Fields => "the fields' values",
        How::Order => "the order of elements",
        How::Types => "all but the types",
    }
}

#[test]
fn the_page_on_compatibility_is_what_the_matrix_says() {
    documents::check("docs/compatibility.md", &document());
}

#[test]
fn each_exception_is_about_a_sample_that_is_there() {
    let lines: BTreeSet<&str> =
        samples::GROUPS.iter().chain([&samples::CLUSTER]).flat_map(|group| group.lines).copied().collect();
    let listed = VARIES.iter().map(|(line, ..)| *line).chain(NOT_KEPT.iter().map(|(line, _)| *line));
    for line in listed {
        assert!(lines.contains(line.trim_end_matches(" (other types)")), "{line}");
    }
    for (name, ..) in DIFFERENCES {
        assert!(index::named(name).is_some(), "{name}");
    }
}
