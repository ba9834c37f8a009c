//! Distance: passes bytes on between two sides, each way so much later, in order and as many as come.
//!
//! Every piece is delayed by the same time, so one queue for all connections is in the order of their turns. What is
//! under way is bounded by nothing: a relay that pushed back would be a slower network, not a longer one.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Failure;
use super::connection::{connect, raise_file_limit};
use super::run::timespec;

/// The listener's token; a connection's are `2 * id` for the side that was accepted and `2 * id + 1` for the other.
const LISTENER: u64 = u64::MAX;

/// Bytes read at once.
const READ: usize = 256 * 1024;

/// One direction's sink.
struct Side {
    stream: TcpStream,
    /// What its time has come for and the socket had no room for.
    out: VecDeque<u8>,
    /// It has no more to say.
    ended: bool,
    /// The other side has no more to say: what is in `out` is the last.
    last: bool,
}

/// A piece under way; without bytes: the end.
struct Piece {
    at: Instant,
    /// Whose socket it goes to.
    token: u64,
    bytes: Vec<u8>,
}

struct Relay {
    epoll: OwnedFd,
    to: SocketAddr,
    delay: Duration,
    next: u64,
    sides: HashMap<u64, Side>,
    under_way: VecDeque<Piece>,
}

/// Relays until the process is ended.
pub fn relay(listener: &TcpListener, to: SocketAddr, delay: Duration) -> Result<(), Failure> {
    raise_file_limit()?;
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
        .map_err(|error| Failure::System("timer slack", error.into()))?;
    listener.set_nonblocking(true).map_err(Failure::of("listening"))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN).map_err(failed)?;
    let mut relay = Relay { epoll, to, delay, next: 0, sides: HashMap::new(), under_way: VecDeque::new() };
    let (mut events, mut scratch) = (Vec::with_capacity(256), vec![0; READ]);
    loop {
        relay.deliver();
        let wait = relay.under_way.front().map(|piece| piece.at.saturating_duration_since(Instant::now()));
        let wait = wait.map(|wait| timespec(wait.as_nanos() as u64));
        events.clear();
        match epoll::wait(&relay.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
        for event in &events {
            let (flags, data) = (event.flags, event.data);
            match data.u64() {
                LISTENER => relay.accept(listener),
                token => relay.serve(token, flags, &mut scratch),
            }
        }
    }
}

fn failed(error: rustix::io::Errno) -> Failure {
    Failure::System("epoll", error.into())
}

// === impl Relay ===

impl Relay {
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((accepted, _)) = listener.accept() {
            let opened = connect(self.to).and_then(|other| {
                for (stream, token) in [(&accepted, 2 * self.next), (&other, 2 * self.next + 1)] {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(&self.epoll, stream, EventData::new_u64(token), EventFlags::IN)?;
                }
                Ok(other)
            });
            // Else `accepted` is dropped: closed, as a refused connection would be.
            if let Ok(other) = opened {
                for (stream, token) in [(accepted, 2 * self.next), (other, 2 * self.next + 1)] {
                    self.sides.insert(token, Side { stream, out: VecDeque::new(), ended: false, last: false });
                }
                self.next += 1;
            }
        }
    }

    fn serve(&mut self, token: u64, flags: EventFlags, scratch: &mut [u8]) {
        if flags.contains(EventFlags::OUT) {
            self.write(token);
        }
        let Some(side) = self.sides.get_mut(&token) else { return };
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        if side.ended {
            // Gone altogether; nobody is left to be told of it again and again.
            let _ = epoll::delete(&self.epoll, &side.stream);
            return;
        }
        let bytes = match side.stream.read(scratch) {
            Ok(read) => scratch[..read].to_vec(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => Vec::new(),
        };
        if bytes.is_empty() {
            side.ended = true;
            side.wait_for_what_may_come(&self.epoll, token);
        }
        self.under_way.push_back(Piece { at: Instant::now() + self.delay, token: token ^ 1, bytes });
    }

    /// Passes on what its time has come for.
    fn deliver(&mut self) {
        let now = Instant::now();
        while self.under_way.front().is_some_and(|piece| piece.at <= now) {
            let Some(piece) = self.under_way.pop_front() else { return };
            if piece.bytes.is_empty() {
                if let Some(side) = self.sides.get_mut(&piece.token) {
                    side.last = true;
                }
                self.write(piece.token);
            } else if let Some(side) = self.sides.get_mut(&piece.token) {
                side.out.extend(piece.bytes);
                self.write(piece.token);
            }
        }
    }

    /// Writes what there is room for; behind the last of it comes the end. Both sides are forgotten when both have ended.
    fn write(&mut self, token: u64) {
        let Some(side) = self.sides.get_mut(&token) else { return };
        while !side.out.is_empty() {
            match side.stream.write(side.out.as_slices().0) {
                Ok(written) => drop(side.out.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Its own reading end will say the same.
                Err(_) => side.out.clear(),
            }
        }
        side.wait_for_what_may_come(&self.epoll, token);
        if !side.last || !side.out.is_empty() {
            return;
        }
        let _ = side.stream.shutdown(Shutdown::Write);
        if side.ended && self.sides.get(&(token ^ 1)).is_some_and(|other| other.last && other.out.is_empty()) {
            self.sides.remove(&token);
            self.sides.remove(&(token ^ 1));
        }
    }
}

// === impl Side ===

impl Side {
    /// Bytes until it has ended, room while there is something to write.
    fn wait_for_what_may_come(&self, epoll: &OwnedFd, token: u64) {
        let read = if self.ended { EventFlags::empty() } else { EventFlags::IN };
        let room = if self.out.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
        // It fails only for a socket that epoll has been told to forget, and then there is nothing to wait for.
        let _ = epoll::modify(epoll, &self.stream, EventData::new_u64(token), read | room);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread;

    use super::*;

    #[test]
    fn everything_arrives_in_order_and_late_and_then_the_end() {
        const DELAY: Duration = Duration::from_millis(30);
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = server.local_addr().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        thread::spawn(move || relay(&listener, to, DELAY));
        // Answers with what it has read when that has ended: the end itself must have come through, and replies after it.
        let echo = thread::spawn(move || {
            let (mut conn, _) = server.accept().expect("the relay");
            let mut all = Vec::new();
            conn.read_to_end(&mut all).expect("all of it");
            conn.write_all(&all).expect("an answer");
        });
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let begin = Instant::now();
        client.write_all(&sent).expect("the relay takes whatever comes");
        client.shutdown(Shutdown::Write).expect("an end");
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("the answer and its end");
        assert!(got == sent, "{} of {} bytes, or others", got.len(), sent.len());
        assert!(begin.elapsed() >= 2 * DELAY, "{:?}", begin.elapsed());
        echo.join().expect("the echo");
    }
}
