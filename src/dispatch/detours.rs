//! What has been turned away and waits to be tried again, client by client.
//!
//! *Invariant:* one after the other, in the client's order: the next is tried when the one before is answered. If a later command of the client
//! takes effect in the same slot meanwhile, those before it are given up with upstream's own error, since they would now
//! follow it; a later read is asked again behind them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::gather::Gather;
use super::lane::{After, Rewrite, Ticket, TrackedLane, Waiter};
use super::redirect::{Next, only_reads, pause_after, plain_flight, slot_of};
use super::session::Session;
use super::turn::rewritten;
use super::worker::Worker;
use crate::error::Error;
use crate::net::boottime;
use crate::protocol::reply::Frame;
use crate::switch::{Rule, on};
use crate::upstream::lane::{Driver, Owed};

/// What is said of a read that had to be asked again and could not be in time.
pub(super) const OVERTOOK: &[u8] = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n";

/// A command that has been turned away.
pub struct Detour {
    /// Who waits for it.
    pub(super) waiter: Waiter,
    pub(super) request: Bytes,
    pub(super) next: Next,
    /// When it was first sent.
    pub(super) since: u64,
    /// What it was answered last.
    pub(super) error: Bytes,
}

/// What a client has on detours that wait.
#[derive(Default)]
pub struct Detours {
    waiting: RefCell<VecDeque<Detour>>,
    /// The one that is being tried again.
    active: RefCell<Option<Awaited>>,
    /// Rings when that one is answered, or turned away again.
    settled: Notify,
}

/// Whose reply is awaited.
#[derive(Clone)]
struct Awaited {
    ticket: Ticket,
    /// Which part of the command it is, if nodes share that.
    part: Option<(Rc<Gather>, usize)>,
}

// === impl Awaited ===

impl Awaited {
    fn is_same(&self, other: &Awaited) -> bool {
        let part = |of: &Awaited| of.part.as_ref().map(|(_, part)| *part);
        self.ticket.number == other.ticket.number && part(self) == part(other)
    }

    /// Whether it still is; a later attempt may have taken its place.
    fn is_owed(&self) -> bool {
        let Ticket { session, number, attempt, .. } = &self.ticket;
        let is_part_owed = self.part.as_ref().is_none_or(|(gather, part)| gather.awaits(*part));
        is_part_owed && session.replies.borrow().is_owed(*number, *attempt)
    }
}

// === impl Detour ===

impl Detour {
    /// The place it is for: the first of them, if it is a flight.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match &self.waiter {
            Waiter::Reply(ticket, ..) | Waiter::Snapshot(_, ticket) => Some(ticket.clone()),
            Waiter::Fetch(flight) => flight.waiters.borrow().first().cloned(),
            _ => None,
        }
    }

    fn awaited(&self) -> Option<Awaited> {
        let part = match &self.waiter {
            Waiter::Reply(_, _, After::Part(gather, part, _)) => Some((Rc::clone(gather), *part)),
            Waiter::Snapshot(snapshot, _) => snapshot.part_of(),
            _ => None,
        };
        Some(Awaited { ticket: self.ticket()?, part })
    }

    fn number(&self) -> u64 {
        self.ticket().map_or(u64::MAX, |ticket| ticket.number)
    }

    fn slot(&self) -> Option<u16> {
        slot_of(&self.waiter, &self.request)
    }

    /// The places that it answers: of a block several.
    fn places(&self) -> std::ops::RangeInclusive<u64> {
        let last = self.number();
        let commands = match &self.waiter {
            Waiter::Reply(_, _, After::Exec(end)) => end.block.as_ref().map_or(1, |whole| whole.commands()),
            _ => 1,
        };
        (last + 1).saturating_sub(commands)..=last
    }

    pub(super) fn hops(&self) -> u8 {
        self.ticket().map_or(0, |ticket| ticket.hops)
    }

    fn pause(&self) -> Duration {
        pause_after(self.hops(), Next::Later).unwrap_or_default()
    }
}

