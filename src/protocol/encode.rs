//! RESP values as bytes, appended to any growing buffer.
//!
//! Invariant: what is written is one whole, valid value; a text that could end its line early is defused. Not here:
//! rewriting of replies, which works on the received bytes.

use bytes::BufMut;

use super::frame::Value;

/// Longest header: a type byte, the 20 digits of a u64, CRLF.
const HEADER: usize = 23;

/// A bulk string.
pub fn bulk(out: &mut impl BufMut, content: &[u8]) {
    header(out, b'$', content.len());
    out.put_slice(content);
    out.put_slice(b"\r\n");
}

/// Text for people: a verbatim string, or a bulk string where RESP2 has no such thing.
pub fn verbatim(out: &mut impl BufMut, text: &[u8], resp3: bool) {
    if !resp3 {
        return bulk(out, text);
    }
    header(out, b'=', text.len() + 4);
    out.put_slice(b"txt:");
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

/// An integer.
pub fn integer(out: &mut impl BufMut, value: i64) {
    out.put_u8(b':');
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
    out.put_slice(b"\r\n");
}

/// The header of an array; `len` elements must follow.
pub fn array_header(out: &mut impl BufMut, len: usize) {
    header(out, b'*', len);
}

/// A value that was decoded. What decoding does not tell apart is written in its commonest form: sets as arrays,
/// verbatim strings as bulk strings.
pub fn value(out: &mut impl BufMut, value: &Value, resp3: bool) {
    match value {
        Value::Null => out.put_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
        Value::Simple(text) => line(out, b'+', &String::from_utf8_lossy(text)),
        Value::Error(text) => line(out, b'-', &String::from_utf8_lossy(text)),
        Value::Integer(number) => integer(out, *number),
        Value::Double(number) if resp3 => line(out, b',', &number.to_string()),
        Value::Double(number) => bulk(out, number.to_string().as_bytes()),
        Value::Boolean(truth) if resp3 => line(out, b'#', if *truth { "t" } else { "f" }),
        Value::Boolean(truth) => integer(out, i64::from(*truth)),
        Value::Bulk(content) => bulk(out, content),
        Value::Array(items) => {
            array_header(out, items.len());
            items.iter().for_each(|item| self::value(out, item, resp3));
        }
        Value::Map(pairs) => {
            if resp3 {
                header(out, b'%', pairs.len());
            } else {
                array_header(out, pairs.len() * 2);
            }
            pairs.iter().flat_map(|(key, item)| [key, item]).for_each(|item| self::value(out, item, resp3));
        }
    }
}

/// A request: an array of bulk strings, the command's name first.
pub fn request<A: AsRef<[u8]>>(out: &mut impl BufMut, args: &[A]) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg.as_ref());
    }
}

/// An error; `text` begins with its code word (`ERR …`). A line break in it becomes a space, as in Redis.
pub fn error(out: &mut impl BufMut, text: &str) {
    line(out, b'-', text);
}

/// A simple string. A line break in it becomes a space, as in Redis.
pub fn simple(out: &mut impl BufMut, text: &str) {
    line(out, b'+', text);
}

/// `kind`, `len` in decimal, CRLF, in one write: every write checks the room that is left.
fn header(out: &mut impl BufMut, kind: u8, len: usize) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(len).as_bytes();
    let mut header = [b'\n'; HEADER];
    let end = digits.len() + 1;
    header[0] = kind;
    header[1..end].copy_from_slice(digits);
    header[end] = b'\r';
    out.put_slice(&header[..end + 2]);
}

fn line(out: &mut impl BufMut, kind: u8, text: &str) {
    out.put_u8(kind);
    let mut pieces = text.as_bytes().split(|&byte| byte == b'\r' || byte == b'\n');
    out.put_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.put_u8(b' ');
        out.put_slice(piece);
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    #[test]
    fn each_kind_of_value_is_written_as_resp_has_it() {
        let mut out = BytesMut::new();
        bulk(&mut out, b"");
        bulk(&mut out, b"a\r\nb");
        integer(&mut out, i64::MIN);
        simple(&mut out, "OK");
        request(&mut out, &["GET", "k"]);
        verbatim(&mut out, b"t", true);
        verbatim(&mut out, b"t", false);
        assert_eq!(
            &out[..],
            b"$0\r\n\r\n$4\r\na\r\nb\r\n:-9223372036854775808\r\n+OK\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\
              =5\r\ntxt:t\r\n$1\r\nt\r\n"
        );
    }

    #[test]
    fn the_longest_header_fits() {
        let mut out = Vec::new();
        array_header(&mut out, usize::MAX);
        assert_eq!(out, format!("*{}\r\n", usize::MAX).as_bytes());
    }

    #[test]
    fn a_line_break_cannot_end_an_error_early() {
        let mut out = Vec::new();
        error(&mut out, "ERR no such thing 'a\r\n+OK'\n");
        assert_eq!(out, b"-ERR no such thing 'a  +OK' \r\n");
    }
}
