//! Where dedicated connections come from: the pool for a command, its refusals in the client's words, and the question
//! to upstream what a name is that the table lacks.
//!
//! *Invariant:* a connection is handed out aligned with the client's RESP version and, where that matters, its database,
//! or not at all. Not here: what is said on it (`dedicated`), and whether it goes back (`upstream::dedicated`).

use bytes::BytesMut;

use super::connection::Connection;
use super::dedicated::Checked;
use crate::command::Row;
use crate::dispatch::accounts::Place;
use crate::error::Error;
use crate::protocol::{Args, encode};
use crate::telemetry::labels::Class;
use crate::upstream::dedicated::PoolKind;

// === impl Connection ===

impl Connection {
    /// A connection of this kind, aligned; else the reply to give.
    pub(super) async fn check_out(&self, place: Place<'_>, kind: PoolKind) -> Result<Checked, Vec<u8>> {
        let lane = self.session.lane();
        let proto = if self.session.resp3() { 3 } else { 2 };
        // What overtakes a script acts on the whole server; a SELECT before it would be answered -BUSY.
        let db = (kind != PoolKind::Control).then_some(lane.db);
        let checked_out = self.worker.check_out_aligned(lane.identity, place, kind, Some(proto), db).await;
        let (node, connection) = checked_out?;
        if node != place.node {
            self.worker.note_write(&self.session, node);
        }
        Ok(Checked::new(connection, self.elsewhere(node)))
    }

    /// The reply of an error of our own, which is counted.
    pub(super) fn failed(&self, error: &Error) -> Vec<u8> {
        self.worker.cells.error(error.kind());
        error.reply()
    }

    /// A reply in the client's turn, unless it asked for silence.
    pub(super) fn answer(&self, reply: &[u8]) {
        self.session.replies.borrow_mut().answer(reply, self.session.mute());
    }

    /// Asks upstream once what a name is that the table lacks. Only an answer is learned: who could not be asked, or
    /// does not say, is asked again the next time.
    pub(super) async fn ask(&mut self, args: &Args<'_>) {
        let name = args.get(0).unwrap_or_default().to_ascii_lowercase();
        let home = || self.worker.home();
        let place = Place { node: home(), now: Some(&home) };
        let Ok(mut checked) = self.check_out(place, PoolKind::Transactions).await else { return };
        let mut request = BytesMut::new();
        encode::request(&mut request, &[&b"COMMAND"[..], b"INFO", &name]);
        checked.connection.send(&request, 1);
        let answer = async {
            checked.connection.flush().await.ok()?;
            checked.connection.read_reply().await.ok()
        };
        let limit = self.worker.settings.upstream.command_timeout;
        let piece = tokio::time::timeout(limit, answer).await.ok().flatten();
        if let Some(found) = piece.and_then(|piece| crate::command::Learned::parse(&piece.bytes)) {
            self.worker.learn(name, found.into_iter().next().flatten());
        }
    }
}

/// The pool that serves a command; what a pause may hold waits too.
pub(super) fn pool_for(class: Class, row: Option<&Row>, paused: bool) -> PoolKind {
    let waits = row.is_some_and(|row| matches!(row.name, "wait" | "waitaof" | "monitor" | "client|tracking"));
    match class {
        Class::Blocking | Class::Subscribe => PoolKind::Waiting,
        Class::Control => PoolKind::Control,
        Class::Read | Class::Mget => PoolKind::Transactions,
        _ if waits || paused => PoolKind::Waiting,
        _ => PoolKind::Transactions,
    }
}
