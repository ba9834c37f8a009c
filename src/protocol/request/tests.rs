//! Tests of the request parser: Redis's texts, its limits, and that cuts between reads change nothing.

use proptest::prelude::*;
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};

use super::*;
use crate::limits::UNAUTHENTICATED;

/// Small enough for random bytes to meet every one of them.
const TIGHT: RequestLimits = RequestLimits { elements: 4, bulk: 12, inline: 20, total: 40 };

type Args = Vec<Vec<u8>>;

/// How a stream of bytes ended: all parsed so far, and the error if there was one.
type Outcome = (Vec<Args>, Result<(), ProtocolError>);

/// What comes of `bytes` when reads end at `cuts`.
fn outcome(bytes: &[u8], cuts: &[usize], limits: &RequestLimits) -> Outcome {
    let mut parser = RequestParser::default();
    let mut requests = Vec::new();
    let mut at = 0;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    for end in ends {
        loop {
            let buf = &bytes[at..end];
            // What comes as a whole is parsed in the one way, what comes in pieces in the other where it can be.
            let next = if cuts.is_empty() { parser.parse(buf, limits) } else { parser.next(buf, limits) };
            let parsed = match next {
                Ok(parsed) => parsed,
                Err(error) => return (requests, Err(error)),
            };
            let args = |raw| -> Args {
                let args = parser.args(raw);
                (0..args.len()).map(|i| args.get(i).unwrap().to_vec()).collect()
            };
            at += match parsed {
                Parsed::Incomplete => break,
                Parsed::Empty { len } => len,
                Parsed::Request { len } => {
                    requests.push(args(&buf[..len]));
                    len
                }
                Parsed::Inline { len, request } => {
                    requests.push(args(&request));
                    len
                }
            };
        }
    }
    (requests, Ok(()))
}

fn whole(bytes: &[u8], limits: &RequestLimits) -> Outcome {
    outcome(bytes, &[], limits)
}

/// The text of the error that `bytes` end in.
fn complaint(bytes: &[u8], limits: &RequestLimits) -> Option<String> {
    whole(bytes, limits).1.err().map(|error| error.to_string())
}

fn encoded(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::request(&mut out, args);
    out
}

fn requests() -> impl Strategy<Value = Vec<Args>> {
    let arg = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 90..1200),
        1 => Just(b"\r\n$3\r\n".to_vec()),
    ];
    prop::collection::vec(prop::collection::vec(arg, 1..14), 1..6)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..12)
}

/// Bytes that look like requests often enough to get somewhere.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "*1\r\n",
            "*2\r\n",
            "*3\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*5\r\n",
            "$0\r\n\r\n",
            "$1\r\nx\r\n",
            "$2\r\nab",
            "$12\r\n",
            "\r\n",
            "\n",
            "\r",
            "GET k\r\n",
            "\"",
            "'",
            "*",
            "$",
            "0",
            "1",
            " ",
            "\0",
            "*01\r\n",
            "*1\rx",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn requests_are_the_same_wherever_reads_cut_them(requests in requests(), cuts in cuts()) {
        let bytes: Vec<u8> = requests.iter().flat_map(|args| encoded(args)).collect();
        prop_assert_eq!(outcome(&bytes, &cuts, &AUTHENTICATED), (requests, Ok(())));
    }

    #[test]
    fn arguments_are_those_of_the_reference_decoder(args in requests()) {
        for args in args {
            let bytes = encoded(&args);
            let (frame, len) = decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(len, bytes.len());
            let OwnedFrame::Array(elements) = frame else { panic!("no array") };
            let expected: Vec<_> = elements.into_iter().map(|element| match element {
                OwnedFrame::BulkString(text) => text,
                other => panic!("no bulk string: {other:?}"),
            }).collect();
            prop_assert_eq!(whole(&bytes, &AUTHENTICATED).0, vec![expected]);
        }
    }

    #[test]
    fn any_bytes_come_to_the_same_wherever_reads_cut_them(bytes in soup(), cuts in cuts()) {
        prop_assert_eq!(outcome(&bytes, &cuts, &TIGHT), whole(&bytes, &TIGHT));
        let bytewise: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(outcome(&bytes, &bytewise, &AUTHENTICATED), whole(&bytes, &AUTHENTICATED));
    }

    #[test]
    fn a_request_begun_is_never_looked_at_from_its_start_again(args in requests(), step in 1usize..40) {
        let bytes = encoded(&args[0]);
        let mut parser = RequestParser::default();
        for end in (0..bytes.len()).step_by(step) {
            prop_assert_eq!(parser.parse(&bytes[..end], &AUTHENTICATED), Ok(Parsed::Incomplete));
            let looked_at = parser.pos + parser.searched;
            // Only a CR whose LF has not come is looked at again, or the end of a bulk's content.
            let reached = looked_at + 1 >= end || parser.bulk.is_some_and(|len| parser.pos + len + 2 > end);
            prop_assert!(reached, "looked at {looked_at} of {end} bytes");
        }
    }

    #[test]
    fn the_hint_of_missing_bytes_is_exact_within_a_bulk(len in 1000usize..5000, come in 0usize..900) {
        let bytes = encoded(&[vec![b'x'; len]]);
        let header = bytes.len() - len - 2;
        let mut parser = RequestParser::default();
        prop_assert_eq!(parser.parse(&bytes[..header + come], &AUTHENTICATED), Ok(Parsed::Incomplete));
        prop_assert_eq!(parser.needed(), bytes.len() - header - come);
    }
}