// === impl Worker ===

impl Worker {
    pub(super) fn wait_with(&self, session: &Rc<Session>, detour: Detour) {
        let mut slot = session.detours.borrow_mut();
        let is_first = slot.is_none();
        let detours = Rc::clone(slot.get_or_insert_with(Rc::default));
        drop(slot);
        let mut waiting = detours.waiting.borrow_mut();
        let is_active = {
            let (active, awaited) = (detours.active.borrow(), detour.awaited());
            active.as_ref().zip(awaited).is_some_and(|(active, awaited)| active.is_same(&awaited))
        };
        // One that was sent on at first may be turned away after a later one: they are tried in the order of the client.
        let number = detour.number();
        // Parts of one command stay in the order of their coming, but for the one that is being tried.
        let is_before = |other: &Detour| other.number() < number || other.number() == number && !is_active;
        let at = if on(Rule::DetoursKeepOrder) { waiting.partition_point(is_before) } else { waiting.len() };
        waiting.insert(at, detour);
        if is_active {
            detours.active.take();
        }
        // Somebody may be waiting for its reply before trying others again: it waits here itself now.
        detours.settled.notify_one();
        drop(waiting);
        if is_first && let Some(worker) = self.me() {
            let session = Rc::clone(session);
            tokio::task::spawn_local(async move { worker.serve_detours(&session, &detours).await });
        }
    }

    /// Whether its patience is over.
    pub(super) fn is_too_late(&self, detour: &Detour) -> bool {
        let limit = self.settings.upstream.command_timeout.as_nanos() as u64;
        self.now().saturating_sub(detour.since) >= limit
    }

    /// Tries again what waits, one after the other.
    async fn serve_detours(&self, session: &Rc<Session>, detours: &Detours) {
        let mut in_vain = true;
        loop {
            self.begin_batch();
            let first = detours.waiting.borrow().front().map(|first| (first.pause(), self.is_too_late(first)));
            let Some((pause, is_too_late)) = first else { break };
            if !is_too_late {
                // What was turned away for the same reason as one that has succeeded by now need not wait.
                if in_vain {
                    tokio::time::sleep(pause).await;
                }
                if on(Rule::DetoursWaitForOthers) {
                    self.all_others_answered(session, detours).await;
                }
                self.begin_batch();
            }
            if session.is_closed() {
                // Nobody waits any more: what has not been executed is not.
                let left = std::mem::take(&mut *detours.waiting.borrow_mut());
                left.into_iter().for_each(|detour| self.give_up(detour.waiter, &detour.error));
                break;
            }
            let Some(detour) = detours.waiting.borrow_mut().pop_front() else { break };
            if self.is_too_late(&detour) {
                self.give_up(detour.waiter, &detour.error);
                self.flush();
                continue;
            }
            let Some(awaited) = detour.awaited().filter(Awaited::is_owed) else {
                // A later attempt has taken its place, and may itself be waiting here.
                continue;
            };
            detours.active.replace(Some(awaited.clone()));
            // The map may have changed meanwhile; who is to ask the importer of a slot is not told so by it.
            let next = if matches!(detour.next, Next::Node(_, true)) { detour.next } else { Next::Later };
            self.launch(Detour { next, ..detour });
            self.flush();
            while detours.active.borrow().is_some() && awaited.is_owed() {
                detours.settled.notified().await;
            }
            in_vain = detours.active.take().is_none();
        }
        session.detours.take();
    }

    /// Waits until the client is owed nothing but what waits here: what it has sent already must not be overtaken either.
    /// No longer than the first of them has patience.
    async fn all_others_answered(&self, session: &Rc<Session>, detours: &Detours) {
        let others = || {
            let waiting = detours.waiting.borrow();
            let waits = |number: u64| waiting.iter().any(|detour| detour.places().contains(&number));
            session.replies.borrow().owed().any(|number| !waits(number))
        };
        let answered = async {
            while !session.is_closed() && others() {
                detours.settled.notified().await;
            }
        };
        let since = detours.waiting.borrow().front().map_or(self.now(), |first| first.since);
        let waited = Duration::from_nanos(boottime().saturating_sub(since));
        let left = self.settings.upstream.command_timeout.saturating_sub(waited);
        let _ = tokio::time::timeout(left, answered).await;
    }

