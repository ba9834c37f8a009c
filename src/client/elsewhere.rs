//! Commands on a dedicated connection that its node will not execute: they go where they belong.
//!
//! A command by itself is sent again where it belongs, on another connection. A transaction that a node has turned away has
//! executed nothing: if its client watches keys it fails as if they had changed, since that can no longer be told; else
//! the whole of it is sent again. *Invariant:* a transaction goes to the node of its first key, so its connection is
//! chosen only when that is known. Not here: what commands on lanes do (`dispatch::redirect`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep};

use super::connection::{Connection, Over, Until};
use super::dedicated::Checked;
use super::expect::{Effect, Expect};
use crate::command::{Row, look_up};
use crate::dispatch::accounts::Place;
use crate::dispatch::block::{Block, TurnedAway};
use crate::dispatch::redirect::{Next, pause_after, without_redirect};
use crate::error::Error;
use crate::limits::AUTHENTICATED;
use crate::net::Address;
use crate::protocol::{Args, Parsed, RequestParser};
use crate::telemetry::labels::{Class, Outcome};
use crate::upstream::connection::Piece;
use crate::upstream::dedicated::PoolKind;
use crate::upstream::slots::{key_slot, redirect};
use crate::upstream::topology::NodeId;

/// A longer transaction is not kept to be sent again.
const KEPT_MAX: usize = 64 * 1024;

/// ASKING, whose answer nobody gets.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// What is kept of a conversation so that it can go on elsewhere.
#[derive(Default)]
pub(super) struct Elsewhere {
    /// Whether there is anywhere else.
    pub possible: bool,
    /// How many commands have been said.
    commands: u32,
    /// Whom this one is with.
    address: Option<Address>,
    /// Everything said since MULTI, while that is short.
    said: Option<BytesMut>,
    first_key: Option<Bytes>,
    /// The slot of the first key that is watched.
    watched: Option<u16>,
    /// Whether the transaction's keys, and those watched for it, lie in several slots.
    crosses_slots: bool,
    /// A command of the transaction has been turned away.
    spoilt: Option<TurnedAway>,
    /// The command that the conversation was for has been turned away.
    pub away: Option<TurnedAway>,
    /// The transaction is to be sent again, and whether its client wants no reply to EXEC.
    pub again: Option<(BytesMut, bool)>,
}

/// What becomes of a reply.
pub(super) enum Verdict {
    /// It is passed on.
    Pass,
    /// Nobody gets it.
    Drop,
    /// The client gets this instead.
    Instead(Vec<u8>),
}

/// Where a command that was turned away is tried next.
#[derive(Clone, Copy)]
pub(super) struct Try {
    pub node: NodeId,
    pub asking: bool,
    hops: u8,
    /// When the command was sent first.
    first: Instant,
    /// The same, later by as long as it has been blocked.
    begun: Instant,
    sent: Instant,
    /// Whether its client wants no reply to it (CLIENT REPLY), which is settled when it is taken.
    pub mute: bool,
}

// === impl Elsewhere ===

impl Elsewhere {
    /// Whether what the conversation was for, or the transaction in it, is to be sent again elsewhere.
    pub(super) fn goes_on(&self) -> bool {
        self.away.is_some() || self.again.is_some()
    }

    /// A command is sent.
    fn note(&mut self, row: Option<&'static Row>, args: &Args<'_>, in_multi: bool, watching: bool) {
        self.commands = self.commands.saturating_add(1);
        self.watched = self.watched.filter(|_| watching);
        if !in_multi {
            if let Some(row) = row.filter(|row| row.name == "watch") {
                row.each_key(args, |key| {
                    self.watched.get_or_insert_with(|| key_slot(key));
                });
            }
            let begins = row.is_some_and(|row| row.name == "multi");
            self.said = begins.then(|| BytesMut::from(args.raw));
            (self.first_key, self.crosses_slots, self.spoilt) = (None, false, None);
            return;
        }
        self.said = self.said.take().filter(|said| said.len() + args.raw.len() <= KEPT_MAX);
        if let Some(said) = &mut self.said {
            said.extend_from_slice(args.raw);
        }
        if let Some(row) = row {
            row.each_key(args, |key| {
                let slot = key_slot(key);
                self.crosses_slots |= self.watched.is_some_and(|watched| watched != slot);
                match &self.first_key {
                    None => self.first_key = Some(Bytes::copy_from_slice(key)),
                    Some(first) => self.crosses_slots |= key_slot(first) != slot,
                }
            });
        }
    }
}

