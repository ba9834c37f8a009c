//! A lane's turn: what arrived is applied and handed on in stream order.
//!
//! Pushes, fills, bumps and replies are done here, by the reader, as it meets them and never by whoever waits:
//! that single order is what P3 rests on. Then every client with new output is written to once.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::fence::Hold;
use super::lane::{After, Rewrite, Ticket, TrackedLane, Waiter};
use super::output::SHARED_FROM;
use super::pieces::Pieces;
use super::worker::Worker;
use crate::cache::{Flight, Mode};
use crate::error::Error;
use crate::protocol::downgrade::{Downgrade, rewrite_whole};
use crate::protocol::frame::{Value, decode};
use crate::protocol::reply::Frame;
use crate::switch::{Rule, on};
use crate::telemetry::labels::FillRefused;
use crate::telemetry::metrics::{Counter, Histogram};
use crate::upstream::lane::{Arrived, Driver, Event, Loss, Owed};

/// Drives a lane for as long as its worker lives.
pub async fn drive(worker: Rc<Worker>, lane: Rc<TrackedLane>, mut driver: Driver<Waiter>) {
    let mut pieces = None;
    loop {
        let event = driver.next().await;
        worker.begin_batch();
        match event {
            Event::Up(ready) => {
                worker.lane_up(&lane, ready);
                worker.take_arrived(&lane, &mut driver, &mut pieces);
            }
            Event::Read(bytes) => {
                worker.cells.add(Counter::UpstreamBytesIn, bytes as u64);
                worker.take_arrived(&lane, &mut driver, &mut pieces);
            }
            Event::Overdue => worker.overdue(&lane, &mut driver, &mut pieces),
            Event::Lost(loss) => worker.lane_lost(&lane, &mut driver, &mut pieces, &loss),
            Event::Unreachable(error) => worker.lane_unreachable(&lane, &mut driver, &error),
            Event::Rerouted => worker.rerouted(&lane, &mut driver),
        }
        worker.tell_of_moves();
        worker.end_batch(&lane);
        worker.flush();
    }
}

// === impl Worker: what arrives ===

impl Worker {
    fn take_arrived(&self, lane: &Rc<TrackedLane>, driver: &mut Driver<Waiter>, pieces: &mut Option<Pieces>) {
        loop {
            let distrusted = match driver.arrived() {
                Ok(None) => return,
                Ok(Some(Arrived::Push(push))) => {
                    self.pushed(lane, push);
                    None
                }
                Ok(Some(Arrived::Reply(owed, frame, bytes))) => self.replied(lane, owed, &frame, bytes, None),
                Ok(Some(Arrived::Large(owed, frame, bytes))) => self.replied(lane, owed, &frame, &bytes, Some(&bytes)),
                Ok(Some(Arrived::Piece(mut owed, bytes))) => {
                    if pieces.is_none() && self.settings.topology.has_alternatives() {
                        self.let_earlier_go_first(lane, &mut owed, None);
                    }
                    self.piece(lane, &owed, bytes, pieces, false);
                    driver.keep(owed);
                    None
                }
                Ok(Some(Arrived::LastPiece(owed, frame, bytes))) => {
                    self.piece(lane, &owed, bytes, pieces, true);
                    *pieces = None;
                    let stuck = owed.waiter.ends_block() && !ends_block(&frame);
                    self.piece_done(lane, owed);
                    stuck.then_some(Loss::Distrusted)
                }
                Err(loss) => Some(loss),
            };
            if let Some(loss) = distrusted {
                driver.abandon();
                return self.lane_lost(lane, driver, pieces, &loss);
            }
        }
    }

    fn pushed(&self, lane: &TrackedLane, push: &[u8]) {
        match self.coherence.push(&lane.standing, push) {
            Some(0) => {}
            Some(keys) => {
                self.cells.add(Counter::InvalidationPushes, 1);
                self.cells.add(Counter::InvalidatedKeys, keys as u64);
            }
            None => {
                self.cells.add(Counter::NullPushes, 1);
                self.cells.add(Counter::EpochBumpsNullPush, 1);
            }
        }
    }

