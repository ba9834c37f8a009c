//! Makes one reply of several nodes' replies.
//!
//! *Invariant:* what is written is one whole reply, of the RESP version in which the nodes answered, or nothing; the bytes
//! of elements are never changed. Nodes that answer in different shapes are not joined. Not here: who asks which node.

use std::collections::HashSet;

use bytes::BytesMut;

use super::spread::Join;
use crate::protocol::{ReplyScanner, encode};

/// The nodes' replies do not go together: a shape that the command does not have, or not all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its nodes' replies do not go together")]
pub struct NotJoinable;

/// A value: its first byte and all its bytes, attributes left out.
#[derive(Clone, Copy)]
struct Reply<'a> {
    kind: u8,
    bytes: &'a [u8],
}

/// The elements of an aggregate.
struct Elements<'a> {
    kind: u8,
    left: usize,
    rest: &'a [u8],
}

/// Appends the one reply that `parts`, the whole replies of the nodes in their order, amount to.
///
/// # Errors
/// [`NotJoinable`], and nothing is written.
pub fn join(join: Join, parts: &[&[u8]], out: &mut BytesMut) -> Result<(), NotJoinable> {
    let parts = parts.iter().map(|part| Reply::of(part)).collect::<Result<Vec<_>, _>>()?;
    let first = *parts.first().ok_or(NotJoinable)?;
    if join == Join::Any {
        out.extend_from_slice(any(&parts).unwrap_or(first).bytes);
        return Ok(());
    }
    if let Some(error) = parts.iter().find(|part| part.is_error()) {
        out.extend_from_slice(error.bytes);
        return Ok(());
    }
    match join {
        Join::Agree | Join::Any => out.extend_from_slice(first.bytes),
        Join::Sum => encode::integer(out, numbers(&parts)?.try_fold(0, add)?),
        Join::Min if first.kind == b':' => encode::integer(out, numbers(&parts)?.fold(i64::MAX, i64::min)),
        Join::Min => {
            let columns = columns(&parts)?;
            let least = columns.iter().map(|column| Ok(numbers(column)?.fold(i64::MAX, i64::min)));
            let least = least.collect::<Result<Vec<_>, _>>()?;
            encode::array_header(out, least.len());
            least.into_iter().for_each(|number| encode::integer(out, number));
        }
        Join::SumPairs => {
            let columns = columns(&parts)?;
            let sum = |column: &[Reply<'_>]| numbers(column)?.try_fold(0, add);
            let sums = columns.chunks(2).map(|pair| match pair {
                [names, counts] => Ok((names.first().ok_or(NotJoinable)?.bytes, sum(counts)?)),
                _ => Err(NotJoinable),
            });
            let sums = sums.collect::<Result<Vec<_>, _>>()?;
            encode::array_header(out, columns.len());
            for (name, count) in sums {
                out.extend_from_slice(name);
                encode::integer(out, count);
            }
        }
        Join::Concat => aggregate(first.kind, &all_elements(&parts)?, out),
        Join::Union => {
            let mut seen = HashSet::new();
            let mut elements = all_elements(&parts)?;
            elements.retain(|element| seen.insert(element.bytes));
            aggregate(first.kind, &elements, out);
        }
    }
    Ok(())
}

/// Appends the one array whose element `i` is the next element of the reply `parts[owners[i]]`: MGET cut by slot.
///
/// # Errors
/// [`NotJoinable`] if the parts do not have just these elements; nothing is written.
pub fn elements(parts: &[&[u8]], owners: &[usize], out: &mut BytesMut) -> Result<(), NotJoinable> {
    let parts = parts.iter().map(|part| Reply::of(part)).collect::<Result<Vec<_>, _>>()?;
    if let Some(error) = parts.iter().find(|part| part.is_error()) {
        out.extend_from_slice(error.bytes);
        return Ok(());
    }
    let mut parts = parts.into_iter().map(Reply::elements).collect::<Result<Vec<_>, _>>()?;
    let next = |&owner: &usize| parts.get_mut(owner).and_then(Elements::next).ok_or(NotJoinable)?;
    let taken = owners.iter().map(next).collect::<Result<Vec<_>, _>>()?;
    if parts.iter().any(|part| part.left > 0) {
        return Err(NotJoinable);
    }
    aggregate(b'*', &taken, out);
    Ok(())
}

/// What one node has or has done. Where none has, the error that says most: most nodes run no script that could be killed.
fn any<'a>(parts: &[Reply<'a>]) -> Option<Reply<'a>> {
    let useful = parts.iter().find(|part| !part.is_error() && !part.is_null());
    let telling = || parts.iter().find(|part| part.is_error() && !part.bytes.starts_with(b"-NOTBUSY"));
    useful.or_else(telling).or_else(|| parts.iter().find(|part| part.is_error())).copied()
}

