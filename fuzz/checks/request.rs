//! The request parser: where reads cut the bytes changes nothing, and a request that it finds, written anew, is the
//! same request.

use sidecache::limits::{AUTHENTICATED, RequestLimits, UNAUTHENTICATED};
use sidecache::protocol::request::{Parsed, ProtocolError, RequestParser};
use sidecache::protocol::{Args, encode};

use super::pieces::Cuts;

/// Small enough for made-up bytes to meet each of them.
const TIGHT: RequestLimits = RequestLimits { elements: 4, bulk: 12, inline: 20, total: 40 };

type Request = Vec<Vec<u8>>;

/// Parses bytes as a whole and in pieces.
pub fn check(data: &[u8]) {
    let [choice, cuts, bytes @ ..] = data else { return };
    let limits = [AUTHENTICATED, UNAUTHENTICATED, TIGHT][usize::from(*choice) % 3];
    let whole = parse(bytes, &[bytes.len()], &limits);
    assert_eq!(whole, parse(bytes, &Cuts::new(*cuts).ends(bytes.len()), &limits), "cuts change what is parsed");
    for request in whole.0 {
        let mut written = Vec::new();
        encode::request(&mut written, &request);
        let again = parse(&written, &[written.len()], &AUTHENTICATED);
        assert_eq!(again, (vec![request], None), "written anew it is another request");
    }
}

/// All requests, and the error they end in.
fn parse(bytes: &[u8], ends: &[usize], limits: &RequestLimits) -> (Vec<Request>, Option<ProtocolError>) {
    let mut parser = RequestParser::default();
    let (mut requests, mut at) = (Vec::new(), 0);
    for &end in ends {
        loop {
            let buf = &bytes[at..end];
            // As a whole in the one way, in pieces in the quicker one where it can be.
            let next = if ends.len() == 1 { parser.parse(buf, limits) } else { parser.next(buf, limits) };
            let parsed = match next {
                Ok(parsed) => parsed,
                Err(error) => return (requests, Some(error)),
            };
            let used = match parsed {
                Parsed::Incomplete => break,
                Parsed::Empty { len } => len,
                Parsed::Request { len } => {
                    requests.push(copy(&parser.args(&buf[..len])));
                    len
                }
                Parsed::Inline { len, request } => {
                    requests.push(copy(&parser.args(&request)));
                    len
                }
            };
            assert!(used > 0 && used <= buf.len(), "{used} of {} bytes used", buf.len());
            at += used;
        }
    }
    (requests, None)
}

fn copy(args: &Args<'_>) -> Request {
    (0..args.len()).map(|i| args.get(i).expect("an argument").to_vec()).collect()
}
