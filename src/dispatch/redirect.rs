//! Commands that a node will not execute here, or not now: they go where they belong, or wait until they may.
//!
//! MOVED and ASK name the node; TRYAGAIN, CLUSTERDOWN, MASTERDOWN, READONLY and LOADING say that the time has not come.
//! None of them has executed anything, so any command may be sent again. *Invariant:* what comes by a redirect is
//! delivered and never filled (tracking and ASKING cannot be combined). A client's commands keep their order: what it
//! sends later waits until all before are answered; what it has sent already and is turned away too queues behind; if
//! one of these takes effect, those that wait before it are given up with upstream's own error, since they would now
//! follow it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::block::TurnedAway;
use super::detours::{Detour, OVERTOOK};
use super::fence::Hold;
use super::gather::Reshaped;
use super::lane::{After, Ticket, TrackedLane, Waiter};
use super::worker::Worker;
use crate::cache::Flight;
use crate::coherence::Keys;
use crate::command::look_up;
use crate::limits::AUTHENTICATED;
use crate::net::Address;
use crate::protocol::{Args, RequestParser};
use crate::switch::{Rule, on};
use crate::telemetry::metrics::Counter;
use crate::upstream::lane::Owed;
use crate::upstream::slots::{RedirectKind, key_slot, redirect};
use crate::upstream::topology::NodeId;

/// What makes an importing node serve the next command.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// What servers say, before they execute anything, if the time for a command has not come. Their whole texts, since scripts
/// may answer with such a code and other words.
const NOT_NOW: [&str; 7] = [
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN Hash slot not served",
    "MASTERDOWN Link with MASTER is down",
    "READONLY You can't write against a read only",
    "LOADING Redis is loading the dataset in memory",
    "LOADING Valkey is loading the dataset in memory",
];

/// What servers say of a script that they do not know.
const NO_SCRIPT: &[u8] = b"-NOSCRIPT No matching script. Please use EVAL.\r\n";

/// So many redirects of a command are followed at once; then each is waited before, as nodes that disagree need time.
const AT_ONCE: u8 = 3;

/// First and longest wait before a command is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// See `PAUSE_MIN`.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Where a command goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To this node; with ASKING if it only imports the slot.
    Node(NodeId, bool),
    /// By the map, after a pause.
    Later,
}

// === impl Worker ===

impl Worker {
    /// A node has answered with an error: if that says that the command belongs elsewhere, or may be tried again, it is,
    /// and nothing is left to do.
    pub(super) fn turned_away(&self, lane: &Rc<TrackedLane>, owed: Owed<Waiter>, error: &[u8]) -> Option<Owed<Waiter>> {
        let request = lane.queue.request(&owed);
        let since = owed.since;
        if self.is_cluster()
            && error == NO_SCRIPT
            && matches!(owed.waiter, Waiter::Reply(_, _, After::Held(..)))
            && let Some(spelt) = request.as_deref().and_then(|request| self.peers.scripts.spelt_out(request))
        {
            let error = Bytes::copy_from_slice(error);
            self.take_detour(lane, owed.waiter, spelt.freeze(), Next::Node(lane.node, false), since, error);
            return None;
        }
        if matches!(owed.waiter, Waiter::Reply(_, _, After::Held(..)))
            && let Some(redirect) = redirect(error)
            && request.as_deref().and_then(|request| slot_of(&owed.waiter, request)) != Some(redirect.slot)
        {
            // A script's own words: it has been executed.
            return Some(owed);
        }
        let Some(next) = self.next_in_turn(lane.address.borrow().as_ref(), error) else { return Some(owed) };
        if matches!(next, Next::Node(_, true)) && on(Rule::AskBumps) {
            self.found_elsewhere(&owed.waiter, request.as_deref().unwrap_or_default());
        }
        if let Waiter::Reply(ticket, _, After::Queued(end) | After::Exec(end)) = &owed.waiter {
            // The whole block goes again, once EXEC has been answered.
            let queued = !owed.waiter.ends_block();
            end.turned_away.borrow_mut().get_or_insert_with(|| TurnedAway { next, error: without_redirect(error) });
            if queued {
                self.deliver_copy(ticket, b"+QUEUED\r\n");
                return None;
            }
            return Some(owed);
        }
        let request = match (&owed.waiter, request) {
            (Waiter::Fetch(flight), _) => Bytes::from_owner(std::sync::Arc::clone(&flight.key.request)),
            (Waiter::Reply(..) | Waiter::Snapshot(..), Some(request)) => request,
            // Proves nothing, means nothing.
            (Waiter::Heartbeat | Waiter::Caching(_) | Waiter::Pttl(_), _) => return Some(owed),
            (_, _) => return Some(owed),
        };
        self.take_detour(lane, owed.waiter, request, next, since, without_redirect(error));
        None
    }

