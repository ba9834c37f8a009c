//! The audit: it reports a reply that no invalidation explains, and nothing else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::coherence::stage::Stage;
use crate::support::wait::{PATIENCE, holds_within, pass};
use crate::support::{Conn, Kind, Scripted, Sidecar, V, eventually};

const VIOLATIONS: &str = "sidecache_audit_violations_total";
const CHECKS: &str = "sidecache_audit_checks_total";
const EXPLAINED: &str = "sidecache_audit_differences_explained_total";

/// An upstream that answers GET k with 1 on lanes, with 2 elsewhere, and never says that it has changed.
fn forgetful() -> Scripted {
    Scripted::start(|turn| {
        turn.take("CLIENT TRACKING");
        let mut value = "2";
        while let Some(command) = turn.next() {
            match command[0].as_str() {
                "CLIENT" => {
                    value = "1";
                    turn.reply("+OK\r\n");
                }
                "GET" => turn.reply(format!("$1\r\n{value}\r\n")),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    })
}

/// How many GETs have come by lanes: audits have connections of their own.
fn fetches(upstream: &Scripted) -> usize {
    let commands = upstream.commands();
    let is_lane = |of: usize| {
        commands.iter().any(|(other, command)| *other == of && command.join(" ").starts_with("CLIENT TRACKING"))
    };
    commands.iter().filter(|(of, command)| command[0] == "GET" && is_lane(*of)).count()
}

/// A sidecar that has met a violation, and the client whose reads it served.
fn violated(upstream: &Scripted, toml: &str) -> (Sidecar, Conn) {
    let sidecar = Sidecar::start(upstream, toml);
    sidecar.allow_log("no invalidation explains");
    let mut client = sidecar.conn();
    (0..4).for_each(|_| assert_eq!(client.line("GET k"), V::bulk("1")));
    // The first look of the background polls drops what was filled before it: there are hits to audit after that, too.
    eventually("it is reported", || {
        client.line("GET k");
        sidecar.metric(VIOLATIONS) >= 1.0
    });
    (sidecar, client)
}

#[test]
fn a_skipped_push_is_reported_and_ends_the_use_of_the_cache() {
    let upstream = forgetful();
    let (sidecar, mut client) = violated(&upstream, "cache.audit_every = 1");
    let told = |line: &String| line.contains("no invalidation explains") && line.contains("GET");
    eventually("it is logged", || sidecar.logs().iter().any(told));
    eventually("it is shown", || sidecar.metric("sidecache_audit_bypass") == 1.0);
    let before = fetches(&upstream);
    (0..4).for_each(|_| assert_eq!(client.line("GET k"), V::bulk("1")));
    assert_eq!(fetches(&upstream), before + 4, "the cache is bypassed");
}

#[test]
fn a_violation_is_only_counted_if_so_configured() {
    let upstream = forgetful();
    let toml = "cache.audit_every = 1\ncache.audit_bypass = false\ncache.max_staleness = '1m'";
    let (_sidecar, mut client) = violated(&upstream, toml);
    let before = upstream.received("CLIENT CACHING YES");
    (0..4).for_each(|_| assert_eq!(client.line("GET k"), V::bulk("1")));
    assert_eq!(upstream.received("CLIENT CACHING YES"), before, "still hits");
}

#[test]
fn another_order_of_a_set_s_members_is_no_violation() {
    let upstream = Scripted::start(|turn| {
        turn.take("CLIENT TRACKING");
        let mut reply = "*2\r\n$1\r\na\r\n$1\r\nb\r\n";
        while let Some(command) = turn.next() {
            match command[0].as_str() {
                // A lane.
                "CLIENT" => {
                    reply = "*2\r\n$1\r\nb\r\n$1\r\na\r\n";
                    turn.reply("+OK\r\n");
                }
                "SMEMBERS" => turn.reply(reply),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, "cache.audit_every = 1");
    let mut client = sidecar.conn();
    eventually("it is audited", || {
        client.line("SMEMBERS s");
        sidecar.metric(CHECKS) >= 10.0
    });
    assert_eq!(sidecar.metric(VIOLATIONS), 0.0);
}

/// What outside writers do all the while; `#` is one of a few numbers.
const STORM: [&str; 16] = [
    "SET s# a",
    "SET s# b PX 20",
    "INCR n#",
    "DEL s#",
    "APPEND s# x",
    "HSET h# f a g b",
    "HSET h# f b",
    "HDEL h# f",
    "SADD m# 1 2 3",
    "SREM m# 2",
    "RPUSH l# x",
    "LTRIM l# 0 2",
    "PEXPIRE l# 15",
    "RENAME s# n#",
    "SET aged:# a",
    "SET aged:# b",
];

const READS: [&str; 10] = [
    "GET s#",
    "GET n#",
    "HGETALL h#",
    "HGET h# f",
    "SMEMBERS m#",
    "LRANGE l# 0 -1",
    "EXISTS s#",
    "TYPE h#",
    "MGET n#",
    "GET aged:#",
];

#[test]
fn a_hash_field_s_expiry_that_nobody_told_is_no_violation() {
    let stage = Stage::new(Kind::Valkey, 1, "cache.audit_every = 1");
    stage.server.outside("DEBUG SET-ACTIVE-EXPIRE 0");
    let mut client = stage.sidecar.conn();
    for (i, ttl) in [10, 100, 600].into_iter().enumerate() {
        stage.server.conn().pipeline(&["HSET h f v g w", &format!("HPEXPIRE h {ttl} FIELDS 1 f")]);
        eventually("it is gone", || client.line("HGETALL h").items().len() == 2);
        stage.server.outside(&format!("HSET other{i} f v"));
    }
    eventually("hits are audited", || {
        client.line("HGETALL h");
        stage.sidecar.metric(CHECKS) > 10.0
    });
    assert_eq!(stage.sidecar.metric(VIOLATIONS), 0.0);
}

#[test]
fn a_storm_of_outside_writes_raises_no_false_alarm() {
    for kind in [Kind::Redis, Kind::Valkey] {
        let toml = "cache.audit_every = 1\ncache.max_staleness = '200ms'\n\
                    [[cache.rules]]\npattern = 'aged:*'\nmode = 'ttl'";
        let stage = Stage::new(kind, 2, toml);
        // Expiry is told as late as can be.
        stage.server.outside("DEBUG SET-ACTIVE-EXPIRE 0");
        let mut storm = STORM.to_vec();
        if kind == Kind::Valkey {
            storm.extend(["HSETEX h# PX 30 FIELDS 1 f z", "HPEXPIRE h# 10 FIELDS 1 g"]);
        }
        let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (stage, over, storm) = (&stage, &over, &storm);
                scope.spawn(move || {
                    let mut direct = stage.server.conn();
                    let mut i = writer;
                    while !over.load(Ordering::SeqCst) {
                        i += 7;
                        direct.line(&storm[i % storm.len()].replace('#', &(i % 3).to_string()));
                        if i % 5 == 0 {
                            pass(Duration::from_millis(2));
                        }
                    }
                });
            }
            for _ in 0..4 {
                let (stage, over, rounds) = (&stage, &over, &rounds);
                scope.spawn(move || {
                    let mut client = stage.sidecar.conn();
                    while !over.load(Ordering::SeqCst) {
                        for i in 0..3 {
                            READS.iter().for_each(|read| drop(client.line(&read.replace('#', &i.to_string()))));
                        }
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            pass(Duration::from_millis(2500));
            // How many there are in a second is the machine's affair.
            let enough = holds_within(4 * PATIENCE, || {
                let seen = |name| stage.sidecar.metric(name);
                rounds.load(Ordering::SeqCst) > 20 && seen(CHECKS) > 100.0 && seen(EXPLAINED) > 0.0
            });
            over.store(true, Ordering::SeqCst);
            assert!(enough, "{} checks, {} explained", stage.sidecar.metric(CHECKS), stage.sidecar.metric(EXPLAINED));
        });
        assert_eq!(stage.sidecar.metric(VIOLATIONS), 0.0);
    }
}

#[test]
fn a_swapdb_that_only_the_next_poll_can_see_is_no_violation() {
    let stage = Stage::new(Kind::Redis, 1, "cache.audit_every = 1");
    stage.server.outside("SET k a");
    stage.server.conn().pipeline(&["SELECT 1", "SET k b"]);
    let mut client = [stage.sidecar.conn()];
    let (mut here, mut there) = (V::bulk("a"), V::bulk("b"));
    // A poll may come so soon behind a swap that no audit has met the old value: then the next swap.
    eventually("an audit has met the old value", || {
        stage.warm(&mut client, "GET k", &here);
        stage.server.outside("SWAPDB 0 1");
        eventually("the other database is seen", || client[0].line("GET k") == there);
        std::mem::swap(&mut here, &mut there);
        // By then an audit that met the old value has judged.
        pass(Duration::from_secs(1));
        stage.sidecar.metric(EXPLAINED) >= 1.0
    });
    assert_eq!(stage.sidecar.metric(VIOLATIONS), 0.0);
}
