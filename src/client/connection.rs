//! One client's task: reads, cuts commands out, dispatches them, and does what must wait.
//!
//! ```text
//!  read(2) ─► commands ─► dispatch ─┬─ Next: answered or under way; on to the next command
//!                                   └─ anything that waits: once all earlier replies are in (rule 5)
//! ```
//!
//! *Invariant:* commands are taken in order, one at a time; none is taken while too many are under way or too much
//! waits to be read (backpressure). Replies are written by whoever completes them, not by this task.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use super::registry::{Place, Registry};
use crate::dispatch::block::Block;
use crate::dispatch::{Flow, Session, Worker};
use crate::error::Error;
use crate::limits::{AUTHENTICATED, RequestLimits, UNAUTHENTICATED};
use crate::net::ReadHalf;
use crate::protocol::{Args, Parsed, RequestParser};
use crate::switch::{Rule, on};
use crate::telemetry::labels::Class;
use crate::telemetry::metrics::{Counter, Gauge};

/// Room made for a read.
const READ_ROOM: usize = 16 * 1024;

/// Most room made at once for the rest of a large request, whatever length it declares.
const READ_ROOM_MAX: usize = 1024 * 1024;

/// How long a client that has closed its side is still answered: one that has left cannot be told from it.
const FAREWELL: Duration = Duration::from_secs(1);

/// One client's task.
pub struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) session: Rc<Session>,
    pub(super) registry: Arc<Registry>,
    read: ReadHalf,
    /// Read, not yet taken; empty for an idle client.
    input: BytesMut,
    parser: RequestParser,
    /// The client has closed its side.
    pub(super) said_all: bool,
    /// A dedicated connection owes it replies that come soon: a drain waits for them.
    pub(super) owed_elsewhere: bool,
    /// Whether its card has its waker.
    known: bool,
}

/// The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over;

/// What stopped the taking of commands.
enum Stop {
    /// More bytes are needed.
    Starved,
    /// Too much is under way, or waits to be read.
    Full,
    /// A command that must wait its turn.
    Slow(Flow, BytesMut),
}

/// What the task waits for besides the end of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// More bytes.
    Read,
    /// Room for more commands.
    Room,
    /// All replies in.
    Settled,
    /// All output written.
    Drained,
    /// Nothing but the end of the connection.
    Over,
}

// === impl Connection ===

impl Connection {
    /// A client's task, ready to run.
    pub fn new(worker: Rc<Worker>, session: Rc<Session>, registry: Arc<Registry>, read: ReadHalf) -> Self {
        Connection {
            worker,
            session,
            registry,
            read,
            input: BytesMut::new(),
            parser: RequestParser::default(),
            said_all: false,
            owed_elsewhere: false,
            known: false,
        }
    }

    /// The client.
    pub fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Serves the client until it leaves.
    pub async fn serve(mut self, place: Place) {
        self.worker.cells.shift(Gauge::Clients, 1);
        let _ = self.run().await;
        if self.said_all && !self.session.is_closed() {
            // It may have closed its side only: what it is owed is still sent.
            let limit = self.worker.settings.upstream.command_timeout.min(FAREWELL);
            let _ = tokio::time::timeout(limit, self.farewell()).await;
        }
        self.session.close();
        self.worker.unsubscribe_all(&self.session);
        self.worker.gone(&self.session);
        // Whoever sees the gauge go down finds the place free.
        drop(place);
        self.worker.cells.shift(Gauge::Clients, -1);
    }

    async fn run(&mut self) -> Result<(), Over> {
        loop {
            if on(Rule::ClockAfterRead) {
                self.worker.begin_batch();
            }
            self.session.card.last.store(self.worker.now(), Ordering::Relaxed);
            let stop = self.take_commands();
            self.worker.end_batch(&self.session.lane());
            self.worker.flush_one(&self.session);
            if self.session.closing.get() {
                return self.farewell().await;
            }
            match stop {
                Ok(Stop::Starved) => self.wait(Until::Read).await?,
                Ok(Stop::Full) => self.paused().await?,
                Ok(Stop::Slow(flow, request)) => {
                    if on(Rule::ChangesWait) {
                        self.wait(Until::Settled).await?;
                    }
                    // Boxed: its state would make every client's task several times as large.
                    Box::pin(self.slow(flow, &request)).await?;
                }
                Err(error) => return self.last_words(&error).await,
            }
        }
    }

