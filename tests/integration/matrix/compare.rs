//! When two replies are the same: by their bytes, or, where a reply is never twice the same, by what is.

use crate::support::resp::decode;

/// What is left out of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Nothing.
    Bytes,
    /// What numbers there are: times, ids, memory.
    Numbers,
    /// The values of a text of `name:value` lines, INFO's; and the section that sidecache adds.
    Fields,
    /// The order of elements, which follows from the server's hash seed.
    Order,
    /// All but the types, like elements taken as one.
    Types,
}

/// Whether two replies are the same.
pub fn alike(how: How, one: &[u8], other: &[u8]) -> bool {
    one == other || how != How::Bytes && essence(how, one) == essence(how, other)
}

fn essence(how: How, reply: &[u8]) -> Vec<u8> {
    match how {
        How::Bytes => reply.to_vec(),
        How::Numbers => without_numbers(reply),
        How::Fields => fields(reply).into_bytes(),
        How::Order => sorted(reply),
        How::Types => types(reply).into_bytes(),
    }
}

/// Each number as `N`, be it a length, a value or a part of a text; fractions and exponents are part of it.
fn without_numbers(reply: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < reply.len() {
        if !reply[at].is_ascii_digit() {
            out.push(reply[at]);
            at += 1;
            continue;
        }
        out.push(b'N');
        while reply.get(at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.') {
            at += 1;
        }
    }
    out
}

fn fields(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    let text = text.split("\r\n# Sidecache").next().unwrap_or_default();
    // Which commands and errors there have been, and how long the text is.
    let counted = |line: &&str| !["cmdstat_", "errorstat_", "$", "="].iter().any(|start| line.starts_with(start));
    let names = text.lines().filter(counted).map(|line| line.split_once(':').map_or(line, |(name, _)| name));
    let kind = reply.first().map_or(' ', |&byte| char::from(byte));
    format!("{kind}{}", names.filter(|name| !name.is_empty()).collect::<Vec<_>>().join("\n"))
}

/// The header's end and the elements of the aggregates at the front; a map's pairs are one element each.
fn elements(reply: &[u8]) -> Option<(usize, Vec<&[u8]>)> {
    let each = match reply.first()? {
        b'*' | b'~' | b'>' => 1,
        b'%' => 2,
        _ => return None,
    };
    let end = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count: usize = std::str::from_utf8(&reply[1..end - 2]).ok()?.parse().ok()?;
    let mut at = end;
    let mut items = Vec::new();
    for _ in 0..count {
        let start = at;
        for _ in 0..each {
            at += decode(&reply[at..])?.1;
        }
        items.push(&reply[start..at]);
    }
    Some((end, items))
}

fn sorted(reply: &[u8]) -> Vec<u8> {
    let Some((end, items)) = elements(reply) else { return reply.to_vec() };
    let mut items: Vec<Vec<u8>> =
        items.into_iter().map(|item| parts(item).into_iter().flat_map(sorted).collect()).collect();
    items.sort();
    [reply[..end].to_vec(), items.concat()].concat()
}

fn types(reply: &[u8]) -> String {
    let kind = reply.first().map_or(' ', |&byte| char::from(byte));
    if reply.get(1..3) == Some(b"-1") && reply[0] != b':' {
        return format!("{kind}-1");
    }
    let Some((_, items)) = elements(reply) else { return kind.to_string() };
    let kinds = |item| parts(item).into_iter().map(types).collect::<Vec<_>>().join("=");
    let mut kinds: Vec<String> = items.into_iter().map(kinds).collect();
    kinds.sort();
    kinds.dedup();
    format!("{kind}[{}]", kinds.join(" "))
}

/// An element by itself, or the two of a pair.
fn parts(mut item: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((_, length)) = decode(item) {
        let (part, rest) = item.split_at(length);
        parts.push(part);
        item = rest;
    }
    parts
}

#[test]
fn what_is_left_out_is_no_more_than_said() {
    let same = |how, one: &str, other: &str| alike(how, one.as_bytes(), other.as_bytes());
    assert!(same(How::Numbers, "*2\r\n:1\r\n$3\r\nid7\r\n", "*2\r\n:1234\r\n$5\r\nid771\r\n"));
    assert!(same(How::Numbers, ",1.5\r\n", ",22\r\n") && !same(How::Numbers, ":1\r\n", ",1\r\n"));
    assert!(!same(How::Numbers, "$-1\r\n", "$1\r\na\r\n") && !same(How::Bytes, ":1\r\n", ":2\r\n"));
    assert!(same(How::Fields, "$9\r\n# A\r\na:1\r\n", "$8\r\n# A\r\na:2\r\n\r\n# Sidecache\r\nx:1\r\n"));
    assert!(!same(How::Fields, "$9\r\n# A\r\na:1\r\n", "$9\r\n# A\r\nb:1\r\n"));
    assert!(same(How::Order, "*2\r\n*2\r\n:1\r\n:2\r\n:3\r\n", "*2\r\n:3\r\n*2\r\n:2\r\n:1\r\n"));
    assert!(!same(How::Order, "*2\r\n:1\r\n:2\r\n", "*2\r\n:1\r\n:3\r\n"));
    assert!(same(How::Order, "%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", "%2\r\n+b\r\n:2\r\n+a\r\n:1\r\n"));
    assert!(!same(How::Order, "%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", "%2\r\n+b\r\n:1\r\n+a\r\n:2\r\n"));
    assert!(same(How::Order, "%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n", "%1\r\n+a\r\n*2\r\n:2\r\n:1\r\n"));
    assert!(same(How::Types, "*2\r\n:1\r\n:2\r\n", "*3\r\n:3\r\n:4\r\n:5\r\n"));
    assert!(!same(How::Types, "*1\r\n:1\r\n", "*1\r\n$1\r\na\r\n") && !same(How::Types, "$-1\r\n", "*-1\r\n"));
}
