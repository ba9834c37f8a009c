//! One connection to one node, shared by all clients of a worker, database and user.
//!
//! Commands go out in the order they were queued and the server answers in that order, so the head of the
//! queue owns the next reply; pushes own none. Everything that arrives is handed to the owner in stream
//! order. The lane connects when something is queued, reconnects with backoff, and says what became of
//! what it owed: written (maybe executed) or not (sent again on the next connection).
//! *Invariant:* an order number is never reused and grows with the place in the stream, over reconnects too.
//! Not here: what a reply or push means; `T` is whoever waits and is never looked into.

mod driver;
mod link;
mod queue;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub use driver::Driver;
use queue::Queue;

use super::backoff::Backoff;
use super::handshake::{HandshakeError, Ready};
use crate::net::Stream;
use crate::protocol::reply::{Frame, ReplyError};
use crate::switch::{Rule, on};

/// Replies from this size on are handed over by reference, and in pieces while they come in.
pub const LARGE_REPLY: usize = 64 * 1024;

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
    /// Whether requests are kept until they are answered, because they may have to be sent again elsewhere.
    pub keeps: bool,
}

/// The queue or the output buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A command that is owed a reply.
pub struct Owed<T> {
    /// Who waits for it.
    pub waiter: T,
    /// When it was queued here, in boottime nanoseconds.
    pub sent: u64,
    /// When its patience began: earlier, if it has been elsewhere before.
    pub since: u64,
    /// Its place in the order of all lanes of a worker.
    pub order: u64,
    /// Where its group begins in the bytes of this lane: a group is sent whole or not at all.
    group: u64,
    /// Where it begins itself.
    at: u64,
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
    /// Its owner left the node: it is not the master any more.
    #[error("the node is not the master any more")]
    Left,
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
    /// What is queued may have to go elsewhere: ask `take_unsent`.
    Rerouted,
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
    next_order: Rc<Cell<u64>>,
    state: Cell<State>,
    wanted: Cell<bool>,
    /// What its owner wants of the driver.
    bidding: Cell<Bidding>,
    limits: Limits,
}

/// What a lane's owner wants of its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bidding {
    Nothing,
    /// What waits for a connection is asked back.
    Reroute,
    /// The connection is given up.
    Leave,
}

// === impl Lane ===

impl<T> Lane<T> {
    /// A lane that connects by `connect`, and the driver that does so. Lanes that share `order` number their commands
    /// in one order.
    pub fn new(limits: Limits, connect: Connect, backoff: Backoff, order: Rc<Cell<u64>>) -> (Rc<Self>, Driver<T>) {
        let lane = Rc::new(Lane {
            queue: RefCell::new(Queue::new(limits.keeps)),
            driver: RefCell::new(None),
            next_order: order,
            state: Cell::new(State::Idle),
            wanted: Cell::new(false),
            bidding: Cell::new(Bidding::Nothing),
            limits,
        });
        let driver = Driver::new(Rc::clone(&lane), connect, backoff);
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
        self.add_again(group, now, now, request, waiter)
    }

    /// As `add`, for one that has been elsewhere before: its patience began then.
    pub fn add_again(&self, group: u64, now: u64, since: u64, request: &[u8], waiter: T) -> u64 {
        let order = self.next_order.get();
        self.next_order.set(order + 1);
        let mut queue = self.queue.borrow_mut();
        let at = queue.queued;
        queue.add(request, Owed { waiter, sent: now, since, order, group, at });
        drop(queue);
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

    /// What waits here for a connection may have to go elsewhere.
    pub fn reroute(&self) {
        if self.bidding.get() == Bidding::Nothing {
            self.bidding.set(Bidding::Reroute);
        }
        self.wake();
    }

    /// Its node is not the one to talk to any more: the connection is given up.
    pub fn leave(&self) {
        self.bidding.set(Bidding::Leave);
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

    /// The place in the order of the first command that is owed a reply; the next command's if there is none.
    pub fn first_order(&self) -> u64 {
        self.queue.borrow().owed.front().map_or(self.next_order.get(), |owed| owed.order)
    }

    /// The request of a command whose reply has just been taken; `None` unless requests are kept.
    pub fn request(&self, owed: &Owed<T>) -> Option<Bytes> {
        self.queue.borrow().request(owed.at)
    }

    /// Calls `each` with everyone who is owed a reply.
    pub fn each_waiter(&self, each: impl FnMut(&T)) {
        self.queue.borrow().owed.iter().map(|owed| &owed.waiter).for_each(each);
    }

    /// Commands owed a reply.
    pub fn depth(&self) -> usize {
        self.queue.borrow().owed.len()
    }

    /// Bytes waiting to be written.
    pub fn backlog(&self) -> usize {
        self.queue.borrow().unwritten().len()
    }

    fn wake(&self) {
        if let Some(waker) = self.driver.borrow_mut().take() {
            waker.wake();
        }
    }

    /// When the first patience ends, if a command is answered in `patience` from its beginning; `connect`: it has to
    /// leave within this too.
    fn patience_ends(&self, patience: Duration, connect: Option<Duration>) -> Option<u64> {
        let queue = self.queue.borrow();
        let answered = queue.oldest()?.saturating_add(patience.as_nanos() as u64);
        let leaves = connect.and_then(|connect| {
            let first = queue.owed.front()?;
            Some(first.sent.saturating_add(connect.as_nanos() as u64))
        });
        Some(leaves.map_or(answered, |leaves| leaves.min(answered)))
    }
}

#[cfg(test)]
mod tests;
