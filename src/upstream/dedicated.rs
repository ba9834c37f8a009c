//! Connections checked out for one client at a time: three bb8 pools per worker, node and upstream user.
//!
//! *Invariant:* a connection goes back to its pool only if it is clean; one that is not is closed, however its
//! use ended. Three pools and not one: what waits on others would starve those that it waits for, and what must
//! overtake a running command must never queue behind it.
//! bb8 hides why it cannot connect until the whole wait is over; here every failed attempt is told at once to
//! those who wait for it. Not here: what is said on a connection (`connection`), retries and their pauses.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::handshake::{HandshakeError, Hello, Purpose, handshake};
use super::identity::Credentials;
use super::{Config, PoolConfig};
use crate::net::{Address, ConnectOptions, Stream};
use crate::switch::{Rule, on};

/// Most control connections: one that works and one more while that waits on a slow command.
const CONTROL_MAX: u32 = 2;

/// A connection checked out; dropping it gives it back, or closes it if it is not clean.
pub type Checkout = bb8::PooledConnection<'static, Connector>;

/// What a connection is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Transactions, large values, unknown commands.
    Transactions,
    /// What waits on others: blocking commands, subscriptions, MONITOR.
    Waiting,
    /// What must overtake others: SCRIPT KILL, CLIENT UNBLOCK.
    Control,
}

/// All pool kinds.
pub const POOL_KINDS: [PoolKind; 3] = [PoolKind::Transactions, PoolKind::Waiting, PoolKind::Control];

/// Opens and judges connections for a pool.
#[derive(Debug)]
pub struct Connector {
    /// Where.
    address: Address,
    /// As whom.
    credentials: Credentials,
    /// Whether it is a replica that is to be read from.
    readonly: bool,
    /// Time for connecting and handshaking together.
    timeout: Duration,
    /// Longest time for bytes to stay unacknowledged.
    user_timeout: Duration,
    /// Attempts begun, and the last that failed.
    attempts: Arc<Attempts>,
    /// Turns true when the node is not the one to talk to any more.
    left: watch::Receiver<bool>,
}

/// The connection attempts of one pool.
#[derive(Debug)]
struct Attempts {
    /// Attempts begun; an attempt's number is this count after it.
    begun: AtomicU64,
    /// The failed attempt with the highest number.
    failed: watch::Sender<Option<Failure>>,
}

/// A failed attempt.
#[derive(Clone, Debug)]
struct Failure {
    attempt: u64,
    cause: Arc<HandshakeError>,
}

/// One pool with its numbers.
#[derive(Debug)]
struct Pool {
    connections: bb8::Pool<Connector>,
    attempts: Arc<Attempts>,
    limit: u32,
    wait_timeout: Duration,
    waiting: AtomicU32,
    timed_out: AtomicU64,
}

/// The pools for one node and one upstream user, of one worker.
#[derive(Debug)]
pub struct Dedicated {
    address: Address,
    readonly: bool,
    left: watch::Sender<bool>,
    transactions: Pool,
    waiting: Pool,
    control: Pool,
}

/// One pool's numbers at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Most connections at once.
    pub limit: u32,
    /// Checked out.
    pub in_use: u32,
    /// Resting.
    pub idle: u32,
    /// Clients waiting for one.
    pub waiting: u32,
    /// Waits that ended without one, since the start.
    pub timed_out: u64,
    /// Connections opened since the start.
    pub created: u64,
    /// Connections closed since the start, for whatever reason.
    pub closed: u64,
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// All are in use, and none came back within `wait_timeout`.
    #[error("all {limit} connections to upstream {address} are in use")]
    Exhausted {
        /// Where to.
        address: Address,
        /// The pool's limit.
        limit: u32,
    },
    /// Upstream cannot be reached, or is no Redis.
    #[error("upstream {address} cannot be reached: {cause}")]
    Unreachable {
        /// Where to.
        address: Address,
        /// Why.
        cause: Arc<HandshakeError>,
    },
    /// Where to is not known at present.
    #[error("{0} is nowhere to be found")]
    Unknown(String),
    /// Upstream refuses the user or the connection: its own error line, without its CRLF.
    #[error("{}", String::from_utf8_lossy(.0))]
    Refused(Vec<u8>),
}

/// Counts one waiting client; drop ends the count.
struct Waiting<'a>(&'a AtomicU32);

