//! Tests of the reply scanner: every type, every cut, and the work it costs.

use proptest::prelude::*;
use redis_protocol::resp3::decode::complete::decode;

use super::*;

/// A random reply and what is to be said of it.
#[derive(Clone, Debug)]
struct Sample {
    bytes: Vec<u8>,
    /// First byte behind attributes.
    kind: u8,
    resp3: bool,
    start: usize,
    /// Whether the reference decoder gets it right.
    decodable: bool,
}

impl Sample {
    fn scalar(text: String) -> Sample {
        let bytes = text.into_bytes();
        let kind = bytes[0];
        let decodable = !bytes.starts_with(b"$-1") && !bytes.starts_with(b"*-1");
        Sample { kind, resp3: !b"+-:$*".contains(&kind), bytes, start: 0, decodable }
    }

    fn sized(kind: u8, content: &[u8]) -> Sample {
        let mut bytes = format!("{}{}\r\n", char::from(kind), content.len()).into_bytes();
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(b"\r\n");
        Sample { bytes, kind, resp3: kind != b'$', start: 0, decodable: true }
    }

    fn aggregate(kind: u8, mut elements: Vec<Sample>) -> Sample {
        let mut count = elements.len();
        if b"%|".contains(&kind) {
            elements.truncate(count / 2 * 2);
            count /= 2;
        }
        let mut bytes = format!("{}{count}\r\n", char::from(kind)).into_bytes();
        elements.iter().for_each(|element| bytes.extend_from_slice(&element.bytes));
        Sample {
            bytes,
            kind,
            resp3: kind != b'*' || elements.iter().any(|element| element.resp3),
            start: 0,
            // It has no keys and set members but scalars, and no pushes or attributes within.
            decodable: elements.iter().all(|element| {
                let scalar = !b"*%~".contains(&element.kind);
                element.decodable && element.kind != b'>' && (scalar || kind == b'*')
            }),
        }
    }

    /// `self` with something in front of it that is no value: attributes, or a push inside an aggregate.
    fn behind(mut self, front: Sample) -> Sample {
        if front.kind == b'|' {
            self.start += front.bytes.len();
        }
        Sample { bytes: [front.bytes, self.bytes].concat(), resp3: true, decodable: false, ..self }
    }
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..30),
        prop::collection::vec(any::<u8>(), 980..1020),
        Just(b"\r\n*1\r\n".to_vec())
    ]
}

fn leaf() -> impl Strategy<Value = Sample> {
    prop_oneof![
        content().prop_map(|content| Sample::sized(b'$', &content)),
        content().prop_map(|content| Sample::sized(b'!', &content)),
        "[ -~]{0,20}".prop_map(|text| Sample::sized(b'=', format!("txt:{text}").as_bytes())),
        "[ -~]{0,40}".prop_map(|text| Sample::scalar(format!("+{text}\r\n"))),
        "[A-Z]{1,9} [ -~]{0,40}".prop_map(|text| Sample::scalar(format!("-{text}\r\n"))),
        any::<i64>().prop_map(|number| Sample::scalar(format!(":{number}\r\n"))),
        (-20i64..2000).prop_map(|number| Sample::scalar(format!(":{number}\r\n"))),
        any::<i32>().prop_map(|number| Sample::scalar(format!(",{}\r\n", f64::from(number) / 8.0))),
        "-?[1-9][0-9]{0,60}".prop_map(|digits| Sample::scalar(format!("({digits}\r\n"))),
        prop::sample::select(vec!["#t\r\n", "#f\r\n", "_\r\n", "$-1\r\n", "*-1\r\n", ",inf\r\n", "+OK\r\n"])
            .prop_map(|text| Sample::scalar(text.to_string())),
    ]
}

fn value() -> impl Strategy<Value = Sample> {
    leaf().prop_recursive(4, 60, 8, |element| {
        let elements = prop::collection::vec(element.clone(), 0..8);
        let front = (prop::sample::select(&b"|>"[..]), prop::collection::vec(element.clone(), 2..5));
        prop_oneof![
            4 => (prop::sample::select(&b"*%~"[..]), elements.clone())
                .prop_map(|(kind, elements)| Sample::aggregate(kind, elements)),
            1 => (front, element, elements).prop_map(|((kind, front), value, mut elements)| {
                elements.push(value.behind(Sample::aggregate(kind, front)));
                // An even count, so that none is cut off again in a map.
                Sample::aggregate(b'*', elements)
            }),
        ]
    })
}

fn reply() -> impl Strategy<Value = Sample> {
    let attributes = prop::collection::vec(value(), 2..5).prop_map(|list| Sample::aggregate(b'|', list));
    prop_oneof![
        5 => value(),
        1 => prop::collection::vec(value(), 1..4).prop_map(|list| Sample::aggregate(b'>', list)),
        1 => (value(), attributes).prop_map(|(value, attributes)| value.behind(attributes)),
    ]
}

