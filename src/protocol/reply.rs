//! Finds where a reply ends: every RESP2 and RESP3 type, nested, in pieces of any size.
//!
//! Invariant: no byte is looked at twice however the reply is cut, nothing is allocated from a declared length, and
//! nesting costs no stack. What is accepted is one well-framed value; its bytes are never changed. Not here: what a
//! reply says, and its rewriting for RESP2 clients.

use super::number;
use crate::limits::REPLY_DEPTH;

/// Longest header or number line of a sane server, CRLF included: a double's digits fit with room to spare.
const NUMBER_LINE: usize = 512;

/// A whole reply or push at the front of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes that are still in the buffer, attributes included.
    pub len: usize,
    /// First byte of the value itself, after attributes.
    pub kind: u8,
    /// Whether a type that RESP2 lacks occurs in it, attributes included; RESP2's own nulls do not count.
    pub resp3: bool,
    /// Where the value begins, after attributes; 0 if that has been [consumed](ReplyScanner::consumed).
    pub start: usize,
}

/// What is known of a reply that is not whole yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes at the front that are whole tokens or bulk content: they may be passed on.
    pub ready: usize,
    /// First byte of the value itself, once it is known.
    pub kind: Option<u8>,
    /// Whether a type that RESP2 lacks has occurred.
    pub resp3: bool,
    /// Where the value begins, after attributes, as in [`Frame::start`]; of no meaning before `kind` is known.
    pub start: usize,
}

/// Why upstream's bytes are no reply. The connection is of no use afterwards: where the next reply begins is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No type begins with this byte.
    #[error("unknown type byte 0x{0:02x} in a reply")]
    UnknownType(u8),
    /// A streamed string or aggregate, which no server sends.
    #[error("streamed type in a reply")]
    Streamed,
    /// A length is no number, or negative where there is no null.
    #[error("invalid length in a reply")]
    InvalidLength,
    /// A number, boolean or null is none.
    #[error("invalid scalar in a reply")]
    InvalidScalar,
    /// A bulk string is longer or shorter than it said.
    #[error("no CRLF behind a bulk string of a reply")]
    UnterminatedBulk,
    /// Aggregates within aggregates beyond what is allowed.
    #[error("reply nested too deeply")]
    TooDeep,
    /// The lengths add up to more than can be addressed.
    #[error("reply too long")]
    TooLong,
    /// Well framed, but not a value that can be decoded.
    #[error("reply cannot be decoded")]
    Undecodable,
}

/// Scans one connection's replies, one after the other, and remembers how far a partial one has been looked at.
#[derive(Debug)]
pub struct ReplyScanner {
    /// Whether a reply is under way; all below is at its initial value otherwise.
    begun: bool,
    /// Bytes of the buffer that need no second look.
    pos: usize,
    /// Bulk content still to come from `pos` on, its CRLF not included.
    content: Option<usize>,
    /// Bytes from `pos` that are known to hold no line end.
    searched: usize,
    /// Elements still to come in the innermost aggregate; 1 is the reply itself.
    left: u64,
    /// The same for the aggregates around it, outermost first; at most `depth`.
    outer: Vec<u64>,
    /// How deep a reply may nest.
    depth: usize,
    /// What to report of the reply.
    kind: Option<u8>,
    resp3: bool,
    start: usize,
    /// Bytes looked at, all replies together.
    #[cfg(test)]
    looked: usize,
}

/// What stands at the front of the buffer within a reply.
enum Token {
    /// A whole value of so many bytes without elements.
    Scalar(usize),
    /// Header and content of a bulk string.
    Bulk { header: usize, content: usize },
    /// Header and element count of an aggregate, keys and values counted singly.
    Aggregate { header: usize, elements: u64 },
    /// Not there yet.
    Partial,
}

// === impl ReplyScanner ===

impl Default for ReplyScanner {
    fn default() -> Self {
        ReplyScanner {
            begun: false,
            pos: 0,
            content: None,
            searched: 0,
            left: 1,
            outer: Vec::new(),
            depth: REPLY_DEPTH,
            kind: None,
            resp3: false,
            start: 0,
            #[cfg(test)]
            looked: 0,
        }
    }
}

impl ReplyScanner {
    /// A scanner for replies that nest no deeper than this.
    pub fn within(depth: usize) -> ReplyScanner {
        ReplyScanner { depth, ..ReplyScanner::default() }
    }

