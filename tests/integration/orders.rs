//! Orders of events that a simple design gets wrong, each made to happen by holding or delaying the lane.
//!
//! What hears news too early is in `news`, own writes behind slow pushes and fetches older than the bound in
//! `coherence`.

use std::time::{Duration, Instant};

use crate::coherence::stage::Stage;
use crate::support::resp::encode;
use crate::support::{Conn, Dir, Kind, Scripted, Server, Sidecar, V, eventually};

const EVAL_SETS_K: [&str; 4] = ["EVAL", "return redis.call('set','k',ARGV[1])", "0", "new"];

fn ok() -> V {
    V::Simple("OK".into())
}

fn old() -> V {
    V::bulk("old")
}

fn new() -> V {
    V::bulk("new")
}

/// What goes upstream is a matter of order here, not of time.
fn one_worker(toml: &str) -> Stage {
    let stage = Stage::timeless(Kind::Redis, 1, toml);
    stage.server.outside("MSET k old j old");
    assert_eq!(stage.sidecar.conn().line("EXISTS k"), V::Int(1));
    stage.server.reset_calls();
    stage
}

/// What the server says arrives when the lane is resumed.
fn deafen(stage: &Stage) {
    stage.lanes().iter().for_each(|lane| lane.hold(Dir::ToClient));
}

fn undeafen(stage: &Stage) {
    stage.lanes().iter().for_each(|lane| lane.resume(Dir::ToClient));
}

fn executed(stage: &Stage, command: &str, times: u64) {
    eventually("the server has executed it", || stage.server.calls(command) == times);
}

fn send(client: &mut Conn, lines: &[&str]) {
    client.send_raw(&lines.iter().flat_map(|line| encode(&line.split(' ').collect::<Vec<_>>())).collect::<Vec<u8>>());
}

#[test]
fn a_read_behind_a_script_does_not_join_a_flight_from_before_it() {
    let stage = one_worker("");
    let (mut x, mut c) = (stage.sidecar.conn(), stage.sidecar.conn());
    deafen(&stage);
    x.send(&["GET", "k"]);
    executed(&stage, "get", 1);
    c.send_raw(&[encode(&EVAL_SETS_K), encode(&["GET", "k"])].concat());
    executed(&stage, "eval", 1);
    undeafen(&stage);
    assert_eq!(x.value(), old());
    assert_eq!((c.value(), c.value()), (ok(), new()));
}

#[test]
fn a_read_does_not_join_a_flight_older_than_the_read_before_it() {
    let stage = one_worker("");
    let (mut x, mut c) = (stage.sidecar.conn(), stage.sidecar.conn());
    deafen(&stage);
    x.send(&["GET", "k"]);
    executed(&stage, "get", 1);
    stage.server.outside("MSET k new j new");
    send(&mut c, &["GET j", "GET k"]);
    executed(&stage, "get", 3);
    undeafen(&stage);
    assert_eq!(x.value(), old());
    assert_eq!((c.value(), c.value()), (new(), new()));
}

#[test]
fn a_read_does_not_join_a_flight_older_than_the_one_joined_before_it() {
    let stage = one_worker("");
    let (mut x, mut y, mut c) = (stage.sidecar.conn(), stage.sidecar.conn(), stage.sidecar.conn());
    deafen(&stage);
    x.send(&["GET", "k"]);
    executed(&stage, "get", 1);
    stage.server.outside("MSET k new j new");
    y.send(&["GET", "j"]);
    executed(&stage, "get", 2);
    send(&mut c, &["GET j", "GET k"]);
    executed(&stage, "get", 3);
    undeafen(&stage);
    assert_eq!((x.value(), y.value()), (old(), new()));
    assert_eq!((c.value(), c.value()), (new(), new()));
}

#[test]
fn a_read_that_would_hit_is_not_fetched_behind_the_write_that_follows_it() {
    let stage = one_worker("");
    let mut c = [stage.sidecar.conn()];
    for value in ["a", "b", "c"] {
        stage.server.outside("SET k old");
        stage.warm(&mut c, "GET k", &old());
        let replies = c[0].pipeline(&["GET a", "GET k", &format!("SET k {value}"), "GET k"]);
        assert_eq!(replies, [V::Nil, old(), ok(), V::bulk(value)]);
    }
}

