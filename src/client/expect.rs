//! What a dedicated connection owes for a command: what it means, told from its words when it is sent, and what its reply
//! means then.
//!
//! Pure: no socket, no task. Not here: the state that a connection is in (`effects`).

use crate::coherence::Keys;
use crate::command::Row;
use crate::dispatch::pause::Asked;
use crate::dispatch::pubsub::news::Topic;
use crate::error::Error;
use crate::protocol::Args;
use crate::telemetry::labels::Class;
use crate::upstream::connection::Piece;

/// What a command does to its connection once it has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Begins a transaction.
    Multi,
    /// Ends one.
    Exec,
    /// Ends one, unexecuted.
    Discard,
    /// Watches keys.
    Watch,
    /// Watches none any more.
    Unwatch,
    /// Changes the database.
    Select(u32),
    /// Changes subscriptions: so many confirmations come, as pushes in RESP3.
    Subscription(u32),
    /// Ends all subscriptions of a kind: as many confirmations come as there are, one at least.
    Unsubscription(Topic),
    /// Changes the connection in ways that are not followed: it stays this client's until it leaves.
    Keep,
}

/// A reply that is owed on a dedicated connection.
pub struct Expect {
    /// The keys of its writes, bumped again at its reply.
    pub keys: Keys,
    /// Part of its reply has been passed on.
    pub begun: bool,
    /// Whether the client asked for silence (CLIENT REPLY).
    pub mute: bool,
    /// Whether its reply names a client by upstream's id.
    pub tells_id: bool,
    pub(super) effect: Effect,
    pub(super) class: Class,
    /// Whether it may write keys it does not name.
    pub(super) unknown_keys: bool,
    /// It waits for others, however long.
    pub(super) waits: bool,
    /// A pause of writes holds it.
    held: bool,
    /// What it asks of upstream about a pause.
    pub asked: Option<Asked>,
    /// An error in reply to it leaves the state in doubt: MULTI, EXEC, DISCARD, WATCH.
    delicate: bool,
    /// Queued in MULTI: it is executed by EXEC.
    pub(super) queued: bool,
    /// It executes queued commands on whose changes every entry of the node rests.
    pub(super) sweeps_queued: bool,
    swallowed: bool,
    /// Answered by this error instead of upstream's reply.
    instead: Option<Error>,
    /// Confirmations still to come.
    pub(super) confirmations: u32,
}

// === impl Expect ===

impl Expect {
    /// What a command means.
    pub fn new(row: Option<&'static Row>, class: Class, args: &Args<'_>, keys: Option<Keys>, in_multi: bool) -> Expect {
        let effect = match row.map_or(Effect::None, |row| effect_of(row, args)) {
            // It fails, and the transaction that it stands in goes on.
            Effect::Multi if in_multi => Effect::None,
            effect => effect,
        };
        Expect {
            unknown_keys: keys.is_none(),
            keys: keys.unwrap_or_default(),
            begun: false,
            mute: false,
            tells_id: !in_multi && row.is_some_and(|row| matches!(row.name, "client|getredir" | "client|trackinginfo")),
            waits: !in_multi && row.is_some_and(|row| waits_for_others(class, row)),
            held: row.is_none_or(|row| row.is_held_by_pause() || row.name == "exec"),
            asked: row.and_then(|row| Asked::of(row.name, args)),
            delicate: row.is_some_and(|row| matches!(row.name, "multi" | "exec" | "discard" | "watch")),
            queued: in_multi && !matches!(effect, Effect::Multi | Effect::Exec | Effect::Discard | Effect::Watch),
            sweeps_queued: false,
            effect,
            class,
            swallowed: false,
            instead: None,
            confirmations: if let Effect::Subscription(count) = effect { count } else { 0 },
        }
    }

    /// A command of our own, whose reply nobody gets.
    pub fn swallowed() -> Expect {
        Expect { swallowed: true, ..Expect::blank() }
    }

    /// A refused command inside MULTI: upstream is made to spoil the transaction, the client gets the reason.
    pub fn spoiled(error: Error, mute: bool) -> Expect {
        Expect { instead: Some(error), mute, ..Expect::blank() }
    }

    /// The same, whose reply nobody gets.
    pub fn unheard(self) -> Expect {
        Expect { swallowed: true, ..self }
    }

    fn blank() -> Expect {
        Expect {
            keys: Keys::None,
            begun: false,
            mute: false,
            tells_id: false,
            waits: false,
            // The PUBLISH before WAIT.
            held: true,
            asked: None,
            delicate: false,
            effect: Effect::None,
            class: Class::Plain,
            unknown_keys: false,
            queued: false,
            sweeps_queued: false,
            swallowed: false,
            instead: None,
            confirmations: 0,
        }
    }

