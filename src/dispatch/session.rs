//! What dispatch must know of one client, and the writing side of its socket.
//!
//! *Invariant:* lives as long as anything is owed to it; a client that has left takes replies like any other,
//! they are dropped. Not here: reading, parsing, the local commands (`client`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Waker;

use super::detours::Detours;
use super::lane::TrackedLane;
use super::pubsub::Subscriptions;
use super::replicas::Wrote;
use super::replies::Replies;
use crate::net::WriteHalf;

/// Whether a client wants replies (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// As usual.
    On,
    /// None at all.
    Off,
    /// None to the next command.
    SkipNext,
    /// None to this command.
    Skip,
}

/// What other threads may see and do of a client (CLIENT LIST, CLIENT KILL).
#[derive(Debug)]
pub struct Card {
    /// Its id, unique over all workers.
    pub id: u64,
    /// Its address.
    pub address: String,
    /// The address it connected to.
    pub local_address: String,
    /// When it came, in boottime nanoseconds.
    pub since: u64,
    /// When its last command came.
    pub last: AtomicU64,
    /// The database.
    pub db: AtomicU64,
    /// The RESP version.
    pub proto: AtomicU64,
    /// How many channels, patterns and shard channels it is subscribed to.
    pub subscriptions: [AtomicU64; 3],
    /// The upstream connection that stands in for it while it waits; 0: none.
    pub upstream_id: AtomicU64,
    /// What it is about on a connection of its own, as CLIENT LIST has it: bits of `client::registry`.
    pub flags: AtomicU8,
    /// CLIENT KILL has been asked for.
    pub killed: AtomicBool,
    /// Name, library name and version, user, last command.
    pub words: std::sync::Mutex<Words>,
    /// Wakes its task so that it notices `killed`.
    pub waker: std::sync::Mutex<Option<Waker>>,
}

/// The words a client has given of itself.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// CLIENT SETNAME.
    pub name: String,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: String,
    /// CLIENT SETINFO LIB-VER.
    pub lib_ver: String,
    /// The upstream user.
    pub user: String,
}

/// One client.
pub struct Session {
    /// What others may see of it.
    pub card: Arc<Card>,
    /// The writing side.
    half: WriteHalf,
    /// What it is owed.
    pub replies: RefCell<Replies>,
    /// The lane its commands ride.
    lane: RefCell<Rc<TrackedLane>>,
    /// Whether it speaks RESP3.
    resp3: Cell<bool>,
    /// The newest place in the lane's order that it rests on.
    pub newest: Cell<u64>,
    /// Whether it may do anything at all.
    pub authenticated: Cell<bool>,
    /// What it shares with others.
    pub subscriptions: RefCell<Subscriptions>,
    /// Its next command may not be one to be taken as usual: it is in RESP2's subscribe mode, or confirmations are due.
    pub careful: Cell<bool>,
    /// Whether no more of its commands are taken until all before are answered: some are on their way by an older map.
    settles_first: Cell<bool>,
    /// By which map of slots its worker went when it last had nothing under way by an older one.
    pub(super) map: Cell<u64>,
    /// What it has written to each shard, where replicas may be read from.
    pub(super) wrote: RefCell<Vec<Wrote>>,
    /// What nodes have turned away and waits to be tried again.
    pub detours: RefCell<Option<Rc<Detours>>>,
    /// Whether it wants replies.
    pub voice: Cell<Voice>,
    /// Whether it stands in the worker's list of clients with new output.
    pub touched: Cell<bool>,
    /// Output that the socket did not take waits for it to become writable.
    pub stuck: Cell<bool>,
    /// Its task waits for replies to be in, or for room.
    pub waiting: Cell<bool>,
    /// Its connection is over; nothing more is written.
    closed: Cell<bool>,
    /// To be closed when its output is written.
    pub closing: Cell<bool>,
    /// Wakes its task.
    waker: RefCell<Option<Waker>>,
}

/// What came of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All is written; so many bytes now.
    All(usize),
    /// The socket is full.
    Stuck(usize),
    /// The client has left.
    Gone,
}

// === impl Session ===

