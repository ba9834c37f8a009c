//! Random pipelines: commands whose replies are the same on two servers in the same state, so no times, no ids, and
//! no order that a hash seed decides.

use super::dice::Dice;
use crate::support::resp::encode;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// As it is sent.
    pub bytes: Vec<u8>,
    /// As it is shown when a comparison fails.
    pub shown: String,
    /// Whether a reply comes: a blank line has none.
    pub answered: bool,
}

/// What one client sends.
#[derive(Clone, Debug)]
pub struct Case {
    /// Whether it begins with HELLO 3.
    pub resp3: bool,
    /// Sent group by group: all replies to one are read before the next goes out.
    pub groups: Vec<Vec<Request>>,
    /// Where the bytes of a group are cut into several writes.
    pub cuts: u64,
}

const STRINGS: [&str; 4] = ["s1", "s2", "s3", "n1"];
const FIELDS: [&str; 3] = ["f1", "f2", "f3"];
const VALUES: [&str; 9] = ["", "a", "0", "10", "-3", "1.5", "two words", "line\r\nbreak", "x\u{e9}\0y"];

/// Templates: S a string's key, H a hash's, L a list's, T a set's, Z a sorted set's, X a stream's, A any key; V a value, I a
/// small integer, F a hash's field, C a case-mangled word follows.
const READS: &str = "GET S|GET S|GET S|GET S|STRLEN S|GETRANGE S 0 I|EXISTS A|EXISTS A A|TYPE A|HGET H F|HGET H F|HMGET H F F\
|HGETALL H|HGETALL H|HLEN H|HEXISTS H F|HKEYS H|HVALS H|HSTRLEN H F|LRANGE L 0 -1|LRANGE L I I|LLEN L|LINDEX L I|SMEMBERS T\
|SMEMBERS T|SISMEMBER T I|SMISMEMBER T I I|SCARD T|ZRANGE Z 0 -1|ZRANGE Z 0 -1 WITHSCORES|ZRANGE Z -inf +inf BYSCORE WITHSCORES\
|ZREVRANGE Z 0 -1 WITHSCORES|ZRANGEBYSCORE Z -inf +inf WITHSCORES|ZSCORE Z F|ZMSCORE Z F F|ZRANK Z F|ZCARD Z|ZCOUNT Z 0 I\
|XRANGE X - +|XREVRANGE X + -|XLEN X|MGET S S S|MGET S A|MGET S|GETBIT S I|BITCOUNT S|LPOS L V|EXPIRETIME A|PEXPIRETIME A\
|DBSIZE|GET A|HGET A F|SINTER T T|SUNION T T|SDIFF T T|ZUNION 2 Z Z WITHSCORES|LCS S S|LCS S S IDX|OBJECT ENCODING A|SORT_RO T\
|XREAD COUNT 2 STREAMS X 0|XINFO STREAM X|PFCOUNT S|GEOPOS Z F|ZINTERCARD 2 Z Z|SINTERCARD 2 T T|BITPOS S 1|DUMP S";
const WRITES: &str = "SET S V|SET S V|SET S V|SET S V NX|SET S V XX GET|SET S V GET|SET S V EXAT 4000000000|SETNX S V|GETSET S V\
|GETDEL S|GETEX S PERSIST|APPEND S V|INCR S|INCRBY n1 I|DECR n1|INCRBYFLOAT n1 1.5|SETRANGE S I V|MSET S V S V|MSET S V S V S V\
|MSETNX S V S V|DEL A|DEL A A|UNLINK A|RENAME A A|RENAMENX S S|COPY A A|COPY S S REPLACE|PERSIST A|EXPIREAT A 4000000000\
|EXPIRE A -1|PEXPIREAT A 1|HSET H F V|HSET H F V F V|HSETNX H F V|HDEL H F|HINCRBY H F I|HINCRBYFLOAT H F 0.5|LPUSH L V|RPUSH L V V\
|LPOP L|RPOP L 2|LPUSHX L V|LSET L I V|LREM L 0 V|LTRIM L 0 I|LINSERT L BEFORE V V|LMOVE L L LEFT RIGHT|RPOPLPUSH L L\
|LMPOP 1 L LEFT COUNT 2|SADD T I I|SREM T I|SMOVE T T I|SINTERSTORE T T T|ZADD Z I F|ZADD Z 1.5 F I F|ZADD Z INCR I F|ZINCRBY Z 0.5 F\
|ZREM Z F|ZPOPMIN Z|ZPOPMAX Z 2|ZMPOP 1 Z MIN|ZRANGESTORE Z Z 0 -1|ZUNIONSTORE Z 1 Z|XADD X I-1 F V|XADD X 9-1 F V|XTRIM X MAXLEN 2\
|XDEL X 1-1|XGROUP CREATE X g 0 MKSTREAM|SETBIT S I 1|BITOP NOT S S|BITFIELD S GET u8 0 SET u4 0 3|PFADD S V|SORT T STORE L\
|MOVE A 1|FLUSHDB|SWAPDB 0 1|GEOADD Z 13.3 38.1 F|TOUCH A A|SET A V|HSET A F V";
const SCRIPTS: &str = "EVAL @SET 1 S V|EVAL @GET 1 S|EVAL @HIDDEN 0|EVAL @HIDDENREAD 0|EVAL @DOUBLE 0|EVAL @MAP 0|EVAL @NIL 0|EVAL @ERROR 0\
|EVAL @FAIL 1 S|EVAL @NESTED 0|EVAL @BOOL 0|EVAL_RO @GET 1 S|EVALSHA 0123456789012345678901234567890123456789 0|SCRIPT EXISTS abc\
|FCALL put 1 S V|FCALL_RO look 1 S|FCALL nosuch 0|FUNCTION LIST LIBRARYNAME nosuch|EVAL @SELECT 0|EVAL @BIG 0|EVAL @STATUS 0|EVAL @RESP3 1 H";
const ERRORS: &str = "GET|GET S S|SET S|MGET|HGET H|NOSUCH A V|nosuch|NOSUCH|HGETALL|EVAL|EXISTS|DEL|INCRBY n1 abc|LPUSH S V|HGET S F|ZADD Z abc F\
|SETRANGE S -1 V|EXPIRE S abc|OBJECT|OBJECT NOSUCH A|CONFIG NOSUCH|CLIENT|CLIENT NOSUCH|CLIENT NOSUCH V V|XGROUP NOSUCH A|MSET S|SET S V BAD\
|PING V V|ECHO|ECHO V V|SELECT|SELECT I I|SELECT abc|SELECT 99|SELECT -1|RENAME nokey A|AUTH|AUTH V V V|AUTH wrong|AUTH nobody V|EXEC V|MULTI V\
|UNWATCH V|DISCARD V|WATCH|RESET V|CLIENT SETNAME|CLIENT GETNAME V|CLIENT ID V|HELLO 4|HELLO abc|HELLO 3 BAD|CLIENT REPLY|CLIENT REPLY BAD\
|CLIENT NO-EVICT|CLIENT NO-EVICT BAD|WAIT|SUBSCRIBE|PUBLISH a|SCRIPT|SCRIPT NOSUCH|FUNCTION NOSUCH|COMMAND NOSUCH|ACL NOSUCH|MEMORY NOSUCH\
|BLPOP L abc|BLPOP L|XREAD STREAMS X|CLIENT KILL|CLIENT LIST BAD|CLIENT LIST TYPE BAD|CLIENT LIST ID abc|CLIENT KILL ID abc|CLIENT KILL BAD V\
|CLIENT KILL 1.2.3.4:5|CLIENT KILL ADDR 1.2.3.4:5|CLIENT KILL TYPE BAD|CLIENT KILL ID 999999|CLIENT UNBLOCK abc|CLIENT UNBLOCK 999999\
|CLIENT CACHING YES|CLIENT TRACKING|CLIENT TRACKING BAD|CLIENT PAUSE abc|READONLY|READWRITE|CLUSTER INFO|CLUSTER|SCRIPT KILL|FUNCTION KILL";
const SESSION: &str = "SELECT 0|SELECT 1|SELECT 0|SELECT 0|PING|PING V|ECHO V|CLIENT GETNAME|CLIENT SETNAME n1|CLIENT SETNAME V|AUTH default x\
|CLIENT NO-EVICT on|CLIENT TRACKINGINFO|CLIENT GETREDIR|CLIENT UNPAUSE|ACL WHOAMI|COMMAND COUNT|COMMAND INFO get|COMMAND GETKEYS SET a b\
|CONFIG GET save|PUBLISH ch V|PUBSUB NUMPAT|PUBSUB CHANNELS|WAIT 0 0|UNWATCH|UNWATCH|RESET|CLIENT HELP|TIME V|BLPOP L 0.01|BLMPOP 0.01 1 L LEFT\
|BZPOPMIN Z 0.01|BRPOPLPUSH L L 0.01|BLMOVE L L LEFT LEFT 0.01|XREAD BLOCK 5 STREAMS X $|XREAD BLOCK 5 STREAMS X 0|CLIENT KILL ID 999999 TYPE normal\
|CLIENT LIST ID 999999|SUBSCRIBE|WATCH S|EXEC|DISCARD|CLIENT REPLY ON|HELLO 2 BAD|OBJECT HELP|CLIENT LIST TYPE master";

