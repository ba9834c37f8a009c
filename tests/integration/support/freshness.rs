//! Clients that write and read a key all the time, and the judgement on how old what they read was.
//!
//! Nobody else writes the key, and each write goes out when the one before has been answered: what was acknowledged at one
//! time may not be missing from what is read some bounds later. *Invariant:* times are taken before a command leaves and
//! after its reply has come, so that a machine that stands still can hide a fault but never make one up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::resp::{Conn, V};
use super::sidecar::Sidecar;
use super::wait::{LONG_PATIENCE, in_the_end};

/// Running clients: one that writes and reads what it has written, some that only read.
pub struct Fresh {
    ends: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

/// When each number was acknowledged.
type Acknowledged = Arc<Mutex<Vec<(Instant, u64)>>>;

impl Fresh {
    /// Begins on `key`, with so many readers. What a reader is shown may be as old as `bound` at most, and a writer its own
    /// last write.
    pub fn start(sidecar: &Sidecar, key: &str, readers: usize, bound: Duration) -> Fresh {
        let (ends, rounds) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
        let acknowledged = Acknowledged::default();
        let mut fresh = Fresh { ends, rounds, clients: Vec::new() };
        let known = Arc::clone(&acknowledged);
        let (set, get) = (format!("SET {key}"), format!("GET {key}"));
        let mut number = 0;
        let own = get.clone();
        fresh.spawn(sidecar.conn(), move |conn, wrong| {
            number += 1;
            match conn.line(&format!("{set} {number}")) {
                V::Error(error) => return wrong.push(error),
                _ => known.lock().unwrap().push((Instant::now(), number)),
            }
            // More than once: the first is a fetch, and what follows may be a hit.
            for _ in 0..3 {
                match conn.line(&own) {
                    V::Error(error) => wrong.push(error),
                    reply if reply == V::bulk(number.to_string()) => {}
                    reply => wrong.push(format!("own write {number}, read {reply:?}")),
                }
            }
        });
        for _ in 0..readers {
            let (known, get) = (Arc::clone(&acknowledged), get.clone());
            fresh.spawn(sidecar.conn(), move |conn, wrong| {
                let sent = Instant::now();
                let reply = conn.line(&get);
                if let V::Error(error) = reply {
                    return wrong.push(error);
                }
                let seen = if reply == V::Nil { 0 } else { reply.text().parse().unwrap() };
                let known = known.lock().unwrap();
                let before = known.partition_point(|(at, _)| *at + bound <= sent);
                let least = known[..before].last().map_or(0, |(_, number)| *number);
                if seen < least {
                    wrong.push(format!("read {seen}, though {least} was acknowledged more than {bound:?} before"));
                }
            });
        }
        fresh
    }

    fn spawn(&mut self, mut conn: Conn, mut work: impl FnMut(&mut Conn, &mut Vec<String>) + Send + 'static) {
        let (ends, rounds) = (Arc::clone(&self.ends), Arc::clone(&self.rounds));
        conn.set_patience(LONG_PATIENCE);
        self.clients.push(std::thread::spawn(move || {
            let mut wrong = Vec::new();
            let mut goes_on = false;
            while !ends.load(Ordering::SeqCst) {
                let before = wrong.len();
                work(&mut conn, &mut wrong);
                let is_wrong = wrong.len() > before;
                // What goes on being wrong is one thing.
                wrong.truncate(before + usize::from(is_wrong && !goes_on));
                goes_on = is_wrong;
                rounds.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
            }
            wrong
        }));
    }

    /// Lets it go on until everybody has been at work for a while.
    #[track_caller]
    pub fn go_on(&self) {
        let wanted = self.rounds.load(Ordering::SeqCst) + 200 * self.clients.len();
        in_the_end("the clients are answered", || self.rounds.load(Ordering::SeqCst) >= wanted);
    }

    /// Ends it, and gives what was wrong: errors, and what was too old. What was wrong several times in a row for one client
    /// is told once.
    #[track_caller]
    pub fn end(self) -> Vec<String> {
        self.ends.store(true, Ordering::SeqCst);
        self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }
}