    /// Takes commands while there are any and there is room.
    fn take_commands(&mut self) -> Result<Stop, Error> {
        // Out of `self` while commands, which borrow from them, are on their way.
        let input = std::mem::take(&mut self.input);
        let mut parser = std::mem::take(&mut self.parser);
        let mut taken = 0;
        let mut hot = None;
        let stop = loop {
            if self.session.closing.get() {
                break Ok(Stop::Starved);
            }
            if !self.has_room() {
                break Ok(Stop::Full);
            }
            let unread = input.get(taken..).unwrap_or_default();
            if unread.is_empty() {
                break Ok(Stop::Starved);
            }
            let limits = self.limits();
            let inline;
            let (len, raw) = match parser.next(unread, limits) {
                Ok(Parsed::Incomplete) => break Ok(Stop::Starved),
                Ok(Parsed::Empty { len }) => {
                    taken += len;
                    continue;
                }
                Ok(Parsed::Request { len }) => (len, unread.get(..len).unwrap_or_default()),
                Ok(Parsed::Inline { len, request }) => {
                    inline = request;
                    (len, &inline[..])
                }
                Err(error) => break Err(Error::Protocol(error.to_string())),
            };
            let args = parser.args(raw);
            hot = hot.or_else(|| self.worker.hot(&self.session));
            if let Some(hot) = &hot
                && self.worker.hot_hit(&self.session, hot, &args)
            {
                taken += len;
                continue;
            }
            // Whatever it is, it may change what hits have in common.
            hot = None;
            match self.worker.dispatch(&self.session, &args) {
                Flow::Next => taken += len,
                Flow::Multi if let Some(block) = Block::find(&self.worker, unread, limits) => {
                    taken += block.len;
                    self.worker.send_block(&self.session, block, unread, None);
                }
                flow => {
                    taken += len;
                    if !self.answered_here(flow, &args) {
                        break Ok(Stop::Slow(flow, BytesMut::from(raw)));
                    }
                }
            }
        };
        self.parser = parser;
        self.input = input;
        self.took(taken);
        stop
    }

    /// Forgets what has been taken; an empty buffer is lent out again.
    fn took(&mut self, taken: usize) {
        if taken < self.input.len() {
            return self.input.advance(taken);
        }
        self.input.clear();
        self.worker.lend_buffer(std::mem::take(&mut self.input));
    }

    fn has_room(&self) -> bool {
        let limits = &self.worker.settings.client;
        let replies = self.session.replies.borrow();
        !on(Rule::SlowClientsArePaused)
            || replies.len() < limits.max_pipeline && replies.bytes() <= limits.output_pause_bytes
    }

    /// Half of the room there may be: a paused client goes on with a batch, not with each reply.
    fn has_half_room(&self) -> bool {
        let limits = &self.worker.settings.client;
        let replies = self.session.replies.borrow();
        replies.len() <= limits.max_pipeline / 2 && replies.bytes() <= limits.output_pause_bytes / 2
    }

    fn limits(&self) -> &'static RequestLimits {
        if self.session.authenticated.get() { &AUTHENTICATED } else { &UNAUTHENTICATED }
    }

    /// A command that waits for nothing but its turn among the replies.
    fn answered_here(&mut self, flow: Flow, args: &Args<'_>) -> bool {
        let Flow::Local(row) = flow else { return false };
        let answered = self.local(row, args);
        if answered {
            self.session.spoken();
        }
        answered
    }

    /// A command that waits; all earlier replies are in.
    async fn slow(&mut self, flow: Flow, request: &[u8]) -> Result<(), Over> {
        self.worker.begin_batch();
        let mut parser = RequestParser::default();
        if !matches!(parser.parse(request, &AUTHENTICATED), Ok(Parsed::Request { .. })) {
            return Err(Over);
        }
        let args = Args { raw: request, ranges: parser.ranges() };
        match flow {
            Flow::Next => {}
            Flow::Local(row) => {
                self.local_slow(row, &args).await?;
                self.session.spoken();
            }
            Flow::Multi => self.dedicated(Class::Transaction, &args).await?,
            Flow::Dedicated(class) => self.dedicated(class, &args).await?,
            Flow::Ask => {
                self.ask(&args).await;
                self.worker.begin_batch();
                match self.worker.dispatch(&self.session, &args) {
                    Flow::Next => {}
                    Flow::Dedicated(class) => self.dedicated(class, &args).await?,
                    // Upstream has not said what it is.
                    _ => self.dedicated(Class::Unknown, &args).await?,
                }
            }
            Flow::Settle => {
                let flow = self.worker.dispatch(&self.session, &args);
                if !matches!(flow, Flow::Next) && !self.answered_here(flow, &args) {
                    Box::pin(self.slow(flow, request)).await?;
                }
            }
        }
        self.worker.flush_one(&self.session);
        Ok(())
    }

    async fn paused(&mut self) -> Result<(), Over> {
        self.worker.cells.shift(Gauge::ClientsPaused, 1);
        let over = self.wait(Until::Room).await;
        self.worker.cells.shift(Gauge::ClientsPaused, -1);
        over
    }

    /// The connection ends with an error in the turn of what the client has sent last.
    async fn last_words(&mut self, error: &Error) -> Result<(), Over> {
        self.worker.refuse(&self.session, Class::Unknown, error);
        self.farewell().await
    }

    /// Lets go when everything owed is written.
    pub(super) async fn farewell(&mut self) -> Result<(), Over> {
        self.wait(Until::Settled).await?;
        self.worker.flush_one(&self.session);
        self.wait(Until::Drained).await?;
        Err(Over)
    }
}