/// The scripts that the templates name.
const LUA: [(&str, &str); 16] = [
    ("@SET", "return redis.call('SET',KEYS[1],ARGV[1])"),
    ("@GET", "return redis.call('GET',KEYS[1])"),
    ("@HIDDENREAD", "return redis.call('GET','s1')"),
    ("@HIDDEN", "redis.call('INCR','n1') return redis.call('SET','s1','hidden')"),
    ("@DOUBLE", "return {double=1.5}"),
    ("@MAP", "redis.setresp(3) return {map={a=1}}"),
    ("@NIL", "return nil"),
    ("@ERROR", "return redis.error_reply('MY error')"),
    ("@FAIL", "redis.call('SET',KEYS[1],'half') return redis.call('LPUSH',KEYS[1],'x')"),
    ("@NESTED", "return {1,{2,{3,false,'x'}},{}}"),
    ("@BOOL", "redis.setresp(3) return true"),
    ("@SELECT", "redis.call('SELECT','1') return redis.call('SET','s1','one')"),
    ("@BIG", "redis.setresp(3) return {big_number='123456789012345678901234567890'}"),
    ("@STATUS", "return redis.status_reply('FINE')"),
    ("@RESP3", "redis.setresp(3) return redis.call('HGETALL',KEYS[1])"),
    ("@NONE", "return 1"),
];

