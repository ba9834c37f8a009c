//! Fences: news must not overtake invalidations.
//!
//! What other connections deliver, or what a script has done to keys it does not name, may be newer than what
//! a lane has read. It is held until a PING sent after its first byte arrived has been answered on every lane
//! that has entries or flights, of every worker: then every invalidation of everything it can tell of has been
//! applied. One fence is under way per lane; what comes meanwhile shares the next, so a busy subscription costs
//! one PING per round trip. *Invariant:* a hold always ends: a lane that does not answer is lost or has its
//! epoch bumped, which is as good.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::UnboundedSender;

use super::lane::{Ticket, TrackedLane, Waiter};
use super::worker::{Message, Worker};
use crate::cache::{Entry, Mode};
use crate::command::look_up;
use crate::limits::AUTHENTICATED;
use crate::net::boottime;
use crate::protocol::{Args, RequestParser, encode};
use crate::switch::{Rule, on};
use crate::telemetry::metrics::{Counter, Gauge, Histogram};

/// A fence as it goes over the wire.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Something that waits for fences.
pub struct Hold {
    /// Fences that have not returned, and whoever is still asking for more.
    pending: Cell<u32>,
    /// When it began.
    begun: u64,
    /// What is to happen then.
    then: RefCell<Then>,
}

/// What happens when all fences have returned.
pub enum Then {
    /// Not known yet, or nothing.
    Nothing,
    /// A reply is released.
    Deliver(Ticket, Bytes),
    /// A task goes on.
    Wake(Waker),
    /// Another worker is told.
    Tell {
        /// Which.
        peer: usize,
        /// What it called it.
        id: u64,
    },
}

// === impl Hold ===

impl Hold {
    /// A hold that its maker has yet to release once.
    pub fn new() -> Rc<Hold> {
        Hold::then(Then::Nothing)
    }

    fn then(then: Then) -> Rc<Hold> {
        Rc::new(Hold { pending: Cell::new(1), begun: boottime(), then: RefCell::new(then) })
    }

