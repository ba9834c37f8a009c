//! What may be kept and for how long: fills that race invalidations, errors, missing keys, expiry, rules, modes.

use std::time::{Duration, Instant};

use crate::coherence::stage::Stage;
use crate::support::{Conn, Dir, Kind, Scripted, Sidecar, V, eventually};

const NULL_PUSH: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

fn ok() -> V {
    V::Simple("OK".into())
}

fn one_worker(toml: &str) -> Stage {
    Stage::new(Kind::Redis, 1, toml)
}

/// Ages and a lease that outlast the test: how many reads go upstream is not a matter of time then.
const TIMELESS: &str = "cache.max_staleness = '1m'\ncache.ttl_mode_age = '1m'\n";

/// The same of a stage.
fn timeless(toml: &str) -> Stage {
    Stage::timeless(Kind::Redis, 1, &format!("cache.ttl_mode_age = '1m'\n{toml}"))
}

/// Reads often enough to be kept and hit, were that allowed; how many reads reached the server.
fn reads_of(stage: &Stage, client: &mut Conn, line: &str, expected: &V, command: &str) -> u64 {
    stage.server.reset_calls();
    (0..6).for_each(|_| assert_eq!(client.line(line), *expected, "{line}"));
    stage.server.calls(command)
}

#[test]
fn a_reply_is_not_kept_if_its_key_or_all_keys_were_invalidated_while_it_was_on_its_way() {
    for push in [NULL_PUSH, ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"] {
        for between in [false, true] {
            let upstream = Scripted::start(move |turn| {
                turn.take("PTTL");
                while let Some(command) = turn.next() {
                    match command[0].as_str() {
                        "PTTL" if between => turn.reply(format!(":-1\r\n{push}")),
                        "PTTL" => turn.reply(":-1\r\n"),
                        "GET" if !between => turn.reply(format!("{push}$1\r\nv\r\n")),
                        "GET" => turn.reply("$1\r\nv\r\n"),
                        _ => turn.reply("-ERR unknown command\r\n"),
                    }
                }
            });
            let sidecar = Sidecar::start(&upstream, "");
            let mut client = sidecar.conn();
            for times in 1..6 {
                assert_eq!(client.line("GET k"), V::bulk("v"));
                assert_eq!(upstream.received("GET k"), times, "{push:?}");
            }
            assert!(upstream.received("PTTL k") > 0);
        }
    }
}

#[test]
fn an_upstream_that_cannot_track_is_cached_by_age_and_everybody_is_told() {
    let old = "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.2.7\r\n\r\n$5\r\nproto\r\n:3\r\n";
    let old = old.replace("6.2.7\r\n\r\n", "6.2.7\r\n").replace("$6\r\n6.2.7", "$5\r\n6.2.7");
    for (command, answer) in [
        ("HELLO", "-ERR unknown command 'HELLO'\r\n"),
        ("CLIENT TRACKING", "-NOPERM this user has no permissions\r\n"),
        ("CLIENT TRACKING", "-ERR unknown subcommand 'TRACKING'\r\n"),
        ("HELLO", old.as_str()),
    ] {
        let answer = answer.to_string();
        let upstream = Scripted::start(move |turn| {
            turn.answer(command, &answer);
            while let Some(command) = turn.next() {
                match command[0].as_str() {
                    "GET" => turn.reply("$1\r\nv\r\n"),
                    "INFO" => turn.reply("$8\r\n# Server\r\n"),
                    _ => turn.reply("-ERR unknown command\r\n"),
                }
            }
        });
        let sidecar = Sidecar::start(&upstream, "cache.ttl_mode_age = '300ms'");
        sidecar.allow_log("upstream cannot track");
        let mut client = sidecar.conn();
        eventually("it is kept", || {
            let before = upstream.received("GET k");
            client.line("GET k");
            upstream.received("GET k") == before
        });
        let (kept, since) = (upstream.received("GET k"), Instant::now());
        eventually("it has aged", || {
            let sent = Instant::now();
            client.line("GET k");
            let aged = upstream.received("GET k") > kept;
            assert!(aged || sent <= since + Duration::from_millis(300), "{:?} late", sent - since);
            aged
        });
        assert!(client.line("INFO").text().contains("sidecache_mode:ttl"));
        assert_eq!(sidecar.metric("sidecache_cache_mode{mode=\"tracking\"}"), 0.0);
        assert!(sidecar.metric("sidecache_cache_mode{mode=\"ttl\"}") >= 1.0);
        assert!(sidecar.logs().iter().any(|line| line.contains("upstream cannot track")));
    }
}

