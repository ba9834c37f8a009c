//! The lease: until when a lane's knowledge is proven fresh.
//!
//! *Invariant:* `proven` is the time at which the last answered command was handed to the lane, so every
//! invalidation of a write executed before `proven` has been read. A hit at `now` with
//! `now - proven <= max_staleness` therefore never serves what was overwritten before `now - max_staleness`.
//! Times are nanoseconds of a clock that counts suspension. Not here: that clock.

use std::cell::Cell;

/// A lane's lease.
#[derive(Debug, Default)]
pub struct Lease {
    /// When the last answered command was sent; 0: nothing proven.
    proven: Cell<u64>,
    /// When the last heartbeat was sent, so that one is under way at a time.
    heartbeat: Cell<u64>,
}

impl Lease {
    /// A command sent at `sent` has been answered.
    pub fn renew(&self, sent: u64) {
        if sent > self.proven.get() {
            self.proven.set(sent);
        }
    }

    /// Nothing is proven any more: the lane was lost.
    pub fn revoke(&self) {
        self.proven.set(0);
        self.heartbeat.set(0);
    }

    /// Whether hits may be served at `now`.
    pub fn holds(&self, now: u64, max_staleness: u64) -> bool {
        let proven = self.proven.get();
        proven != 0 && now.saturating_sub(proven) <= max_staleness
    }

    /// Whether a command that was sent at this moment or later has been answered.
    pub fn proves(&self, since: u64) -> bool {
        self.proven.get() >= since
    }

    /// Whether a heartbeat must be sent at `now` for that to be proven; none is that was sent since. Says so once.
    pub fn proof_due(&self, now: u64, since: u64) -> bool {
        let due = now >= since && self.heartbeat.get() < since;
        if due {
            self.heartbeat.set(now);
        }
        due
    }

    /// How old the proof is at `now`.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.proven.get())
    }

    /// Whether a heartbeat is due at `now`, given that hits are being served: a quarter of the lease has
    /// passed and none was sent in that time. Says so once per quarter.
    pub fn heartbeat_due(&self, now: u64, max_staleness: u64) -> bool {
        let quarter = max_staleness / 4;
        let due = now.saturating_sub(self.proven.get()) > quarter && now.saturating_sub(self.heartbeat.get()) > quarter;
        if due {
            self.heartbeat.set(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_max_staleness_after_the_last_answered_command_was_sent() {
        let lease = Lease::default();
        assert!(!lease.holds(1, 100), "nothing is proven at first");
        lease.renew(1000);
        assert!(lease.holds(1100, 100));
        assert!(!lease.holds(1101, 100));
        lease.renew(900);
        assert!(lease.holds(1100, 100), "an older answer takes nothing away");
        lease.revoke();
        assert!(!lease.holds(1001, 100));
    }

    #[test]
    fn one_heartbeat_proves_what_was_before_it() {
        let lease = Lease::default();
        lease.renew(900);
        assert!(lease.proves(900) && !lease.proves(901));
        assert!(!lease.proof_due(999, 1000), "it would be too early");
        assert!(lease.proof_due(1000, 1000));
        assert!(!lease.proof_due(1001, 1000), "it is under way");
        lease.renew(1000);
        assert!(lease.proves(1000));
    }

    #[test]
    fn one_heartbeat_is_due_per_quarter() {
        let lease = Lease::default();
        lease.renew(1000);
        assert!(!lease.heartbeat_due(1025, 100));
        assert!(lease.heartbeat_due(1026, 100));
        assert!(!lease.heartbeat_due(1030, 100));
        assert!(lease.heartbeat_due(1052, 100));
    }
}
