//! Commands of which several nodes of a cluster do a part: cut by slot, sent to all masters, or, SCAN, to one after the
//! other.
//!
//! *Invariant:* the parts are sent before anything that the client sends later, and its place is answered once, by their
//! joined replies. A part that is turned away goes its own way like any command. Not here: which commands (`command`), the
//! joining (`command::join`), MGET's parts from the cache (`mget`).

use std::rc::Rc;

use bytes::BytesMut;

use super::Flow;
use super::gather::{Gather, Join, Shard};
use super::lane::{After, Rewrite, Ticket};
use super::session::Session;
use super::worker::Worker;
use crate::coherence::Keys;
use crate::command::cursor::Cursor;
use crate::command::spread::{Split, Spread};
use crate::command::{Row, join};
use crate::error::Error;
use crate::limits::AUTHENTICATED;
use crate::protocol::{Args, RequestParser, encode};
use crate::telemetry::labels::{Class, Outcome};
use crate::upstream::config::CrossSlot;
use crate::upstream::slots::key_slot;

/// The end of a scan that has come to no node any more.
const NOTHING_LEFT: &[u8] = b"*2\r\n$1\r\n0\r\n*0\r\n";

/// A command's keys by slot.
pub(super) struct Cut {
    /// Which group each key is in, in the order of the keys.
    pub owners: Vec<usize>,
    /// The request of each group.
    pub requests: Vec<BytesMut>,
}

// === impl Worker ===

impl Worker {
    /// Takes a command that is not one node's affair; `None`: it is, or the configuration wants it to be.
    pub(super) fn spread(
        &self,
        session: &Rc<Session>,
        row: &'static Row,
        args: &Args<'_>,
        class: Class,
    ) -> Option<Flow> {
        let lane_safe =
            matches!(class, Class::Read | Class::Mget | Class::Plain | Class::Write | Class::Script | Class::Sweep);
        if !lane_safe || !row.arity_ok(args.len()) || self.is_held(row, class) {
            return None;
        }
        match row.spread() {
            Spread::One => return None,
            Spread::Split(how) => {
                if self.settings.upstream.cross_slot == CrossSlot::Error {
                    return None;
                }
                let cut = cut_by_slot(row, args)?;
                match how {
                    Split::Elements => self.mget_across(session, row, cut),
                    Split::Joined(how) => {
                        let keys = if class == Class::Write { self.keys(row, args)? } else { Keys::None };
                        let join: Join = Box::new(move |parts, out| joined(join::join(how, parts, out), parts, out));
                        self.send_parts(session, row, class, &cut.requests, Vec::new(), keys, join);
                    }
                }
            }
            Spread::All(how) => {
                self.note_script(row, args);
                let shards = self.shards_of_masters();
                let request = BytesMut::from(args.raw);
                let join: Join = Box::new(move |parts, out| joined(join::join(how, parts, out), parts, out));
                self.send_parts(session, row, class, &vec![request; shards.len()], shards, Keys::None, join);
            }
            Spread::Scan => self.scan(session, row, args)?,
        }
        session.spoken();
        Some(Flow::Next)
    }

    /// Sends the parts of a command, each to the owner of its keys or, if `shards` names them, to these.
    #[allow(clippy::too_many_arguments)]
    fn send_parts(
        &self,
        session: &Rc<Session>,
        row: &'static Row,
        class: Class,
        requests: &[BytesMut],
        shards: Vec<Shard>,
        keys: Keys,
        join: Join,
    ) {
        self.unpark(session);
        self.cells.command(class, Outcome::Forwarded);
        let sweeps = class == Class::Sweep;
        if sweeps {
            self.sweeping();
        }
        self.coherence.sending(&keys);
        let gather = Gather::new(join, requests.len(), shards, sweeps);
        let number = session.replies.borrow_mut().expect_other(session.mute());
        let mine = session.lane();
        for (part, request) in requests.iter().enumerate() {
            let mut parser = RequestParser::default();
            let parsed = parser.parse(request, &AUTHENTICATED).is_ok();
            debug_assert!(parsed);
            let args = Args { raw: request, ranges: parser.ranges() };
            let node = gather.node(part).unwrap_or_else(|| self.node_of_args(Some(row), &args));
            let lane = self.as_master(self.lane(node, mine.identity, mine.db));
            if class != Class::Read {
                self.note_write(session, node);
            }
            let rewrite = self.shape(session, &lane, row, &args).map_or(Rewrite::No, Rewrite::Resp2);
            let after = After::Part(Rc::clone(&gather), part, keys.clone());
            self.send(&lane, request, Ticket::new(session, number), rewrite, after);
        }
    }

    /// SCAN goes on at the master that its cursor names.
    fn scan(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) -> Option<()> {
        let cursor = std::str::from_utf8(args.get(1)?).ok()?.parse().ok()?;
        let shards = self.shards();
        let numbers: Vec<u16> = shards.iter().map(|(number, _)| *number).collect();
        let Some(cursor) = Cursor::of_client(cursor).resume(&numbers) else {
            self.unpark(session);
            self.count_local(Class::Plain);
            session.replies.borrow_mut().answer(NOTHING_LEFT, session.mute());
            return Some(());
        };
        let node = shards.iter().find(|(number, _)| *number == cursor.node)?.1;
        let place = cursor.place.to_string();
        let mut words: Vec<&[u8]> = (0..args.len()).filter_map(|i| args.get(i)).collect();
        *words.get_mut(1)? = place.as_bytes();
        let mut request = BytesMut::new();
        encode::request(&mut request, &words);
        self.unpark(session);
        self.cells.command(Class::Plain, Outcome::Forwarded);
        let mine = session.lane();
        let lane = self.as_master(self.lane(node, mine.identity, mine.db));
        let rewrite = self.shape(session, &lane, row, args).map_or(Rewrite::No, Rewrite::Resp2);
        let join: Join = Box::new(move |parts, out| scanned(cursor, &numbers, parts, out));
        let gather = Gather::new(join, 1, vec![Shard { node, slot: Some(cursor.node) }], false);
        let number = session.replies.borrow_mut().expect_other(session.mute());
        self.send(&lane, &request, Ticket::new(session, number), rewrite, After::Part(gather, 0, Keys::None));
        Some(())
    }
}

