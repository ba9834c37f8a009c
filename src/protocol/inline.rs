//! Inline requests: a line of words, as typed into telnet, into the words.
//!
//! Invariant: a line is split as Redis's `sdssplitargs` splits it, to the byte. Not here: finding the line.

/// The words of `line`, or nothing if a quote is not closed, or its closing one is not followed by a blank.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|&&byte| is_space(byte)).count();
        rest = rest.get(blanks..).unwrap_or_default();
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        rest = take_word(rest, &mut word)?;
        words.push(word);
    }
}

/// Appends the word at the front of `rest` and returns what follows it. A quote may begin in the middle of a word, but
/// its end is the word's end.
fn take_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match *rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some(rest),
            [b'"', ref quoted @ ..] => return take_double_quoted(quoted, word),
            [b'\'', ref quoted @ ..] => return take_single_quoted(quoted, word),
            // A vertical tab or form feed parts words only where a blank has already ended one: so does Redis.
            [byte, ref tail @ ..] => {
                word.push(byte);
                rest = tail;
            }
        }
    }
}

fn take_double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match *rest {
            [] => return None,
            [b'"', ref tail @ ..] => return ends_word(tail),
            [b'\\', b'x', high, low, ref tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(high) << 4 | hex(low), tail)
            }
            [b'\\', escaped, ref tail @ ..] => (unescaped(escaped), tail),
            [byte, ref tail @ ..] => (byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn take_single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match *rest {
            [] => return None,
            [b'\\', b'\'', ref tail @ ..] => (b'\'', tail),
            [b'\'', ref tail @ ..] => return ends_word(tail),
            [byte, ref tail @ ..] => (byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

/// What follows a closing quote, if a word may end there.
fn ends_word(tail: &[u8]) -> Option<&[u8]> {
    tail.first().is_none_or(|&byte| is_space(byte)).then_some(tail)
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a' - 10),
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &[u8]) -> Option<Vec<String>> {
        Some(split(line)?.iter().map(|word| word.escape_ascii().to_string()).collect())
    }

    /// Each line and its words as redis-server 7.0.15 has them.
    #[test]
    fn a_line_is_split_as_redis_splits_it() {
        let cases: [(&[u8], &[&str]); 15] = [
            (b"", &[]),
            (b"  \t ", &[]),
            (b"GET k", &["GET", "k"]),
            (b" GET   k ", &["GET", "k"]),
            (b"PING \"\\x41\\n\\\"\\q\"", &["PING", "A\\n\\\"q"]),
            (b"PING '\\x41\\n'", &["PING", "\\\\x41\\\\n"]),
            (b"PING 'a\\'b'", &["PING", "a\\'b"]),
            (b"PING a\"b c\"", &["PING", "ab c"]),
            (b"PING a\rb", &["PING", "a", "b"]),
            (b"PING\x0ba", &["PING\\x0ba"]),
            (b"\x0bPING \x0b", &["PING"]),
            (b"PING \"a\"\x0bb", &["PING", "a", "b"]),
            (b"PING \"\\x4\"", &["PING", "x4"]),
            (b"\"\"", &[""]),
            (b"SET k '' \"\"", &["SET", "k", "", ""]),
        ];
        for (line, expected) in cases {
            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(words(line), Some(expected), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_quote_left_open_or_followed_by_a_letter_is_refused() {
        for line in ["\"abc", "\"abc\"d", "'abc", "'abc'd", "a\"", "\"\\\"", "'\\'", "\"a\"\"b\"", "\"\\"] {
            assert_eq!(words(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_words_quoted_are_read_back(list in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 0..6)) {
            let quote = |word: &Vec<u8>| {
                let hex: String = word.iter().map(|byte| format!("\\x{byte:02X}")).collect();
                format!("\"{hex}\"")
            };
            let line = list.iter().map(quote).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(line.as_bytes()), Some(list));
        }

        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(prop::sample::select(&b"a \\x'\"4fn\r\t\x0b"[..]), 0..40)) {
            let _ = split(&line);
        }
    }
}
