//! Whoever leaves, at whatever moment, leaves nothing behind.

use super::{descriptors, rss};
use crate::support::resp::{encode, words};
use crate::support::{Kind, Server, Sidecar, V, eventually};

/// The sidecar's connections, as upstream sees them.
fn connections(server: &Server) -> usize {
    server.outside("CLIENT LIST").text().lines().filter(|line| line.contains("name=sidecache")).count()
}

/// What clients were doing when they left.
const LEAVING: [&[&str]; 8] = [
    &["GET k", "SET k 1", "GET k", "INCR n"],
    &["MULTI", "SET k 1"],
    &["WATCH k", "GET k"],
    &["BLPOP nothing 0"],
    &["SUBSCRIBE ch", "PSUBSCRIBE p*"],
    &["SELECT 3", "GET k"],
    &["MULTI", "INCR n", "EXEC", "EVAL return(1) 0"],
    &["HELLO 3", "CLIENT TRACKING ON"],
];

#[test]
fn two_thousand_clients_that_leave_in_the_middle_of_something_leave_nothing_behind() {
    let server = Server::redis();
    let sidecar =
        Sidecar::start(&server, "upstream.waiting_pool.idle_timeout = '2s'\nupstream.pool.idle_timeout = '2s'");
    let leave = |rounds: usize| {
        for round in 0..rounds {
            let conns: Vec<_> = LEAVING
                .iter()
                .map(|lines| {
                    let mut conn = sidecar.conn();
                    conn.send_raw(&lines.iter().flat_map(|line| encode(&words(line))).collect::<Vec<u8>>());
                    // Half a command stands in the buffer, too.
                    conn.send_raw(b"*2\r\n$3\r\nGET\r\n$100\r\nabc");
                    if round % 2 == 0 && !lines[0].starts_with("BLPOP") {
                        conn.read_frame();
                    }
                    conn
                })
                .collect::<Vec<_>>();
            drop(conns);
        }
    };
    let none = || sidecar.metric("sidecache_clients") == 0.0;
    let in_use = || sidecar.metric_sum("sidecache_pool_in_use");
    leave_at_blocked(&sidecar);
    leave(20);
    eventually("all have left", || none() && in_use() == 0.0);
    let (memory, files, upstream) = (rss(&sidecar), descriptors(&sidecar), connections(&server));
    leave(230);
    eventually("all have left again", || none() && in_use() == 0.0);
    eventually("sockets are closed", || descriptors(&sidecar) <= files + 12 && connections(&server) <= upstream + 12);
    let blocked = || server.info("clients")["blocked_clients"] == "0";
    eventually("nobody is blocked or subscribed", || {
        blocked() && server.outside("PUBSUB NUMSUB ch") == V::Array(vec![V::bulk("ch"), V::Int(0)])
    });
    let grown = rss(&sidecar).saturating_sub(memory);
    println!("grown by {} KiB over 1,840 clients", grown / 1024);
    assert!(grown < 6 << 20, "grown by {grown} bytes");
    for gauge in
        ["sidecache_lane_fifo_commands", "sidecache_parked_reads", "sidecache_held_replies", "sidecache_flights"]
    {
        eventually(gauge, || sidecar.metric(gauge) == 0.0);
    }
}

/// One client that is certainly blocked, and gone.
fn leave_at_blocked(sidecar: &Sidecar) {
    let mut conn = sidecar.conn();
    conn.send(&["BLPOP", "nothing", "0"]);
    let in_use = r#"sidecache_pool_in_use{pool="waiting"}"#;
    eventually("it is blocked", || sidecar.metric(in_use) == 1.0);
}

#[test]
fn wrong_users_databases_and_names_fill_no_memory() {
    let server = Server::with(Kind::Redis, &["--requirepass", "secret"]);
    let sidecar = Sidecar::start(&server, "upstream.password = 'secret'");
    let mut conn = sidecar.conn();
    let mut wrong = |from: usize, to: usize| {
        for n in from..to {
            let text = conn.line(&format!("AUTH user-{n} password-{n}")).text();
            assert!(text.starts_with("WRONGPASS"), "{text}");
            assert!(conn.line(&format!("SELECT {}", 1000 + n)).text().contains("DB index is out of range"));
            assert!(conn.line(&format!("NOSUCH-{n} a b")).text().contains("unknown command"));
        }
    };
    wrong(0, 100);
    let (memory, files) = (rss(&sidecar), descriptors(&sidecar));
    wrong(100, 1100);
    let grown = rss(&sidecar).saturating_sub(memory);
    println!("grown by {} KiB over 1,000 wrong users, databases and names", grown / 1024);
    assert!(grown < 3 << 20, "grown by {grown} bytes");
    eventually("lanes are gone", || sidecar.metric_sum("sidecache_lanes") <= 2.0);
    eventually("sockets are closed", || descriptors(&sidecar) <= files + 8 && connections(&server) <= 6);
    assert_eq!(conn.line("GET k"), V::Nil, "it stays who it was");
}

#[test]
fn a_client_that_has_left_is_forgotten_though_upstream_owes_it_replies() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.command_timeout = '1m'");
    server.stop();
    let files = descriptors(&sidecar);
    for _ in 0..100 {
        let mut conn = sidecar.conn();
        conn.send_raw(&encode(&words("INCR n")).repeat(10));
    }
    let fifo = "sidecache_lane_fifo_commands";
    eventually("all is on its way", || sidecar.metric(fifo) >= 1000.0);
    server.cont();
    eventually("all is answered", || sidecar.metric(fifo) == 0.0 && sidecar.metric("sidecache_clients") == 0.0);
    eventually("sockets are closed", || descriptors(&sidecar) <= files + 2);
    assert_eq!(server.outside("GET n"), V::bulk("1000"));
}

#[test]
fn of_lanes_that_nobody_rides_any_more_a_few_are_kept() {
    let server = Server::redis();
    for n in 0..40 {
        server.outside(&format!("ACL SETUSER user-{n} on >secret ~* &* +@all"));
        server.outside(&format!("ACL SETUSER app on >password-{n} ~* &* +@all"));
    }
    let sidecar = Sidecar::start(&server, "");
    // The main one, those kept for who comes next, and the rider's.
    let few = |riders: usize| {
        let bound = 1 + 16 + riders;
        eventually("lanes are few", || sidecar.metric_sum("sidecache_lanes") <= bound as f64);
        // Beside them a dedicated connection of each user that a lane is left of.
        eventually("connections are few", || connections(&server) <= 2 * bound);
    };
    let mut one = sidecar.conn();
    for n in 0..40 {
        for line in [format!("AUTH app password-{n}"), format!("AUTH user-{n} secret")] {
            assert_eq!(one.line(&line), V::Simple("OK".into()));
            assert_eq!(one.line("WATCH k"), V::Simple("OK".into()));
            assert_eq!(one.line("GET k"), V::Nil);
            assert_eq!(one.line("UNWATCH"), V::Simple("OK".into()));
        }
    }
    few(1);
    let mut many: Vec<_> = (0..40).map(|_| sidecar.conn()).collect();
    for (n, conn) in many.iter_mut().enumerate() {
        assert_eq!(conn.line(&format!("AUTH user-{n} secret")), V::Simple("OK".into()));
        assert_eq!(conn.line("SELECT 1"), V::Simple("OK".into()));
        assert_eq!(conn.line("GET k"), V::Nil);
    }
    drop(many);
    few(1);
    // Whose lane has gone gets another.
    assert_eq!(one.pipeline(&["AUTH user-0 secret", "GET k"]), [V::Simple("OK".into()), V::Nil]);
}
