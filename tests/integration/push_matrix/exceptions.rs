//! What the push matrix leaves out, each with its reason; what is no longer needed here fails it.

/// Reads whose replies change of themselves.
pub const VARYING: [(&str, &str); 10] = [
    ("ttl", "time passes"),
    ("pttl", "time passes"),
    ("httl", "time passes"),
    ("hpttl", "time passes"),
    ("object|idletime", "time passes"),
    ("object|freq", "every read changes it"),
    ("xinfo|consumers", "time passes"),
    ("srandmember", "it draws lots"),
    ("hrandfield", "it draws lots"),
    ("zrandmember", "it draws lots"),
];

const GROUP: &str =
    "what is kept of a stream's consumer groups changes without a push: nothing that tells of it is cached";
const RECODED: &str = "a sorted set is stored in another way once it has been sorted; it holds what it held";
const LIBRARY: &str = "functions are no keys: what they return is not cached";
const INTERNAL: &str = "of the servers' developers: GETREG stores a HyperLogLog in another way; seen when entries age";
const STREAM: [&str; 4] = ["dump", "xinfo|groups", "xinfo|stream", "xpending"];

/// Writes that change the replies of these reads without a push on some server, and why that is no fault.
/// `*`: of every read, cached or not, which is out of contract; else none of them may be cached.
pub const SILENT: [(&str, &[&str], &str); 16] = [
    ("function|delete", &["fcall_ro"], LIBRARY),
    ("function|flush", &["fcall_ro"], LIBRARY),
    ("pfdebug", &["*"], INTERNAL),
    ("set", &["sort_ro"], "keys that BY and GET name are not tracked: with them SORT_RO is not cached"),
    ("sort", &["dump", "object|encoding", "zscan"], RECODED),
    ("swapdb", &["*"], "it is noticed by polling: fills::a_swapdb_from_outside_is_noticed_by_the_next_background_poll"),
    ("xack", &STREAM, GROUP),
    ("xautoclaim", &STREAM, GROUP),
    ("xclaim", &STREAM, GROUP),
    ("xgroup|create", &["dump", "xinfo|groups", "xinfo|stream"], GROUP),
    ("xgroup|createconsumer", &["dump", "xinfo|groups", "xinfo|stream"], GROUP),
    ("xgroup|delconsumer", &STREAM, GROUP),
    ("xgroup|destroy", &STREAM, GROUP),
    ("xgroup|setid", &["dump", "xinfo|groups", "xinfo|stream"], GROUP),
    ("xreadgroup", &STREAM, GROUP),
    (
        "xsetid",
        &["dump", "xinfo|stream", "xread"],
        "a stream's last id changes without a push: nothing that tells it is cached",
    ),
];

/// Of these, what Redis 7.0 has no such read for.
pub const SILENT_ON_VALKEY: [(&str, &str); 1] = [("xsetid", "xread")];

const ONLY_TTL: &str = "it changes the time to live alone";
const ONLY_GROUP: &str = "it changes consumer groups alone";
const NO_DATA: &str = "it changes no keys";

/// Writes that change nothing that a cached read tells.
pub const WITHOUT_EFFECT: [(&str, &str); 15] = [
    ("function|delete", NO_DATA),
    ("function|flush", NO_DATA),
    ("function|load", NO_DATA),
    ("function|restore", NO_DATA),
    ("hpersist", ONLY_TTL),
    ("persist", ONLY_TTL),
    ("xack", ONLY_GROUP),
    ("xautoclaim", ONLY_GROUP),
    ("xclaim", ONLY_GROUP),
    ("xgroup|createconsumer", ONLY_GROUP),
    ("xgroup|delconsumer", ONLY_GROUP),
    ("xgroup|destroy", ONLY_GROUP),
    ("xgroup|setid", ONLY_GROUP),
    ("xreadgroup", ONLY_GROUP),
    ("xsetid", "it changes the last id alone"),
];

const RIGHTS: &str = "it changes rights: the chapter `denied`";

/// Writes that no line tells.
pub const WITHOUT_LINE: [(&str, &str); 4] = [
    ("acl|deluser", RIGHTS),
    ("acl|load", RIGHTS),
    ("acl|setuser", RIGHTS),
    ("cluster|flushslot", "it wants a cluster"),
];
