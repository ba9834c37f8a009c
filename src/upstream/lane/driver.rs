//! The connection's side of a lane: connects, reads and writes, reconnects.
//!
//! *Invariant:* each reply is handed over once, with who is owed it; what was written and what was not are told apart when
//! the connection is lost.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, Sleep};

use super::link::Link;
use super::{Arrived, Attempt, Bidding, Connect, Event, LARGE_REPLY, Lane, Loss, Owed, State};
use crate::net::{Stream, boottime};
use crate::protocol::reply::ReplyScanner;
use crate::switch::{Rule, on};
use crate::upstream::backoff::Backoff;
use crate::upstream::handshake::Ready;

/// A connection that has lasted so long, in nanoseconds, was a good one: its successor is tried at once.
pub(super) const STEADY: u64 = 1_000_000_000;

/// The connection's side of a lane: one task drives it.
pub struct Driver<T> {
    lane: Rc<Lane<T>>,
    phase: Phase,
    connect: Connect,
    pub(super) backoff: Backoff,
    timer: Pin<Box<Sleep>>,
    armed: Option<u64>,
    used: u64,
    pub(super) up_since: u64,
    /// When it last said that commands are overdue.
    complained: u64,
}

enum Phase {
    /// No connection and nothing queued.
    Idle,
    /// Waiting before the next attempt; after a loss though nobody waits for it, or whoever asks again and again would
    /// connect as often.
    Pause { sleep: Pin<Box<Sleep>>, after_loss: bool },
    /// Connecting and handshaking.
    Attempt(Attempt),
    /// Connected.
    Up(Box<Link>),
}

// === impl Driver ===

impl<T> Driver<T> {
    pub(super) fn new(lane: Rc<Lane<T>>, connect: Connect, backoff: Backoff) -> Driver<T> {
        Driver {
            lane,
            phase: Phase::Idle,
            connect,
            backoff,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            used: boottime(),
            up_since: 0,
            complained: 0,
        }
    }

    /// Drives the lane until something has happened that its owner must know.
    pub async fn next(&mut self) -> Event {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The next thing that arrived; `None` when more must be read first.
    pub fn arrived(&mut self) -> Result<Option<Arrived<'_, T>>, Loss> {
        let Phase::Up(link) = &mut self.phase else { return Ok(None) };
        let unread = link.buf.get(link.taken..).unwrap_or_default();
        let Some(frame) = link.scanner.scan(unread).map_err(Loss::Protocol)? else {
            return Ok(link.piece(&self.lane));
        };
        let start = link.taken;
        link.taken += frame.len;
        if frame.kind == b'>' && !link.in_pieces {
            return Ok(Some(Arrived::Push(link.buf.get(start + frame.start..link.taken).unwrap_or_default())));
        }
        let owed = self.lane.queue.borrow_mut().owed.pop_front().ok_or(Loss::Unowed)?;
        if link.in_pieces || frame.len >= LARGE_REPLY {
            link.buf.advance(start);
            link.taken = 0;
            let bytes = link.buf.split_to(frame.len).freeze();
            return Ok(Some(match std::mem::take(&mut link.in_pieces) {
                true => Arrived::LastPiece(owed, frame, bytes),
                false => Arrived::Large(owed, frame, bytes),
            }));
        }
        Ok(Some(Arrived::Reply(owed, frame, link.buf.get(start..link.taken).unwrap_or_default())))
    }

    /// Gives back the owed of a piece.
    pub fn keep(&mut self, owed: Owed<T>) {
        self.lane.queue.borrow_mut().owed.push_front(owed);
    }