    /// A later command of the client has taken effect, or was answered, while earlier ones wait. Whether it must be
    /// asked again behind them, because it is a read. What it has taken effect before of the same slot is given up.
    fn overtakes(&self, ticket: &Ticket, slot: Option<u16>, is_read: bool, sweeps: bool) -> bool {
        let Some(detours) = ticket.session.detours.borrow().clone() else { return false };
        let is_before = detours.waiting.borrow().iter().any(|detour| detour.number() < ticket.number);
        if !is_before || is_read || !on(Rule::OvertakenAreGivenUp) {
            return is_before && is_read;
        }
        let (overtaken, left): (VecDeque<Detour>, VecDeque<Detour>) =
            std::mem::take(&mut *detours.waiting.borrow_mut()).into_iter().partition(|detour| {
                // Without slots every two commands may be about the same; so may one that names no key.
                let conflicts = !self.is_cluster() || sweeps || detour.slot() == slot;
                detour.number() < ticket.number && conflicts
            });
        *detours.waiting.borrow_mut() = left;
        for detour in overtaken {
            self.give_up(detour.waiter, &detour.error);
        }
        false
    }

    /// A reply of a client that has detours waiting: a read's is asked for again behind those sent before it. Should that
    /// come to nothing, what it was answered now will do, if that is here as a `whole`. Whether nobody waits for this one
    /// any more: its place is then one that swallows.
    pub(super) fn let_earlier_go_first(
        &self,
        lane: &Rc<TrackedLane>,
        owed: &mut Owed<Waiter>,
        whole: Option<(&Frame, &[u8])>,
    ) -> bool {
        let mut waits = false;
        owed.waiter.each_session(|session| waits |= session.detours.borrow().is_some());
        // What is queued has had no effect yet; EXEC may still be turned away.
        if !waits || matches!(&owed.waiter, Waiter::Reply(_, _, After::Queued(_))) {
            return false;
        }
        let request = match &owed.waiter {
            Waiter::Reply(..) | Waiter::Snapshot(..) => lane.queue.request(owed),
            Waiter::Fetch(flight) => Some(Bytes::from_owner(std::sync::Arc::clone(&flight.key.request))),
            _ => None,
        };
        let Some(request) = request else { return false };
        let slot = slot_of(&owed.waiter, &request);
        let (since, next) = (owed.since, Next::Later);
        let is_read = match &owed.waiter {
            Waiter::Reply(_, _, after) => matches!(after, After::Nothing) && only_reads(&request),
            _ => true,
        };
        let sweeps = match &owed.waiter {
            Waiter::Reply(_, _, After::Part(gather, ..)) => gather.sweeps(),
            Waiter::Reply(_, _, After::Held(..)) => slot.is_none(),
            Waiter::Reply(_, _, after) => matches!(after, After::Swept),
            _ => false,
        };
        let rewrite = match &owed.waiter {
            Waiter::Reply(_, rewrite, _) => rewrite.clone(),
            Waiter::Fetch(flight) => flight.shape.map_or(Rewrite::No, Rewrite::Resp2),
            Waiter::Snapshot(snapshot, _) => snapshot.rewrite(),
            _ => Rewrite::No,
        };
        let is_part = matches!(&owed.waiter, Waiter::Snapshot(snapshot, _) if snapshot.is_part());
        let answer = || match whole.filter(|_| !is_part) {
            Some((frame, bytes)) => Bytes::copy_from_slice(&rewritten(&rewrite, frame, bytes)),
            None => Bytes::from_static(OVERTOOK),
        };
        match &owed.waiter {
            Waiter::Reply(ticket, ..) | Waiter::Snapshot(_, ticket) => {
                if !self.overtakes(ticket, slot, is_read, sweeps) {
                    return false;
                }
                let waiter = std::mem::replace(&mut owed.waiter, Waiter::Tombstone(After::Nothing));
                self.take_detour(lane, waiter, request, next, since, answer());
                true
            }
            Waiter::Fetch(flight) => {
                let (later, now): (Vec<Ticket>, Vec<Ticket>) = std::mem::take(&mut *flight.waiters.borrow_mut())
                    .into_iter()
                    .partition(|t| self.overtakes(t, slot, true, false));
                *flight.waiters.borrow_mut() = now;
                for ticket in later {
                    let waiter = Waiter::Fetch(Rc::new(plain_flight(flight, vec![ticket])));
                    self.detour(Detour { waiter, request: request.clone(), next, since, error: answer() });
                }
                false
            }
            _ => false,
        }
    }

