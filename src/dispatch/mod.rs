//! What happens to one command. Read [`Worker::dispatch`] once from top to bottom: every way a command can go is
//! an early return with a name. Nothing here waits: what must wait is told to the client's task as a [`Flow`].
//!
//! Around it: `worker` (what a thread owns), `session` (one client), `replies` and `output` (what it is owed), `hot`,
//! `read` and `mget` (the cache's ways), `block` (transactions on the lane), `routes`, `redirect` and `detours` (which node, and
//! what it turns away), `spread` and `gather` (several nodes' commands), `scripts` (those EVALSHA calls), `lane` and `turn` (what arrives), `lanes` and
//! `accounts` (which there are), `loss` (one comes and goes), `pieces` (large replies), `fence` (news must not
//! overtake), `retry` (reads after a lost connection), `pubsub` (shared subscriptions), `pause` (CLIENT PAUSE), `audit`,
//! `info` (INFO's section of ours), `publish` (gauges).

pub mod accounts;
pub mod audit;
pub mod block;
pub mod detours;
pub mod fence;
pub mod gather;
pub mod hot;
pub mod info;
pub mod lane;
pub mod lanes;
pub mod loss;
pub mod mget;
pub mod output;
pub mod pause;
pub mod pieces;
pub mod publish;
pub mod pubsub;
pub mod read;
pub mod redirect;
pub mod replicas;
pub mod replies;
pub mod retry;
pub mod routes;
pub mod scripts;
pub mod session;
pub mod spread;
pub mod turn;
pub mod worker;

use std::rc::Rc;

use bytes::Bytes;

use crate::coherence::Keys;
use crate::command::policy::Refusal;
use crate::command::spread::Spread;
use crate::command::{Row, look_up};
use crate::error::Error;
use crate::protocol::Args;
use crate::switch::{Rule, on};
use crate::telemetry::labels::{Class, Outcome};
use fence::Hold;
use lane::{After, Rewrite, Ticket, Waiter};
use pubsub::news::Topic;
pub use session::Session;
pub use worker::Worker;

/// The client side's limits that dispatch enforces.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// While more waits to be read by a client, none of its commands are taken.
    pub output_pause_bytes: usize,
    /// A client for which more waits is closed.
    pub output_limit_bytes: usize,
    /// Most commands of one client under way.
    pub max_pipeline: usize,
    /// Whether a client must AUTH first.
    pub require_auth: bool,
    /// A silent client is closed after this; zero: never.
    pub idle_timeout: std::time::Duration,
}

/// What the client's task does next.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// Goes on with the next command: this one is answered or under way.
    Next,
    /// Answers it here; the row says which command.
    Local(&'static Row),
    /// Takes a dedicated connection for it.
    Dedicated(Class),
    /// MULTI: rides the lane if its block is whole, else a dedicated connection.
    Multi,
    /// Asks upstream what it is.
    Ask,
    /// Dispatches it again once all earlier replies are in.
    Settle,
}

impl Worker {
    /// The way of one command.
    pub fn dispatch(&self, session: &Rc<Session>, args: &Args<'_>) -> Flow {
        self.note_map(session);
        let Some(row) = look_up(args) else { return self.unknown(session, args) };
        if on(Rule::NothingBeforeAuth)
            && !session.authenticated.get()
            && !matches!(row.name, "auth" | "hello" | "quit" | "reset")
        {
            let error = if row.name == "exec" { Error::ExecNoAuth } else { Error::NoAuth };
            return self.refuse(session, Class::Local, &error);
        }
        if session.careful.get()
            && let Some(flow) = self.while_subscribed(session, row, args)
        {
            return flow;
        }
        let class = match self.policy.judge(row, args) {
            Ok(class) => class,
            Err(refusal) => return self.refused(session, row.name.replace('|', " "), refusal),
        };
        if self.is_cluster()
            && row.spread() != Spread::One
            && let Some(flow) = self.spread(session, row, args, class)
        {
            return flow;
        }
        // However many names: a client's subscriptions lie together.
        let large = args.raw.len() > self.settings.upstream.large_request_bytes && class != Class::Subscribe;
        if large || self.is_held(row, class) {
            return Flow::Dedicated(class);
        }
        match class {
            Class::Read => match self.read(session, row, args) {
                Flow::Next => {}
                flow => return flow,
            },
            Class::Mget => self.mget(session, row, args),
            Class::Plain if row.is_of_the_cluster() && self.is_cluster() => return Flow::Local(row),
            Class::Plain => self.forward(session, row, args, Class::Plain, self.after_plain(row, args)),
            Class::Write => self.write(session, row, args),
            Class::Script => self.script(session, row, args),
            Class::Sweep => {
                self.sweeping();
                self.forward(session, row, args, Class::Sweep, After::Swept);
            }
            Class::Transaction if row.name == "multi" => return Flow::Multi,
            Class::Local => return Flow::Local(row),
            Class::Subscribe => return self.subscription(session, row, args),
            Class::Control if !on(Rule::ControlOvertakes) => {
                self.forward(session, row, args, class, After::Nothing);
            }
            class => return Flow::Dedicated(class),
        }
        session.spoken();
        Flow::Next
    }

