//! The command table says what real servers say: every command has a row, and arity, flags and keys agree.

use std::collections::{BTreeMap, BTreeSet};

use sidecache::command::flags::{Flags, MOVABLEKEYS, WRITE};
use sidecache::command::row::Only;
use sidecache::command::{Keys, Learned, Row, index};

use crate::samples::{self, of_row};
use crate::support::redis::{KINDS, Kind};
use crate::support::{Server, V};

/// Arities in which the servers differ; the row has Valkey's, which is the laxer one.
const ARITIES_OF_REDIS: [(&str, i64); 6] = [
    ("cluster|replicate", 3),
    ("command|getkeys", -4),
    ("command|getkeysandflags", -4),
    ("script|debug", 3),
    ("zrank", 3),
    ("zrevrank", 3),
];

/// Flags that one server alone reports for a command that both have; the row has them all.
const FLAGS_OF_ONE: [(Kind, &str, &[&str]); 13] = [
    (Kind::Redis, "noscript", &["blmove", "blpop", "brpop", "brpoplpush", "bzpopmax", "bzpopmin", "wait"]),
    (Kind::Valkey, "allow_busy", &["client|caching", "client|getname", "client|getredir", "client|id"]),
    (Kind::Valkey, "allow_busy", &["client|no-evict", "client|reply", "client|setname", "select"]),
    (Kind::Valkey, "no_multi", &["client|reply", "multi", "watch"]),
    (Kind::Valkey, "blocking", &["wait"]),
    (Kind::Valkey, "loading", &["cluster|info"]),
    (Kind::Valkey, "loading", &["cluster|myid"]),
    (Kind::Valkey, "loading", &["cluster|nodes"]),
    (Kind::Valkey, "loading", &["cluster|shards"]),
    (Kind::Valkey, "loading", &["cluster|slots"]),
    (Kind::Valkey, "loading", &["memory|malloc-stats", "memory|purge"]),
    (Kind::Valkey, "stale", &["script|exists"]),
    (Kind::Valkey, "stale", &["script|flush"]),
];

/// A server's words on a command.
struct Said {
    arity: i64,
    flags: BTreeSet<String>,
    /// First, last, step.
    keys: (i64, i64, i64),
}

fn said(server: &Server) -> BTreeMap<String, Said> {
    let mut all = BTreeMap::new();
    let mut open: Vec<V> = server.conn().ask(&["COMMAND"]).items().to_vec();
    while let Some(command) = open.pop() {
        let parts = command.items();
        let renamed = |flag: &V| flag.text().replace("skip_commandlog", "skip_slowlog");
        let flags = parts[2].items().iter().map(renamed).collect();
        let keys = (parts[3].int(), parts[4].int(), parts[5].int());
        all.insert(parts[0].text(), Said { arity: parts[1].int(), flags, keys });
        open.extend(parts[9].items().iter().cloned());
    }
    all
}

fn is_on(row: &Row, kind: Kind) -> bool {
    match row.only {
        Only::Both => true,
        Only::Redis => kind == Kind::Redis,
        Only::Valkey => kind == Kind::Valkey,
    }
}

#[test]
fn each_server_has_the_commands_that_the_table_has() {
    for kind in KINDS {
        let said: BTreeSet<String> = said(&Server::with(kind, &[])).into_keys().collect();
        let rows: BTreeSet<String> =
            index::rows().filter(|row| is_on(row, kind)).map(|row| row.name.to_string()).collect();
        let lacking: Vec<_> = said.difference(&rows).collect();
        let invented: Vec<_> = rows.difference(&said).collect();
        assert!(
            lacking.is_empty() && invented.is_empty(),
            "{kind:?}: no row for {lacking:?}, no command for {invented:?}"
        );
    }
}

#[test]
fn a_command_that_one_server_alone_has_is_marked_so() {
    let [redis, valkey] = Server::both().map(|server| said(&server));
    for row in index::rows() {
        let only = match (redis.contains_key(row.name), valkey.contains_key(row.name)) {
            (true, false) => Only::Redis,
            (false, true) => Only::Valkey,
            _ => Only::Both,
        };
        assert_eq!(row.only, only, "{}", row.name);
    }
}

