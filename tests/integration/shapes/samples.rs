//! Sample invocations of every command, run by the chapters on shapes and on the table.
//!
//! A line is a sequence of commands parted by ` ; `; quotes keep blanks together. It runs in a state made
//! anew: everything flushed, then its group's setup. A line that begins with `~` has a reply that differs
//! from call to call (times, memory, order): its structure is compared, not its bytes.

use super::samples_of_types::{HASHES, LISTS, POSITIONS, SETS, SORTED_SETS, STREAMS, STRINGS};

/// Lines that share a setup.
pub struct Group {
    /// Runs before each line.
    pub setup: &'static [&'static str],
    /// The lines.
    pub lines: &'static [&'static str],
}

/// For a server that is no part of a cluster.
pub const GROUPS: [Group; 10] =
    [STRINGS, HASHES, LISTS, SETS, SORTED_SETS, STREAMS, POSITIONS, ANY_TYPE, SCRIPTS, SERVER];

/// For a node that owns all slots.
pub const CLUSTER: Group = Group {
    setup: &["SET {a}s v", "SET {a}t w"],
    lines: &[
        "CLUSTER INFO",
        "CLUSTER NODES",
        "CLUSTER SLOTS",
        "CLUSTER SHARDS",
        "CLUSTER LINKS",
        "CLUSTER MYID",
        "CLUSTER MYSHARDID",
        "CLUSTER KEYSLOT {a}s",
        "CLUSTER COUNTKEYSINSLOT 15495",
        "~CLUSTER GETKEYSINSLOT 15495 10",
        "CLUSTER COUNT-FAILURE-REPORTS nosuch",
        "CLUSTER REPLICAS nosuch",
        "CLUSTER SLAVES nosuch",
        "CLUSTER SLOT-STATS SLOTSRANGE 15495 15495",
        "CLUSTER GETSLOTMIGRATIONS",
        "CLUSTER HELP",
        "~CLUSTERSCAN 0",
        "SPUBLISH ch m",
        "PUBSUB SHARDCHANNELS",
        "PUBSUB SHARDNUMSUB ch",
    ],
};

const ANY_TYPE: Group = Group {
    setup: &["SET s v", "RPUSH l 3 1 2", "SET w_1 x", "SET t v EX 1000"],
    lines: &[
        "COPY s d",
        "COPY none d",
        "DEL s none",
        "DUMP s",
        "DUMP none",
        "EXISTS s",
        "EXISTS s none s",
        "EXPIRE s 100",
        "EXPIREAT s 4000000000",
        "EXPIREAT s 4000000000 ; EXPIRETIME s",
        "EXPIRETIME none",
        "~KEYS *",
        "KEYS none",
        "MIGRATE 127.0.0.1 1 none 0 100",
        "MIGRATE 127.0.0.1 1 '' 0 100 COPY REPLACE KEYS none nine",
        "MIGRATE 127.0.0.1 1 '' 0 100 AUTH keys KEYS none nine",
        "MIGRATE 127.0.0.1 1 '' 0 100 AUTH2 keys keys KEYS none nine",
        "MOVE s 1",
        "OBJECT ENCODING s",
        "OBJECT ENCODING none",
        "~CONFIG SET maxmemory-policy allkeys-lfu ; OBJECT FREQ s ; OBJECT FREQ none ; CONFIG SET maxmemory-policy noeviction",
        "~OBJECT IDLETIME s",
        "OBJECT IDLETIME none",
        "OBJECT REFCOUNT s",
        "OBJECT HELP",
        "PERSIST t",
        "PEXPIRE s 100000",
        "PEXPIREAT s 4000000000000",
        "PEXPIREAT s 4000000000000 ; PEXPIRETIME s",
        "~PTTL t",
        "PTTL none",
        "~RANDOMKEY",
        "FLUSHALL ; RANDOMKEY",
        "RENAME s d",
        "RENAMENX s l",
        "RESTORE d 0 wrong",
        "~SCAN 0",
        "SCAN 0 MATCH none COUNT 1000",
        "SORT l",
        "SORT l BY nosort GET # GET w_* DESC",
        "SORT l BY w_* GET none_* STORE d",
        "SORT l GET store STORE d STORE e",
        "SORT none",
        "SORT s",
        "SORT_RO l",
        "SORT_RO l LIMIT 0 1 GET w_*",
        "TOUCH s none",
        "TTL none",
        "~TTL t",
        "TYPE s",
        "TYPE none",
        "UNLINK s none",
        "SWAPDB 0 1",
        "FLUSHDB",
        "FLUSHALL ASYNC",
        "DBSIZE",
        "MULTI ; GET s ; LPOP none 2 ; BLMOVE none d LEFT LEFT 0 ; EXEC",
        "MULTI ; EXEC",
        "WATCH s ; UNWATCH",
    ],
};