#[test]
fn an_mget_that_would_hit_waits_for_its_turn() {
    let stage = one_worker("upstream.connect_timeout = '20s'\nupstream.command_timeout = '60s'");
    let mut client = stage.sidecar.conn();
    (0..4).for_each(|_| assert_eq!(client.line("MGET k"), V::Array(vec![old()])));
    assert!(stage.server.calls("mget") < 4, "it is kept");
    deafen(&stage);
    send(&mut client, &["GET missing", "MGET k"]);
    executed(&stage, "get", 1);
    undeafen(&stage);
    assert_eq!((client.value(), client.value()), (V::Nil, V::Array(vec![old()])));
}

#[test]
fn a_parked_read_that_lost_its_entry_takes_the_later_reads_with_it() {
    let stage = one_worker("");
    let mut c = [stage.sidecar.conn()];
    stage.warm(&mut c, "GET k", &old());
    stage.server.reset_calls();
    deafen(&stage);
    stage.server.outside("SET k 1");
    send(&mut c[0], &["GET a", "GET k", "GET j"]);
    executed(&stage, "get", 2);
    // j first: who sees k at 2 must see j new.
    stage.server.conn().pipeline(&["SET j new", "SET k 2"]);
    undeafen(&stage);
    assert_eq!((c[0].value(), c[0].value(), c[0].value()), (V::Nil, V::bulk("2"), new()));
}

#[test]
fn a_parked_read_fetched_because_of_a_write_takes_the_later_reads_with_it() {
    let stage = one_worker("");
    let mut c = [stage.sidecar.conn()];
    stage.warm(&mut c, "GET k", &old());
    stage.server.reset_calls();
    deafen(&stage);
    send(&mut c[0], &["GET a", "GET k", "GET j"]);
    executed(&stage, "get", 2);
    stage.server.conn().pipeline(&["SET j new", "SET k 2"]);
    send(&mut c[0], &["SET other 1"]);
    executed(&stage, "set", 3);
    undeafen(&stage);
    let replies: Vec<V> = (0..4).map(|_| c[0].value()).collect();
    assert_eq!(replies, [V::Nil, V::bulk("2"), new(), ok()]);
}

#[test]
fn nothing_inside_multi_changes_the_lane_for_others() {
    let stage = one_worker("");
    let mut other = [stage.sidecar.conn()];
    let acts = [
        "SELECT 1",
        "AUTH app secret",
        "HELLO 2",
        "CLIENT TRACKING OFF",
        "CLIENT REPLY OFF",
        "SUBSCRIBE ch",
        "PSUBSCRIBE *",
        "MONITOR",
        "RESET",
        "QUIT",
        "DISCARD x",
        "WATCH k",
        "MULTI",
        "UNWATCH",
        "EXEC x",
        "CLIENT CACHING NO",
        "CLIENT SETNAME x",
        "BLPOP q 1",
    ];
    for (i, act) in acts.iter().enumerate() {
        for one_write in [true, false] {
            let mut client = stage.sidecar.conn();
            if one_write {
                send(&mut client, &["MULTI", act, "EXEC", "PING"]);
                client.value();
            } else {
                assert_eq!(client.line("MULTI"), ok());
                send(&mut client, &[act]);
                // Silence is CLIENT REPLY OFF's answer outside MULTI only; the end is QUIT's.
                let _ = client.try_read_frame();
            }
            let value = V::bulk(format!("{i}{one_write}"));
            stage.server.outside(&format!("SET k {}", value.text()));
            eventually(&format!("k is tracked after {act}"), || other[0].line("GET k") == value);
            stage.warm(&mut other, "GET k", &value);
        }
    }
    assert_eq!(stage.sidecar.metric("sidecache_lane_losses_total"), 0.0);
}