    /// A node has said that a key is not there but may be with the slot's importer, which tells nobody here of its
    /// changes: that the key was missing may be in the cache.
    fn found_elsewhere(&self, waiter: &Waiter, request: &[u8]) {
        if let Waiter::Fetch(flight) = waiter {
            return self.coherence.written(&Keys::One(flight.slot));
        }
        let mut parser = RequestParser::default();
        if parser.parse(request, &AUTHENTICATED).is_ok() {
            let args = Args { raw: request, ranges: parser.ranges() };
            let keys = look_up(&args).and_then(|row| self.keys(row, &args));
            keys.iter().for_each(|keys| self.coherence.written(keys));
        }
    }

    /// Where a command goes that was answered with this error, with or without its dash, by the node at this address;
    /// `None`: the error is the command's own.
    pub fn next_of(&self, at: Option<&Address>, error: &[u8]) -> Option<Next> {
        let next = self.next_in_turn(at, error);
        self.tell_of_moves();
        next
    }

    /// As `next_of`, in a lane's turn, at whose end others are told of all that has moved.
    fn next_in_turn(&self, at: Option<&Address>, error: &[u8]) -> Option<Next> {
        if let Some(redirect) = redirect(error) {
            let address = self.place_of(at, redirect.host, redirect.port)?;
            return Some(match redirect.kind {
                RedirectKind::Moved => {
                    self.cells.add(Counter::MovedRedirects, 1);
                    Next::Node(self.slot_moved(redirect.slot, &address), false)
                }
                RedirectKind::Ask => {
                    self.cells.add(Counter::AskRedirects, 1);
                    Next::Node(self.node_at(&address), true)
                }
            });
        }
        let words = error.strip_prefix(b"-").unwrap_or(error);
        let own = NOT_NOW.iter().find(|own| words.starts_with(own.as_bytes()))?;
        // A script that was stopped by one of these has begun; the server says where.
        if memchr::memmem::find(words, b" script: ").is_some() {
            return None;
        }
        self.cells.add(Counter::TriedAgain, 1);
        if !own.starts_with("TRYAGAIN") {
            self.settings.topology.doubt();
        }
        Some(Next::Later)
    }

    /// Where a redirect points: a node that does not know its own address means the host it was asked at.
    fn place_of(&self, at: Option<&Address>, host: Option<&str>, port: u16) -> Option<Address> {
        let host = match (host, at) {
            (Some(host), _) => host.to_owned(),
            (None, Some(Address::Tcp { host, .. })) => host.clone(),
            (None, _) => return None,
        };
        let (host, port) = self.settings.address_map.apply(&host, port);
        Some(Address::Tcp { host, port })
    }

    /// Sends a command on, or has it wait.
    pub(super) fn take_detour(
        &self,
        lane: &Rc<TrackedLane>,
        waiter: Waiter,
        request: Bytes,
        next: Next,
        since: u64,
        error: Bytes,
    ) {
        for waiter in self.apart(lane, waiter, next, 1) {
            let detour = Detour { waiter, request: request.clone(), next, since, error: error.clone() };
            self.detour(detour);
        }
    }

