//! What needs a connection of its own: transactions spoken line by line, WATCH, blocking commands, subscriptions,
//! MONITOR, WAIT, large values, and names that the table lacks.
//!
//! While the connection's state is the client's (in MULTI, watching, subscribed, tracking) all its commands go there
//! and nothing is answered from the cache. What it delivers may be newer than what the lanes have read, so it is held
//! until fences have returned; statuses of commands whose keys are known are not. *Invariant:* the connection goes back
//! to its pool only when its state is provably clean; else it is closed, which also unblocks what the client left behind.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::time::Instant;

use super::checkout::pool_for;
use super::connection::{Connection, Over, Until};
use super::effects::Standing;
use super::elsewhere::{Elsewhere, Try};
use super::expect::{Expect, begins_tracking};
use super::patience::{Woken, Writing};
use super::registry::BLOCKED;
use crate::command::spread::Spread;
use crate::command::{Row, look_up};
use crate::dispatch::Flow;
use crate::dispatch::accounts::Place;
use crate::dispatch::block::TurnedAway;
use crate::error::Error;
use crate::limits::AUTHENTICATED;
use crate::protocol::{Args, Parsed, RequestParser, encode};
use crate::switch::{Rule, on};
use crate::telemetry::labels::{Class, Outcome};
use crate::telemetry::metrics::Counter;
use crate::upstream::dedicated::Checkout;

/// Most commands on their way on one dedicated connection.
const UNDER_WAY_MAX: usize = 128;

/// While more than this waits to be written upstream, no further commands are taken.
const UNWRITTEN_MAX: usize = 64 * 1024;

/// Where the empty PUBLISH before WAIT goes: it sets the connection's replication offset to the present, which a
/// fresh connection lacks (Redis 7.0 notes the offset after any command, Valkey 9 after a propagated one).
pub(super) const WAIT_CHANNEL: &str = "__sidecache:wait";

/// Queued in the place of a refused command inside MULTI: upstream lacks it, and so will not execute the rest.
const SPOIL: &[u8] = b"*1\r\n$17\r\nsidecache.refused\r\n";

/// One checked-out connection and what is known of it.
pub(super) struct Checked {
    pub(super) connection: Checkout,
    pub(super) standing: Standing,
    pub(super) expected: VecDeque<Expect>,
    /// Whether it serves one command and goes back.
    pub(super) once: bool,
    /// A command waits for all replies: no more are taken before it.
    held: bool,
    /// When what is awaited now began: a command was sent, a reply came, or bytes were taken by the socket.
    pub(super) since: Instant,
    /// When the client was last heard.
    pub(super) heard: Instant,
    writing: Writing,
    /// What is kept so that it can go on with another node.
    pub(super) elsewhere: Elsewhere,
}

// === impl Checked ===

impl Checked {
    /// For one command, or more if the first has it so.
    pub(super) fn new(connection: Checkout, elsewhere: Elsewhere) -> Checked {
        let (standing, expected, now) = (Standing::default(), VecDeque::new(), Instant::now());
        let (once, held, writing) = (true, false, Writing::default());
        Checked { connection, standing, expected, once, held, since: now, heard: now, writing, elsewhere }
    }

    /// Whether the client's next command would be taken.
    fn takes_more(&self) -> bool {
        let room = self.expected.len() < UNDER_WAY_MAX && self.connection.unwritten() < UNWRITTEN_MAX;
        // A WATCH may have to go elsewhere by itself.
        let waits = self.held || self.elsewhere.possible && self.standing.begins_to_watch();
        // What is to be sent again elsewhere comes before what stands behind it.
        let waits = waits || self.elsewhere.goes_on();
        room && !self.once && !waits && !self.standing.may_end()
    }

    /// Whether a reply is owed that comes soon.
    pub(super) fn answers_come(&self, paused: bool) -> bool {
        self.expected.front().is_some_and(|expect| !expect.has_no_limit(paused))
    }

