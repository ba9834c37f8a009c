//! What commands do to a dedicated connection's state, and what that means for their replies.
//!
//! *Invariant:* `Standing` is what upstream's side of the connection is, as far as replies have told; where it cannot be
//! known any more the connection is tainted and never used by another client. Pure: no socket, no task.

use std::collections::{HashSet, VecDeque};

use super::expect::{Effect, Expect};
use super::registry::{IN_MULTI, MONITORS, SUBSCRIBED};
use crate::coherence::Keys;
use crate::command::Row;
use crate::dispatch::pause::Asked;
use crate::dispatch::pubsub::news::{News, news_of};
use crate::protocol::Args;
use crate::protocol::frame::{Value, decode};
use crate::telemetry::labels::{Bypass, Class};
use crate::upstream::connection::Piece;

/// For rows whose class does not depend on the arguments.
const NO_ARGS: Args<'static> = Args { raw: b"", ranges: &[] };

/// The state of a dedicated connection.
#[derive(Default)]
pub struct Standing {
    multi: bool,
    watching: bool,
    /// WATCH commands on their way.
    watch_commands: u32,
    /// What is subscribed, by topic.
    subscribed: [HashSet<Vec<u8>>; 3],
    keep: bool,
    /// A command is on its way that may end this state: no more are taken until it is answered.
    ending: bool,
    /// What EXEC will do to the keys and the database.
    queued_keys: Vec<Keys>,
    /// How many commands upstream has said to be queued.
    queued_commands: usize,
    /// Which of them, counted from zero, are SELECTs, and of which database.
    queued_selects: Vec<(usize, u32)>,
    queued_unknown: bool,
    queued_sweep: bool,
    queued_subscription: bool,
    /// The last that is queued about a pause.
    queued_asked: Option<Asked>,
    /// Whom CLIENT TRACKING has named last for its messages: our id, and upstream's.
    pub redirect: (u64, u64),
    /// EXEC has subscribed to what is not followed.
    unseen: bool,
    /// MONITOR's lines come.
    monitors: bool,
    /// Subscriptions on their way.
    subscribing: u32,
}

/// The errors of EXEC that end a transaction, as an array and a null do: it was not executed, and is forgotten.
const ENDS_TRANSACTION: [&[u8]; 6] =
    [b"-EXECABORT ", b"-MOVED ", b"-ASK ", b"-TRYAGAIN ", b"-CLUSTERDOWN ", b"-CROSSSLOT "];

// === impl Standing ===

impl Standing {
    /// Whether nothing distinguishes the connection from a fresh one.
    pub fn is_plain(&self) -> bool {
        !self.multi && !self.watching && self.watch_commands == 0 && !self.keep && !self.is_subscribed()
    }

    fn is_subscribed(&self) -> bool {
        self.subscribing > 0 || self.subscribed.iter().any(|topic| !topic.is_empty())
    }

    /// Whether a client that is owed nothing may stay silent for ever: it has asked to be told.
    pub fn may_idle(&self) -> bool {
        self.is_subscribed() || self.unseen || self.monitors
    }

    /// Whether a subscription made now is not this connection's own affair.
    pub fn shares_subscriptions(&self) -> bool {
        !self.multi && !self.unseen && !self.is_subscribed()
    }

    /// What CLIENT LIST tells of it.
    pub fn flags(&self) -> u8 {
        let flag = |bit, holds: bool| if holds { bit } else { 0 };
        flag(MONITORS, self.monitors) | flag(SUBSCRIBED, self.is_subscribed()) | flag(IN_MULTI, self.multi)
    }

    /// Why a read is not answered from the cache here.
    pub fn bypass(&self) -> Bypass {
        if self.is_subscribed() {
            Bypass::Subscribed
        } else if self.keep && !self.multi {
            Bypass::ClientTracking
        } else {
            Bypass::Transaction
        }
    }

    /// The keys of what is queued; `None` if some cannot be told.
    pub fn queued(&self) -> Option<Keys> {
        if self.queued_unknown {
            return None;
        }
        let slots = self.queued_keys.iter().flat_map(|keys| match keys {
            Keys::None => &[][..],
            Keys::One(slot) => std::slice::from_ref(slot),
            Keys::Many(slots) => slots,
        });
        Some(Keys::of_slots(slots.copied().collect()))
    }

