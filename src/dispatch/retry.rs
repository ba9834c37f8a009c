//! Reads sent again after a lost connection.
//!
//! *Invariant:* only a read with nothing but reads of that client behind it is sent again: behind `[GET lock][SET lock me]`
//! the GET, sent anew, would see the client's own later write. Nor if a later read of that client is still queued, unsent:
//! the earlier, sent behind it, would be the newer. Once per read, and only while it would still be answered within
//! `command_timeout`. A write that may have been executed is never sent twice.

use std::rc::Rc;

use super::lane::{Ticket, TrackedLane};
use super::read::Reading;
use super::session::Session;
use super::worker::Worker;
use crate::cache::{Flight, Lookup};
use crate::limits::AUTHENTICATED;
use crate::protocol::RequestParser;
use crate::switch::{Rule, on};
use crate::telemetry::metrics::Counter;

// === impl Worker ===

impl Worker {
    /// A flight was lost with its connection: those who may be asked for again are; the others are returned. Whoever
    /// rests on `kept` or later, the first place in the lane's order that is still queued, is one of these, unless it
    /// has been found that it does not (`cleared`) before its own retries made it so.
    pub(super) fn send_again(
        &self,
        lane: &Rc<TrackedLane>,
        flight: &Rc<Flight<Ticket>>,
        kept: u64,
        cleared: &mut Vec<Rc<Session>>,
    ) -> Vec<Ticket> {
        self.flights.land(flight);
        lane.standing.land();
        let waiters = std::mem::take(&mut *flight.waiters.borrow_mut());
        let upstream = &self.settings.upstream;
        let left = upstream.command_timeout.saturating_sub(upstream.connect_timeout).as_nanos() as u64;
        let in_time = self.now().saturating_sub(flight.sent) < left;
        let mut parser = RequestParser::default();
        let request = &flight.key.request;
        let parsed = parser.parse(request, &AUTHENTICATED).is_ok();
        let args = parser.args(request);
        let Some(key) = flight.row.single_key(&args).filter(|_| parsed && in_time) else { return waiters };
        // Whoever owns it by now.
        let namespace = |lane: &TrackedLane| self.namespace(lane, flight.key.namespace.is_resp3(), key);
        let mut lost = Vec::new();
        // The first leads from here, the others join it.
        let next = lane.queue.next_order();
        for ticket in waiters {
            if !cleared.iter().any(|session| Rc::ptr_eq(session, &ticket.session)) {
                if on(Rule::RetryKeepsOrder) && ticket.session.newest.get() >= kept {
                    lost.push(ticket);
                    continue;
                }
                cleared.push(Rc::clone(&ticket.session));
            }
            let attempt = ticket.session.replies.borrow_mut().try_again(ticket.number, ticket.attempt);
            let Some(attempt) = attempt else {
                lost.push(ticket);
                continue;
            };
            self.cells.add(Counter::Retries, 1);
            ticket.session.rests_on(next);
            let lane = self.read_lane(&ticket.session, key);
            let lookup = Lookup::new(&self.seed, namespace(&lane), request);
            let reading = Reading { row: flight.row, lookup, key, shape: flight.shape };
            self.board(Ticket { attempt, ..ticket }, &lane, &reading);
        }
        lost
    }
}
