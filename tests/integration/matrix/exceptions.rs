//! What is not compared byte for byte, or not run, each with its reason.

use super::compare::How;

const TIME: &str = "it tells times";
const SEED: &str = "the order follows from the server's hash seed";
const MEMORY: &str = "it tells of memory and work done";
const CHANCE: &str = "it draws lots";
const OWN: &str = "it tells of a connection, and that is sidecache's";
const OTHER_TYPE: &str = "a nil for a key that exists is not kept";
const NODE: &str = "each node has an id and a port of its own";

/// Lines with a reply that no two servers give alike.
pub const VARIES: [(&str, How, &str); 44] = [
    ("KEYS *", How::Order, SEED),
    ("SCAN 0", How::Order, SEED),
    ("KEYS [st]", How::Order, SEED),
    ("SADD u a b c ; SMEMBERS u", How::Order, SEED),
    ("ACL CAT", How::Order, SEED),
    ("ACL CAT hash", How::Order, SEED),
    ("COMMAND", How::Order, SEED),
    ("COMMAND LIST", How::Order, SEED),
    ("COMMAND DOCS get none config", How::Order, SEED),
    ("CONFIG GET maxmemory*", How::Order, SEED),
    ("CLUSTER GETKEYSINSLOT 15495 10", How::Order, SEED),
    ("CLUSTERSCAN 0", How::Types, SEED),
    ("PTTL t", How::Numbers, TIME),
    ("TTL t", How::Numbers, TIME),
    ("OBJECT IDLETIME s", How::Numbers, TIME),
    ("OBJECT IDLETIME none", How::Numbers, TIME),
    ("TIME", How::Numbers, TIME),
    ("LASTSAVE", How::Numbers, TIME),
    ("HPEXPIRE h 100000 FIELDS 1 f ; HPTTL h FIELDS 1 f", How::Numbers, TIME),
    ("XREADGROUP GROUP g c STREAMS x > ; XINFO CONSUMERS x g", How::Numbers, TIME),
    ("XREADGROUP GROUP g c STREAMS x > ; XINFO STREAM x FULL", How::Numbers, TIME),
    ("XREADGROUP GROUP g c STREAMS x > ; XPENDING x g - + 10", How::Numbers, TIME),
    (
        "CONFIG SET latency-monitor-threshold 1 ; DEBUG SLEEP 0.005 ; CONFIG SET latency-monitor-threshold 0 ; \
         LATENCY LATEST ; LATENCY HISTORY command ; LATENCY GRAPH command ; LATENCY RESET",
        How::Types,
        TIME,
    ),
    ("DBSIZE ; LATENCY HISTOGRAM dbsize", How::Types, TIME),
    ("RANDOMKEY", How::Types, CHANCE),
    ("ACL GENPASS", How::Types, CHANCE),
    ("INFO", How::Fields, MEMORY),
    ("INFO server", How::Fields, MEMORY),
    ("INFO clients", How::Fields, MEMORY),
    ("INFO memory", How::Fields, MEMORY),
    ("INFO stats", How::Fields, MEMORY),
    ("INFO replication", How::Fields, NODE),
    ("MEMORY MALLOC-STATS", How::Types, MEMORY),
    ("MEMORY STATS", How::Types, MEMORY),
    ("CLUSTER INFO", How::Fields, NODE),
    ("CLUSTER NODES", How::Types, NODE),
    ("CLUSTER SLOTS", How::Types, NODE),
    ("CLUSTER SHARDS", How::Types, NODE),
    ("CLUSTER MYID", How::Types, NODE),
    ("CLUSTER MYSHARDID", How::Types, NODE),
    ("AUTH none wrong ; ACL LOG", How::Types, OWN),
    (
        "CONFIG SET slowlog-log-slower-than 0 ; GET s ; CONFIG SET slowlog-log-slower-than -1 ; COMMANDLOG LEN slow",
        How::Numbers,
        OWN,
    ),
    (
        "CONFIG SET slowlog-log-slower-than 0 ; GET s ; CONFIG SET slowlog-log-slower-than -1 ; COMMANDLOG GET 1 slow",
        How::Types,
        OWN,
    ),
    (
        "CONFIG SET slowlog-log-slower-than 0 ; GET s ; CONFIG SET slowlog-log-slower-than -1 ; SLOWLOG GET 1",
        How::Types,
        OWN,
    ),
];

