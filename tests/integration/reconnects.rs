//! A lane is lost and comes again: what was certainly not sent is sent then, in its order; reads in flight once more,
//! writes never; and a server that takes connections only to drop them is not stormed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::faults::allow_loss;
use crate::support::resp::words;
use crate::support::wait::{holds_within, pass, steadily};
use crate::support::{Conn, Link, Scripted, Server, Sidecar, V, eventually};

/// Patience that no busy machine uses up.
const PATIENT: &str = "upstream.command_timeout = '60s'\nupstream.connect_timeout = '20s'";

/// Pauses that no test outlives.
const LONG_PAUSES: &str = "upstream.backoff_min = '300d'\nupstream.backoff_max = '300d'";

const FIFO: &str = "sidecache_lane_fifo_commands";

/// An upstream whose first lane, from `after` commands on, neither answers nor reads; it drops the lane when the
/// flag is set.
fn stalling(after: usize) -> (Scripted, Arc<AtomicBool>) {
    let (dropped, taken) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let drops = Arc::clone(&dropped);
    let upstream = Scripted::start(move |turn| {
        let (mut mine, mut seen) = (false, 0);
        while let Some(command) = turn.next() {
            // The background polls have connections as well.
            let data = matches!(command[0].as_str(), "GET" | "INCR" | "SET");
            mine |= data && !taken.swap(true, Ordering::SeqCst);
            seen += 1;
            match command[0].as_str() {
                _ if mine && seen == after => {
                    holds_within(Duration::from_secs(60), || drops.load(Ordering::SeqCst));
                    return;
                }
                _ if mine => {}
                "GET" => turn.reply(format!("${}\r\n{}\r\n", command[1].len(), command[1])),
                "SET" => turn.reply("+OK\r\n"),
                "INCR" => turn.reply(":1\r\n"),
                _ => turn.reply("-ERR unknown command\r\n"),
            }
        }
    });
    (upstream, dropped)
}

/// What the upstream was sent on connections after the first that was sent data, as lines without values.
fn sent_again(upstream: &Scripted) -> Vec<String> {
    let commands = upstream.commands();
    let data: Vec<_> = commands.iter().filter(|(_, c)| ["GET", "INCR", "SET"].contains(&c[0].as_str())).collect();
    let first = data[0].0;
    data.iter().filter(|(of, _)| *of != first).map(|(_, command)| command[..2].join(" ")).collect()
}

fn is_lost(reply: &V) -> bool {
    matches!(reply, V::Error(text) if text.contains("was lost") && text.contains("may have been executed"))
}

#[track_caller]
fn in_flight(sidecar: &Sidecar, upstream: &Scripted, conn: &mut Conn, line: &str) {
    conn.send(&words(line));
    eventually(line, || upstream.received(line) == 1 && sidecar.metric(FIFO) > 0.0);
}

#[test]
fn what_was_not_sent_goes_out_on_the_next_connection_in_its_order_and_nothing_else_but_reads_does() {
    let (upstream, dropped) = stalling(4);
    let sidecar = Sidecar::start(&upstream, PATIENT);
    allow_loss(&sidecar);
    let [mut behind, mut reader, mut counter] = [sidecar.conn(), sidecar.conn(), sidecar.conn()];
    in_flight(&sidecar, &upstream, &mut behind, "GET a");
    in_flight(&sidecar, &upstream, &mut reader, "GET b");
    in_flight(&sidecar, &upstream, &mut reader, "GET c");
    in_flight(&sidecar, &upstream, &mut counter, "INCR n");
    // Far more than the kernel's buffers take: most of it is still in the lane when the connection goes.
    let mut writers: Vec<Conn> = (0..4).map(|_| sidecar.conn()).collect();
    let value = "x".repeat(60_000);
    for (i, writer) in writers.iter_mut().enumerate() {
        (0..100).for_each(|n| writer.send(&["SET", &format!("{i}:{n}"), &value]));
    }
    eventually("all is queued", || sidecar.metric(FIFO) == 404.0);
    behind.send(&["GET", "d"]);
    eventually("so is the last", || sidecar.metric(FIFO) == 405.0);
    assert!(sidecar.metric("sidecache_lane_output_bytes") > 1e6, "nothing is left unsent");
    dropped.store(true, Ordering::SeqCst);

    let mut expected = Vec::new();
    for (i, writer) in writers.iter_mut().enumerate() {
        let replies: Vec<V> = (0..100).map(|_| writer.value()).collect();
        let lost = replies.iter().take_while(|reply| is_lost(reply)).count();
        assert!(replies[lost..].iter().all(|reply| *reply == V::Simple("OK".into())), "{:?}", &replies[lost..]);
        expected.push((lost..100).map(|n| format!("SET {i}:{n}")).collect::<Vec<_>>());
    }
    let written = expected.iter().map(Vec::len).sum::<usize>();
    assert!((1..400).contains(&written), "{written} of 400 were not sent");
    // Its later read was queued: sent behind that, the earlier would be the newer.
    assert!(is_lost(&behind.value()));
    assert_eq!(behind.value(), V::bulk("d"));
    assert_eq!((reader.value(), reader.value()), (V::bulk("b"), V::bulk("c")));
    assert!(is_lost(&counter.value()));
    let again = sent_again(&upstream);
    for (i, expected) in expected.iter().enumerate() {
        let mine: Vec<&String> = again.iter().filter(|line| line.starts_with(&format!("SET {i}:"))).collect();
        assert_eq!(mine, expected.iter().collect::<Vec<_>>());
    }
    assert_eq!(again[written..], ["GET d", "GET b", "GET c"]);
}