// === impl Try ===

impl Try {
    pub fn first(node: NodeId, mute: bool) -> Try {
        let now = Instant::now();
        Try { node, asking: false, hops: 0, first: now, begun: now, sent: now, mute }
    }

    /// Whether nobody has turned it away yet.
    pub fn is_first(&self) -> bool {
        self.hops == 0
    }

    /// A blocking command as it goes out now: what is left of its own time-out. `None`: as it came.
    pub fn request(&self, row: Option<&'static Row>, args: &Args<'_>) -> Option<BytesMut> {
        if self.hops == 0 {
            return None;
        }
        row?.with_timeout_left(args, self.first.elapsed())
    }
}

// === impl Connection ===

impl Connection {
    /// What is to be known of a conversation with this node.
    pub(super) fn elsewhere(&self, node: NodeId) -> Elsewhere {
        let topology = &self.worker.settings.topology;
        Elsewhere { possible: topology.has_alternatives(), address: topology.address(node), ..Elsewhere::default() }
    }

    /// A command is about to be sent.
    pub(super) fn note_for_elsewhere(&self, checked: &mut Checked, row: Option<&'static Row>, args: &Args<'_>) {
        if checked.elsewhere.possible {
            let standing = &checked.standing;
            let watching = standing.is_watching() || standing.begins_to_watch();
            checked.elsewhere.note(row, args, standing.in_multi(), watching);
        }
    }

    /// The importer of a slot serves one command to who says so.
    pub(super) fn ask_importer(&self, checked: &mut Checked) {
        checked.connection.send(ASKING, 1);
        checked.expected.push_back(Expect::swallowed());
    }

    /// What becomes of a reply, which may say that the command belongs elsewhere.
    pub(super) fn judge(&self, checked: &mut Checked, expect: &Expect, piece: &Piece) -> Verdict {
        let Some(error_line) = piece.error_line().filter(|_| checked.elsewhere.possible && !expect.is_swallowed())
        else {
            return Verdict::Pass;
        };
        let next = self.worker.next_of(checked.elsewhere.address.as_ref(), error_line);
        let error = || without_redirect(piece.bytes.get(piece.start..).unwrap_or_default());
        if expect.effect == Effect::Exec {
            let away = checked.elsewhere.spoilt.take().or(next.map(|next| TurnedAway { next, error: error() }));
            return away.map_or(Verdict::Pass, |away| self.ends_elsewhere(checked, away, expect.mute));
        }
        let Some(next) = next else { return Verdict::Pass };
        if expect.queued {
            checked.elsewhere.spoilt.get_or_insert_with(|| TurnedAway { next, error: error() });
            return Verdict::Instead(b"+QUEUED\r\n".to_vec());
        }
        // Only what the conversation was begun for is begun again elsewhere.
        let is_first = checked.elsewhere.commands == 1;
        let alone = is_first && !checked.standing.in_multi() && !checked.standing.is_watching();
        if alone {
            checked.elsewhere.away = Some(TurnedAway { next, error: error() });
            return Verdict::Drop;
        }
        match next {
            // The slot of what is watched has moved: nobody can tell any more whether that has changed. EXEC will fail.
            Next::Node(..) if redirect(error_line).is_some_and(|to| checked.elsewhere.watched == Some(to.slot)) => {
                Verdict::Instead(error().to_vec())
            }
            // Its connection is another node's, whose keys are watched.
            Next::Node(..) => Verdict::Instead(self.failed(&Error::CrossSlot)),
            Next::Later => Verdict::Pass,
        }
    }