    /// Whether a command for the lane would be held there by a CLIENT PAUSE, and all that comes behind it.
    #[inline]
    fn is_held(&self, row: &Row, class: Class) -> bool {
        let may_be = matches!(class, Class::Plain | Class::Write | Class::Script | Class::Sweep);
        on(Rule::PausedWritesLeaveTheLane) && may_be && self.peers.pause.is_on() && row.is_held_by_pause()
    }

    /// Replies that tell of the server what is not quite so for our clients are corrected.
    fn after_plain(&self, row: &Row, args: &Args<'_>) -> After {
        let channel = || Bytes::copy_from_slice(args.get(1).unwrap_or_default());
        match row.name {
            "info" if info::asks_for_section(args) => After::Info,
            "publish" if self.has_audience() => After::Published(Topic::Channel, channel()),
            "spublish" if self.has_audience() => After::Published(Topic::Shard, channel()),
            "pubsub|numsub" if self.has_audience() => After::Counted(Topic::Channel),
            "pubsub|shardnumsub" if self.has_audience() => After::Counted(Topic::Shard),
            _ => After::Nothing,
        }
    }

    /// Whether any client, of whatever worker, is subscribed to anything.
    fn has_audience(&self) -> bool {
        !self.peers.audience.is_empty()
    }

    /// Answers with an error of our own, in the command's turn.
    pub fn refuse(&self, session: &Rc<Session>, class: Class, error: &Error) -> Flow {
        self.unpark(session);
        self.cells.error(error.kind());
        self.cells.command(class, Outcome::Failed);
        session.replies.borrow_mut().answer(&error.reply(), session.mute());
        session.spoken();
        Flow::Next
    }

    #[cold]
    fn refused(&self, session: &Rc<Session>, name: String, refusal: Refusal) -> Flow {
        let Refusal { reason, remedy } = refusal;
        self.refuse(session, Class::Refused, &Error::Refused { name, reason, remedy })
    }

    /// A command rides the lane as it is.
    pub fn forward(&self, session: &Rc<Session>, row: &Row, args: &Args<'_>, class: Class, after: After) {
        self.unpark(session);
        self.cells.command(class, Outcome::Forwarded);
        let lane = self.route_args(session, row, args);
        if class == Class::Write || class == Class::Sweep {
            self.note_write(session, lane.node);
        }
        let rewrite = self.shape(session, &lane, row, args).map_or(Rewrite::No, Rewrite::Resp2);
        let number = session.replies.borrow_mut().expect_other(session.mute());
        let ticket = Ticket::new(session, number);
        self.send(&lane, args.raw, ticket, rewrite, after);
    }

    /// A write: its keys are bumped when it is sent, and again before its reply is released.
    fn write(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) {
        let Some(keys) = self.keys(row, args) else { return self.script(session, row, args) };
        self.coherence.sending(&keys);
        let after = if row.brings_news(args) { After::News(keys) } else { After::Written(keys) };
        self.forward(session, row, args, Class::Write, after);
    }

    /// The counters of a command's keys; `None` if they cannot be told.
    pub fn keys(&self, row: &Row, args: &Args<'_>) -> Option<Keys> {
        if let Some(key) = row.single_key(args) {
            return Some(Keys::One(self.coherence.shared.generations.slot(key)));
        }
        let mut keys: Vec<&[u8]> = Vec::new();
        let known = row.each_key(args, |key| keys.push(key));
        known.then(|| Keys::of(&self.coherence.shared.generations, keys))
    }

