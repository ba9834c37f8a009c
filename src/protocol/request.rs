//! Cuts requests out of what a client sent: multibulk or inline, pipelined, in pieces of any size.
//!
//! Invariant: the outcome depends on the bytes only, never on where reads cut them; a byte is looked at once however
//! it arrives; nothing is allocated from a declared length. Limits, strictness and error texts are Redis's own
//! (networking.c of 7.0), save two: the CRLF behind a bulk is checked, where Redis skips two bytes unseen, since a
//! proxy that disagrees with its upstream about where a request ends can be made to smuggle one; and a request has an
//! upper size. Not here: sockets, commands' meaning.

use memchr::memchr2;

use super::{Args, encode, inline, number};
use crate::limits::{AUTHENTICATED, RequestLimits};

/// Above this many arguments the memory for their ranges is given back when the next request begins: 8 bytes each.
const KEPT_RANGES: usize = 4096;

/// Redis's hard bound on a request's element count, whoever sends it.
const MAX_ELEMENTS: i64 = i32::MAX as i64;

/// What stands at the front of a client's buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// A multibulk request; [`RequestParser::args`] are its arguments.
    Request {
        /// Its bytes.
        len: usize,
    },
    /// An inline request; [`RequestParser::args`] index into `request`.
    Inline {
        /// The line's bytes, its end included.
        len: usize,
        /// The same request as a multibulk one, never without arguments.
        request: Vec<u8>,
    },
    /// Nothing to do: an empty line, an element count of 0 or less.
    Empty {
        /// Its bytes.
        len: usize,
    },
}

/// Why a client's bytes are no request. The connection is of no use afterwards; the text is what follows `-ERR ` in
/// the last reply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// No line end within the limit.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// No end of the `*` header within the limit.
    #[error("Protocol error: too big mbulk count string")]
    TooBigCountHeader,
    /// The element count is no number, or above the limit.
    #[error("Protocol error: invalid multibulk length")]
    InvalidCount,
    /// The element count is above the limit for strangers.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedCount,
    /// No end of a `$` header within the limit.
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkHeader,
    /// An element is no bulk string; the byte it begins with.
    #[error("Protocol error: expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    /// A bulk's length is no number, negative, or above the limit.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulk,
    /// A bulk's length is above the limit for strangers.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulk,
    /// A bulk is longer or shorter than it said.
    #[error("Protocol error: expected CRLF after bulk")]
    UnterminatedBulk,
    /// A quote in an inline request is not closed.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The request as a whole is above the limit.
    #[error("Protocol error: too big request")]
    TooBigRequest,
}

/// Parses one client's requests, one after the other, and remembers how far a partial one has been looked at.
#[derive(Debug, Default)]
pub struct RequestParser {
    /// Start and end of each argument found so far.
    ranges: Vec<(u32, u32)>,
    /// Bytes of the request under way that need no second look; 0 between requests.
    pos: usize,
    /// Elements still to come.
    left: usize,
    /// Length of the bulk whose content begins at `pos`.
    bulk: Option<usize>,
    /// Bytes from `pos` that are known to hold no line end.
    searched: usize,
    /// Bytes known to be missing when the parser last ran out of them.
    needed: usize,
}

// === impl RequestParser ===

impl RequestParser {
    /// The request at the front of `buf`. After [`Parsed::Incomplete`] the next `buf` must begin with the same bytes,
    /// after anything else with what follows them. Pass the same limits until a request is whole.
    ///
    /// # Errors
    /// What Redis would end the connection for.
    #[inline]
    pub fn parse(&mut self, buf: &[u8], limits: &RequestLimits) -> Result<Parsed, ProtocolError> {
        self.needed = 0;
        if self.left == 0 {
            match buf {
                [] => return Ok(Parsed::Incomplete),
                [b'*', ..] => {}
                _ => return self.inline(buf, limits),
            }
            let Some((count, header)) = count(buf, &mut self.searched, limits)? else {
                return Ok(Parsed::Incomplete);
            };
            self.searched = 0;
            if count == 0 {
                return Ok(Parsed::Empty { len: header });
            }
            self.begin(count, header);
        }
        self.elements(buf, limits)
    }

    /// The arguments of the request that [`parse`](Self::parse) found last, as start and end.
    #[inline]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// The same over the request's bytes `raw`.
    #[inline]
    pub fn args<'a>(&'a self, raw: &'a [u8]) -> Args<'a> {
        Args { raw, ranges: &self.ranges }
    }

