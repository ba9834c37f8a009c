//! RESP3 replies rewritten for clients that speak RESP2.
//!
//! *Invariant:* the bytes are those that the same server would have sent to a RESP2 connection: types map
//! one to one, and a command's [`Shape`] says where its RESP2 reply is built otherwise. Replies are taken
//! in pieces, as they come in; between pieces nothing of a reply is kept but where it stands. The input has
//! been cut into frames before; bytes that are no RESP pass as they are. Not here: finding frames' ends.

use bytes::BufMut;
use memchr::memchr_iter;

/// How a command's RESP2 reply differs from its RESP3 reply beyond the mapping of types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Not at all; every null is `$-1`.
    Same,
    /// The reply itself, when null, is `*-1` (LPOP with a count, LMPOP, EXEC).
    NullArray,
    /// As NullArray on a time-out, but `$-1` inside EXEC, where the command does not wait (BLMOVE, BRPOPLPUSH).
    NullArrayOnTimeout,
    /// Null elements of the reply are `*-1` (GEOPOS).
    NullArrayParts,
    /// An array of pairs is flat in RESP2 (WITHSCORES, WITHVALUES, ZPOPMIN with a count); one without pairs stays.
    Pairs,
    /// A map of streams is an array of pairs in RESP2, and every null is `*-1` (XREAD, XREADGROUP).
    Streams,
    /// The summary of XPENDING: its last element, when null, is `*-1`.
    Pending,
}

/// A reply being rewritten.
#[derive(Clone, Debug)]
pub struct Downgrade {
    /// The shape of the reply, or of an EXEC's elements in turn.
    shapes: Shapes,
    /// The aggregates that are open, outermost first.
    open: Vec<Open>,
    /// What the bytes to come belong to.
    state: State,
}

/// One shape, or one for each element of an EXEC.
#[derive(Clone, Debug)]
enum Shapes {
    One(Shape),
    Exec(Vec<Shape>),
}

/// An aggregate of which elements are still to come.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Elements to come.
    left: u64,
    /// Elements that are in.
    done: u64,
    /// What is done with them.
    role: Role,
}

/// What is done with an aggregate's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// They are rewritten.
    Plain,
    /// Each is a pair whose header is dropped.
    Pairs,
    /// Each two are given a header of their own.
    Entries,
    /// They are dropped: those of an attribute, or of a push amid a reply, which count as no element.
    Attribute,
    /// They are dropped: those of an aggregate inside such a one.
    Dropped,
}

/// What the bytes to come belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A header or a simple value.
    Line,
    /// The array of a [`Shape::Pairs`] reply, whose header waits for the first element to show whether pairs follow.
    First { len: u64 },
    /// A bulk's bytes, its last CR LF included.
    Body { left: u64 },
    /// The format of a verbatim string (`txt:`), then its text, the last CR LF included.
    Format { left: u64, text: u64 },
    /// A blob error's text, its last CR LF included.
    Error { left: u64 },
    /// Bytes that are dropped.
    Skip { left: u64 },
    /// Nothing: the reply is complete.
    Done,
}

/// Rewrites a whole reply or push of this shape and appends it to `out`.
pub fn rewrite_whole(frame: &[u8], shape: Shape, out: &mut impl BufMut) {
    Downgrade::new(shape).rewrite(frame, out);
}

// === impl Shape ===

impl Shape {
    /// Whether the reply may have to be rewritten although no RESP3-only type occurs in it (HRANDFIELD WITHVALUES).
    pub fn hides(self) -> bool {
        self == Shape::Pairs
    }
}

// === impl Downgrade ===

impl Downgrade {
    /// A reply of this shape.
    pub fn new(shape: Shape) -> Downgrade {
        Downgrade { shapes: Shapes::One(shape), open: Vec::new(), state: State::Line }
    }

    /// The reply to an EXEC whose queued commands have these shapes, in order.
    pub fn exec(shapes: Vec<Shape>) -> Downgrade {
        Downgrade { shapes: Shapes::Exec(shapes), open: Vec::new(), state: State::Line }
    }

    /// Rewrites as much of `input` as can be, appends it to `out`, which must grow as needed (`Vec<u8>`, `BytesMut`), and
    /// returns the number of bytes taken. Bulk bodies are taken in part, headers in whole; what is not taken must stand
    /// at the beginning of the next call's input. Takes nothing beyond the end of the reply.
    pub fn rewrite(&mut self, input: &[u8], out: &mut impl BufMut) -> usize {
        let mut taken = 0;
        while let Some(step) = self.step(input.get(taken..).unwrap_or_default(), out) {
            taken += step;
        }
        taken
    }

