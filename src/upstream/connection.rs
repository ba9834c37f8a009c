//! One raw connection to upstream, for one client at a time.
//!
//! *Invariant:* it counts the replies it is owed; it is clean only when none is, nothing lies in its buffers,
//! and nobody has tainted it. Whatever is dropped or cancelled in the midst of something leaves it unclean,
//! and an unclean connection is closed, never used again: no reply can reach the wrong client.
//! All waiting methods may be cancelled: what was read or written by then is kept.
//! Not here: who may have it (`dedicated`), what a reply means.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::handshake::{Ready, write_command};
use crate::net::Stream;
use crate::protocol::{Frame, ReplyError, ReplyScanner};

/// Room made for a read.
const READ_SIZE: usize = 16 * 1024;
/// From here on an unfinished reply is handed on in pieces, each at least so long, and reads are as large.
const PIECE_SIZE: usize = 64 * 1024;
/// A buffer that has grown beyond this is given back when the connection rests.
const KEPT_CAPACITY: usize = READ_SIZE;

/// A raw connection to upstream.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    stream: Stream,
    /// Read, not yet taken.
    input: BytesMut,
    /// Appended, not yet written.
    output: BytesMut,
    /// How far the reply at the front of `input` has been looked at.
    scanner: ReplyScanner,
    /// Pieces of a reply were taken and its end was not.
    under_way: bool,
    /// What the handshake taught.
    pub ready: Ready,
    /// The RESP version in force.
    proto: u8,
    /// The database in force.
    db: u32,
    /// Replies to commands sent or appended that were not taken yet, one under way included.
    owed: u32,
    /// Its state cannot be proven clean, or it has failed.
    tainted: bool,
    /// Turns true when its node is not the one to talk to any more; `None`: never.
    left: Option<watch::Receiver<bool>>,
}

/// A reply or push, or a piece of one: raw bytes, shared with the buffer they were read into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub bytes: Bytes,
    /// First byte of the value (after attributes) that this is a piece of: `$`, `*`, `>` …
    pub kind: u8,
    /// Whether a type that RESP2 lacks has occurred in it so far.
    pub resp3: bool,
    /// Where in `bytes` the value begins, after attributes; 0 in later pieces.
    pub start: usize,
    /// Whether it is the value's first piece.
    pub first: bool,
    /// Whether it is the value's last piece.
    pub last: bool,
}

/// What went wrong on a connection; it is then tainted, except after `Refused`.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Upstream closed it.
    #[error("closed by upstream")]
    Closed,
    /// Upstream's bytes are no RESP.
    #[error("upstream does not speak RESP: {0}")]
    Protocol(#[from] ReplyError),
    /// A reply that nobody asked for: the replies are out of step.
    #[error("upstream sent a reply that nobody asked for")]
    Unasked,
    /// HELLO or SELECT of [`Connection::align`] was refused: upstream's own error line, without its CRLF.
    #[error("refused: {}", String::from_utf8_lossy(.0))]
    Refused(Vec<u8>),
}

// === impl Piece ===

impl Piece {
    /// Whether it belongs to a push, which answers no command.
    pub fn is_push(&self) -> bool {
        self.kind == b'>'
    }

    /// The error's line without its CRLF, if the whole reply is an error.
    pub fn error_line(&self) -> Option<&[u8]> {
        let value = self.bytes.get(self.start..)?;
        matches!(self.kind, b'-' | b'!').then(|| value.strip_suffix(b"\r\n").unwrap_or(value))
    }
}

// === impl Connection ===

impl Connection {
    /// A connection whose handshake is done; `left` came behind it.
    pub fn new(stream: Stream, ready: Ready, db: u32, left: BytesMut) -> Connection {
        Connection {
            stream,
            input: left,
            output: BytesMut::new(),
            scanner: ReplyScanner::default(),
            under_way: false,
            proto: ready.proto,
            ready,
            db,
            owed: 0,
            tainted: false,
            left: None,
        }
    }