    pub(super) fn detour(&self, detour: Detour) {
        let Some(ticket) = detour.ticket() else { return };
        let session = Rc::clone(&ticket.session);
        session.settle_first();
        if self.is_too_late(&detour) {
            return self.give_up(detour.waiter, &detour.error);
        }
        let waits = detour.next == Next::Later || detour.hops() > AT_ONCE;
        if !waits && (session.detours.borrow().is_none() || !on(Rule::DetoursQueue)) {
            return self.launch(detour);
        }
        self.wait_with(&session, detour);
    }

    /// The waiters of a turned-away command, each of which goes its own way from here: a flight that redirects are
    /// followed for at once stays one.
    pub(super) fn apart(&self, lane: &TrackedLane, waiter: Waiter, next: Next, hops: u8) -> Vec<Waiter> {
        let hopped = |ticket: Ticket| Ticket { hops: ticket.hops.saturating_add(hops), ..ticket };
        match waiter {
            Waiter::Reply(ticket, rewrite, after) => vec![Waiter::Reply(hopped(ticket), rewrite, after)],
            Waiter::Snapshot(snapshot, ticket) => {
                lane.standing.land();
                snapshot.void();
                vec![Waiter::Snapshot(snapshot, hopped(ticket))]
            }
            Waiter::Fetch(flight) => {
                self.flights.land(&flight);
                lane.standing.land();
                let tickets: Vec<Ticket> =
                    std::mem::take(&mut *flight.waiters.borrow_mut()).into_iter().map(hopped).collect();
                let together = next != Next::Later
                    && tickets.iter().all(|t| t.hops <= AT_ONCE && t.session.detours.borrow().is_none());
                tickets.iter().for_each(|ticket| ticket.session.settle_first());
                match together {
                    true => vec![Waiter::Fetch(Rc::new(plain_flight(&flight, tickets)))],
                    false => {
                        tickets.into_iter().map(|t| Waiter::Fetch(Rc::new(plain_flight(&flight, vec![t])))).collect()
                    }
                }
            }
            other => vec![other],
        }
    }

    /// Sends a turned-away command to where it goes next.
    pub(super) fn launch(&self, detour: Detour) {
        let Some(ticket) = detour.ticket() else { return };
        let session = &ticket.session;
        let mine = session.lane();
        let (node, asking) = match detour.next {
            Next::Node(node, asking) => (node, asking),
            Next::Later => match self.node_of_waiter(&detour.waiter, &detour.request) {
                Ok(node) => (node, false),
                Err(Reshaped) => return self.give_up(detour.waiter, &detour.error),
            },
        };
        let lane = self.as_master(self.lane(node, mine.identity, mine.db));
        self.resend(&lane, detour, asking);
    }

    fn resend(&self, lane: &Rc<TrackedLane>, detour: Detour, asking: bool) {
        let Detour { waiter, request, since, error, .. } = detour;
        let fenced = matches!(&waiter, Waiter::Reply(_, _, After::Held(..)));
        let commands = 1 + usize::from(asking) + usize::from(fenced);
        let Ok(group) = lane.queue.group(commands, request.len() + 64) else {
            return self.give_up(waiter, &error);
        };
        if let Waiter::Reply(ticket, rewrite, After::Exec(end)) = &waiter
            && let Some(whole) = &end.block
        {
            if self.resend_block(lane, since, ticket, rewrite.clone(), end, whole).is_none() {
                self.give_up(waiter, &error);
            }
            return;
        }
        if asking {
            lane.queue.add(group, self.now(), ASKING, Waiter::Asking);
        }
        let sessions = waiter.sessions();
        let (waiter, own_fence) = match waiter {
            Waiter::Reply(ticket, rewrite, After::Held(_, keys)) => {
                // The fence that stood behind it has been used up.
                let hold = Hold::new();
                (Waiter::Reply(ticket, rewrite, After::Held(Rc::clone(&hold), keys)), Some(hold))
            }
            waiter => (waiter, None),
        };
        if matches!(waiter, Waiter::Fetch(_) | Waiter::Snapshot(..)) {
            lane.standing.take_off();
        }
        // Since it was first sent: its patience is one for all its ways.
        let order = lane.queue.add_again(group, self.now(), since, &request, waiter);
        sessions.iter().for_each(|session| session.rests_on(order));
        if let Some(hold) = own_fence {
            self.send_own_fence(lane, group, hold);
        }
    }