#[test]
fn a_read_whose_caching_failed_is_not_kept() {
    for refusal in ["-BUSY Redis is busy running a script.\r\n", "-NOPERM no permission\r\n"] {
        let upstream = Scripted::start(move |turn| {
            turn.answer("CLIENT CACHING", refusal);
            while let Some(command) = turn.next() {
                turn.reply(if command[0] == "GET" { "$1\r\nv\r\n" } else { "-ERR unknown command\r\n" });
            }
        });
        let sidecar = Sidecar::start(&upstream, "");
        let mut client = sidecar.conn();
        for times in 1..6 {
            assert_eq!(client.line("GET k"), V::bulk("v"));
            assert_eq!(upstream.received("GET k"), times, "{refusal}");
        }
        assert!(upstream.received("CLIENT CACHING YES") > 0);
    }
}

#[test]
fn wait_counts_the_replicas_that_have_this_client_s_writes() {
    for kind in [Kind::Redis, Kind::Valkey] {
        let stage = Stage::new(kind, 1, "");
        stage.server.outside("CONFIG SET repl-diskless-sync-delay 0");
        let replica = Server::with(kind, &["--replicaof", "127.0.0.1", &stage.server.port().to_string()]);
        eventually("the replica follows", || {
            let state = stage.server.info("replication");
            state.get("slave0").is_some_and(|replica| replica.contains("state=online"))
        });
        let mut client = stage.sidecar.conn();
        client.line("SET k 1");
        assert_eq!(client.line("WAIT 1 5000"), V::Int(1));
        replica.stop();
        client.line("SET k 2");
        assert_eq!(client.line("WAIT 1 50"), V::Int(0), "{kind:?}");
        replica.cont();
    }
}

#[test]
fn what_must_overtake_what_it_acts_on_does() {
    let stage = one_worker("");
    let (mut a, mut b) = (stage.sidecar.conn(), stage.sidecar.conn());
    stage.server.outside("CONFIG SET busy-reply-threshold 50");
    a.send(&["EVAL", "while true do end", "0"]);
    let mut direct = stage.server.conn();
    eventually("the script runs", || matches!(direct.line("PING"), V::Error(busy) if busy.starts_with("BUSY")));
    assert_eq!(b.line("SCRIPT KILL"), ok());
    assert!(matches!(a.value(), V::Error(killed) if killed.contains("killed")));

    assert_eq!(b.line("CLIENT PAUSE 60000 WRITE"), ok());
    a.send(&["SET", "k", "1"]);
    eventually("the write waits", || stage.server.info("clients")["blocked_clients"] == "1");
    assert_eq!(b.line("CLIENT UNPAUSE"), ok());
    assert_eq!(a.value(), ok());
}

#[test]
fn a_read_in_the_next_database_waits_for_the_move_to_it() {
    let stage = one_worker("");
    stage.client_in(1).line("GET warm");
    for value in ["a", "b"] {
        stage.server.outside(&format!("SET moved {value}"));
        for lane in stage.lanes().iter().filter(|lane| !lane.said(Dir::ToServer, "SELECT")) {
            lane.delay(Dir::ToServer, Duration::from_millis(60));
        }
        let replies = stage.sidecar.conn().pipeline(&["MOVE moved 1", "SELECT 1", "GET moved", "DEL moved"]);
        assert_eq!(replies, [V::Int(1), ok(), V::bulk(value), V::Int(1)]);
    }
}

#[test]
fn a_read_lost_with_the_lane_never_sees_the_write_behind_it() {
    let stage = one_worker("");
    stage.sidecar.allow_log("lane lost");
    let mut client = stage.sidecar.conn();
    deafen(&stage);
    send(&mut client, &["GET lock", "SET lock me"]);
    executed(&stage, "set", 1);
    stage.lanes().iter().for_each(|lane| lane.cut());
    assert!(matches!(client.value(), V::Error(_) | V::Nil));
    assert!(matches!(client.value(), V::Error(_)), "a write that may have been executed is not sent twice");
    assert_eq!(stage.server.calls("set"), 1);
    eventually("it is seen", || client.line("GET lock") == V::bulk("me"));
}

