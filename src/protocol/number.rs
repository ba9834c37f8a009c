//! The decimal numbers and line ends that RESP headers are made of.
//!
//! Invariant: a length is read exactly as Redis reads it (`string2ll`): no sign but one minus, no leading zero, no
//! blank, no overflow. Not here: what a length may be; requests and replies have limits of their own.

use memchr::memchr;

/// Most bytes of an `i64` in decimal, its sign included.
const I64_DIGITS: usize = 20;

/// The integer that `text` spells, or nothing if Redis would not take it for one.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if text.len() > I64_DIGITS || !matches!(digits.first(), Some(b'1'..=b'9')) {
        return None;
    }
    let mut value: i64 = 0;
    for &digit in digits {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        // Counting downwards, since i64::MIN has no positive twin.
        value = value.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// The length in the header `?<length>\r\n` at the front of `bytes` (whatever its first byte) and the header's own
/// bytes, if the length has at most three digits and the header is whole. Nearly all headers are of this kind, and
/// matching them as patterns costs about a nanosecond; the others take the slow way.
#[inline(always)]
pub(super) fn short_header(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [_, one @ b'0'..=b'9', b'\r', b'\n', ..] => Some((digit(one), 4)),
        [_, ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => Some((digit(ten) * 10 + digit(one), 5)),
        [_, hundred @ b'1'..=b'9', ten @ b'0'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((digit(hundred) * 100 + digit(ten) * 10 + digit(one), 6))
        }
        _ => None,
    }
}

/// Where the first `byte` in `bytes` stands, `searched` bytes being known to lack it; counts what it looked at into
/// `searched`, so that a line arriving in pieces is searched once.
pub(super) fn find(byte: u8, bytes: &[u8], searched: &mut usize) -> Option<usize> {
    let from = (*searched).min(bytes.len());
    let found = memchr(byte, bytes.get(from..).unwrap_or_default()).map(|at| from + at);
    *searched = found.unwrap_or(bytes.len());
    found
}

#[inline(always)]
fn digit(byte: u8) -> usize {
    usize::from(byte - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_integer_is_read_as_strictly_as_redis_reads_it() {
        assert_eq!(integer(b"0"), Some(0));
        assert_eq!(integer(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        for refused in
            ["", "-", "+1", "01", "-0", "00", " 1", "1 ", "1a", "9223372036854775808", "-9223372036854775809"]
        {
            assert_eq!(integer(refused.as_bytes()), None, "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn an_integer_written_is_read_back(n: i64) {
            prop_assert_eq!(integer(n.to_string().as_bytes()), Some(n));
        }

        #[test]
        fn a_short_header_says_what_the_strict_reader_says(n in 0usize..1000) {
            let header = format!("${n}\r\n");
            prop_assert_eq!(short_header(header.as_bytes()), Some((n, header.len())));
            prop_assert_eq!(short_header(&header.as_bytes()[..header.len() - 1]), None);
        }
    }
}
