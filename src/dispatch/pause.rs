//! CLIENT PAUSE, as far as it came through this process: until when upstream holds writes.
//!
//! A command that upstream holds stands before everything behind it on its connection. While a pause is known, what would
//! be held takes a connection of its own and may take as long as the pause does; reads go on, on lanes that nothing holds
//! up. *Invariant:* the pause is known before upstream is told of it, so that no write of this process takes a lane behind
//! it. Not here: which commands are held (`command::Row`), how they are then sent (`client::dedicated`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::net::boottime;
use crate::protocol::Args;

/// What the process knows of upstream's pause.
#[derive(Debug, Default)]
pub struct Pause {
    /// The end of it in boottime nanoseconds; 0: there is none.
    end: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The end that upstream has agreed to.
    agreed: u64,
    /// Commands on their way that would change it.
    asked: u32,
    /// The latest end that any of these asks for.
    hoped: u64,
}

/// What a command asks of upstream, once it has been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// CLIENT PAUSE: for so long.
    Pause(Duration),
    /// CLIENT UNPAUSE.
    Unpause,
}

// === impl Asked ===

impl Asked {
    /// What a command asks; most ask nothing. Upstream refuses a time that is no number.
    pub fn of(name: &str, args: &Args<'_>) -> Option<Asked> {
        match name {
            "client|pause" => {
                let time = std::str::from_utf8(args.get(2)?).ok()?.parse().ok()?;
                Some(Asked::Pause(Duration::from_millis(time)))
            }
            "client|unpause" => Some(Asked::Unpause),
            _ => None,
        }
    }

    fn end(self) -> u64 {
        match self {
            Asked::Pause(time) => boottime().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            Asked::Unpause => 0,
        }
    }
}

// === impl Pause ===

impl Pause {
    /// Whether upstream holds writes, or is about to.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.end.load(Ordering::Relaxed) != 0 && self.left().is_some()
    }

    /// How long it goes on.
    #[cold]
    pub fn left(&self) -> Option<Duration> {
        let left = self.end.load(Ordering::Relaxed).saturating_sub(boottime());
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// Upstream is about to be asked: from here on it counts as paused.
    pub fn ask(&self, asked: Asked) {
        self.change(|known| {
            known.asked += 1;
            known.hoped = known.hoped.max(asked.end());
        });
    }

    /// Upstream has answered, or never will: `done` unless it has surely changed nothing. As there, a pause only grows, and
    /// ends early by CLIENT UNPAUSE alone.
    pub fn answered(&self, asked: Asked, done: bool) {
        self.change(|known| {
            known.asked = known.asked.saturating_sub(1);
            if known.asked == 0 {
                known.hoped = 0;
            }
            match asked {
                _ if !done => {}
                Asked::Pause(_) => known.agreed = known.agreed.max(asked.end()),
                Asked::Unpause => known.agreed = 0,
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        self.end.store(known.agreed.max(known.hoped), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Asked = Asked::Pause(Duration::from_secs(600));
    const SHORT: Asked = Asked::Pause(Duration::from_secs(60));

    fn told(pause: &Pause, asked: Asked, done: bool) {
        pause.ask(asked);
        pause.answered(asked, done);
    }

    #[test]
    fn a_pause_only_grows_until_it_is_ended() {
        let pause = Pause::default();
        assert!(!pause.is_on());
        told(&pause, LONG, true);
        told(&pause, SHORT, true);
        assert!(pause.left().is_some_and(|left| left > Duration::from_secs(300)), "{pause:?}");
        told(&pause, Asked::Unpause, false);
        assert!(pause.is_on());
        told(&pause, Asked::Unpause, true);
        assert!(!pause.is_on());
    }

    #[test]
    fn it_is_known_before_the_answer_and_forgotten_if_refused() {
        let pause = Pause::default();
        pause.ask(LONG);
        assert!(pause.is_on());
        told(&pause, SHORT, true);
        pause.answered(LONG, false);
        assert!(pause.left().is_some_and(|left| left < Duration::from_secs(300)), "{pause:?}");
        told(&pause, Asked::Pause(Duration::ZERO), true);
        assert!(pause.is_on(), "the shorter one goes on");
    }
}
