//! The upstream users that a worker's clients act as, and the dedicated connections of each.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::worker::{Account, Worker};
use crate::error::Error;
use crate::net::{Address, boottime};
use crate::switch::{Rule, on};
use crate::telemetry::labels::Pool;
use crate::telemetry::metrics::{Counter, Histogram};
use crate::upstream::connection::ConnectionError;
use crate::upstream::dedicated::{Checkout, Dedicated, PoolError, PoolKind};
use crate::upstream::handshake::HandshakeError;
use crate::upstream::identity::{Credentials, Identity};
use crate::upstream::topology::{NodeId, Topology};

/// While there is no master to connect to, so long until the next attempt, unless one is found before.
const AGAIN: Duration = Duration::from_millis(500);

/// Where a dedicated connection goes.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The node that is tried first.
    pub node: NodeId,
    /// In a cluster, who it is by now, which is asked if that node cannot be had; `None`: no other will do.
    pub now: Option<&'a dyn Fn() -> NodeId>,
}

// === impl Place ===

impl Place<'_> {
    /// At this node, whatever becomes of it.
    pub fn at(node: NodeId) -> Place<'static> {
        Place { node, now: None }
    }

    /// Where it is by now, if it was this node.
    fn from(&self, node: NodeId) -> NodeId {
        self.now.map_or(node, |now| now())
    }
}

// === impl Worker ===

impl Worker {
    /// The account of an identity that a client has given, made if it is the first.
    pub fn account(&self, identity: &Identity) -> u32 {
        let mut accounts = self.accounts.borrow_mut();
        let is = |account: &Rc<Account>| account.identity.as_ref() == Some(identity);
        if let Some(found) = accounts.iter().position(|account| account.as_ref().is_some_and(is)) {
            return found as u32;
        }
        let account = Some(Rc::new(Account::new(Some(identity.clone()))));
        let free = accounts.iter().position(Option::is_none).unwrap_or(accounts.len());
        match accounts.get_mut(free) {
            Some(place) => *place = account,
            None => accounts.push(account),
        }
        free as u32
    }

    /// An account, by its number.
    pub fn account_at(&self, index: u32) -> Option<Rc<Account>> {
        self.accounts.borrow().get(index as usize).cloned().flatten()
    }

    /// An account's dedicated connection, and the node that it is to.
    ///
    /// # Errors
    /// As [`Dedicated::get`] has them.
    pub async fn check_out(
        &self,
        account: &Account,
        place: Place<'_>,
        kind: PoolKind,
    ) -> Result<(NodeId, Checkout), PoolError> {
        let mut node = place.node;
        let waits = match &self.settings.topology {
            Topology::Standalone { .. } => false,
            Topology::Sentinel(_) => true,
            Topology::Cluster(_) => place.now.is_some(),
        };
        if !waits {
            return Ok((node, self.pools(account, node)?.get(kind).await?));
        }
        // Whoever was certainly not sent waits for a failover to end.
        let upstream = &self.settings.upstream;
        let patience = Instant::now() + upstream.failover_wait.min(upstream.command_timeout);
        let mut moves = self.moves.subscribe();
        // Since it was last waited.
        let mut tried = Vec::new();
        loop {
            let checked_out = tokio::select! {
                biased;
                checked_out = self.check_out_of_master(account, node, kind) => checked_out,
                // Who has died in silence lets everybody wait.
                now = moved(&place, node, &mut moves) => {
                    node = now;
                    continue;
                }
            };
            let error = match checked_out {
                Err(error @ (PoolError::Unreachable { .. } | PoolError::Unknown(_))) => error,
                other => return other.map(|connection| (node, connection)),
            };
            if Instant::now() >= patience {
                return Err(error);
            }
            self.avoid(node);
            tried.push(node);
            node = place.from(node);
            if tried.contains(&node) {
                // Either it moves, or it is back where it was.
                let _ = timeout_at(patience.min(Instant::now() + AGAIN), moves.changed()).await;
                node = place.from(node);
                tried.clear();
            }
        }
    }

    /// As `check_out`, once; whom Sentinels name and who says that it is no master is none to talk to. In a cluster the
    /// command's own answer tells.
    async fn check_out_of_master(
        &self,
        account: &Account,
        node: NodeId,
        kind: PoolKind,
    ) -> Result<Checkout, PoolError> {
        let pools = self.pools(account, node)?;
        let mut connection = pools.get(kind).await?;
        if !self.is_cluster() && matches!(&*connection.ready.role, "replica" | "slave") {
            connection.taint();
            let (address, cause) = (pools.address().clone(), Arc::new(HandshakeError::NotMaster));
            return Err(PoolError::Unreachable { address, cause });
        }
        Ok(connection)
    }

