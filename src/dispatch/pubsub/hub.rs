//! The connection to upstream on which a worker's clients of one user share their subscriptions.
//!
//! *Invariant:* what arrives is handled in upstream's order; behind a message stands a fence before anything of that
//! batch is passed on. If the connection is lost, so are messages, and its clients are closed as upstream would have
//! closed them: they must know.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Worker;
use super::confirmation;
use super::news::{News, Topic, news_of};
use crate::dispatch::accounts::Place;
use crate::dispatch::lane::Ticket;
use crate::dispatch::session::Session;
use crate::error::Error;
use crate::protocol::encode;
use crate::switch::{Rule, on};
use crate::telemetry::metrics::Counter;
use crate::upstream::connection::{Connection, ConnectionError, Piece};
use crate::upstream::dedicated::PoolKind;
use crate::upstream::topology::NodeId;

/// One shared connection.
#[derive(Default)]
pub struct Hub {
    pub(super) identity: u32,
    /// The node that owns the shard channels' slots; `None`: for all else, at whatever node.
    pub(super) shard: Option<NodeId>,
    pub(super) listeners: RefCell<[HashMap<Bytes, Listeners>; 3]>,
    /// What upstream has yet to confirm, in order.
    pub(super) owed: RefCell<VecDeque<Owed>>,
    /// To be written.
    out: RefCell<BytesMut>,
    /// The next command's number.
    next_command: Cell<u64>,
    /// Rings when there is something to be written.
    ring: Notify,
}

/// Who wants one channel or pattern.
#[derive(Default)]
pub(super) struct Listeners {
    /// Those who have been confirmed, by id.
    pub(super) clients: BTreeMap<u64, Listener>,
    /// Those whose confirmations are under way.
    coming: usize,
    /// Whether upstream has confirmed it.
    confirmed: bool,
}

/// One of them.
pub(super) struct Listener {
    pub(super) session: Rc<Session>,
    /// It has unsubscribed: what upstream sends before it has heard of that is still this client's.
    leaving: bool,
}

/// What upstream is to confirm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// That it is subscribed to.
    Begins,
    /// That it is not any more.
    Ends,
    /// That it has come so far: one client leaves and others stay.
    Passes,
}

/// A confirmation that upstream owes.
pub(super) struct Owed {
    /// Which command it belongs to: if that fails, all of its are over.
    pub(super) command: u64,
    pub(super) topic: Topic,
    pub(super) step: Step,
    pub(super) name: Bytes,
    /// Who gets it, and what it is if that is known already.
    pub(super) to: Option<(Ticket, Option<Vec<u8>>)>,
}

// === impl Hub ===

impl Hub {
    /// Somebody wants these; `raw` is the command.
    pub(super) fn subscribe(&self, topic: Topic, asked: Vec<(Bytes, Ticket)>, raw: &[u8]) {
        let command = self.write(raw);
        for (name, ticket) in asked {
            self.listeners.borrow_mut()[topic as usize].entry(name.clone()).or_default().coming += 1;
            let to = Some((ticket, None));
            self.owed.borrow_mut().push_back(Owed { command, topic, step: Step::Begins, name, to });
        }
    }

    /// A client does not want this any more. It gets what upstream sends before it has heard of that, then this reply.
    pub(super) fn unsubscribe(&self, topic: Topic, name: Bytes, ticket: Ticket, reply: Vec<u8>) {
        let mut is_last = false;
        if let Some(listeners) = self.listeners.borrow_mut()[topic as usize].get_mut(&name) {
            if let Some(client) = listeners.clients.get_mut(&ticket.session.card.id) {
                client.leaving = true;
            }
            is_last = listeners.are_forsaken();
        }
        let to = Some((ticket, Some(reply)));
        if is_last {
            return self.end(topic, name, to);
        }
        let mut raw = BytesMut::new();
        encode::request(&mut raw, &["PING"]);
        let command = self.write(&raw);
        self.owed.borrow_mut().push_back(Owed { command, topic, step: Step::Passes, name, to });
    }