    /// The error that the client gets instead of upstream's reply.
    pub fn instead(&self) -> Option<Error> {
        self.instead.clone()
    }

    /// Whether its reply may take as long as it likes: what waits for others, or for the end of a pause, until its reply
    /// has begun.
    pub fn has_no_limit(&self, paused: bool) -> bool {
        (self.waits || self.held && paused) && !self.begun
    }

    /// Whether its client is blocked until others have done something, rather than told of it.
    pub fn blocks(&self, paused: bool) -> bool {
        self.has_no_limit(paused) && !self.is_subscription() && self.effect != Effect::Keep
    }

    /// Whether this reply leaves the connection's state in doubt.
    pub fn leaves_doubt(&self, piece: &Piece) -> bool {
        self.delicate && matches!(piece.kind, b'-' | b'!')
    }

    /// Whether upstream has done what is asked about a pause, by its reply: EXEC's is an array, the others' a status.
    pub fn has_done(&self, piece: &Piece) -> bool {
        let reply = piece.bytes.get(piece.start..).unwrap_or_default();
        !matches!(piece.kind, b'-' | b'!' | b'_') && !reply.starts_with(b"*-1")
    }

    /// Whether nobody gets the reply.
    pub fn is_swallowed(&self) -> bool {
        self.swallowed
    }

    /// Whether the connection serves this command and goes back.
    pub fn is_once(&self) -> bool {
        self.effect == Effect::None || matches!(self.effect, Effect::Unwatch | Effect::Exec | Effect::Discard)
    }

    /// Whether the connection's state cannot be proven clean afterwards.
    pub fn taints(&self) -> bool {
        let steady = matches!(self.effect, Effect::Select(_)) && !self.queued;
        matches!(self.class, Class::Unknown | Class::Dedicated)
            || self.effect == Effect::Keep
            || matches!(self.effect, Effect::Subscription(_) | Effect::Unsubscription(_))
            || (self.class == Class::Local && !steady)
    }

    /// Whether every entry of the node rests on what it changes.
    pub fn sweeps(&self) -> bool {
        self.class == Class::Sweep || self.sweeps_queued
    }

    /// Replies that are owed for it.
    pub fn replies(&self, resp3: bool) -> u32 {
        match self.effect {
            Effect::Subscription(_) | Effect::Unsubscription(_) if !self.queued => {
                if resp3 {
                    0
                } else {
                    self.confirmations
                }
            }
            _ => 1,
        }
    }

    /// Whether confirmations come instead of a reply.
    pub fn is_subscription(&self) -> bool {
        matches!(self.effect, Effect::Subscription(_) | Effect::Unsubscription(_)) && !self.queued
    }

    /// Whether it may have written keys that it does not name.
    pub fn has_unknown_keys(&self) -> bool {
        // What is only queued has written nothing yet.
        self.unknown_keys && !self.queued
    }
}

fn effect_of(row: &Row, args: &Args<'_>) -> Effect {
    let words = args.len().saturating_sub(1) as u32;
    match row.name {
        "multi" if words == 0 => Effect::Multi,
        "exec" => Effect::Exec,
        "discard" => Effect::Discard,
        "watch" => Effect::Watch,
        "unwatch" => Effect::Unwatch,
        "select" => number(args.get(1).unwrap_or_default()).map_or(Effect::None, Effect::Select),
        "subscribe" | "psubscribe" | "ssubscribe" if words > 0 => Effect::Subscription(words),
        "unsubscribe" | "punsubscribe" | "sunsubscribe" if words > 0 => Effect::Subscription(words),
        "unsubscribe" => Effect::Unsubscription(Topic::Channel),
        "punsubscribe" => Effect::Unsubscription(Topic::Pattern),
        "sunsubscribe" => Effect::Unsubscription(Topic::Shard),
        "monitor" => Effect::Keep,
        "client|tracking" if begins_tracking(row, args) => Effect::Keep,
        _ => Effect::None,
    }
}

/// Whether a client is to be told of the changes of what it reads.
pub fn begins_tracking(row: &Row, args: &Args<'_>) -> bool {
    row.name == "client|tracking" && args.get(2).is_some_and(|on| on.eq_ignore_ascii_case(b"on"))
}

/// A number as servers read it: 007 and +1 are none.
fn number(text: &[u8]) -> Option<u32> {
    let number: u32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// Whether a command, outside MULTI, is answered when others have done something.
fn waits_for_others(class: Class, row: &Row) -> bool {
    matches!(class, Class::Blocking | Class::Subscribe) || matches!(row.name, "wait" | "waitaof" | "monitor")
}