// === impl Reply ===

impl<'a> Reply<'a> {
    /// The one value that is all of `bytes`.
    fn of(bytes: &'a [u8]) -> Result<Reply<'a>, NotJoinable> {
        let (reply, rest) = Reply::at_front(bytes)?;
        if rest.is_empty() { Ok(reply) } else { Err(NotJoinable) }
    }

    /// The value at the front of `bytes`, and what follows it.
    fn at_front(bytes: &'a [u8]) -> Result<(Reply<'a>, &'a [u8]), NotJoinable> {
        let frame = ReplyScanner::default().scan(bytes).ok().flatten().ok_or(NotJoinable)?;
        let (whole, rest) = bytes.split_at_checked(frame.len).ok_or(NotJoinable)?;
        let value = whole.get(frame.start..).ok_or(NotJoinable)?;
        Ok((Reply { kind: frame.kind, bytes: value }, rest))
    }

    fn is_error(&self) -> bool {
        matches!(self.kind, b'-' | b'!')
    }

    fn is_null(&self) -> bool {
        matches!(self.bytes, b"_\r\n" | b"$-1\r\n" | b"*-1\r\n")
    }

    /// What stands behind the type byte of its first line, and what follows that line.
    fn header(&self) -> Option<(&'a str, &'a [u8])> {
        let end = memchr::memchr(b'\r', self.bytes)?;
        let line = std::str::from_utf8(self.bytes.get(1..end)?).ok()?;
        Some((line, self.bytes.get(end + 2..)?))
    }

    fn integer(&self) -> Result<i64, NotJoinable> {
        let number = self.header().filter(|_| self.kind == b':').and_then(|(line, _)| line.parse().ok());
        number.ok_or(NotJoinable)
    }

    fn elements(self) -> Result<Elements<'a>, NotJoinable> {
        let (line, rest) = self.header().filter(|_| matches!(self.kind, b'*' | b'~')).ok_or(NotJoinable)?;
        Ok(Elements { kind: self.kind, left: line.parse().map_err(|_| NotJoinable)?, rest })
    }
}

// === impl Elements ===

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Reply<'a>, NotJoinable>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(Reply::at_front(self.rest).map(|(element, rest)| {
            self.rest = rest;
            element
        }))
    }
}

fn add(sum: i64, number: i64) -> Result<i64, NotJoinable> {
    sum.checked_add(number).ok_or(NotJoinable)
}

/// All parts as numbers.
fn numbers(parts: &[Reply<'_>]) -> Result<impl Iterator<Item = i64>, NotJoinable> {
    Ok(parts.iter().map(Reply::integer).collect::<Result<Vec<_>, _>>()?.into_iter())
}

/// The first elements of all parts, the second ones …; as many in each part.
fn columns<'a>(parts: &[Reply<'a>]) -> Result<Vec<Vec<Reply<'a>>>, NotJoinable> {
    let mut columns: Vec<Vec<Reply<'a>>> = Vec::new();
    for (row, part) in parts.iter().enumerate() {
        for (place, element) in part.elements()?.enumerate() {
            if row == 0 {
                columns.push(Vec::with_capacity(parts.len()));
            }
            columns.get_mut(place).ok_or(NotJoinable)?.push(element?);
        }
        if columns.iter().any(|column| column.len() != row + 1) {
            return Err(NotJoinable);
        }
    }
    Ok(columns)
}