    /// After `Event::Overdue`: calls `late` with each waiter whose patience has ended and says whether the
    /// lane must be given up as silent. On a connection their places stay, as what `late` leaves there;
    /// without one they are taken back, unsent.
    pub fn overdue(&mut self, now: u64, mut late: impl FnMut(&mut T)) -> bool {
        let patience = self.lane.limits.command_timeout.as_nanos() as u64;
        let overdue = |since: u64| now.saturating_sub(since) >= patience;
        let Phase::Up(link) = &self.phase else {
            let connect = self.lane.limits.connect_timeout.as_nanos() as u64;
            let has_to_go = |owed: &Owed<T>| overdue(owed.since) || now.saturating_sub(owed.sent) >= connect;
            for mut owed in self.lane.queue.borrow_mut().take_back(has_to_go) {
                late(&mut owed.waiter);
            }
            return false;
        };
        let mut queue = self.lane.queue.borrow_mut();
        let silent = queue.owed.front().is_some_and(|front| overdue(front.sent)) && overdue(link.last_read);
        if silent && on(Rule::SilenceClosesLane) {
            return true;
        }
        for owed in queue.owed.iter_mut().filter(|owed| overdue(owed.since)) {
            late(&mut owed.waiter);
        }
        if !on(Rule::TombstonesStay) {
            queue.owed.retain(|owed| !overdue(owed.since));
        }
        false
    }

    /// After `Event::Lost`: what was written and is owed; what was not stays queued for the next connection, but for
    /// the first of them for which nobody waits any more.
    pub fn owed_after_loss(&mut self, is_waited_for: impl Fn(&T) -> bool) -> Vec<Owed<T>> {
        let mut queue = self.lane.queue.borrow_mut();
        let mut owed = queue.split_written();
        owed.extend(queue.take_back_while(|owed| !is_waited_for(&owed.waiter)));
        owed
    }

    /// After `Event::Rerouted`: what waits for a connection, with its requests.
    pub fn take_unsent(&mut self) -> Vec<(Owed<T>, Bytes)> {
        if matches!(self.phase, Phase::Up(_)) {
            return Vec::new();
        }
        self.lane.queue.borrow_mut().take_back_requests()
    }

    /// After `Event::Unreachable`: everything queued, if waiting for another attempt makes no sense.
    pub fn give_up(&mut self) -> Vec<Owed<T>> {
        self.lane.queue.borrow_mut().take_back(|_| true)
    }

    /// Ends the connection at once: what is on its way there must not follow newer commands.
    pub fn abandon(&mut self) {
        if on(Rule::AbandonedIsReset)
            && let Phase::Up(link) = &self.phase
        {
            link.write.abort();
        }
        self.disconnect(false);
    }

    fn disconnect(&mut self, unused: bool) {
        // One that breaks as soon as it is there is waited for like one that is not.
        if unused || boottime().saturating_sub(self.up_since) >= STEADY {
            self.backoff.reset();
            self.enter(Phase::Idle);
        } else {
            self.pause(true);
        }
        self.armed = None;
    }

    fn pause(&mut self, after_loss: bool) {
        let sleep = Box::pin(tokio::time::sleep(self.backoff.pause()));
        self.enter(Phase::Pause { sleep, after_loss });
    }

