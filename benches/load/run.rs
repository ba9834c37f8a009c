//! A run: who sends when, in closed or in open loop, and what is counted.
//!
//! In closed loop a connection sends so many commands at once, waits for all replies and sends the next. In open loop
//! batches are due at random times of a Poisson process, whatever the replies do; the connection that has been free for
//! longest takes the one that is due, and if none is free the batch waits, its clock running. What has not been sent
//! when the run ends counts with the time that it has waited.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::Failure;
use super::connection::{Connection, Waiting, raise_file_limit};
use super::dice::Dice;
use super::mix::{Mix, Verdict};
use super::report::Report;

/// Bytes read at once.
const READ: usize = 256 * 1024;

/// Events taken at once.
const EVENTS: usize = 512;

/// After so many connections one is asked something, so that the other side's queue of those not accepted cannot fill up.
const ACCEPTED_EVERY: usize = 100;

/// The loop turns at least so often.
const TICK: u64 = 100_000_000;

/// Nanoseconds after the window during which what was due is still sent, and for which replies are waited.
const BACKLOG: u64 = 2_000_000_000;
const PATIENCE: u64 = 60_000_000_000;

/// A run's size and pace.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// What counts.
    pub window: Duration,
    /// What comes before it.
    pub warm_up: Duration,
    /// Commands per second; `None`: closed loop.
    pub rate: Option<f64>,
    /// Commands sent at once by a connection.
    pub pipeline: usize,
    /// For everything that is drawn.
    pub seed: u64,
}

/// A run under way. Times are nanoseconds from `begin`.
struct Load<'a> {
    to: SocketAddr,
    mix: &'a Mix,
    shape: &'a Shape,
    dice: Dice,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Open loop: who has no command under way, longest first.
    free: VecDeque<usize>,
    /// Whose connection is gone, and when to try again.
    lost: Vec<usize>,
    retry_at: u64,
    /// Commands under way on all connections.
    outstanding: u64,
    begin: Instant,
    /// The window.
    from: u64,
    until: u64,
    /// Open loop: when the next batch is due, and the mean time between two.
    due: f64,
    gap: f64,
    report: Report,
    complained: bool,
}

/// Sends the load; what was found.
pub fn run(to: SocketAddr, mix: &Mix, shape: &Shape) -> Result<Report, Failure> {
    raise_file_limit()?;
    // Else the kernel may wake us 50 µs late, which would count as the other side's.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
        .map_err(|error| Failure::System("timer slack", error.into()))?;
    let mut load = Load::new(to, mix, shape)?;
    load.drive()?;
    Ok(load.report)
}

