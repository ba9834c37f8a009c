//! One connection: requests queued and written, replies read, cut and handed on in order.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use sidecache::protocol::ReplyScanner;
use socket2::{Domain, Socket, Type};

use super::Failure;
use super::mix::Operation;

/// Source addresses tried one after the other when one has no ports left: each has some 28,000.
const SOURCES: u8 = 16;

/// How long the other side may take to accept; a machine may stand still for seconds.
const CONNECT: Duration = Duration::from_secs(30);

/// A command that has no reply yet.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// When it was due, in nanoseconds from the run's beginning.
    pub since: u64,
    /// What it was.
    pub operation: Operation,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Not blocking.
    pub stream: TcpStream,
    /// Commands sent, or queued, and not answered, in order.
    pub waiting: VecDeque<Waiting>,
    /// Requests not yet written; those before `written` are.
    out: Vec<u8>,
    written: usize,
    /// The beginning of a reply.
    partial: Vec<u8>,
    scanner: ReplyScanner,
}

/// Lets this process open as many files as the system permits it.
pub fn raise_file_limit() -> Result<(), Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|error| Failure::System("raising the limit of open files", error.into()))
}

/// Connects from 127.0.0.1, or from one of its neighbours when that has no ports left.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let mut last = None;
    for source in 1..=SOURCES {
        match connect_from(source, to) {
            Err(error) if matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse) => {
                last = Some(error)
            }
            done => return done,
        }
    }
    Err(last.unwrap_or_else(|| ErrorKind::AddrNotAvailable.into()))
}

fn connect_from(source: u8, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if source > 1 {
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)).into())?;
    }
    socket.connect_timeout(&to.into(), CONNECT)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

// === impl Connection ===

impl Connection {
    /// Opens one.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = connect(to)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            waiting: VecDeque::new(),
            out: Vec::new(),
            written: 0,
            partial: Vec::new(),
            scanner: ReplyScanner::default(),
        })
    }

    /// Where requests are appended; `flush` sends them.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Writes what can be written; whether that was all.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads once, by way of `scratch`, and hands on each whole reply with the command that it answers.
    pub fn receive(&mut self, scratch: &mut [u8], each: impl FnMut(Waiting, &[u8])) -> io::Result<()> {
        let read = match self.stream.read(scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => &scratch[..read],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.partial.is_empty() {
            let used = self.cut(read, each)?;
            self.partial.extend_from_slice(&read[used..]);
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.partial);
        held.extend_from_slice(read);
        let used = self.cut(&held, each)?;
        held.drain(..used);
        self.partial = held;
        Ok(())
    }

    /// Hands on the whole replies at the front; how many bytes they were.
    fn cut(&mut self, bytes: &[u8], mut each: impl FnMut(Waiting, &[u8])) -> io::Result<usize> {
        let mut used = 0;
        while used < bytes.len() {
            let scanned = self.scanner.scan(&bytes[used..]);
            let Some(frame) = scanned.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))? else { break };
            let asked = self.waiting.pop_front();
            let asked = asked.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a reply that nobody asked for"))?;
            each(asked, &bytes[used..used + frame.len]);
            used += frame.len;
        }
        Ok(used)
    }
}