    /// After [`Parsed::Incomplete`]: bytes still missing of the bulk under way, its CRLF included; 0 if unknown.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// As [`parse`](Self::parse), quicker where the request is whole and has few and short arguments, which nearly all are.
    ///
    /// # Errors
    /// As `parse`.
    #[inline(always)]
    pub fn next(&mut self, buf: &[u8], limits: &RequestLimits) -> Result<Parsed, ProtocolError> {
        match self.usual(buf, limits) {
            Some(len) => Ok(Parsed::Request { len }),
            None => self.parse(buf, limits),
        }
    }

    /// Says nothing about any other request, and changes nothing that `parse` goes by.
    #[inline(always)]
    fn usual(&mut self, buf: &[u8], limits: &RequestLimits) -> Option<usize> {
        if self.left != 0 {
            return None;
        }
        let &[b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = buf else { return None };
        let count = usize::from(count - b'0');
        let mut pos = 4;
        self.forget_ranges();
        for _ in 0..count {
            let rest = buf.get(pos..)?;
            let (len, header) = number::short_header(rest).filter(|&(len, _)| len <= limits.bulk)?;
            let (start, end) = (pos + header, pos + header + len);
            let [b'$', ..] = rest else { return None };
            let [b'\r', b'\n', ..] = buf.get(end..)? else { return None };
            self.ranges.push((start as u32, end as u32));
            pos = end + 2;
        }
        self.searched = 0;
        (count <= limits.elements && pos <= limits.total).then_some(pos)
    }

    #[inline]
    fn begin(&mut self, count: usize, header: usize) {
        self.forget_ranges();
        self.pos = header;
        self.left = count;
    }

    #[inline]
    fn forget_ranges(&mut self) {
        self.ranges.clear();
        if self.ranges.capacity() > KEPT_RANGES {
            self.ranges.shrink_to(KEPT_RANGES);
        }
    }

    #[inline]
    fn elements(&mut self, buf: &[u8], limits: &RequestLimits) -> Result<Parsed, ProtocolError> {
        let mut pos = self.pos;
        let mut left = self.left;
        let mut bulk = self.bulk.take();
        while left > 0 {
            let len = match bulk.take() {
                Some(len) => len,
                None => {
                    let rest = buf.get(pos..).unwrap_or_default();
                    let Some((len, header)) = bulk_header(rest, &mut self.searched, limits)? else {
                        self.pause(pos, left, None);
                        return Ok(Parsed::Incomplete);
                    };
                    self.searched = 0;
                    pos += header;
                    // Offsets are u32; the limits keep the sum far from overflow of usize.
                    if len.saturating_add(pos + 2) > limits.total.min(u32::MAX as usize) {
                        return Err(ProtocolError::TooBigRequest);
                    }
                    len
                }
            };
            let end = pos + len;
            match buf.get(end..) {
                Some([b'\r', b'\n', ..]) => {}
                Some([_, _, ..]) => return Err(ProtocolError::UnterminatedBulk),
                _ => {
                    self.needed = (end + 2).saturating_sub(buf.len());
                    self.pause(pos, left, Some(len));
                    return Ok(Parsed::Incomplete);
                }
            }
            self.ranges.push((pos as u32, end as u32));
            pos = end + 2;
            left -= 1;
        }
        self.pos = 0;
        self.left = 0;
        Ok(Parsed::Request { len: pos })
    }

    fn pause(&mut self, pos: usize, left: usize, bulk: Option<usize>) {
        self.pos = pos;
        self.left = left;
        self.bulk = bulk;
    }

    /// A NUL before the line's end hides that end from Redis, which searches with `strchr`; so it does here.
    #[cold]
    fn inline(&mut self, buf: &[u8], limits: &RequestLimits) -> Result<Parsed, ProtocolError> {
        let from = self.searched.min(buf.len());
        let stop = memchr2(b'\n', 0, buf.get(from..).unwrap_or_default()).map_or(buf.len(), |at| from + at);
        if stop > limits.inline || (buf.len() > limits.inline && buf.get(stop) != Some(&b'\n')) {
            return Err(ProtocolError::TooBigInline);
        }
        if buf.get(stop) != Some(&b'\n') {
            self.searched = stop;
            return Ok(Parsed::Incomplete);
        }
        self.searched = 0;
        let line = buf.get(..stop).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let words = inline::split(line).ok_or(ProtocolError::UnbalancedQuotes)?;
        if words.is_empty() {
            return Ok(Parsed::Empty { len: stop + 1 });
        }
        let mut request = Vec::new();
        encode::request(&mut request, &words);
        // Ranges over the new bytes; its lengths are ours, so only the total could be exceeded.
        let none = RequestLimits { elements: words.len(), bulk: request.len(), ..*limits };
        match self.parse(&request, &none)? {
            Parsed::Request { .. } => Ok(Parsed::Inline { len: stop + 1, request }),
            _ => Err(ProtocolError::TooBigRequest),
        }
    }
}

/// The element count in the `*` header at the front of `rest` and the header's bytes.
#[inline(always)]
fn count(rest: &[u8], searched: &mut usize, limits: &RequestLimits) -> Result<Option<(usize, usize)>, ProtocolError> {
    match number::short_header(rest) {
        Some((count, header)) if count <= limits.elements => Ok(Some((count, header))),
        _ => long_count(rest, searched, limits),
    }
}

#[cold]
fn long_count(
    rest: &[u8],
    searched: &mut usize,
    limits: &RequestLimits,
) -> Result<Option<(usize, usize)>, ProtocolError> {
    let Some(end) = header_end(rest, searched, limits.inline, ProtocolError::TooBigCountHeader)? else {
        return Ok(None);
    };
    let count = header_length(rest, end).ok_or(ProtocolError::InvalidCount)?;
    let elements = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if count > MAX_ELEMENTS || (elements > limits.elements && limits.elements >= AUTHENTICATED.elements) {
        return Err(ProtocolError::InvalidCount);
    }
    if elements > limits.elements {
        return Err(ProtocolError::UnauthenticatedCount);
    }
    Ok(Some((elements, end + 2)))
}

/// The length in the `$` header at the front of `rest` and the header's bytes.
#[inline(always)]
fn bulk_header(
    rest: &[u8],
    searched: &mut usize,
    limits: &RequestLimits,
) -> Result<Option<(usize, usize)>, ProtocolError> {
    match number::short_header(rest) {
        Some((len, header)) if len <= limits.bulk && rest.first() == Some(&b'$') => Ok(Some((len, header))),
        _ => long_bulk_header(rest, searched, limits),
    }
}

#[inline(never)]
fn long_bulk_header(
    rest: &[u8],
    searched: &mut usize,
    limits: &RequestLimits,
) -> Result<Option<(usize, usize)>, ProtocolError> {
    let Some(end) = header_end(rest, searched, limits.inline, ProtocolError::TooBigBulkHeader)? else {
        return Ok(None);
    };
    match rest.first() {
        Some(b'$') => {}
        other => {
            return Err(ProtocolError::ExpectedBulk(other.copied().unwrap_or_default()));
        }
    }
    let len = header_length(rest, end).and_then(|len| usize::try_from(len).ok());
    let len = len.ok_or(ProtocolError::InvalidBulk)?;
    if len > limits.bulk {
        let stranger = limits.bulk < AUTHENTICATED.bulk && len <= AUTHENTICATED.bulk;
        return Err(if stranger { ProtocolError::UnauthenticatedBulk } else { ProtocolError::InvalidBulk });
    }
    Ok(Some((len, end + 2)))
}

/// Where the CR of the header at the front of `rest` stands, once the byte behind it has come too.
fn header_end(
    rest: &[u8],
    searched: &mut usize,
    most: usize,
    too_big: ProtocolError,
) -> Result<Option<usize>, ProtocolError> {
    match number::find(b'\r', rest, searched) {
        Some(end) if end > most => Err(too_big),
        None if rest.len() > most => Err(too_big),
        Some(end) if end + 1 < rest.len() => Ok(Some(end)),
        _ => Ok(None),
    }
}

/// The number in a header whose CR stands at `end`. A CR without LF is no line end here, though Redis skips any byte.
fn header_length(rest: &[u8], end: usize) -> Option<i64> {
    if rest.get(end + 1) != Some(&b'\n') {
        return None;
    }
    number::integer(rest.get(1..end)?)
}

/// `byte` within an error's text: Redis puts a blank for a line break; beyond ASCII a str cannot carry one byte.
fn printable(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' => ' ',
        b if b.is_ascii() => char::from(b),
        _ => '?',
    }
}

#[cfg(test)]
mod tests;
