//! Several workers behind one port.

use crate::support::{Conn, Server, Sidecar, V, eventually};

#[test]
fn clients_are_spread_over_the_workers_and_listed_and_killed_across_them() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "threads = 4");
    eventually("each worker has its lane", || sidecar.metric(r#"sidecache_lanes{state="tracking"}"#) == 4.0);
    eventually("the harness's own client has left", || sidecar.metric("sidecache_clients") == 0.0);
    let mut conns: Vec<Conn> = (0..8).map(|_| sidecar.conn()).collect();
    for (n, conn) in conns.iter_mut().enumerate() {
        assert_eq!(conn.line(&format!("CLIENT SETNAME client-{n}")), V::Simple("OK".into()));
        assert_eq!(conn.line(&format!("APPEND k{n} x")), V::Int(1));
    }
    let lanes = server.outside("CLIENT LIST").text();
    let busy = lanes.lines().filter(|line| line.contains("name=sidecache") && line.contains("cmd=append"));
    assert_eq!(busy.count(), 4, "{lanes}");
    let listed = conns[0].line("CLIENT LIST").text();
    for n in 0..8 {
        assert!(listed.contains(&format!("name=client-{n} ")), "{listed}");
    }
    for n in 1..8 {
        let id = conns[n].line("CLIENT ID").int();
        let killed = conns[0].line(&format!("CLIENT KILL ID {id}"));
        assert_eq!(killed, V::Int(1));
        conns[n].expect_closed();
    }
    eventually("they have left", || conns[0].line("CLIENT LIST").text().lines().count() == 1);
    assert_eq!(conns[0].line("GET k0"), V::bulk("x"));
}

#[test]
fn a_write_by_one_workers_client_is_seen_by_all_others_at_once() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "threads = 4");
    let mut conns: Vec<Conn> = (0..4).map(|_| sidecar.conn()).collect();
    for n in 0..300 {
        let writer = n % 4;
        let line =
            if n % 3 == 0 { format!("EVAL return(redis.call('set','k','{n}')) 0") } else { format!("SET k {n}") };
        assert_eq!(conns[writer].line(&line), V::Simple("OK".into()));
        for conn in &mut conns {
            assert_eq!(conn.pipeline(&["GET k", "GET k"]), [V::bulk(n.to_string()), V::bulk(n.to_string())]);
            assert_eq!(conn.line("GET k"), V::bulk(n.to_string()));
        }
    }
    assert!(sidecar.metric(r#"sidecache_commands_total{class="read",outcome="hit"}"#) > 0.0);
}

#[test]
fn workers_survive_a_lost_upstream_together() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "threads = 3\nupstream.backoff_max = '100ms'");
    crate::faults::allow_loss(&sidecar);
    let mut conns: Vec<Conn> = (0..6).map(|_| sidecar.conn()).collect();
    server.restart();
    for conn in &mut conns {
        eventually("it is back", || conn.line("SET k 1") == V::Simple("OK".into()));
    }
    eventually("it is ready", || sidecar.http("/readyz").0 == 200);
}