const LIBRARY: &str = "FUNCTION LOAD REPLACE '#!lua name=lib\nredis.register_function{function_name=\"f\", \
    callback=function(keys, args) return {1, false} end, flags={\"no-writes\"}}'";

const SCRIPTS: Group = Group {
    setup: &["SET s v", "HSET h f 1", LIBRARY, "SCRIPT LOAD 'return 1'"],
    lines: &[
        "EVAL 'return {1,false,true,{double=3.3},{map={a=1}},{set={a=true}},{big_number=\"123\"}}' 0",
        "EVAL 'return {{verbatim_string={format=\"txt\",string=\"hi\"}},{err=\"ERR mine\"},{ok=\"fine\"},3.9}' 0",
        "EVAL 'redis.setresp(3) return {redis.call(\"hgetall\",KEYS[1]),redis.call(\"get\",KEYS[2]),true,false}' 2 h none",
        "EVAL 'redis.setresp(3) return redis.call(\"hgetall\",KEYS[1])' 1 h",
        "EVAL 'return redis.call(\"lpop\",KEYS[1],2)' 1 none",
        "EVAL 'return nil' 0",
        "EVAL 'return {}' 2 a b c",
        "EVAL_RO 'return redis.call(\"get\",KEYS[1])' 1 s",
        "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0",
        "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 s",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
        "EVALSHA_RO e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 s",
        "FCALL f 1 s",
        "FCALL_RO f 1 s",
        "FUNCTION DELETE lib",
        "FUNCTION DUMP",
        "FUNCTION FLUSH",
        "FUNCTION HELP",
        "FUNCTION LIST WITHCODE",
        "FUNCTION LIST LIBRARYNAME none",
        LIBRARY,
        "FUNCTION RESTORE wrong",
        "FUNCTION STATS",
        "SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db ff",
        "SCRIPT FLUSH",
        "SCRIPT HELP",
        "SCRIPT LOAD 'return 2'",
        "SCRIPT SHOW e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
    ],
};

