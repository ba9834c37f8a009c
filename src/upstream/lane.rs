//! One connection to one node, shared by all clients of a worker, database and user.
//!
//! Commands go out in the order they were queued and the server answers in that order, so the head of the
//! queue owns the next reply; pushes own none. Everything that arrives is handed to the owner in stream
//! order. The lane connects when something is queued, reconnects with backoff, and says what became of
//! what it owed: written (maybe executed) or not (sent again on the next connection).
//! *Invariant:* an order number is never reused and grows with the place in the stream, over reconnects too.
//! Not here: what a reply or push means; `T` is whoever waits and is never looked into.

mod link;
mod queue;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, Sleep};

use link::Link;
use queue::Queue;

use super::backoff::Backoff;
use super::handshake::{HandshakeError, Ready};
use crate::net::{Stream, boottime};
use crate::protocol::reply::{Frame, ReplyError, ReplyScanner};
use crate::switch::{Rule, on};

/// Replies from this size on are handed over by reference, and in pieces while they come in.
pub const LARGE_REPLY: usize = 64 * 1024;

/// A connection that has lasted so long, in nanoseconds, was a good one: its successor is tried at once.
const STEADY: u64 = 1_000_000_000;

/// A lane's limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most commands it may owe replies to.
    pub commands: usize,
    /// Most bytes that may wait to be written.
    pub bytes: usize,
    /// From taking a command to its reply.
    pub command_timeout: Duration,
    /// How long commands wait for a connection.
    pub connect_timeout: Duration,
    /// An unused connection is closed after this.
    pub idle_timeout: Duration,
    /// A reply of which so much has come is passed on in pieces.
    pub piece: usize,
}

/// The queue or the output buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A command that is owed a reply.
pub struct Owed<T> {
    /// Who waits for it.
    pub waiter: T,
    /// When it was queued, in boottime nanoseconds.
    pub sent: u64,
    /// Where its group begins in the bytes of this lane: a group is sent whole or not at all.
    group: u64,
}

/// Why a connection ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Loss {
    /// The other side closed it, or the network did.
    #[error("{0}")]
    Io(String),
    /// Replies were owed and nothing was read for `command_timeout`.
    #[error("no reply within command_timeout")]
    Silent,
    /// What arrived is not RESP.
    #[error("{0}")]
    Protocol(ReplyError),
    /// A reply arrived that nobody is owed.
    #[error("a reply that belongs to no command")]
    Unowed,
    /// Unused for `lane_idle_timeout`.
    #[error("idle")]
    Idle,
    /// Its owner gave it up: the connection's state cannot be trusted any more.
    #[error("its state cannot be trusted")]
    Distrusted,
}

/// What has happened to a lane.
pub enum Event {
    /// It is connected and has handshaken.
    Up(Ready),
    /// Bytes have arrived: ask `arrived` until it has nothing more.
    Read(usize),
    /// The oldest command has waited too long: ask `overdue`.
    Overdue,
    /// The connection is gone: ask `owed_after_loss`.
    Lost(Loss),
    /// An attempt to connect has failed.
    Unreachable(HandshakeError),
}

/// One thing that arrived, in stream order.
pub enum Arrived<'a, T> {
    /// A push; owed to nobody.
    Push(&'a [u8]),
    /// A whole reply.
    Reply(Owed<T>, Frame, &'a [u8]),
    /// A large whole reply.
    Large(Owed<T>, Frame, Bytes),
    /// A piece of a large reply that is still coming in; its owed must be given back by `keep`.
    Piece(Owed<T>, Bytes),
    /// The last piece of it.
    LastPiece(Owed<T>, Frame, Bytes),
}

type Attempt = Pin<Box<dyn Future<Output = Result<(Stream, Ready, BytesMut), HandshakeError>>>>;

/// How a lane gets its connections.
pub type Connect = Box<dyn Fn() -> Attempt>;

/// How far a lane's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none, and none is needed.
    Idle,
    /// The last attempt has failed; the next comes after a pause.
    Pausing,
    /// It is being opened.
    Connecting,
    /// It is there, and has handshaken.
    Up,
}

/// The senders' side of a lane.
pub struct Lane<T> {
    queue: RefCell<Queue<T>>,
    driver: RefCell<Option<Waker>>,
    next_order: Cell<u64>,
    state: Cell<State>,
    wanted: Cell<bool>,
    limits: Limits,
}