    /// A command that may write keys it does not name: a PING right behind it is the fence for its reply.
    fn script(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) {
        self.unpark(session);
        self.cells.command(Class::Script, Outcome::Forwarded);
        self.unknown_written();
        let lane = self.route_args(session, row, args);
        let rewrite = self.shape(session, &lane, row, args).map_or(Rewrite::No, Rewrite::Resp2);
        let number = session.replies.borrow_mut().expect_other(session.mute());
        let ticket = Ticket::new(session, number);
        self.note_script(row, args);
        self.note_write(session, lane.node);
        let keys = self.keys(row, args).unwrap_or_default();
        self.coherence.sending(&keys);
        let Ok(group) = lane.queue.group(2, args.raw.len() + 16) else {
            return self.fail_ticket(&ticket, &Error::LaneFull { upstream: self.upstream_name() });
        };
        let hold = Hold::new();
        let waiter = Waiter::Reply(ticket, rewrite, After::Held(Rc::clone(&hold), keys));
        let order = lane.queue.add(group, self.now(), args.raw, waiter);
        session.rests_on(order);
        self.send_own_fence(&lane, group, hold);
    }

    /// In a cluster a script may be called by its hash at nodes that have never seen it.
    fn note_script(&self, row: &Row, args: &Args<'_>) {
        if !self.is_cluster() {
            return;
        }
        match row.name {
            "eval" | "eval_ro" => args.get(1).into_iter().for_each(|script| self.peers.scripts.note(script)),
            "script|load" => args.get(2).into_iter().for_each(|script| self.peers.scripts.note(script)),
            "script|flush" => self.peers.scripts.forget(),
            _ => {}
        }
    }

    /// A name that the table lacks: as the configuration or upstream says, else on a connection of its own.
    fn unknown(&self, session: &Rc<Session>, args: &Args<'_>) -> Flow {
        let name = args.get(0).unwrap_or_default().to_ascii_lowercase();
        if !session.authenticated.get() {
            return self.refuse(session, Class::Unknown, &Error::NoAuth);
        }
        if session.careful.get() && (session.must_settle() || !session.replies.borrow().is_empty()) {
            return Flow::Settle;
        }
        if let Some(refusal) = self.policy.refusal_of_unknown(&name) {
            return self.refused(session, String::from_utf8_lossy(&name).into_owned(), refusal);
        }
        // Its RESP2 shape is unknown: a RESP2 client takes a RESP2 connection.
        let rides = session.resp3() || session.lane().speaks_resp2();
        let small = args.raw.len() <= self.settings.upstream.large_request_bytes;
        match self.learned.borrow().get(&name) {
            None => return Flow::Ask,
            Some(None) => return Flow::Dedicated(Class::Unknown),
            // In RESP2's subscribe mode.
            Some(Some(_)) if session.careful.get() => {
                let error = Error::SubscribeMode(String::from_utf8_lossy(&name).into_owned());
                return self.refuse(session, Class::Unknown, &error);
            }
            Some(Some(_)) if !rides || !small || self.peers.pause.is_on() => return Flow::Dedicated(Class::Unknown),
            Some(Some(_)) => {}
        }
        let learned = self.learned.borrow().get(&name).cloned().flatten();
        let Some(learned) = learned else { return Flow::Dedicated(Class::Unknown) };
        let learned = learned.narrow(args);
        let mut keys: Vec<&[u8]> = Vec::new();
        let known = learned.each_key(args, |key| keys.push(key));
        let first = keys.first().copied();
        let keys = Keys::of(&self.coherence.shared.generations, keys);
        let class = if self.policy.is_plain(&name) && known { Class::Write } else { learned.class() };
        match class {
            Class::Plain => self.forward_raw(session, first, args, After::Nothing),
            Class::Write if known => {
                self.coherence.sending(&keys);
                self.forward_raw(session, first, args, After::News(keys));
            }
            _ => return Flow::Dedicated(Class::Unknown),
        }
        session.spoken();
        Flow::Next
    }

    fn forward_raw(&self, session: &Rc<Session>, first: Option<&[u8]>, args: &Args<'_>, after: After) {
        self.unpark(session);
        self.cells.command(Class::Unknown, Outcome::Forwarded);
        let lane = self.route(session, first);
        self.note_write(session, lane.node);
        let number = session.replies.borrow_mut().expect_other(session.mute());
        let ticket = Ticket::new(session, number);
        self.send(&lane, args.raw, ticket, Rewrite::No, after);
    }
}
