//! Free ports on 127.0.0.1.
//!
//! They are taken from below the kernel's range for outgoing connections, so that no client socket grabs
//! one between our look and the server's bind. Other test processes keep off a port for as long as it is held, whether
//! or not anything listens on it: a server may be away for a while, and must find its port free when it comes back.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};

/// The lowest port given out.
const FIRST: u64 = 10_000;
/// How many ports there are to choose from; a cluster's bus (port + 10,000) stays below 32,768 too.
const COUNT: u64 = 12_000;

/// A TCP port that is ours until this is dropped.
pub struct Port {
    /// Its number.
    pub number: u16,
    /// The UDP port of the same number, which nobody uses: what the kernel gives to one process at a time, and takes
    /// back however that ends.
    _held: UdpSocket,
}

impl Port {
    /// A port that nothing listened on a moment ago and no other test process holds.
    pub fn free() -> Port {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..1000 {
            let seed = RandomState::new().hash_one((std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            let number = u16::try_from(FIRST + seed % COUNT).unwrap();
            if let Ok(held) = UdpSocket::bind(("127.0.0.1", number))
                && TcpListener::bind(("127.0.0.1", number)).is_ok()
            {
                return Port { number, _held: held };
            }
        }
        panic!("no free port between {FIRST} and {} on 127.0.0.1", FIRST + COUNT);
    }
}