fn frame(sample: &Sample) -> Frame {
    Frame { len: sample.bytes.len(), kind: sample.kind, resp3: sample.resp3, start: sample.start }
}

/// All frames of `bytes` when reads end at `cuts`.
fn frames(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, ReplyError> {
    let mut scanner = ReplyScanner::default();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let (mut at, mut found) = (0, Vec::new());
    for end in ends {
        while let Some(frame) = scanner.scan(&bytes[at..end])? {
            at += frame.len;
            found.push(frame);
        }
    }
    Ok(found)
}

proptest! {
    #[test]
    fn replies_are_framed_exactly_wherever_reads_cut_them(
        replies in prop::collection::vec(reply(), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let bytes: Vec<u8> = replies.iter().flat_map(|reply| reply.bytes.clone()).collect();
        let expected: Vec<Frame> = replies.iter().map(frame).collect();
        prop_assert_eq!(frames(&bytes, &cuts), Ok(expected));
    }

    #[test]
    fn the_reference_decoder_finds_the_same_end(reply in value()) {
        if reply.decodable {
            let (_, len) = decode(&reply.bytes).unwrap().unwrap();
            prop_assert_eq!(len, reply.bytes.len());
            prop_assert_eq!(ReplyScanner::default().scan(&reply.bytes), Ok(Some(frame(&reply))));
        }
    }

    #[test]
    fn any_bytes_come_to_the_same_wherever_reads_cut_them(
        pieces in prop::collection::vec(prop_oneof![
            prop::sample::select(vec!["*2\r\n", "|1\r\n", ">1\r\n", "%1\r\n", "$3\r\nabc\r\n", "$1\r\n", "_\r\n", "+O",
                "K\r\n", "\r", "\n", "~0\r\n", "*-1\r\n", ":1\r\n", "$?\r\n", "#t\r\n", ",1.5\r\n", "(9\r\n", "-"])
                .prop_map(|piece| piece.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..3),
        ], 0..12),
    ) {
        let bytes = pieces.concat();
        let bytewise: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(frames(&bytes, &bytewise), frames(&bytes, &[]));
    }

    #[test]
    fn a_reply_passed_on_in_pieces_ends_where_the_whole_one_ends(
        reply in reply(), step in 1usize..50, keep in 0usize..20,
    ) {
        let mut scanner = ReplyScanner::default();
        let (mut buf, mut passed) = (Vec::new(), Vec::new());
        for piece in reply.bytes.chunks(step) {
            prop_assert!(buf.is_empty() || passed.len() + buf.len() < reply.bytes.len());
            buf.extend_from_slice(piece);
            if let Some(last) = scanner.scan(&buf).unwrap() {
                prop_assert_eq!((last.kind, last.resp3), (reply.kind, reply.resp3));
                prop_assert_eq!(last.start, reply.start.saturating_sub(passed.len()));
                prop_assert_eq!(scanner.progress(), Progress::default());
                passed.extend(buf.drain(..last.len));
                break;
            }
            let progress = scanner.progress();
            prop_assert!(progress.kind.is_none_or(|kind| kind == reply.kind));
            prop_assert!(!progress.resp3 || reply.resp3);
            let ready = progress.ready.saturating_sub(keep);
            scanner.consumed(ready);
            passed.extend(buf.drain(..ready));
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(passed, reply.bytes);
    }
}

fn error(bytes: &[u8]) -> Option<ReplyError> {
    frames(bytes, &[]).err()
}

#[test]
fn what_is_no_reply_is_refused() {
    for (bytes, expected) in [
        ("x", ReplyError::UnknownType(b'x')),
        ("\r\n", ReplyError::UnknownType(b'\r')),
        ("$?\r\n", ReplyError::Streamed),
        ("*?\r\n", ReplyError::Streamed),
        (";1\r\nx\r\n", ReplyError::Streamed),
        (".\r\n", ReplyError::Streamed),
        ("$-2\r\n", ReplyError::InvalidLength),
        ("$01\r\n", ReplyError::InvalidLength),
        ("$+1\r\n", ReplyError::InvalidLength),
        ("$\r\n", ReplyError::InvalidLength),
        ("$3\rx", ReplyError::InvalidLength),
        ("%-1\r\n", ReplyError::InvalidLength),
        (">-1\r\n", ReplyError::InvalidLength),
        ("!-1\r\n", ReplyError::InvalidLength),
        ("*99999999999999999999\r\n", ReplyError::InvalidLength),
        ("$9223372036854775807\r\n", ReplyError::TooLong),
        (":\r\n", ReplyError::InvalidScalar),
        (":1a\r\n", ReplyError::InvalidScalar),
        ("_x\r\n", ReplyError::InvalidScalar),
        ("#x\r\n", ReplyError::InvalidScalar),
        (",\r\n", ReplyError::InvalidScalar),
        ("$1\r\nabc", ReplyError::UnterminatedBulk),
        ("*1\r\n$1\r\nabc", ReplyError::UnterminatedBulk),
    ] {
        assert_eq!(error(bytes.as_bytes()), Some(expected), "{bytes:?}");
    }
    assert_eq!(error(&[b"$".as_slice(), &[b'1'; NUMBER_LINE]].concat()), Some(ReplyError::InvalidLength));
}

#[test]
fn a_declared_length_allocates_nothing() {
    for header in ["*9223372036854775807\r\n", "%4611686018427387904\r\n", "$9223372036854775000\r\n"] {
        let mut scanner = ReplyScanner::default();
        assert_eq!(scanner.scan(header.as_bytes()), Ok(None), "{header}");
        assert!(scanner.outer.capacity() < 16);
        assert_eq!(scanner.progress().ready, header.len());
    }
}

#[test]
fn a_type_that_resp2_lacks_is_noticed_wherever_it_stands() {
    for (reply, resp3) in [
        ("_\r\n", true),
        ("*2\r\n:1\r\n_\r\n", true),
        ("*1\r\n*1\r\n#t\r\n", true),
        ("~0\r\n", true),
        ("|1\r\n+a\r\n:1\r\n+OK\r\n", true),
        ("*3\r\n$-1\r\n*-1\r\n:1000\r\n", false),
    ] {
        assert_eq!(frames(reply.as_bytes(), &[]).unwrap()[0].resp3, resp3, "{reply:?}");
    }
}

#[test]
fn a_cr_alone_does_not_end_a_text() {
    let text = b"+a\rb\r\r\n";
    assert_eq!(frames(text, &[]).unwrap()[0].len, text.len());
    let bytewise: Vec<usize> = (0..text.len()).collect();
    assert_eq!(frames(text, &bytewise), frames(text, &[]));
}

// Traps that other proxies fell into.

#[test]
fn a_large_array_in_small_pieces_costs_no_more_than_in_one() {
    let mut array = b"*100000\r\n".to_vec();
    (0..100_000).for_each(|i| array.extend_from_slice(format!("$16\r\nelement-{i:08}\r\n").as_bytes()));
    for step in [1, 7, 100, 4096] {
        let mut scanner = ReplyScanner::default();
        let mut pieces = 0;
        for end in (0..array.len()).step_by(step) {
            assert_eq!(scanner.scan(&array[..end]), Ok(None));
            pieces += 1;
        }
        let frame = scanner.scan(&array).unwrap().unwrap();
        assert_eq!(frame.len, array.len());
        let most = array.len() + 8 * pieces;
        assert!(scanner.looked <= most, "looked at {} bytes of {} in {pieces} pieces", scanner.looked, array.len());
    }
}

#[test]
fn a_large_bulk_can_be_passed_on_before_its_end_has_come() {
    let mut scanner = ReplyScanner::default();
    assert_eq!(scanner.scan(b"$1000000\r\nabc"), Ok(None));
    assert_eq!(scanner.progress(), Progress { ready: 13, kind: Some(b'$'), resp3: false, start: 0 });
    scanner.consumed(13);
    let rest = [vec![b'x'; 999_997], b"\r\n".to_vec()].concat();
    assert_eq!(scanner.scan(&rest[..500_000]), Ok(None));
    assert_eq!(scanner.scan(&rest).unwrap().unwrap().len, rest.len());
    assert_eq!(scanner.scan(b"+OK\r\n").unwrap().unwrap().len, 5);
}

#[test]
fn nested_replies_and_an_error_without_a_blank_are_framed() {
    for reply in
        ["-ERR\r\n", "-\r\n", "*2\r\n*0\r\n*1\r\n*-1\r\n", "*1\r\n-LOADING\r\n", "+\r\n", "$0\r\n\r\n", "*0\r\n"]
    {
        let expected = Frame { len: reply.len(), kind: reply.as_bytes()[0], resp3: false, start: 0 };
        assert_eq!(frames(reply.as_bytes(), &[]), Ok(vec![expected]), "{reply:?}");
    }
}

#[test]
fn an_invalidation_amid_an_exec_reply_is_not_one_of_its_elements() {
    let push = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    let exec = format!("*2\r\n+OK\r\n{push}$1\r\nv\r\n");
    let found = frames(format!("{exec}+OK\r\n").as_bytes(), &[]).unwrap();
    assert_eq!(found.iter().map(|frame| (frame.len, frame.kind)).collect::<Vec<_>>(), [(exec.len(), b'*'), (5, b'+')]);
    assert_eq!(frames(push.as_bytes(), &[]).unwrap()[0].kind, b'>');
}

#[test]
fn nesting_is_bounded_and_costs_no_stack() {
    let nested = |depth: usize| format!("{}:1\r\n", "*1\r\n".repeat(depth));
    assert_eq!(frames(nested(REPLY_DEPTH).as_bytes(), &[]).map(|found| found.len()), Ok(1));
    assert_eq!(error(nested(REPLY_DEPTH + 1).as_bytes()), Some(ReplyError::TooDeep));
    assert_eq!(error(nested(1_000_000).as_bytes()), Some(ReplyError::TooDeep));
}
