//! Free ports on 127.0.0.1.
//!
//! They are taken from below the kernel's range for outgoing connections, so that no client socket grabs
//! one between our look and the server's bind. Two test processes may still pick the same: whoever starts a
//! server tries again with another port when its bind fails.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

/// The lowest port given out.
const FIRST: u64 = 10_000;
/// How many ports there are to choose from; a cluster's bus (port + 10,000) stays below 32,768 too.
const COUNT: u64 = 12_000;

/// A port that nothing listened on a moment ago.
pub fn free_port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..1000 {
        let seed = RandomState::new().hash_one((std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let port = u16::try_from(FIRST + seed % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {} on 127.0.0.1", FIRST + COUNT);
}
