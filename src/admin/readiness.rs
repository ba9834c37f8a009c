//! Whether this sidecar can do its job, as `/readyz` tells it.
//!
//! One atomic: the proxy sets it, the admin server reads it.

use std::sync::atomic::{AtomicU8, Ordering};

/// How ready it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ready {
    /// At the start, until upstream has answered once.
    Starting,
    /// Since upstream answered.
    Ready,
    /// Since upstream ceased to answer.
    Unreachable,
    /// Since the process was told to end.
    Draining,
}

/// A shared `Ready`.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

// === impl Ready ===

impl Ready {
    /// Why it is not ready, in one line; `None`: it is.
    pub const fn obstacle(self) -> Option<&'static str> {
        match self {
            Ready::Starting => Some("upstream has not answered yet"),
            Ready::Ready => None,
            Ready::Unreachable => Some("upstream cannot be reached"),
            Ready::Draining => Some("draining: the process was told to end"),
        }
    }
}

// === impl Readiness ===

impl Readiness {
    /// Starting.
    pub const fn new() -> Readiness {
        Readiness(AtomicU8::new(Ready::Starting as u8))
    }

    /// Says how ready it is from now on. Draining is final.
    pub fn set(&self, ready: Ready) {
        let unless_draining = |now| (now != Ready::Draining as u8).then_some(ready as u8);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unless_draining);
    }

    /// How ready it is.
    pub fn get(&self) -> Ready {
        let known = [Ready::Starting, Ready::Ready, Ready::Unreachable];
        let now = self.0.load(Ordering::Relaxed);
        known.into_iter().find(|ready| *ready as u8 == now).unwrap_or(Ready::Draining)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_got() {
        let readiness = Readiness::new();
        assert_eq!(readiness.get(), Ready::Starting);
        for ready in [Ready::Ready, Ready::Unreachable, Ready::Ready, Ready::Draining] {
            readiness.set(ready);
            assert_eq!(readiness.get(), ready);
        }
    }

    #[test]
    fn draining_is_final() {
        let readiness = Readiness::new();
        readiness.set(Ready::Draining);
        readiness.set(Ready::Ready);
        assert_eq!(readiness.get(), Ready::Draining);
    }
}
