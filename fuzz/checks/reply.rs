//! The reply framer: where reads cut the bytes changes nothing, passing a reply on before it is whole neither, and
//! whatever is framed can be looked into.

use sidecache::protocol::frame;
use sidecache::protocol::reply::ReplyScanner;

use super::pieces::Cuts;

/// A frame: its length, first byte, whether RESP3 occurs in it, where its value begins.
type Found = (usize, u8, bool, usize);

/// Frames bytes as a whole, in pieces, and in pieces that are passed on at once.
pub fn check(data: &[u8]) {
    let [cuts, bytes @ ..] = data else { return };
    let whole = frames(bytes, &[bytes.len()]);
    let ends = Cuts::new(*cuts).ends(bytes.len());
    assert_eq!(whole, frames(bytes, &ends), "cuts change what is framed");
    let lengths: Vec<usize> = whole.0.iter().map(|found| found.0).collect();
    assert_eq!((lengths, whole.1), passed_on(bytes, &ends), "passing on changes what is framed");
    let mut at = 0;
    for (len, _, _, start) in whole.0 {
        let reply = &bytes[at..at + len];
        // Well framed is not well formed: an error will do, a panic will not.
        let _ = frame::decode(reply);
        let _ = frame::push_kind(&reply[start..]);
        if let Some(frame::Invalidation::Keys(keys)) = frame::invalidation(&reply[start..]) {
            assert!(keys.count() <= len, "more keys than bytes");
        }
        at += len;
    }
}

/// All frames, and whether they end in an error; which error may depend on how much of a line has come.
fn frames(bytes: &[u8], ends: &[usize]) -> (Vec<Found>, bool) {
    let mut scanner = ReplyScanner::default();
    let (mut found, mut at) = (Vec::new(), 0);
    for &end in ends {
        loop {
            match scanner.scan(&bytes[at..end]) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    assert!(frame.len > 0 && at + frame.len <= end && frame.start < frame.len, "{frame:?}");
                    found.push((frame.len, frame.kind, frame.resp3, frame.start));
                    at += frame.len;
                }
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

/// The frames' lengths when all that may be passed on is, as soon as it is in.
fn passed_on(bytes: &[u8], ends: &[usize]) -> (Vec<usize>, bool) {
    let mut scanner = ReplyScanner::default();
    let (mut lengths, mut at, mut gone) = (Vec::new(), 0, 0);
    for &end in ends {
        loop {
            match scanner.scan(&bytes[at..end]) {
                Ok(None) => {
                    let ready = scanner.progress().ready;
                    assert!(at + ready <= end, "more is ready than is there");
                    scanner.consumed(ready);
                    at += ready;
                    gone += ready;
                    break;
                }
                Ok(Some(frame)) => {
                    lengths.push(gone + frame.len);
                    at += frame.len;
                    gone = 0;
                }
                Err(_) => return (lengths, true),
            }
        }
    }
    (lengths, false)
}
