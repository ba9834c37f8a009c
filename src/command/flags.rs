//! What a server says of a command in `COMMAND INFO`: flags as bits.
//!
//! Where Redis and Valkey differ in a flag, a row holds both servers' flags together; the
//! comparison with real servers names each difference. Nothing is decided here.

/// The command may change data.
pub const WRITE: u32 = 1;
/// The command reads data and changes none.
pub const READONLY: u32 = 1 << 1;
/// Refused when memory is full.
pub const DENYOOM: u32 = 1 << 2;
/// Of the administrator.
pub const ADMIN: u32 = 1 << 3;
/// Of publish and subscribe.
pub const PUBSUB: u32 = 1 << 4;
/// Not allowed in scripts.
pub const NOSCRIPT: u32 = 1 << 5;
/// May wait for others.
pub const BLOCKING: u32 = 1 << 6;
/// Allowed while the server loads its data.
pub const LOADING: u32 = 1 << 7;
/// Allowed on a replica that has lost its master.
pub const STALE: u32 = 1 << 8;
/// Takes a time that does not grow with the data.
pub const FAST: u32 = 1 << 9;
/// First, last and step do not tell all keys.
pub const MOVABLEKEYS: u32 = 1 << 10;
/// Not allowed inside MULTI.
pub const NO_MULTI: u32 = 1 << 11;
/// Not shown to MONITOR.
pub const SKIP_MONITOR: u32 = 1 << 12;
/// Not in the slow log (Valkey: the command log).
pub const SKIP_SLOWLOG: u32 = 1 << 13;
/// Allowed on a slot being imported.
pub const ASKING: u32 = 1 << 14;
/// Allowed before AUTH.
pub const NO_AUTH: u32 = 1 << 15;
/// Allowed while a script runs too long.
pub const ALLOW_BUSY: u32 = 1 << 16;
/// Refused while a replica loads its data in the background.
pub const NO_ASYNC_LOADING: u32 = 1 << 17;
/// Keys may be absent.
pub const NO_MANDATORY_KEYS: u32 = 1 << 18;

/// The names that servers give to the bits; Valkey renamed one.
const NAMES: [(&str, u32); 20] = [
    ("write", WRITE),
    ("readonly", READONLY),
    ("denyoom", DENYOOM),
    ("admin", ADMIN),
    ("pubsub", PUBSUB),
    ("noscript", NOSCRIPT),
    ("blocking", BLOCKING),
    ("loading", LOADING),
    ("stale", STALE),
    ("fast", FAST),
    ("movablekeys", MOVABLEKEYS),
    ("no_multi", NO_MULTI),
    ("skip_monitor", SKIP_MONITOR),
    ("skip_slowlog", SKIP_SLOWLOG),
    ("skip_commandlog", SKIP_SLOWLOG),
    ("asking", ASKING),
    ("no_auth", NO_AUTH),
    ("allow_busy", ALLOW_BUSY),
    ("no_async_loading", NO_ASYNC_LOADING),
    ("no_mandatory_keys", NO_MANDATORY_KEYS),
];

/// A set of flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// Whether all of `bits` are set.
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// This set and the flag that a server calls `name`; a name not known here adds nothing.
    pub fn with(self, name: &[u8]) -> Flags {
        let known = NAMES.iter().find(|(n, _)| n.as_bytes() == name);
        Flags(self.0 | known.map_or(0, |&(_, bit)| bit))
    }

    /// The flags' names, one each.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |&&(name, bit)| self.has(bit) && name != "skip_commandlog").map(|&(name, _)| name)
    }
}