    /// What waits is answered with an error: nothing of it has been executed.
    pub(super) fn give_up(&self, waiter: Waiter, error: &[u8]) {
        match waiter {
            Waiter::Reply(ticket, _, After::Part(gather, part, _)) => self.part_taken(&gather, part, &ticket, error),
            Waiter::Snapshot(snapshot, ticket) => {
                self.deliver_snapshot(&snapshot, &ticket, &Bytes::copy_from_slice(error));
            }
            Waiter::Reply(ticket, _, After::Exec(end)) => {
                // If it was never sent, none of its commands has been answered.
                let commands = end.block.as_ref().map_or(1, |whole| whole.commands());
                for number in (ticket.number + 1).saturating_sub(commands)..=ticket.number {
                    if ticket.session.replies.borrow().is_owed(number, ticket.attempt) {
                        self.deliver_copy(&Ticket { number, ..ticket.clone() }, error);
                    }
                }
            }
            Waiter::Reply(ticket, ..) => self.deliver_copy(&ticket, error),
            Waiter::Fetch(flight) => {
                let waiters = std::mem::take(&mut *flight.waiters.borrow_mut());
                waiters.iter().for_each(|ticket| self.deliver_copy(ticket, error));
            }
            _ => {}
        }
    }

    /// What waited on a lane for a connection goes where it belongs by now.
    pub(super) fn rerouted(&self, lane: &Rc<TrackedLane>, driver: &mut Driver<Waiter>) {
        if !self.is_cluster() {
            // It is this lane's next connection that goes elsewhere.
            return;
        }
        let upstream = self.settings.topology.name(lane.node);
        let error = Bytes::from(Error::NotSent { upstream, cause: "it is away".into() }.reply());
        for (owed, request) in driver.take_unsent() {
            let (since, waiter) = (owed.since, owed.waiter);
            let request = match &waiter {
                Waiter::Reply(_, _, After::Queued(_)) => continue,
                Waiter::Reply(_, _, After::Exec(end)) => match &end.block {
                    Some(whole) => whole.request(),
                    None => request,
                },
                Waiter::Reply(..) | Waiter::Fetch(_) | Waiter::Snapshot(..) => request,
                _ => {
                    self.fail(lane, waiter, &error);
                    continue;
                }
            };
            let node = match self.node_of_waiter(&waiter, &request) {
                Ok(node) => node,
                Err(reshaped) => {
                    let (upstream, cause) = (self.settings.topology.name(lane.node), reshaped.to_string());
                    let error = Error::NotSent { upstream, cause };
                    self.cells.error(error.kind());
                    self.give_up(waiter, &error.reply());
                    continue;
                }
            };
            for waiter in self.apart(lane, waiter, Next::Node(node, false), 0) {
                let error = error.clone();
                let detour = Detour { waiter, request: request.clone(), next: Next::Node(node, false), since, error };
                self.detour(detour);
            }
        }
    }

    /// Something of a client has been answered: what waits may be tried next.
    pub(super) fn note_settled(&self, session: &Session) {
        if let Some(detours) = &*session.detours.borrow() {
            detours.settled.notify_one();
        }
    }
}