    /// What a command that is sent now asks of upstream about a pause: in MULTI nothing but EXEC does.
    pub fn asks(&self, asked: Option<Asked>, row: &Row) -> Option<Asked> {
        match row.name {
            "exec" => self.queued_asked,
            _ => asked.filter(|_| !self.multi),
        }
    }

    /// Whether EXEC changes what every entry of the node rests on.
    pub fn has_queued_sweep(&self) -> bool {
        self.queued_sweep
    }

    /// Whether a command would change the connection in a way that the session could not follow.
    pub fn cannot_follow(&self, row: &Row, args: &Args<'_>) -> bool {
        match row.name {
            "auth" => self.multi || !self.is_plain() && !self.keep,
            "hello" => {
                let auth = (2..args.len()).any(|i| args.get(i).is_some_and(|word| word.eq_ignore_ascii_case(b"auth")));
                self.multi || auth && !self.is_plain()
            }
            // Queued, it would be executed for, or act on, one of our own connections.
            name => self.multi && name.starts_with("client|") && row.class(&NO_ARGS) == Class::Local,
        }
    }

    /// Whether keys are watched.
    pub fn is_watching(&self) -> bool {
        self.watching
    }

    /// Whether a WATCH is on its way.
    pub fn begins_to_watch(&self) -> bool {
        self.watch_commands > 0
    }

    /// Whether commands are queued until EXEC.
    pub fn in_multi(&self) -> bool {
        self.multi
    }

    /// Whether a command on its way may make it plain again.
    pub fn may_end(&self) -> bool {
        self.ending
    }

    /// Whether a command is answered here, in front of a cluster or not, although the connection is the client's.
    pub fn answers_here(&self, row: &Row, resp3: bool, is_cluster: bool) -> bool {
        let subscribed = self.is_subscribed();
        match row.name {
            "quit" | "reset" => true,
            "hello" => resp3 || !subscribed,
            name if name.starts_with("client|") => {
                row.class(&NO_ARGS) == Class::Local && !self.multi && (resp3 || !subscribed)
            }
            _ => is_cluster && row.is_of_the_cluster() && !self.multi && (resp3 || !subscribed),
        }
    }

    /// A command has been sent.
    pub fn sent(&mut self, expect: &mut Expect) {
        if expect.effect == Effect::Exec {
            expect.sweeps_queued = self.queued_sweep;
            expect.asked = self.queued_asked;
        }
        match expect.effect {
            Effect::Multi => self.multi = true,
            Effect::Exec | Effect::Discard | Effect::Unwatch => self.ending = true,
            Effect::Watch => self.watch_commands += 1,
            Effect::Keep => {
                self.keep = true;
                self.monitors |= expect.waits;
            }
            Effect::Subscription(_) | Effect::Unsubscription(_) if !expect.queued => {
                if let Effect::Unsubscription(topic) = expect.effect {
                    expect.confirmations = self.subscribed[topic as usize].len().max(1) as u32;
                }
                self.subscribing += expect.confirmations;
                self.ending = true;
            }
            Effect::Subscription(_) | Effect::Unsubscription(_) => self.queued_subscription = true,
            _ => {}
        }
        if expect.queued {
            self.queued_keys.push(expect.keys.clone());
            self.queued_unknown |= expect.unknown_keys;
            self.queued_sweep |= expect.sweeps();
            self.queued_asked = expect.asked.take().or(self.queued_asked);
        }
    }

