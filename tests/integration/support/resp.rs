//! A blocking RESP client that shows the bytes as they came.
//!
//! Its reader is written for the tests and shares nothing with the crate, so that a fault of the one is not
//! hidden by the same fault of the other. `redis-protocol` is not used to decode: it drops a map's doubles and
//! its order, and knows no `$-1` in RESP3.

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::wait::PATIENCE;

/// A decoded reply.
#[derive(Clone, Debug, PartialEq)]
pub enum V {
    /// `+`
    Simple(String),
    /// `-` and RESP3's `!`
    Error(String),
    /// `:`
    Int(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// RESP3's `=`: the format and the text.
    Verbatim(String, Vec<u8>),
    /// `$-1`, `*-1` and RESP3's `_`
    Nil,
    /// RESP3's `#`
    Bool(bool),
    /// RESP3's `,`, as text
    Double(String),
    /// RESP3's `(`, as text
    Big(String),
    /// `*`
    Array(Vec<V>),
    /// RESP3's `~`, in the order sent
    Set(Vec<V>),
    /// RESP3's `%`, in the order sent
    Map(Vec<(V, V)>),
    /// RESP3's `>`
    Push(Vec<V>),
}

impl V {
    /// A bulk string.
    pub fn bulk(text: impl AsRef<[u8]>) -> V {
        V::Bulk(text.as_ref().to_vec())
    }

    /// The text of a simple, bulk or verbatim string, an error, a double or a big number.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            V::Simple(text) | V::Error(text) | V::Double(text) | V::Big(text) => text.clone(),
            V::Bulk(bytes) | V::Verbatim(_, bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("no text: {other:?}"),
        }
    }

    /// The number of an integer reply.
    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            V::Int(number) => *number,
            other => panic!("no integer: {other:?}"),
        }
    }

    /// The elements of an array, set or push.
    #[track_caller]
    pub fn items(&self) -> &[V] {
        match self {
            V::Array(items) | V::Set(items) | V::Push(items) => items,
            other => panic!("no elements: {other:?}"),
        }
    }

    /// The value beside `key` in a map, or in a flat array of pairs.
    pub fn field(&self, key: &str) -> Option<&V> {
        match self {
            V::Map(pairs) => pairs.iter().find(|(k, _)| k.text() == key).map(|(_, v)| v),
            V::Array(items) => items.chunks_exact(2).find(|pair| pair[0].text() == key).map(|pair| &pair[1]),
            other => panic!("no fields: {other:?}"),
        }
    }
}

/// The value at the start of `bytes` and its length; `None` if more bytes are needed.
pub fn decode(bytes: &[u8]) -> Option<(V, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[1..end]).expect("a header line in UTF-8");
    let number = || line.parse::<i64>().unwrap_or_else(|_| panic!("no number in {:?}", &bytes[..end]));
    let at = end + 2;
    let value = match bytes[0] {
        b'+' => V::Simple(line.into()),
        b'-' => V::Error(line.into()),
        b':' => V::Int(number()),
        b'_' => V::Nil,
        b'#' => V::Bool(line == "t"),
        b',' => V::Double(line.into()),
        b'(' => V::Big(line.into()),
        b'$' | b'*' if line == "-1" => V::Nil,
        kind @ (b'$' | b'=' | b'!') => return decode_bulk(kind, bytes, at, usize::try_from(number()).unwrap()),
        kind @ (b'*' | b'~' | b'>' | b'%' | b'|') => {
            return decode_aggregate(kind, bytes, at, usize::try_from(number()).unwrap());
        }
        other => panic!("not RESP: {:?} in {:?}", other as char, String::from_utf8_lossy(bytes)),
    };
    Some((value, at))
}

fn decode_bulk(kind: u8, bytes: &[u8], at: usize, length: usize) -> Option<(V, usize)> {
    let text = bytes.get(at..at + length)?;
    let end = bytes.get(at + length..at + length + 2)?;
    assert_eq!(end, b"\r\n", "a bulk string must end in CRLF");
    let value = match kind {
        b'$' => V::bulk(text),
        b'!' => V::Error(String::from_utf8_lossy(text).into()),
        _ => V::Verbatim(String::from_utf8_lossy(&text[..3]).into(), text[4..].to_vec()),
    };
    Some((value, at + length + 2))
}

fn decode_aggregate(kind: u8, bytes: &[u8], mut at: usize, length: usize) -> Option<(V, usize)> {
    let count = if matches!(kind, b'%' | b'|') { length * 2 } else { length };
    let mut items = Vec::new();
    for _ in 0..count {
        let (item, used) = decode(&bytes[at..])?;
        items.push(item);
        at += used;
    }
    let value = match kind {
        b'*' => V::Array(items),
        b'~' => V::Set(items),
        b'>' => V::Push(items),
        b'%' => {
            let mut items = items.into_iter();
            let pairs = std::iter::from_fn(|| Some((items.next()?, items.next()?)));
            V::Map(pairs.collect())
        }
        // An attribute stands before its value and is a part of that frame.
        _ => return decode(&bytes[at..]).map(|(value, used)| (value, at + used)),
    };
    Some((value, at))
}

/// A request as an array of bulk strings.
pub fn encode(args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.as_ref().len()).as_bytes());
        bytes.extend_from_slice(arg.as_ref());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A line as one would type it, split at blanks: `words("SET k 1")`.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A socket of either kind.
pub enum Stream {
    /// TCP
    Tcp(TcpStream),
    /// A Unix socket
    Unix(UnixStream),
}

