//! By a crash of the master a client loses no more than what Sentinels take to replace it, and a second.
//!
//! Both ends are measured: the Sentinels' own `+switch-master` is heard by a subscriber, and a client of the promoted master
//! itself goes on all the time. What that one is held up for, the machine stands still for, and everybody else too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::{PATIENT, allow_loss};
use crate::support::wait::{LONG_PATIENCE, pass};
use crate::support::{Conn, Kind, Sentinels, Sidecar, V};

/// What the sidecar may take once the Sentinels have replaced the master.
const ALLOWED: Duration = Duration::from_secs(1);

/// So many steps follow each other until a client is answered (hear, ask, verify, connect, handshake, send, answer, …); each may be held
/// up as the control is.
const STEPS: u32 = 8;

/// Clients.
const CLIENTS: usize = 6;

/// When each of a client's writes was sent, and answered well.
type Answers = Vec<(Instant, Instant)>;

/// Writes and never rests, until told to end. Errors are as good as silence.
fn client<'scope>(
    scope: &'scope Scope<'scope, '_>,
    ends: &'scope AtomicBool,
    mut open: impl FnMut() -> Option<Conn> + Send + 'scope,
    key: String,
) -> ScopedJoinHandle<'scope, Answers> {
    scope.spawn(move || {
        let (mut conn, mut answers, mut number) = (None, Answers::new(), 0);
        while !ends.load(Ordering::SeqCst) {
            number += 1;
            let sent = Instant::now();
            let Some(open) = conn.as_mut() else {
                conn = open();
                std::thread::yield_now();
                continue;
            };
            match said(open, &format!("SET {key} {number}\r\n")) {
                Some(frame) if frame == b"+OK\r\n" => answers.push((sent, Instant::now())),
                Some(_) => {}
                None => conn = None,
            }
            pass(Duration::from_millis(1));
        }
        answers
    })
}

fn said(conn: &mut Conn, line: &str) -> Option<Vec<u8>> {
    if conn.try_send_raw(line.as_bytes()) { conn.try_read_frame().ok() } else { None }
}

/// When each Sentinel tells that the master has changed.
fn switches<'scope>(scope: &'scope Scope<'scope, '_>, all: &Sentinels) -> Receiver<Instant> {
    let (tell, heard) = channel();
    for at in 0..3 {
        let mut conn = all.sentinel(at).conn();
        conn.set_patience(LONG_PATIENCE);
        assert_eq!(conn.line("SUBSCRIBE +switch-master").items().len(), 3);
        let tell = tell.clone();
        scope.spawn(move || {
            conn.value();
            // Nobody asks for the others'.
            let _ = tell.send(Instant::now());
        });
    }
    heard
}

fn a_crash_costs_no_more_than_its_detection_and_a_second(kind: Kind) {
    let all = Sentinels::start(kind);
    let sidecar = Sidecar::start(&all, PATIENT);
    allow_loss(&sidecar);
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let heard = switches(scope, &all);
        let opened = |addr| move || Conn::try_open(addr).ok();
        let through: Vec<_> =
            (0..CLIENTS).map(|n| client(scope, &ends, opened(sidecar.addr()), format!("through:{n}"))).collect();
        // Either may be promoted; until then they say READONLY.
        let direct: Vec<_> =
            [1, 2].iter().map(|&at| client(scope, &ends, opened(all.server(at).addr()), "direct".into())).collect();
        pass(Duration::from_millis(500));
        all.server(0).kill();
        let killed = Instant::now();
        let switched = heard.recv_timeout(LONG_PATIENCE).expect("no Sentinel has told of another master");
        let new = all.await_other_master(0);
        // Time enough for everybody to be back, and for what is not to show.
        pass(2 * ALLOWED);
        ends.store(true, Ordering::SeqCst);
        let through: Vec<Answers> = through.into_iter().map(|client| client.join().unwrap()).collect();
        let direct: Vec<Answers> = direct.into_iter().map(|client| client.join().unwrap()).collect();
        let control = &direct[new - 1];
        let (_, first) = *control.first().expect("the promoted master has answered");
        for (n, answers) in through.iter().enumerate() {
            let back = answers.iter().find(|(sent, _)| *sent > killed).map(|(_, done)| *done);
            let back = back.unwrap_or_else(|| panic!("client {n} has not been answered again: {kind:?}"));
            // From when the promoted master could be written to, and the Sentinels had told of it.
            let since = switched.max(first);
            let stood_still = held_up(control, since, back);
            let lost = back.saturating_duration_since(since);
            let ms = |time: Instant| time.saturating_duration_since(killed).as_millis();
            eprintln!(
                "{kind:?}, after the crash: the master took writes at {} ms, +switch-master came at {} ms, client {n} was back at {} ms; \
                 the control was held up for {stood_still:?}",
                ms(first),
                ms(switched),
                ms(back)
            );
            assert!(lost <= ALLOWED + STEPS * stood_still, "client {n}: {lost:?}, the control {stood_still:?}");
        }
    });
    assert!(all.server(all.await_other_master(0)).conn().line("GET through:0") != V::Nil);
}

/// The longest time between two answers of the control, between two times or around them.
fn held_up(control: &Answers, from: Instant, to: Instant) -> Duration {
    let pairs = control.windows(2).map(|pair| (pair[0].1, pair[1].1));
    let meanwhile = pairs.filter(|(before, after)| *after >= from && *before <= to);
    meanwhile.map(|(before, after)| after - before).max().unwrap_or_default()
}

#[test]
fn a_crash_of_redis_costs_no_more_than_its_detection_and_a_second() {
    a_crash_costs_no_more_than_its_detection_and_a_second(Kind::Redis);
}

#[test]
fn a_crash_of_valkey_costs_no_more_than_its_detection_and_a_second() {
    a_crash_costs_no_more_than_its_detection_and_a_second(Kind::Valkey);
}
