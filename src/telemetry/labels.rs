//! The words that label metrics and logs: each an enum, so that every "no" has a name.
//!
//! They stand here, before all else, because a word is telemetry's first; the modules that
//! decide use these enums as their own vocabulary. Invariant: `ALL` and `label` come from one
//! list per enum, and `label`'s match is exhaustive, so a variant without a word does not compile.

/// Gives an enum its words: `ALL`, its variants in order of declaration, and `label`.
macro_rules! words {
    ($name:ident { $($variant:ident => $label:literal,)+ }) => {
        impl $name {
            /// Every variant, in order of declaration: a variant's number is its place here.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word for it in metrics and logs.
            pub const fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $label),+
                }
            }
        }
    };
}

/// What kind of command it is, and so which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// A read of one key whose reply may be cached.
    Read,
    /// MGET: served when every part is valid at once.
    Mget,
    /// A lane-safe command that writes nothing and is not cached.
    Plain,
    /// A lane-safe write whose keys the command names.
    Write,
    /// A lane-safe command that may write keys it does not name (scripts, functions).
    Script,
    /// A lane-safe command that changes what every entry of the node rests on (FLUSHALL, SWAPDB, ACL SETUSER).
    Sweep,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH.
    Transaction,
    /// Waits on others (BLPOP, XREAD BLOCK).
    Blocking,
    /// Enters, leaves or needs subscribe mode.
    Subscribe,
    /// Needs a connection of its own for another reason (WAIT, MONITOR, CLIENT TRACKING).
    Dedicated,
    /// Must overtake what it acts on (SCRIPT KILL, CLIENT UNBLOCK).
    Control,
    /// Answered here (HELLO, SELECT, CLIENT SETNAME).
    Local,
    /// Refused by policy (SHUTDOWN, DEBUG).
    Refused,
    /// A name the table lacks.
    Unknown,
}

words!(Class {
    Read => "read",
    Mget => "mget",
    Plain => "plain",
    Write => "write",
    Script => "script",
    Sweep => "sweep",
    Transaction => "transaction",
    Blocking => "blocking",
    Subscribe => "subscribe",
    Dedicated => "dedicated",
    Control => "control",
    Local => "local",
    Refused => "refused",
    Unknown => "unknown",
});

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Served from memory.
    Hit,
    /// Fetched, the client's command leading the flight.
    Miss,
    /// Joined a flight that another command leads.
    Coalesced,
    /// Forwarded, not a cache matter.
    Forwarded,
    /// Answered here.
    Local,
    /// Ended in an error of our own.
    Failed,
}

words!(Outcome {
    Hit => "hit",
    Miss => "miss",
    Coalesced => "coalesced",
    Forwarded => "forwarded",
    Local => "local",
    Failed => "failed",
});

/// Why a cacheable read was not answered from the cache nor fetched for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Bypass {
    /// `mode = "off"`.
    Off,
    /// A rule of the configuration excludes the key.
    Rule,
    /// Inside MULTI or after WATCH.
    Transaction,
    /// The client has its own CLIENT TRACKING on.
    ClientTracking,
    /// The client is in subscribe mode.
    Subscribed,
    /// The lane has no tracking (NOPERM, or not yet on).
    NoTracking,
    /// The key is known to hold large values.
    Large,
    /// The audit found a violation and the operator has not looked yet.
    Audit,
}

words!(Bypass {
    Off => "off",
    Rule => "rule",
    Transaction => "transaction",
    ClientTracking => "client_tracking",
    Subscribed => "subscribed",
    NoTracking => "no_tracking",
    Large => "large",
    Audit => "audit",
});

/// Why a fetched reply was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FillRefused {
    /// The key's generation moved while the fetch was in the air.
    Generation,
    /// The lane's or the node's epoch moved.
    Epoch,
    /// CLIENT CACHING YES was not answered +OK.
    Caching,
    /// PTTL was not answered with an integer that fits the reply.
    Pttl,
    /// The key was about to expire.
    Expiring,
    /// The reply was an error.
    Error,
    /// The reply exceeds `max_entry_bytes`.
    Large,
    /// A first read: the key is not admitted yet.
    Admission,
}

