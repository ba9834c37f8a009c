//! What a redirect says: `MOVED` and `ASK`, as error lines.
//!
//! *Invariant:* a line that is not a whole redirect is none: then it is passed on as the error that it is.

use super::SLOTS;

/// For how long a redirect holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectKind {
    /// The slot belongs to the other node.
    Moved,
    /// The slot is under way: this command goes to the other node, behind ASKING.
    Ask,
}

/// A node's answer that a slot is to be asked for elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect<'a> {
    /// For how long.
    pub kind: RedirectKind,
    /// The slot.
    pub slot: u16,
    /// Where, an IPv6 address without brackets; nothing: on the host of the node that answered.
    pub host: Option<&'a str>,
    /// The port.
    pub port: u16,
}

/// The redirect in an error line, with or without its `-` and CRLF; nothing if it is another error.
pub fn redirect(line: &[u8]) -> Option<Redirect<'_>> {
    let line = line.strip_prefix(b"-").unwrap_or(line);
    let (kind, rest) = match line.strip_prefix(b"MOVED ") {
        Some(rest) => (RedirectKind::Moved, rest),
        None => (RedirectKind::Ask, line.strip_prefix(b"ASK ")?),
    };
    let mut words = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let slot = number(words.next()?).filter(|&slot| slot < SLOTS)?;
    // In an IPv6 address without brackets too, the last colon is the port's.
    let (host, port) = words.next()?.rsplit_once(':')?;
    let port = number(port).filter(|&port| port != 0)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some(Redirect { kind, slot, host: known(host), port })
}

/// A host as servers tell it; they leave it out, or write a question mark, if clients are to stay on the one they know.
pub(super) fn known(host: &str) -> Option<&str> {
    (!matches!(host, "" | "?")).then_some(host)
}

/// Digits and nothing else: `parse` alone would take a sign.
pub(super) fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved(slot: u16, host: Option<&str>, port: u16) -> Option<Redirect<'_>> {
        Some(Redirect { kind: RedirectKind::Moved, slot, host, port })
    }

    #[test]
    fn every_form_of_a_redirect_is_read() {
        for (line, expected) in [
            ("-MOVED 3999 127.0.0.1:6381\r\n", moved(3999, Some("127.0.0.1"), 6381)),
            ("MOVED 3999 127.0.0.1:6381", moved(3999, Some("127.0.0.1"), 6381)),
            ("MOVED 5 :7001", moved(5, None, 7001)),
            ("MOVED 5 ?:7001", moved(5, None, 7001)),
            ("-MOVED 16383 node-1.example:1\r\n", moved(16383, Some("node-1.example"), 1)),
            ("MOVED 0 ::1:6381", moved(0, Some("::1"), 6381)),
            ("MOVED 0 [fe80::1]:6381", moved(0, Some("fe80::1"), 6381)),
            ("MOVED 7 h:1 more to come", moved(7, Some("h"), 1)),
        ] {
            assert_eq!(redirect(line.as_bytes()), expected, "{line}");
        }
        let ask = redirect(b"-ASK 12182 10.0.0.1:7000\r\n").unwrap();
        assert_eq!((ask.kind, ask.slot, ask.host, ask.port), (RedirectKind::Ask, 12182, Some("10.0.0.1"), 7000));
    }

    #[test]
    fn other_errors_are_no_redirects() {
        for line in [
            "",
            "-",
            "-MOVED",
            "MOVED ",
            "MOVED 1",
            "MOVED 1 ",
            "MOVED 1 h",
            "MOVED 1 h:",
            "MOVED 1 h:0",
            "MOVED 1 h:+1",
            "MOVED 1 h:65536",
            "MOVED 16384 h:1",
            "MOVED -1 h:1",
            "MOVED x h:1",
            "MOVEDX 1 h:1",
            "moved 1 h:1",
            "ASKING 1 h:1",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN Hash slot not served",
        ] {
            assert_eq!(redirect(line.as_bytes()), None, "{line}");
        }
        assert_eq!(redirect(b"-MOVED 1 \xff:1\r\n"), None);
    }

    proptest! {
        #[test]
        fn no_line_panics(junk in "(-|)(MOVED|ASK) [0-9]{0,6} {0,2}[\\[\\]:?a-z0-9é]{0,9}(\r\n|)", bytes: Vec<u8>) {
            let _ = redirect(junk.as_bytes());
            let _ = redirect(&bytes);
        }
    }
}