/// The connection's side of a lane: one task drives it.
pub struct Driver<T> {
    lane: Rc<Lane<T>>,
    phase: Phase,
    connect: Connect,
    backoff: Backoff,
    timer: Pin<Box<Sleep>>,
    armed: Option<u64>,
    used: u64,
    up_since: u64,
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

// === impl Lane ===

impl<T> Lane<T> {
    /// A lane that connects by `connect`, and the driver that does so.
    pub fn new(limits: Limits, connect: Connect, backoff: Backoff) -> (Rc<Self>, Driver<T>) {
        let lane = Rc::new(Lane {
            queue: RefCell::new(Queue { out: BytesMut::new(), queued: 0, written: 0, sent: 0, owed: VecDeque::new() }),
            driver: RefCell::new(None),
            next_order: Cell::new(1),
            state: Cell::new(State::Idle),
            wanted: Cell::new(false),
            limits,
        });
        let driver = Driver {
            lane: Rc::clone(&lane),
            phase: Phase::Idle,
            connect,
            backoff,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            used: boottime(),
            up_since: 0,
            complained: 0,
        };
        (lane, driver)
    }

    /// Begins a group of commands whose requests have `bytes` in all; the group is sent whole or not at all.
    pub fn group(&self, commands: usize, bytes: usize) -> Result<u64, Full> {
        let queue = self.queue.borrow();
        let full = queue.owed.len() + commands > self.limits.commands || queue.out.len() + bytes > self.limits.bytes;
        if on(Rule::QueueIsBounded) && full { Err(Full) } else { Ok(queue.queued) }
    }

    /// Queues one command of a group and returns its place in the lane's order.
    pub fn add(&self, group: u64, now: u64, request: &[u8], waiter: T) -> u64 {
        let mut queue = self.queue.borrow_mut();
        queue.out.extend_from_slice(request);
        queue.queued += request.len() as u64;
        queue.owed.push_back(Owed { waiter, sent: now, group });
        drop(queue);
        let order = self.next_order.get();
        self.next_order.set(order + 1);
        self.wake();
        order
    }

    /// Queues one command by itself.
    pub fn send(&self, now: u64, request: &[u8], waiter: T) -> Result<u64, (Full, T)> {
        match self.group(1, request.len()) {
            Ok(group) => Ok(self.add(group, now, request, waiter)),
            Err(full) => Err((full, waiter)),
        }
    }

    /// The place that the next command will have in the lane's order.
    pub fn next_order(&self) -> u64 {
        self.next_order.get()
    }

    /// Asks for a connection although nothing is queued.
    pub fn want(&self) {
        self.wanted.set(true);
        self.wake();
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        self.state.get() == State::Up
    }

    /// How far its connection is.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Bytes written since this was last asked.
    pub fn take_sent(&self) -> u64 {
        std::mem::take(&mut self.queue.borrow_mut().sent)
    }

    /// Commands owed a reply.
    pub fn depth(&self) -> usize {
        self.queue.borrow().owed.len()
    }

    /// Bytes waiting to be written.
    pub fn backlog(&self) -> usize {
        self.queue.borrow().out.len()
    }

    fn wake(&self) {
        if let Some(waker) = self.driver.borrow_mut().take() {
            waker.wake();
        }
    }

    /// When the oldest command ends its patience.
    fn patience_ends(&self, patience: Duration) -> Option<u64> {
        self.queue.borrow().owed.front().map(|owed| owed.sent.saturating_add(patience.as_nanos() as u64))
    }
}

// === impl Driver ===

impl<T> Driver<T> {
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
        let Phase::Up(link) = &self.phase else {
            let patience = self.patience();
            for mut owed in self.lane.queue.borrow_mut().take_back(now, patience.as_nanos() as u64) {
                late(&mut owed.waiter);
            }
            return false;
        };
        let patience = self.lane.limits.command_timeout.as_nanos() as u64;
        let overdue = |since: u64| now.saturating_sub(since) >= patience;
        let mut queue = self.lane.queue.borrow_mut();
        let silent = queue.owed.front().is_some_and(|front| overdue(front.sent)) && overdue(link.last_read);
        if silent && on(Rule::SilenceClosesLane) {
            return true;
        }
        let mut waiters: Vec<&mut T> = Vec::new();
        for owed in queue.owed.iter_mut().take_while(|owed| overdue(owed.sent)) {
            waiters.push(&mut owed.waiter);
        }
        let given_up = waiters.len();
        for waiter in waiters {
            late(waiter);
        }
        if !on(Rule::TombstonesStay) {
            queue.owed.drain(..given_up);
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

    /// After `Event::Unreachable`: everything queued, if waiting for another attempt makes no sense.
    pub fn give_up(&mut self) -> Vec<Owed<T>> {
        self.lane.queue.borrow_mut().take_back(u64::MAX, 0)
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
        self.disconnect(matches!(loss, Loss::Idle));
        Event::Lost(loss)
    }

    /// The one timer: the oldest command's patience or, with nothing owed, the idle time-out. It is only
    /// moved forward when it fires, so that a busy lane does not re-arm it for every command.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let idle = self.used.saturating_add(self.lane.limits.idle_timeout.as_nanos() as u64);
            // Late places stay where they are: they are complained of once in a quarter of the patience.
            let again = self.complained.saturating_add(self.patience().as_nanos() as u64 / 4);
            let due = self.lane.patience_ends(self.patience()).map_or(idle, |due| due.max(again));
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

#[cfg(test)]
mod tests;
