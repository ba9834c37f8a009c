//! Shard channels go where their slots go.
//!
//! *Invariant:* whoever has been promised a shard channel keeps it: at the slot's new owner, as often as it moves. What is
//! published before upstream has heard of that is lost, as it is to any client of a cluster.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::hub::{Hub, Listener, Owed, Step};
use super::news::Topic;
use crate::dispatch::lane::Ticket;
use crate::dispatch::redirect::Next;
use crate::dispatch::session::Session;
use crate::dispatch::worker::Worker;
use crate::error::Error;
use crate::protocol::encode;

/// Before a shard channel is asked for at another node.
const FOLLOW_PAUSE: Duration = Duration::from_millis(20);

// === impl Worker ===

impl Worker {
    /// A shard channel's slot has moved, and its clients with it: they need not know.
    pub(super) fn follow(&self, identity: u32, topic: Topic, name: Bytes, clients: BTreeMap<u64, Listener>) {
        let Some(next) = self.hub(identity, Some(self.node_of(Some(&name)))) else { return };
        for Listener { session, .. } in clients.values() {
            session.subscriptions.borrow_mut().names[topic as usize].insert(name.clone(), Rc::clone(&next));
        }
        next.listeners.borrow_mut()[topic as usize].entry(name.clone()).or_default().clients.extend(clients);
        let command = next.write(&subscription(topic, &name));
        next.owed.borrow_mut().push_back(Owed { command, topic, step: Step::Begins, name, to: None });
    }

    /// Upstream has refused the oldest command because the channel's slot is another node's: asks there. Whether it was so.
    pub(super) fn refused_as_moved(&self, hub: &Hub, error: &[u8]) -> bool {
        let address = hub.shard.and_then(|node| self.settings.topology.address(node));
        let moved = hub.shard.is_some() && matches!(self.next_of(address.as_ref(), error), Some(Next::Node(..)));
        let is_first = |owed: &mut Owed| owed.step == Step::Begins && moved;
        let Some(Owed { topic, name, to, .. }) = hub.owed.borrow_mut().pop_front_if(is_first) else { return false };
        let left = hub.listeners.borrow_mut()[topic as usize].remove(&name).unwrap_or_default();
        self.follow_later(hub, topic, name, left.clients, to.map(|(ticket, _)| ticket));
        true
    }

    /// The node of a hub that has yet to begin has been replaced: all that was asked for here is asked for where it belongs by
    /// now. The error is for all of it, if some is not wanted any more by now.
    pub(super) fn all_follow(&self, hub: &Hub) -> Vec<u8> {
        let begins = hub.owed.borrow().iter().all(|owed| owed.step == Step::Begins);
        if !begins {
            let error = Error::NotSent { upstream: self.upstream_name(), cause: "its master has been replaced".into() };
            self.cells.error(error.kind());
            return error.reply();
        }
        for Owed { topic, name, to, .. } in hub.owed.take() {
            let left = hub.listeners.borrow_mut()[topic as usize].remove(&name).unwrap_or_default();
            self.follow_later(hub, topic, name, left.clients, to.map(|(ticket, _)| ticket));
        }
        Vec::new()
    }

    /// The same once it has been waited a little: nodes that disagree need time.
    pub(super) fn follow_later(
        &self,
        hub: &Hub,
        topic: Topic,
        name: Bytes,
        clients: BTreeMap<u64, Listener>,
        asked: Option<Ticket>,
    ) {
        let Some(worker) = self.me() else { return };
        let identity = hub.identity;
        tokio::task::spawn_local(async move {
            tokio::time::sleep(FOLLOW_PAUSE).await;
            worker.begin_batch();
            let node = Some(worker.node_of(Some(&name)));
            match (asked, worker.hub(identity, node)) {
                (Some(ticket), Some(next)) => {
                    next.subscribe(topic, vec![(name.clone(), ticket)], &subscription(topic, &name));
                }
                (Some(ticket), None) => worker.confirm_with(&ticket, &Error::NoAuth.reply()),
                (None, _) => {}
            }
            // Whoever has left meanwhile, or wants it no more, is not taken along.
            let wants = |session: &Session| session.subscriptions.borrow().names[topic as usize].contains_key(&name);
            let before = clients.len();
            let clients: BTreeMap<u64, Listener> =
                clients.into_iter().filter(|(_, client)| wants(&client.session)).collect();
            worker.peers.audience.change(topic, &name, clients.len() as i64 - before as i64, 0);
            if !clients.is_empty() {
                worker.follow(identity, topic, name, clients);
            }
            worker.flush();
        });
    }
}

/// What subscribes to one name.
pub(super) fn subscription(topic: Topic, name: &[u8]) -> BytesMut {
    let mut request = BytesMut::new();
    encode::request(&mut request, &[topic.word(true).as_bytes(), name]);
    request
}
