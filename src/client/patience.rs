//! How long a client waits on a dedicated connection, what becomes of it when that is in vain, and what it has asked of
//! upstream about a pause, which makes others wait.
//!
//! *Invariant:* what is asked about a pause is settled once in `dispatch::pause`, however its conversation ends.

use tokio::time::Instant;

use super::connection::{Connection, Over};
use super::dedicated::{Checked, Woken};
use super::expect::Expect;
use crate::command::look_up;
use crate::dispatch::pause::Asked;
use crate::error::Error;
use crate::protocol::Args;

// === impl Connection ===

impl Connection {
    /// Until when to wait, and what has happened then: a reply that does not wait for others is due, or a client that
    /// is owed nothing, and has not asked to be told, has been silent for too long.
    pub(super) fn patience(&self, checked: &Checked, paused: bool) -> Option<(Instant, Woken)> {
        let limit = self.worker.settings.upstream.command_timeout;
        if checked.answers_come(paused) {
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

    /// The connection broke: what is owed gets an error; a client whose state is gone with it is let go.
    pub(super) async fn broken(&mut self, checked: &mut Checked, cause: &str) -> Result<(), Over> {
        let error = Error::Lost { upstream: self.worker.upstream_name(), cause: cause.into() };
        self.abandon(checked, &error).await
    }

    pub(super) async fn abandon(&mut self, checked: &mut Checked, error: &Error) -> Result<(), Over> {
        checked.connection.taint();
        if !checked.expected.is_empty() {
            // What has been given up must not be executed behind what the client says next.
            checked.connection.abort();
        }
        checked.once = true;
        let cut = checked.expected.front().is_some_and(|expect| expect.begun);
        for expect in std::mem::take(&mut checked.expected) {
            self.apply(&expect);
            self.in_doubt(&expect);
            if !expect.is_swallowed() && !cut {
                let reply = self.failed(error);
                self.session.replies.borrow_mut().answer(&reply, expect.mute);
            }
        }
        self.worker.flush_one(&self.session);
        if checked.standing.is_plain() && !cut { Ok(()) } else { self.farewell().await }
    }
}