/// Epoll's own time-out, from nanoseconds.
pub fn timespec(nanoseconds: u64) -> Timespec {
    Timespec { tv_sec: (nanoseconds / 1_000_000_000) as i64, tv_nsec: (nanoseconds % 1_000_000_000) as i64 }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

// === impl Load ===

impl<'a> Load<'a> {
    fn new(to: SocketAddr, mix: &'a Mix, shape: &'a Shape) -> Result<Self, Failure> {
        let from = shape.warm_up.as_nanos() as u64;
        let mut load = Load {
            to,
            mix,
            shape,
            dice: Dice::new(shape.seed),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)
                .map_err(|error| Failure::System("epoll", error.into()))?,
            connections: Vec::with_capacity(shape.connections),
            free: VecDeque::new(),
            lost: Vec::new(),
            retry_at: 0,
            outstanding: 0,
            begin: Instant::now(),
            from,
            until: from + shape.window.as_nanos() as u64,
            due: f64::INFINITY,
            gap: shape.rate.map_or(0.0, |rate| shape.pipeline as f64 / rate * 1e9),
            report: Report { seconds: shape.window.as_secs_f64(), ..Report::default() },
            complained: false,
        };
        for index in 0..shape.connections {
            let mut connection = Connection::open(to).map_err(Failure::of("connecting"))?;
            if index % ACCEPTED_EVERY == 0 {
                load.ask(&mut connection).map_err(Failure::of("waiting for a first reply"))?;
            }
            load.register(index, &connection).map_err(Failure::of("epoll"))?;
            load.connections.push(connection);
        }
        Ok(load)
    }

    /// Waits for a reply to a GET, which every proxy knows: whoever connected before has been accepted then.
    fn ask(&self, connection: &mut Connection) -> io::Result<()> {
        use std::io::{Read, Write};
        connection.stream.set_nonblocking(false)?;
        connection.stream.write_all(b"*2\r\n$3\r\nGET\r\n$16\r\nload:nonexistent\r\n")?;
        let mut reply = [0; 5];
        connection.stream.read_exact(&mut reply)?;
        connection.stream.set_nonblocking(true)?;
        match &reply {
            b"$-1\r\n" => Ok(()),
            _ => Err(io::Error::other(String::from_utf8_lossy(&reply).into_owned())),
        }
    }

    fn register(&self, index: usize, connection: &Connection) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, &connection.stream, EventData::new_u64(index as u64), EventFlags::IN)?)
    }

    fn drive(&mut self) -> Result<(), Failure> {
        let (mut events, mut scratch) = (Vec::with_capacity(EVENTS), vec![0; READ]);
        let mut cpu = (None, None);
        self.begin = Instant::now();
        if self.shape.rate.is_some() {
            self.due = self.dice.gap() * self.gap;
        }
        for index in 0..self.connections.len() {
            self.done(index, 0);
        }
        loop {
            let now = self.now();
            if now >= self.from {
                cpu.0.get_or_insert_with(cpu_seconds);
            }
            if now >= self.until {
                cpu.1.get_or_insert_with(cpu_seconds);
            }
            self.reconnect(now);
            self.send_due(now);
            if self.is_over(now) {
                break;
            }
            events.clear();
            let timeout = timespec(self.next_turn(now).saturating_sub(self.now()));
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::System("epoll", error.into())),
            }
            for event in &events {
                // Copied out of the packed event.
                let (flags, data) = (event.flags, event.data);
                self.serve(data.u64() as usize, flags, &mut scratch);
            }
        }
        self.count_the_rest();
        self.report.cpu_seconds = cpu.1.zip(cpu.0).map_or(0.0, |(end, begin)| end - begin);
        Ok(())
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    fn is_over(&self, now: u64) -> bool {
        let all_sent = self.due >= self.until as f64 || now >= self.until + BACKLOG;
        now >= self.until && (all_sent && self.outstanding == 0 || now >= self.until + PATIENCE)
    }

    /// When there is something to do even if nothing comes.
    fn next_turn(&self, now: u64) -> u64 {
        let due = if self.free.is_empty() || self.due >= self.until as f64 { u64::MAX } else { self.due as u64 };
        let edges = [self.from, self.until].into_iter().filter(|&edge| edge > now);
        edges.chain([now + TICK, due]).min().unwrap_or(now)
    }

    /// One connection has something to read, or room to write.
    fn serve(&mut self, index: usize, flags: EventFlags, scratch: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if flags.contains(EventFlags::OUT) {
            match connection.flush() {
                Ok(true) => {
                    // The file is open and known to epoll: nothing that could fail.
                    let _ = epoll::modify(
                        &self.epoll,
                        &connection.stream,
                        EventData::new_u64(index as u64),
                        EventFlags::IN,
                    );
                }
                Ok(false) => {}
                Err(_) => return self.lose(index),
            }
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let mut tally = Tally {
            report: &mut self.report,
            mix: self.mix,
            now: self.begin.elapsed().as_nanos() as u64,
            window: (self.from, self.until),
            open: self.shape.rate.is_some(),
            complained: &mut self.complained,
            answered: 0,
        };
        let received = connection.receive(scratch, |asked, reply| tally.count(asked, reply));
        let (now, answered) = (tally.now, tally.answered);
        self.outstanding -= answered;
        let is_done = connection.waiting.is_empty();
        match received {
            Err(error) => {
                eprintln!("load: connection {index}: {error}");
                self.lose(index);
            }
            Ok(()) if is_done && answered > 0 => {
                self.done(index, now);
                self.send_due(now);
            }
            Ok(()) => {}
        }
    }

    /// The connection has no command under way.
    fn done(&mut self, index: usize, now: u64) {
        if self.shape.rate.is_some() {
            self.free.push_back(index);
        } else if now < self.until {
            self.send(index, now);
        }
    }

    /// Open loop: sends what is due, as far as connections are free.
    fn send_due(&mut self, now: u64) {
        while self.due <= now as f64 && self.due < self.until as f64 && now < self.until + BACKLOG {
            let Some(index) = self.free.pop_front() else { return };
            let since = self.due as u64;
            self.due += self.dice.gap() * self.gap;
            self.send(index, since);
        }
    }

    /// One batch.
    fn send(&mut self, index: usize, since: u64) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        for _ in 0..self.shape.pipeline {
            let operation = self.mix.append(&mut self.dice, connection.out());
            connection.waiting.push_back(Waiting { since, operation });
        }
        self.outstanding += self.shape.pipeline as u64;
        match connection.flush() {
            Ok(true) => {}
            Ok(false) => {
                let both = EventFlags::IN | EventFlags::OUT;
                let _ = epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(index as u64), both);
            }
            Err(_) => self.lose(index),
        }
    }

    /// What was under way on it is never answered.
    fn lose(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let _ = epoll::delete(&self.epoll, &connection.stream);
        let unanswered = connection.waiting.drain(..).count() as u64;
        self.outstanding -= unanswered;
        self.report.errors += unanswered;
        self.free.retain(|&free| free != index);
        self.lost.push(index);
    }

    fn reconnect(&mut self, now: u64) {
        if self.lost.is_empty() || now < self.retry_at || now >= self.until {
            return;
        }
        self.retry_at = now + TICK;
        for index in std::mem::take(&mut self.lost) {
            match Connection::open(self.to)
                .and_then(|connection| self.register(index, &connection).map(|()| connection))
            {
                Ok(connection) => {
                    self.report.reconnects += 1;
                    self.connections[index] = connection;
                    self.done(index, self.now());
                }
                Err(_) => self.lost.push(index),
            }
        }
    }

    /// What was never sent, or never answered.
    fn count_the_rest(&mut self) {
        self.report.errors += self.outstanding;
        let now = self.now();
        while self.due < self.until as f64 {
            if self.due >= self.from as f64 {
                self.report.unsent += self.shape.pipeline as u64;
                for _ in 0..self.shape.pipeline {
                    self.report.latency.record(now - self.due as u64);
                }
            }
            self.due += self.dice.gap() * self.gap;
        }
    }
}

