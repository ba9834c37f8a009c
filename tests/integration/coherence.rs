//! What the cache promises, tried with one worker and with four: few fetches, own writes seen at once, outside ones
//! once their push is in, nothing old for longer than `max_staleness`.

use std::time::{Duration, Instant};

use crate::support::wait::pass;
use crate::support::{Conn, Dir, V, eventually};

pub mod stage;

use stage::{Stage, with_workers, with_workers_timeless};

const COALESCED: &str = "sidecache_commands_total{class=\"read\",outcome=\"coalesced\"}";
const MISSES: &str = "sidecache_commands_total{class=\"read\",outcome=\"miss\"}";

/// A way to change `k` from inside: what it is called, what it does given the new value, what GET k answers then.
type Way = (&'static str, fn(&Stage, &mut Conn, &str), fn(&str) -> V);

fn ok() -> V {
    V::Simple("OK".into())
}

fn fresh(value: &str) -> V {
    V::bulk(value)
}

fn gone(_: &str) -> V {
    V::Nil
}

/// Longer than `large_request_bytes`.
fn padding() -> String {
    format!("--{}\n", "x".repeat(70_000))
}

#[test]
fn hot_reads_cost_upstream_next_to_nothing() {
    with_workers_timeless("", |stage| {
        let keys: Vec<String> = (0..100).map(|i| format!("hot:{i}")).collect();
        for key in &keys {
            stage.server.outside(&format!("SET {key} {key}"));
        }
        let lines: Vec<String> = keys.iter().map(|key| format!("GET {key}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut client = stage.sidecar.conn();
        client.pipeline(&lines);
        client.pipeline(&lines);
        stage.server.reset_calls();
        for _ in 0..200 {
            let replies = client.pipeline(&lines);
            assert!(replies.iter().zip(&keys).all(|(reply, key)| *reply == V::bulk(key)));
        }
        let gets = stage.server.calls("get");
        assert!(gets <= 20, "{gets} GETs for 20,000 reads of 100 keys");
    });
}

#[test]
fn a_thousand_readers_of_a_missing_key_cost_one_fetch_per_worker() {
    // However long the machine takes for a thousand of them, the last may join what the first began.
    with_workers_timeless("upstream.command_timeout = '1m'", |stage| {
        let mut readers: Vec<Conn> = (0..1000).map(|_| stage.sidecar.conn()).collect();
        // Every worker's lane is up.
        readers.iter_mut().take(32).for_each(|reader| assert_eq!(reader.line("EXISTS x"), V::Int(0)));
        stage.server.reset_calls();
        let asked = || stage.sidecar.metric(MISSES) + stage.sidecar.metric(COALESCED);
        let before = asked();
        stage.lanes().iter().for_each(|lane| lane.hold(Dir::ToClient));
        readers.iter_mut().for_each(|reader| reader.send(&["GET", "missing"]));
        eventually("all have asked", || asked() - before >= 1000.0);
        stage.lanes().iter().for_each(|lane| lane.resume(Dir::ToClient));
        readers.iter_mut().for_each(|reader| assert_eq!(reader.value(), V::Nil));
        let gets = stage.server.calls("get");
        assert!((1..=stage.threads as u64).contains(&gets), "{gets} fetches by {} workers", stage.threads);
    });
}

#[test]
fn an_outside_write_is_seen_once_its_push_is_in() {
    with_workers("", |stage| {
        let mut readers = stage.readers();
        for round in 0..20 {
            let (old, new) = (format!("{round}-old"), format!("{round}-new"));
            stage.server.outside(&format!("SET k {old}"));
            stage.warm(&mut readers, "GET k", &V::bulk(old));
            let pushes = || stage.sidecar.metric("sidecache_invalidation_pushes_total");
            let before = pushes();
            stage.server.outside(&format!("SET k {new}"));
            eventually("each lane has been told", || pushes() - before >= readers.len() as f64);
            stage.all_see(&mut readers, "GET k", &V::bulk(new), "an outside SET");
        }
    });
}

/// Ways by commands that name what they write.
const WAYS_BY_NAME: [Way; 12] = [
    ("SET", |_, c, v| assert_eq!(c.ask(&["SET", "k", v]), ok()), fresh),
    ("MSET", |_, c, v| assert_eq!(c.ask(&["MSET", "x", "1", "k", v]), ok()), fresh),
    ("GETSET", |_, c, v| assert_eq!(c.ask(&["GETSET", "k", v]), V::bulk("old")), fresh),
    ("DEL", |_, c, _| assert_eq!(c.line("DEL k"), V::Int(1)), gone),
    ("GETDEL", |_, c, _| assert_eq!(c.line("GETDEL k"), V::bulk("old")), gone),
    ("PEXPIRE", |_, c, _| assert_eq!(c.line("PEXPIRE k 0"), V::Int(1)), gone),
    ("GETEX", |_, c, _| assert_eq!(c.line("GETEX k PXAT 1"), V::bulk("old")), gone),
    ("RENAME away", |_, c, _| assert_eq!(c.line("RENAME k elsewhere"), ok()), gone),
    (
        "RENAME here",
        |stage, c, v| {
            stage.server.outside(&format!("SET other {v}"));
            assert_eq!(c.line("RENAME other k"), ok());
        },
        fresh,
    ),
    (
        "COPY",
        |stage, c, v| {
            stage.server.outside(&format!("SET other {v}"));
            assert_eq!(c.line("COPY other k REPLACE"), V::Int(1));
        },
        fresh,
    ),
    ("MOVE", |_, c, _| assert_eq!(c.line("MOVE k 5"), V::Int(1)), gone),
    // As a request too large for the lane.
    ("a large MSET", |_, c, v| assert_eq!(c.ask(&["MSET", "k", v, "large", &padding()]), ok()), fresh),
];

/// Ways by commands that do not name what they write.
const WAYS_UNNAMED: [Way; 9] = [
    ("EVAL", |_, c, v| assert_eq!(c.ask(&["EVAL", "return redis.call('set','k',ARGV[1])", "0", v]), ok()), fresh),
    (
        "a large EVAL",
        |_, c, v| {
            let script = format!("{}return redis.call('set','k',ARGV[1])", padding());
            assert_eq!(c.ask(&["EVAL", &script, "0", v]), ok());
        },
        fresh,
    ),
    (
        "EVALSHA",
        |stage, c, v| {
            let sha = stage.server.conn().ask(&["SCRIPT", "LOAD", "return redis.call('set','k',ARGV[1])"]).text();
            assert_eq!(c.ask(&["EVALSHA", &sha, "0", v]), ok());
        },
        fresh,
    ),
    (
        "FCALL",
        |stage, c, v| {
            let code = "#!lua name=l\nredis.register_function('w', \
                        function(keys, args) return redis.call('set', 'k', args[1]) end)";
            stage.server.conn().ask(&["FUNCTION", "LOAD", "REPLACE", code]);
            assert_eq!(c.ask(&["FCALL", "w", "0", v]), ok());
        },
        fresh,
    ),
    (
        "SORT STORE",
        |stage, c, _| {
            stage.server.outside("RPUSH list 1");
            assert_eq!(c.line("SORT list BY nosort GET nothing STORE k"), V::Int(1));
            assert_eq!(c.line("DEL k"), V::Int(1));
        },
        gone,
    ),
    ("FLUSHALL", |_, c, _| assert_eq!(c.line("FLUSHALL"), ok()), gone),
    ("FLUSHDB", |_, c, _| assert_eq!(c.line("FLUSHDB"), ok()), gone),
    (
        "SWAPDB",
        |stage, c, v| {
            let mut direct = stage.server.conn();
            direct.pipeline(&["SELECT 1", &format!("SET k {v}")]);
            assert_eq!(c.line("SWAPDB 0 1"), ok());
        },
        fresh,
    ),
    (
        "an EVAL while watching",
        |_, c, v| {
            assert_eq!(c.line("WATCH w"), ok());
            assert_eq!(c.ask(&["EVAL", "return redis.call('set','k',ARGV[1])", "0", v]), ok());
            assert_eq!(c.line("UNWATCH"), ok());
        },
        fresh,
    ),
];

/// Ways by transactions, on the lane when sent in one write, else on a connection of their own.
const WAYS_BY_TRANSACTION: [Way; 7] = [
    (
        "MULTI in one write",
        |_, c, v| {
            c.pipeline(&["MULTI", &format!("SET k {v}"), "EXEC"]);
        },
        fresh,
    ),
    ("MULTI line by line", |_, c, v| line_by_line(c, &[&["SET", "k", v]]), fresh),
    (
        "EVAL in MULTI in one write",
        |_, c, v| {
            c.pipeline(&["MULTI", &format!("EVAL redis.call('set','k',ARGV[1]) 0 {v}"), "EXEC"]);
        },
        fresh,
    ),
    (
        "EVAL in MULTI line by line",
        |_, c, v| line_by_line(c, &[&["EVAL", "redis.call('set','k',ARGV[1])", "0", v]]),
        fresh,
    ),
    ("FLUSHALL in MULTI line by line", |_, c, _| line_by_line(c, &[&["FLUSHALL"]]), gone),
    (
        "SWAPDB in MULTI in one write",
        |stage, c, v| {
            stage.server.conn().pipeline(&["SELECT 1", &format!("SET k {v}")]);
            c.pipeline(&["MULTI", "SWAPDB 0 1", "EXEC"]);
        },
        fresh,
    ),
    (
        "SWAPDB in MULTI line by line",
        |stage, c, v| {
            stage.server.conn().pipeline(&["SELECT 1", &format!("SET k {v}")]);
            assert_eq!(c.line("MULTI"), ok());
            assert_eq!(c.line("SWAPDB 0 1"), V::Simple("QUEUED".into()));
            // Filled between queueing and execution.
            let mut reader = [stage.sidecar.conn()];
            stage.quick();
            stage.warm(&mut reader, "GET k", &V::bulk("old"));
            assert_eq!(c.line("EXEC"), V::Array(vec![ok()]));
            stage.all_see(&mut reader, "GET k", &V::bulk(v), "SWAPDB in MULTI line by line");
        },
        fresh,
    ),
];

fn line_by_line(client: &mut Conn, commands: &[&[&str]]) {
    assert_eq!(client.line("MULTI"), ok());
    for command in commands {
        assert_eq!(client.ask(command), V::Simple("QUEUED".into()));
    }
    assert!(matches!(client.line("EXEC"), V::Array(_)));
}

/// Each way, with every reader holding the old value and every lane late with its pushes.
fn own_writes_are_seen(toml: &str, ways: &[Way]) {
    with_workers(toml, |stage| {
        let mut readers = stage.readers();
        // One writes on a lane that reads k too, the other on one that no push about it comes to.
        let mut writers = [stage.sidecar.conn(), stage.sidecar.conn()];
        stage.server.outside("ACL SETUSER writer on >secret ~* &* +@all");
        assert_eq!(writers[1].line("AUTH writer secret"), ok());
        for (i, (name, act, expected)) in ways.iter().flat_map(|way| [way, way]).enumerate() {
            stage.server.outside("FLUSHALL");
            stage.server.outside("SET k old");
            stage.warm(&mut readers, "GET k", &V::bulk("old"));
            let lanes = stage.lanes();
            // The writer's lane is quick, the others late; which is the writer's is tried in turn.
            for (j, lane) in lanes.iter().enumerate() {
                let late = if j % 2 == i / 2 % 2 { 40 } else { 0 };
                lane.delay(Dir::ToClient, Duration::from_millis(late));
            }
            act(stage, &mut writers[i % 2], "new");
            stage.all_see(&mut readers, "GET k", &expected("new"), name);
            stage.quick();
        }
    });
}

#[test]
fn an_inside_write_by_a_command_that_names_its_keys_is_seen_by_the_next_read_of_any_client() {
    own_writes_are_seen("", &WAYS_BY_NAME);
}

#[test]
fn an_inside_write_to_keys_that_no_command_names_is_seen_by_the_next_read_of_any_client() {
    own_writes_are_seen("", &WAYS_UNNAMED);
}

#[test]
fn an_inside_transaction_is_seen_by_the_next_read_of_any_client() {
    own_writes_are_seen("", &WAYS_BY_TRANSACTION);
}

/// Each way, with every reader holding the old value and no push to come.
fn own_writes_are_seen_without_pushes<'a>(toml: &str, ways: impl Iterator<Item = &'a Way> + Clone) {
    with_workers(toml, |stage| {
        let mut readers = stage.readers();
        let mut writer = stage.sidecar.conn();
        for (name, act, expected) in ways.clone() {
            writer.line("FLUSHALL");
            stage.server.outside("SET k old");
            stage.warm(&mut readers, "GET k", &V::bulk("old"));
            act(stage, &mut writer, "new");
            stage.all_see(&mut readers, "GET k", &expected("new"), name);
        }
    });
}

#[test]
fn own_writes_are_seen_in_ttl_mode_too() {
    let ways = WAYS_BY_NAME.iter().chain(&WAYS_UNNAMED).chain(&WAYS_BY_TRANSACTION);
    own_writes_are_seen_without_pushes("cache.mode = 'ttl'\ncache.ttl_mode_age = '1m'", ways);
}

#[test]
fn keys_that_a_rule_puts_in_ttl_mode_show_own_writes_too() {
    let rule = "cache.ttl_mode_age = '1m'\n[[cache.rules]]\npattern = 'k'\nmode = 'ttl'";
    own_writes_are_seen_without_pushes(rule, WAYS_UNNAMED.iter().chain(&WAYS_BY_TRANSACTION));
}

#[test]
fn no_reader_joins_a_fetch_older_than_max_staleness() {
    with_workers("cache.max_staleness = '200ms'", |stage| {
        stage.server.outside("SET k old");
        let mut readers: Vec<Conn> = (0..=2 * stage.threads).map(|_| stage.sidecar.conn()).collect();
        readers.iter_mut().for_each(|reader| assert_eq!(reader.line("EXISTS x"), V::Int(0)));
        stage.server.reset_calls();
        stage.lanes().iter().for_each(|lane| lane.hold(Dir::ToClient));
        let counted = |series| stage.sidecar.metric(series);
        let (misses, asked) = (counted(MISSES), counted(MISSES) + counted(COALESCED));
        let all_fetching = |readers: usize| {
            eventually("all have asked", || counted(MISSES) + counted(COALESCED) - asked >= readers as f64);
            let fetches = counted(MISSES) - misses;
            eventually("the fetches are executed", || stage.server.calls("get") as f64 == fetches);
        };
        let (early, late) = readers.split_at_mut(stage.threads + 1);
        early.iter_mut().for_each(|reader| reader.send(&["GET", "k"]));
        all_fetching(early.len());
        stage.server.outside("SET k new");
        pass(Duration::from_millis(200));
        late.iter_mut().for_each(|reader| reader.send(&["GET", "k"]));
        all_fetching(early.len() + late.len());
        stage.lanes().iter().for_each(|lane| lane.resume(Dir::ToClient));
        early.iter_mut().for_each(|reader| assert_eq!(reader.value(), V::bulk("old")));
        late.iter_mut().for_each(|reader| assert_eq!(reader.value(), V::bulk("new")));
    });
}

/// Reads until a read is not answered at once; returns how long after `since` that one was sent. No read sent later than
/// `bound` after it may have been answered.
fn unanswered(since: Instant, bound: Duration, reader: &mut Conn, line: &str, expected: &V) -> Duration {
    loop {
        let sent = since.elapsed();
        reader.send(&line.split(' ').collect::<Vec<_>>());
        match reader.try_read_within(Duration::from_millis(400)) {
            Some(reply) => assert_eq!(reply, *expected),
            None => return sent,
        }
        assert!(sent <= bound, "a hit {sent:?} later");
        pass(Duration::from_millis(1));
    }
}

#[test]
fn no_old_value_is_served_later_than_max_staleness_after_its_overwrite_whatever_the_network_does() {
    let bound = Duration::from_millis(300);
    with_workers("cache.max_staleness = '300ms'", |stage| {
        for dirs in [&[Dir::ToClient][..], &[Dir::ToServer], &[Dir::ToClient, Dir::ToServer]] {
            stage.server.outside("SET k old");
            let mut readers = stage.readers();
            stage.warm(&mut readers, "GET k", &V::bulk("old"));
            stage.lanes().iter().for_each(|lane| dirs.iter().for_each(|&dir| lane.hold(dir)));
            let overwritten = Instant::now();
            stage.server.outside("SET k new");
            let deaf = dirs.contains(&Dir::ToClient);
            let mut sent = Vec::new();
            if deaf {
                let old = V::bulk("old");
                std::thread::scope(|scope| {
                    let ask = |reader| unanswered(overwritten, bound, reader, "GET k", &old);
                    let asking: Vec<_> = readers.iter_mut().map(|reader| scope.spawn(move || ask(reader))).collect();
                    sent = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
                });
            }
            stage.lanes().iter().for_each(|lane| dirs.iter().for_each(|&dir| lane.resume(dir)));
            // A hit may only have been slow.
            for (reader, sent) in readers.iter_mut().zip(sent) {
                let reply = reader.value();
                assert!(
                    reply == V::bulk("new") || reply == V::bulk("old") && sent <= bound,
                    "{reply:?} {sent:?} later"
                );
            }
            for reader in &mut readers {
                eventually("the push is in", || reader.line("GET k") == V::bulk("new"));
            }
        }
    });
}

#[test]
fn a_stopped_upstream_ends_the_lease() {
    with_workers("cache.max_staleness = '300ms'", |stage| {
        stage.server.outside("SET k v");
        let mut readers = stage.readers();
        stage.warm(&mut readers, "GET k", &V::bulk("v"));
        stage.server.stop();
        unanswered(Instant::now(), Duration::from_millis(300), &mut readers[0], "GET k", &V::bulk("v"));
        stage.server.cont();
        assert_eq!(readers[0].value(), V::bulk("v"));
    });
}

#[test]
fn a_sidecar_stopped_past_the_bound_serves_nothing_old_when_it_goes_on() {
    with_workers("cache.max_staleness = '200ms'", |stage| {
        stage.server.outside("SET k old");
        let mut readers = stage.readers();
        stage.warm(&mut readers, "GET k", &V::bulk("old"));
        // Not even the push may help.
        stage.lanes().iter().for_each(|lane| lane.hold(Dir::ToClient));
        stage.sidecar.stop();
        stage.server.outside("SET k new");
        pass(Duration::from_millis(210));
        readers.iter_mut().for_each(|reader| reader.send(&["GET", "k"]));
        stage.sidecar.cont();
        readers.iter_mut().for_each(|reader| reader.nothing_for(Duration::from_millis(20)));
        stage.lanes().iter().for_each(|lane| lane.resume(Dir::ToClient));
        readers.iter_mut().for_each(|reader| assert_eq!(reader.value(), V::bulk("new")));
    });
}
