//! P8: a command that may have been executed is never sent twice, what was never written survives, groups go
//! whole or not at all, and a late reply finds its own place empty and no other's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::{IMPATIENT, allow_loss};
use crate::support::link::Dir;
use crate::support::resp::{encode, words};
use crate::support::{Link, Scripted, Server, Sidecar, V, eventually};

#[test]
fn a_write_whose_connection_dies_before_its_reply_is_not_sent_again() {
    let upstream = Scripted::start(|turn| {
        while let Some(command) = turn.next() {
            if command[0] == "INCR" {
                return;
            }
            turn.reply("+OK\r\n");
        }
    });
    let sidecar = Sidecar::start(&upstream, "");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    let text = conn.line("INCR k").text();
    assert!(text.contains("was lost") && text.contains("may have been executed"), "{text}");
    assert_eq!(conn.line("SET k 1"), V::Simple("OK".into()));
    assert_eq!(upstream.received("INCR k"), 1);
}

#[test]
fn commands_sent_while_upstream_is_away_are_executed_once_it_is_back_each_once_and_in_order() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.connect_timeout = '9s'\nupstream.command_timeout = '9s'");
    allow_loss(&sidecar);
    server.kill();
    eventually("the loss is seen", || sidecar.metric("sidecache_lane_losses_total") == 1.0);
    let mut conns: Vec<_> = (0..5).map(|_| sidecar.conn()).collect();
    for conn in &mut conns {
        let lines =
            ["RPUSH l 1", "INCR n", "MULTI", "INCR n", "EXEC", "EVAL return(redis.call('incr','n')) 0", "GET n"];
        conn.send_raw(&lines.iter().flat_map(|line| encode(&words(line))).collect::<Vec<u8>>());
    }
    eventually("all is queued", || sidecar.metric("sidecache_lane_fifo_commands") >= 35.0);
    server.restart();
    for conn in &mut conns {
        let replies: Vec<V> = (0..7).map(|_| conn.value()).collect();
        assert!(!replies.iter().any(|reply| matches!(reply, V::Error(_))), "{replies:?}");
        let (first, last) = (replies[1].int(), replies[6].text().parse::<i64>().unwrap());
        assert!(first < last, "{replies:?}");
    }
    assert_eq!(server.outside("GET n"), V::bulk("15"));
    assert_eq!(server.outside("LLEN l"), V::Int(5));
}

#[test]
fn what_a_client_was_told_to_be_unexecuted_is_not_executed_later() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "upstream.connect_timeout = '300ms'\nupstream.backoff_max = '100ms'");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    link.refuse(true);
    link.cut();
    eventually("the loss is seen", || sidecar.metric("sidecache_lane_losses_total") == 1.0);
    let text = conn.line("INCR k").text();
    assert!(text.contains("not executed"), "{text}");
    link.refuse(false);
    eventually("it is back", || match conn.line("SET other 1") {
        V::Error(text) => {
            assert!(text.contains("not executed"), "{text}");
            false
        }
        reply => {
            assert_eq!(reply, V::Simple("OK".into()));
            true
        }
    });
    assert_eq!(server.outside("EXISTS k"), V::Int(0));
}

