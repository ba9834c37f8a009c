//! The clients of all workers, as far as others may see them: CLIENT LIST, CLIENT KILL, `max_clients`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::dispatch::session::Card;
use crate::net::boottime;

/// A bit of [`Card::flags`]: it receives what others do (MONITOR).
pub const MONITORS: u8 = 1;
/// It is subscribed.
pub const SUBSCRIBED: u8 = 1 << 1;
/// It is in a transaction.
pub const IN_MULTI: u8 = 1 << 2;
/// It waits for others.
pub const BLOCKED: u8 = 1 << 3;

/// The clients of all workers.
#[derive(Default)]
pub struct Registry {
    /// Held for a look-up or an insertion, never over an await; not on any command's way but CLIENT's.
    cards: Mutex<BTreeMap<u64, Arc<Card>>>,
    next_id: AtomicU64,
    /// Rings when one has left.
    left: Notify,
}

/// A client's place in the registry; given back when dropped.
pub struct Place {
    registry: Arc<Registry>,
    /// The client.
    pub card: Arc<Card>,
}

// === impl Registry ===

impl Registry {
    /// A place for a new client, unless there are `max_clients` already.
    pub fn admit(self: &Arc<Self>, address: String, local_address: String, max_clients: usize) -> Option<Place> {
        let mut cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        if cards.len() >= max_clients {
            return None;
        }
        let now = boottime();
        let card = Arc::new(Card {
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            address,
            local_address,
            since: now,
            last: AtomicU64::new(now),
            db: AtomicU64::new(0),
            proto: AtomicU64::new(2),
            subscriptions: Default::default(),
            upstream_id: AtomicU64::new(0),
            flags: AtomicU8::new(0),
            killed: false.into(),
            words: Mutex::default(),
            waker: Mutex::default(),
        });
        cards.insert(card.id, Arc::clone(&card));
        Some(Place { registry: Arc::clone(self), card })
    }

    /// All clients, by id.
    pub fn all(&self) -> Vec<Arc<Card>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Waits until a client has left.
    pub async fn departed(&self, id: u64) {
        loop {
            let left = self.left.notified();
            if self.get(id).is_none() {
                return;
            }
            left.await;
        }
    }

    /// One client.
    pub fn get(&self, id: u64) -> Option<Arc<Card>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The first of whom this holds.
    pub fn find(&self, is: impl Fn(&Card) -> bool) -> Option<Arc<Card>> {
        let cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        cards.values().find(|card| is(card)).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.cards.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.card.id);
        self.registry.left.notify_waiters();
    }
}

/// Has a client closed: its task notices when it is next polled, which is at once.
pub fn kill(card: &Card) {
    card.killed.store(true, Ordering::SeqCst);
    if let Some(waker) = card.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        waker.wake_by_ref();
    }
}