    /// The same, which fails as soon as `left` is true: its node is not the one to talk to any more.
    pub(super) fn until(mut self, left: watch::Receiver<bool>) -> Connection {
        self.left = Some(left);
        self
    }

    /// The RESP version in force.
    pub fn proto(&self) -> u8 {
        self.proto
    }

    /// The database in force.
    pub fn db(&self) -> u32 {
        self.db
    }

    /// Replies still owed, one under way included.
    pub fn owed(&self) -> u32 {
        self.owed
    }

    /// Appends whole commands that will be answered by so many replies. Nothing is written before
    /// [`Connection::flush`].
    pub fn send(&mut self, raw: &[u8], replies: u32) {
        self.output.extend_from_slice(raw);
        self.owed = self.owed.saturating_add(replies);
    }

    /// Bytes appended and not yet written.
    pub fn unwritten(&self) -> usize {
        self.output.len()
    }

    /// Writes all that was appended.
    ///
    /// # Errors
    /// The socket's; the connection is then tainted.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let written = tokio::select! {
                biased;
                written = self.stream.write_buf(&mut self.output) => written,
                error = left(&mut self.left) => Err(error),
            };
            let result = match written {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other,
            };
            if result.is_err() {
                self.tainted = true;
            }
            result?;
        }
        Ok(())
    }

    /// The next whole reply or push. For replies of bounded size: it is collected in memory.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then tainted.
    pub async fn read_reply(&mut self) -> Result<Piece, ConnectionError> {
        loop {
            if let Some(reply) = self.buffered_reply()? {
                return Ok(reply);
            }
            self.fill().await?;
        }
    }

    /// The next reply or push, or a piece of it: what is small comes whole, a long reply as it comes in.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then tainted.
    pub async fn read_some(&mut self) -> Result<Piece, ConnectionError> {
        loop {
            if let Some(reply) = self.buffered_reply()? {
                return Ok(reply);
            }
            if let Some(piece) = self.take_ready() {
                return Ok(piece);
            }
            self.fill().await?;
        }
    }

    /// A whole reply or push (or the last piece of one under way) that is in the buffer already; no waiting.
    ///
    /// # Errors
    /// [`ConnectionError`], except of the socket; the connection is then tainted.
    pub fn buffered_reply(&mut self) -> Result<Option<Piece>, ConnectionError> {
        match self.scanner.scan(&self.input) {
            Ok(None) => Ok(None),
            Ok(Some(frame)) => self.take_frame(frame).map(Some),
            Err(error) => {
                self.tainted = true;
                Err(error.into())
            }
        }
    }

    /// Brings a clean connection to a RESP version and a database, saying only what differs: no round trip if
    /// nothing does. The caller sets the time limit.
    ///
    /// # Errors
    /// `Refused` with upstream's words leaves the connection clean, what was not refused being done; any other
    /// taints it.
    pub async fn align(&mut self, proto: u8, db: u32) -> Result<(), ConnectionError> {
        let (hello, select) = (proto != self.proto, db != self.db);
        let mut request = BytesMut::new();
        let mut number = itoa::Buffer::new();
        if hello {
            write_command(&mut request, &[b"HELLO", number.format(proto).as_bytes()]);
        }
        if select {
            write_command(&mut request, &[b"SELECT", number.format(db).as_bytes()]);
        }
        self.send(&request, u32::from(hello) + u32::from(select));
        self.flush().await?;
        // All answers are read before any is judged, or a refusal would leave one owed.
        let hello = if hello { Some(self.read_answer().await?) } else { None };
        let select = if select { Some(self.read_answer().await?) } else { None };
        let refused = |answer: &Option<Piece>| answer.as_ref().and_then(Piece::error_line).map(<[u8]>::to_vec);
        let (no_hello, no_select) = (refused(&hello), refused(&select));
        if hello.is_some() && no_hello.is_none() {
            self.proto = proto;
        }
        if select.is_some() && no_select.is_none() {
            self.db = db;
        }
        no_hello.or(no_select).map_or(Ok(()), |line| Err(ConnectionError::Refused(line)))
    }

    /// A command of the client's own has selected this database.
    pub fn note_db(&mut self, db: u32) {
        self.db = db;
    }

    /// A HELLO of the client's own has changed to this RESP version.
    pub fn note_proto(&mut self, proto: u8) {
        self.proto = proto;
    }

    /// Its state cannot be proven clean: it will be closed and not returned. A tainted connection may send what
    /// nobody asked for, as one that subscribes or monitors does.
    pub fn taint(&mut self) {
        self.tainted = true;
    }

    /// Whether the next client may have it: nothing owed, nothing buffered, never tainted.
    pub fn is_clean(&self) -> bool {
        // A reply under way is still owed.
        self.owed == 0 && !self.tainted && self.input.is_empty() && self.output.is_empty()
    }

    /// Whether upstream has been silent since it was last used. Any byte, and the end, make a resting
    /// connection unfit: one system call, no round trip.
    pub fn is_silent(&self) -> bool {
        self.stream.is_silent()
    }

    /// Makes the coming close a reset, so that what was written and not yet delivered never is.
    pub fn abort(&self) {
        self.stream.abort();
    }

    /// Gives back large buffers before a rest.
    pub(super) fn rest(&mut self) {
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.capacity() > KEPT_CAPACITY {
                *buffer = BytesMut::new();
            }
        }
    }

    /// The next reply that is no push, whole.
    async fn read_answer(&mut self) -> Result<Piece, ConnectionError> {
        loop {
            let reply = self.read_reply().await?;
            if !reply.is_push() {
                return Ok(reply);
            }
        }
    }

    fn take_frame(&mut self, frame: Frame) -> Result<Piece, ConnectionError> {
        let first = !std::mem::replace(&mut self.under_way, false);
        if frame.kind != b'>' {
            if self.owed == 0 && !self.tainted {
                self.tainted = true;
                return Err(ConnectionError::Unasked);
            }
            self.owed = self.owed.saturating_sub(1);
        }
        let bytes = self.input.split_to(frame.len).freeze();
        Ok(Piece { bytes, kind: frame.kind, resp3: frame.resp3, start: frame.start, first, last: true })
    }

    /// What may be passed on of a long reply that is not whole yet. Pushes are never cut: they are short, and
    /// whoever reads them needs them whole.
    fn take_ready(&mut self) -> Option<Piece> {
        let progress = self.scanner.progress();
        let kind = progress.kind.filter(|&kind| kind != b'>')?;
        if progress.ready < PIECE_SIZE {
            return None;
        }
        let first = !std::mem::replace(&mut self.under_way, true);
        let start = if first { progress.start } else { 0 };
        let bytes = self.input.split_to(progress.ready).freeze();
        self.scanner.consumed(progress.ready);
        Some(Piece { bytes, kind, resp3: progress.resp3, start, first, last: false })
    }

    async fn fill(&mut self) -> Result<(), ConnectionError> {
        let room = if self.input.len() < READ_SIZE { READ_SIZE } else { PIECE_SIZE };
        self.input.reserve(room);
        let read = tokio::select! {
            biased;
            read = self.stream.read_buf(&mut self.input) => read,
            error = left(&mut self.left) => Err(error),
        };
        let result = match read {
            Ok(0) => Err(ConnectionError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if result.is_err() {
            self.tainted = true;
        }
        result
    }
}

/// Ends when the node is not the one to talk to any more.
async fn left(left: &mut Option<watch::Receiver<bool>>) -> io::Error {
    if let Some(left) = left
        && left.wait_for(|left| *left).await.is_ok()
    {
        return io::Error::new(io::ErrorKind::ConnectionAborted, "the node is not the master any more");
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;