    /// The reply or push at the front of `buf`, or nothing if it is not whole. After nothing the next `buf` must begin
    /// with the same bytes (less those [consumed](Self::consumed)), after a frame with what follows it.
    ///
    /// # Errors
    /// Bytes that are no RESP.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Option<Frame>, ReplyError> {
        if !self.begun
            && let Some(len) = common(buf)
            && let Some(&kind) = buf.first()
        {
            return Ok(Some(Frame { len, kind, resp3: kind == b'_', start: 0 }));
        }
        self.resume(buf)
    }

    /// What is known of the reply under way.
    pub fn progress(&self) -> Progress {
        Progress { ready: self.pos, kind: self.kind, resp3: self.resp3, start: self.start }
    }

    /// The caller has removed `n` bytes of the reply under way, at most [`Progress::ready`], from the buffer's front.
    pub fn consumed(&mut self, n: usize) {
        debug_assert!(n <= self.pos, "bytes removed that may be needed again");
        self.pos = self.pos.saturating_sub(n);
        self.start = self.start.saturating_sub(n);
    }

    fn resume(&mut self, buf: &[u8]) -> Result<Option<Frame>, ReplyError> {
        self.begun = !buf.is_empty() || self.begun;
        loop {
            if !self.pass_content(buf)? {
                return Ok(None);
            }
            while self.left == 0 {
                match self.outer.pop() {
                    Some(left) => self.left = left,
                    None => return Ok(Some(self.finish())),
                }
            }
            if !self.outer.is_empty() {
                self.pass_common(buf);
            }
            if self.left > 0 && !self.pass_token(buf)? {
                return Ok(None);
            }
        }
    }

    /// Passes over the common elements of an aggregate, without a look at any state but two numbers.
    #[inline]
    fn pass_common(&mut self, buf: &[u8]) {
        let (mut pos, mut left) = (self.pos, self.left);
        while left > 0 {
            let rest = buf.get(pos..).unwrap_or_default();
            let Some(len) = common(rest) else { break };
            self.resp3 |= rest.first() == Some(&b'_');
            pos += len;
            left -= 1;
        }
        #[cfg(test)]
        {
            self.looked += pos - self.pos;
        }
        if pos != self.pos {
            self.searched = 0;
        }
        (self.pos, self.left) = (pos, left);
    }

    /// Whether the bulk under way, if any, is passed; as much of its content as has come is.
    fn pass_content(&mut self, buf: &[u8]) -> Result<bool, ReplyError> {
        let Some(content) = self.content else {
            return Ok(true);
        };
        let rest = buf.get(self.pos..).unwrap_or_default();
        match rest.get(content..) {
            Some([b'\r', b'\n', ..]) => {
                self.pos += content + 2;
                self.content = None;
                self.left -= 1;
                Ok(true)
            }
            Some([_, _, ..]) => Err(ReplyError::UnterminatedBulk),
            _ => {
                let come = rest.len().min(content);
                self.pos += come;
                self.content = Some(content - come);
                Ok(false)
            }
        }
    }

    /// Whether a whole token stood at `pos`; takes it in.
    fn pass_token(&mut self, buf: &[u8]) -> Result<bool, ReplyError> {
        let rest = buf.get(self.pos..).unwrap_or_default();
        let Some(&kind) = rest.first() else {
            return Ok(false);
        };
        #[cfg(test)]
        let before = self.searched;
        let token = token(kind, rest, &mut self.searched)?;
        #[cfg(test)]
        {
            self.looked += self.searched - before + 1;
        }
        if matches!(token, Token::Partial) {
            return Ok(false);
        }
        self.searched = 0;
        self.note(kind);
        match token {
            Token::Partial => {}
            Token::Scalar(len) => {
                self.pos += len;
                self.left -= 1;
            }
            Token::Bulk { header, content } => {
                // So far from overflow that it needs no check where it is passed.
                let end = self.pos.checked_add(header).and_then(|pos| pos.checked_add(content)?.checked_add(2));
                end.filter(|&end| i64::try_from(end).is_ok()).ok_or(ReplyError::TooLong)?;
                self.pos += header;
                self.content = Some(content);
            }
            Token::Aggregate { header, elements } => {
                self.pos += header;
                self.enter(kind, elements)?;
            }
        }
        Ok(true)
    }

    /// Takes note of the type of the token at `pos`.
    fn note(&mut self, kind: u8) {
        self.resp3 |= !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*');
        if self.outer.is_empty() && kind != b'|' {
            self.kind = Some(kind);
            self.start = self.pos;
        }
    }

    /// Begins an aggregate. Attributes belong to the value behind them, and pushes within a reply (Redis 6.0 to 6.2.6
    /// sends invalidations in the midst of EXEC's array) belong to nobody: neither is an element.
    fn enter(&mut self, kind: u8, elements: u64) -> Result<(), ReplyError> {
        let element = match kind {
            b'|' => false,
            b'>' => self.outer.is_empty(),
            _ => true,
        };
        self.left -= u64::from(element);
        if elements > 0 {
            if self.outer.len() >= self.depth {
                return Err(ReplyError::TooDeep);
            }
            self.outer.push(self.left);
            self.left = elements;
        }
        Ok(())
    }

    /// Reports the reply and makes ready for the next.
    fn finish(&mut self) -> Frame {
        let kind = self.kind.take().unwrap_or_default();
        let frame = Frame { len: self.pos, kind, resp3: self.resp3, start: self.start };
        self.begun = false;
        self.pos = 0;
        self.left = 1;
        self.resp3 = false;
        self.start = 0;
        frame
    }
}

