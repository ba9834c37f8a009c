//! What clients know of a cluster: where its nodes are, and to which groups of keys something is happening.

use std::net::SocketAddr;
use std::sync::Mutex;

use super::super::history::{Harm, Time, Upset, now};

/// It is shared by all threads of a round.
#[derive(Default)]
pub struct Terrain {
    /// The nodes that were ever part of it.
    pub seeds: Mutex<Vec<SocketAddr>>,
    /// The Sentinels, if it is no cluster but a master that they watch over.
    pub sentinels: Vec<SocketAddr>,
    upsets: Mutex<Vec<Open>>,
}

/// An upset that may not be over yet.
struct Open {
    group: usize,
    /// What is to be expected until it is over.
    harm: Harm,
    from: Time,
    until: Option<Time>,
}

impl Terrain {
    /// Something begins to happen to these groups, which may turn out to be no worse than this.
    pub fn begin(&self, groups: &[usize], harm: Harm) {
        let open = |&group: &usize| Open { group, harm, from: now(), until: None };
        self.upsets.lock().unwrap().extend(groups.iter().map(open));
    }

    /// What has begun is over, on every node. `harm` says of a group what it has been.
    pub fn end(&self, harm: impl Fn(usize) -> Harm) {
        for open in self.upsets.lock().unwrap().iter_mut().filter(|open| open.until.is_none()) {
            open.harm = harm(open.group);
            open.until = Some(now());
        }
    }

    /// How many losses of the group are over.
    pub fn losses(&self, group: usize) -> usize {
        self.count(|open| open.group == group && open.harm == Harm::Loses && open.until.is_some())
    }

    /// How many upsets of the group that may have lost something have begun, and whether one is not over yet.
    pub fn doubts(&self, group: usize) -> (usize, bool) {
        let doubtful = |open: &Open| open.group == group && open.harm == Harm::Loses;
        (self.count(doubtful), self.count(|open| doubtful(open) && open.until.is_none()) > 0)
    }

    /// All there were; what is not over yet ends now.
    pub fn upsets(&self) -> Vec<Upset> {
        let end = now();
        let all = self.upsets.lock().unwrap();
        let upset = |open: &Open| {
            let Open { group, harm, from, until } = *open;
            Upset { group, harm, from, until: until.unwrap_or(end) }
        };
        all.iter().map(upset).collect()
    }

    fn count(&self, is: impl Fn(&Open) -> bool) -> usize {
        self.upsets.lock().unwrap().iter().filter(|open| is(open)).count()
    }
}
