//! What is left of a blocking command's time-out when it is sent again elsewhere.
//!
//! *Invariant:* nothing that a server would refuse becomes something that it takes, and what waits for ever (0) goes on to:
//! a time-out that is not written plainly, or is out of all reason, stays as it is. Pure: no clock.

use std::time::Duration;

use bytes::BytesMut;

use super::keys::{Keys, is};
use super::row::Row;
use crate::protocol::{Args, encode};
use crate::telemetry::labels::Class;

/// Never less than this is left: servers may round smaller ones to zero, which is for ever.
const LEAST: Duration = Duration::from_millis(10);

/// Longer ones, some thirty years, stay as they are: servers have bounds of their own.
const MOST: Duration = Duration::from_secs(1_000_000_000);

/// Where a time-out stands, and what it is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Seconds(usize),
    Milliseconds(usize),
}

// === impl Row ===

impl Row {
    /// A blocking command that began to wait so long ago, with what is left of its time-out; `None`: it goes out as it is.
    pub fn with_timeout_left(&self, args: &Args<'_>, waited: Duration) -> Option<BytesMut> {
        if self.class(args) != Class::Blocking || !self.arity_ok(args.len()) {
            return None;
        }
        let place = self.timeout_place(args)?;
        let (Place::Seconds(at) | Place::Milliseconds(at)) = place;
        let text = args.get(at)?;
        let timeout = match place {
            Place::Seconds(_) => seconds(text)?,
            Place::Milliseconds(_) => Duration::from_millis(digits(text)?),
        };
        if timeout <= LEAST || timeout > MOST {
            return None;
        }
        let left = timeout.saturating_sub(waited).max(LEAST);
        let left = match place {
            Place::Seconds(_) => format!("{}.{:03}", left.as_secs(), left.subsec_millis()),
            Place::Milliseconds(_) => left.as_millis().to_string(),
        };
        let mut words: Vec<&[u8]> = (0..args.len()).filter_map(|i| args.get(i)).collect();
        *words.get_mut(at)? = left.as_bytes();
        let mut request = BytesMut::new();
        encode::request(&mut request, &words);
        Some(request)
    }

    fn timeout_place(&self, args: &Args<'_>) -> Option<Place> {
        match self.keys {
            Keys::Streams => block_option(args).map(Place::Milliseconds),
            // BLMPOP timeout numkeys key …
            Keys::Counted { at, .. } => usize::from(at).checked_sub(1).map(Place::Seconds),
            _ => args.len().checked_sub(1).map(Place::Seconds),
        }
    }
}

/// What follows the last BLOCK among the options of XREAD or XREADGROUP.
fn block_option(args: &Args<'_>) -> Option<usize> {
    let (mut at, mut found) = (1, None);
    while let Some(word) = args.get(at) {
        at += match () {
            () if is(word, b"block") => {
                found = Some(at + 1);
                2
            }
            () if is(word, b"count") => 2,
            () if is(word, b"group") => 3,
            () if is(word, b"streams") => return found,
            () => 1,
        };
    }
    found
}

/// Digits as servers read them everywhere: no sign, no leading zero.
fn digits(text: &[u8]) -> Option<u64> {
    let plain = text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || text.first() != Some(&b'0'));
    std::str::from_utf8(text).ok().filter(|_| plain)?.parse().ok()
}

/// The same with or without a fraction.
fn seconds(text: &[u8]) -> Option<Duration> {
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(point) => (text.get(..point)?, text.get(point + 1..)?),
        None => (text, &b"0"[..]),
    };
    let plain = digits(whole).is_some() && !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit);
    let seconds = std::str::from_utf8(text).ok().filter(|_| plain)?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::look_up;
    use crate::limits::AUTHENTICATED;
    use crate::protocol::RequestParser;

    /// The command after so many milliseconds; `None`: it goes out as it is.
    fn left(line: &str, waited: u64) -> Option<String> {
        let mut request = BytesMut::new();
        encode::request(&mut request, &line.split(' ').collect::<Vec<_>>());
        let mut parser = RequestParser::default();
        parser.parse(&request, &AUTHENTICATED).unwrap();
        let args = Args { raw: &request, ranges: parser.ranges() };
        let again = look_up(&args)?.with_timeout_left(&args, Duration::from_millis(waited))?;
        let mut parser = RequestParser::default();
        parser.parse(&again, &AUTHENTICATED).unwrap();
        let args = Args { raw: &again, ranges: parser.ranges() };
        let words = (0..args.len()).map(|i| String::from_utf8_lossy(args.get(i).unwrap()).into_owned());
        Some(words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_has_been_waited_is_taken_off() {
        for (line, waited, expected) in [
            ("BLPOP a b 5", 1500, "BLPOP a b 3.500"),
            ("brpop a 0.5", 100, "brpop a 0.400"),
            ("BRPOPLPUSH a b 12.25", 250, "BRPOPLPUSH a b 12.000"),
            ("BLMOVE a b LEFT RIGHT 2", 0, "BLMOVE a b LEFT RIGHT 2.000"),
            ("BLMPOP 5 1 a LEFT", 4999, "BLMPOP 0.010 1 a LEFT"),
            ("BZPOPMIN a 5", 6000, "BZPOPMIN a 0.010"),
            ("BZMPOP 5 1 a MIN COUNT 3", 1, "BZMPOP 4.999 1 a MIN COUNT 3"),
            ("XREAD COUNT 2 BLOCK 500 STREAMS block 0", 200, "XREAD COUNT 2 BLOCK 300 STREAMS block 0"),
            ("XREADGROUP GROUP block c BLOCK 500 STREAMS s >", 900, "XREADGROUP GROUP block c BLOCK 10 STREAMS s >"),
            ("XREAD BLOCK 1 block 700 STREAMS s 0", 200, "XREAD BLOCK 1 block 500 STREAMS s 0"),
        ] {
            assert_eq!(left(line, waited).as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_waits_for_ever_does_and_what_servers_may_refuse_they_are_asked() {
        let timeouts = ["0", "0.0", "0.001", "00", "-1", "-0", "+5", "5.", ".5", "1e3", "0x10", "inf", "nan", "", "x"];
        for timeout in
            timeouts.into_iter().chain(["05", "5.5.5", "9999999999999", "99999999999999999999", "9223372036854775808"])
        {
            for line in [format!("BLPOP a {timeout}"), format!("BLMPOP {timeout} 1 a LEFT")] {
                assert_eq!(left(&line, 100), None, "{line}");
            }
            assert_eq!(left(&format!("XREAD BLOCK {timeout} STREAMS s 0"), 100), None, "{timeout}");
        }
        for line in ["BLPOP a", "LPOP a 5", "XREAD STREAMS s 5", "GET 5", "XREAD BLOCK 5.5 STREAMS s 0", "XREAD BLOCK"]
        {
            assert_eq!(left(line, 100), None, "{line}");
        }
    }
}