    /// One whole reply. Says why the lane must be given up, if it must.
    fn replied(
        &self,
        lane: &Rc<TrackedLane>,
        owed: Owed<Waiter>,
        frame: &Frame,
        bytes: &[u8],
        shared: Option<&Bytes>,
    ) -> Option<Loss> {
        let is_error = matches!(frame.kind, b'-' | b'!');
        if is_error {
            self.error_seen(lane, &owed.waiter, bytes);
        }
        let owed = self.as_alternatives_have_it(lane, owed, is_error, frame, bytes)?;
        if (!is_error || !on(Rule::ErrorsRenewNoLease))
            && (!self.is_cluster() || !on(Rule::LeaseNeedsKeys) || owed.waiter.names_keys())
        {
            // Errors (LOADING, MASTERDOWN, READONLY) prove nothing about freshness.
            lane.standing.lease.renew(if on(Rule::LeaseFromSending) { owed.sent } else { self.now() });
        }
        match owed.waiter {
            Waiter::Reply(ticket, rewrite, after) => {
                self.cells.observe(Histogram::UpstreamLatency, self.now().saturating_sub(owed.sent), 1);
                return self.forwarded(lane, &ticket, &rewrite, after, frame, bytes, shared);
            }
            Waiter::Fetch(flight) => {
                self.cells.observe(Histogram::UpstreamLatency, self.now().saturating_sub(owed.sent), 1);
                self.landed(lane, &flight, frame, bytes, shared);
            }
            Waiter::Caching(flight) => flight.caching.set(bytes == b"+OK\r\n"),
            Waiter::Pttl(flight) => flight.pttl.set(integer(bytes)),
            Waiter::SnapshotCaching(snapshot, i) => {
                snapshot.part(i).into_iter().for_each(|part| part.caching.set(bytes == b"+OK\r\n"));
            }
            Waiter::SnapshotPttl(snapshot, i) => {
                snapshot.part(i).into_iter().for_each(|part| part.pttl.set(integer(bytes)));
            }
            Waiter::Snapshot(snapshot, ticket) => {
                let reply = rewritten(&snapshot.rewrite(), frame, bytes);
                self.snapshot_taken(lane, &snapshot, &ticket, &reply);
            }
            Waiter::Fence(holds) => self.fence_returned(lane, holds),
            Waiter::OwnFence(hold) => self.release(&hold),
            Waiter::Heartbeat | Waiter::Asking => {}
            Waiter::Tombstone(after) => {
                self.cells.add(Counter::LateReplies, 1);
                if on(Rule::EffectOfLateReply) {
                    self.effect(&after);
                }
                if matches!(after, After::Exec(_)) && !ends_block(frame) {
                    return Some(Loss::Distrusted);
                }
            }
        }
        None
    }

    /// A forwarded command's reply: what it did is applied, then it is released, or held for fences.
    #[allow(clippy::too_many_arguments)]
    fn forwarded(
        &self,
        lane: &Rc<TrackedLane>,
        ticket: &Ticket,
        rewrite: &Rewrite,
        after: After,
        frame: &Frame,
        bytes: &[u8],
        shared: Option<&Bytes>,
    ) -> Option<Loss> {
        self.effect(&after);
        let reply = rewritten(rewrite, frame, bytes);
        let tells = !matches!(frame.kind, b'+' | b'-' | b'!' | b':');
        match after {
            After::Held(hold, _) => self.hold_or_fail(lane, hold, ticket, &reply, true),
            After::Part(gather, part, _) => self.part_taken(&gather, part, ticket, &reply),
            After::Exec(end) => {
                if matches!(frame.kind, b'-' | b'!') && self.block_goes_again(lane, ticket, rewrite, &end) {
                    return None;
                }
                if !ends_block(frame) {
                    self.fail_ticket(
                        ticket,
                        &Error::Upstream {
                            upstream: self.upstream_name(),
                            cause: "a transaction ended in neither an array, null nor an error".into(),
                        },
                    );
                    return Some(Loss::Distrusted);
                }
                if end.own_fence || on(Rule::ExecIsHeld) && self.others_need_fence(Some(lane)) {
                    self.hold_or_fail(lane, Rc::clone(&end.hold), ticket, &reply, end.own_fence);
                } else {
                    self.deliver_either(ticket, reply, shared);
                }
            }
            After::News(_) if on(Rule::LaneNewsIsHeld) && tells && self.others_need_fence(Some(lane)) => {
                self.hold_or_fail(lane, Hold::new(), ticket, &reply, false);
            }
            After::Info => self.deliver(ticket, &self.with_section(&reply), true),
            After::Published(topic, channel) => {
                self.deliver(ticket, &self.with_receivers(topic, &channel, &reply), true)
            }
            After::Counted(topic) => self.deliver(ticket, &self.with_subscribers(topic, &reply), true),
            After::Nothing | After::Queued(_) | After::Written(_) | After::Swept | After::News(_) => {
                self.deliver_either(ticket, reply, shared);
            }
        }
        None
    }

