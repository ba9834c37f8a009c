//! Who is subscribed to what, over all workers: upstream sees one subscription where many share it, and what it says of
//! receivers is corrected for those who ask from inside.
//!
//! *Invariant:* locked for a look-up or a change, never over an await, and only where something is subscribed to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::glob::matches;
use super::news::Topic;

/// The subscriptions of all workers.
#[derive(Debug, Default)]
pub struct Audience {
    names: Mutex<[HashMap<Vec<u8>, Count>; 3]>,
    /// How many names there are: looked at without the lock.
    len: AtomicUsize,
}

/// Of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Clients subscribed to it.
    clients: i64,
    /// Connections to upstream that are.
    hubs: i64,
}

// === impl Audience ===

impl Audience {
    /// Whether nobody is subscribed to anything.
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }

    /// So many clients, and connections to upstream, have come or gone.
    pub fn change(&self, topic: Topic, name: &[u8], clients: i64, hubs: i64) {
        let mut names = self.lock();
        let of_topic = &mut names[topic as usize];
        let count = match of_topic.get_mut(name) {
            Some(count) => count,
            None => of_topic.entry(name.to_vec()).or_default(),
        };
        count.clients += clients;
        count.hubs += hubs;
        if count.clients == 0 && count.hubs == 0 {
            of_topic.remove(name);
        }
        let len = names.iter().map(HashMap::len).sum();
        self.len.store(len, Ordering::Relaxed);
    }

    /// What is to be added to upstream's count of those subscribed to a name.
    pub fn more_subscribers(&self, topic: Topic, name: &[u8]) -> i64 {
        self.lock()[topic as usize].get(name).map_or(0, Count::more)
    }

    /// What is to be added to upstream's count of those whom a message has reached.
    pub fn more_receivers(&self, topic: Topic, channel: &[u8]) -> i64 {
        let names = self.lock();
        let exact = names[topic as usize].get(channel).map_or(0, Count::more);
        if topic == Topic::Shard {
            return exact;
        }
        let patterns = &names[Topic::Pattern as usize];
        let matching = patterns.iter().filter(|(pattern, _)| matches(pattern, channel));
        exact + matching.map(|(_, count)| count.more()).sum::<i64>()
    }

    /// Clients' subscriptions, and those that upstream sees.
    pub fn totals(&self) -> (i64, i64) {
        let names = self.lock();
        let counts = names.iter().flat_map(HashMap::values);
        counts.fold((0, 0), |(clients, hubs), count| (clients + count.clients, hubs + count.hubs))
    }

    fn lock(&self) -> MutexGuard<'_, [HashMap<Vec<u8>, Count>; 3]> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Count ===

impl Count {
    fn more(&self) -> i64 {
        self.clients - self.hubs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_counted_by_channel_and_by_every_pattern_that_matches() {
        let audience = Audience::default();
        assert!(audience.is_empty());
        audience.change(Topic::Channel, b"ch", 3, 1);
        audience.change(Topic::Pattern, b"c*", 2, 1);
        audience.change(Topic::Pattern, b"x*", 9, 1);
        audience.change(Topic::Shard, b"ch", 5, 2);
        assert_eq!(audience.more_receivers(Topic::Channel, b"ch"), 3);
        assert_eq!(audience.more_receivers(Topic::Channel, b"c"), 1);
        assert_eq!(audience.more_receivers(Topic::Shard, b"ch"), 3);
        assert_eq!(audience.more_subscribers(Topic::Channel, b"ch"), 2);
        assert_eq!(audience.totals(), (19, 5));
        for (topic, name, clients, hubs) in
            [(Topic::Channel, "ch", -3, -1), (Topic::Pattern, "c*", -2, -1), (Topic::Pattern, "x*", -9, -1)]
        {
            audience.change(topic, name.as_bytes(), clients, hubs);
        }
        assert!(!audience.is_empty());
        audience.change(Topic::Shard, b"ch", -5, -2);
        assert!(audience.is_empty());
    }
}
