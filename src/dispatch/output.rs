//! What waits to be read by one client: small replies copied together, large ones by reference.
//!
//! *Invariant:* bytes leave in the order they were appended. Not here: when to write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::cache::Entry;
use crate::net::WriteHalf;

/// From this size on a reply is referenced, not copied.
pub const SHARED_FROM: usize = 16 * 1024;

/// Most pieces in one vectored write.
const PIECES: usize = 16;

/// A buffer larger than this is given back when it is empty, so that an idle client costs little.
const KEEP: usize = 1024;

/// A buffer that outgrows `KEEP` becomes so large at once: a pipeline's replies are copied into it, not it into itself.
const ROOM: usize = 8 * 1024;

/// A point in what waits; see [`Output::mark`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pieces: usize,
    tail: usize,
}

/// Bytes on their way to one client.
#[derive(Debug, Default)]
pub struct Output {
    /// Finished pieces, in order, before `tail`.
    pieces: VecDeque<Bytes>,
    /// Small replies appended since.
    tail: BytesMut,
    /// Bytes in `pieces`.
    in_pieces: usize,
    /// `tail` is what is left of a larger buffer, so its capacity does not tell what it costs.
    cut: bool,
}

impl Output {
    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.in_pieces + self.tail.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a copy.
    #[inline]
    pub fn copy(&mut self, bytes: &[u8]) {
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            self.grow(bytes.len());
        }
        self.tail.extend_from_slice(bytes);
    }

    #[cold]
    fn grow(&mut self, by: usize) {
        let single = self.tail.is_empty();
        let wanted = self.tail.len() + by;
        self.tail.reserve(if single {
            by
        } else if wanted <= KEEP {
            KEEP - self.tail.len()
        } else {
            by.max(ROOM)
        });
    }

    /// Appends a cached reply.
    #[inline]
    pub fn entry(&mut self, entry: &Entry) {
        match entry.reply() {
            small if small.len() < SHARED_FROM => self.copy(small),
            _ => self.share(&entry.shared_reply()),
        }
    }

    /// Appends by reference if it is large, else a copy.
    pub fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_FROM {
            return self.copy(bytes);
        }
        self.seal();
        self.in_pieces += bytes.len();
        self.pieces.push_back(bytes.clone());
    }

    /// Appends all of `other`.
    pub fn append(&mut self, mut other: Output) {
        if other.pieces.is_empty() {
            return self.copy(&other.tail);
        }
        other.seal();
        self.seal();
        self.in_pieces += other.in_pieces;
        self.pieces.append(&mut other.pieces);
    }

    /// The buffer that small replies are built in.
    pub fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Where it ends now, until something is written.
    pub fn mark(&self) -> Mark {
        Mark { pieces: self.pieces.len(), tail: self.tail.len() }
    }

    /// Forgets what was appended behind a mark.
    pub fn cut_back(&mut self, to: Mark) {
        let mut behind = self.pieces.drain(to.pieces.min(self.pieces.len())..);
        let Some(mut sealed) = behind.next() else { return self.tail.truncate(to.tail) };
        self.in_pieces -= sealed.len() + behind.map(|piece| piece.len()).sum::<usize>();
        // What was the tail then; or, had it been empty, a piece that came later.
        sealed.truncate(to.tail);
        self.tail.clear();
        self.tail.extend_from_slice(&sealed);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Output::default();
    }

    /// Writes what the socket takes; whether all is written.
    pub fn write(&mut self, half: &WriteHalf) -> io::Result<(usize, bool)> {
        let mut total = 0;
        while !self.is_empty() {
            let written = match self.write_once(half) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((total, false)),
                Err(error) => return Err(error),
            };
            total += written;
            self.advance(written);
        }
        if self.cut || self.tail.capacity() > KEEP {
            self.tail = BytesMut::new();
            self.cut = false;
        }
        Ok((total, true))
    }

    fn write_once(&self, half: &WriteHalf) -> io::Result<usize> {
        if self.pieces.is_empty() {
            return half.try_write(&self.tail);
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for bytes in self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]).take(PIECES) {
            if let Some(slice) = slices.get_mut(count) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
        }
        half.try_write_vectored(slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let step = written.min(piece.len());
            self.in_pieces -= step;
            written -= step;
            if step < piece.len() {
                piece.advance(step);
                return;
            }
            self.pieces.pop_front();
        }
        if written >= self.tail.len() {
            self.tail.clear();
        } else if written > 0 {
            self.tail.advance(written);
            self.cut = true;
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.in_pieces += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
            self.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_burst_needed_is_given_back_when_it_is_written() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().expect("a pair");
        let (_, half) = crate::net::Stream::Unix(ours).into_split();
        let mut output = Output::default();
        output.copy(&[b'a'; 100]);
        assert_eq!(output.write(&half).expect("written"), (100, true));
        assert!((100..=KEEP).contains(&output.tail.capacity()), "a single reply's buffer stays");
        for _ in 0..30 {
            output.copy(&[b'a'; 100]);
        }
        assert_eq!(output.write(&half).expect("written"), (3000, true));
        assert_eq!(output.tail.capacity(), 0, "a pipeline's is given back");
    }

    #[test]
    fn bytes_leave_in_the_order_they_were_appended() {
        let mut output = Output::default();
        output.copy(b"a");
        output.share(&Bytes::from(vec![b'b'; SHARED_FROM]));
        let mut other = Output::default();
        other.copy(b"c");
        output.append(other);
        assert_eq!(output.len(), SHARED_FROM + 2);
        output.advance(2);
        assert_eq!(output.pieces.front().map(Bytes::len), Some(SHARED_FROM - 1));
        output.advance(SHARED_FROM - 1);
        assert_eq!(&output.tail[..], b"c");
        output.advance(1);
        assert!(output.is_empty());
    }

    #[test]
    fn what_came_behind_a_mark_is_forgotten() {
        let large = Bytes::from(vec![b'b'; SHARED_FROM]);
        for (before, behind) in
            [("", "c"), ("a", "c"), ("", "lcl"), ("a", "l"), ("a", "clcl"), ("al", "l"), ("la", "cl")]
        {
            let mut output = Output::default();
            let append = |output: &mut Output, what: &str| {
                what.chars().for_each(|c| if c == 'l' { output.share(&large) } else { output.copy(&[c as u8]) });
            };
            append(&mut output, before);
            let (mark, len) = (output.mark(), output.len());
            append(&mut output, behind);
            output.cut_back(mark);
            assert_eq!(output.len(), len, "{before} {behind}");
            append(&mut output, "zl");
            let all: Vec<u8> = output.pieces.iter().flatten().chain(&output.tail).copied().collect();
            let expected = format!("{before}zl").replace('l', std::str::from_utf8(&large).unwrap());
            assert_eq!(all, expected.as_bytes(), "{before} {behind}");
            assert_eq!(output.len(), expected.len());
        }
    }
}
