//! Fences, one by one: on which lanes, behind what, and what becomes of those that are not answered.
//!
//! What clients see of all of them together is in `news` and `coherence`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::coherence::stage::Stage;
use crate::support::wait::{holds_within, pass};
use crate::support::{Dir, Kind, Scripted, Sidecar, V, eventually};

/// A lease that outlasts the test, and time to connect that no busy machine uses up.
const LEASED: &str = "cache.max_staleness = '1m'\nupstream.connect_timeout = '20s'";

#[test]
fn news_waits_for_a_fetch_that_may_be_older() {
    let stage = Stage::new(Kind::Redis, 1, LEASED);
    stage.server.outside("SET k old");
    // Nothing is kept for this user; there is a fetch in the air and no more.
    let mut readers = [stage.readers().pop().unwrap(), stage.readers().pop().unwrap()];
    let mut hearer = stage.client_in(2);
    let slow: Vec<_> = stage.lanes().into_iter().filter(|lane| lane.said(Dir::ToServer, "secret")).collect();
    slow.iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::from_millis(500)));
    stage.server.reset_calls();
    readers[0].send(&["GET", "k"]);
    eventually("it is executed", || stage.server.calls("get") == 1);
    stage.server.conn().pipeline(&["SET k new", "SELECT 2", "RPUSH queue x"]);
    assert_eq!(hearer.line("LPOP queue"), V::bulk("x"));
    assert_eq!(readers[1].line("GET k"), V::bulk("new"));
    assert_eq!(readers[0].value(), V::bulk("old"));
}

#[test]
fn news_waits_for_the_lanes_of_other_users_and_databases() {
    for other_database in [false, true] {
        let stage = Stage::new(Kind::Redis, 1, LEASED);
        stage.server.conn().pipeline(&["SET k old", "SELECT 1", "SET k old"]);
        // Nothing is kept where the hearer is.
        let mut reader = [if other_database { stage.client_in(1) } else { stage.readers().pop().unwrap() }];
        let mut hearer = stage.sidecar.conn();
        stage.warm(&mut reader, "GET k", &V::bulk("old"));
        let slow: Vec<_> = stage.lanes().into_iter().filter(|lane| lane.said(Dir::ToServer, "CACHING")).collect();
        slow.iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::from_millis(500)));
        stage.server.conn().pipeline(&["SELECT 1", "SET k new", "SELECT 0", "SET k new", "RPUSH queue x"]);
        assert_eq!(hearer.line("LPOP queue"), V::bulk("x"));
        assert_eq!(reader[0].line("GET k"), V::bulk("new"));
    }
}

#[test]
fn news_waits_for_the_lanes_of_other_workers() {
    let stage = Stage::new(Kind::Redis, 2, LEASED);
    eventually("the harness's own client has left", || stage.sidecar.metric("sidecache_clients") == 0.0);
    stage.server.outside("SET k old");
    // One on each worker; nothing is kept where the hearer is.
    let (mut reader, mut hearer) = ([stage.sidecar.conn()], stage.sidecar.conn());
    assert_eq!(hearer.line("EXISTS queue"), V::Int(0));
    stage.warm(&mut reader, "GET k", &V::bulk("old"));
    let slow: Vec<_> = stage.lanes().into_iter().filter(|lane| lane.said(Dir::ToServer, "CACHING")).collect();
    slow.iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::from_millis(500)));
    stage.server.conn().pipeline(&["SET k new", "RPUSH queue x"]);
    assert_eq!(hearer.line("LPOP queue"), V::bulk("x"));
    assert_eq!(reader[0].line("GET k"), V::bulk("new"));
}

#[test]
fn a_script_s_status_on_a_connection_of_its_own_waits_too() {
    let stage = Stage::new(Kind::Redis, 1, LEASED);
    stage.server.outside("SET k old");
    let (mut reader, mut writer) = ([stage.sidecar.conn()], stage.sidecar.conn());
    stage.warm(&mut reader, "GET k", &V::bulk("old"));
    assert_eq!(writer.line("WATCH other"), V::Simple("OK".into()));
    stage.lanes().iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::from_millis(500)));
    assert_eq!(writer.ask(&["EVAL", "return redis.call('set', 'k', 'new')", "0"]), V::Simple("OK".into()));
    assert_eq!(reader[0].line("GET k"), V::bulk("new"));
}

/// Waits until the flag is set, within the patience of the sidecar's own commands.
fn waits_for(flag: &AtomicBool) -> bool {
    holds_within(Duration::from_secs(60), || flag.load(Ordering::SeqCst))
}