// === impl Connector ===

impl Connector {
    async fn open(&self) -> Result<Connection, HandshakeError> {
        let deadline = Instant::now() + self.timeout;
        let identity = self.credentials.identity()?;
        let options = ConnectOptions { timeout: self.timeout, user_timeout: self.user_timeout };
        let mut stream = Stream::connect(&self.address, options).await?;
        let hello = Hello {
            identity: &identity,
            db: 0,
            resp3: true,
            name: super::CLIENT_NAME,
            purpose: Purpose::Dedicated,
            readonly: self.readonly,
            kill: None,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let (ready, behind) = handshake(&mut stream, &hello, left).await?;
        if !behind.is_empty() {
            // It would never be clean, and the pool would open one after the other.
            return Err(HandshakeError::Protocol("it speaks unasked"));
        }
        Ok(Connection::new(stream, ready, 0, behind).until(self.left.clone()))
    }
}

impl bb8::ManageConnection for Connector {
    type Connection = Connection;
    type Error = Arc<HandshakeError>;

    async fn connect(&self) -> Result<Connection, Arc<HandshakeError>> {
        let attempt = self.attempts.begin();
        self.open().await.map_err(|error| {
            let cause = Arc::new(error);
            self.attempts.fail(attempt, &cause);
            cause
        })
    }

    /// No round trip: a peer that has died in silence is found by the command's own time limit.
    fn is_valid(&self, connection: &mut Connection) -> impl Future<Output = Result<(), Arc<HandshakeError>>> + Send {
        let clean = connection.is_clean() || !on(Rule::PoolKeepsTheClean);
        let fit = clean && (connection.is_silent() || !on(Rule::PoolKeepsTheSilent));
        let gone = || Arc::new(HandshakeError::Io(std::io::ErrorKind::ConnectionReset.into()));
        std::future::ready(if fit { Ok(()) } else { Err(gone()) })
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        let clean = connection.is_clean();
        if clean {
            connection.rest();
        }
        !clean && on(Rule::PoolKeepsTheClean)
    }
}

// === impl Attempts ===

impl Attempts {
    fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn fail(&self, attempt: u64, cause: &Arc<HandshakeError>) {
        self.failed.send_modify(|last| {
            // A later attempt's failure tells the waiters more: they wait for one begun after they came.
            if last.as_ref().is_none_or(|last| last.attempt < attempt) {
                *last = Some(Failure { attempt, cause: cause.clone() });
            }
        });
    }
}

// === impl Pool ===

impl Pool {
    fn new(connector: Connector, pool: &PoolConfig, max: u32) -> Pool {
        let attempts = Arc::clone(&connector.attempts);
        // bb8 panics at zeros; here they mean: at least one, and no limit of time.
        let limit = max.max(1);
        let wait_timeout = pool.wait_timeout.max(Duration::from_millis(1));
        let connections = bb8::Pool::builder()
            .max_size(limit)
            .min_idle(Some(pool.min_idle.min(limit)))
            .max_lifetime(Some(pool.max_age).filter(|age| !age.is_zero()))
            .idle_timeout(Some(pool.idle_timeout).filter(|time| !time.is_zero()))
            .connection_timeout(wait_timeout)
            .test_on_check_out(true)
            // The next client's attempt is the retry; bb8's own would go on with nobody waiting.
            .retry_connection(false)
            // The rest grow old and are closed, so that the pool shrinks to what is needed.
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .build_unchecked(connector);
        let (waiting, timed_out) = (AtomicU32::new(0), AtomicU64::new(0));
        Pool { connections, attempts, limit, wait_timeout, waiting, timed_out }
    }

    async fn get(&self, address: &Address) -> Result<Checkout, PoolError> {
        let _waiting = Waiting::begin(&self.waiting);
        let before = self.attempts.begun.load(Ordering::Relaxed);
        let mut failed = self.attempts.failed.subscribe();
        let deadline = Instant::now() + self.wait_timeout;
        loop {
            let failure = tokio::select! {
                biased;
                checkout = timeout_at(deadline, self.connections.get_owned()) => match checkout {
                    Ok(Ok(checkout)) => return Ok(checkout),
                    Ok(Err(bb8::RunError::User(cause))) => return Err(refused(address, cause)),
                    Ok(Err(bb8::RunError::TimedOut)) | Err(_) => return Err(self.timed_out(address)),
                },
                _ = failed.changed() => failed.borrow_and_update().clone(),
            };
            // An attempt begun before we came may have failed on what is repaired by now. bb8 begins no new one
            // for those who wait already, so ask it anew.
            if let Some(failure) = failure.filter(|failure| failure.attempt > before) {
                return Err(refused(address, failure.cause));
            }
        }
    }

