//! What a dedicated connection delivers, and what becomes of it when it breaks.
//!
//! *Invariant:* what may tell of others' writes is passed on behind a fence, and what a command has done is applied to the
//! cache before anybody is told.

use tokio::time::Instant;

use super::connection::{Connection, Over, Until};
use super::dedicated::Checked;
use super::elsewhere::Verdict;
use super::expect::Expect;
use crate::error::Error;
use crate::switch::{Rule, on};
use crate::telemetry::metrics::Counter;
use crate::upstream::connection::Piece;

// === impl Connection ===

impl Connection {
    /// Delivers what has come, behind one fence for all that is here.
    pub(super) async fn take_pieces(&mut self, checked: &mut Checked, first: Piece) -> Result<(), Over> {
        let mut next = Some(first);
        let mut pieces = Vec::new();
        while let Some(piece) = next {
            self.worker.cells.add(Counter::UpstreamBytesIn, piece.bytes.len() as u64);
            pieces.push(piece);
            next = checked.connection.buffered_reply().ok().flatten();
        }
        // The fence that the first piece of a long reply waited for covers its others.
        let tells = pieces.iter().any(|piece| piece.first && !matches!(piece.kind, b'+' | b'-' | b'!'));
        let unnamed = || checked.expected.iter().take(pieces.len()).any(Expect::has_unknown_keys);
        let held = tells && on(Rule::DedicatedDataIsHeld) || on(Rule::DedicatedStatusIsHeld) && unnamed();
        if held && self.worker.others_need_fence(None) {
            self.worker.fenced().await;
        }
        let mut answers = false;
        for piece in pieces {
            answers |= self.take_piece(checked, piece);
        }
        self.worker.flush_one(&self.session);
        if !self.has_room_to_read() {
            self.wait(Until::Drained).await?;
        }
        if answers {
            checked.since = Instant::now();
        }
        Ok(())
    }

    /// Delivers one piece; false: it answers no command.
    fn take_piece(&mut self, checked: &mut Checked, piece: Piece) -> bool {
        if checked.standing.is_news(&piece, self.session.resp3(), &checked.expected) {
            checked.standing.heard(&piece, &mut checked.expected);
            // As in Redis, CLIENT REPLY silences no messages.
            self.pass_on(&piece);
            return false;
        }
        if let Some(expect) = checked.expected.front_mut().filter(|_| !piece.last) {
            expect.begun = true;
            if !expect.is_swallowed() && !expect.mute {
                self.pass_on(&piece);
            }
            return true;
        }
        match checked.expected.pop_front() {
            Some(expect) => self.take_reply(checked, &expect, &piece),
            None => self.pass_on(&piece),
        }
        true
    }

    /// Delivers a reply, or the last piece of one.
    fn take_reply(&mut self, checked: &mut Checked, expect: &Expect, piece: &Piece) {
        self.apply(expect);
        if let Some(asked) = expect.asked {
            self.worker.peers.pause.answered(asked, expect.has_done(piece));
        }
        let verdict = self.judge(checked, expect, piece);
        if expect.leaves_doubt(piece) {
            checked.connection.taint();
        }
        if let Some(db) = checked.standing.answered(expect, piece) {
            checked.connection.note_db(db);
            let lane = self.lane_beside(|mine| (mine.identity, db));
            self.worker.ride(&self.session, lane);
        }
        if let Some(error) = expect.instead() {
            let reply = self.failed(&error);
            return self.session.replies.borrow_mut().answer(&reply, expect.mute);
        }
        if expect.is_swallowed() || expect.mute {
            return;
        }
        match verdict {
            Verdict::Drop => {}
            Verdict::Instead(reply) => self.session.replies.borrow_mut().answer(&reply, false),
            Verdict::Pass => {
                let ours = if expect.tells_id { self.with_our_id(&checked.standing, piece) } else { None };
                self.pass_on(ours.as_ref().unwrap_or(piece));
            }
        }
    }

    /// What a command has done, or may have, is applied to the cache before anybody is told.
    pub(super) fn apply(&self, expect: &Expect) {
        if on(Rule::BumpAtDedicatedReply) {
            self.worker.coherence.written(&expect.keys);
        }
        if expect.has_unknown_keys() {
            self.worker.unknown_written();
        }
        if expect.sweeps() {
            self.worker.swept();
        }
    }

    fn pass_on(&self, piece: &Piece) {
        self.session.replies.borrow_mut().pass_on(&piece.bytes, piece.last);
    }

    fn has_room_to_read(&self) -> bool {
        self.session.replies.borrow().bytes() <= self.worker.settings.client.output_pause_bytes
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
            if on(Rule::AbandonedDedicatedIsReset) {
                checked.connection.abort();
            }
        }
        checked.once = true;
        let cut = checked.expected.front().is_some_and(|expect| expect.begun);
        for expect in std::mem::take(&mut checked.expected) {
            if on(Rule::EffectOfDedicatedFailure) {
                self.apply(&expect);
            }
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
