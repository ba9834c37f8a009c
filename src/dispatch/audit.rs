//! The audit: now and then a hit is compared with upstream, so that operators see proof and not a promise.
//!
//! The same read goes out on an untracked connection. If it differs, a fence is sent; if the same entry is still there
//! and valid after its PONG, an invalidation that must have come has not: a violation. A write that happened in between
//! is no violation: its invalidation is met before the PONG.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::accounts::Place;
use super::fence::Hold;
use super::lane::TrackedLane;
use super::mget::elements;
use super::read::rests_on_fields;
use super::worker::Worker;
use crate::cache::audit::same;
use crate::cache::{Entry, Lookup, Mode};
use crate::command::{Row, look_up};
use crate::net::boottime;
use crate::protocol::{Args, RequestParser};
use crate::switch::{Rule, on};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::upstream::dedicated::PoolKind;

/// Polls that have not looked for so long rest, and then no hits are served either.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Audits under way at once, per worker: they must not crowd out clients.
const AUDITS_MAX: usize = 4;

// === impl Worker ===

impl Worker {
    /// Compares a hit with upstream, in a task of its own.
    pub fn audit(&self, lane: &Rc<TrackedLane>, entry: &Entry) {
        // What is kept right by age alone may differ.
        if !entry.is_tracked() || lane.standing.mode() != Mode::Tracking || self.audits.get() >= AUDITS_MAX {
            return;
        }
        let Some(worker) = self.me() else { return };
        self.audits.set(self.audits.get() + 1);
        let (lane, entry) = (Rc::clone(lane), entry.clone());
        tokio::task::spawn_local(async move {
            worker.audit_one(&lane, &entry).await;
            worker.audits.set(worker.audits.get() - 1);
        });
    }

    async fn audit_one(&self, lane: &Rc<TrackedLane>, entry: &Entry) {
        let Some((reply, row)) = self.read_untracked(lane, entry).await else { return };
        self.cells.add(Counter::AuditChecks, 1);
        if same(part(row, &reply), entry.reply(), row.is_unordered().then_some(elements)) {
            return;
        }
        let hold = Hold::new();
        self.fence_one(lane, &hold);
        self.release(&hold);
        hold.returned().await;
        if !self.stands(lane, entry, row) {
            return self.cells.add(Counter::AuditExplained, 1);
        }
        // A SWAPDB comes with no push: what the next background poll sees is awaited.
        self.looked().await;
        if !self.stands(lane, entry, row) {
            return self.cells.add(Counter::AuditExplained, 1);
        }
        self.violation(entry, row);
    }

    /// Waits until a background poll that began after this call was answered; for so long at most.
    async fn looked(&self) {
        let mut looks = self.coherence.shared.looks.subscribe();
        let before = *looks.borrow();
        // The one under way may have asked already.
        let twice = looks.wait_for(|&looks| looks >= before + 2);
        let _ = tokio::time::timeout(LOOK_MAX, twice).await;
    }

    /// Whether an entry is still there and nothing is known that speaks against it.
    fn stands(&self, lane: &TrackedLane, entry: &Entry, row: &Row) -> bool {
        let found = self.store.peek(&Lookup::new(&self.seed, entry.namespace(), entry.found_by()));
        let now = boottime();
        found.is_some_and(|found| found.is(entry))
            && self.coherence.unchanged(entry, &lane.standing, now)
            && !self.may_have_lapsed(entry, row, now)
    }

    /// Whether a hash field may have expired, which no push tells in time: such fields are held, or so lately that
    /// the background poll need not have seen it.
    fn may_have_lapsed(&self, entry: &Entry, row: &Row, now: u64) -> bool {
        let lately = now.saturating_sub(entry.sent()) < 2 * self.coherence.max_staleness;
        rests_on_fields(row) && (lately || self.coherence.shared.hash_ttls.load(Ordering::Relaxed))
    }

    fn violation(&self, entry: &Entry, row: &Row) {
        self.cells.add(Counter::AuditViolations, 1);
        let age_ms = boottime().saturating_sub(entry.sent()) / 1_000_000;
        tracing::error!(
            command = row.name,
            request = %String::from_utf8_lossy(&entry.request()).escape_debug(),
            age_ms,
            generation = self.coherence.shared.generations.current(entry.slot()),
            trail = %self.coherence.trail(entry.slot()),
            "the audit found a cached reply that upstream contradicts and no invalidation explains"
        );
        if self.settings.cache.audit_bypass {
            self.cells.set(Gauge::AuditBypass, 1);
            self.coherence.shared.bypassed.store(on(Rule::ViolationEndsHits), Ordering::SeqCst);
            self.sweep();
        }
    }

    /// The same read on a connection that nobody tracks on.
    async fn read_untracked(&self, lane: &TrackedLane, entry: &Entry) -> Option<(bytes::Bytes, &'static Row)> {
        let mut parser = RequestParser::default();
        let request = entry.request();
        parser.parse(&request, &crate::limits::AUTHENTICATED).ok()?;
        let row = look_up(&Args { raw: &request, ranges: parser.ranges() })?;
        let account = self.account_at(lane.identity)?;
        let place = Place::at(lane.node);
        let (_, mut connection) = self.check_out(&account, place, PoolKind::Transactions).await.ok()?;
        let answer = async {
            let resp3 = entry.namespace().is_resp3();
            connection.align(if resp3 { 3 } else { 2 }, lane.db).await.ok()?;
            connection.send(&request, 1);
            connection.flush().await.ok()?;
            connection.read_reply().await.ok()
        };
        let piece = tokio::time::timeout(self.settings.upstream.command_timeout, answer).await.ok()??;
        if piece.error_line().is_some() {
            return None;
        }
        Some((piece.bytes, row))
    }
}

/// What an entry keeps of a reply: of a one-key MGET its element.
fn part<'a>(row: &Row, reply: &'a [u8]) -> &'a [u8] {
    if row.name == "mget" { reply.strip_prefix(b"*1\r\n").unwrap_or(reply) } else { reply }
}