    /// Nobody wants this any more.
    fn end(&self, topic: Topic, name: Bytes, to: Option<(Ticket, Option<Vec<u8>>)>) {
        let mut raw = BytesMut::new();
        encode::request(&mut raw, &[topic.word(false).as_bytes(), &name]);
        let command = self.write(&raw);
        self.owed.borrow_mut().push_back(Owed { command, topic, step: Step::Ends, name, to });
    }

    /// Whether this client is here for this.
    pub(super) fn has(&self, topic: Topic, name: &Bytes, id: u64) -> bool {
        let listeners = self.listeners.borrow();
        listeners[topic as usize].get(name).is_some_and(|listeners| listeners.clients.contains_key(&id))
    }

    /// A client that nobody can tell anything any more leaves at once; whether it was here.
    pub(super) fn leave(&self, topic: Topic, name: &Bytes, id: u64) -> bool {
        let of_topic = &mut self.listeners.borrow_mut()[topic as usize];
        let Some(listeners) = of_topic.get_mut(name) else { return false };
        let left = listeners.clients.remove(&id).is_some();
        if listeners.are_forsaken() {
            if listeners.clients.is_empty() {
                of_topic.remove(name);
            }
            self.end(topic, name.clone(), None);
        }
        left
    }

    /// Forgets a name that neither anybody wants nor upstream sends.
    fn tidy(&self, topic: Topic, name: &Bytes) {
        let of_topic = &mut self.listeners.borrow_mut()[topic as usize];
        let is_over = |of: &Listeners| of.clients.is_empty() && of.coming == 0 && !of.confirmed;
        if of_topic.get(name).is_some_and(is_over) {
            of_topic.remove(name);
        }
    }

    pub(super) fn write(&self, raw: &[u8]) -> u64 {
        self.out.borrow_mut().extend_from_slice(raw);
        self.ring.notify_one();
        self.next_command.set(self.next_command.get() + 1);
        self.next_command.get()
    }

    fn is_idle(&self) -> bool {
        // What upstream would not end ends with the connection.
        let is_unwanted = |of: &Listeners| of.clients.is_empty() && of.coming == 0;
        self.owed.borrow().is_empty() && self.listeners.borrow().iter().all(|names| names.values().all(is_unwanted))
    }
}

// === impl Listeners ===

impl Listeners {
    /// Whether nobody wants it, or is about to.
    fn are_forsaken(&self) -> bool {
        self.coming == 0 && self.clients.values().all(|client| client.leaving)
    }
}

// === impl Worker ===

impl Worker {
    /// The hub of a user, opened if there is none; `None`: no such user any more.
    pub(super) fn hub(&self, identity: u32, shard: Option<NodeId>) -> Option<Rc<Hub>> {
        let account = self.account_at(identity)?;
        if let Some(hub) = account.hubs.borrow().iter().find(|hub| hub.shard == shard) {
            return Some(Rc::clone(hub));
        }
        let worker = self.me()?;
        let hub = Rc::new(Hub { identity, shard, ..Hub::default() });
        account.hubs.borrow_mut().push(Rc::clone(&hub));
        let serving = Rc::clone(&hub);
        tokio::task::spawn_local(async move {
            let error = worker.serve_hub(&serving).await;
            worker.begin_batch();
            // From here on the next one who subscribes opens another.
            account.hubs.borrow_mut().retain(|hub| !Rc::ptr_eq(hub, &serving));
            worker.close_hub(&serving, &error);
            worker.flush();
        });
        Some(hub)
    }