words!(FillRefused {
    Generation => "generation",
    Epoch => "epoch",
    Caching => "caching",
    Pttl => "pttl",
    Expiring => "expiring",
    Error => "error",
    Large => "large",
    Admission => "admission",
});

/// What stands behind an error that we produced ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ErrorKind {
    /// Bytes that are not RESP.
    Protocol,
    /// No authentication where it is required.
    NoAuth,
    /// A refused command.
    Refused,
    /// Upstream cannot be reached.
    Unreachable,
    /// The connection was lost after the command may have been executed.
    Lost,
    /// No reply within `command_timeout`.
    Timeout,
    /// A lane's queue or buffer is full.
    LaneFull,
    /// No pooled connection within `wait_timeout`.
    PoolExhausted,
    /// The client's output exceeded its limit.
    OutputLimit,
    /// More clients than `max_clients`.
    MaxClients,
    /// Upstream answered something that is not RESP, or not what it must.
    Upstream,
    /// Wrong arguments to a command answered here.
    Usage,
    /// An aborted transaction.
    ExecAbort,
    /// The sidecar is draining.
    Draining,
}

words!(ErrorKind {
    Protocol => "protocol",
    NoAuth => "no_auth",
    Refused => "refused",
    Unreachable => "unreachable",
    Lost => "lost",
    Timeout => "timeout",
    LaneFull => "lane_full",
    PoolExhausted => "pool_exhausted",
    OutputLimit => "output_limit",
    MaxClients => "max_clients",
    Upstream => "upstream",
    Usage => "usage",
    ExecAbort => "exec_abort",
    Draining => "draining",
});

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LaneState {
    /// Connecting or handshaking; commands wait in its buffer.
    Connecting,
    /// Open, and upstream sends invalidations.
    Tracking,
    /// Open, but upstream does not track for it.
    Untracked,
    /// Lost; pausing before the next attempt.
    Backoff,
}

words!(LaneState {
    Connecting => "connecting",
    Tracking => "tracking",
    Untracked => "untracked",
    Backoff => "backoff",
});

/// What a connection outside the lanes was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pool {
    /// Transactions, large values and unknown commands.
    Transaction,
    /// What waits on others: blocking commands, subscriptions, MONITOR.
    Waiting,
    /// What must overtake the lane: SCRIPT KILL, CLIENT UNBLOCK.
    Control,
}

words!(Pool {
    Transaction => "transaction",
    Waiting => "waiting",
    Control => "control",
});

/// Why an epoch moved, and with it everything filled before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EpochBump {
    /// The lane was lost, and its invalidations with it.
    LaneLost,
    /// Upstream pushed a null: everything is invalid (FLUSHALL, or its tracking table is full).
    NullPush,
    /// A lane left a fence unanswered.
    Fence,
    /// NOPERM or NOAUTH on the lane: rights may have changed.
    Denied,
    /// An inside command that changes what every entry rests on (FLUSHALL, SWAPDB, ACL SETUSER).
    Sweep,
    /// A replica is fit to be read from again: what it got meanwhile may not have been told yet.
    ReplicaFit,
}

words!(EpochBump {
    LaneLost => "lane_lost",
    NullPush => "null_push",
    Fence => "fence",
    Denied => "denied",
    Sweep => "sweep",
    ReplicaFit => "replica_fit",
});

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks one enum: numbers are places in `ALL`, words are distinct and in snake case.
    macro_rules! check {
        ($($name:ident),+) => {$(
            let words: std::collections::HashSet<_> = $name::ALL.iter().map(|v| v.label()).collect();
            assert_eq!(words.len(), $name::ALL.len(), "two variants of {} share a word", stringify!($name));
            for (place, variant) in $name::ALL.iter().enumerate() {
                assert_eq!(*variant as usize, place);
                assert!(variant.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{variant:?}");
            }
        )+};
    }

    #[test]
    fn every_variant_has_a_word_of_its_own() {
        check!(Class, Outcome, Bypass, FillRefused, ErrorKind, LaneState, Pool, EpochBump);
    }
}