    /// EXEC has failed because a node has turned the transaction away.
    fn ends_elsewhere(&self, checked: &mut Checked, away: TurnedAway, mute: bool) -> Verdict {
        if checked.elsewhere.crosses_slots {
            return Verdict::Instead(self.failed(&Error::CrossSlot));
        }
        if checked.standing.is_watching() {
            let null: &[u8] = if self.session.resp3() { b"_\r\n" } else { b"*-1\r\n" };
            return Verdict::Instead(null.to_vec());
        }
        match checked.elsewhere.said.take() {
            Some(said) => {
                checked.elsewhere.again = Some((said, mute));
                Verdict::Drop
            }
            None => Verdict::Instead(away.error.to_vec()),
        }
    }

    /// Where a command that was turned away is tried next, once it is time; `None`: nowhere any more, and its client has
    /// been told.
    pub(super) async fn next_try(
        &mut self,
        last: Try,
        class: Class,
        away: &TurnedAway,
        args: &Args<'_>,
    ) -> Option<Try> {
        let limit = self.worker.settings.upstream.command_timeout;
        let blocked = if class == Class::Blocking { last.sent.elapsed() } else { Duration::ZERO };
        let begun = last.begun + blocked;
        if begun.elapsed() >= limit {
            self.session.replies.borrow_mut().answer(&away.error, last.mute);
            return None;
        }
        let hops = last.hops.saturating_add(1);
        if let Some(pause) = pause_after(hops, away.next) {
            sleep(pause).await;
        }
        let (node, asking) = match away.next {
            Next::Node(node, asking) => (node, asking),
            Next::Later => (self.worker.node_of_args(look_up(args), args), false),
        };
        Some(Try { node, asking, hops, begun, sent: Instant::now(), ..last })
    }

    /// A transaction that was turned away is sent again, as the block that it is by now.
    pub(super) fn send_again(&mut self, said: &[u8], mute: bool) {
        self.worker.begin_batch();
        match Block::find(&self.worker, said, &AUTHENTICATED) {
            Some(block) => self.worker.send_block(&self.session, block, said, Some(mute)),
            None => self.session.replies.borrow_mut().answer(&self.failed(&Error::ExecAbort), mute),
        }
    }

    /// MULTI by itself: its node is known with the first key. Until then it is answered here.
    pub(super) async fn begin_transaction(&mut self, multi: &Args<'_>) -> Result<(), Over> {
        self.worker.cells.command(Class::Transaction, Outcome::Forwarded);
        self.answer(b"+OK\r\n");
        self.session.spoken();
        self.worker.flush_one(&self.session);
        let request = loop {
            match self.next_request() {
                Ok(Some(request)) => break request,
                Ok(None) => self.wait(Until::Read).await?,
                Err(error) => {
                    self.answer(&self.failed(&error));
                    return self.farewell().await;
                }
            }
        };
        let mut parser = RequestParser::default();
        if !matches!(parser.parse(&request, &AUTHENTICATED), Ok(Parsed::Request { .. })) {
            return Err(Over);
        }
        let args = Args { raw: &request, ranges: parser.ranges() };
        let owner = || self.worker.node_of_args(look_up(&args), &args);
        let place = Place { node: owner(), now: Some(&owner) };
        self.worker.note_write(&self.session, place.node);
        let mut checked = match self.check_out(place, PoolKind::Transactions).await {
            Ok(checked) => checked,
            Err(reply) => {
                // What follows would be executed by itself.
                self.answer(&reply);
                return self.farewell().await;
            }
        };
        self.converse_with(&mut checked, async |this, checked| {
            this.open_transaction(checked, multi);
            this.feed_one(checked, &args).await
        })
        .await
    }

    /// MULTI goes out; it has been answered.
    fn open_transaction(&self, checked: &mut Checked, multi: &Args<'_>) {
        let row = look_up(multi);
        self.note_for_elsewhere(checked, row, multi);
        let mut expect = Expect::new(row, Class::Transaction, multi, Some(Default::default()), false).unheard();
        checked.once = false;
        checked.standing.sent(&mut expect);
        checked.connection.send(multi.raw, 1);
        checked.expected.push_back(expect);
    }
}
