//! Every family of writes from outside against many cached reads: what changed is seen, on Redis and on Valkey.
//!
//! A write whose change no push tells would leave a reply that stays wrong; the test waits for the cached replies to
//! become what the server itself says, and proves that they came from the cache before.

use crate::coherence::stage::Stage;
use crate::support::redis::KINDS;
use crate::support::{Kind, V, eventually};

const SETUP: [&str; 9] = [
    "FLUSHALL",
    "SET s abc",
    "HSET h f 1 g 2",
    "RPUSH l a b c",
    "SADD m a b c",
    "SADD n b c d",
    "ZADD z 1 a 2 b 3 c",
    "XADD x 1-1 f v",
    "SET d other",
];

const READS: [&str; 41] = [
    "GET s",
    "STRLEN s",
    "GETRANGE s 0 1",
    "BITCOUNT s",
    "GETBIT s 7",
    "BITPOS s 1",
    "EXISTS s",
    "TYPE s",
    "MGET s",
    "EXISTS h",
    "TYPE h",
    "HGETALL h",
    "HLEN h",
    "HGET h f",
    "HMGET h f g",
    "HKEYS h",
    "HEXISTS h f",
    "EXISTS l",
    "TYPE l",
    "LRANGE l 0 -1",
    "LLEN l",
    "LINDEX l 0",
    "LPOS l b",
    "EXISTS m",
    "TYPE m",
    "SCARD m",
    "SISMEMBER m a",
    "SMISMEMBER m a d",
    "EXISTS z",
    "TYPE z",
    "ZRANGE z 0 -1 WITHSCORES",
    "ZCARD z",
    "ZSCORE z a",
    "ZRANK z c",
    "ZCOUNT z 1 2",
    "XLEN x",
    "XRANGE x - +",
    "GET d",
    "TYPE d",
    "EXISTS d",
    "MGET d",
];

/// One write each; where several lines are one write they are joined by `;`.
const WRITES: [&str; 96] = [
    "SET s x",
    "SET s x XX GET",
    "SETEX s 100 x",
    "PSETEX s 100000 x",
    "SETNX new x; SET s y",
    "GETSET s x",
    "GETDEL s",
    "GETEX s PXAT 1",
    "APPEND s x",
    "SETRANGE s 1 x",
    "SETBIT s 6 1",
    "BITFIELD s SET u8 0 255",
    "MSET s x d y",
    "MSETNX q 1 r 1; DEL s",
    "SET s 1; INCR s",
    "SET s 1; INCRBY s 5",
    "SET s 1; INCRBYFLOAT s 0.5",
    "SET s 1; DECR s",
    "SET s 1; DECRBY s 5",
    "DEL s",
    "UNLINK s d",
    "DEL h l m z x",
    "EXPIRE s -1",
    "PEXPIRE s 1",
    "EXPIREAT s 1",
    "PEXPIREAT s 1",
    "PEXPIRE h 1",
    "EXPIRE z 0",
    "RENAME s d",
    "RENAMENX s fresh",
    "RENAME h l",
    "MOVE s 1",
    "COPY s d REPLACE",
    "COPY z d REPLACE",
    "SORT l ALPHA STORE d",
    "BITOP NOT d s",
    "BITOP AND d s s",
    "LCS s d; SET s z",
    "PFADD d2 a; PFMERGE d3 d2; COPY d3 d REPLACE",
    "HSET h f 9",
    "HSETNX h new 1",
    "HMSET h f 9",
    "HINCRBY h f 5",
    "HINCRBYFLOAT h f 0.5",
    "HDEL h f",
    "HDEL h f g",
    "LPUSH l x",
    "LPUSHX l x",
    "RPUSH l x",
    "RPUSHX l x",
    "LPOP l",
    "RPOP l",
    "LPOP l 9",
    "LSET l 0 x",
    "LINSERT l BEFORE b x",
    "LREM l 0 b",
    "LTRIM l 1 1",
    "RPOPLPUSH l l2",
    "LMOVE l l2 LEFT RIGHT",
    "LMPOP 1 l LEFT",
    "BLPOP l 1",
    "BRPOP l 1",
    "BLMOVE l l2 LEFT LEFT 1",
    "SADD m x",
    "SREM m a",
    "SPOP m",
    "SMOVE m n a",
    "SINTERSTORE d m n",
    "SUNIONSTORE d m n",
    "SDIFFSTORE d m n",
    "SDIFFSTORE m n n",
    "ZADD z 9 a",
    "ZINCRBY z 5 a",
    "ZREM z a",
    "ZPOPMIN z",
    "ZPOPMAX z 2",
    "ZMPOP 1 z MIN",
    "BZPOPMIN z 1",
    "ZREMRANGEBYRANK z 0 0",
    "ZREMRANGEBYSCORE z 1 2",
    "ZADD z 1 b 1 c; ZREMRANGEBYLEX z - +",
    "ZRANGESTORE d z 0 1",
    "ZUNIONSTORE d 1 z",
    "ZINTERSTORE d 1 z",
    "ZDIFFSTORE d 2 z nothing",
    "GEOADD z 13.3 38.1 a",
    "GEOADD g 13.3 38.1 a; GEOSEARCHSTORE d g FROMMEMBER a BYRADIUS 1 km",
    "XADD x 2-1 f v",
    "XDEL x 1-1",
    "XTRIM x MAXLEN 0",
    "XADD x MAXLEN 1 5-1 f v",
    "MULTI; SET s m; HSET h f m; EXEC",
    "EVAL redis.call('set','s','e') 0",
    "FLUSHALL",
    "FLUSHDB",
    "SELECT 1; FLUSHALL",
];

/// What only some servers have.
const WRITES_OF_VALKEY: [&str; 6] = [
    "HPEXPIRE h 1 FIELDS 1 f",
    "HEXPIRE h 0 FIELDS 2 f g",
    "HSETEX h PX 1 FIELDS 1 f 9",
    "HGETEX h PX 1 FIELDS 1 f",
    "DELIFEQ s abc",
    "SET s x IFEQ abc",
];

fn direct(stage: &Stage, lines: &str) -> Vec<V> {
    stage.server.conn().pipeline(&lines.split("; ").collect::<Vec<_>>())
}

#[test]
fn every_outside_write_is_seen_through_every_cached_read() {
    for kind in KINDS {
        let stage = Stage::new(kind, 1, "");
        let mut client = stage.sidecar.conn();
        let own = if kind == Kind::Valkey { &WRITES_OF_VALKEY[..] } else { &[] };
        for write in WRITES.iter().chain(own) {
            stage.server.conn().pipeline(&SETUP);
            let before = stage.server.conn().pipeline(&READS);
            eventually("all is kept", || {
                let hits = stage.hits();
                let right = client.pipeline(&READS) == before;
                // Two of them are MGETs.
                right && stage.hits() - hits >= READS.len() as f64 - 2.0
            });
            let done = direct(&stage, write);
            assert!(!done.iter().any(|reply| matches!(reply, V::Error(_))), "{write}: {done:?}");
            let mut changed = false;
            eventually(&format!("{kind:?}: what {write} did is seen"), || {
                let after = stage.server.conn().pipeline(&READS);
                changed |= after != before;
                changed && client.pipeline(&READS) == after
            });
        }
    }
}