    /// What CLIENT LIST tells of the client meanwhile.
    fn flags(&self, paused: bool) -> u8 {
        let blocked = self.expected.front().is_some_and(|expect| expect.blocks(paused));
        self.standing.flags() | if blocked { BLOCKED } else { 0 }
    }

    /// Has upstream speak another RESP version, before the client is told.
    fn change_version(&mut self, proto: u8) {
        let mut request = BytesMut::new();
        encode::request(&mut request, &["HELLO", if proto == 3 { "3" } else { "2" }]);
        self.connection.send(&request, 1);
        self.connection.note_proto(proto);
        self.expected.push_back(Expect::swallowed());
    }

    /// Writes what is to be written, then waits for a reply or a piece of one.
    async fn upstream(&mut self) -> Woken {
        let full = self.connection.unwritten() >= UNWRITTEN_MAX;
        if let Err(error) = self.connection.flush().await {
            return Woken::Piece(Err(error.into()));
        }
        let now = Instant::now();
        if self.writing.ends(now) {
            // Upstream has taken its time to read it, and has as much again to answer.
            self.since = now;
        }
        if full {
            // There is room for more commands.
            self.since = Instant::now();
            return Woken::Written;
        }
        Woken::Piece(self.connection.read_some().await)
    }
}

// === impl Connection: a conversation's begin and end ===

impl Connection {
    /// Takes a dedicated connection for a command and stays on it for as long as it must.
    pub(super) async fn dedicated(&mut self, class: Class, args: &Args<'_>) -> Result<(), Over> {
        let row = look_up(args);
        if self.worker.is_cluster() && row.is_some_and(|row| row.name == "multi") && args.len() == 1 {
            return self.begin_transaction(args).await;
        }
        if let Some(row) = row.filter(|row| self.worker.is_cluster() && begins_tracking(row, args)) {
            // The client would be told of one node's keys, and could read no others.
            self.worker.refuse(&self.session, class, &Error::OneNodeAlone(row.name.replace('|', " ")));
            return Ok(());
        }
        if self.worker.is_cluster()
            && let Some(row) = row.filter(|row| row.arity_ok(args.len()))
            && let Spread::All(how) = row.spread()
        {
            return self.ask_all(row, class, how, args).await;
        }
        let mut attempt = Try::first(self.worker.node_of_args(row, args), self.session.mute());
        while let Some(away) = self.try_dedicated(attempt, class, row, args).await? {
            match self.next_try(attempt, class, &away, args).await {
                Some(next) => attempt = next,
                None => break,
            }
        }
        Ok(())
    }

    /// As `dedicated`, at one node, which may turn the command away.
    async fn try_dedicated(
        &mut self,
        attempt: Try,
        class: Class,
        row: Option<&'static Row>,
        args: &Args<'_>,
    ) -> Result<Option<TurnedAway>, Over> {
        let kind = pool_for(class, row, self.worker.peers.pause.is_on());
        self.worker.note_write(&self.session, attempt.node);
        let owner = || self.worker.node_of_args(row, args);
        let place = Place { node: attempt.node, now: if attempt.asking { None } else { Some(&owner) } };
        let mut checked = match self.check_out(place, kind).await {
            Ok(checked) => checked,
            Err(mut reply) => {
                self.worker.cells.command(class, Outcome::Failed);
                if reply.starts_with(b"-NOAUTH") && row.is_some_and(|row| row.name == "exec") {
                    reply = Error::ExecNoAuth.reply();
                }
                self.session.replies.borrow_mut().answer(&reply, attempt.mute);
                if attempt.is_first() {
                    self.session.spoken();
                }
                // What follows would be executed by itself, and unguarded; nothing is of who has yet to log in.
                let begins = row.is_some_and(|row| matches!(row.name, "multi" | "watch"));
                return if begins && !reply.starts_with(b"-NOAUTH") {
                    self.farewell().await.map(|()| None)
                } else {
                    Ok(None)
                };
            }
        };
        self.converse_with(&mut checked, async |this, checked| {
            this.expect_pause(checked, args).await;
            if attempt.asking {
                this.ask_importer(checked);
            }
            this.send_attempt(checked, &attempt, class, args);
            Ok(())
        })
        .await?;
        Ok(checked.elsewhere.away.take())
    }