    /// By reference if nothing was rewritten and the bytes are shared anyway.
    fn deliver_either(&self, ticket: &Ticket, reply: Cow<'_, [u8]>, shared: Option<&Bytes>) {
        match (reply, shared) {
            (Cow::Borrowed(_), Some(shared)) => self.deliver(ticket, shared, true),
            (reply, _) => self.deliver_copy(ticket, &reply),
        }
    }

    /// Holds a reply for the fences of all other lanes; with `own_fence` the PING behind it still releases once.
    fn hold_or_fail(&self, lane: &Rc<TrackedLane>, hold: Rc<Hold>, ticket: &Ticket, reply: &[u8], own_fence: bool) {
        if !self.hold(&hold, ticket.clone(), Bytes::copy_from_slice(reply)) {
            return self.fail_ticket(ticket, &Error::HeldFull);
        }
        if !own_fence || on(Rule::ScriptsAreHeld) {
            self.fence_lanes(&hold, Some(lane));
        }
        if !own_fence || !on(Rule::OwnFence) {
            self.release(&hold);
        }
    }

    /// What a command has done is applied to the cache, before anybody is told.
    pub(super) fn effect(&self, after: &After) {
        match after {
            After::Swept => self.swept(),
            other => {
                if on(Rule::BumpAtReply)
                    && let Some(keys) = other.keys()
                {
                    self.coherence.written(keys);
                }
                let (unknown, sweeps) = match other {
                    After::Held(..) => (true, false),
                    After::Part(gather, ..) => (false, gather.sweeps()),
                    After::Exec(end) => (end.own_fence, end.sweeps),
                    _ => (false, false),
                };
                if unknown {
                    self.unknown_written();
                }
                if sweeps {
                    self.swept();
                }
            }
        }
    }

    /// What every entry of the node rests on is about to change.
    pub fn sweeping(&self) {
        if on(Rule::SweepAtSend) {
            self.sweep();
        }
    }

    /// What every entry of the node rests on has changed, or may have.
    pub fn swept(&self) {
        if on(Rule::SweepAtReply) {
            self.sweep();
        }
    }

    /// Drops every entry of the node.
    pub fn sweep(&self) {
        self.cells.add(Counter::EpochBumpsSweep, 1);
        self.coherence.shared.node.bump();
    }

    /// Keys that no command names may have been written: where no pushes come, everything of the node goes.
    pub fn unknown_written(&self) {
        let by_age = |lane: &Rc<TrackedLane>| lane.standing.mode() == Mode::Ttl;
        if on(Rule::UnnamedWriteSweeps) && (self.rules.any_by_age() || self.lanes.borrow().iter().any(by_age)) {
            self.coherence.shared.node.bump();
        }
    }

    /// Where nodes may turn commands away, or replies overtake others of their client: what is left to be handed on.
    fn as_alternatives_have_it(
        &self,
        lane: &Rc<TrackedLane>,
        mut owed: Owed<Waiter>,
        is_error: bool,
        frame: &Frame,
        bytes: &[u8],
    ) -> Option<Owed<Waiter>> {
        if !self.settings.topology.has_alternatives() {
            return Some(owed);
        }
        if is_error {
            return self.turned_away(lane, owed, bytes);
        }
        let is_taken = self.let_earlier_go_first(lane, &mut owed, Some((frame, bytes)));
        (!is_taken).then_some(owed)
    }