    /// Whether the reply is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// One header or one part of a body: the number of bytes taken, or none if there must be more first.
    fn step(&mut self, rest: &[u8], out: &mut impl BufMut) -> Option<usize> {
        if rest.is_empty() {
            return None;
        }
        match self.state {
            State::Line => self.line(rest, out),
            State::First { len } => {
                let pairs = rest.first() == Some(&b'*');
                header(b'*', if pairs { len * 2 } else { len }, out);
                self.open(len, if pairs { Role::Pairs } else { Role::Plain });
                Some(0)
            }
            State::Body { left } => {
                Some(self.body(left, rest, |part| out.put_slice(part), |left| State::Body { left }))
            }
            State::Skip { left } => Some(self.body(left, rest, |_| {}, |left| State::Skip { left })),
            State::Format { left: 0, text } => {
                self.state = State::Body { left: text };
                Some(0)
            }
            State::Format { left, text } => Some(self.body(left, rest, |_| {}, |left| State::Format { left, text })),
            State::Error { left: 2 } => {
                out.put_slice(b"\r\n");
                self.state = State::Skip { left: 2 };
                Some(0)
            }
            State::Error { left } => {
                let text = rest.get(..rest.len().min(left as usize - 2)).unwrap_or_default();
                text.iter().for_each(|&byte| out.put_u8(if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
                self.state = State::Error { left: left - text.len() as u64 };
                Some(text.len())
            }
            State::Done => None,
        }
    }

    /// As much of a body as is there.
    fn body(&mut self, left: u64, rest: &[u8], put: impl FnOnce(&[u8]), next: impl FnOnce(u64) -> State) -> usize {
        let part = rest.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(rest);
        put(part);
        let left = left - part.len() as u64;
        self.state = next(left);
        if left == 0 && !matches!(self.state, State::Format { .. }) {
            self.end();
        }
        part.len()
    }

    /// A header or a simple value.
    fn line(&mut self, rest: &[u8], out: &mut impl BufMut) -> Option<usize> {
        // A line feed alone does not end a text.
        let taken = memchr_iter(b'\n', rest).find(|at| rest.get(at.wrapping_sub(1)) == Some(&b'\r'))? + 1;
        let whole = rest.get(..taken)?;
        let text = whole.get(1..taken.saturating_sub(2)).unwrap_or_default();
        let kind = whole.first().copied().unwrap_or_default();
        let len = number(text);
        if self.drops() {
            self.drop_value(kind, len);
            return Some(taken);
        }
        // A push amid a reply is none of its elements, and nothing that a RESP2 client can be sent.
        let push = kind == b'>' && !self.open.is_empty();
        if kind != b'|' && !push {
            self.begin(out);
        }
        match (kind, len) {
            (_, Some(len)) if push => self.open(len, Role::Attribute),
            (b'_', _) => self.simple(self.null(), out),
            (b'#', _) => self.simple(if text == b"t" { b":1\r\n" } else { b":0\r\n" }, out),
            (b',' | b'(', _) => {
                header(b'$', text.len() as u64, out);
                out.put_slice(text);
                self.simple(b"\r\n", out);
            }
            (b'$', Some(len)) => {
                out.put_slice(whole);
                self.state = State::Body { left: len + 2 };
            }
            (b'=', Some(len)) => {
                let format = len.min(4);
                header(b'$', len - format, out);
                self.state = State::Format { left: format, text: len - format + 2 };
            }
            (b'!', Some(len)) => {
                out.put_slice(b"-");
                self.state = State::Error { left: len + 2 };
            }
            (b'*' | b'~' | b'>', Some(len)) => self.array(len, out),
            (b'%', Some(len)) => self.map(len, out),
            (b'|', Some(len)) => self.open(len.saturating_mul(2), Role::Attribute),
            _ => self.simple(whole, out),
        }
        Some(taken)
    }

    /// The header of an array, a set or a push.
    fn array(&mut self, len: u64, out: &mut impl BufMut) {
        if self.open.last().is_some_and(|parent| parent.role == Role::Pairs) {
            self.open(len, Role::Plain);
        } else if self.here() == (0, Shape::Pairs) && len > 0 {
            self.state = State::First { len };
        } else {
            header(b'*', len, out);
            self.open(len, Role::Plain);
        }
    }

    /// The header of a map of `len` entries.
    fn map(&mut self, len: u64, out: &mut impl BufMut) {
        let double = len.saturating_mul(2);
        if self.here() == (0, Shape::Streams) {
            header(b'*', len, out);
            self.open(double, Role::Entries);
        } else {
            header(b'*', double, out);
            self.open(double, Role::Plain);
        }
    }

    /// Something inside an attribute.
    fn drop_value(&mut self, kind: u8, len: Option<u64>) {
        match (kind, len) {
            (b'$' | b'=' | b'!', Some(len)) => self.state = State::Skip { left: len + 2 },
            (b'*' | b'~', Some(len)) => self.open(len, Role::Dropped),
            (b'>', Some(len)) => self.open(len, Role::Attribute),
            (b'%', Some(len)) => self.open(len.saturating_mul(2), Role::Dropped),
            (b'|', Some(len)) => self.open(len.saturating_mul(2), Role::Attribute),
            _ => self.end(),
        }
    }

    /// A value in one piece.
    fn simple(&mut self, bytes: &[u8], out: &mut impl BufMut) {
        out.put_slice(bytes);
        self.end();
    }

    /// Before any value: the header that a pair of a [`Shape::Streams`] map has in RESP2.
    fn begin(&mut self, out: &mut impl BufMut) {
        if self.open.last().is_some_and(|parent| parent.role == Role::Entries && parent.done % 2 == 0) {
            header(b'*', 2, out);
        }
    }

    /// An aggregate of `len` elements begins.
    fn open(&mut self, len: u64, role: Role) {
        self.state = State::Line;
        if len > 0 {
            self.open.push(Open { left: len, done: 0, role });
        } else if role != Role::Attribute {
            self.end();
        }
    }

    /// A value is complete, and with it perhaps the aggregates that it ends.
    fn end(&mut self) {
        self.state = State::Line;
        while let Some(parent) = self.open.last_mut() {
            parent.left -= 1;
            parent.done += 1;
            if parent.left > 0 {
                return;
            }
            let role = parent.role;
            self.open.pop();
            if role == Role::Attribute {
                return;
            }
        }
        self.state = State::Done;
    }

    /// Whether what comes is part of an attribute.
    fn drops(&self) -> bool {
        self.open.last().is_some_and(|parent| matches!(parent.role, Role::Attribute | Role::Dropped))
    }

    /// How deep in its command's reply the next value lies, and that reply's shape.
    fn here(&self) -> (usize, Shape) {
        match (&self.shapes, self.open.first()) {
            (Shapes::One(shape), _) => (self.open.len(), *shape),
            (Shapes::Exec(_), None) => (0, Shape::NullArray),
            (Shapes::Exec(shapes), Some(exec)) => {
                let shape = usize::try_from(exec.done).ok().and_then(|i| shapes.get(i)).copied().unwrap_or(Shape::Same);
                let shape = if shape == Shape::NullArrayOnTimeout { Shape::Same } else { shape };
                (self.open.len() - 1, shape)
            }
        }
    }

    /// The RESP2 null where the next value stands.
    fn null(&self) -> &'static [u8] {
        let last_of_four = self.open.last().is_some_and(|parent| parent.done == 3);
        match self.here() {
            (_, Shape::Streams) | (0, Shape::NullArray | Shape::NullArrayOnTimeout) | (1, Shape::NullArrayParts) => {
                b"*-1\r\n"
            }
            (1, Shape::Pending) if last_of_four => b"*-1\r\n",
            _ => b"$-1\r\n",
        }
    }
}

/// A header with a length.
fn header(kind: u8, len: u64, out: &mut impl BufMut) {
    out.put_u8(kind);
    out.put_slice(itoa::Buffer::new().format(len).as_bytes());
    out.put_slice(b"\r\n");
}

/// A header's length; none for what is no length (`-1`, a simple value).
fn number(text: &[u8]) -> Option<u64> {
    // Longer than any length a server sends, and small enough that sums of it do not overflow.
    const DIGITS: usize = 18;
    if text.is_empty() || text.len() > DIGITS {
        return None;
    }
    text.iter().try_fold(0, |sum: u64, &digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests;
