//! A lane is lost and comes again: what was certainly not sent is sent then, in its order; reads in flight once more,
//! writes never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::faults::allow_loss;
use crate::support::resp::words;
use crate::support::wait::holds_within;
use crate::support::{Conn, Scripted, Sidecar, V, eventually};

/// Patience that no busy machine uses up.
const PATIENT: &str = "upstream.command_timeout = '60s'\nupstream.connect_timeout = '20s'";

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
    let upstream = Scripted::start(|turn| while turn.next().is_some_and(|command| command[0] != "GET") {});
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
    let sidecar = Sidecar::start(&upstream, PATIENT);
    allow_loss(&sidecar);
    let mut readers: Vec<Conn> = (0..50).map(|_| sidecar.conn()).collect();
    readers.iter_mut().for_each(|reader| reader.send(&["GET", "k"]));
    let coalesced = "sidecache_commands_total{class=\"read\",outcome=\"coalesced\"}";
    eventually("all wait for it", || sidecar.metric(coalesced) == 49.0);
    dropped.store(true, Ordering::SeqCst);
    readers.iter_mut().for_each(|reader| assert_eq!(reader.value(), V::bulk("k")));
    assert_eq!(sent_again(&upstream), ["GET k"]);
}
