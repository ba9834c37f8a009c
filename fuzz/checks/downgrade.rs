//! RESP3 → RESP2: however a reply comes in, it becomes one RESP2 reply, without a type that RESP2 lacks.

use sidecache::protocol::downgrade::{Downgrade, Shape};
use sidecache::protocol::reply::ReplyScanner;

use super::pieces::Cuts;

const SHAPES: [Shape; 7] = [
    Shape::Same,
    Shape::NullArray,
    Shape::NullArrayOnTimeout,
    Shape::NullArrayParts,
    Shape::Pairs,
    Shape::Streams,
    Shape::Pending,
];

/// Rewrites each reply in the bytes by a shape, and as an EXEC's.
pub fn check(data: &[u8]) {
    let [choice, cuts, bytes @ ..] = data else { return };
    let mut bytes = bytes;
    let shape = SHAPES[usize::from(*choice) % SHAPES.len()];
    let exec = choice & 0x80 != 0;
    let mut scanner = ReplyScanner::default();
    while let Ok(Some(frame)) = scanner.scan(bytes) {
        let (reply, rest) = bytes.split_at(frame.len);
        bytes = rest;
        let rewriting = || if exec { Downgrade::exec(SHAPES.to_vec()) } else { Downgrade::new(shape) };
        let mut whole = Vec::new();
        let mut downgrade = rewriting();
        assert_eq!(downgrade.rewrite(reply, &mut whole), reply.len(), "not all of the reply is taken");
        assert!(downgrade.is_done(), "a whole reply is not done");
        assert_eq!(in_pieces(rewriting(), reply, *cuts), whole, "cuts change what is written");
        // A push is no reply: no RESP2 client is sent one. What leaves headers out relies on the command's own shape.
        let leaves_out = exec || matches!(shape, Shape::Pairs | Shape::Streams);
        if frame.kind != b'>' && !leaves_out {
            let written = ReplyScanner::default().scan(&whole).expect("RESP").expect("a whole reply");
            assert_eq!(written.len, whole.len(), "more than one reply");
            assert!(!written.resp3, "a type that RESP2 lacks");
        }
    }
}

fn in_pieces(mut downgrade: Downgrade, reply: &[u8], cuts: u8) -> Vec<u8> {
    let (mut written, mut at) = (Vec::new(), 0);
    for end in Cuts::new(cuts).ends(reply.len()) {
        at += downgrade.rewrite(&reply[at..end], &mut written);
    }
    assert!(at == reply.len() && downgrade.is_done(), "{at} of {} bytes taken", reply.len());
    written
}
