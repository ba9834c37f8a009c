//! A lane comes, goes, or is late: what becomes of what it held and of those who wait.
//!
//! *Invariant:* every place that is owed a reply gets one, and whatever a command may have done is applied to the cache
//! before its client is told.

use std::rc::Rc;

use bytes::Bytes;

use super::lane::{After, GivenUp, Ticket, TrackedLane, Trouble, Waiter};
use super::pieces::Pieces;
use super::worker::Worker;
use crate::cache::Mode;
use crate::error::Error;
use crate::switch::{Rule, on};
use crate::telemetry::metrics::Counter;
use crate::upstream::handshake::{HandshakeError, Ready, Tracking};
use crate::upstream::lane::{Driver, Loss};

// === impl Worker: a lane comes and goes ===

impl Worker {
    pub(super) fn lane_up(&self, lane: &Rc<TrackedLane>, ready: Ready) {
        self.cells.add(Counter::LaneConnects, 1);
        let mode = match (&self.settings.cache.mode, &ready.tracking) {
            (Mode::Tracking, Tracking::On) => Mode::Tracking,
            (Mode::Tracking, Tracking::Unavailable(reason)) if on(Rule::TrackingIsConfirmed) => {
                tracing::warn!(
                    upstream = %self.settings.topology, db = lane.db, %reason,
                    "upstream cannot track: entries live ttl_mode_age at most and promise P3 does not hold"
                );
                Mode::Ttl
            }
            (mode, _) => *mode,
        };
        lane.standing.begin(mode);
        self.coherence.shared.reachable.send_if_modified(|reachable| reachable.replace(true) != Some(true));
        tracing::debug!(upstream = %self.settings.topology, db = lane.db, id = ready.connection_id, "lane connected");
        lane.connection_id.set(ready.connection_id);
        lane.kill.take();
        *lane.ready.borrow_mut() = Some(ready);
        *lane.trouble.borrow_mut() = None;
        lane.changed.notify_waiters();
        // Its node may have changed sides while it connected.
        self.change_sides(lane);
        self.publish_lanes();
    }

    pub(super) fn lane_lost(
        &self,
        lane: &Rc<TrackedLane>,
        driver: &mut Driver<Waiter>,
        pieces: &mut Option<Pieces>,
        loss: &Loss,
    ) {
        lane.standing.end();
        *pieces = None;
        lane.fencing.set(false);
        self.publish_lanes();
        if matches!(loss, Loss::Idle) {
            tracing::debug!(upstream = %self.settings.topology, db = lane.db, "lane closed: unused");
        } else {
            self.cells.add(Counter::LaneLosses, 1);
            self.cells.add(Counter::EpochBumpsLaneLost, 1);
            let is_there = self.is_there(lane.node);
            if matches!(loss, Loss::Left) || !is_there {
                // Why has been told once for all lanes.
                tracing::debug!(upstream = %self.name_of(lane), db = lane.db, cause = %loss, "lane lost");
            } else {
                tracing::warn!(upstream = %self.name_of(lane), db = lane.db, cause = %loss, "lane lost");
            }
            *lane.trouble.borrow_mut() = Some(Trouble::Unreachable(loss.to_string()));
            // Where it was we who gave up, its successor ends it at the server, or a late write of it could follow a
            // newer one. Where the other side has, the server may have been restarted, and the id be a stranger's.
            let ours = !on(Rule::StrangersAreSpared) || !matches!(loss, Loss::Io(_) | Loss::Left);
            let kills = ours && on(Rule::PredecessorIsKilled);
            let id = Some(lane.connection_id.get()).filter(|&id| id != 0 && kills);
            let address = lane.address.borrow().clone();
            lane.kill.replace(id.zip(address).map(|(id, at)| GivenUp { id, at }));
            if is_there {
                self.avoid(lane.node);
            }
            if self.keeps_connected(lane) {
                lane.queue.want();
            }
        }
        let error = Error::Lost { upstream: self.name_of(lane), cause: loss.to_string() };
        let holds = std::mem::take(&mut *lane.next_fence.borrow_mut());
        // Who has been told that it took too long must not find it done later.
        let lost = driver
            .owed_after_loss(|waiter| !matches!(waiter, Waiter::Tombstone(_) | Waiter::Heartbeat | Waiter::Asking));
        let kept = lane.queue.first_order();
        let mut cleared = Vec::new();
        for owed in lost {
            let waiter = owed.waiter;
            if let (Waiter::Fetch(flight), Loss::Io(_) | Loss::Left) = (&waiter, loss) {
                for ticket in self.send_again(lane, flight, kept, &mut cleared) {
                    self.fail_or_close_with(&ticket, &error);
                }
                continue;
            }
            self.cells.error(error.kind());
            self.fail(lane, waiter, &error.reply());
        }
        for hold in holds {
            self.release(&hold);
        }
        lane.changed.notify_waiters();
    }

