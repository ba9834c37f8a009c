//! How long a client waits on a dedicated connection, and what it has asked of upstream about a pause, which makes others
//! wait.
//!
//! *Invariant:* what is asked about a pause is settled once in `dispatch::pause`, however its conversation ends.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::dedicated::Checked;
use super::expect::Expect;
use crate::command::look_up;
use crate::dispatch::pause::Asked;
use crate::protocol::Args;
use crate::switch::{Rule, on};
use crate::upstream::connection::{ConnectionError, Piece};

/// What is written within this time was taken at once.
const AT_ONCE: Duration = Duration::from_millis(100);

/// What woke the loop.
pub(super) enum Woken {
    Piece(Result<Piece, ConnectionError>),
    Client,
    Written,
    /// A pause has been waited for; it may be over.
    Paused,
    Over,
    Late,
    Idle,
}

/// What is on its way into upstream's socket: while that goes on taking it, nobody is late.
#[derive(Default)]
pub(super) struct Writing {
    /// Bytes not yet taken when that was last looked at.
    left: usize,
    /// Since when there have been such.
    since: Option<Instant>,
}

// === impl Writing ===

impl Writing {
    /// So many bytes are to be written.
    pub(super) fn begins(&mut self, left: usize, now: Instant) {
        self.left = left;
        if left > 0 {
            self.since.get_or_insert(now);
        }
    }

    /// All is written; whether that has taken time.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        self.left = 0;
        self.since.take().is_some_and(|since| now - since > AT_ONCE)
    }

    /// Whether bytes have been taken since this was last asked, or they were to be written.
    pub(super) fn has_moved(&mut self, left: usize) -> bool {
        left < std::mem::replace(&mut self.left, left)
    }
}

// === impl Connection ===

impl Connection {
    /// Until when to wait, and what has happened then: a reply that does not wait for others is due, or a client that
    /// is owed nothing, and has not asked to be told, has been silent for too long.
    pub(super) fn patience(&self, checked: &Checked, paused: bool) -> Option<(Instant, Woken)> {
        let limit = self.worker.settings.upstream.command_timeout;
        if on(Rule::DedicatedTimeout) && checked.answers_come(paused) {
            return Some((checked.since + limit, Woken::Late));
        }
        if checked.answers_come(false) {
            let left = self.worker.peers.pause.left().unwrap_or_default();
            return Some((Instant::now() + left.min(limit), Woken::Paused));
        }
        let idle = self.worker.settings.client.idle_timeout;
        let exempt = idle.is_zero() || !checked.expected.is_empty() || checked.standing.may_idle();
        (!exempt).then(|| (checked.since.max(checked.heard) + idle, Woken::Idle))
    }

    /// Before a command is sent: if it asks for a pause, no write must be on its way on a lane when upstream reads it, or it
    /// would hold up that lane.
    pub(super) async fn expect_pause(&self, checked: &Checked, args: &Args<'_>) {
        let Some(row) = look_up(args) else { return };
        let Some(asked) = checked.standing.asks(Asked::of(row.name, args), row) else { return };
        self.worker.peers.pause.ask(asked);
        if asked != Asked::Unpause {
            self.worker.executed().await;
        }
    }

    /// Nobody will tell whether it was executed: a pause is believed in, the end of one is not.
    pub(super) fn in_doubt(&self, expect: &Expect) {
        if let Some(asked) = expect.asked {
            self.worker.peers.pause.answered(asked, asked != Asked::Unpause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_slowly_lengthens_patience() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        writing.begins(100, now);
        assert!(!writing.ends(now + AT_ONCE), "taken at once");
        assert!(!writing.has_moved(0), "and that is no news when the reply is late");
        writing.begins(100, now);
        assert!(writing.has_moved(50) && !writing.has_moved(50));
        let later = now + 2 * AT_ONCE;
        assert!(writing.ends(later) && !writing.ends(later));
    }
}