/// The library that FCALL needs.
pub const LIBRARY: &str = "#!lua name=lib\nredis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\n\
redis.register_function{function_name='look', callback=function(keys) return redis.call('GET', keys[1]) end, flags={'no-writes'}}";

fn word(dice: &mut Dice, template: &str) -> String {
    let kind = match template {
        // Mostly keys of the right type, now and then another's.
        "S" | "H" | "L" | "T" | "Z" | "X" if dice.percent(6) => dice.pick(&["S", "H", "L", "T", "Z", "X"]),
        "A" => dice.pick(&["S", "S", "S", "H", "L", "T", "Z", "X"]),
        other => other,
    };
    match kind {
        "S" => dice.pick(&STRINGS.each_ref().map(|s| *s)).to_string(),
        "H" | "L" | "T" | "Z" | "X" => format!("{}{}", kind.to_lowercase(), 1 + dice.below(2)),
        "V" => dice.pick(&VALUES.each_ref().map(|v| *v)).to_string(),
        "I" => dice.below(6).to_string(),
        "I-1" => format!("{}-1", 1 + dice.below(5)),
        "F" => dice.pick(&FIELDS.each_ref().map(|f| *f)).to_string(),
        script if script.starts_with('@') => LUA.iter().find(|(name, _)| *name == script).unwrap().1.to_string(),
        other => other.to_string(),
    }
}

