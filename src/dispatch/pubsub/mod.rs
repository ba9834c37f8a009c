//! Publish and subscribe: one subscription at upstream for all clients of a worker and user that want the same.
//!
//! ```text
//!  client ─ SUBSCRIBE a ─► hub ─ SUBSCRIBE a ─► upstream      each command goes there, so that its confirmation stands
//!  client ◄─ confirmation ─┤◄── confirmation ─────┘           in upstream's order among the messages
//!  client ◄─ message ──────┴◄── message: after the fence (COHERENCE: news must not overtake), to all who are subscribed
//! ```
//!
//! *Invariant:* a client gets the messages between its two confirmations and no other, in upstream's order. While a
//! confirmation is under way, none of its further commands is taken. Not here: subscriptions inside MULTI and to what
//! upstream tells one connection alone (`__redis__:invalidate`), which have a dedicated connection.

pub mod audience;
pub mod follow;
pub mod glob;
pub mod hub;
pub mod news;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::Flow;
use super::lane::{After, Ticket};
use super::session::Session;
use super::worker::Worker;
use crate::command::Row;
use crate::error::Error;
use crate::protocol::{Args, Value, encode};
use crate::switch::{Rule, on};
use crate::telemetry::labels::{Class, Outcome};
use hub::Hub;
use news::Topic;

/// What upstream tells one connection alone: nothing that could be shared.
const OWN: &[u8] = b"__redis__:";

/// What one client is subscribed to, and through which hub.
#[derive(Default)]
pub struct Subscriptions {
    names: [BTreeMap<Bytes, Rc<Hub>>; 3],
    /// Confirmations under way.
    pending: usize,
}

// === impl Subscriptions ===

impl Subscriptions {
    /// The count in confirmations: channels and patterns together, shard channels alone.
    fn count(&self, topic: Topic) -> usize {
        let [channels, patterns, shards] = self.names.each_ref().map(BTreeMap::len);
        if topic == Topic::Shard { shards } else { channels + patterns }
    }

    /// Whether there are any.
    fn any(&self) -> bool {
        self.names.iter().any(|names| !names.is_empty())
    }
}

// === impl Worker ===

impl Worker {
    /// A command that begins or ends subscriptions.
    pub(super) fn subscription(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) -> Flow {
        if !row.arity_ok(args.len()) {
            self.forward(session, row, args, Class::Subscribe, After::Nothing);
            return Flow::Next;
        }
        let Some((topic, begins)) = Topic::of_word(row.name.as_bytes()) else {
            return Flow::Dedicated(Class::Subscribe);
        };
        let mut names = (1..args.len()).filter_map(|i| args.get(i));
        if begins && names.any(|name| name.starts_with(OWN)) {
            return Flow::Dedicated(Class::Subscribe);
        }
        if !session.replies.borrow().is_settled() {
            return Flow::Settle;
        }
        self.cells.command(Class::Subscribe, Outcome::Forwarded);
        if begins {
            self.subscribe(session, topic, args)
        } else {
            self.unsubscribe(session, topic, args)
        }
        session.spoken();
        Flow::Next
    }

    fn subscribe(&self, session: &Rc<Session>, topic: Topic, args: &Args<'_>) {
        let identity = session.lane().identity;
        let names = (1..args.len()).filter_map(|i| args.get(i));
        if topic == Topic::Shard && self.is_cluster() {
            for name in names {
                let Some(hub) = self.hub(identity, Some(self.node_of(Some(name)))) else { return };
                let asked = vec![(Bytes::copy_from_slice(name), self.place(session))];
                hub.subscribe(topic, asked, &follow::subscription(topic, name));
            }
            return;
        }
        let Some(hub) = self.hub(identity, None) else {
            self.refuse(session, Class::Subscribe, &Error::NoAuth);
            return;
        };
        let asked: Vec<_> = names.map(|name| (Bytes::copy_from_slice(name), self.place(session))).collect();
        hub.subscribe(topic, asked, args.raw);
    }

    /// Each confirmation waits until upstream has come so far: what was published before is the client's.
    fn unsubscribe(&self, session: &Rc<Session>, topic: Topic, args: &Args<'_>) {
        let mut names: Vec<Bytes> = (1..args.len()).filter_map(|i| args.get(i)).map(Bytes::copy_from_slice).collect();
        if args.len() == 1 {
            names = session.subscriptions.borrow().names[topic as usize].keys().cloned().collect();
        }
        if names.is_empty() {
            let ticket = self.place(session);
            self.confirm(&ticket, topic, false, None);
        }
        for name in names {
            let hub = session.subscriptions.borrow_mut().names[topic as usize].remove(&name);
            let ticket = self.place(session);
            match hub {
                Some(hub) if hub.has(topic, &name, session.card.id) => {
                    let reply = confirmation(session, topic, false, Some(&name));
                    hub.unsubscribe(topic, name, ticket, reply);
                }
                // Or it is between two nodes: nobody sends it anything, and it will not be taken along.
                _ => self.confirm(&ticket, topic, false, Some(&name)),
            }
        }
    }

