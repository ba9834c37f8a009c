//! The table's own consistency, look-ups, keys and classes, without a server.

use proptest::prelude::*;

use super::index::{named, rows};
use super::{Keys, Learned, Policy, Row, look_up, policy};
use crate::protocol::Args;
use crate::protocol::downgrade::Shape;
use crate::telemetry::labels::Class;

/// Runs `judge` over the arguments of `line`, cut at spaces; `""` is an empty argument.
fn with<T>(line: &str, judge: impl FnOnce(&Args<'_>) -> T) -> T {
    let words: Vec<&str> = line.split(' ').map(|word| if word == "\"\"" { "" } else { word }).collect();
    let mut raw = Vec::new();
    let mut ranges = Vec::new();
    for word in words {
        raw.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        ranges.push((raw.len() as u32, (raw.len() + word.len()) as u32));
        raw.extend_from_slice(word.as_bytes());
        raw.extend_from_slice(b"\r\n");
    }
    judge(&Args { raw: &raw, ranges: &ranges })
}

fn found(line: &str) -> Option<&'static Row> {
    with(line, look_up)
}

fn class(line: &str) -> Class {
    with(line, |args| look_up(args).unwrap().class(args))
}

/// The keys of a command, or none if they cannot be told.
fn keys(line: &str) -> Option<Vec<String>> {
    with(line, |args| {
        let mut keys = Vec::new();
        let told = look_up(args).unwrap().each_key(args, |key| keys.push(String::from_utf8(key.to_vec()).unwrap()));
        assert!(told || keys.is_empty());
        told.then_some(keys)
    })
}

#[test]
fn every_row_is_found_by_its_name_in_any_case() {
    let mut count = 0;
    for row in rows() {
        let line = row.name.replace('|', " ");
        for line in [line.to_ascii_uppercase(), line] {
            assert_eq!(found(&line).map(|found| found.name), Some(row.name));
        }
        assert!(row.name.bytes().all(|b| !b.is_ascii_uppercase()));
        count += 1;
    }
    assert!(count > 390, "{count} rows");
}

