//! A relay between two TCP ends that can be made slow, silent or broken, each connection and direction on its own.
//!
//! Per direction one thread reads into a queue and one writes from it, so order is always kept. The delay is
//! looked at when a chunk's turn comes: changing it acts on what is already on its way.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// From who connected to the link.
    ToServer,
    /// Back.
    ToClient,
}

/// Both directions.
pub const BOTH: [Dir; 2] = [Dir::ToServer, Dir::ToClient];

/// How much of each direction's start a connection remembers, to be told apart by it.
const REMEMBERED: usize = 256 * 1024;

/// What a direction does with bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flow {
    /// Passes them on after the delay.
    #[default]
    Passes,
    /// Keeps them until told otherwise: silence with nothing lost.
    Holds,
    /// Drops them: silence as of a broken network. What follows later is not a whole stream any more.
    Swallows,
    /// Passes the first half of the next chunk, then cuts.
    CutsInNext,
}

/// One direction of one connection.
#[derive(Default)]
struct Way {
    state: Mutex<WayState>,
    changed: Condvar,
}

#[derive(Default)]
struct WayState {
    /// What was read and when; an empty chunk is the end of the stream.
    queue: VecDeque<(Instant, Vec<u8>)>,
    delay: Duration,
    flow: Flow,
    /// The connection was cut: the threads end.
    cut: bool,
    /// The first bytes of the stream.
    start: Vec<u8>,
    /// How many were read.
    bytes: u64,
}

/// One connection through the link.
pub struct Connection {
    /// Its place in the order of connecting, from 0.
    pub index: usize,
    ways: [Way; 2],
    /// Client's and server's side; taken when cut.
    ends: Mutex<Option<[Arc<TcpStream>; 2]>>,
    open: AtomicBool,
}

impl Connection {
    fn way(&self, dir: Dir) -> &Way {
        &self.ways[dir as usize]
    }

    fn change(&self, dir: Dir, change: impl FnOnce(&mut WayState)) {
        change(&mut self.way(dir).state.lock().unwrap());
        self.way(dir).changed.notify_all();
    }

    /// Each chunk passes this long after it was read.
    pub fn delay(&self, dir: Dir, delay: Duration) {
        self.change(dir, |way| way.delay = delay);
    }

    /// Keeps what arrives from here on, until `resume`.
    pub fn hold(&self, dir: Dir) {
        self.change(dir, |way| way.flow = Flow::Holds);
    }

    /// Drops what arrives from here on, until `resume`.
    pub fn swallow(&self, dir: Dir) {
        self.change(dir, |way| way.flow = Flow::Swallows);
    }

    /// Passes bytes on again, what was held first.
    pub fn resume(&self, dir: Dir) {
        self.change(dir, |way| way.flow = Flow::Passes);
    }

    /// Passes half of the next chunk in this direction, then cuts both.
    pub fn cut_in_next(&self, dir: Dir) {
        self.change(dir, |way| way.flow = Flow::CutsInNext);
    }

    /// Closes both sides (FIN). What was on its way is lost.
    pub fn cut(&self) {
        self.close(|ends| {
            for end in ends {
                let _ = end.shutdown(Shutdown::Both);
            }
        });
    }

    /// Resets both sides (RST). What was on its way is lost.
    pub fn reset(&self) {
        self.close(|ends| {
            for end in ends {
                let _ = socket2::SockRef::from(end.as_ref()).set_linger(Some(Duration::ZERO));
                // Wakes our reader without a word on the wire; the last handle's close then sends the RST.
                let _ = end.shutdown(Shutdown::Read);
            }
        });
    }

    fn close(&self, how: impl FnOnce(&[Arc<TcpStream>; 2])) {
        self.open.store(false, Ordering::SeqCst);
        // First of all: a reader that this wakes must not have its end of file passed on as a FIN.
        for dir in BOTH {
            self.change(dir, |way| way.cut = true);
        }
        if let Some(ends) = self.ends.lock().unwrap().take() {
            how(&ends);
        }
    }

    /// Whether it is open, as far as the link knows.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Bytes read in this direction, passed on or not. What is counted has met its fate (`resume` does not reach what
    /// was swallowed), and what has passed is counted.
    pub fn bytes(&self, dir: Dir) -> u64 {
        self.way(dir).state.lock().unwrap().bytes
    }