    pub(super) fn lane_unreachable(&self, lane: &Rc<TrackedLane>, driver: &mut Driver<Waiter>, error: &HandshakeError) {
        self.cells.add(Counter::ReconnectAttempts, 1);
        let no_auth = matches!(error, HandshakeError::Auth(line) if line.starts_with(b"-NOAUTH"));
        let trouble = match error {
            // HELLO's own text would puzzle who has sent something else.
            HandshakeError::Auth(_) if no_auth => Trouble::Refused(Error::NoAuth.reply()),
            HandshakeError::Auth(line) | HandshakeError::Select(line) | HandshakeError::Refused(line) => {
                let mut line = line.clone();
                line.extend_from_slice(b"\r\n");
                Trouble::Refused(line)
            }
            other => Trouble::Unreachable(other.to_string()),
        };
        if self.is_main(lane) && self.is_there(lane.node) {
            // An upstream that wants each client's own credentials, and none of ours, is there for them.
            let there = no_auth || self.lanes.borrow().iter().any(|lane| self.is_main(lane) && lane.queue.is_up());
            self.coherence.shared.reachable.send_if_modified(|reachable| reachable.replace(there) != Some(there));
            if !no_auth && self.keeps_connected(lane) {
                // Whether upstream is back must be known without a client asking.
                lane.queue.want();
            }
        }
        if !self.is_main(lane) && matches!(trouble, Trouble::Refused(_)) {
            // A client's own SELECT or AUTH: it gets the answer, no operator needs to know.
            tracing::debug!(upstream = %self.settings.topology, db = lane.db, cause = %error, "refused by upstream");
        } else if matches!(error, HandshakeError::Nowhere) || !self.is_there(lane.node) {
            // Who looks for it tells why it is not found, or that it has left.
            tracing::debug!(upstream = %self.name_of(lane), db = lane.db, cause = %error, "no connection to upstream");
        } else if lane.trouble.borrow().as_ref() != Some(&trouble) {
            tracing::warn!(upstream = %self.name_of(lane), db = lane.db, cause = %error, "no connection to upstream");
        }
        if let Trouble::Refused(line) = &trouble {
            // A user who could log in once and cannot any more: as upstream does, its clients are let go.
            let expelled =
                matches!(error, HandshakeError::Auth(_)) && lane.identity != 0 && lane.connection_id.get() != 0;
            for owed in driver.give_up() {
                if expelled && on(Rule::ExpelledAreLetGo) {
                    owed.waiter.sessions().iter().for_each(|session| session.let_go());
                }
                self.fail(lane, owed.waiter, line);
            }
        }
        *lane.trouble.borrow_mut() = Some(trouble);
        lane.changed.notify_waiters();
        self.avoid(lane.node);
        if self.is_cluster() {
            // What names no key need not wait for this node.
            lane.queue.reroute();
        }
    }

    /// Upstream's name in errors and logs, and of its nodes the one that a lane is, or was last, connected to.
    fn name_of(&self, lane: &TrackedLane) -> String {
        let upstream = self.upstream_name();
        match &*lane.address.borrow() {
            Some(address) if self.settings.topology.has_alternatives() => format!("{address} ({upstream})"),
            _ => upstream,
        }
    }

    /// Whether a lane's node is to be reached even if nobody asks for it.
    fn keeps_connected(&self, lane: &TrackedLane) -> bool {
        self.is_main(lane) && self.is_master(lane.node)
    }