    /// Waits for all fences.
    pub async fn returned(&self) {
        std::future::poll_fn(|cx| {
            if self.pending.get() == 0 {
                return Poll::Ready(());
            }
            *self.then.borrow_mut() = Then::Wake(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn one_more(&self) {
        self.pending.set(self.pending.get() + 1);
    }
}

// === impl Worker ===

impl Worker {
    /// Whether news from `lane` could overtake any other lane of the node.
    pub fn others_need_fence(&self, lane: Option<&TrackedLane>) -> bool {
        let needs = |other: &&Rc<TrackedLane>| !is_same(lane, other) && other.standing.needs_fence();
        let here = self.lanes.borrow().iter().any(|other| needs(&other));
        here || self.peers.busy.iter().enumerate().any(|(i, busy)| i != self.index && busy.load(Ordering::SeqCst))
    }

    /// Fences every lane but `except`, of whatever node: a slot that has moved may still be known on its former owner's
    /// lane. The hold's maker must still release it.
    pub fn fence_lanes(&self, hold: &Rc<Hold>, except: Option<&TrackedLane>) {
        for lane in self.lanes.borrow().iter() {
            let spared = lane.identity != 0 && !on(Rule::FencesOnUsers)
                || lane.db != self.settings.db && !on(Rule::FencesOnDatabases)
                || !on(Rule::FencesOnLanes);
            if !spared && !is_same(except, lane) && lane.standing.needs_fence() {
                hold.one_more();
                self.fence(lane, Rc::clone(hold));
            }
        }
        for (index, peer) in self.peers.senders.iter().enumerate() {
            if !on(Rule::FencesOnWorkers)
                || index == self.index
                || !self.peers.busy.get(index).is_some_and(|busy| busy.load(Ordering::SeqCst))
            {
                continue;
            }
            self.ask_peer(peer, hold, false);
        }
    }

    /// Fences one lane, if it needs it; the hold's maker must still release it.
    pub fn fence_one(&self, lane: &Rc<TrackedLane>, hold: &Rc<Hold>) {
        if lane.standing.needs_fence() {
            hold.one_more();
            self.fence(lane, Rc::clone(hold));
        }
    }

    /// Waits until whatever was executed before this call has been invalidated everywhere.
    pub async fn fenced(&self) {
        let hold = Hold::new();
        self.fence_lanes(&hold, None);
        self.release(&hold);
        hold.returned().await;
    }

    /// Waits until whatever any lane, of whatever worker, was given before this call has been executed.
    pub async fn executed(&self) {
        let hold = Hold::new();
        self.fence_busy(&hold);
        for (_, peer) in self.peers.senders.iter().enumerate().filter(|(index, _)| *index != self.index) {
            self.ask_peer(peer, &hold, true);
        }
        self.release(&hold);
        hold.returned().await;
    }

    /// Fences every lane of this worker that has anything under way.
    fn fence_busy(&self, hold: &Rc<Hold>) {
        for lane in self.lanes.borrow().iter().filter(|lane| lane.queue.depth() > 0) {
            hold.one_more();
            self.fence(lane, Rc::clone(hold));
        }
    }

    fn ask_peer(&self, peer: &UnboundedSender<Message>, hold: &Rc<Hold>, all: bool) {
        let id = self.next_remote.get();
        self.next_remote.set(id + 1);
        if peer.send(Message::Fence { from: self.index, id, all }).is_ok() {
            hold.one_more();
            self.remote.borrow_mut().insert(id, Rc::clone(hold));
        }
    }

    /// Another worker asks for fences on this one's lanes.
    pub fn fence_for(&self, from: usize, id: u64, all: bool) {
        let hold = Hold::then(Then::Tell { peer: from, id });
        if all {
            self.fence_busy(&hold);
        } else {
            self.lanes.borrow().iter().for_each(|lane| self.fence_one(lane, &hold));
        }
        self.release(&hold);
    }

    /// A worker that has not answered for so long has ended, or is stuck: it serves nobody that news could overtake.
    pub fn forget_remote(&self, limit: u64) {
        let now = boottime();
        let late = |hold: &Rc<Hold>| now.saturating_sub(hold.begun) > limit;
        let late: Vec<u64> = self.remote.borrow().iter().filter(|(_, hold)| late(hold)).map(|(&id, _)| id).collect();
        for id in late {
            self.fenced_by(id);
        }
    }

    /// Another worker's lanes are fenced.
    pub fn fenced_by(&self, id: u64) {
        let hold = self.remote.borrow_mut().remove(&id);
        if let Some(hold) = hold {
            self.release(&hold);
        }
    }

    /// Holds a reply; its maker must still release the hold. Whether there was room for it.
    pub fn hold(&self, hold: &Rc<Hold>, ticket: Ticket, reply: Bytes) -> bool {
        if on(Rule::HeldIsBounded) && self.held.get() + reply.len() > self.settings.held_max_bytes {
            return false;
        }
        self.held.set(self.held.get() + reply.len());
        self.cells.shift(Gauge::HeldReplies, 1);
        self.cells.set(Gauge::HeldBytes, self.held.get() as i64);
        *hold.then.borrow_mut() = Then::Deliver(ticket, reply);
        true
    }

    /// One of what a hold waits for is over.
    pub fn release(&self, hold: &Rc<Hold>) {
        let left = hold.pending.get().saturating_sub(1);
        hold.pending.set(left);
        if left > 0 {
            return;
        }
        let then = std::mem::replace(&mut *hold.then.borrow_mut(), Then::Nothing);
        match then {
            Then::Nothing => return,
            Then::Deliver(ticket, reply) => {
                self.held.set(self.held.get().saturating_sub(reply.len()));
                self.cells.shift(Gauge::HeldReplies, -1);
                self.cells.set(Gauge::HeldBytes, self.held.get() as i64);
                self.deliver(&ticket, &reply, true);
            }
            Then::Wake(waker) => waker.wake(),
            Then::Tell { peer, id } => {
                if let Some(peer) = self.peers.senders.get(peer) {
                    // A worker that has ended has no clients to hold anything for.
                    let _ = peer.send(Message::Fenced { id });
                }
            }
        }
        self.cells.observe(Histogram::HeldReply, boottime().saturating_sub(hold.begun), 1);
    }

    /// Asks for a fence on a lane: at once, or with all others that wait when the one under way returns.
    fn fence(&self, lane: &Rc<TrackedLane>, hold: Rc<Hold>) {
        if lane.fencing.get() {
            lane.next_fence.borrow_mut().push(hold);
        } else {
            self.send_fence(lane, vec![hold]);
        }
    }

    fn send_fence(&self, lane: &Rc<TrackedLane>, holds: Vec<Rc<Hold>>) {
        self.cells.add(Counter::FencesSent, 1);
        lane.fencing.set(true);
        if let Err((_, Waiter::Fence(holds))) = lane.queue.send(boottime(), PING, Waiter::Fence(holds)) {
            self.fence_failed(lane, holds);
        }
    }

    /// A lane's fence has returned.
    pub fn fence_returned(&self, lane: &Rc<TrackedLane>, mut holds: Vec<Rc<Hold>>) {
        lane.fencing.set(false);
        let mut next = std::mem::take(&mut *lane.next_fence.borrow_mut());
        if !on(Rule::FenceIsSentAfter) {
            holds.append(&mut next);
        }
        if !next.is_empty() {
            self.send_fence(lane, next);
        }
        for hold in holds {
            self.release(&hold);
        }
    }

    /// A lane does not answer its fence: what it has filled must not be served any more instead.
    pub fn fence_failed(&self, lane: &Rc<TrackedLane>, holds: Vec<Rc<Hold>>) {
        self.cells.add(Counter::FencesTimedOut, 1);
        self.cells.add(Counter::EpochBumpsFence, 1);
        if on(Rule::UnansweredFenceBumps) {
            lane.standing.bump();
        }
        lane.fencing.set(false);
        let next = std::mem::take(&mut *lane.next_fence.borrow_mut());
        for hold in holds.into_iter().chain(next) {
            self.release(&hold);
        }
    }

    /// The PING that stands right behind a script on its own lane.
    pub fn send_own_fence(&self, lane: &TrackedLane, group: u64, hold: Rc<Hold>) {
        self.cells.add(Counter::FencesSent, 1);
        lane.queue.add(group, self.now(), PING, Waiter::OwnFence(hold));
    }

    /// While hits are served and nothing else is answered, upstream is asked for a sign of life.
    /// A cluster's node is asked for a key that is being hit: one that is cut off from the others still answers PING.
    pub fn heartbeat(&self, lane: &TrackedLane, now: u64, hit: Option<&Entry>) {
        if !on(Rule::Heartbeat)
            || lane.standing.mode() != Mode::Tracking
            || !lane.standing.lease.heartbeat_due(now, self.coherence.max_staleness)
        {
            return;
        }
        self.send_heartbeat(lane, now, || exists(&hit?.request()));
    }

    /// Asks what proves the lane fresh when it is answered; a cluster's node `of_key`, an EXISTS of a key that it has.
    pub(super) fn send_heartbeat(&self, lane: &TrackedLane, now: u64, of_key: impl FnOnce() -> Option<BytesMut>) {
        let sent = match &self.routes {
            None => lane.queue.send(now, PING, Waiter::Heartbeat).is_ok(),
            Some(_) => {
                let Some(request) = of_key() else { return };
                lane.queue.send(now, &request, Waiter::Heartbeat).is_ok()
            }
        };
        if sent {
            self.cells.add(Counter::Heartbeats, 1);
        }
    }
}

/// Whether the key of a read is there: its node answers only while it serves the key's slot.
fn exists(read: &[u8]) -> Option<BytesMut> {
    let mut parser = RequestParser::default();
    parser.parse(read, &AUTHENTICATED).ok()?;
    let args = Args { raw: read, ranges: parser.ranges() };
    let mut request = BytesMut::new();
    encode::request(&mut request, &[b"EXISTS", look_up(&args)?.single_key(&args)?]);
    Some(request)
}

fn is_same(lane: Option<&TrackedLane>, other: &Rc<TrackedLane>) -> bool {
    lane.is_some_and(|lane| std::ptr::eq(lane, Rc::as_ptr(other)))
}

#[cfg(test)]
mod tests;