    /// A client has gone, or RESET: nobody waits for confirmations.
    pub fn unsubscribe_all(&self, session: &Rc<Session>) {
        let left = std::mem::take(&mut session.subscriptions.borrow_mut().names);
        for (topic, names) in [Topic::Channel, Topic::Pattern, Topic::Shard].into_iter().zip(left) {
            for (name, hub) in names {
                self.leave(&hub, session, topic, &name);
            }
        }
        session.note_subscriptions();
    }

    fn leave(&self, hub: &Hub, session: &Session, topic: Topic, name: &Bytes) {
        if hub.leave(topic, name, session.card.id) {
            self.peers.audience.change(topic, name, -1, 0);
        }
    }

    fn place(&self, session: &Rc<Session>) -> Ticket {
        session.subscriptions.borrow_mut().pending += 1;
        session.note_subscriptions();
        // As in Redis, CLIENT REPLY silences neither messages nor confirmations.
        let number = session.replies.borrow_mut().expect_other(false);
        Ticket::new(session, number)
    }

    /// Fills the place of a confirmation.
    fn confirm(&self, ticket: &Ticket, topic: Topic, begins: bool, name: Option<&[u8]>) {
        let reply = confirmation(&ticket.session, topic, begins, name);
        self.confirm_with(ticket, &reply);
    }

    fn confirm_with(&self, ticket: &Ticket, reply: &[u8]) {
        let session = &ticket.session;
        let pending = session.subscriptions.borrow().pending.saturating_sub(1);
        session.subscriptions.borrow_mut().pending = pending;
        session.note_subscriptions();
        self.deliver_copy(ticket, reply);
    }

    /// In RESP2's subscribe mode, or while confirmations or detours are under way: what to do with a command, if not the usual.
    #[cold]
    pub(super) fn while_subscribed(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) -> Option<Flow> {
        if session.must_settle() || on(Rule::ConfirmationsFirst) && session.subscriptions.borrow().pending > 0 {
            return Some(Flow::Settle);
        }
        if !session.careful.get() {
            return None;
        }
        let allowed = row.class(args) == Class::Subscribe || matches!(row.name, "ping" | "quit" | "reset");
        // Upstream says itself what is wrong with the rest.
        if allowed || !row.arity_ok(args.len()) {
            return None;
        }
        Some(self.refuse(session, Class::Subscribe, &Error::SubscribeMode(row.name.into())))
    }

    /// After PUBLISH: upstream counts one receiver where many share it.
    pub(super) fn with_receivers(&self, topic: Topic, channel: &[u8], reply: &[u8]) -> Bytes {
        let more = self.peers.audience.more_receivers(topic, channel);
        let receivers = crate::protocol::frame::decode(reply).ok().and_then(|value| match value {
            Value::Integer(receivers) => Some(receivers),
            _ => None,
        });
        let Some(receivers) = receivers else { return Bytes::copy_from_slice(reply) };
        let mut corrected = BytesMut::new();
        encode::integer(&mut corrected, (receivers + more).max(0));
        corrected.freeze()
    }

    /// After PUBSUB NUMSUB.
    pub(super) fn with_subscribers(&self, topic: Topic, reply: &[u8]) -> Bytes {
        let Ok(value) = crate::protocol::frame::decode(reply) else { return Bytes::copy_from_slice(reply) };
        let Some(items) = value.as_array() else { return Bytes::copy_from_slice(reply) };
        let mut corrected = BytesMut::new();
        encode::array_header(&mut corrected, items.len());
        for pair in items.chunks(2) {
            let [name, Value::Integer(count)] = pair else { return Bytes::copy_from_slice(reply) };
            let name = name.as_bytes().unwrap_or_default();
            encode::bulk(&mut corrected, name);
            encode::integer(&mut corrected, (count + self.peers.audience.more_subscribers(topic, name)).max(0));
        }
        corrected.freeze()
    }
}

// === impl Session ===

impl Session {
    /// Whether it is subscribed to anything that is shared.
    pub fn is_subscribed(&self) -> bool {
        self.subscriptions.borrow().any()
    }

    /// Its subscriptions, or its RESP version, have changed.
    pub(super) fn note_subscriptions(&self) {
        let subscriptions = self.subscriptions.borrow();
        let careful = subscriptions.pending > 0 || subscriptions.any() && !self.resp3();
        self.careful.set(careful || self.settles_first());
        for (seen, names) in self.card.subscriptions.iter().zip(&subscriptions.names) {
            seen.store(names.len() as u64, Ordering::Relaxed);
        }
    }
}

/// As upstream would say it to this client.
fn confirmation(session: &Session, topic: Topic, begins: bool, name: Option<&[u8]>) -> Vec<u8> {
    let resp3 = session.resp3();
    let mut reply = if resp3 { b">3\r\n".to_vec() } else { b"*3\r\n".to_vec() };
    encode::bulk(&mut reply, topic.word(begins).as_bytes());
    match name {
        Some(name) => encode::bulk(&mut reply, name),
        None => reply.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
    }
    encode::integer(&mut reply, session.subscriptions.borrow().count(topic) as i64);
    reply
}