impl Session {
    /// A client that has just come.
    pub fn new(card: Arc<Card>, half: WriteHalf, lane: Rc<TrackedLane>, authenticated: bool) -> Rc<Self> {
        Rc::new(Session {
            card,
            half,
            replies: RefCell::default(),
            lane: RefCell::new(lane),
            resp3: Cell::new(false),
            newest: Cell::new(0),
            authenticated: Cell::new(authenticated),
            subscriptions: RefCell::default(),
            careful: Cell::new(false),
            settles_first: Cell::new(false),
            map: Cell::new(0),
            wrote: RefCell::default(),
            detours: RefCell::new(None),
            voice: Cell::new(Voice::On),
            touched: Cell::new(false),
            stuck: Cell::new(false),
            waiting: Cell::new(false),
            closed: Cell::new(false),
            closing: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// The lane its commands ride.
    pub fn lane(&self) -> Rc<TrackedLane> {
        Rc::clone(&self.lane.borrow())
    }

    /// Rides another lane from here on; only when nothing is owed (rule 5).
    /// Returns the one it rode.
    pub(super) fn change_lane(&self, lane: Rc<TrackedLane>) -> Rc<TrackedLane> {
        self.card.db.store(u64::from(lane.db), Ordering::Relaxed);
        self.newest.set(0);
        std::mem::replace(&mut *self.lane.borrow_mut(), lane)
    }

    /// Takes no more commands until all before are answered.
    pub fn settle_first(&self) {
        self.settles_first.set(true);
        self.careful.set(true);
    }

    /// Whether it still has to; once it has, it goes on as usual.
    pub fn must_settle(&self) -> bool {
        if self.settles_first.get() && self.replies.borrow().is_settled() {
            self.settles_first.set(false);
            self.note_subscriptions();
        }
        self.settles_first.get()
    }

    /// Whether what it says next may not be taken as usual for this reason.
    pub(super) fn settles_first(&self) -> bool {
        self.settles_first.get()
    }

    /// Whether it speaks RESP3.
    pub fn resp3(&self) -> bool {
        self.resp3.get()
    }

    /// The RESP version of what follows.
    pub fn speak(&self, resp3: bool) {
        self.card.proto.store(if resp3 { 3 } else { 2 }, Ordering::Relaxed);
        self.resp3.set(resp3);
        self.note_subscriptions();
    }

    /// Whether the command under way is to be answered with silence.
    pub fn mute(&self) -> bool {
        matches!(self.voice.get(), Voice::Off | Voice::Skip)
    }

    /// A command has been dispatched: a skip asked for by the one before it is used up.
    pub fn spoken(&self) {
        match self.voice.get() {
            Voice::SkipNext => self.voice.set(Voice::Skip),
            Voice::Skip => self.voice.set(Voice::On),
            Voice::On | Voice::Off => {}
        }
    }

    /// It rests on a place in the lane's order: a command sent, or a flight joined.
    pub fn rests_on(&self, order: u64) {
        self.newest.set(self.newest.get().max(order));
    }

    /// Whether its connection is over.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Its connection is over.
    pub fn close(&self) {
        if !self.closed.replace(true) {
            // What it is still owed keeps the session, and so the socket, alive for a while.
            self.half.shut_down();
        }
        self.replies.borrow_mut().out.clear();
        self.wake();
    }

    /// Is closed when it has read what it is owed.
    pub fn let_go(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Writes what the socket takes. A task waiting for replies to be in, or for room, is woken.
    pub fn flush(&self) -> Flushed {
        if self.closed.get() {
            self.replies.borrow_mut().out.clear();
            self.wake();
            return Flushed::Gone;
        }
        let written = self.replies.borrow_mut().out.write(&self.half);
        match written {
            Ok((bytes, true)) => Flushed::All(bytes),
            Ok((bytes, false)) => {
                if !self.stuck.replace(true) {
                    self.wake();
                }
                Flushed::Stuck(bytes)
            }
            Err(_) => {
                self.close();
                Flushed::Gone
            }
        }
    }

    /// Polls the socket for room.
    pub fn poll_writable(&self, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        self.half.poll_write_ready(cx)
    }

    /// Remembers whom to wake.
    pub fn wake_by(&self, waker: &Waker) {
        let mut place = self.waker.borrow_mut();
        if !place.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }

    /// Wakes its task.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}
