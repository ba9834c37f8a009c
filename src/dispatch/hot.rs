//! The way of a hit on which nothing else rests: what a batch's hits have in common is judged once, not for each.
//!
//! An entry is found by a request's bytes, and requests are prefix-free: whatever bytes find an entry are the request that
//! filled it, which was looked up, judged and found to be a cacheable read then. So neither is done again. *Invariant:* a
//! hit here is one that [`Worker::dispatch`] would have served, with the same judgement; a client whose next command
//! needs more than that judgement (unauthenticated, subscribed, silenced, owed replies) never comes here.

use std::rc::Rc;

use super::lane::TrackedLane;
use super::session::{Session, Voice};
use super::worker::Worker;
use crate::cache::entry::{Lookup, Namespace};
use crate::cache::{Entry, Mode};
use crate::protocol::Args;
use crate::switch::{Rule, on};
use crate::telemetry::labels::Class;
use crate::upstream::config::ReadFrom;

/// Requests of more words go the usual way.
const WORDS_MAX: usize = 8;

/// What holds for every hit of a batch, until a command of another kind has been taken.
pub struct Hot {
    /// Where all reads go; `None`: their keys decide.
    only: Option<Place>,
}

/// Where a read goes, and under what it is found.
struct Place {
    lane: Rc<TrackedLane>,
    namespace: Namespace,
    /// Whether hits may be served there at the batch's time.
    open: bool,
}

// === impl Worker ===

impl Worker {
    /// What a client's hits have in common; `None` if each of its commands must be looked at more closely.
    pub fn hot(&self, session: &Session) -> Option<Hot> {
        let as_usual = session.authenticated.get() && !session.careful.get() && session.voice.get() == Voice::On;
        let settled = !on(Rule::HitsWaitTheirTurn) || session.replies.borrow().is_settled();
        if !as_usual || !settled || self.settings.cache.mode == Mode::Off {
            return None;
        }
        let one = !self.is_cluster() && self.settings.upstream.read_from == ReadFrom::Master;
        Some(Hot { only: one.then(|| self.read_place(session, session.lane(), b"")) })
    }

    fn read_place(&self, session: &Session, lane: Rc<TrackedLane>, key: &[u8]) -> Place {
        let namespace = self.namespace(&lane, session.resp3(), key);
        let open = self.coherence.may_hit(&lane.standing, self.now());
        Place { lane, namespace, open }
    }

    /// Serves a command from the cache, if its reply is there and may be.
    #[inline]
    pub fn hot_hit(&self, session: &Rc<Session>, hot: &Hot, args: &Args<'_>) -> bool {
        // Hashing what is long takes longer than what is saved here; of most such requests no whole reply is kept.
        if args.len() > WORDS_MAX || args.raw.len() > self.settings.upstream.large_request_bytes {
            return false;
        }
        let by_key;
        let place = match &hot.only {
            Some(place) => place,
            // A read of two words has its key in the second.
            None => {
                let (2, Some(key)) = (args.len(), args.get(1)) else { return false };
                let Some(lane) = self.read_route(session, Some(key)) else { return false };
                by_key = self.read_place(session, lane, key);
                &by_key
            }
        };
        if !place.open {
            return false;
        }
        let lookup = Lookup::new(&self.seed, place.namespace, args.raw);
        let hit = |entry: &Entry| {
            self.coherence.unchanged(entry, &place.lane.standing, self.now()).then(|| {
                session.replies.borrow_mut().out.entry(entry);
                self.served(&place.lane, entry, Class::Read);
            })
        };
        self.store.look(&lookup, hit).is_some()
    }
}