    /// A conversation, from what begins it to where nothing of it is left.
    pub(super) async fn converse_with(
        &mut self,
        checked: &mut Checked,
        begin: impl AsyncFnOnce(&mut Self, &mut Checked) -> Result<(), Over>,
    ) -> Result<(), Over> {
        self.session.card.upstream_id.store(checked.connection.ready.connection_id, Ordering::Relaxed);
        let result = match begin(self, checked).await {
            Ok(()) => self.converse(checked).await,
            over => over,
        };
        self.owed_elsewhere = false;
        self.session.card.upstream_id.store(0, Ordering::Relaxed);
        self.session.card.flags.store(0, Ordering::Relaxed);
        for expect in &checked.expected {
            self.in_doubt(expect);
        }
        if on(Rule::ClientStateTaints) && (result.is_err() || !checked.standing.is_plain()) {
            checked.connection.taint();
        }
        if let Some((said, mute)) = checked.elsewhere.again.take() {
            self.send_again(&said, mute);
        }
        result
    }
}

// === impl Connection: conversing ===

impl Connection {
    /// Goes on until the connection's state is plain again and nothing is owed.
    async fn converse(&mut self, checked: &mut Checked) -> Result<(), Over> {
        let is_over = |checked: &Checked| checked.expected.is_empty() && checked.standing.is_plain();
        // What stands behind its end is none of its own any more, and may be another node's.
        while !is_over(checked) {
            self.feed(checked).await?;
            // RESET ends it without a word of upstream.
            if !is_over(checked) {
                self.go_on(checked).await?;
            }
        }
        Ok(())
    }

    /// Does what comes next: upstream's reply, more bytes of the client, its end, or the end of patience.
    async fn go_on(&mut self, checked: &mut Checked) -> Result<(), Over> {
        match self.next_of(checked).await {
            Woken::Over => Err(Over),
            Woken::Idle => {
                self.worker.cells.add(Counter::ClientsClosedIdle, 1);
                Err(Over)
            }
            Woken::Late if checked.writing.has_moved(checked.connection.unwritten()) => {
                checked.since = Instant::now();
                Ok(())
            }
            Woken::Late => {
                let error = Error::Timeout { upstream: self.worker.upstream_name() };
                self.abandon(checked, &error).await
            }
            Woken::Piece(Ok(piece)) => self.take_pieces(checked, piece).await,
            Woken::Piece(Err(error)) => self.broken(checked, &error.to_string()).await,
            Woken::Written => Ok(()),
            Woken::Paused => {
                checked.since = Instant::now();
                Ok(())
            }
            Woken::Client => {
                checked.heard = Instant::now();
                Ok(())
            }
        }
    }

    /// Waits for upstream, for the client, or for the end of patience.
    async fn next_of(&mut self, checked: &mut Checked) -> Woken {
        let paused = self.worker.peers.pause.is_on();
        self.session.card.flags.store(checked.flags(paused), Ordering::Relaxed);
        let patience = self.patience(checked, paused);
        let owed = checked.answers_come(paused);
        self.owed_elsewhere = owed;
        // Who has closed its side is still answered, but not waited for.
        if self.said_all && !owed {
            return Woken::Over;
        }
        // What is half read is never waited with; what cannot be taken yet is read up to a bound.
        let reads = checked.takes_more() || self.unread().len() < AUTHENTICATED.inline;
        let had_said_all = self.said_all;
        let until = if reads && !had_said_all { Until::Read } else { Until::Over };
        let wait = async {
            tokio::select! {
                biased;
                woken = checked.upstream() => woken,
                over = std::future::poll_fn(|cx| self.poll_until(cx, until)) => {
                    if over.is_ok() { Woken::Client } else { Woken::Over }
                }
            }
        };
        let woken = match patience {
            None => wait.await,
            Some((until, end)) => tokio::time::timeout_at(until, wait).await.unwrap_or(end),
        };
        match woken {
            Woken::Over if self.said_all && !had_said_all && owed => Woken::Client,
            woken => woken,
        }
    }