#[test]
fn a_reply_is_not_kept_if_all_databases_were_swapped_while_it_was_on_its_way() {
    let stage = one_worker("cache.max_staleness = '1m'\nupstream.connect_timeout = '20s'");
    stage.server.conn().pipeline(&["SET k old", "SELECT 1", "SET k new"]);
    let mut reader = stage.readers().pop().unwrap();
    assert_eq!(reader.line("GET k"), V::bulk("old"));
    let own: Vec<_> = stage.lanes().into_iter().filter(|lane| lane.said(Dir::ToServer, "secret")).collect();
    stage.server.reset_calls();
    own.iter().for_each(|lane| lane.hold(Dir::ToClient));
    reader.send(&["GET", "k"]);
    eventually("it is executed", || stage.server.calls("get") == 1);
    assert_eq!(stage.sidecar.conn().line("SWAPDB 0 1"), ok());
    own.iter().for_each(|lane| lane.resume(Dir::ToClient));
    assert_eq!(reader.value(), V::bulk("old"));
    assert_eq!(reader.line("GET k"), V::bulk("new"));
}

#[test]
fn a_write_that_only_upstream_knows_drops_its_keys() {
    let upstream = Scripted::start(|turn| {
        while let Some(command) = turn.next() {
            match command[0].to_lowercase().as_str() {
                "get" => turn.reply("$1\r\nv\r\n"),
                "command" => turn.reply("*1\r\n*6\r\n$8\r\nmod.mark\r\n:2\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n"),
                "mod.mark" => turn.reply("+OK\r\n"),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, TIMELESS);
    let mut client = sidecar.conn3();
    (0..4).for_each(|_| assert_eq!(client.line("GET k"), V::bulk("v")));
    let before = upstream.received("GET k");
    client.line("GET k");
    assert_eq!(upstream.received("GET k"), before, "it is kept");
    for times in 1..4 {
        assert_eq!(client.line("MOD.MARK k"), ok());
        client.line("GET k");
        assert_eq!(upstream.received("GET k"), before + times);
    }
}

#[test]
fn what_a_sweep_given_up_does_later_drops_what_was_filled_since() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let upstream = Scripted::start(move |turn| {
        while let Some(command) = turn.next() {
            match command[0].as_str() {
                "GET" => turn.reply("$1\r\nv\r\n"),
                "SWAPDB" => {
                    // Not silent, only late: pushes arrive.
                    while released.lock().unwrap().recv_timeout(Duration::from_millis(20)).is_err() {
                        turn.invalidate(&["other"]);
                    }
                    turn.reply("+OK\r\n");
                }
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, "upstream.command_timeout = '5s'\ncache.max_staleness = '1m'");
    let mut other = sidecar.conn();
    assert_eq!(other.line("SELECT 1"), ok());
    assert!(matches!(sidecar.conn().line("SWAPDB 1 2"), V::Error(_)));
    let mut before = 0;
    eventually("it is kept", || {
        before = upstream.received("GET k");
        assert_eq!(other.line("GET k"), V::bulk("v"));
        upstream.received("GET k") == before
    });
    release.send(()).unwrap();
    eventually("the late reply is in", || sidecar.metric("sidecache_late_replies_total") > 0.0);
    other.line("GET k");
    assert_eq!(upstream.received("GET k"), before + 1);
}

#[test]
fn errors_are_never_kept() {
    let stage = one_worker("");
    stage.server.outside("RPUSH list x");
    let mut client = stage.sidecar.conn();
    let wrong = stage.server.conn().line("GET list");
    assert!(matches!(wrong, V::Error(_)));
    assert_eq!(reads_of(&stage, &mut client, "GET list", &wrong, "get"), 6);
    assert_eq!(
        reads_of(&stage, &mut client, "GETRANGE list a b", &stage.server.conn().line("GETRANGE list a b"), "getrange"),
        6
    );
    stage.server.conn().pipeline(&["DEL list", "SET list v"]);
    assert_eq!(client.line("GET list"), V::bulk("v"));
}

#[test]
fn mget_s_nil_for_a_key_of_another_type_is_no_answer_to_anything_else() {
    let stage = one_worker("");
    stage.server.conn().pipeline(&["RPUSH list x", "SET k v"]);
    let mut client = stage.sidecar.conn();
    for _ in 0..4 {
        assert_eq!(client.line("MGET list k missing"), V::Array(vec![V::Nil, V::bulk("v"), V::Nil]));
        assert!(matches!(client.line("GET list"), V::Error(_)));
        assert_eq!(client.line("EXISTS list"), V::Int(1));
        assert_eq!(client.line("GET missing"), V::Nil);
    }
    stage.server.conn().pipeline(&["DEL list", "SET list v", "SET missing v"]);
    eventually("all are seen", || client.line("MGET list k missing") == V::Array(vec![V::bulk("v"); 3]));
}

#[test]
fn a_missing_key_kept_as_such_does_not_hide_a_created_one() {
    let stage = one_worker("");
    let mut client = [stage.sidecar.conn()];
    for i in 0..20 {
        stage.warm(&mut client, &format!("GET k{i}"), &V::Nil);
        if i % 2 == 0 {
            stage.server.outside(&format!("SET k{i} v"));
            eventually("it is seen", || client[0].line(&format!("GET k{i}")) == V::bulk("v"));
        } else {
            assert_eq!(stage.sidecar.conn().line(&format!("SETNX k{i} v")), V::Int(1));
            assert_eq!(client[0].line(&format!("GET k{i}")), V::bulk("v"));
        }
    }
}

#[test]
fn the_cache_is_bounded_in_bytes() {
    let stage = one_worker("cache.bytes = '1MiB'");
    let value = "x".repeat(50_000);
    let mut direct = stage.server.conn();
    let mut client = stage.sidecar.conn();
    for i in 0..100 {
        direct.ask(&["SET", &format!("k{i}"), &value]);
        (0..3).for_each(|_| assert_eq!(client.line(&format!("GET k{i}")), V::bulk(&value)));
    }
    eventually("housekeeping is done", || stage.sidecar.metric("sidecache_cache_evictions_total") >= 70.0);
    assert!(stage.sidecar.metric("sidecache_cache_bytes") <= f64::from(1 << 20));
}

#[test]
fn requests_that_run_together_alike_have_replies_of_their_own() {
    let stage = one_worker("");
    stage.server.conn().pipeline(&["HSET h a 1 b 2 c 3 bc 4", "SET k 0123456789abcdefghijklmnopqrstuvwxyz"]);
    let mut client = stage.sidecar.conn();
    let mut direct = stage.server.conn();
    for _ in 0..4 {
        for line in [
            "HMGET h a b c",
            "HMGET h a bc",
            "HMGET h ab c",
            "GETRANGE k 1 23",
            "GETRANGE k 12 3",
            "MGET h k",
            "MGET hk",
        ] {
            assert_eq!(client.line(line), direct.line(line), "{line}");
        }
    }
}

#[test]
fn replies_are_kept_apart_by_resp_version() {
    let stage = one_worker(TIMELESS);
    stage.server.outside("HSET h f v");
    let mut clients = [stage.sidecar.conn(), stage.sidecar.conn3()];
    let mut direct = [stage.server.conn(), Conn::open3(stage.server.addr())];
    for _ in 0..4 {
        for (client, direct) in clients.iter_mut().zip(&mut direct) {
            assert_eq!(client.call(&["HGETALL", "h"]), direct.call(&["HGETALL", "h"]));
        }
    }
    assert!(stage.hits() > 0.0);
}

#[test]
fn no_hit_is_served_after_the_key_s_expiry() {
    for kind in [Kind::Redis, Kind::Valkey] {
        let stage = Stage::new(kind, 1, "client.allow = ['debug']");
        stage.server.outside("DEBUG SET-ACTIVE-EXPIRE 0");
        let mut client = stage.sidecar.conn();
        client.line("GET k");
        let mut direct = stage.server.conn();
        for ttl in [1, 2, 3, 5, 20, 60, 150, 300, 500] {
            for late in [0, 15] {
                stage.slow_lanes(Duration::from_millis(late));
                assert_eq!(direct.line(&format!("SET k v PX {ttl}")), ok());
                let expires = Instant::now() + Duration::from_millis(ttl);
                loop {
                    let sent = Instant::now();
                    if client.line("GET k") == V::Nil {
                        break;
                    }
                    assert!(sent <= expires + Duration::from_millis(1), "PX {ttl}: {:?} late", sent - expires);
                }
                stage.quick();
            }
        }
        // How many fit into the keys' short lives is the machine's affair; that there are any is what the test is about.
        assert!(stage.hits() > 0.0);
    }
}

#[test]
fn expired_hash_fields_are_gone_within_max_staleness() {
    let stage = Stage::new(Kind::Valkey, 1, "cache.max_staleness = '2s'");
    stage.server.outside("DEBUG SET-ACTIVE-EXPIRE 0");
    let mut client = [stage.sidecar.conn()];
    stage.server.outside("HSET h f v g w");
    stage.warm(&mut client, "HGETALL h", &stage.server.conn().line("HGETALL h"));
    for ttl in [10, 100, 500] {
        let mut direct = stage.server.conn();
        direct.pipeline(&["HSET h f v", &format!("HPEXPIRE h {ttl} FIELDS 1 f")]);
        let (expires, polls) = (Instant::now() + Duration::from_millis(ttl), stage.polls());
        for line in ["HGETALL h", "HGET h f", "HEXISTS h f"] {
            let gone = |reply: &V| *reply == V::Nil || *reply == V::Int(0);
            loop {
                // What a poll has seen is applied when the next begins; when polls come is the machine's affair.
                let told = stage.polls() >= polls + 2;
                let sent = Instant::now();
                let reply = client[0].line(line);
                if gone(&reply) || matches!(&reply, V::Array(all) if all.len() == 2) {
                    break;
                }
                let due = expires + Duration::from_millis(2005);
                assert!(!told || sent <= due, "{line}: {reply:?}, {:?} late", sent - expires);
            }
        }
    }
}

#[test]
fn a_swapdb_from_outside_is_noticed_by_the_next_background_poll() {
    for quiet in [false, true] {
        // They rest after eight of their periods, of which two are the bound.
        let bound = if quiet { "1s" } else { "100ms" };
        let stage = one_worker(&format!("cache.max_staleness = '{bound}'"));
        let mut direct = stage.server.conn();
        direct.pipeline(&["SET k old", "SELECT 1", "SET k new", "SELECT 0"]);
        let mut client = [stage.sidecar.conn()];
        stage.warm(&mut client, "GET k", &V::bulk("old"));
        if quiet {
            let rest = |line: &String| line.contains("background polls rest");
            eventually("the polls rest while nothing is read", || stage.sidecar.logs().iter().any(rest));
            direct.line("SWAPDB 0 1");
            // Whatever renews the lease.
            client[0].line("TTL other");
            assert_eq!(client[0].line("GET k"), V::bulk("new"));
        } else {
            direct.line("SWAPDB 0 1");
            let polls = stage.polls();
            eventually("it is noticed", || {
                // What a poll has seen is applied when the next begins.
                let told = stage.polls() >= polls + 2;
                let noticed = client[0].line("GET k") == V::bulk("new");
                assert!(noticed || !told, "a poll has seen it");
                noticed
            });
        }
    }
}

#[test]
fn a_background_poll_that_fails_after_a_rest_is_no_look() {
    let stage = Stage::new(Kind::Valkey, 1, "cache.max_staleness = '1s'");
    let mut direct = stage.server.conn();
    // Where such fields are held, and that is known, no failure drops what is cached for fear of them.
    let epoch = || stage.sidecar.metric("sidecache_node_epoch");
    let before = epoch();
    direct.pipeline(&["HSET h f v", "HEXPIRE h 1000 FIELDS 1 f"]);
    eventually("a poll has seen it", || epoch() > before);
    direct.pipeline(&["MSET k old j old", "SELECT 1", "MSET k new j new", "SELECT 0"]);
    let mut client = [stage.sidecar.conn()];
    stage.warm(&mut client, "GET k", &V::bulk("old"));
    stage.warm(&mut client, "GET j", &V::bulk("old"));
    let logged = |text: &str| stage.sidecar.logs().iter().filter(|line| line.contains(text)).count();
    eventually("the polls rest while nothing is read", || logged("background polls rest") > 0);
    // Who is connected stays; the polls come in vain.
    direct.line("CONFIG SET maxclients 1");
    direct.line("SWAPDB 0 1");
    eventually("polls have failed", || {
        assert_eq!(client[0].line("GET k"), V::bulk("new"));
        logged("background poll failed") >= 2
    });
    // Whatever renews the lease.
    client[0].line("TTL other");
    assert_eq!(client[0].line("GET j"), V::bulk("new"), "a hit though nobody knows of the SWAPDB");
    direct.line("CONFIG SET maxclients 1000");
    stage.warm(&mut client, "GET j", &V::bulk("new"));
}

#[test]
fn rules_decide_by_the_key_s_pattern() {
    let stage = timeless(
        "[[cache.rules]]\npattern = 'lock:*'\nmode = 'off'\n[[cache.rules]]\npattern = 'brief:*'\n\
         max_age = '6s'\n[[cache.rules]]\npattern = 'aged:*'\nmode = 'ttl'",
    );
    let mut client = stage.sidecar.conn();
    assert_eq!(reads_of(&stage, &mut client, "GET lock:1", &V::Nil, "get"), 6);
    assert_eq!(reads_of(&stage, &mut client, "MGET lock:1", &V::Array(vec![V::Nil]), "mget"), 6);
    assert_eq!(reads_of(&stage, &mut client, "GET brief:1", &V::Nil, "get"), 2);
    eventually("it has aged", || reads_of(&stage, &mut client, "GET brief:1", &V::Nil, "get") >= 1);
    assert_eq!(reads_of(&stage, &mut client, "GET aged:1", &V::Nil, "get"), 2);
    assert_eq!(stage.server.calls("client|caching"), 0, "nothing of it is tracked");
    assert_eq!(reads_of(&stage, &mut client, "GET other", &V::Nil, "get"), 2);
}

#[test]
fn mode_off_keeps_nothing_and_mode_ttl_asks_for_no_tracking() {
    let stage = one_worker("cache.mode = 'off'");
    let mut client = stage.sidecar.conn();
    assert_eq!(reads_of(&stage, &mut client, "GET k", &V::Nil, "get"), 6);
    assert!(client.line("INFO").text().contains("sidecache_mode:off"));
    let stage = timeless("cache.mode = 'ttl'");
    let mut client = stage.sidecar.conn();
    assert_eq!(reads_of(&stage, &mut client, "GET k", &V::Nil, "get"), 2);
    assert!(stage.lanes().is_empty());
}

#[test]
fn mget_is_one_snapshot_unless_split() {
    for (toml, parts_of_their_own) in [("", false), ("cache.mget = 'split'", true)] {
        let stage = timeless(toml);
        stage.server.outside("MSET a 1 b 1 c 1");
        let mut client = stage.sidecar.conn();
        let ones = |n| V::Array(vec![V::bulk("1"); n]);
        assert_eq!(reads_of(&stage, &mut client, "MGET a", &ones(1), "mget"), 2);
        assert_eq!(reads_of(&stage, &mut client, "MGET b", &ones(1), "mget"), 2);
        assert_eq!(reads_of(&stage, &mut client, "MGET a b a", &ones(3), "mget"), 0);
        // a is here and c is not: the whole, or only what is missing.
        stage.lanes().iter().for_each(|lane| lane.hold(Dir::ToClient));
        stage.server.outside("MSET a 2 c 2");
        client.send(&["MGET", "a", "c"]);
        eventually("it is fetched", || stage.server.calls("mget") == 1);
        stage.lanes().iter().for_each(|lane| lane.resume(Dir::ToClient));
        let first = if parts_of_their_own { "1" } else { "2" };
        assert_eq!(client.value(), V::Array(vec![V::bulk(first), V::bulk("2")]));
    }
}

#[test]
fn without_tracking_mget_is_never_assembled() {
    let rule = "[[cache.rules]]\npattern = '*'\nmode = 'ttl'";
    for toml in ["cache.mode = 'ttl'", rule] {
        let stage = timeless(toml);
        let mut client = stage.sidecar.conn();
        assert_eq!(reads_of(&stage, &mut client, "MGET a", &V::Array(vec![V::Nil]), "mget"), 2);
        assert_eq!(reads_of(&stage, &mut client, "MGET b", &V::Array(vec![V::Nil]), "mget"), 2);
        assert_eq!(reads_of(&stage, &mut client, "MGET a b", &V::Array(vec![V::Nil, V::Nil]), "mget"), 6, "{toml}");
    }
}