#[test]
fn arity_flags_and_first_keys_are_the_servers() {
    let mut faults = Vec::new();
    for kind in KINDS {
        let said = said(&Server::with(kind, &[]));
        for row in index::rows().filter(|row| is_on(row, kind)) {
            let said = &said[row.name];
            let of_redis = ARITIES_OF_REDIS.iter().find(|(name, _)| kind == Kind::Redis && *name == row.name);
            let arity = of_redis.map_or(i64::from(row.arity), |&(_, arity)| arity);
            let flags: BTreeSet<String> =
                row.flags.names().filter(|flag| !is_of_other(kind, flag, row)).map(str::to_string).collect();
            for (what, ours, theirs) in [
                ("arity", arity.to_string(), said.arity.to_string()),
                ("flags", format!("{flags:?}"), format!("{:?}", said.flags)),
                ("keys", format!("{:?}", first_last_step(row.keys)), format!("{:?}", said.keys)),
            ] {
                if ours != theirs {
                    faults.push(format!("{kind:?} {}: {what} {ours}, the server says {theirs}", row.name));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Whether the other server alone reports this flag for a command that both have.
fn is_of_other(kind: Kind, flag: &str, row: &Row) -> bool {
    FLAGS_OF_ONE.iter().any(|(owner, name, rows)| *owner != kind && *name == flag && rows.contains(&row.name))
}

/// How COMMAND tells these places.
fn first_last_step(keys: Keys) -> (i64, i64, i64) {
    match keys {
        Keys::None | Keys::Streams | Keys::Counted { dest: 0, .. } => (0, 0, 0),
        Keys::Range { first, last, step } => (first.into(), last.into(), step.into()),
        Keys::Counted { dest, .. } => (dest.into(), dest.into(), 1),
        Keys::Store { .. } | Keys::StoreOrDist { .. } => (1, 1, 1),
        Keys::Migrate => (3, 3, 1),
        Keys::Channels { first, last } => (first.into(), last.into(), 1),
    }
}

#[test]
fn keys_are_those_that_the_servers_find() {
    let mut faults = Vec::new();
    for kind in KINDS {
        let server = Server::with(kind, &[]);
        let mut conn = server.conn();
        let mut compared = BTreeSet::new();
        for words in samples::all() {
            let (name, here, keys) = of_row(&words, |row, args| {
                let mut keys = Vec::new();
                let told = row.each_key(args, |key| keys.push(String::from_utf8(key.to_vec()).unwrap()));
                (row.name, is_on(row, kind), told.then_some(keys))
            });
            if !here {
                continue;
            }
            let mut asked = vec!["COMMAND".to_string(), "GETKEYS".to_string()];
            asked.extend(words.iter().cloned());
            let theirs = match conn.ask(&asked) {
                V::Array(found) => found.iter().map(V::text).collect(),
                V::Error(text) if text.contains("has no key arguments") => Vec::new(),
                // Arity or arguments that are wrong: nothing is known there.
                V::Error(_) => continue,
                other => panic!("{words:?}: {other:?}"),
            };
            compared.insert(name);
            let sorted = |keys: &Vec<String>| {
                let mut keys = keys.clone();
                keys.sort();
                keys
            };
            if keys.as_ref().map(sorted) != Some(sorted(&theirs)) {
                faults.push(format!("{kind:?} {}: {keys:?}, the server says {theirs:?}", words.join(" ")));
            }
        }
        for row in index::rows().filter(|row| is_on(row, kind) && row.keys != Keys::None) {
            if !compared.contains(row.name) {
                faults.push(format!("{kind:?} {}: no sample with keys", row.name));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn what_is_learned_from_upstream_agrees_with_the_table() {
    for server in Server::both() {
        let kind = server.kind;
        for proto in ["2", "3"] {
            let mut conn = server.conn();
            conn.call(&["HELLO", proto]);
            let learned = Learned::parse(&conn.call(&["COMMAND"])).expect("a COMMAND reply");
            assert!(learned.len() > 200);
            for learned in learned.into_iter().map(|learned| learned.expect("a description")) {
                let row = index::named(&learned.name).unwrap();
                let of_others: u32 = FLAGS_OF_ONE
                    .iter()
                    .filter(|(owner, _, rows)| *owner != kind && rows.contains(&row.name))
                    .fold(0, |bits, (_, flag, _)| bits | Flags::default().with(flag.as_bytes()).0);
                assert_eq!(learned.flags.0, row.flags.0 & !of_others, "{}", row.name);
                if let (Keys::Range { .. }, false) = (row.keys, row.flags.has(MOVABLEKEYS)) {
                    assert_eq!(learned.keys, row.keys, "{}", row.name);
                }
                assert_eq!(learned.is_write(), row.flags.has(WRITE), "{}", row.name);
                assert_eq!(learned.subcommands.is_empty(), !row.is_container(), "{}", row.name);
            }
        }
    }
}

#[test]
fn a_name_that_a_server_lacks_is_learned_as_lacking() {
    for server in Server::both() {
        for proto in ["2", "3"] {
            let mut conn = server.conn();
            conn.call(&["HELLO", proto]);
            let learned = Learned::parse(&conn.call(&["COMMAND", "INFO", "nosuch", "config|get"])).unwrap();
            assert_eq!(learned[0], None);
            assert_eq!(&*learned[1].as_ref().unwrap().name, "config|get");
        }
    }
}