    /// Serves until the connection is lost or nobody needs it; the error is for those who still wait.
    async fn serve_hub(&self, hub: &Rc<Hub>) -> Vec<u8> {
        // A shard's channels are all at one node: they go to who has taken over the first of them.
        let now = || match hub.shard {
            Some(node) => hub.owed.borrow().front().map_or(node, |owed| self.node_of(Some(&owed.name))),
            None => self.home(),
        };
        let place = Place { node: hub.shard.unwrap_or(self.home()), now: Some(&now) };
        let (node, mut connection) =
            match self.check_out_aligned(hub.identity, place, PoolKind::Waiting, None, None).await {
                Ok(checked_out) => checked_out,
                Err(reply) => return reply,
            };
        if hub.shard.is_some_and(|shard| shard != node) {
            return self.all_follow(hub);
        }
        // It speaks unasked, and nobody else can use it.
        connection.taint();
        let mut patience = Instant::now();
        loop {
            if self.append(hub, &mut connection) {
                patience = Instant::now();
            }
            if hub.is_idle() {
                return Vec::new();
            }
            let is_owed = !hub.owed.borrow().is_empty();
            let piece = tokio::select! {
                () = hub.ring.notified() => continue,
                piece = arrived(&mut connection) => piece,
                () = sleep_until(patience + self.settings.upstream.command_timeout), if is_owed => {
                    return self.count(&Error::Timeout { upstream: self.upstream_name() });
                }
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    let (upstream, cause) = (self.upstream_name(), error.to_string());
                    return self.count(&Error::Lost { upstream, cause });
                }
            };
            let mut pieces = vec![piece];
            while let Ok(Some(piece)) = connection.buffered_reply() {
                pieces.push(piece);
            }
            self.take_news(hub, &mut connection, &pieces).await;
            // What came while fences were awaited has not been looked for.
            patience = Instant::now();
        }
    }

    /// Appends what is to be written; whether there was anything.
    fn append(&self, hub: &Hub, connection: &mut Connection) -> bool {
        let waiting = std::mem::take(&mut *hub.out.borrow_mut());
        self.cells.add(Counter::UpstreamBytesOut, waiting.len() as u64);
        connection.send(&waiting, 0);
        !waiting.is_empty()
    }

    /// The reply of an error of our own, which is counted.
    fn count(&self, error: &Error) -> Vec<u8> {
        self.cells.error(error.kind());
        error.reply()
    }

    /// Handles what has come, behind one fence for all of it.
    async fn take_news(&self, hub: &Rc<Hub>, connection: &mut Connection, pieces: &[Piece]) {
        let value = |piece: &Piece| piece.bytes.slice(piece.start.min(piece.bytes.len())..);
        let values: Vec<Bytes> = pieces.iter().map(value).collect();
        let tells = values.iter().any(|value| matches!(news_of(value), Some(News::Message { .. })));
        if on(Rule::MessagesAreHeld) && tells && self.others_need_fence(None) {
            let mut fenced = std::pin::pin!(self.fenced());
            // Commands go on meanwhile; what writing them says is heard at the next read.
            while let Some(()) = tokio::select! {
                () = &mut fenced => None,
                () = hub.ring.notified() => Some(()),
            } {
                self.append(hub, connection);
                let _ = connection.flush().await;
            }
        }
        self.begin_batch();
        for value in &values {
            self.cells.add(Counter::UpstreamBytesIn, value.len() as u64);
            match news_of(value) {
                Some(News::Message { topic, name }) => self.pass_on(hub, topic, name, value),
                Some(News::Confirmation { topic, begins, name }) => {
                    self.confirmed(hub, topic, begins, &name.unwrap_or_default());
                }
                None if matches!(value.first(), Some(b'-' | b'!')) => self.refused_by_upstream(hub, value),
                None => {
                    let owed = hub.owed.borrow_mut().pop_front_if(|owed| owed.step == Step::Passes);
                    owed.into_iter().for_each(|owed| self.has_left(hub, owed));
                }
            }
        }
        self.flush();
    }

    /// A message goes to all who are subscribed.
    fn pass_on(&self, hub: &Hub, topic: Topic, name: &[u8], message: &Bytes) {
        let sessions: Vec<Rc<Session>> = match hub.listeners.borrow()[topic as usize].get(name) {
            Some(listeners) => listeners.clients.values().map(|client| Rc::clone(&client.session)).collect(),
            None => return,
        };
        self.cells.add(Counter::Messages, sessions.len() as u64);
        let (mut push, mut array) = (None, None);
        for session in sessions {
            // RESP2 and RESP3 differ in the first byte.
            let (form, first) = if session.resp3() { (&mut push, b'>') } else { (&mut array, b'*') };
            let form = form.get_or_insert_with(|| as_kind(message, first));
            self.interject(&session, form);
        }
    }

    fn confirmed(&self, hub: &Rc<Hub>, topic: Topic, begins: bool, name: &[u8]) {
        let step = if begins { Step::Begins } else { Step::Ends };
        let is_owed = |owed: &Owed| owed.topic == topic && owed.step == step && owed.name == name;
        let owed = hub.owed.borrow_mut().pop_front_if(|owed| is_owed(owed));
        match owed {
            Some(owed) if begins => self.has_subscribed(hub, owed),
            Some(owed) => self.has_left(hub, owed),
            // Upstream has ended it by itself, as it does when a slot moves away.
            None if !begins => self.ended_by_upstream(hub, topic, name),
            None => {}
        }
    }

    fn has_subscribed(&self, hub: &Rc<Hub>, owed: Owed) {
        let Owed { topic, name, to: Some((ticket, _)), .. } = owed else {
            // Its clients have come from the slot's former owner.
            if let Some(listeners) = hub.listeners.borrow_mut()[owed.topic as usize].get_mut(&owed.name) {
                let first = !std::mem::replace(&mut listeners.confirmed, true);
                self.peers.audience.change(owed.topic, &owed.name, 0, i64::from(first));
            }
            return;
        };
        let session = &ticket.session;
        let (first, new) = {
            let of_topic = &mut hub.listeners.borrow_mut()[topic as usize];
            let Some(listeners) = of_topic.get_mut(&name) else { return };
            listeners.coming = listeners.coming.saturating_sub(1);
            let first = !std::mem::replace(&mut listeners.confirmed, true);
            let client = || Listener { session: Rc::clone(session), leaving: false };
            let new = !session.is_closed() && listeners.clients.insert(session.card.id, client()).is_none();
            (first, new)
        };
        self.peers.audience.change(topic, &name, i64::from(new), i64::from(first));
        if session.is_closed() {
            // It may have been subscribed to it already.
            return self.leave(hub, session, topic, &name);
        }
        let before = session.subscriptions.borrow_mut().names[topic as usize].insert(name.clone(), Rc::clone(hub));
        if let Some(before) = before.filter(|before| !Rc::ptr_eq(before, hub)) {
            // It was another user then, and has one subscription only.
            self.leave(&before, session, topic, &name);
        }
        let reply = confirmation(session, topic, true, Some(&name));
        self.confirm_with(&ticket, &reply);
    }

    /// What a client, or all, wanted no more has come to its end.
    fn has_left(&self, hub: &Hub, owed: Owed) {
        let Owed { topic, step, name, to, .. } = owed;
        let hubs = i64::from(step == Step::Ends);
        let mut left = None;
        if let Some(listeners) = hub.listeners.borrow_mut()[topic as usize].get_mut(&name) {
            left = to.as_ref().and_then(|(ticket, _)| listeners.clients.remove(&ticket.session.card.id));
            listeners.confirmed &= step != Step::Ends;
        }
        hub.tidy(topic, &name);
        self.peers.audience.change(topic, &name, -i64::from(left.is_some()), -hubs);
        if let Some((ticket, Some(reply))) = to {
            self.confirm_with(&ticket, &reply);
        }
    }

    fn ended_by_upstream(&self, hub: &Hub, topic: Topic, name: &[u8]) {
        let Some(listeners) = hub.listeners.borrow_mut()[topic as usize].remove(name) else { return };
        let hubs = i64::from(listeners.confirmed);
        if hub.shard.is_some() {
            self.peers.audience.change(topic, name, 0, -hubs);
            return self.follow(hub.identity, topic, Bytes::copy_from_slice(name), listeners.clients);
        }
        self.peers.audience.change(topic, name, -(listeners.clients.len() as i64), -hubs);
        for Listener { session, .. } in listeners.clients.values() {
            session.subscriptions.borrow_mut().names[topic as usize].remove(name);
            session.note_subscriptions();
            self.interject(session, &confirmation(session, topic, false, Some(name)).into());
        }
    }

    /// Upstream has refused the oldest command, as a whole.
    fn refused_by_upstream(&self, hub: &Hub, error: &[u8]) {
        if self.refused_as_moved(hub, error) {
            return;
        }
        let Some(command) = hub.owed.borrow().front().map(|owed| owed.command) else { return };
        let mut error = Some(error);
        loop {
            let owed = hub.owed.borrow_mut().pop_front_if(|owed| owed.command == command);
            let Some(mut owed) = owed else { return };
            if owed.step != Step::Begins {
                if owed.step == Step::Ends {
                    // Upstream goes on sending it (-BUSY), and counting us: until somebody has wanted it again.
                    let of_topic = &mut hub.listeners.borrow_mut()[owed.topic as usize];
                    of_topic.entry(owed.name.clone()).or_default().confirmed = true;
                    owed.step = Step::Passes;
                }
                self.has_left(hub, owed);
                continue;
            }
            let (topic, name) = (owed.topic, owed.name.clone());
            self.not_subscribed(hub, owed, error.take().unwrap_or_default());
            // Who was there has left because somebody was coming.
            let forsaken = hub.listeners.borrow()[topic as usize].get(&name).is_some_and(Listeners::are_forsaken);
            if forsaken {
                hub.end(topic, name, None);
            }
        }
    }

    /// It will not be confirmed; whoever waits gets this instead.
    fn not_subscribed(&self, hub: &Hub, owed: Owed, reply: &[u8]) {
        if owed.to.is_none() {
            // The slot's new owner would not have it yet; its clients have been promised it.
            let left = hub.listeners.borrow_mut()[owed.topic as usize].remove(&owed.name).unwrap_or_default();
            return self.follow_later(hub, owed.topic, owed.name, left.clients, None);
        }
        if let Some(listeners) = hub.listeners.borrow_mut()[owed.topic as usize].get_mut(&owed.name) {
            listeners.coming = listeners.coming.saturating_sub(1);
        }
        hub.tidy(owed.topic, &owed.name);
        if let Some((ticket, _)) = owed.to {
            self.confirm_with(&ticket, reply);
        }
    }

    /// The connection is gone: nobody knows what was missed.
    fn close_hub(&self, hub: &Rc<Hub>, error: &[u8]) {
        let mut told = 0;
        for owed in hub.owed.take() {
            if owed.step != Step::Begins {
                self.has_left(hub, owed);
                continue;
            }
            let first = std::mem::replace(&mut told, owed.command) != owed.command;
            self.not_subscribed(hub, owed, if first { error } else { b"" });
        }
        let topics = [Topic::Channel, Topic::Pattern, Topic::Shard];
        let listeners = std::mem::take(&mut *hub.listeners.borrow_mut());
        for (topic, names) in topics.into_iter().zip(listeners) {
            for (name, listeners) in names {
                let clients = listeners.clients.len() as i64;
                self.peers.audience.change(topic, &name, -clients, -i64::from(listeners.confirmed));
                for Listener { session, .. } in listeners.clients.values() {
                    self.flush_one(session);
                    session.close();
                }
            }
        }
    }
}

/// Writes what is to be written, then waits for what comes. It may be cancelled.
async fn arrived(connection: &mut Connection) -> Result<Piece, ConnectionError> {
    connection.flush().await?;
    connection.read_reply().await
}

/// The same message with another first byte.
fn as_kind(message: &Bytes, kind: u8) -> Bytes {
    if message.first() == Some(&kind) {
        return message.clone();
    }
    let mut other = BytesMut::from(&message[..]);
    if let Some(first) = other.first_mut() {
        *first = kind;
    }
    other.freeze()
}