impl Stream {
    /// Connects to `host:port` or `unix:/path`, with the tests' patience as time-out of reads and writes.
    pub fn connect(addr: &str) -> std::io::Result<Stream> {
        if let Some(path) = addr.strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            return Ok(Stream::Unix(stream));
        }
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Stream::Tcp(stream))
    }

    fn try_clone(&self) -> std::io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }

    fn set_read_timeout(&self, time: Duration) {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
        }
        .unwrap();
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A client's connection. All reads and writes fail the test after [`PATIENCE`].
pub struct Conn {
    stream: Stream,
    /// Read, but not yet given out.
    buffer: Vec<u8>,
}

impl Conn {
    /// Connects to `host:port` or `unix:/path`.
    #[track_caller]
    pub fn open(addr: impl Display) -> Conn {
        Conn::try_open(&addr).unwrap_or_else(|e| panic!("cannot connect to {addr}: {e}"))
    }

    /// As `open`; the caller looks at the error.
    pub fn try_open(addr: impl Display) -> std::io::Result<Conn> {
        Ok(Conn::from_stream(Stream::connect(&addr.to_string())?))
    }

    /// Of a socket that is there already.
    pub fn from_stream(stream: Stream) -> Conn {
        Conn { stream, buffer: Vec::new() }
    }

    /// As `open`, and switches to RESP3.
    #[track_caller]
    pub fn open3(addr: impl Display) -> Conn {
        let mut conn = Conn::open(addr);
        conn.send(&["HELLO", "3"]);
        assert_eq!(conn.read_frame()[0], b'%', "HELLO 3");
        conn
    }

    /// Reads wait so long from here on, until a method with a time of its own is called.
    pub fn set_patience(&mut self, time: Duration) {
        self.stream.set_read_timeout(time);
    }

    /// Sends one command.
    #[track_caller]
    pub fn send(&mut self, args: &[impl AsRef<[u8]>]) {
        self.send_raw(&encode(args));
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    /// Sends these bytes; false if the peer is gone.
    pub fn try_send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// A second handle of the same socket, to write from another thread while this one reads.
    pub fn writer(&self) -> Stream {
        self.stream.try_clone().unwrap()
    }

    /// The bytes of exactly one frame; pushes are frames too.
    #[track_caller]
    pub fn read_frame(&mut self) -> Vec<u8> {
        match self.try_read_frame() {
            Ok(frame) => frame,
            Err(e) => panic!("no whole frame but {:?}: {e}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// As `read_frame`; end of file and time-outs are errors.
    pub fn try_read_frame(&mut self) -> std::io::Result<Vec<u8>> {
        loop {
            if let Some((_, length)) = decode(&self.buffer) {
                return Ok(self.buffer.drain(..length).collect());
            }
            if !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next frame, decoded.
    #[track_caller]
    pub fn value(&mut self) -> V {
        decode(&self.read_frame()).unwrap().0
    }

    /// Sends one command and reads one frame.
    #[track_caller]
    pub fn call(&mut self, args: &[impl AsRef<[u8]>]) -> Vec<u8> {
        self.send(args);
        self.read_frame()
    }

    /// As `call`, decoded.
    #[track_caller]
    pub fn ask(&mut self, args: &[impl AsRef<[u8]>]) -> V {
        self.send(args);
        self.value()
    }

    /// Sends a command typed as a line (`"SET k 1"`) and reads one frame, decoded.
    #[track_caller]
    pub fn line(&mut self, line: &str) -> V {
        self.ask(&words(line))
    }

    /// Sends all lines in one write and reads as many frames.
    #[track_caller]
    pub fn pipeline(&mut self, lines: &[&str]) -> Vec<V> {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| encode(&words(line))).collect();
        self.send_raw(&bytes);
        lines.iter().map(|_| self.value()).collect()
    }

    /// Waits until the peer has closed; fails if bytes come first.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        while self.fill().unwrap_or_else(|e| panic!("the peer has not closed: {e}")) {}
        assert!(self.buffer.is_empty(), "bytes before the end: {:?}", String::from_utf8_lossy(&self.buffer));
    }

    /// Whether the peer has closed and everything it sent has been given out. Waits 1 ms at most.
    pub fn at_eof(&mut self) -> bool {
        self.stream.set_read_timeout(Duration::from_millis(1));
        let mut open = true;
        while let Ok(more) = self.fill() {
            open = more;
            if !more {
                break;
            }
        }
        self.stream.set_read_timeout(PATIENCE);
        !open && self.buffer.is_empty()
    }

    /// Fails if anything arrives, or the peer closes, within `time`.
    #[track_caller]
    pub fn nothing_for(&mut self, time: Duration) {
        self.stream.set_read_timeout(time);
        let outcome = if self.buffer.is_empty() { self.fill() } else { Ok(true) };
        self.stream.set_read_timeout(PATIENCE);
        match outcome {
            Ok(true) => panic!("bytes where none were expected: {:?}", String::from_utf8_lossy(&self.buffer)),
            Ok(false) => panic!("the peer closed"),
            Err(e) => assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{e}"),
        }
    }

    /// The next frame, decoded, if a whole one arrives within `time`.
    #[track_caller]
    pub fn try_read_within(&mut self, time: Duration) -> Option<V> {
        self.stream.set_read_timeout(time);
        let frame = self.try_read_frame();
        self.stream.set_read_timeout(PATIENCE);
        match frame {
            Ok(frame) => decode(&frame).map(|(value, _)| value),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("no frame: {e}"),
        }
    }

    /// Reads once; false at the end, be it a FIN or a RST.
    fn fill(&mut self) -> std::io::Result<bool> {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            // A test that stood still and goes on.
            Err(e) if e.kind() == ErrorKind::Interrupted => self.fill(),
            Ok(0) => Ok(false),
            Ok(length) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(false),
            Err(e) => Err(e),
        }
    }
}