fn command(dice: &mut Dice, templates: &str) -> Request {
    let all: Vec<&str> = templates.split('|').collect();
    let template = dice.pick(&all);
    let mut words: Vec<String> = template.split_whitespace().map(|part| word(dice, part)).collect();
    if dice.percent(10) {
        words[0] = words[0].to_lowercase();
    }
    if dice.percent(4) {
        return inline(dice, &words);
    }
    Request { bytes: encode(&words), shown: format!("{words:?}"), answered: true }
}

/// The same command as a line, quoted as redis-cli would.
fn inline(dice: &mut Dice, words: &[String]) -> Request {
    let quoted = words.iter().map(|word| {
        let escaped: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if plain { word.clone() } else { format!("\"{escaped}\"") }
    });
    let line = quoted.collect::<Vec<_>>().join(dice.pick(&[" ", "  ", "\t"]));
    let line = format!("{line}{}", dice.pick(&["\r\n", "\n"]));
    Request { shown: format!("inline {line:?}"), bytes: line.into_bytes(), answered: true }
}

fn fixed(line: &str) -> Request {
    let words: Vec<&str> = line.split(' ').collect();
    Request { bytes: encode(&words), shown: line.into(), answered: true }
}

fn any(dice: &mut Dice) -> Request {
    match dice.below(100) {
        0..50 => command(dice, READS),
        50..80 => command(dice, WRITES),
        80..86 => command(dice, SCRIPTS),
        86..92 => command(dice, ERRORS),
        92..99 => command(dice, SESSION),
        _ => Request { bytes: b"\r\n".to_vec(), shown: "blank".into(), answered: false },
    }
}

/// MULTI and what follows it, mostly with an end.
fn transaction(dice: &mut Dice) -> Vec<Request> {
    let mut requests = Vec::new();
    if dice.percent(25) {
        requests.push(command(dice, "WATCH S|WATCH S S|WATCH A"));
        requests.extend((0..dice.below(3)).map(|_| any(dice)));
    }
    requests.push(fixed("MULTI"));
    for _ in 0..dice.below(6) {
        requests.push(match dice.below(100) {
            0..3 => fixed("MULTI"),
            3..5 => fixed("WATCH s1"),
            5..60 => command(dice, READS),
            60..85 => command(dice, WRITES),
            85..90 => command(dice, SCRIPTS),
            90..94 => command(dice, ERRORS),
            _ => command(dice, SESSION),
        });
    }
    match dice.below(10) {
        0 => requests.push(fixed("DISCARD")),
        1 => {}
        _ => requests.push(fixed("EXEC")),
    }
    requests
}

/// The pipelines that this seed stands for.
pub fn case(seed: u64) -> Case {
    let mut dice = Dice::new(seed);
    let mut groups = vec![Vec::new()];
    // From one command a group, as most clients send, to everything in one write.
    let break_after = *[0, 5, 20, 60, 100].get(dice.below(5)).unwrap();
    let length = 3 + dice.below(25);
    let mut count = 0;
    while count < length {
        let requests = if dice.percent(10) { transaction(&mut dice) } else { vec![any(&mut dice)] };
        // A transaction in one write is another way than one that is cut.
        let whole = requests.len() > 1 && dice.percent(50);
        for request in requests {
            count += 1;
            groups.last_mut().unwrap().push(request);
            if !whole && dice.percent(break_after) {
                groups.push(Vec::new());
            }
        }
    }
    if dice.percent(5) {
        groups.last_mut().unwrap().push(fixed("QUIT"));
    }
    let is = |request: &Request, names: &[&str]| names.iter().any(|name| request.shown.to_lowercase().contains(name));
    if groups.iter().flatten().any(|request| is(request, &["multi", "watch"])) {
        // Not offered by sidecache in a transaction or while keys are watched: it says so.
        groups.iter_mut().for_each(|group| group.retain(|request| !is(request, &["hello", "auth", "client"])));
    }
    Case { resp3: dice.percent(40), groups, cuts: seed }
}