    /// Passes the client's further commands on while the connection's state is the client's.
    async fn feed(&mut self, checked: &mut Checked) -> Result<(), Over> {
        while checked.takes_more() {
            let request = match self.next_request() {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.wait_for_replies(checked).await?;
                    self.answer(&self.failed(&error));
                    return self.farewell().await;
                }
            };
            let mut parser = RequestParser::default();
            if !matches!(parser.parse(&request, &AUTHENTICATED), Ok(Parsed::Request { .. })) {
                return Err(Over);
            }
            let args = Args { raw: &request, ranges: parser.ranges() };
            self.feed_one(checked, &args).await?;
        }
        Ok(())
    }

    pub(super) async fn feed_one(&mut self, checked: &mut Checked, args: &Args<'_>) -> Result<(), Over> {
        self.worker.begin_batch();
        self.session.card.last.store(self.worker.now(), Ordering::Relaxed);
        let row = look_up(args);
        if let Some(row) = row {
            if let Some(refusal) = self.worker.policy.refusal(row, args) {
                let name = row.name.replace('|', " ");
                let error = Error::Refused { name, reason: refusal.reason, remedy: refusal.remedy };
                return self.deny(checked, error).await;
            }
            let (resp3, is_cluster) = (self.session.resp3(), self.worker.is_cluster());
            // Queued, it would be answered by the real node.
            let shows = is_cluster && checked.standing.in_multi() && row.tells_of_nodes();
            if row.arity_ok(args.len()) && (shows || checked.standing.cannot_follow(row, args)) {
                let error = Error::CannotFollow(row.name.replace('|', " "));
                return self.deny(checked, error).await;
            }
            if is_cluster && begins_tracking(row, args) {
                return self.deny(checked, Error::OneNodeAlone(row.name.replace('|', " "))).await;
            }
            let here = checked.standing.answers_here(row, resp3, is_cluster) && !self.upstream_lacks(row);
            if row.arity_ok(args.len()) && here {
                self.wait_for_replies(checked).await?;
                if row.name == "reset" {
                    // What the client leaves behind there is not undone: that connection serves nobody any more.
                    checked.connection.taint();
                    checked.standing = Standing::default();
                    checked.once = true;
                }
                if let Some(proto) = self.new_version(row, args) {
                    checked.change_version(proto);
                    self.wait_for_replies(checked).await?;
                }
                if !self.local(row, args) {
                    self.local_slow(row, args).await?;
                }
                self.session.spoken();
                self.worker.flush_one(&self.session);
                return if self.session.closing.get() { self.farewell().await } else { Ok(()) };
            }
        }
        let class = row.map_or(Class::Unknown, |row| row.class(args));
        if class == Class::Subscribe && self.session.is_subscribed() && checked.standing.shares_subscriptions() {
            self.wait_for_replies(checked).await?;
            if matches!(self.worker.dispatch(&self.session, args), Flow::Next) {
                return self.wait(Until::Settled).await;
            }
        }
        self.expect_pause(checked, args).await;
        let mute = self.session.mute();
        self.session.spoken();
        self.send_dedicated(checked, class, args, mute);
        Ok(())
    }

    /// Answers with an error of our own; in MULTI upstream must learn of the failure, or it would execute the rest.
    async fn deny(&mut self, checked: &mut Checked, error: Error) -> Result<(), Over> {
        if checked.standing.in_multi() && on(Rule::RefusalSpoils) {
            checked.expected.push_back(Expect::spoiled(error, self.session.mute()));
            checked.connection.send(SPOIL, 1);
        } else {
            self.wait_for_replies(checked).await?;
            self.answer(&self.failed(&error));
            // Upstream is asked nothing, and may never say anything that would take it along.
            self.worker.flush_one(&self.session);
        }
        self.session.spoken();
        Ok(())
    }

    async fn wait_for_replies(&mut self, checked: &mut Checked) -> Result<(), Over> {
        checked.held = true;
        while !checked.expected.is_empty() {
            self.go_on(checked).await?;
        }
        checked.held = false;
        Ok(())
    }

    /// A command that begins a conversation goes out, or goes out again; the client has spoken it once.
    fn send_attempt(&mut self, checked: &mut Checked, attempt: &Try, class: Class, args: &Args<'_>) {
        if attempt.is_first() {
            self.session.spoken();
        }
        let Some(again) = attempt.request(look_up(args), args) else {
            return self.send_dedicated(checked, class, args, attempt.mute);
        };
        let mut parser = RequestParser::default();
        // It is one that we have written: were it none, what the client wrote would do.
        let again = match parser.parse(&again, &AUTHENTICATED) {
            Ok(Parsed::Request { .. }) => &Args { raw: &again, ranges: parser.ranges() },
            _ => args,
        };
        self.send_dedicated(checked, class, again, attempt.mute);
    }

    fn send_dedicated(&mut self, checked: &mut Checked, class: Class, args: &Args<'_>, mute: bool) {
        self.worker.cells.command(class, Outcome::Forwarded);
        let row = look_up(args);
        self.note_for_elsewhere(checked, row, args);
        let mut expect = self.expect(row, class, args, &checked.standing);
        // In MULTI it does not wait, and what stands before it would be queued too.
        let waits = row.is_some_and(|row| matches!(row.name, "wait" | "waitaof")) && !checked.standing.in_multi();
        if waits && on(Rule::WaitPublishes) {
            let mut publish = BytesMut::new();
            encode::request(&mut publish, &["PUBLISH", WAIT_CHANNEL, ""]);
            checked.connection.send(&publish, 1);
            checked.expected.push_back(Expect::swallowed());
        }
        checked.once = expect.is_once() && checked.standing.is_plain();
        if !checked.once && matches!(class, Class::Read | Class::Mget) {
            self.worker.cells.bypass(checked.standing.bypass());
        }
        if checked.expected.is_empty() {
            checked.since = Instant::now();
        }
        if on(Rule::UnfollowedTaints) && expect.taints() {
            checked.connection.taint();
        }
        expect.mute = mute;
        checked.standing.sent(&mut expect);
        let replies = expect.replies(self.session.resp3());
        let translated = self.translated(&mut checked.standing, row, args);
        self.worker.cells.add(Counter::UpstreamBytesOut, args.raw.len() as u64);
        checked.connection.send(translated.as_deref().unwrap_or(args.raw), replies);
        checked.writing.begins(checked.connection.unwritten(), Instant::now());
        if replies > 0 || expect.is_subscription() {
            checked.expected.push_back(expect);
        }
    }

    /// What a command means, noted when it is sent; its writes are bumped now and again at its reply.
    fn expect(&self, row: Option<&'static Row>, class: Class, args: &Args<'_>, standing: &Standing) -> Expect {
        let keys = match row {
            Some(row) if row.name == "exec" && on(Rule::QueuedEffects) => standing.queued(),
            // It may write keys that it does not name.
            Some(_) if class == Class::Script => None,
            Some(row) if row.is_write() => self.worker.keys(row, args),
            Some(_) => Some(Default::default()),
            None => None,
        };
        if let Some(keys) = &keys {
            self.worker.coherence.sending(keys);
        } else {
            self.worker.unknown_written();
        }
        let executes_sweep = row.is_some_and(|row| row.name == "exec") && standing.has_queued_sweep();
        if class == Class::Sweep || executes_sweep {
            self.worker.sweeping();
        }
        Expect::new(row, class, args, keys, standing.in_multi())
    }
}