    /// The oldest commands have waited too long: told so; or the lane is silent and given up.
    pub(super) fn overdue(&self, lane: &Rc<TrackedLane>, driver: &mut Driver<Waiter>, pieces: &mut Option<Pieces>) {
        if !on(Rule::CommandTimeout) {
            return;
        }
        let up = lane.queue.is_up();
        let mut late = Vec::new();
        let silent = driver.overdue(self.now(), |waiter| {
            if matches!(waiter, Waiter::Tombstone(_) | Waiter::Heartbeat | Waiter::Asking) || is_coming(waiter) {
                return;
            }
            // What it was about is bumped again when the late reply comes.
            let after = if let Waiter::Reply(_, _, after) = waiter { after.late() } else { After::Nothing };
            late.push(std::mem::replace(waiter, Waiter::Tombstone(after)));
        });
        if silent {
            self.cells.add(Counter::LanesClosedSilent, 1);
            driver.abandon();
            return self.lane_lost(lane, driver, pieces, &Loss::Silent);
        }
        let upstream = self.name_of(lane);
        let error = match (&*lane.trouble.borrow(), up) {
            (_, true) => Error::Timeout { upstream },
            (Some(Trouble::Unreachable(cause)), _) => Error::Unreachable { upstream, cause: cause.clone() },
            (_, _) => Error::NotSent { upstream, cause: "connecting takes too long".into() },
        };
        for waiter in late {
            self.cells.error(error.kind());
            self.cells.add(Counter::Tombstones, u64::from(up));
            if on(Rule::UnansweredFenceBumps) && matches!(waiter, Waiter::Fence(_) | Waiter::OwnFence(_)) {
                lane.standing.bump();
            }
            self.fail(lane, waiter, &error.reply());
        }
    }

    /// Whoever waits gets an error instead; what the command may have done is applied.
    pub(super) fn fail(&self, lane: &Rc<TrackedLane>, waiter: Waiter, error: &[u8]) {
        match waiter {
            Waiter::Reply(ticket, _, after) => {
                if on(Rule::EffectOfFailure) {
                    self.effect(&after);
                }
                if let After::Part(gather, part, _) = after {
                    return self.part_taken(&gather, part, &ticket, error);
                }
                self.fail_or_close(&ticket, error);
            }
            Waiter::Fetch(flight) => {
                self.flights.land(&flight);
                lane.standing.land();
                let waiters = std::mem::take(&mut *flight.waiters.borrow_mut());
                waiters.iter().for_each(|ticket| self.fail_or_close(ticket, error));
            }
            Waiter::Snapshot(snapshot, ticket) => {
                lane.standing.land();
                if snapshot.is_whole() {
                    self.fail_or_close(&ticket, error);
                } else {
                    self.deliver_snapshot(&snapshot, &ticket, &Bytes::copy_from_slice(error));
                }
            }
            Waiter::Fence(holds) => self.fence_failed(lane, holds),
            Waiter::OwnFence(hold) => self.release(&hold),
            Waiter::Tombstone(after) if on(Rule::EffectOfLateReply) => self.effect(&after),
            Waiter::Caching(_) | Waiter::Pttl(_) | Waiter::SnapshotCaching(..) | Waiter::SnapshotPttl(..) => {}
            Waiter::Heartbeat | Waiter::Asking | Waiter::Tombstone(_) => {}
        }
    }

    fn fail_or_close_with(&self, ticket: &Ticket, error: &Error) {
        self.cells.error(error.kind());
        self.fail_or_close(ticket, &error.reply());
    }

    /// A reply of which parts have left already cannot be replaced by an error: that client is closed.
    fn fail_or_close(&self, ticket: &Ticket, error: &[u8]) {
        if ticket.session.replies.borrow().is_coming(ticket.number, ticket.attempt) {
            return ticket.session.close();
        }
        self.deliver_copy(ticket, error);
    }
}

fn is_coming(waiter: &Waiter) -> bool {
    let coming = |ticket: &Ticket| ticket.session.replies.borrow().is_coming(ticket.number, ticket.attempt);
    match waiter {
        Waiter::Reply(ticket, ..) | Waiter::Snapshot(_, ticket) => coming(ticket),
        Waiter::Fetch(flight) => flight.waiters.borrow().iter().any(coming),
        _ => false,
    }
}
