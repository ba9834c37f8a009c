//! One connection of a lane: writes what is queued, reads, and cuts replies out.
//!
//! *Invariant:* bytes are handed over in stream order, each once.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use super::{Arrived, Lane, Loss};
use crate::net::{ReadHalf, WriteHalf, boottime};
use crate::protocol::reply::ReplyScanner;

/// Room kept free in the input buffer before a read.
const READ_ROOM: usize = 64 * 1024;

/// One connection.
pub(super) struct Link {
    pub read: ReadHalf,
    pub write: WriteHalf,
    pub buf: BytesMut,
    /// How much of `buf` has been handed over.
    pub taken: usize,
    pub scanner: ReplyScanner,
    pub in_pieces: bool,
    pub last_read: u64,
}

// === impl Link ===

impl Link {
    pub fn poll<T>(&mut self, cx: &mut Context<'_>, lane: &Lane<T>) -> Poll<Result<usize, Loss>> {
        self.poll_write(cx, lane)?;
        self.buf.advance(self.taken);
        self.taken = 0;
        self.buf.reserve(READ_ROOM);
        let read = pin!(self.read.read_buf(&mut self.buf)).poll(cx);
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Loss::Io("closed by upstream".into()))),
            Poll::Ready(Ok(read)) => {
                self.last_read = boottime();
                Poll::Ready(Ok(read))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Loss::Io(error.to_string()))),
        }
    }

    fn poll_write<T>(&mut self, cx: &mut Context<'_>, lane: &Lane<T>) -> Result<(), Loss> {
        let mut queue = lane.queue.borrow_mut();
        queue.trim();
        while !queue.unwritten().is_empty() {
            match self.write.try_write(queue.unwritten()) {
                Ok(written) => queue.wrote(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => match self.write.poll_write_ready(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Err(Loss::Io(error.to_string())),
                },
                Err(error) => return Err(Loss::Io(error.to_string())),
            }
        }
        if queue.out.is_empty() && queue.out.capacity() > 4 * READ_ROOM {
            // A burst's buffer is given back.
            queue.out = BytesMut::new();
        }
        Ok(())
    }

    /// What may be passed on of a large reply that is still coming in.
    pub fn piece<T>(&mut self, lane: &Lane<T>) -> Option<Arrived<'static, T>> {
        let progress = self.scanner.progress();
        if progress.kind.is_none_or(|kind| kind == b'>') || progress.ready < lane.limits.piece {
            return None;
        }
        let owed = lane.queue.borrow_mut().owed.pop_front()?;
        self.buf.advance(self.taken);
        self.taken = 0;
        let bytes = self.buf.split_to(progress.ready).freeze();
        self.scanner.consumed(progress.ready);
        self.in_pieces = true;
        Some(Arrived::Piece(owed, bytes))
    }
}