    /// An account's pools for a node, where it is now.
    fn pools(&self, account: &Account, node: NodeId) -> Result<Rc<Dedicated>, PoolError> {
        let address = self.address_of(node).ok_or_else(|| PoolError::Unknown(self.settings.topology.to_string()))?;
        let mut pools = account.pools.borrow_mut();
        pools.retain(|(of, pools)| *of != node || stays(pools, Some(&address)));
        // Those of a node that has changed sides since serve out who uses them.
        let readonly = self.settings.is_replica(node);
        if let Some((_, found)) = pools.iter().find(|(of, pools)| *of == node && pools.is_readonly() == readonly) {
            return Ok(Rc::clone(found));
        }
        let given = account.identity.clone();
        let credentials = given.map_or_else(|| self.settings.credentials.clone(), Credentials::from);
        let opened = Rc::new(Dedicated::new(address, readonly, &credentials, &self.settings.upstream));
        pools.push((node, Rc::clone(&opened)));
        Ok(opened)
    }

    /// Lets go of the pools to nodes that have left, or are elsewhere now.
    pub(super) fn leave_pools(&self) {
        for account in self.accounts.borrow().iter().flatten() {
            account.pools.borrow_mut().retain(|(node, pools)| stays(pools, self.address_of(*node).as_ref()));
        }
    }

    /// As `check_out`, at a RESP version (else the server's best) and database (else any); else the reply to give.
    ///
    /// # Errors
    /// A whole error line, upstream's own or ours.
    pub async fn check_out_aligned(
        &self,
        identity: u32,
        place: Place<'_>,
        kind: PoolKind,
        proto: Option<u8>,
        db: Option<u32>,
    ) -> Result<(NodeId, Checkout), Vec<u8>> {
        let account = self.account_at(identity).ok_or_else(|| Error::NoAuth.reply())?;
        let begun = boottime();
        let checked_out = self.check_out(&account, place, kind).await;
        self.cells.observe(Histogram::PoolWait, boottime().saturating_sub(begun), 1);
        let (node, mut connection) = checked_out.map_err(|error| self.pool_error(kind, &error))?;
        let (proto, db) = (proto.unwrap_or(connection.ready.proto), db.unwrap_or(connection.db()));
        let failed = |error: &Error| {
            self.cells.error(error.kind());
            error.reply()
        };
        if !on(Rule::DedicatedIsAligned) {
            return Ok((node, connection));
        }
        match tokio::time::timeout(self.settings.upstream.command_timeout, connection.align(proto, db)).await {
            Ok(Ok(())) => Ok((node, connection)),
            Ok(Err(ConnectionError::Refused(line))) => Err(whole(&line)),
            Ok(Err(error)) => Err(failed(&Error::Lost { upstream: self.upstream_name(), cause: error.to_string() })),
            Err(_) => Err(failed(&Error::Timeout { upstream: self.upstream_name() })),
        }
    }

    /// The reply where there is no connection: upstream's own words if it refuses, else ours.
    pub fn pool_error(&self, kind: PoolKind, error: &PoolError) -> Vec<u8> {
        let upstream = self.upstream_name();
        let (pool, label) = match kind {
            PoolKind::Transactions => ("pool", Pool::Transaction),
            PoolKind::Waiting => ("waiting_pool", Pool::Waiting),
            PoolKind::Control => ("pool", Pool::Control),
        };
        let error = match error {
            PoolError::Exhausted { .. } => {
                self.cells.add(Counter::pool_timeouts(label), 1);
                Error::PoolExhausted { upstream, pool }
            }
            PoolError::Unreachable { cause, .. } => Error::Unreachable { upstream, cause: cause.to_string() },
            PoolError::Unknown(_) => Error::NotSent { upstream, cause: "no such node is known".into() },
            // The handshake's HELLO was refused, but what the client sent is no HELLO.
            PoolError::Refused(line) if line.starts_with(b"-NOAUTH") => Error::NoAuth,
            PoolError::Refused(line) => return whole(line),
        };
        self.cells.error(error.kind());
        error.reply()
    }

    /// Frees the place of an account that no lane is left of: who guesses passwords fills no memory.
    pub(super) fn forget_account(&self, index: u32) {
        if index == 0 || self.lanes.borrow().iter().any(|lane| lane.identity == index) {
            return;
        }
        if let Some(place) = self.accounts.borrow_mut().get_mut(index as usize) {
            *place = None;
        }
    }
}

/// Waits until it is elsewhere.
async fn moved(place: &Place<'_>, node: NodeId, moves: &mut watch::Receiver<()>) -> NodeId {
    while moves.changed().await.is_ok() {
        let now = place.from(node);
        if now != node {
            return now;
        }
    }
    std::future::pending().await
}

/// Whether a node's pools are for where it is now; else they are left, with all who use them.
fn stays(pools: &Dedicated, address: Option<&Address>) -> bool {
    let stays = address == Some(pools.address());
    if !stays {
        pools.leave();
    }
    stays
}

fn whole(line: &[u8]) -> Vec<u8> {
    [line, b"\r\n"].concat()
}