    fn enter(&mut self, phase: Phase) {
        self.lane.state.set(match &phase {
            Phase::Idle => State::Idle,
            Phase::Pause { .. } => State::Pausing,
            Phase::Attempt(_) => State::Connecting,
            Phase::Up(_) => State::Up,
        });
        self.phase = phase;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        *self.lane.driver.borrow_mut() = Some(cx.waker().clone());
        match (self.lane.bidding.replace(Bidding::Nothing), &self.phase) {
            (Bidding::Leave, Phase::Up(link)) => {
                link.write.abort();
                return Poll::Ready(self.lost(Loss::Left));
            }
            (Bidding::Leave, Phase::Attempt(_) | Phase::Pause { .. }) => {
                // It may be on its way to where nobody wants to go, and what it waits for is over.
                self.backoff.reset();
                self.enter(Phase::Idle);
                return Poll::Ready(Event::Rerouted);
            }
            (Bidding::Leave, Phase::Idle)
            | (Bidding::Reroute, Phase::Idle | Phase::Pause { .. } | Phase::Attempt(_)) => {
                return Poll::Ready(Event::Rerouted);
            }
            (Bidding::Nothing, _) | (Bidding::Reroute, Phase::Up(_)) => {}
        }
        loop {
            match &mut self.phase {
                Phase::Idle => {
                    if self.lane.depth() == 0 && !self.lane.wanted.get() {
                        return Poll::Pending;
                    }
                    self.enter(Phase::Attempt((self.connect)()));
                }
                Phase::Pause { sleep, after_loss } => {
                    let wanted = *after_loss || self.lane.depth() > 0 || self.lane.wanted.get();
                    if wanted && sleep.as_mut().poll(cx).is_pending() {
                        return self.poll_patience(cx);
                    }
                    self.enter(Phase::Idle);
                }
                Phase::Attempt(attempt) => match attempt.as_mut().poll(cx) {
                    Poll::Pending => return self.poll_patience(cx),
                    Poll::Ready(Ok((stream, ready, leftover))) => return Poll::Ready(self.up(stream, ready, leftover)),
                    Poll::Ready(Err(error)) => {
                        self.lane.wanted.set(false);
                        self.pause(false);
                        return Poll::Ready(Event::Unreachable(error));
                    }
                },
                Phase::Up(link) => match link.poll(cx, &self.lane) {
                    Poll::Ready(Ok(read)) => {
                        self.used = boottime();
                        return Poll::Ready(Event::Read(read));
                    }
                    Poll::Ready(Err(loss)) => return Poll::Ready(self.lost(loss)),
                    Poll::Pending => return self.poll_patience(cx),
                },
            }
        }
    }

    fn up(&mut self, stream: Stream, ready: Ready, leftover: BytesMut) -> Event {
        let (read, write) = stream.into_split();
        self.lane.wanted.set(false);
        self.used = boottime();
        self.up_since = self.used;
        self.enter(Phase::Up(Box::new(Link {
            read,
            write,
            buf: leftover,
            taken: 0,
            scanner: ReplyScanner::default(),
            in_pieces: false,
            last_read: self.used,
        })));
        Event::Up(ready)
    }

    fn lost(&mut self, loss: Loss) -> Event {
        self.disconnect(matches!(loss, Loss::Idle | Loss::Left));
        Event::Lost(loss)
    }

    /// The one timer: the oldest command's patience or, with nothing owed, the idle time-out. It is only
    /// moved forward when it fires, so that a busy lane does not re-arm it for every command.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let idle = self.used.saturating_add(self.lane.limits.idle_timeout.as_nanos() as u64);
            // Late places stay where they are: they are complained of once in a quarter of the patience.
            let again = self.complained.saturating_add(self.patience().as_nanos() as u64 / 4);
            let connect = (!matches!(self.phase, Phase::Up(_))).then_some(self.lane.limits.connect_timeout);
            let ends = self.lane.patience_ends(self.lane.limits.command_timeout, connect);
            let due = ends.map_or(idle, |due| due.max(again));
            let armed = self.armed.unwrap_or(u64::MAX);
            if due < armed {
                let wait = Duration::from_nanos(due.saturating_sub(boottime()));
                self.timer.as_mut().reset(Instant::now() + wait);
                self.armed = Some(due);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            if boottime() < due {
                continue;
            }
            if self.lane.depth() > 0 {
                self.complained = boottime();
                return Poll::Ready(Event::Overdue);
            }
            if matches!(self.phase, Phase::Up(_)) {
                return Poll::Ready(self.lost(Loss::Idle));
            }
            return Poll::Pending;
        }
    }

    fn patience(&self) -> Duration {
        let limits = &self.lane.limits;
        match self.phase {
            Phase::Up(_) => limits.command_timeout,
            _ => limits.connect_timeout.min(limits.command_timeout),
        }
    }
}