/// Counts the replies of one read.
struct Tally<'a> {
    report: &'a mut Report,
    mix: &'a Mix,
    now: u64,
    window: (u64, u64),
    open: bool,
    complained: &'a mut bool,
    answered: u64,
}

// === impl Tally ===

impl Tally<'_> {
    fn count(&mut self, asked: Waiting, reply: &[u8]) {
        self.answered += 1;
        self.report.all_commands += 1;
        let (from, until) = self.window;
        let counts = (from..until).contains(if self.open { &asked.since } else { &self.now });
        match self.mix.judge(asked.operation, reply) {
            Verdict::Right => {}
            Verdict::Missing => self.report.missing += u64::from(counts),
            Verdict::Wrong => {
                self.report.errors += 1;
                if !std::mem::replace(self.complained, true) {
                    let shown = &reply[..reply.len().min(200)];
                    eprintln!("load: {:?} was answered with {}", asked.operation, shown.escape_ascii());
                }
            }
        }
        self.report.in_window += u64::from((from..until).contains(&self.now));
        if counts {
            self.report.commands += 1;
            self.report.latency.record(self.now.saturating_sub(asked.since));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const STILL: Duration = Duration::from_millis(400);

    /// A server that answers each 36 bytes with a null, and stands still before the second answer of a connection.
    fn still_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer = |mut conn: TcpStream| {
            for number in 0.. {
                let mut request = [0; 36];
                if conn.read_exact(&mut request).is_err() {
                    return;
                }
                if number == 1 {
                    thread::sleep(STILL);
                }
                if conn.write_all(b"$-1\r\n").is_err() {
                    return;
                }
            }
        };
        thread::spawn(move || listener.incoming().flatten().for_each(answer));
        address
    }

    #[test]
    fn in_open_loop_what_waits_for_a_connection_counts_from_when_it_was_due() {
        // 200 a second: nearly all of them are due while the server stands still, and wait for that in turn.
        let mix: Mix = "get:1:3".parse().expect("a mix");
        let (window, rate) = (Duration::from_millis(500), Some(200.0));
        let shape = Shape { connections: 1, window, warm_up: Duration::ZERO, rate, pipeline: 1, seed: 1 };
        let report = run(still_server(), &mix, &shape).expect("a report");
        assert!(report.latency.quantile(0.5) > STILL.as_nanos() as u64 / 4, "{}", report.to_json());
        assert_eq!((report.errors, report.reconnects, report.missing), (0, 0, report.commands));
        assert!(report.commands + report.unsent > 50, "{}", report.to_json());
    }
}