#[test]
fn no_name_stands_twice() {
    let mut names: Vec<_> = rows().map(|row| row.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn what_is_not_a_command_is_not_found() {
    // Bytes that differ from a letter, a digit or a sign only in bit 5 are other names.
    for line in ["\"\"", "g", "ge", "gett", "nosuchcommand", "config|get", "sort\u{7f}ro", "geoadd1", "\u{10}et"] {
        assert!(found(line).is_none(), "{line}");
    }
    assert!(look_up(&Args { raw: b"", ranges: &[] }).is_none());
}

#[test]
fn an_unknown_subcommand_gives_the_container() {
    assert_eq!(found("config nosuch").unwrap().name, "config");
    assert_eq!(found("config").unwrap().name, "config");
    assert_eq!(class("config nosuch"), Class::Unknown);
    assert_eq!(class("config"), Class::Plain);
    assert_eq!(class("config get maxmemory"), Class::Plain);
    // A subcommand of another container.
    assert_eq!(class("config setname"), Class::Unknown);
}

#[test]
fn the_arguments_decide_the_class_where_they_must() {
    for (line, expected) in [
        ("exists a", Class::Read),
        ("exists a b", Class::Plain),
        ("sort_ro l", Class::Read),
        ("sort_ro l limit 0 1 alpha", Class::Read),
        ("sort_ro l By nosort", Class::Plain),
        ("sort_ro l get #", Class::Plain),
        ("xread streams block 0", Class::Plain),
        ("xread count 1 BLOCK 0 streams s $", Class::Blocking),
        ("xreadgroup group streams block streams s >", Class::Write),
        ("xreadgroup group streams c block 5 streams s >", Class::Blocking),
        ("mget a", Class::Mget),
        ("eval_ro x 0", Class::Plain),
        ("evalsha x 0", Class::Script),
        ("georadius k 1 1 1 m", Class::Write),
        ("function kill", Class::Control),
        ("function load x", Class::Plain),
        ("acl setuser x", Class::Sweep),
        ("client reply off", Class::Local),
        ("client tracking on", Class::Dedicated),
        ("save", Class::Dedicated),
        ("cluster slots", Class::Plain),
        ("cluster forget x", Class::Refused),
        ("pfcount a", Class::Plain),
        ("ttl a", Class::Plain),
        ("getex a", Class::Write),
    ] {
        assert_eq!(class(line), expected, "{line}");
    }
}

#[test]
fn keys_stand_where_the_servers_say() {
    let some = |keys: &[&str]| Some(keys.iter().map(|key| key.to_string()).collect::<Vec<_>>());
    for (line, expected) in [
        ("get a", some(&["a"])),
        ("mset a 1 b 2", some(&["a", "b"])),
        ("blpop a b 0", some(&["a", "b"])),
        ("eval x 2 a b c", some(&["a", "b"])),
        ("eval x 0", some(&[])),
        ("eval x 3 a b", None),
        ("eval x -1 a b", None),
        ("eval x", None),
        ("zunionstore d 2 a b weights 1 2", some(&["d", "a", "b"])),
        ("zunionstore d 3 a b", None),
        ("msetex 2 a 1 b 2 ex 5", some(&["a", "b"])),
        ("msetex 2 a 1 b", None),
        ("xread count 5 streams a b 0 0", some(&["a", "b"])),
        ("xread streams a b 0", None),
        ("xread block", None),
        ("xreadgroup group streams streams noack streams a >", some(&["a"])),
        ("sort a by store get store store b", some(&["a", "b"])),
        ("sort a store b store c", some(&["a", "c"])),
        ("sort a store", some(&["a"])),
        ("sort a limit 0 store x", some(&["a"])),
        ("georadius a 1 1 1 m storedist b", some(&["a", "b"])),
        ("migrate h 1 a 0 10 copy", some(&["a"])),
        ("migrate h 1 \"\" 0 10 auth keys keys a b", some(&["a", "b"])),
        ("bitop and d a b", some(&["d", "a", "b"])),
        ("object encoding a", some(&["a"])),
        ("spublish ch m", some(&[])),
        ("get", None),
        ("del", None),
        ("blpop a", None),
    ] {
        assert_eq!(keys(line), expected, "{line}");
    }
}

#[test]
fn shard_channels_choose_the_slot_though_they_are_no_keys() {
    with("ssubscribe a b", |args| {
        let mut seen = 0;
        assert!(look_up(args).unwrap().keys.each_of_slot(args, |_| seen += 1));
        assert_eq!(seen, 2);
    });
}

#[test]
fn every_cacheable_read_names_one_key() {
    for row in rows() {
        let line = format!("{} k 1 2 3", row.name);
        let line = if row.name == "exists" { "exists k".into() } else { line };
        if row.name.contains('|') || class(&line) != Class::Read {
            continue;
        }
        assert!(row.is_read_only(), "{}", row.name);
        assert_eq!(with(&line, |args| row.single_key(args).map(<[u8]>::to_vec)), Some(b"k".to_vec()), "{}", row.name);
    }
    assert!(with("eval x 1 k", |args| look_up(args).unwrap().single_key(args).is_none()));
}

#[test]
fn what_changes_the_connection_never_rides_a_lane() {
    for line in [
        "select 1",
        "auth x",
        "hello 3",
        "reset",
        "quit",
        "client setname x",
        "client reply off",
        "client nosuch",
        "client tracking on",
        "subscribe a",
        "unsubscribe",
        "ssubscribe a",
        "discard",
        "multi",
        "exec",
        "watch a",
        "unwatch",
        "monitor",
        "wait 0 0",
        "readonly",
        "readwrite",
        "asking",
        "script debug yes",
        "sync",
        "psync x 0",
        "replconf x",
        "client capa redirect",
        "client no-touch on",
        "client import-source on",
        "client caching yes",
        "client pause 1",
    ] {
        with(line, |args| {
            let row = look_up(args).unwrap();
            assert!(!row.lane_safe(args) && !row.lane_safe_in_multi(args), "{line}");
        });
    }
    for (line, lane, multi) in [
        ("get a", true, true),
        ("blpop a 0", false, true),
        ("xread block 0 streams a 0", false, true),
        ("ping", false, true),
    ] {
        with(line, |args| {
            let row = look_up(args).unwrap();
            assert_eq!((row.lane_safe(args), row.lane_safe_in_multi(args)), (lane, multi), "{line}");
        });
    }
}

#[test]
fn writes_are_writes_and_reads_are_not() {
    for name in ["set", "eval", "flushall", "acl|setuser", "georadius", "sort", "migrate", "function|load"] {
        assert!(named(name).unwrap().is_write() && !named(name).unwrap().is_read_only(), "{name}");
    }
    for name in ["get", "xread", "eval_ro", "scan"] {
        assert!(!named(name).unwrap().is_write() && named(name).unwrap().is_read_only(), "{name}");
    }
    for row in rows().filter(|row| row.brings_news(&Args { raw: b"", ranges: &[] })) {
        assert!(row.is_write(), "{}", row.name);
    }
}

#[test]
fn a_write_names_its_keys_or_is_of_a_class_that_needs_none() {
    for row in rows().filter(|row| row.is_write()) {
        let line = format!("{} k 1 2", row.name.replace('|', " "));
        match class(&line) {
            Class::Write | Class::Blocking => assert_ne!(row.keys, Keys::None, "{}", row.name),
            Class::Plain => assert_eq!(row.family(), "function", "{}", row.name),
            Class::Script | Class::Sweep | Class::Refused => {}
            other => panic!("{}: {other:?}", row.name),
        }
    }
}

#[test]
fn shapes_depend_on_the_number_of_arguments_where_they_must() {
    for (line, expected) in [
        ("lpop a", Shape::Same),
        ("lpop a 2", Shape::NullArray),
        ("zrank a b", Shape::Same),
        ("zrank a b withscore", Shape::NullArray),
        ("zrange a 0 -1", Shape::Pairs),
        ("xreadgroup group g c streams a >", Shape::Streams),
        ("get a", Shape::Same),
    ] {
        assert_eq!(with(line, |args| look_up(args).unwrap().shape_of(args)), expected, "{line}");
    }
    assert!(with("set a b xx get", |args| look_up(args).unwrap().brings_news(args)));
    assert!(!with("set a b", |args| look_up(args).unwrap().brings_news(args)));
}

#[test]
fn the_arity_is_the_servers() {
    assert!(named("get").unwrap().arity_ok(2) && !named("get").unwrap().arity_ok(3));
    assert!(named("del").unwrap().arity_ok(3) && !named("del").unwrap().arity_ok(1));
    assert!(named("config|get").unwrap().arity_ok(3) && !named("config|get").unwrap().arity_ok(2));
}

#[test]
fn refusals_name_their_reason_and_their_key() {
    let strings = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let refusal = |policy: &Policy, line: &str| with(line, |args| policy.refusal(look_up(args).unwrap(), args));
    let usual = Policy::new(&[], &[], &[]);
    assert_eq!(refusal(&usual, "shutdown").unwrap().remedy, policy::ALLOW);
    assert!(refusal(&usual, "get a").is_none());
    for row in rows() {
        let line = format!("{} x x", row.name.replace('|', " "));
        if class(&line) == Class::Refused {
            assert!(
                !refusal(&usual, &line).unwrap().reason.starts_with("it would change upstream for"),
                "{line}: no reason"
            );
        }
    }
    let changed = Policy::new(
        &strings(&["DEBUG", "cluster|reset"]),
        &strings(&["config", "keys", "ft.search"]),
        &strings(&["Ft.Get"]),
    );
    assert!(refusal(&changed, "debug sleep 0").is_none());
    assert!(refusal(&changed, "cluster reset").is_none());
    assert!(refusal(&changed, "cluster forget x").is_some());
    assert_eq!(refusal(&changed, "config set a b").unwrap().remedy, policy::NOT_REFUSE);
    assert!(refusal(&changed, "keys *").is_some());
    assert_eq!(with("debug x", |args| changed.class(look_up(args).unwrap(), args)), Class::Dedicated);
    assert!(changed.is_plain(b"FT.GET") && !changed.is_plain(b"FT.SET"));
    assert!(changed.refusal_of_unknown(b"FT.SEARCH").is_some() && changed.refusal_of_unknown(b"FT.GET").is_none());
    assert!(policy::faults(&strings(&["debug", "CLUSTER", "module|load"])).is_empty());
    assert_eq!(policy::faults(&strings(&["get", "nosuch"])).len(), 2);
}

/// An element of a COMMAND INFO reply, in RESP3.
fn described(name: &str, flags: &[&str], first: i32, last: i32) -> String {
    let flags: String = flags.iter().map(|flag| format!("+{flag}\r\n")).collect();
    let count = flags.matches('+').count();
    let len = name.len();
    format!(
        "*10\r\n${len}\r\n{name}\r\n:-2\r\n~{count}\r\n{flags}:{first}\r\n:{last}\r\n:1\r\n~0\r\n~0\r\n~0\r\n*0\r\n"
    )
}

fn learned(frame: &str) -> Learned {
    Learned::parse(frame.as_bytes()).unwrap().remove(0).unwrap()
}

#[test]
fn a_command_is_learned_from_what_upstream_says() {
    for (flags, first, expected) in [
        (&["readonly", "fast"][..], 1, Class::Plain),
        (&["write", "denyoom"], 1, Class::Write),
        (&["write"], 0, Class::Script),
        (&["write", "movablekeys"], 1, Class::Script),
        (&["readonly", "blocking"], 1, Class::Unknown),
        (&["readonly", "admin"], 0, Class::Unknown),
        (&["pubsub"], 0, Class::Unknown),
        (&[], 1, Class::Unknown),
    ] {
        let resp3 = format!("*1\r\n{}", described("JSON.GET", flags, first, first));
        for frame in [resp3.replace('~', "*"), resp3] {
            let learned = learned(&frame);
            assert_eq!((&*learned.name, learned.arity, learned.class()), ("json.get", -2, expected), "{flags:?}");
        }
    }
    let learned = learned(&format!("*1\r\n{}", described("json.mget", &["readonly"], 1, -2)));
    let mut keys = 0;
    assert!(with("json.mget a b $", |args| learned.each_key(args, |_| keys += 1)));
    assert_eq!(keys, 2);
}

#[test]
fn a_name_that_upstream_lacks_too_is_not_learned() {
    for frame in ["*1\r\n_\r\n", "*1\r\n$-1\r\n", "*1\r\n*-1\r\n"] {
        assert_eq!(Learned::parse(frame.as_bytes()), Some(vec![None]), "{frame:?}");
    }
    assert_eq!(Learned::parse(b"-ERR no\r\n"), None);
    assert_eq!(Learned::parse(b"*1\r\n"), None);
}

#[test]
fn a_learned_container_is_narrowed_to_its_subcommand() {
    let sub = described("ft.config|get", &["readonly"], 0, 0);
    let outer = described("ft.config", &[], 0, 0);
    let frame = format!("*1\r\n{}*1\r\n{sub}", outer.strip_suffix("*0\r\n").unwrap());
    let learned = learned(&frame);
    assert_eq!(learned.class(), Class::Unknown);
    assert_eq!(with("FT.CONFIG GET x", |args| learned.narrow(args).class()), Class::Plain);
    assert_eq!(with("FT.CONFIG SET x", |args| learned.narrow(args).class()), Class::Unknown);
}

proptest! {
    #[test]
    fn no_arguments_make_the_questions_panic(words in prop::collection::vec("[a-z0-9$]{0,6}|store|get|by|block|streams|keys|count|auth2|-?[0-9]{1,20}", 0..9)) {
        for row in rows() {
            let line = format!("{} {}", row.name.replace('|', " "), words.join(" "));
            with(line.trim_end(), |args| {
                let row = look_up(args).unwrap();
                let mut keys = 0;
                let told = row.each_key(args, |_| keys += 1);
                assert!(told || keys == 0, "{line}");
                let _ = (row.class(args), row.shape_of(args), row.lane_safe(args), row.brings_news(args), row.single_key(args));
            });
        }
    }

    #[test]
    fn any_bytes_make_no_learned_command_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        Learned::parse(&bytes);
    }
}
