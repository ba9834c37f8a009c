//! What a RESP2 client is given is what the same server sends to a RESP2 connection, byte for byte: each sample
//! runs on a RESP2 and on a RESP3 connection of a real server, alone and inside MULTI, and the RESP3 reply is
//! rewritten.

use std::collections::BTreeSet;

use sidecache::command::row::Only;
use sidecache::command::{Row, index, look_up};
use sidecache::protocol::Args;
use sidecache::protocol::downgrade::{Downgrade, Shape, rewrite_whole};
use sidecache::telemetry::labels::Class;

use crate::support::redis::Kind;
use crate::support::resp::encode;
use crate::support::{Conn, Server, V, resp};

pub mod samples;
mod samples_of_types;

use samples::{CLUSTER, GROUPS, Group};

/// Commands of the classes below that have no sample whose reply is rewritten.
const NOT_RUN: [(&str, &str); 3] = [
    ("bgsave", "it answers a status, or an error while another one runs"),
    ("bgrewriteaof", "it answers a status, or an error while another one runs"),
    ("pfselftest", "it answers a status after seconds of work"),
];

/// Commands whose samples are answered by errors only.
const ONLY_ERRORS: [(&str, &str); 8] = [
    ("restore", "its argument is binary; it answers a status"),
    ("function|restore", "its argument is binary; it answers a status"),
    ("acl|load", "it wants an ACL file; it answers a status"),
    ("acl|save", "it wants an ACL file; it answers a status"),
    ("config|rewrite", "it wants a configuration file; it answers a status"),
    ("cluster|count-failure-reports", "it wants another node's id; it answers an integer"),
    ("cluster|replicas", "it wants another node's id; it answers as CLUSTER NODES"),
    ("cluster|slaves", "it wants another node's id; it answers as CLUSTER NODES"),
];

/// The request's bytes and argument places, as the parser gives them.
pub fn parts(words: &[String]) -> (Vec<u8>, Vec<(u32, u32)>) {
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
pub fn of_row<T>(words: &[String], ask: impl FnOnce(&'static Row, &Args<'_>) -> T) -> T {
    let (raw, ranges) = parts(words);
    let args = Args { raw: &raw, ranges: &ranges };
    let row = look_up(&args).unwrap_or_else(|| panic!("no row for {words:?}"));
    ask(row, &args)
}

/// What was seen of one server.
#[derive(Default)]
struct Seen {
    /// Rows whose reply was compared.
    compared: BTreeSet<&'static str>,
    /// Rows that answered something else than an error at least once.
    answered: BTreeSet<&'static str>,
    faults: Vec<String>,
}

#[test]
fn a_rewritten_reply_is_what_a_resp2_connection_gets_from_redis() {
    compare(Kind::Redis);
}

#[test]
fn a_rewritten_reply_is_what_a_resp2_connection_gets_from_valkey() {
    compare(Kind::Valkey);
}

fn compare(kind: Kind) {
    let mut seen = Seen::default();
    let server = Server::with(kind, &[]);
    let mut both = [server.conn(), Conn::open3(server.addr())];
    for group in &GROUPS {
        run(group, &mut both, &mut seen);
    }
    let node = Server::with(kind, &["--cluster-enabled", "yes"]);
    node.outside("CLUSTER ADDSLOTSRANGE 0 16383");
    crate::support::eventually("the node owns its slots", || node.conn().line("SET a b") == V::Simple("OK".into()));
    run(&CLUSTER, &mut [node.conn(), Conn::open3(node.addr())], &mut seen);
    assert!(seen.faults.is_empty(), "{} of {kind:?}:\n{}", seen.faults.len(), seen.faults.join("\n"));
    assert_complete(kind, &seen);
}

/// Every command whose replies are ever rewritten was compared, and not by errors alone.
fn assert_complete(kind: Kind, seen: &Seen) {
    let here = |row: &Row| match row.only {
        Only::Both => true,
        Only::Redis => kind == Kind::Redis,
        Only::Valkey => kind == Kind::Valkey,
    };
    let mut faults = Vec::new();
    for row in index::rows().filter(|row| here(row) && !row.is_container()) {
        let words: Vec<String> = format!("{} a", row.name.replace('|', " ")).split(' ').map(str::to_string).collect();
        let class = of_row(&words, Row::class);
        if matches!(
            class,
            Class::Subscribe | Class::Local | Class::Refused | Class::Control | Class::Dedicated | Class::Transaction
        ) {
            continue;
        }
        let name = row.name;
        if listed(&NOT_RUN, name) {
            continue;
        }
        match (seen.compared.contains(name), seen.answered.contains(name) || listed(&ONLY_ERRORS, name)) {
            (false, _) => faults.push(format!("{name} has no sample")),
            (true, false) => faults.push(format!("{name}: errors only")),
            (true, true) => {}
        }
    }
    assert!(faults.is_empty(), "{kind:?}: {faults:?}");
    for (name, _) in ONLY_ERRORS {
        assert!(!seen.answered.contains(name), "{name} does answer: take it off the list");
    }
}

fn listed(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(listed, _)| *listed == name)
}