    fn timed_out(&self, address: &Address) -> PoolError {
        self.timed_out.fetch_add(1, Ordering::Relaxed);
        let address = address.clone();
        if self.connections.state().connections >= self.limit {
            return PoolError::Exhausted { address, limit: self.limit };
        }
        // There was room: it is connecting that took so long.
        PoolError::Unreachable { address, cause: Arc::new(HandshakeError::Timeout) }
    }

    fn stats(&self) -> PoolStats {
        let state = self.connections.state();
        let numbers = &state.statistics;
        let closed = numbers.connections_closed_broken
            + numbers.connections_closed_invalid
            + numbers.connections_closed_max_lifetime
            + numbers.connections_closed_idle_timeout;
        PoolStats {
            limit: self.limit,
            in_use: state.connections.saturating_sub(state.idle_connections),
            idle: state.idle_connections,
            waiting: self.waiting.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
            created: numbers.connections_created,
            closed,
        }
    }
}

// === impl Dedicated ===

impl Dedicated {
    /// The pools for the server at `address`, `readonly` if it is a replica that is to be read from. Opens nothing unless `min_idle` asks for it. Must be called in a
    /// runtime; all use must be in that runtime.
    pub fn new(address: Address, readonly: bool, credentials: &Credentials, config: &Config) -> Dedicated {
        let left = watch::Sender::new(false);
        let connector = || Connector {
            address: address.clone(),
            credentials: credentials.clone(),
            readonly,
            timeout: config.connect_timeout,
            user_timeout: config.command_timeout,
            attempts: Arc::new(Attempts { begun: AtomicU64::new(0), failed: watch::Sender::new(None) }),
            left: left.subscribe(),
        };
        let pool = |pool: &PoolConfig, max| Pool::new(connector(), pool, max);
        let control = PoolConfig { min_idle: 0, ..config.pool.clone() };
        Dedicated {
            transactions: pool(&config.pool, config.pool.max),
            waiting: pool(&config.waiting_pool, config.waiting_pool.max),
            control: pool(&control, CONTROL_MAX),
            address,
            readonly,
            left,
        }
    }

    /// The node is not the one to talk to any more: connections that are checked out fail, and so do those that come.
    pub fn leave(&self) {
        self.left.send_replace(on(Rule::LeftPoolsEnd));
    }

    /// Checks a connection out: a resting one, a new one, or the next that comes back. It is clean, at whatever
    /// database and RESP version its last client left it; see [`Connection::align`]. Cancelling is harmless.
    ///
    /// # Errors
    /// `Exhausted` after `wait_timeout`; `Unreachable` or `Refused` as soon as an attempt to connect, begun
    /// after this call, has failed.
    pub async fn get(&self, kind: PoolKind) -> Result<Checkout, PoolError> {
        self.pool(kind).get(&self.address).await
    }

    /// A pool's numbers.
    pub fn stats(&self, kind: PoolKind) -> PoolStats {
        self.pool(kind).stats()
    }

    /// Where the connections go.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the connections read from a replica.
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    fn pool(&self, kind: PoolKind) -> &Pool {
        match kind {
            PoolKind::Transactions => &self.transactions,
            PoolKind::Waiting => &self.waiting,
            PoolKind::Control => &self.control,
        }
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    fn begin(count: &AtomicU32) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upstream's own words go through as they are; all else means that it cannot be reached.
fn refused(address: &Address, cause: Arc<HandshakeError>) -> PoolError {
    match &*cause {
        HandshakeError::Auth(line) | HandshakeError::Select(line) | HandshakeError::Refused(line) => {
            PoolError::Refused(line.clone())
        }
        HandshakeError::Io(_)
        | HandshakeError::Timeout
        | HandshakeError::Protocol(_)
        | HandshakeError::Nowhere
        | HandshakeError::NotMaster
        | HandshakeError::Resp(_) => PoolError::Unreachable { address: address.clone(), cause },
    }
}

#[cfg(test)]
mod tests;