/// The keys of a command by slot; `None`: they all lie in one.
fn cut_by_slot(row: &Row, args: &Args<'_>) -> Option<Cut> {
    let mut slots: Vec<u16> = Vec::new();
    let mut owners = Vec::new();
    row.each_key(args, |key| {
        let slot = key_slot(key);
        let group = slots.iter().position(|of| *of == slot).unwrap_or_else(|| {
            slots.push(slot);
            slots.len() - 1
        });
        owners.push(group);
    });
    // All arguments are keys, or keys and values.
    let step = (args.len() - 1).checked_div(owners.len())?;
    if slots.len() < 2 || owners.len() * step != args.len() - 1 {
        return None;
    }
    let mut groups: Vec<Vec<&[u8]>> = vec![vec![args.get(0)?]; slots.len()];
    for (key, &owner) in owners.iter().enumerate() {
        let words = (0..step).filter_map(|i| args.get(1 + key * step + i));
        groups.get_mut(owner)?.extend(words);
    }
    let request = |words: Vec<&[u8]>| {
        let mut request = BytesMut::new();
        encode::request(&mut request, &words);
        request
    };
    Some(Cut { owners, requests: groups.into_iter().map(request).collect() })
}

/// Replies that do not fit together: the first of them that says so itself.
pub(super) fn joined(result: Result<(), join::NotJoinable>, parts: &[&[u8]], out: &mut BytesMut) {
    if result.is_err() {
        let error = parts.iter().find(|part| matches!(part.first(), Some(b'-' | b'!')));
        match error {
            Some(error) => out.extend_from_slice(error),
            None => out.extend_from_slice(&Error::NotJoinable.reply()),
        }
    }
}

/// A node's reply to SCAN with the client's cursor in the place of its own.
fn scanned(cursor: Cursor, numbers: &[u16], parts: &[&[u8]], out: &mut BytesMut) {
    let reply = parts.first().copied().unwrap_or_default();
    let Some((elements, own)) = super::mget::elements(reply).and_then(|elements| {
        let own = elements.first().copied().and_then(bulk_number)?;
        Some((elements, own))
    }) else {
        return out.extend_from_slice(reply);
    };
    match cursor.after(own, numbers) {
        Ok(next) => {
            encode::array_header(out, 2);
            encode::bulk(out, next.to_string().as_bytes());
            elements.get(1).into_iter().for_each(|keys| out.extend_from_slice(keys));
        }
        Err(_) => out.extend_from_slice(&Error::CursorTooLarge.reply()),
    }
}

fn bulk_number(bulk: &[u8]) -> Option<u64> {
    let text = bulk.split(|&byte| byte == b'\n').nth(1)?.strip_suffix(b"\r")?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::look_up;

    fn cut(words: &[&str]) -> Option<(Vec<usize>, Vec<String>)> {
        let mut request = BytesMut::new();
        encode::request(&mut request, words);
        let mut parser = RequestParser::default();
        parser.parse(&request, &AUTHENTICATED).unwrap();
        let args = Args { raw: &request, ranges: parser.ranges() };
        let cut = cut_by_slot(look_up(&args).unwrap(), &args)?;
        let text = |request: &BytesMut| {
            let text = String::from_utf8_lossy(request).into_owned();
            text.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect::<Vec<_>>().join(" ")
        };
        Some((cut.owners, cut.requests.iter().map(text).collect()))
    }

    #[test]
    fn keys_are_cut_by_slot_with_their_values_in_the_order_of_the_keys() {
        // foo: 12182, bar: 5061.
        assert_eq!(cut(&["DEL", "foo", "{foo}1"]), None);
        let (owners, requests) = cut(&["MGET", "foo", "bar", "{foo}1", "bar"]).unwrap();
        assert_eq!((owners, requests), (vec![0, 1, 0, 1], vec!["MGET foo {foo}1 ".into(), "MGET bar bar ".into()]));
        let (owners, requests) = cut(&["MSET", "foo", "1", "bar", "2", "foo", "3"]).unwrap();
        assert_eq!((owners, requests), (vec![0, 1, 0], vec!["MSET foo 1 foo 3 ".into(), "MSET bar 2 ".into()]));
        assert_eq!(cut(&["MSET", "foo", "1", "bar"]), None, "a wrong number of arguments is upstream's to tell");
    }

    #[test]
    fn a_scan_s_reply_gets_the_client_s_cursor() {
        let says = |own: &str, numbers: &[u16]| {
            let mut out = BytesMut::new();
            let reply = format!("*2\r\n${}\r\n{own}\r\n*1\r\n$1\r\nk\r\n", own.len());
            scanned(Cursor { node: 5, place: 0 }, numbers, &[reply.as_bytes()], &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let next = |node: u64, place: u64| {
            let cursor = (node << 48 | place).to_string();
            format!("*2\r\n${}\r\n{cursor}\r\n*1\r\n$1\r\nk\r\n", cursor.len())
        };
        assert_eq!(says("7", &[0, 5, 9]), next(5, 7));
        assert_eq!(says("0", &[0, 5, 9]), next(9, 0));
        assert_eq!(says("0", &[0, 5]), next(0, 0));
    }
}
