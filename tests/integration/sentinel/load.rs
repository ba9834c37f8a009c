//! Clients that never rest while masters change, and the judgement on what they were answered.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::resp::{decode, encode, words};
use crate::support::wait::{LONG_PATIENCE, in_the_end};
use crate::support::{Conn, Server, Sidecar, V};

/// So many clients of each kind.
const CLIENTS: usize = 4;

/// Running clients.
pub struct Load {
    ended: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    /// Error replies.
    errors: Vec<String>,
    /// Whether it has been closed, or was left without an answer.
    closed: bool,
    /// The longest time between two answers that were no errors.
    gap: Duration,
    /// How often a value was older than one seen before.
    back: usize,
    /// What it pushed onto its list and was told to be there.
    acknowledged: Vec<usize>,
}

/// What all have seen.
pub struct Outcome {
    /// Error replies.
    pub errors: Vec<String>,
    /// The longest time that any client got no answer but errors.
    pub gap: Duration,
}

/// A client at work.
struct Client {
    conn: Conn,
    seen: Seen,
    last: Instant,
    answers: Arc<AtomicUsize>,
}

impl Client {
    /// One command; `None`: an error.
    fn ask(&mut self, line: &str) -> Option<V> {
        let Some(reply) = self.try_ask(line) else {
            self.seen.closed = true;
            return None;
        };
        if let V::Error(error) = reply {
            self.seen.errors.push(error);
            return None;
        }
        self.seen.gap = self.seen.gap.max(self.last.elapsed());
        self.last = Instant::now();
        self.answers.fetch_add(1, Ordering::SeqCst);
        Some(reply)
    }

    /// `None`: the connection is gone, or silent for longer than any failover takes. Where the disk stands still, Sentinels
    /// trust no clock for half a minute.
    fn try_ask(&mut self, line: &str) -> Option<V> {
        let begun = Instant::now();
        let mut sent = self.conn.try_send_raw(&encode(&words(line)));
        while sent {
            match self.conn.try_read_frame() {
                Ok(frame) => return Some(decode(&frame)?.0),
                Err(error) => sent = is_time_out(&error) && begun.elapsed() < LONG_PATIENCE,
            }
        }
        None
    }

    /// Writes a growing number and reads it; the newest seen comes back, or a newer one.
    fn write_and_read(&mut self, me: usize, number: usize, newest: &mut usize) {
        if self.ask(&format!("SET own:{me} {number}")).is_some() {
            *newest = number;
        }
        self.read(&format!("own:{me}"), newest);
    }

    fn read(&mut self, key: &str, newest: &mut usize) {
        let Some(reply) = self.ask(&format!("GET {key}")) else { return };
        let value = if reply == V::Nil { 0 } else { reply.text().parse().unwrap() };
        self.seen.back += usize::from(value < *newest);
        *newest = value;
    }

    /// Does what cannot be done twice unseen.
    fn push(&mut self, me: usize, number: usize) {
        if self.ask(&format!("RPUSH list:{me} {number}")).is_some() {
            self.seen.acknowledged.push(number);
        }
    }
}

fn is_time_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Load {
    /// Begins.
    pub fn start(sidecar: &Sidecar) -> Load {
        let (ended, answers) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
        let mut load = Load { ended, answers, clients: Vec::new() };
        for me in 0..CLIENTS {
            load.spawn(sidecar, move |client, number, newest| client.write_and_read(me, number, newest));
            load.spawn(sidecar, move |client, _, newest| client.read(&format!("own:{me}"), newest));
            load.spawn(sidecar, move |client, number, _| client.push(me, number));
        }
        load
    }

    fn spawn(&mut self, sidecar: &Sidecar, work: impl Fn(&mut Client, usize, &mut usize) + Send + 'static) {
        let (conn, ended, answers) = (sidecar.conn(), Arc::clone(&self.ended), Arc::clone(&self.answers));
        self.clients.push(std::thread::spawn(move || {
            let mut client = Client { conn, seen: Seen::default(), last: Instant::now(), answers };
            let mut newest = 0;
            let mut number = 0;
            while !ended.load(Ordering::SeqCst) && !client.seen.closed {
                number += 1;
                work(&mut client, number, &mut newest);
                // Two cores are not enough for clients that never pause, and nothing is learnt from more.
                std::thread::yield_now();
            }
            client.seen
        }));
    }

    /// Lets it go on until everybody has been answered for a while.
    #[track_caller]
    pub fn go_on(&self) {
        let wanted = self.answers.load(Ordering::SeqCst) + 300 * self.clients.len();
        in_the_end("the clients are answered", || self.answers.load(Ordering::SeqCst) >= wanted);
    }

    /// Ends it and judges: with so many changes of the master, and this one now.
    #[track_caller]
    pub fn end(self, changes: usize, master: &Server) -> Outcome {
        self.ended.store(true, Ordering::SeqCst);
        let seen: Vec<Seen> = self.clients.into_iter().map(|client| client.join().unwrap()).collect();
        for client in &seen {
            assert!(!client.closed, "a client was closed");
            // What a failover loses takes a client back once. More would be another server's past.
            assert!(client.back <= changes, "{} times back in time in {changes} changes", client.back);
        }
        for (me, client) in seen.iter().skip(2).step_by(3).enumerate() {
            let list = master.conn().line(&format!("LRANGE list:{me} 0 -1"));
            let list: Vec<usize> = list.items().iter().map(|item| item.text().parse().unwrap()).collect();
            assert!(list.is_sorted_by(|a, b| a < b), "twice, or out of order: {list:?}");
            assert!(!client.acknowledged.is_empty());
        }
        let errors: Vec<String> = seen.iter().flat_map(|client| client.errors.clone()).collect();
        for error in &errors {
            assert!(!error.starts_with("READONLY"), "{error}");
        }
        Outcome { errors, gap: seen.iter().map(|client| client.gap).max().unwrap() }
    }
}