const SERVER: Group = Group {
    setup: &[
        "CONFIG SET slowlog-log-slower-than -1",
        "SLOWLOG RESET",
        "ACL LOG RESET",
        "CONFIG RESETSTAT",
        "LATENCY RESET",
        "SET s v",
    ],
    lines: &[
        "~ACL CAT",
        "~ACL CAT hash",
        "ACL SETUSER joe on >x ~k* +get ; ACL GETUSER joe ; ACL DELUSER joe",
        "ACL DRYRUN default get s",
        "~ACL GENPASS",
        "ACL GETUSER default",
        "ACL GETUSER none",
        "ACL HELP",
        "ACL LIST",
        "ACL LOAD",
        "~AUTH none wrong ; ACL LOG",
        "ACL LOG",
        "ACL SAVE",
        "ACL USERS",
        "ACL WHOAMI",
        "~COMMAND",
        "COMMAND COUNT",
        "COMMAND DOCS get none config",
        "COMMAND GETKEYS MSET a 1 b 2",
        "COMMAND GETKEYSANDFLAGS LMOVE a b LEFT LEFT",
        "COMMAND HELP",
        "COMMAND INFO get none xread config|get",
        "~COMMAND LIST",
        "COMMAND LIST FILTERBY PATTERN hget",
        "CONFIG SET slowlog-log-slower-than 0 ; GET s ; CONFIG SET slowlog-log-slower-than -1 ; COMMANDLOG LEN slow",
        "~CONFIG SET slowlog-log-slower-than 0 ; GET s ; CONFIG SET slowlog-log-slower-than -1 ; COMMANDLOG GET 1 slow",
        "COMMANDLOG RESET slow",
        "COMMANDLOG HELP",
        "CONFIG GET maxmemory*",
        "CONFIG GET none",
        "CONFIG HELP",
        "CONFIG RESETSTAT",
        "CONFIG REWRITE",
        "CONFIG SET maxmemory-samples 5",
        "~INFO",
        "~INFO server",
        "~LASTSAVE",
        "LATENCY DOCTOR",
        "LATENCY HELP",
        "~DBSIZE ; LATENCY HISTOGRAM dbsize",
        "LATENCY HISTOGRAM none",
        "~CONFIG SET latency-monitor-threshold 1 ; DEBUG SLEEP 0.005 ; CONFIG SET latency-monitor-threshold 0 ; LATENCY LATEST ; LATENCY HISTORY command ; LATENCY GRAPH command",
        "LATENCY RESET",
        "LOLWUT VERSION 1",
        "MEMORY DOCTOR",
        "MEMORY HELP",
        "~MEMORY MALLOC-STATS",
        "MEMORY PURGE",
        "~MEMORY STATS",
        "MEMORY USAGE s",
        "MEMORY USAGE none",
        "MODULE LIST",
        "MODULE HELP",
        "PUBLISH ch m",
        "SPUBLISH ch m",
        "PUBSUB CHANNELS",
        "PUBSUB NUMPAT",
        "PUBSUB NUMSUB ch",
        "PUBSUB SHARDCHANNELS",
        "PUBSUB SHARDNUMSUB ch",
        "PUBSUB HELP",
        "ROLE",
        "~CONFIG SET slowlog-log-slower-than 0 ; GET s ; CONFIG SET slowlog-log-slower-than -1 ; SLOWLOG GET 1",
        "SLOWLOG GET",
        "SLOWLOG LEN",
        "SLOWLOG RESET",
        "SLOWLOG HELP",
        "~TIME",
        "CLIENT HELP",
        "CLIENT TRACKINGINFO",
        "CLIENT GETREDIR",
        "WAIT 0 0",
    ],
};

/// Not run, only asked for their keys: they change roles, connections or wait too long.
pub const ONLY_KEYS: [&str; 10] = [
    "RESTORE-ASKING k 0 x",
    "WATCH a b",
    "SSUBSCRIBE a b",
    "SUNSUBSCRIBE a",
    "EVAL x 3 a b c d",
    "ZUNIONSTORE d 3 a b c WEIGHTS 1 2 3",
    "ZDIFFSTORE d 1 a",
    "XREADGROUP GROUP streams streams COUNT 1 BLOCK 0 NOACK STREAMS a b > >",
    "XREAD BLOCK 0 STREAMS streams 0",
    "SORT a LIMIT 0 store x BY store GET store",
];

/// The commands of a line, each cut into words; and whether its replies may differ from call to call.
pub fn commands(line: &str) -> (Vec<Vec<String>>, bool) {
    let (line, differs) = line.strip_prefix('~').map_or((line, false), |line| (line, true));
    (line.split(" ; ").map(words).collect(), differs)
}

/// A command cut at blanks, save those between single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in command.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_string());
        } else {
            words.extend(part.split_ascii_whitespace().map(str::to_string));
        }
    }
    words
}

/// Every command of every line, those for a cluster and those only asked for their keys included.
pub fn all() -> Vec<Vec<String>> {
    let lines = GROUPS.iter().chain([&CLUSTER]).flat_map(|group| group.lines.iter().chain(group.setup));
    lines.chain(&ONLY_KEYS).flat_map(|line| commands(line).0).collect()
}
