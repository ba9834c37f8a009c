//! RESP2 and RESP3 as pure functions: bytes in, ranges or frames out.
//!
//! Invariant: no socket, no task, no clock; the outcome depends on the bytes alone, never on how reads cut them.

pub mod encode;
pub mod frame;
mod inline;
mod number;
pub mod reply;
pub mod request;

pub use frame::{Invalidation, Value};
pub use reply::{Frame, Progress, ReplyError, ReplyScanner};
pub use request::{Parsed, ProtocolError, RequestParser};

pub mod downgrade;

/// A request's arguments: ranges into its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// The whole request as a RESP array of bulk strings.
    pub raw: &'a [u8],
    /// Start and end of each argument in `raw`.
    pub ranges: &'a [(u32, u32)],
}

impl<'a> Args<'a> {
    /// The number of arguments, the command's name included.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `i`; 0 is the command's name.
    pub fn get(&self, i: usize) -> Option<&'a [u8]> {
        let &(start, end) = self.ranges.get(i)?;
        self.raw.get(start as usize..end as usize)
    }
}