/// What a client can notice of sidecache in a command's reply, and what is left out of the comparison therefore.
pub const DIFFERENCES: [(&str, How, &str); 11] = [
    ("client|tracking", How::Bytes, "before a cluster refused"),
    ("monitor", How::Bytes, "before a cluster it shows one node's commands"),
    ("acl|log", How::Bytes, "addresses and names are those of sidecache's connections"),
    ("client|id", How::Numbers, "sidecache's own ids"),
    ("client|info", How::Types, "sidecache's own clients, fewer fields"),
    ("client|kill", How::Bytes, "acts on sidecache's own clients"),
    ("client|list", How::Types, "sidecache's own clients, fewer fields"),
    ("commandlog|get", How::Bytes, "addresses and names are those of sidecache's connections"),
    ("hello", How::Numbers, "the id is sidecache's own"),
    ("info", How::Bytes, "a section of sidecache's own behind the server's"),
    ("slowlog|get", How::Bytes, "addresses and names are those of sidecache's connections"),
];

/// Cacheable reads that are never served from the cache all the same.
pub const NOT_KEPT: [(&str, &str); 7] = [
    ("SETRANGE fat 300000 x ; GET fat", "it is larger than cache.max_entry_bytes"),
    ("MGET s (other types)", OTHER_TYPE),
    ("MGET s s (other types)", OTHER_TYPE),
    ("MGET s none l e", OTHER_TYPE),
    ("MGET s none l e (other types)", OTHER_TYPE),
    ("MGET s none e (other types)", OTHER_TYPE),
    ("MGET {a}s {a}none {a}t (other types)", OTHER_TYPE),
];

/// Refused in a transaction, while keys are watched or while subscribed: what they change or tell is kept here, and
/// would be said too early or to the wrong connection.
pub const NOT_FOLLOWED: &str = "not inside MULTI";

/// Commands whose success no sample shows, and why; where a test of its own shows it, that is named.
pub const ONLY_ERRORS: [(&str, &str, Option<&str>); 30] = [
    ("acl|load", "it wants an ACL file", None),
    ("acl|save", "it wants an ACL file", None),
    ("bgrewriteaof", "it works on in the background", Some("saving_in_the_background_is_started")),
    ("bgsave", "it works on in the background", Some("saving_in_the_background_is_started")),
    ("cluster|cancelslotmigrations", "it wants a second node", None),
    ("cluster|count-failure-reports", "it wants a second node", None),
    ("cluster|failover", "it wants a replica", None),
    ("cluster|flushslots", "it changes the cluster", None),
    ("cluster|forget", "it wants a second node", None),
    ("cluster|meet", "it wants a second node", None),
    ("cluster|migrateslots", "it wants a second node", None),
    ("cluster|replicas", "it wants a second node", None),
    ("cluster|replicate", "it wants a second node", None),
    ("cluster|reset", "it changes the cluster", None),
    ("cluster|set-config-epoch", "it wants a node without an epoch", None),
    ("cluster|slaves", "it wants a second node", None),
    ("cluster|syncslots", "it turns the connection into a replication stream", None),
    ("config|rewrite", "it wants a configuration file", None),
    ("failover", "it wants a replica", None),
    ("function|kill", "it wants a script that runs", Some("a_function_is_killed_from_another_connection")),
    ("function|restore", "its argument is binary", Some("what_is_dumped_is_restored")),
    ("module|load", "it wants a module", None),
    ("module|loadex", "it wants a module", None),
    ("module|unload", "it wants a module", None),
    (
        "monitor",
        "it answers with what others do",
        Some("a_monitor_sees_commands_and_its_connection_serves_nobody_else"),
    ),
    ("pfselftest", "it works for half a second", Some("a_self_test_is_passed")),
    ("psync", "it turns the connection into a replication stream", None),
    ("script|kill", "it wants a script that runs", Some("a_running_script_is_killed_from_another_client")),
    ("shutdown", "it ends the server", None),
    ("sync", "it turns the connection into a replication stream", None),
];