#[test]
fn a_read_is_sent_again_once_and_then_fails() {
    let upstream = Scripted::start(|turn| {
        while turn.next().is_some_and(|command| command[0] != "GET") {
            turn.reply("-ERR unknown command\r\n");
        }
    });
    let sidecar = Sidecar::start(&upstream, PATIENT);
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    let reply = conn.line("GET k");
    assert!(is_lost(&reply), "{reply:?}");
    assert_eq!(upstream.received("GET k"), 2);
    assert_eq!(sidecar.metric("sidecache_retries_total"), 1.0);
}

#[test]
fn readers_of_one_fetch_that_was_lost_share_the_next() {
    let (upstream, dropped) = stalling(1);
    // However long the machine takes, the last may join what the first began.
    let sidecar = Sidecar::start(&upstream, &format!("{PATIENT}\ncache.max_staleness = '1m'"));
    allow_loss(&sidecar);
    let mut readers: Vec<Conn> = (0..50).map(|_| sidecar.conn()).collect();
    readers.iter_mut().for_each(|reader| reader.send(&["GET", "k"]));
    let coalesced = "sidecache_commands_total{class=\"read\",outcome=\"coalesced\"}";
    eventually("all wait for it", || sidecar.metric(coalesced) == 49.0);
    dropped.store(true, Ordering::SeqCst);
    readers.iter_mut().for_each(|reader| assert_eq!(reader.value(), V::bulk("k")));
    assert_eq!(sent_again(&upstream), ["GET k"]);
}

/// An upstream that completes a lane's handshake and drops it.
fn dropping() -> Scripted {
    Scripted::start(|turn| {
        turn.take("CLIENT ID");
        if turn.next().is_some_and(|command| command.join(" ") == "CLIENT ID") {
            turn.reply(":7\r\n");
        }
    })
}

/// Lanes that have handshaken.
fn lanes(upstream: &Scripted) -> usize {
    upstream.received("CLIENT ID")
}

#[test]
fn a_server_that_drops_each_connection_after_its_handshake_is_tried_again_after_a_pause() {
    let upstream = dropping();
    let sidecar = Sidecar::start_alone(&upstream, &format!("cache.mode = 'off'\n{LONG_PAUSES}"));
    allow_loss(&sidecar);
    eventually("it pauses", || sidecar.metric(r#"sidecache_lanes{state="backoff"}"#) == 1.0);
    steadily("there is one attempt", Duration::from_millis(300), || lanes(&upstream) == 1);
}

#[test]
fn a_lane_that_was_steady_is_replaced_at_once() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, LONG_PAUSES);
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    // From here on a connection counts as steady.
    pass(Duration::from_millis(1100));
    link.cut();
    eventually("it is back", || conn.line("SET k 1") == V::Simple("OK".into()));
}

#[test]
fn nor_is_it_stormed_by_clients_that_ask_again_and_again() {
    // Lanes of another database: nobody but clients wants them back.
    let upstream = Scripted::start(|turn| {
        turn.take("SELECT");
        if turn.next().is_some_and(|command| command[0] == "SELECT") {
            turn.reply("+OK\r\n");
            turn.next();
        }
    });
    // As long as who asks during a pause waits, and long enough for the one handshake.
    let toml = format!("cache.mode = 'off'\nupstream.connect_timeout = '4s'\n{LONG_PAUSES}");
    let sidecar = Sidecar::start(&upstream, &toml);
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("SELECT 1"), V::Simple("OK".into()));
    assert!(is_lost(&conn.line("APPEND k x")));
    for _ in 0..2 {
        for reply in conn.pipeline(&["APPEND k x"; 5]) {
            assert!(reply.text().contains("not executed"), "{reply:?}");
        }
    }
    assert_eq!((upstream.received("SELECT 1"), upstream.received("APPEND k x")), (1, 1));
}

#[test]
fn a_lane_closed_for_want_of_use_stays_closed() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.lane_idle_timeout = '200ms'\ncache.mode = 'off'");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("SELECT 1"), V::Simple("OK".into()));
    eventually("there is no lane", || sidecar.metric_sum("sidecache_lanes") == 0.0);
    assert_eq!(server.calls("select"), 1);
    assert_eq!(conn.line("SET k 1"), V::Simple("OK".into()));
}