    /// Whose slot a command's first key lies in.
    pub(super) fn node_of_request(&self, request: &[u8]) -> NodeId {
        let mut parser = RequestParser::default();
        if parser.parse(request, &AUTHENTICATED).is_err() {
            return self.home();
        }
        let args = Args { raw: request, ranges: parser.ranges() };
        self.node_of_args(look_up(&args), &args)
    }

    /// As `node_of_request`, for what waits.
    ///
    /// # Errors
    /// [`Reshaped`], see there.
    pub(super) fn node_of_waiter(&self, waiter: &Waiter, request: &[u8]) -> Result<NodeId, Reshaped> {
        if let Waiter::Reply(_, _, After::Part(gather, part, _)) = waiter
            && let Some(node) = self.node_of_part(gather, *part)?
        {
            return Ok(node);
        }
        Ok(match waiter {
            Waiter::Reply(_, _, After::Exec(end)) if let Some(whole) = &end.block => self.node_of(whole.first_key()),
            _ => self.node_of_request(request),
        })
    }
}

/// How long a command that has been turned away so often waits before it is tried again; `None`: not at all.
pub fn pause_after(hops: u8, next: Next) -> Option<Duration> {
    let doublings = u32::from(hops.saturating_sub(1)).min(8);
    (next == Next::Later || hops > AT_ONCE).then(|| (PAUSE_MIN * 2u32.pow(doublings)).min(PAUSE_MAX))
}

/// The slot of a command's first key; `None`: it has none.
pub(super) fn slot_of(waiter: &Waiter, request: &[u8]) -> Option<u16> {
    if let Waiter::Reply(_, _, After::Exec(end)) = waiter
        && let Some(whole) = &end.block
    {
        return whole.first_key().map(key_slot);
    }
    let mut parser = RequestParser::default();
    parser.parse(request, &AUTHENTICATED).ok()?;
    let args = Args { raw: request, ranges: parser.ranges() };
    let mut first = None;
    look_up(&args)?.each_key(&args, |key| first = first.or(Some(key_slot(key))));
    first
}

/// An error as a client may see it, which knows of one server only.
pub fn without_redirect(error: &[u8]) -> Bytes {
    match redirect(error) {
        Some(_) => Bytes::from_static(OVERTOOK),
        None => Bytes::copy_from_slice(error),
    }
}

/// Whether a command can be asked again: servers say that it only reads.
pub(super) fn only_reads(request: &[u8]) -> bool {
    let mut parser = RequestParser::default();
    let parsed = parser.parse(request, &AUTHENTICATED).is_ok();
    let args = Args { raw: request, ranges: parser.ranges() };
    parsed && look_up(&args).is_some_and(|row| row.is_read_only())
}

/// The same fetch, which nobody joins and which fills nothing.
pub(super) fn plain_flight(flight: &Flight<Ticket>, waiters: Vec<Ticket>) -> Flight<Ticket> {
    Flight {
        key: flight.key.clone(),
        waiters: RefCell::new(waiters),
        fill: false,
        tracked: false,
        caching: Cell::new(false),
        pttl: Cell::new(None),
        landed: Cell::new(true),
        ..*flight
    }
}
