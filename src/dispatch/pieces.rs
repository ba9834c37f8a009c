//! Large replies, passed on as they come in to the client whose turn it is.
//!
//! A client that does not read is never waited for here: past its output limit it is closed and the rest of
//! its replies is swallowed. Such replies are never filled.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::fence::Hold;
use super::lane::{After, Rewrite, TrackedLane, Waiter};
use super::worker::Worker;
use crate::error::Error;
use crate::protocol::downgrade::Downgrade;
use crate::switch::{Rule, on};
use crate::telemetry::labels::FillRefused;
use crate::upstream::lane::Owed;

/// A large reply under way on a lane.
pub struct Pieces {
    /// Rewrites it for a RESP2 client.
    downgrade: Option<Downgrade>,
    /// What the rewriting has yet to take.
    rest: BytesMut,
    /// Kept until it is whole, because it is to be held for fences; `None` once there was no room.
    held: Option<Gathered>,
    /// Whether it is to be; `None` before its first piece.
    holds: Option<bool>,
}

/// Bytes of a reply that are kept until it is whole; they count as held for as long.
struct Gathered {
    bytes: BytesMut,
    /// The worker's count of held bytes.
    held: Rc<Cell<usize>>,
}

// === impl Worker ===

impl Worker {
    /// A piece of a large reply, its place in the lane's order still owed.
    pub(super) fn piece(
        &self,
        lane: &Rc<TrackedLane>,
        owed: &Owed<Waiter>,
        bytes: Bytes,
        pieces: &mut Option<Pieces>,
        last: bool,
    ) {
        if !self.is_cluster() || owed.waiter.names_keys() {
            lane.standing.lease.renew(if on(Rule::LeaseFromSending) { owed.sent } else { self.now() });
        }
        let first = pieces.is_none();
        let under_way = pieces.get_or_insert_with(|| Pieces::of(&owed.waiter, &self.held));
        let bytes = under_way.rewritten(bytes);
        match &owed.waiter {
            Waiter::Reply(ticket, _, after @ After::Part(gather, part, _)) => {
                under_way.gather(&bytes, self.settings.held_max_bytes);
                if last {
                    self.effect(after);
                    let whole = under_way.whole();
                    let reply = whole.map_or_else(|| Error::HeldFull.reply().into(), BytesMut::freeze);
                    self.part_taken(gather, *part, ticket, &reply);
                }
            }
            Waiter::Reply(ticket, _, after) if under_way.is_held(after, || self.others_need_fence(Some(lane))) => {
                under_way.gather(&bytes, self.settings.held_max_bytes);
                if last {
                    self.whole_at_last(lane, ticket, after, under_way.whole());
                }
            }
            Waiter::Reply(ticket, _, after) => {
                if last {
                    self.effect(after);
                }
                self.deliver(ticket, &bytes, last);
            }
            Waiter::Fetch(flight) => {
                if first {
                    // Nobody may join it any more: its beginning has left.
                    self.flights.land(flight);
                    self.not_filled(flight, FillRefused::Large);
                }
                for ticket in flight.waiters.borrow().iter() {
                    self.deliver(ticket, &bytes, last);
                }
            }
            Waiter::Snapshot(snapshot, ticket) if snapshot.is_part() => {
                under_way.gather(&bytes, self.settings.held_max_bytes);
                if last {
                    match under_way.whole() {
                        Some(reply) => self.snapshot_taken(lane, snapshot, ticket, &reply),
                        None => {
                            lane.standing.land();
                            self.cells.error(Error::HeldFull.kind());
                            self.deliver_snapshot(snapshot, ticket, &Bytes::from(Error::HeldFull.reply()));
                        }
                    }
                }
            }
            Waiter::Snapshot(_, ticket) => self.deliver(ticket, &bytes, last),
            Waiter::Tombstone(after) if last && on(Rule::EffectOfLateReply) => self.effect(after),
            _ => {}
        }
    }

    /// The end of a large reply: what only its end may do.
    pub(super) fn piece_done(&self, lane: &Rc<TrackedLane>, owed: Owed<Waiter>) {
        match owed.waiter {
            Waiter::Fetch(_) => lane.standing.land(),
            Waiter::Snapshot(snapshot, _) if !snapshot.is_part() => lane.standing.land(),
            _ => {}
        }
    }