#[test]
fn malformed_requests_are_refused_in_redis_words() {
    let quoted = "Protocol error: unbalanced quotes in request";
    let count = "Protocol error: invalid multibulk length";
    let bulk = "Protocol error: invalid bulk length";
    for (bytes, text) in [
        ("*abc\r\n", count),
        ("*\r\n", count),
        ("*+1\r\n", count),
        ("*01\r\n", count),
        ("*-0\r\n", count),
        ("*1048577\r\n", count),
        ("*2147483648\r\n", count),
        ("*99999999999999999999999\r\n", count),
        ("*1\rx$4\r\nPING\r\n", count),
        ("*1\r\n$-1\r\n", bulk),
        ("*1\r\n$abc\r\n", bulk),
        ("*1\r\n$+4\r\nPING\r\n", bulk),
        ("*1\r\n$04\r\nPING\r\n", bulk),
        ("*1\r\n$536870913\r\n", bulk),
        ("*1\r\nfoo\r\n", "Protocol error: expected '$', got 'f'"),
        ("*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
        ("*1\r\n4\r\nPING\r\n", "Protocol error: expected '$', got '4'"),
        ("*1\r\n\r\n", "Protocol error: expected '$', got ' '"),
        ("*1\r\n$4\r\nPINGxx", "Protocol error: expected CRLF after bulk"),
        ("PING \"abc\r\n", quoted),
        ("PING 'abc'd\r\n", quoted),
    ] {
        assert_eq!(complaint(bytes.as_bytes(), &AUTHENTICATED).as_deref(), Some(text), "{bytes:?}");
    }
}

#[test]
fn a_line_without_end_is_refused_one_byte_above_the_limit() {
    for (start, text) in [
        ("", "Protocol error: too big inline request"),
        ("*", "Protocol error: too big mbulk count string"),
        ("*1\r\n$", "Protocol error: too big bulk count string"),
    ] {
        // The limit counts from the line's own first byte.
        let fits = AUTHENTICATED.inline;
        let line = |len: usize| [start.as_bytes(), &vec![b'1'; len - start.len().min(1)]].concat();
        assert_eq!(complaint(&line(fits), &AUTHENTICATED), None, "{start:?}");
        assert_eq!(complaint(&line(fits + 1), &AUTHENTICATED).as_deref(), Some(text), "{start:?}");
        // Nor may it come with its end in the same read: else the outcome would hang on the network's cuts.
        let ended = [line(fits + 1), b"\r\n".to_vec()].concat();
        assert_eq!(complaint(&ended, &AUTHENTICATED).as_deref(), Some(text), "{start:?}");
    }
}

#[test]
fn a_stranger_is_held_to_ten_arguments_of_sixteen_kilobytes() {
    let count = "Protocol error: unauthenticated multibulk length";
    let bulk = "Protocol error: unauthenticated bulk length";
    for (bytes, text) in [
        ("*10\r\n", None),
        ("*11\r\n", Some(count)),
        ("*1048577\r\n", Some(count)),
        ("*2147483648\r\n", Some("Protocol error: invalid multibulk length")),
        ("*1\r\n$16384\r\n", None),
        ("*1\r\n$16385\r\n", Some(bulk)),
        ("*1\r\n$536870912\r\n", Some(bulk)),
        ("*1\r\n$536870913\r\n", Some("Protocol error: invalid bulk length")),
    ] {
        assert_eq!(complaint(bytes.as_bytes(), &UNAUTHENTICATED).as_deref(), text, "{bytes:?}");
    }
}

#[test]
fn a_request_above_the_total_is_refused_at_the_header_that_says_so() {
    let limits = RequestLimits { total: 100, ..AUTHENTICATED };
    let fits = encoded(&[vec![b'x'; 100 - 4 - 5 - 2]]);
    assert_eq!(fits.len(), 100);
    assert_eq!(whole(&fits, &limits).1, Ok(()));
    assert_eq!(complaint(b"*1\r\n$90\r\n", &limits).as_deref(), Some("Protocol error: too big request"));
    assert_eq!(complaint(b"*2\r\n$50\r\n", &limits), None);
}

#[test]
fn what_asks_for_nothing_is_passed_over() {
    let bytes = b"\r\n*0\r\n*-1\r\n*-5\r\n  \r\n\n\x0b\r\nPING\r\n*1\r\n$4\r\nPING\r\n";
    let ping = vec![b"PING".to_vec()];
    assert_eq!(whole(bytes, &AUTHENTICATED), (vec![ping.clone(), ping], Ok(())));
    assert_eq!(RequestParser::default().parse(b"*-1\r\n*", &AUTHENTICATED), Ok(Parsed::Empty { len: 5 }));
}

#[test]
fn an_inline_request_is_handed_on_as_a_multibulk_one() {
    let mut parser = RequestParser::default();
    let parsed = parser.parse(b"SET k \"a b\"\r\nGET k\r\n", &AUTHENTICATED);
    let request = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\na b\r\n".to_vec();
    assert_eq!(parsed, Ok(Parsed::Inline { len: 13, request: request.clone() }));
    assert_eq!(parser.args(&request).get(2), Some(&b"a b"[..]));
    // A stranger's limits hold for what is typed as Redis has them: by the line, not by the word.
    let many = format!("PING{}\n", " x".repeat(20));
    assert_eq!(whole(many.as_bytes(), &UNAUTHENTICATED).0[0].len(), 21);
}

#[test]
fn a_nul_hides_the_end_of_an_inline_request_as_in_redis() {
    assert_eq!(whole(b"PING\0\r\nPING\r\n", &AUTHENTICATED), (vec![], Ok(())));
    let mut long = b"PING\0\r\n".to_vec();
    long.resize(AUTHENTICATED.inline + 1, b'x');
    assert_eq!(complaint(&long, &AUTHENTICATED).as_deref(), Some("Protocol error: too big inline request"));
}

// Traps that other proxies fell into.

#[test]
fn a_bulk_and_a_pipeline_split_over_many_reads_stay_whole() {
    let value = vec![b'v'; 100_000];
    let set = encoded(&[b"SET".to_vec(), b"k".to_vec(), value]);
    let pipeline = set.repeat(20);
    let cuts: Vec<usize> = (0..pipeline.len()).step_by(1447).collect();
    let (requests, end) = outcome(&pipeline, &cuts, &AUTHENTICATED);
    assert_eq!((requests.len(), end), (20, Ok(())));
    assert!(requests.iter().all(|args| args[2].len() == 100_000));
}

#[test]
fn an_empty_key_an_empty_name_and_a_lone_name_are_legal_requests() {
    let args = |list: &[&str]| -> Args { list.iter().map(|arg| arg.as_bytes().to_vec()).collect() };
    for list in [&["GET", ""][..], &[""], &["PING"], &["MSET", "a", "a", "a"], &["", "", ""]] {
        let list = args(list);
        assert_eq!(whole(&encoded(&list), &AUTHENTICATED), (vec![list], Ok(())));
    }
}

#[test]
fn a_header_cut_in_two_leaves_no_trace_on_the_next() {
    let bytes = [b"*2\r\n$1234\r\n".to_vec(), vec![b'x'; 1234], b"\r\n$\r\n".to_vec()].concat();
    assert_eq!(outcome(&bytes, &["*2\r\n$12".len()], &AUTHENTICATED).1, Err(ProtocolError::InvalidBulk));
}

#[test]
fn a_nested_request_is_refused() {
    let text = complaint(b"*1\r\n*1\r\n$4\r\nPING\r\n", &AUTHENTICATED);
    assert_eq!(text.as_deref(), Some("Protocol error: expected '$', got '*'"));
}

#[test]
fn an_inline_request_of_any_bytes_never_panics() {
    for byte in 0..=u8::MAX {
        for frame in [vec![byte, b'\n'], vec![b'x', byte, b'"', b'\n'], vec![b'"', b'\\', byte], vec![byte; 70_000]] {
            let _ = whole(&frame, &AUTHENTICATED);
        }
    }
}

#[test]
fn a_declared_length_allocates_nothing() {
    let mut parser = RequestParser::default();
    for header in ["*1048576\r\n$536870912\r\n", "*1048576\r\n$1\r\nx"] {
        parser = RequestParser::default();
        assert_eq!(parser.parse(header.as_bytes(), &AUTHENTICATED), Ok(Parsed::Incomplete));
        assert!(parser.ranges.capacity() < 16);
    }
    assert!(parser.needed() < 3);
}

#[test]
fn the_memory_of_a_large_request_is_given_back_at_the_next() {
    let mut parser = RequestParser::default();
    let large = encoded(&vec![b"x".to_vec(); 100_000]);
    assert_eq!(parser.parse(&large, &AUTHENTICATED), Ok(Parsed::Request { len: large.len() }));
    assert_eq!(parser.ranges().len(), 100_000);
    parser.parse(b"*1\r\n$4\r\nPING\r\n", &AUTHENTICATED).unwrap();
    assert!(parser.ranges.capacity() <= KEPT_RANGES);
}

#[test]
fn the_quicker_way_takes_nothing_that_is_too_large() {
    for (args, fits) in [
        (vec![vec![b'x'; 12], vec![b'y'; 10]], true),
        (vec![vec![b'x'; 12], vec![b'y'; 11]], false),
        (vec![vec![b'x'; 13]], false),
        (vec![vec![b'x'; 1]; 4], true),
        (vec![vec![b'x'; 1]; 5], false),
    ] {
        let bytes = encoded(&args);
        let next = RequestParser::default().next(&bytes, &TIGHT);
        assert_eq!(next, RequestParser::default().parse(&bytes, &TIGHT), "{args:?}");
        assert_eq!(next.is_ok(), fits, "{args:?}");
    }
}