#[test]
fn a_group_is_written_whole_or_not_at_all() {
    // What each connection was sent: no EXEC without its MULTI, no PTTL without its CACHING.
    let cut = AtomicBool::new(false);
    let upstream = Scripted::start(move |turn| {
        let mut seen = 0;
        while let Some(command) = turn.next() {
            seen += 1;
            if seen == 200 && !cut.swap(true, Ordering::SeqCst) {
                return;
            }
            let reply = match command[0].as_str() {
                "MULTI" => "+OK\r\n",
                "EXEC" => "*2\r\n:1\r\n:2\r\n",
                "INCR" => "+QUEUED\r\n",
                _ => "$1\r\nv\r\n",
            };
            turn.reply(reply);
        }
    });
    let sidecar = Sidecar::start(&upstream, "");
    allow_loss(&sidecar);
    let padding = "x".repeat(2000);
    let mut conns: Vec<_> = (0..40).map(|_| sidecar.conn()).collect();
    for (n, conn) in conns.iter_mut().enumerate() {
        let lines = ["MULTI".into(), format!("INCR {padding}"), "INCR b".into(), "EXEC".into()];
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..5 {
            lines.iter().for_each(|line| bytes.extend(encode(&words(line))));
            bytes.extend(encode(&words(&format!("GET key:{}", n % 7))));
        }
        conn.send_raw(&bytes);
    }
    for conn in &mut conns {
        (0..25).for_each(|_| drop(conn.value()));
    }
    let commands = upstream.commands();
    for connection in 0..upstream.opened() {
        let sent: Vec<&str> = commands.iter().filter(|(of, _)| *of == connection).map(|(_, c)| &c[0][..]).collect();
        let blocks = sent.iter().filter(|name| ["MULTI", "INCR", "EXEC"].contains(name));
        let blocks: Vec<&str> = blocks.copied().collect();
        for block in blocks.chunks(4) {
            let wanted = ["MULTI", "INCR", "INCR", "EXEC"];
            assert_eq!(block, &wanted[..block.len()], "connection {connection}");
        }
        for (at, name) in sent.iter().enumerate().filter(|(_, name)| **name == "PTTL") {
            assert_eq!(sent.get(at - 1).copied(), Some("CLIENT"), "connection {connection}: {name} at {at}");
        }
    }
    assert!(upstream.opened() >= 2);
}

#[test]
fn late_replies_fall_into_their_own_places_however_many_time_out() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    // Many times what passes between two replies: no busy machine makes the lane silent for so long.
    let sidecar = Sidecar::start(&link, "upstream.command_timeout = '5s'");
    let lane = link.those(|connection| connection.said(Dir::ToServer, "TRACKING")).pop().unwrap();
    let (mut late, mut steady) = (sidecar.conn(), sidecar.conn());
    for n in 0..80 {
        // In the end more than its patience, but the lane makes progress all the time: it is kept.
        lane.delay(Dir::ToClient, Duration::from_millis(70 * n));
        late.send_raw(format!("SET k{n} {n}\r\nGET k{n}\r\nECHO {n}\r\n").as_bytes());
        steady.send_raw(format!("LPUSH l {n}\r\n").as_bytes());
        crate::support::wait::pass(Duration::from_millis(110));
    }
    let timed_out = |reply: &V| matches!(reply, V::Error(text) if text.contains("within command_timeout"));
    let mut count = 0;
    for n in 0..80_i64 {
        for wanted in [V::Simple("OK".into()), V::bulk(n.to_string()), V::bulk(n.to_string())] {
            let reply = late.value();
            count += usize::from(timed_out(&reply));
            assert!(timed_out(&reply) || reply == wanted, "{n}: {reply:?} instead of {wanted:?}");
        }
        let reply = steady.value();
        assert!(timed_out(&reply) || reply == V::Int(n + 1), "{n}: {reply:?}");
    }
    assert!(count > 0, "nothing timed out");
    lane.delay(Dir::ToClient, Duration::ZERO);
    eventually("all late replies are in", || sidecar.metric("sidecache_lane_fifo_commands") == 0.0);
    for n in 0..80 {
        assert_eq!(late.line(&format!("GET k{n}")), V::bulk(n.to_string()));
    }
    assert_eq!(sidecar.metric("sidecache_lane_losses_total"), 0.0);
    assert!(sidecar.metric("sidecache_tombstones_total") >= count as f64);
}