    /// A command has been answered; returns the database that the connection has changed to.
    pub fn answered(&mut self, expect: &Expect, piece: &Piece) -> Option<u32> {
        let failed = matches!(piece.kind, b'-' | b'!');
        if expect.queued && !failed {
            // Only what upstream has queued has a place in EXEC's reply: a nested MULTI has none.
            if let Effect::Select(db) = expect.effect {
                self.queued_selects.push((self.queued_commands, db));
            }
            self.queued_commands += 1;
        }
        match expect.effect {
            Effect::Multi if failed => self.multi = false,
            Effect::Watch => {
                self.watch_commands = self.watch_commands.saturating_sub(1);
                self.watching |= !failed;
            }
            Effect::Exec => {
                self.ending = false;
                // Other errors ("EXEC without MULTI") change nothing, what is watched stays so.
                let error = piece.bytes.get(piece.start..).unwrap_or_default();
                if failed && !ENDS_TRANSACTION.iter().any(|code| error.starts_with(code)) {
                    return None;
                }
                // Its confirmations stand in EXEC's reply: what is subscribed now is not followed.
                self.unseen |= self.queued_subscription && !failed;
                self.keep |= self.unseen;
                let selected = self.selected(piece);
                self.end_transaction();
                return selected;
            }
            Effect::Discard => {
                self.ending = false;
                if !failed {
                    self.end_transaction();
                }
            }
            Effect::Unwatch => {
                self.ending = false;
                if !expect.queued && !failed {
                    self.watching = false;
                }
            }
            Effect::Select(db) if !expect.queued && !failed => return Some(db),
            Effect::Subscription(_) | Effect::Unsubscription(_) if failed => {
                self.subscribing = self.subscribing.saturating_sub(expect.confirmations);
                self.ending = false;
            }
            _ => {}
        }
        None
    }

    fn end_transaction(&mut self) {
        self.multi = false;
        self.watching = false;
        self.queued_commands = 0;
        self.queued_selects.clear();
        self.queued_keys.clear();
        self.queued_unknown = false;
        self.queued_sweep = false;
        self.queued_subscription = false;
        self.queued_asked = None;
    }

    /// The database that the connection has been brought to by EXEC, whose reply this is: by the last SELECT that
    /// has succeeded.
    fn selected(&self, piece: &Piece) -> Option<u32> {
        if piece.kind != b'*' || self.queued_selects.is_empty() {
            return None;
        }
        let Ok(value) = decode(piece.bytes.get(piece.start..).unwrap_or_default()) else {
            // Too long to be here as a whole.
            return self.queued_selects.last().map(|&(_, db)| db);
        };
        let replies = value.as_array()?;
        let succeeded = |&&(index, _): &&(usize, u32)| matches!(replies.get(index), Some(Value::Simple(_)));
        self.queued_selects.iter().rev().find(succeeded).map(|&(_, db)| db)
    }

    /// Whether a piece answers no command: in RESP3 a push, in RESP2 a message or confirmation of a subscription.
    pub fn is_news(&self, piece: &Piece, resp3: bool, expected: &VecDeque<Expect>) -> bool {
        if piece.kind == b'>' || resp3 {
            return piece.kind == b'>';
        }
        // Who is subscribed gets no other arrays than PING's; who is about to be gets those of earlier commands.
        let begun = self.unseen || self.subscribed.iter().any(|topic| !topic.is_empty());
        let told = begun || expected.front().is_some_and(Expect::is_subscription);
        told && piece.first && piece.kind == b'*' && news_in(piece).is_some()
    }

    /// Takes note of a push or message: confirmations change what is subscribed.
    pub fn heard(&mut self, piece: &Piece, expected: &mut VecDeque<Expect>) {
        let Some(News::Confirmation { topic, begins, name }) = news_in(piece) else { return };
        let subscribed = &mut self.subscribed[topic as usize];
        match (begins, name) {
            (true, Some(name)) => {
                subscribed.insert(name);
            }
            (false, Some(name)) => {
                subscribed.remove(&name);
            }
            // Nothing was subscribed.
            (_, None) => {}
        }
        self.subscribing = self.subscribing.saturating_sub(1);
        self.ending = self.subscribing > 0;
        if let Some(expect) = expected.front_mut().filter(|expect| expect.is_subscription()) {
            expect.confirmations = expect.confirmations.saturating_sub(1);
            if expect.confirmations == 0 {
                expected.pop_front();
            }
        }
    }
}

fn news_in(piece: &Piece) -> Option<News<'_>> {
    news_of(piece.bytes.get(piece.start..)?)
}