fn run(group: &Group, both: &mut [Conn; 2], seen: &mut Seen) {
    for line in group.lines {
        let (commands, differs) = samples::commands(line);
        for in_multi in [false, true] {
            let last = commands.last().unwrap();
            if in_multi && !of_row(last, |row, args| row.lane_safe_in_multi(args)) {
                continue;
            }
            let [old, new] = both.each_mut().map(|conn| replies(conn, group, &commands, in_multi));
            let mut queued = Vec::new();
            for (at, words) in commands.iter().enumerate() {
                let ends = in_multi && at + 1 == commands.len();
                let result = judge(
                    words,
                    &old[at],
                    &new[at],
                    differs,
                    if ends { Some(vec![shape(words)]) } else { exec(words, &mut queued) },
                );
                if let Err(fault) = result {
                    seen.faults.push(format!(
                        "{line}{}: {}: {fault}",
                        if in_multi { " (MULTI)" } else { "" },
                        words.join(" ")
                    ));
                }
                let name = of_row(words, |row, _| row.name);
                seen.compared.insert(name);
                if !old[at].starts_with(b"-") && !old[at].starts_with(b"*1\r\n-") {
                    seen.answered.insert(name);
                }
            }
        }
    }
}

/// The shapes of the queued commands, if this is the EXEC of a transaction within the line.
fn exec(words: &[String], queued: &mut Vec<Shape>) -> Option<Vec<Shape>> {
    match words[0].as_str() {
        "EXEC" => Some(std::mem::take(queued)),
        "MULTI" => {
            queued.clear();
            None
        }
        _ => {
            queued.push(shape(words));
            None
        }
    }
}

fn shape(words: &[String]) -> Shape {
    of_row(words, Row::shape_of)
}

/// The replies to a line's commands in a state made anew; the last one inside MULTI if so wished (its EXEC's reply).
fn replies(conn: &mut Conn, group: &Group, commands: &[Vec<String>], in_multi: bool) -> Vec<Vec<u8>> {
    conn.call(&["FLUSHALL"]);
    conn.call(&["FUNCTION", "FLUSH"]);
    for line in group.setup {
        for words in samples::commands(line).0 {
            conn.call(&words);
        }
    }
    let (last, before) = commands.split_last().unwrap();
    let mut replies: Vec<Vec<u8>> = before.iter().map(|words| conn.call(words)).collect();
    if !in_multi {
        replies.push(conn.call(last));
        return replies;
    }
    conn.call(&["MULTI"]);
    let queued = conn.call(last);
    let exec = conn.call(&["EXEC"]);
    replies.push(if queued.starts_with(b"+QUEUED") { exec } else { queued });
    replies
}

/// Whether `new`, rewritten whole and in pieces, is `old`; `exec` holds the shapes of an EXEC's elements.
fn judge(words: &[String], old: &[u8], new: &[u8], differs: bool, exec: Option<Vec<Shape>>) -> Result<(), String> {
    let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(300).collect::<String>();
    let (begin, hides) = match exec {
        Some(shapes) => {
            let hides = shapes.iter().any(|shape| shape.hides());
            (Downgrade::exec(shapes), hides)
        }
        None => (Downgrade::new(shape(words)), shape(words).hides()),
    };
    let mut whole = Vec::new();
    let mut rewriting = begin.clone();
    if rewriting.rewrite(new, &mut whole) != new.len() || !rewriting.is_done() {
        return Err(format!("{:?} is not taken in whole", show(new)));
    }
    let mut pieces = Vec::new();
    let mut rewriting = begin;
    let mut taken = 0;
    for end in 1..=new.len() {
        taken += rewriting.rewrite(&new[taken..end], &mut pieces);
    }
    if pieces != whole {
        return Err(format!("in pieces {:?}, whole {:?}", show(&pieces), show(&whole)));
    }
    if !if differs { structure(&whole) == structure(old) } else { whole == old } {
        return Err(format!(
            "\n  RESP3     {:?}\n  rewritten {:?}\n  RESP2     {:?}",
            show(new),
            show(&whole),
            show(old)
        ));
    }
    let mut plain = Vec::new();
    rewrite_whole(new, Shape::Same, &mut plain);
    if plain == new && whole != new && !hides {
        return Err(format!("no RESP3 type in {:?}, yet it is rewritten", show(new)));
    }
    Ok(())
}

/// A reply's types, without what varies: texts, numbers, the order and number of like elements.
fn structure(reply: &[u8]) -> String {
    fn of(value: &V) -> String {
        match value {
            V::Array(items) => {
                let mut kinds: Vec<String> = items.iter().map(of).collect();
                kinds.sort();
                kinds.dedup();
                format!("[{}]", kinds.join(" "))
            }
            V::Simple(_) => "+".into(),
            V::Error(_) => "-".into(),
            V::Int(_) => ":".into(),
            V::Bulk(_) => "$".into(),
            V::Nil => "_".into(),
            other => panic!("not RESP2: {other:?}"),
        }
    }
    of(&resp::decode(reply).unwrap().0)
}
