//! How long a client waits on a dedicated connection, and what it has asked of upstream about a pause, which makes others
//! wait.
//!
//! *Invariant:* what is asked about a pause is settled once in `dispatch::pause`, however its conversation ends.

use tokio::time::Instant;

use super::connection::Connection;
use super::dedicated::{Checked, Woken};
use super::expect::Expect;
use crate::command::look_up;
use crate::dispatch::pause::Asked;
use crate::protocol::Args;
use crate::switch::{Rule, on};

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