/// The elements of all parts, which are of one kind.
fn all_elements<'a>(parts: &[Reply<'a>]) -> Result<Vec<Reply<'a>>, NotJoinable> {
    let mut all = Vec::new();
    for part in parts {
        let elements = part.elements()?;
        if parts.first().is_some_and(|first| first.kind != elements.kind) {
            return Err(NotJoinable);
        }
        for element in elements {
            all.push(element?);
        }
    }
    Ok(all)
}

/// An array, or a set if `kind` says so.
fn aggregate(kind: u8, elements: &[Reply<'_>], out: &mut BytesMut) {
    out.reserve(elements.iter().map(|element| element.bytes.len()).sum::<usize>() + 32);
    let at = out.len();
    encode::array_header(out, elements.len());
    if let Some(header) = out.get_mut(at) {
        *header = kind;
    }
    elements.iter().for_each(|element| out.extend_from_slice(element.bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Join; 7] = [Join::Agree, Join::Sum, Join::Min, Join::SumPairs, Join::Concat, Join::Union, Join::Any];

    /// Replies in a shorthand, blanks for line ends.
    fn joined(how: Join, parts: &[&str]) -> Option<String> {
        let parts: Vec<String> = parts.iter().map(|part| part.replace(' ', "\r\n") + "\r\n").collect();
        let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        let mut out = BytesMut::new();
        let done = join(how, &parts, &mut out);
        assert!(done.is_ok() || out.is_empty());
        done.ok().map(|()| String::from_utf8(out.to_vec()).unwrap().trim_end().replace("\r\n", " "))
    }

    #[test]
    fn replies_are_joined_as_the_command_s_meaning_has_it() {
        for (how, parts, expected) in [
            (Join::Agree, &["+OK", "+OK"][..], "+OK"),
            (Join::Agree, &["$3 abc", "$3 abc"], "$3 abc"),
            (Join::Sum, &[":1", ":41"], ":42"),
            (Join::Sum, &[":7"], ":7"),
            (Join::Min, &[":3", ":1", ":2"], ":1"),
            (Join::Min, &["*2 :1 :5", "*2 :2 :0"], "*2 :1 :0"),
            (Join::Min, &["*0", "*0"], "*0"),
            (Join::SumPairs, &["*4 $1 a :1 $1 b :0", "*4 $1 a :2 $1 b :5"], "*4 $1 a :3 $1 b :5"),
            (Join::SumPairs, &["*0", "*0"], "*0"),
            (Join::Concat, &["*2 $1 a $1 b", "*0", "*1 $1 a"], "*3 $1 a $1 b $1 a"),
            (Join::Concat, &["~1 $1 a", "~1 $1 b"], "~2 $1 a $1 b"),
            (Join::Union, &["*2 $1 a $1 b", "*2 $1 b $1 c"], "*3 $1 a $1 b $1 c"),
            (Join::Any, &["$-1", "$1 k", "$1 j"], "$1 k"),
            (Join::Any, &["_", "_"], "_"),
            (Join::Any, &["-NOTBUSY no", "+OK", "-NOTBUSY no"], "+OK"),
            (Join::Any, &["-NOTBUSY no", "-UNKILLABLE it_wrote"], "-UNKILLABLE it_wrote"),
            (Join::Any, &["-NOTBUSY no", "-NOTBUSY no"], "-NOTBUSY no"),
            (Join::Any, &["$-1", "-LOADING x"], "-LOADING x"),
            // What a node says beside its reply is its own.
            (Join::Sum, &["|1 +a +b :1", ":2"], ":3"),
        ] {
            // The errors' texts have blanks here, which are no line ends.
            let parts: Vec<String> = parts
                .iter()
                .map(|part| part.replace("Y no", "Y_no").replace("G x", "G_x").replace("E it", "E_it"))
                .collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let expected = expected.replace("Y no", "Y_no").replace("G x", "G_x").replace("E it", "E_it");
            assert_eq!(joined(how, &parts), Some(expected), "{how:?} {parts:?}");
        }
    }

    #[test]
    fn an_error_of_one_node_is_the_reply_to_the_whole() {
        for how in ALL.into_iter().filter(|&how| how != Join::Any) {
            assert_eq!(joined(how, &[":1", "-ERR_a", "-ERR_b"]).unwrap(), "-ERR_a", "{how:?}");
            assert_eq!(joined(how, &["*0", "!5 ERR_a"]).unwrap(), "!5 ERR_a", "{how:?}");
        }
    }

    #[test]
    fn replies_of_other_shapes_are_not_joined() {
        for (how, parts) in [
            (Join::Sum, &[":1", "+OK"][..]),
            (Join::Sum, &[":9223372036854775807", ":1"]),
            (Join::Sum, &[]),
            (Join::Min, &[":1", "*1 :1"]),
            (Join::Min, &["*1 :1", "*2 :1 :1"]),
            (Join::Min, &["*2 :1 :1", "*1 :1"]),
            (Join::Min, &["*1 +a", "*1 :1"]),
            (Join::SumPairs, &["*1 $1 a", "*1 $1 a"]),
            (Join::SumPairs, &["*2 :1 $1 a", "*2 :1 $1 a"]),
            (Join::Concat, &["*1 :1", "~1 :1"]),
            (Join::Concat, &["*1 :1", "*-1"]),
            (Join::Concat, &["*1 :1", ":1"]),
            (Join::Union, &["*1 :1", "+OK"]),
            (Join::Agree, &["+OK", "*1"]),
            (Join::Agree, &["+OK", ":1 :2"]),
        ] {
            assert_eq!(joined(how, parts), None, "{how:?} {parts:?}");
        }
    }

    #[test]
    fn elements_come_in_the_order_of_the_keys() {
        let parts: [&[u8]; 2] = [b"*2\r\n$1\r\na\r\n$-1\r\n", b"*1\r\n_\r\n"];
        let written = |parts: &[&[u8]], owners: &[usize]| {
            let mut out = BytesMut::new();
            let done = elements(parts, owners, &mut out);
            assert!(done.is_ok() || out.is_empty());
            done.map(|()| String::from_utf8(out.to_vec()).unwrap())
        };
        assert_eq!(written(&parts, &[0, 1, 0]).unwrap(), "*3\r\n$1\r\na\r\n_\r\n$-1\r\n");
        assert_eq!(written(&parts, &[1, 0, 0]).unwrap(), "*3\r\n_\r\n$1\r\na\r\n$-1\r\n");
        for owners in [&[0, 1][..], &[0, 1, 1], &[0, 1, 0, 0], &[0, 1, 2]] {
            assert_eq!(written(&parts, owners), Err(NotJoinable), "{owners:?}");
        }
        assert_eq!(written(&[parts[0], b"-MOVED 1 h:1\r\n"], &[0, 1, 0]).unwrap(), "-MOVED 1 h:1\r\n");
        assert_eq!(written(&[parts[0], b":1\r\n"], &[0, 1, 0]), Err(NotJoinable));
    }

    proptest! {
        #[test]
        fn no_replies_panic(parts in prop::collection::vec("([*~:$%|_-]-?[0-9]{0,2}\r\n){0,5}", 0..4)) {
            let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
            let mut out = BytesMut::new();
            for how in ALL {
                let _ = join(how, &parts, &mut out);
            }
            let _ = elements(&parts, &[0, 1, 0], &mut out);
        }
    }
}