#[test]
fn consumers_that_wait_do_not_starve_their_producer() {
    let stage = one_worker("upstream.pool.max = 1\nupstream.waiting_pool.max = 2");
    let mut consumers = [stage.sidecar.conn(), stage.sidecar.conn()];
    consumers.iter_mut().for_each(|consumer| consumer.send(&["BLPOP", "queue", "0"]));
    eventually("both wait", || stage.server.info("clients")["blocked_clients"] == "2");
    let mut producer = stage.sidecar.conn();
    for line in ["MULTI", "RPUSH queue 1 2", "EXEC"] {
        assert!(!matches!(producer.line(line), V::Error(_)), "{line}");
    }
    for consumer in &mut consumers {
        assert_eq!(consumer.value().items()[0], V::bulk("queue"));
    }
}

#[test]
fn a_right_taken_away_from_inside_is_gone_at_once_and_from_outside_within_max_age() {
    let stage = one_worker("cache.max_age = '300ms'");
    let denied = |reply: &V| matches!(reply, V::Error(line) if line.starts_with("NOPERM"));
    let mut reader = [stage.sidecar.conn()];
    assert_eq!(reader[0].line("AUTH app secret"), ok());
    let mut admin = stage.sidecar.conn();
    for _ in 0..3 {
        stage.warm(&mut reader, "GET k", &old());
        assert_eq!(admin.line("ACL SETUSER app -get"), ok());
        assert!(denied(&reader[0].line("GET k")));
        assert_eq!(admin.line("ACL SETUSER app +get"), ok());
        // Queued in a transaction it acts at EXEC.
        assert_eq!(admin.line("MULTI"), ok());
        assert_eq!(admin.line("ACL SETUSER app -get"), V::Simple("QUEUED".into()));
        stage.warm(&mut reader, "GET k", &old());
        admin.line("EXEC");
        assert!(denied(&reader[0].line("GET k")));
        assert_eq!(admin.line("ACL SETUSER app +get"), ok());
    }
    stage.warm(&mut reader, "GET k", &old());
    stage.server.outside("ACL SETUSER app -get");
    let taken = Instant::now();
    eventually("the entry has aged", || {
        let sent = Instant::now();
        let reply = reader[0].line("GET k");
        // The age and its jitter of a tenth; what was sent later can be no hit.
        assert!(denied(&reply) || sent <= taken + Duration::from_millis(330), "{:?} late", sent - taken);
        denied(&reply)
    });
}

#[test]
fn a_read_that_is_denied_ends_the_hits_that_rest_on_the_same_right() {
    let stage = one_worker("upstream.connect_timeout = '20s'");
    let mut reader = [stage.readers().pop().unwrap()];
    stage.warm(&mut reader, "GET k", &old());
    stage.server.outside("ACL SETUSER app -get");
    let denied = |reply: V| matches!(reply, V::Error(line) if line.starts_with("NOPERM"));
    assert!(denied(reader[0].line("GET other")));
    assert!(denied(reader[0].line("GET k")));
}

#[test]
fn keys_hot_only_here_stay_warm_upstream() {
    let stage = one_worker("cache.max_age = '100ms'");
    let mut reader = [stage.sidecar.conn()];
    stage.warm(&mut reader, "GET k", &old());
    stage.server.reset_calls();
    let before = stage.hits();
    eventually("upstream is asked again and again, and hits are served", || {
        assert_eq!(reader[0].line("GET k"), old());
        stage.server.calls("get") >= 3 && stage.hits() - before > 3.0
    });
}

#[test]
fn select_of_a_database_that_is_not_there_is_answered_by_upstream() {
    let stage = one_worker("");
    let (mut client, mut direct) = (stage.sidecar.conn(), stage.server.conn());
    for line in ["SELECT 99", "SELECT -1", "SELECT x", "SELECT"] {
        assert_eq!(client.line(line), direct.line(line), "{line}");
        assert_eq!(client.line("GET k"), old());
    }
    assert_eq!(client.pipeline(&["SELECT 99", "GET k"]), [direct.line("SELECT 99"), old()]);
}