#[test]
fn a_slow_script_beyond_the_patience_shifts_nothing() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, IMPATIENT);
    allow_loss(&sidecar);
    let (mut slow, mut other) = (sidecar.conn(), sidecar.conn());
    server.outside("SET own mine");
    slow.send_raw(b"EVAL \"local t=redis.call('time') local e=t[1]*1000000+t[2]+3000000 repeat t=redis.call('time') until t[1]*1000000+t[2]>e return 'slow'\" 0\r\nGET own\r\n");
    let scripts = r#"sidecache_commands_total{class="script",outcome="forwarded"}"#;
    eventually("the script is on its way", || sidecar.metric(scripts) == 1.0);
    for _ in 0..20 {
        let reply = other.line("GET own");
        assert!(
            reply == V::bulk("mine") || matches!(&reply, V::Error(text) if text.starts_with("ERR sidecache")),
            "{reply:?}"
        );
    }
    for wanted in ["slow", "mine"] {
        let reply = slow.value();
        assert!(reply == V::bulk(wanted) || matches!(reply, V::Error(_)), "{reply:?} instead of {wanted}");
    }
    eventually("it is back", || other.line("GET own") == V::bulk("mine"));
    assert_eq!(slow.line("GET own"), V::bulk("mine"));
}

#[test]
fn a_late_write_of_a_lost_lane_does_not_follow_a_newer_one() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "upstream.command_timeout = '5s'\nupstream.backoff_max = '100ms'");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("SET k first"), V::Simple("OK".into()));
    let clients = server.outside("CLIENT LIST").text();
    let of_lane = clients.lines().find(|line| line.contains("cmd=set")).and_then(|line| line.split(' ').next());
    let id = format!("{} ", of_lane.expect("the lane's line"));
    let lane = link.those(|connection| connection.said(Dir::ToServer, "TRACKING")).pop().unwrap();
    lane.hold(Dir::ToServer);
    assert!(conn.line("SET k old").text().contains("may have been executed"));
    eventually("there is a new lane", || conn.line("SET k new") == V::Simple("OK".into()));
    // What the network kept comes at last.
    lane.resume(Dir::ToServer);
    let ended = |clients: &str| !clients.lines().any(|line| line.starts_with(&id));
    eventually("the old connection is at its end", || ended(&server.outside("CLIENT LIST").text()));
    assert_eq!((server.outside("GET k"), conn.line("GET k")), (V::bulk("new"), V::bulk("new")));
}

#[test]
fn the_successor_of_a_lost_lane_has_the_server_end_it() {
    let (silent, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(usize::MAX)));
    let (now, taking) = (Arc::clone(&silent), Arc::clone(&taken));
    let upstream = Scripted::start(move |turn| {
        // The background polls have a connection as well: silent is the first that a SET comes on.
        let mut mine = false;
        while let Some(command) = turn.next() {
            if now.load(Ordering::SeqCst) && command[0] == "SET" {
                let taken = taking.compare_exchange(usize::MAX, turn.index, Ordering::SeqCst, Ordering::SeqCst);
                mine |= taken.is_ok();
            }
            if !mine {
                turn.reply("+OK\r\n");
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, IMPATIENT);
    allow_loss(&sidecar);
    silent.store(true, Ordering::SeqCst);
    let mut conn = sidecar.conn();
    assert!(conn.line("SET k 1").text().contains("within command_timeout") || upstream.opened() > 1);
    eventually("there is a new lane", || conn.line("SET k 2") == V::Simple("OK".into()));
    // The connection's id is its place, from 1.
    let killed = format!("CLIENT KILL ID {}", taken.load(Ordering::SeqCst) + 1);
    assert!(kills(&upstream).contains(&killed), "{:?}", upstream.commands());
}

#[test]
fn a_lane_that_the_server_has_ended_itself_is_not_killed_by_its_successor() {
    // The server may have been restarted, and the id be a stranger's.
    let upstream = Scripted::start(|turn| {
        while turn.next().is_some_and(|command| command[0] != "INCR") {
            turn.reply("+OK\r\n");
        }
    });
    let sidecar = Sidecar::start(&upstream, "");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    for _ in 0..3 {
        assert!(conn.line("INCR k").text().contains("was lost"));
        assert_eq!(conn.line("SET k 1"), V::Simple("OK".into()));
    }
    assert_eq!(kills(&upstream), [""; 0]);
}

/// The connections that the upstream was told to end.
fn kills(upstream: &Scripted) -> Vec<String> {
    let commands = upstream.commands().into_iter().map(|(_, command)| command.join(" "));
    commands.filter(|command| command.starts_with("CLIENT KILL ID ")).collect()
}