/// Length of the whole value at the front of `bytes` if it is one of the common ones.
#[inline(always)]
fn common(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [b'$', b'0'..=b'9', ..] => {
            let (content, header) = number::short_header(bytes)?;
            let end = header + content;
            matches!(bytes.get(end..), Some([b'\r', b'\n', ..])).then_some(end + 2)
        }
        [b'+', b'O', b'K', b'\r', b'\n', ..] => Some(5),
        [b'$', b'-', b'1', b'\r', b'\n', ..] => Some(5),
        [b'_', b'\r', b'\n', ..] => Some(3),
        [b':', ..] => number::short_header(bytes).map(|(_, header)| header),
        _ => None,
    }
}

/// The token at the front of `rest`, which begins with `kind`.
fn token(kind: u8, rest: &[u8], searched: &mut usize) -> Result<Token, ReplyError> {
    if !matches!(
        kind,
        b'+' | b'-' | b':' | b'$' | b'*' | b'_' | b'#' | b',' | b'(' | b'!' | b'=' | b'%' | b'~' | b'>' | b'|'
    ) {
        return Err(if matches!(kind, b';' | b'.') { ReplyError::Streamed } else { ReplyError::UnknownType(kind) });
    }
    let Some(line) = line(kind, rest, searched)? else {
        return Ok(Token::Partial);
    };
    let header = line.len() + 3;
    let scalar = |valid: bool| {
        if valid { Ok(Token::Scalar(header)) } else { Err(ReplyError::InvalidScalar) }
    };
    match kind {
        b'+' | b'-' => scalar(true),
        b':' => scalar(is_integer(line)),
        // A script may put any text where a big number's digits belong; servers pass it on.
        b'(' => scalar(true),
        b',' => scalar(!line.is_empty()),
        b'_' => scalar(line.is_empty()),
        b'#' => scalar(matches!(line, b"t" | b"f")),
        _ => sized(kind, line, header),
    }
}

/// The token of a type that has a length: `line` holds it.
fn sized(kind: u8, line: &[u8], header: usize) -> Result<Token, ReplyError> {
    if line == b"?" {
        return Err(ReplyError::Streamed);
    }
    let len = number::integer(line).ok_or(ReplyError::InvalidLength)?;
    if len == -1 && matches!(kind, b'$' | b'*') {
        return Ok(Token::Scalar(header));
    }
    let len = u64::try_from(len).map_err(|_| ReplyError::InvalidLength)?;
    match kind {
        b'$' | b'!' | b'=' => {
            let content = usize::try_from(len).map_err(|_| ReplyError::TooLong)?;
            Ok(Token::Bulk { header, content })
        }
        b'%' | b'|' => {
            let elements = len.checked_mul(2).ok_or(ReplyError::TooLong)?;
            Ok(Token::Aggregate { header, elements })
        }
        _ => Ok(Token::Aggregate { header, elements: len }),
    }
}

/// What stands between the type byte and the CRLF. Only texts may be long; a CR without LF ends no text: clients, too,
/// look for both.
fn line<'a>(kind: u8, rest: &'a [u8], searched: &mut usize) -> Result<Option<&'a [u8]>, ReplyError> {
    let text = matches!(kind, b'+' | b'-');
    let too_long = |len: usize| !text && kind != b'(' && len > NUMBER_LINE;
    while let Some(end) = number::find(b'\r', rest, searched) {
        match rest.get(end + 1) {
            Some(b'\n') if too_long(end) => return Err(ReplyError::InvalidLength),
            Some(b'\n') => return Ok(Some(rest.get(1..end).unwrap_or_default())),
            None => return Ok(None),
            Some(_) if text => *searched = end + 1,
            Some(_) => return Err(ReplyError::InvalidLength),
        }
    }
    if too_long(rest.len()) {
        return Err(ReplyError::InvalidLength);
    }
    Ok(None)
}

/// Whether `line` is a sign or none and digits, of any length.
fn is_integer(line: &[u8]) -> bool {
    let digits = line.strip_prefix(b"-").or_else(|| line.strip_prefix(b"+")).unwrap_or(line);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests;
