//! Clients that keep asking while something breaks, and check every reply.
//!
//! Each asks in pipelines, for its own keys and for shared ones whose values never change, so that a swapped or
//! shifted reply shows at once. It counts what became of its increments: P8 is then a matter of arithmetic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::resp::{decode, encode, words};
use crate::support::{Conn, Server, Sidecar, V, eventually};

/// Shared keys, each with a value that never changes.
const SHARED: u64 = 8;

/// Clients at work.
pub struct Load {
    ends: Arc<AtomicBool>,
    rounds: Arc<Vec<AtomicU64>>,
    errors: Arc<Mutex<Vec<String>>>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What one client has seen.
#[derive(Default, Debug)]
pub struct Tally {
    /// Increments answered.
    pub answered: i64,
    /// Increments that failed and may have been executed.
    pub maybe: i64,
    /// Times the connection was closed on it.
    pub closed: u64,
    /// The slowest pipeline.
    pub slowest: Duration,
    /// The counter's last value seen.
    last: i64,
    /// What the own key may hold.
    own: Option<u64>,
}

/// Puts the shared values in place, from outside.
pub fn seed(server: &Server) {
    (0..SHARED).for_each(|i| {
        server.outside(&format!("SET shared:{i} value-{i}"));
    });
}

impl Load {
    /// `clients` of them.
    pub fn begin(sidecar: &Sidecar, clients: usize) -> Load {
        let ends = Arc::new(AtomicBool::new(false));
        let rounds: Arc<Vec<AtomicU64>> = Arc::new((0..clients).map(|_| AtomicU64::new(0)).collect());
        let errors = Arc::default();
        let addr = sidecar.addr();
        let clients = (0..clients).map(|me| {
            let (ends, rounds, errors) = (Arc::clone(&ends), Arc::clone(&rounds), Arc::clone(&errors));
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                let mut conn = Conn::open(addr);
                let mut n = 0;
                while !ends.load(Ordering::SeqCst) {
                    n += 1;
                    let begun = Instant::now();
                    let clean = tally.round(&mut conn, me, n, &errors);
                    tally.slowest = tally.slowest.max(begun.elapsed());
                    match clean {
                        Some(true) => drop(rounds[me].fetch_add(1, Ordering::SeqCst)),
                        Some(false) => {}
                        None => {
                            tally.closed += 1;
                            conn = Conn::open(addr);
                        }
                    }
                }
                tally
            })
        });
        let clients = clients.collect();
        Load { ends, rounds, errors, clients }
    }

    /// Waits until every client has had `rounds` more pipelines answered without an error.
    #[track_caller]
    pub fn goes_on(&self, rounds: u64) {
        let wanted: Vec<u64> = self.rounds.iter().map(|done| done.load(Ordering::SeqCst) + rounds).collect();
        let done = || self.rounds.iter().zip(&wanted).all(|(done, wanted)| done.load(Ordering::SeqCst) >= *wanted);
        eventually("all clients are answered", || done() || self.clients.iter().any(JoinHandle::is_finished));
    }

    /// The errors seen so far.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap().clone()
    }

    /// Ends all clients; a wrong reply that one of them has seen fails the test here.
    #[track_caller]
    pub fn end(self) -> Vec<Tally> {
        self.ends.store(true, Ordering::SeqCst);
        self.clients.into_iter().map(|client| client.join().expect("a client saw a wrong reply")).collect()
    }
}

impl Tally {
    /// One pipeline: whether it was answered without an error; `None` if the connection was closed.
    fn round(&mut self, conn: &mut Conn, me: usize, n: u64, errors: &Mutex<Vec<String>>) -> Option<bool> {
        let (a, b) = (n % SHARED, (n / 3) % SHARED);
        let lines = [
            format!("INCR counter:{me}"),
            format!("GET shared:{a}"),
            format!("GET shared:{b}"),
            format!("SET own:{me} {n}"),
            format!("GET own:{me}"),
            format!("EVAL return(ARGV[1]) 0 script-{n}"),
            format!("STRLEN shared:{a}"),
            format!("ECHO echo-{n}"),
        ];
        let bytes: Vec<u8> = lines.iter().flat_map(|line| encode(&words(line))).collect();
        let mut sent = conn.try_send_raw(&bytes);
        let mut replies: Vec<Option<V>> = Vec::new();
        for _ in &lines {
            let frame = if sent { conn.try_read_frame() } else { Err(std::io::ErrorKind::BrokenPipe.into()) };
            match frame {
                Ok(frame) => replies.push(decode(&frame).map(|(value, _)| value)),
                Err(error) => {
                    assert!(!matches!(error.kind(), std::io::ErrorKind::WouldBlock), "no reply in time: {lines:?}");
                    sent = false;
                    replies.push(None);
                }
            }
        }
        self.judge(me, n, &replies, errors);
        sent.then(|| replies.iter().all(|reply| !matches!(reply, Some(V::Error(_)) | None)))
    }

    fn judge(&mut self, me: usize, n: u64, replies: &[Option<V>], errors: &Mutex<Vec<String>>) {
        for reply in replies.iter().flatten() {
            if let V::Error(text) = reply {
                let own = text.starts_with("ERR sidecache: ");
                assert!(own, "client {me}: an error that is neither clear nor ours: {text}");
                errors.lock().unwrap().push(text.clone());
            }
        }
        let maybe = |text: &String| !text.contains("not executed") && !text.contains("not sent");
        match &replies[0] {
            Some(V::Int(value)) => {
                assert!(*value > self.last, "client {me}: counter went from {} to {value}", self.last);
                self.last = *value;
                self.answered += 1;
            }
            Some(V::Error(text)) if !maybe(text) => {}
            Some(V::Error(_)) | None => self.maybe += 1,
            other => panic!("client {me}: INCR gave {other:?}"),
        }
        let (a, b) = (n % SHARED, (n / 3) % SHARED);
        for (i, key) in [(1, a), (2, b)] {
            expect(&replies[i], &[V::bulk(format!("value-{key}"))]);
        }
        expect(&replies[6], &[V::Int(7)]);
        expect(&replies[5], &[V::bulk(format!("script-{n}"))]);
        expect(&replies[7], &[V::bulk(format!("echo-{n}"))]);
        expect(&replies[3], &[V::Simple("OK".into())]);
        let written = matches!(replies[3], Some(V::Simple(_)));
        if let Some(V::Bulk(seen)) = &replies[4] {
            let seen: u64 = std::str::from_utf8(seen).unwrap().parse().unwrap();
            assert!(seen == n || !written && seen < n, "client {me}: wrote {n}, read {seen}");
            assert!(self.own.is_none_or(|own| own <= seen), "client {me}: {:?}, then {seen}", self.own);
            self.own = Some(seen);
        }
    }

    /// Each increment was executed once if it was answered, at most once if it may have been, else never.
    #[track_caller]
    pub fn matches(&self, value: i64) {
        let most = self.answered + self.maybe;
        assert!(
            (self.answered..=most).contains(&value),
            "{value} increments executed, {} answered, {most} at most",
            self.answered
        );
    }
}

/// All counters against what their clients have been told.
#[track_caller]
pub fn match_counters(server: &Server, tallies: &[Tally]) {
    for (me, tally) in tallies.iter().enumerate() {
        let value = server.outside(&format!("GET counter:{me}")).text();
        tally.matches(value.parse().unwrap_or(0));
    }
}

fn expect(reply: &Option<V>, wanted: &[V]) {
    let fine = match reply {
        None | Some(V::Error(_)) => true,
        Some(reply) => wanted.contains(reply),
    };
    assert!(fine, "{reply:?} instead of {wanted:?}");
}