    /// A flight's reply: put in if it may be, then handed to everybody who waits.
    fn landed(
        &self,
        lane: &Rc<TrackedLane>,
        flight: &Rc<Flight<Ticket>>,
        frame: &Frame,
        bytes: &[u8],
        shared: Option<&Bytes>,
    ) {
        self.flights.land(flight);
        lane.standing.land();
        let rewrite = flight.shape.map_or(Rewrite::No, Rewrite::Resp2);
        let reply = rewritten(&rewrite, frame, bytes);
        let waiters = std::mem::take(&mut *flight.waiters.borrow_mut());
        // One copy at most: the entry's, or one for all who wait.
        let filled = self.coherence.fill(flight, &lane.standing, bytes.get(frame.start..).unwrap_or_default(), &reply);
        let shared = match (&filled, &reply) {
            (Ok(entry), _) if waiters.len() > 1 || reply.len() >= SHARED_FROM => Some(entry.shared_reply()),
            (Ok(_), _) => None,
            (Err(_), Cow::Borrowed(_)) => shared.cloned(),
            (Err(_), Cow::Owned(_)) => None,
        };
        match filled {
            Ok(entry) => {
                self.cells.add(Counter::Fills, 1);
                self.store.insert(flight.key.hash, entry);
            }
            Err(reason) => self.not_filled(flight, reason),
        }
        match (&waiters[..], shared) {
            ([only], None) => self.deliver_copy(only, &reply),
            (waiters, shared) => {
                let reply = shared.unwrap_or_else(|| Bytes::copy_from_slice(&reply));
                waiters.iter().for_each(|ticket| self.deliver(ticket, &reply, true));
            }
        }
    }

    pub(super) fn not_filled(&self, flight: &Flight<Ticket>, reason: FillRefused) {
        self.cells.fill_refused(reason);
        if reason == FillRefused::Large {
            self.admission.note_fat(flight.key.hash, (self.now() / 1_000_000_000) as u32);
        }
    }

    /// A right may have been taken away; no push tells which entries rest on it. Only a read that is denied says so:
    /// a client that keeps trying what it never might must not empty the cache for all.
    fn error_seen(&self, lane: &TrackedLane, waiter: &Waiter, bytes: &[u8]) {
        let read = matches!(waiter, Waiter::Fetch(_) | Waiter::Snapshot(..));
        if !on(Rule::DeniedReadBumps) {
            return;
        }
        if bytes.starts_with(b"-NOAUTH") || read && bytes.starts_with(b"-NOPERM") {
            self.cells.add(Counter::EpochBumpsDenied, 1);
            lane.standing.bump();
        }
    }
}

/// Whether a reply ends a transaction: if EXEC's does not, the lane is in MULTI for everybody.
fn ends_block(frame: &Frame) -> bool {
    !on(Rule::BlockEndIsChecked) || matches!(frame.kind, b'*' | b'_' | b'-' | b'!')
}

/// A whole reply as the client gets it.
pub(super) fn rewritten<'a>(rewrite: &Rewrite, frame: &Frame, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    let mut out = BytesMut::new();
    match rewrite {
        Rewrite::No => return Cow::Borrowed(bytes),
        Rewrite::Resp2(shape) if !frame.resp3 && !shape.hides() => return Cow::Borrowed(bytes),
        Rewrite::Resp2(shape) => rewrite_whole(bytes, *shape, &mut out),
        Rewrite::Exec(_) if !frame.resp3 && frame.kind != b'*' => return Cow::Borrowed(bytes),
        Rewrite::Exec(shapes) => {
            Downgrade::exec(shapes.to_vec()).rewrite(bytes, &mut out);
        }
    }
    Cow::Owned(out.into())
}

fn integer(reply: &[u8]) -> Option<i64> {
    match decode(reply) {
        Ok(Value::Integer(value)) => Some(value),
        _ => None,
    }
}