    /// Whether `text` occurs in the first bytes of this direction: which connection is this?
    pub fn said(&self, dir: Dir, text: &str) -> bool {
        let state = self.way(dir).state.lock().unwrap();
        state.start.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Where `text` first occurs there.
    pub fn position(&self, dir: Dir, text: &str) -> Option<usize> {
        let state = self.way(dir).state.lock().unwrap();
        state.start.windows(text.len()).position(|window| window == text.as_bytes())
    }

    /// How often `text` occurs there.
    pub fn times_said(&self, dir: Dir, text: &str) -> usize {
        let state = self.way(dir).state.lock().unwrap();
        state.start.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    }

    /// Reads one end until it closes.
    fn read(&self, dir: Dir, from: &TcpStream) {
        let mut chunk = [0; 64 * 1024];
        let mut from = from;
        loop {
            let length = from.read(&mut chunk).unwrap_or(0);
            let mut ended = length == 0;
            self.change(dir, |way| {
                let room = REMEMBERED.saturating_sub(way.start.len()).min(length);
                way.start.extend_from_slice(&chunk[..room]);
                way.bytes += length as u64;
                if way.flow != Flow::Swallows {
                    way.queue.push_back((Instant::now(), chunk[..length].to_vec()));
                }
                ended |= way.cut;
            });
            if ended {
                return;
            }
        }
    }

    /// Writes to the other end what is due.
    fn write(&self, dir: Dir, to: &TcpStream) {
        let mut to = to;
        while let Some((chunk, last)) = self.next(dir) {
            if chunk.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            let written = to.write_all(&chunk).is_ok();
            if last || !written {
                self.cut();
                return;
            }
        }
    }

    /// The next chunk once it is due, and whether the connection is to be cut behind it; `None` once cut.
    fn next(&self, dir: Dir) -> Option<(Vec<u8>, bool)> {
        let way = self.way(dir);
        let mut state = way.state.lock().unwrap();
        loop {
            if state.cut {
                return None;
            }
            let due = state.queue.front().map(|(read, _)| *read + state.delay);
            let now = Instant::now();
            match (state.flow, due) {
                (Flow::Holds | Flow::Swallows, _) | (_, None) => state = way.changed.wait(state).unwrap(),
                (_, Some(due)) if due > now => state = way.changed.wait_timeout(state, due - now).unwrap().0,
                (flow, Some(_)) => {
                    let (_, mut chunk) = state.queue.pop_front()?;
                    let last = flow == Flow::CutsInNext && !chunk.is_empty();
                    if last {
                        chunk.truncate(chunk.len().div_ceil(2));
                    }
                    return Some((chunk, last));
                }
            }
        }
    }
}

/// A relay to one address.
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// What a connection begins with, per direction.
    delays: Mutex<[Duration; 2]>,
    silent: AtomicBool,
    refuses: AtomicBool,
    ended: AtomicBool,
}

impl Link {
    /// A link to `target`.
    pub fn to(target: SocketAddr) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            connections: Mutex::default(),
            delays: Mutex::default(),
            silent: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Link { addr, shared }
    }

    /// Where to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All connections so far, in the order of connecting.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.connections.lock().unwrap().clone()
    }

    /// The open connections for which `is` holds: `link.those(|c| c.said(Dir::ToServer, "TRACKING"))`.
    pub fn those(&self, is: impl Fn(&Connection) -> bool) -> Vec<Arc<Connection>> {
        self.connections().into_iter().filter(|connection| connection.is_open() && is(connection)).collect()
    }

    /// Delays one direction of all connections, those to come too.
    pub fn delay(&self, dir: Dir, delay: Duration) {
        self.shared.delays.lock().unwrap()[dir as usize] = delay;
        self.connections().iter().for_each(|connection| connection.delay(dir, delay));
    }

    /// Silence: holds all bytes of all connections in both directions, those to come too. Sockets stay open.
    pub fn hold(&self) {
        self.shared.silent.store(true, Ordering::SeqCst);
        self.connections().iter().for_each(|connection| BOTH.into_iter().for_each(|dir| connection.hold(dir)));
    }

    /// Ends the silence; what was held passes.
    pub fn resume(&self) {
        self.shared.silent.store(false, Ordering::SeqCst);
        self.connections().iter().for_each(|connection| BOTH.into_iter().for_each(|dir| connection.resume(dir)));
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.connections().iter().for_each(|connection| connection.cut());
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.connections().iter().for_each(|connection| connection.reset());
    }

    /// Whether new connections are reset at once.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Bytes of all connections in this direction.
    pub fn bytes(&self, dir: Dir) -> u64 {
        self.connections().iter().map(|connection| connection.bytes(dir)).sum()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.addr);
    }
}

fn accept(listener: &TcpListener, shared: &Shared) {
    while let Ok((client, _)) = listener.accept() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let refused = shared.refuses.load(Ordering::SeqCst);
        match TcpStream::connect(shared.target) {
            Ok(server) if !refused => shared.begin(client, server),
            _ => {
                let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

impl Shared {
    fn begin(&self, client: TcpStream, server: TcpStream) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client, server) = (Arc::new(client), Arc::new(server));
        let mut connections = self.connections.lock().unwrap();
        let connection = Arc::new(Connection {
            index: connections.len(),
            ways: Default::default(),
            ends: Mutex::new(Some([Arc::clone(&client), Arc::clone(&server)])),
            open: AtomicBool::new(true),
        });
        let delays = *self.delays.lock().unwrap();
        for dir in BOTH {
            connection.delay(dir, delays[dir as usize]);
            if self.silent.load(Ordering::SeqCst) {
                connection.hold(dir);
            }
            let (from, to) = if dir == Dir::ToServer { (&client, &server) } else { (&server, &client) };
            let (reading, from) = (Arc::clone(&connection), Arc::clone(from));
            std::thread::spawn(move || reading.read(dir, &from));
            let (writing, to) = (Arc::clone(&connection), Arc::clone(to));
            std::thread::spawn(move || writing.write(dir, &to));
        }
        connections.push(connection);
    }
}