#[test]
fn news_does_not_pass_with_a_fence_sent_before_it() {
    let release = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&release);
    let upstream = Scripted::start(move |turn| {
        turn.take("PING");
        let (mut keeps, mut fences) = (false, 0);
        while let Some(command) = turn.next() {
            keeps |= command[0] == "GET";
            match command[0].as_str() {
                "GET" => turn.reply("$1\r\nv\r\n"),
                "LPOP" => turn.reply("$1\r\nx\r\n"),
                "PING" => {
                    fences += usize::from(keeps);
                    if fences == 1 {
                        waits_for(&released);
                    } else if fences == 2 {
                        turn.invalidate(&["k"]);
                    }
                    turn.reply("+PONG\r\n");
                }
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, &format!("upstream.command_timeout = '60s'\n{LEASED}"));
    let mut reader = sidecar.conn();
    let mut hearers = [sidecar.conn(), sidecar.conn()];
    hearers.iter_mut().for_each(|hearer| assert_eq!(hearer.line("SELECT 1"), V::Simple("OK".into())));
    (0..4).for_each(|_| assert_eq!(reader.line("GET k"), V::bulk("v")));
    let before = upstream.received("GET k");
    assert!(before < 4, "it is kept");
    for (held, hearer) in (1..).zip(&mut hearers) {
        hearer.send(&["LPOP", "queue"]);
        eventually("it is held", || sidecar.metric("sidecache_held_replies") == f64::from(held));
    }
    release.store(true, Ordering::SeqCst);
    hearers.iter_mut().for_each(|hearer| assert_eq!(hearer.value(), V::bulk("x")));
    assert_eq!(reader.line("GET k"), V::bulk("v"));
    assert_eq!(upstream.received("GET k"), before + 1);
}

#[test]
fn a_script_s_reply_waits_for_the_invalidations_behind_it() {
    let release = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&release);
    let upstream = Scripted::start(move |turn| {
        turn.take("PING");
        let mut behind = false;
        while let Some(command) = turn.next() {
            match command[0].as_str() {
                "GET" => turn.reply("$1\r\nv\r\n"),
                "EVAL" => {
                    turn.reply(":1\r\n");
                    behind = true;
                }
                "PING" => {
                    if std::mem::take(&mut behind) && waits_for(&released) {
                        turn.invalidate(&["k"]);
                    }
                    turn.reply("+PONG\r\n");
                }
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, &format!("upstream.command_timeout = '60s'\n{LEASED}"));
    let (mut client, mut reader) = (sidecar.conn(), sidecar.conn());
    (0..4).for_each(|_| assert_eq!(reader.line("GET k"), V::bulk("v")));
    let before = upstream.received("GET k");
    assert!(before < 4, "it is kept");
    client.send(&["EVAL", "return redis.call('set', 'k', 'v')", "0"]);
    client.nothing_for(Duration::from_millis(300));
    release.store(true, Ordering::SeqCst);
    assert_eq!(client.value(), V::Int(1));
    assert_eq!(reader.line("GET k"), V::bulk("v"));
    assert_eq!(upstream.received("GET k"), before + 1);
}

#[test]
fn a_lane_that_does_not_answer_its_fence_in_time_serves_nothing_of_before() {
    let (deaf, release) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (is_deaf, released) = (Arc::clone(&deaf), Arc::clone(&release));
    let upstream = Scripted::start(move |turn| {
        turn.take("PING");
        let mut keeps = false;
        while let Some(command) = turn.next() {
            keeps |= command[0] == "GET";
            match command[0].as_str() {
                "GET" => turn.reply("$1\r\nv\r\n"),
                "LPOP" => turn.reply("$1\r\nx\r\n"),
                "PING" => {
                    // Not silent, only late: pushes arrive.
                    while keeps && is_deaf.load(Ordering::SeqCst) && !released.load(Ordering::SeqCst) {
                        turn.invalidate(&["other"]);
                        pass(Duration::from_millis(20));
                    }
                    turn.reply("+PONG\r\n");
                }
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, &format!("upstream.command_timeout = '4s'\n{LEASED}"));
    let (mut reader, mut hearer) = (sidecar.conn(), sidecar.conn());
    assert_eq!(hearer.line("SELECT 1"), V::Simple("OK".into()));
    (0..4).for_each(|_| assert_eq!(reader.line("GET k"), V::bulk("v")));
    let before = upstream.received("GET k");
    assert!(before < 4, "it is kept");
    deaf.store(true, Ordering::SeqCst);
    assert_eq!(hearer.line("LPOP queue"), V::bulk("x"));
    reader.send(&["GET", "k"]);
    release.store(true, Ordering::SeqCst);
    assert_eq!(reader.value(), V::bulk("v"));
    assert_eq!(upstream.received("GET k"), before + 1);
}