    fn whole_at_last(
        &self,
        lane: &Rc<TrackedLane>,
        ticket: &super::lane::Ticket,
        after: &After,
        reply: Option<BytesMut>,
    ) {
        self.effect(after);
        let (hold, own_fence) = match after {
            After::Held(hold, _) => (Rc::clone(hold), true),
            After::Exec(end) => (Rc::clone(&end.hold), end.own_fence),
            _ => (Hold::new(), false),
        };
        let held = reply.is_some_and(|reply| self.hold(&hold, ticket.clone(), reply.freeze()));
        if !held {
            return self.fail_ticket(ticket, &Error::HeldFull);
        }
        if !own_fence || on(Rule::ScriptsAreHeld) {
            self.fence_lanes(&hold, Some(lane));
        }
        if !own_fence || !on(Rule::OwnFence) {
            self.release(&hold);
        }
    }
}

// === impl Pieces ===

impl Pieces {
    fn of(waiter: &Waiter, held: &Rc<Cell<usize>>) -> Pieces {
        let rewrite = match waiter {
            Waiter::Reply(_, rewrite, _) => rewrite.clone(),
            Waiter::Fetch(flight) => flight.shape.map_or(Rewrite::No, Rewrite::Resp2),
            Waiter::Snapshot(snapshot, _) => snapshot.rewrite(),
            _ => Rewrite::No,
        };
        let downgrade = match rewrite {
            Rewrite::No => None,
            Rewrite::Resp2(shape) => Some(Downgrade::new(shape)),
            Rewrite::Exec(shapes) => Some(Downgrade::exec(shapes.into_vec())),
        };
        let gathered = Gathered { bytes: BytesMut::new(), held: Rc::clone(held) };
        Pieces { downgrade, rest: BytesMut::new(), held: Some(gathered), holds: None }
    }

    /// Whether it is kept until it is whole, because fences sent after its first byte must return first. Decided
    /// at that first byte: what other lanes read later is no older than what it tells.
    fn is_held(&mut self, after: &After, others: impl FnOnce() -> bool) -> bool {
        *self.holds.get_or_insert_with(|| match after {
            _ if !on(Rule::LargeNewsIsHeld) => false,
            After::Held(..) => true,
            After::Exec(end) => end.own_fence || others(),
            After::News(_) => others(),
            _ => false,
        })
    }

    fn gather(&mut self, bytes: &[u8], max: usize) {
        match &mut self.held {
            Some(gathered) if gathered.held.get() + bytes.len() <= max => {
                gathered.held.set(gathered.held.get() + bytes.len());
                gathered.bytes.extend_from_slice(bytes);
            }
            no_room => *no_room = None,
        }
    }

    /// All that was gathered, no longer counted; `None` if there was no room.
    fn whole(&mut self) -> Option<BytesMut> {
        self.held.take().map(|mut gathered| gathered.take())
    }

    fn rewritten(&mut self, bytes: Bytes) -> Bytes {
        let Some(downgrade) = &mut self.downgrade else { return bytes };
        let mut out = BytesMut::with_capacity(bytes.len());
        if self.rest.is_empty() {
            let taken = downgrade.rewrite(&bytes, &mut out);
            self.rest.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        } else {
            self.rest.extend_from_slice(&bytes);
            let taken = downgrade.rewrite(&self.rest, &mut out);
            let _ = self.rest.split_to(taken);
        }
        out.freeze()
    }
}

// === impl Gathered ===

impl Gathered {
    fn take(&mut self) -> BytesMut {
        self.held.set(self.held.get().saturating_sub(self.bytes.len()));
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_large_replies_under_way_share_one_limit() {
        let held = Rc::new(Cell::new(0));
        let [mut one, mut other] = [(); 2].map(|()| Pieces::of(&Waiter::Heartbeat, &held));
        one.gather(&[0; 6], 10);
        other.gather(&[0; 6], 10);
        assert_eq!((held.get(), other.whole()), (6, None));
        other = Pieces::of(&Waiter::Heartbeat, &held);
        other.gather(&[0; 4], 10);
        assert_eq!((one.whole().map(|bytes| bytes.len()), held.get()), (Some(6), 4));
        drop(other);
        assert_eq!(held.get(), 0);
    }
}
