//! How a sidecar ends: what is under way is finished within the limit, and nobody is left hanging.

use std::os::unix::process::ExitStatusExt;

use crate::support::resp::{encode, words};
use crate::support::{Conn, Server, Sidecar, V, eventually};

/// Runs for so many milliseconds at the server, then returns "done".
fn slow(ms: u64) -> [String; 3] {
    let script = format!(
        "local t=redis.call('time') local e=t[1]*1000000+t[2]+{ms}000 \
         repeat t=redis.call('time') until t[1]*1000000+t[2]>e redis.call('incr','n') return 'done'"
    );
    ["EVAL".into(), script, "0".into()]
}

#[test]
fn commands_under_way_are_finished_and_the_process_ends_well() {
    let server = Server::redis();
    let mut sidecar = Sidecar::start(&server, "client.drain_timeout = '9s'");
    let mut conns: Vec<Conn> = (0..5).map(|_| sidecar.conn()).collect();
    let mut idle = sidecar.conn();
    assert_eq!(idle.line("GET k"), V::Nil);
    for conn in &mut conns {
        conn.send_raw(&[encode(&slow(100)), encode(&words("INCR n")), encode(&words("GET k"))].concat());
    }
    // And one on a connection of its own: a transaction spoken line by line.
    let mut speaker = sidecar.conn();
    assert_eq!(speaker.line("MULTI"), V::Simple("OK".into()));
    speaker.send(&slow(100));
    let scripts = r#"sidecache_commands_total{class="script",outcome="forwarded"}"#;
    eventually("all is under way", || sidecar.metric(scripts) == 6.0);
    speaker.send(&["EXEC"]);
    let execs = r#"sidecache_commands_total{class="transaction",outcome="forwarded"}"#;
    eventually("EXEC has been sent", || sidecar.metric(execs) == 2.0);
    sidecar.begin_end();
    // It may have ended by now.
    eventually("it is not ready any more", || sidecar.try_http("/readyz").is_none_or(|(status, _)| status == 503));
    for conn in &mut conns {
        assert_eq!(conn.value(), V::bulk("done"));
        assert!(matches!(conn.value(), V::Int(_)));
        assert_eq!(conn.value(), V::Nil);
        conn.expect_closed();
    }
    assert_eq!(speaker.value(), V::Simple("QUEUED".into()));
    assert_eq!(speaker.value(), V::Array(vec![V::bulk("done")]));
    idle.expect_closed();
    assert!(sidecar.wait_end().success());
    assert_eq!(server.outside("GET n"), V::bulk("11"));
}

#[test]
fn blocked_and_subscribed_clients_are_let_go_at_once() {
    let server = Server::redis();
    // Beyond all patience: who is let go in time has not been waited for.
    let mut sidecar = Sidecar::start(&server, "client.drain_timeout = '1m'");
    let mut conns: Vec<Conn> = (0..6).map(|_| sidecar.conn()).collect();
    for (conn, line) in
        conns.iter_mut().zip(["BLPOP l 0", "SUBSCRIBE ch", "XREAD BLOCK 0 STREAMS s $", "WATCH k", "MULTI", "MONITOR"])
    {
        conn.send(&words(line));
    }
    for conn in &mut conns[3..] {
        assert_eq!(conn.value(), V::Simple("OK".into()));
    }
    assert!(matches!(conns[1].value(), V::Array(_)));
    eventually("two are blocked", || server.info("clients")["blocked_clients"] == "2");
    sidecar.begin_end();
    for conn in &mut conns[..5] {
        conn.expect_closed();
    }
    assert!(sidecar.wait_end().success());
    // What they had checked out is closed, not left to block for ever.
    eventually("nobody is blocked", || server.info("clients")["blocked_clients"] == "0");
    assert_eq!(server.outside("LPUSH l x"), V::Int(1));
}

#[test]
fn what_takes_longer_than_the_limit_is_cut_and_the_process_still_ends_well() {
    let server = Server::redis();
    let mut sidecar = Sidecar::start(&server, "client.drain_timeout = '300ms'\nupstream.command_timeout = '1m'");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("GET k"), V::Nil);
    server.stop();
    conn.send(&["INCR", "n"]);
    eventually("it is under way", || sidecar.metric("sidecache_lane_fifo_commands") > 0.0);
    assert!(sidecar.terminate().success());
    conn.expect_closed();
    server.cont();
}

#[test]
fn a_second_signal_ends_the_drain() {
    let server = Server::redis();
    let mut sidecar = Sidecar::start(&server, "client.drain_timeout = '1m'\nupstream.command_timeout = '1m'");
    sidecar.allow_log("drain cut short");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("GET k"), V::Nil);
    server.stop();
    conn.send(&["INCR", "n"]);
    eventually("it is under way", || sidecar.metric("sidecache_lane_fifo_commands") > 0.0);
    sidecar.begin_end();
    eventually("it drains", || sidecar.logs().iter().any(|line| line.contains("draining")));
    let status = sidecar.terminate();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    server.cont();
}
