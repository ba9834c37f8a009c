//! The harness's sidecar: it starts, is asked, and ends.

use crate::support::{Conn, Scripted, Server, Sidecar, V, eventually};

#[test]
fn a_sidecar_answers_by_tcp_and_by_its_unix_socket_and_ends_when_told() {
    let server = Server::redis();
    let mut sidecar = Sidecar::start(&server, "threads = 2");
    assert_eq!(sidecar.conn().line("SET k 1"), V::Simple("OK".into()));
    assert_eq!(Conn::open(sidecar.socket()).line("GET k"), V::bulk("1"));
    assert!(sidecar.terminate().success());
}

#[test]
fn a_sidecar_s_metrics_count_what_was_sent() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let before = sidecar.metric_sum("sidecache_commands_total");
    sidecar.conn().pipeline(&["SET k 1", "GET k"]);
    assert!(sidecar.metric_sum("sidecache_commands_total") >= before + 2.0);
    assert!(sidecar.metric("sidecache_commands_total{class=\"write\",outcome=\"forwarded\"}") >= 1.0);
    assert_eq!(sidecar.http("/livez").0, 200);
}

#[test]
fn a_sidecar_starts_while_upstream_is_down() {
    let server = Server::redis();
    server.kill();
    let sidecar = Sidecar::start_alone(&server, "");
    sidecar.allow_log("");
    server.restart();
    eventually("upstream is reached", || sidecar.conn().call(&["PING"]) == b"+PONG\r\n");
}

#[test]
fn a_sidecar_stands_in_front_of_a_scripted_upstream() {
    let upstream = Scripted::replies(&[("SET k 1", "+FINE\r\n")]);
    let sidecar = Sidecar::start(&upstream, "");
    assert_eq!(sidecar.conn().line("SET k 1"), V::Simple("FINE".into()));
    assert_eq!(upstream.received("SET k 1"), 1);
}