// === impl Connection: waiting ===

impl Connection {
    /// Waits; errors when the connection is over.
    pub(super) async fn wait(&mut self, until: Until) -> Result<(), Over> {
        let idle = self.worker.settings.client.idle_timeout;
        if idle.is_zero() || until != Until::Read || self.session.is_subscribed() {
            return std::future::poll_fn(|cx| self.poll_until(cx, until)).await;
        }
        self.wait_idle(idle).await
    }

    async fn wait_idle(&mut self, idle: Duration) -> Result<(), Over> {
        match tokio::time::timeout(idle, std::future::poll_fn(|cx| self.poll_until(cx, Until::Read))).await {
            Ok(over) => over,
            Err(_) if !self.session.replies.borrow().is_settled() || self.session.is_subscribed() => Ok(()),
            Err(_) => {
                self.worker.cells.add(Counter::ClientsClosedIdle, 1);
                Err(Over)
            }
        }
    }

    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Result<(), Over>> {
        self.session.wake_by(cx.waker());
        self.session.waiting.set(until != Until::Read);
        if !self.known {
            // A task's waker stays the same.
            let mut waker = self.session.card.waker.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *waker = Some(cx.waker().clone());
            self.known = true;
        }
        if self.session.is_closed() || self.session.card.killed.load(Ordering::Relaxed) {
            return Poll::Ready(Err(Over));
        }
        while self.session.stuck.get() {
            match self.session.poll_writable(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Over)),
                Poll::Ready(Ok(())) => {
                    self.session.stuck.set(false);
                    self.worker.flush_one(&self.session);
                }
            }
        }
        if self.worker.draining.get() && until == Until::Read && self.is_at_rest() {
            return Poll::Ready(Err(Over));
        }
        match until {
            Until::Read if self.session.closing.get() => Poll::Ready(Ok(())),
            Until::Read => self.poll_read(cx),
            Until::Room if self.has_half_room() => Poll::Ready(Ok(())),
            Until::Settled if self.session.replies.borrow().is_settled() => Poll::Ready(Ok(())),
            Until::Drained if self.session.replies.borrow().out.is_empty() => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    /// Nothing is owed, nothing is half said.
    fn is_at_rest(&self) -> bool {
        let replies = self.session.replies.borrow();
        self.input.is_empty() && !self.owed_elsewhere && replies.is_settled() && replies.out.is_empty()
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        let borrowed = self.input.is_empty() && self.input.capacity() == 0;
        if borrowed {
            self.input = self.worker.borrow_buffer();
        }
        self.input.reserve(READ_ROOM.max(self.parser.needed().min(READ_ROOM_MAX)));
        let read = pin!(self.read.read_buf(&mut self.input)).poll(cx);
        match read {
            Poll::Pending => {
                if self.input.is_empty() {
                    // An idle client holds no buffer.
                    self.worker.lend_buffer(std::mem::take(&mut self.input));
                }
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.said_all = true;
                Poll::Ready(Err(Over))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Over)),
            Poll::Ready(Ok(read)) => {
                self.worker.cells.add(Counter::ClientBytesIn, read as u64);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Bytes read and not yet taken.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input
    }

    /// The next whole command read, if there is one; what dedicated connections are fed from.
    pub(super) fn next_request(&mut self) -> Result<Option<BytesMut>, Error> {
        loop {
            if self.input.is_empty() {
                return Ok(None);
            }
            let limits = self.limits();
            match self.parser.parse(&self.input, limits) {
                Ok(Parsed::Incomplete) => return Ok(None),
                Ok(Parsed::Empty { len }) => self.input.advance(len),
                Ok(Parsed::Request { len }) => return Ok(Some(self.input.split_to(len))),
                Ok(Parsed::Inline { len, request }) => {
                    self.input.advance(len);
                    return Ok(Some(BytesMut::from(&request[..])));
                }
                Err(error) => return Err(Error::Protocol(error.to_string())),
            }
        }
    }
}
