//! The rewriting, case by case, and in pieces.

use proptest::prelude::*;

use super::{Downgrade, Shape, rewrite_whole};

fn rewritten(frame: &str, shape: Shape) -> String {
    let mut out = Vec::new();
    rewrite_whole(frame.as_bytes(), shape, &mut out);
    String::from_utf8(out).unwrap()
}

fn rewritten_exec(frame: &str, shapes: Vec<Shape>) -> String {
    let mut out = Vec::new();
    let mut downgrade = Downgrade::exec(shapes);
    assert_eq!(downgrade.rewrite(frame.as_bytes(), &mut out), frame.len());
    assert!(downgrade.is_done());
    String::from_utf8(out).unwrap()
}

#[test]
fn resp2_types_pass_as_they_are() {
    for frame in [
        "+OK\r\n",
        "-ERR no\r\n",
        ":5\r\n",
        "$3\r\na\r\n\r\n",
        "*2\r\n$0\r\n\r\n:1\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
    ] {
        assert_eq!(rewritten(frame, Shape::Same), frame);
    }
}

#[test]
fn resp3_types_become_resp2_types() {
    for (from, to) in [
        ("_\r\n", "$-1\r\n"),
        ("#t\r\n", ":1\r\n"),
        ("#f\r\n", ":0\r\n"),
        (",1.5\r\n", "$3\r\n1.5\r\n"),
        (",-inf\r\n", "$4\r\n-inf\r\n"),
        ("(12345678901234567890\r\n", "$20\r\n12345678901234567890\r\n"),
        ("=7\r\ntxt:a\nb\r\n", "$3\r\na\nb\r\n"),
        ("=4\r\ntxt:\r\n", "$0\r\n\r\n"),
        ("!5\r\nERR a\r\n", "-ERR a\r\n"),
        ("!6\r\nE\r\na\nb\r\n", "-E  a b\r\n"),
        ("%1\r\n+a\r\n%0\r\n", "*2\r\n+a\r\n*0\r\n"),
        ("~2\r\n+a\r\n_\r\n", "*2\r\n+a\r\n$-1\r\n"),
        (">2\r\n+invalidate\r\n_\r\n", "*2\r\n+invalidate\r\n$-1\r\n"),
        ("|1\r\n+ttl\r\n%1\r\n$1\r\nk\r\n:1\r\n*1\r\n+a\r\n", "*1\r\n+a\r\n"),
        ("*2\r\n|1\r\n$1\r\na\r\n=5\r\ntxt:b\r\n+a\r\n|0\r\n+b\r\n", "*2\r\n+a\r\n+b\r\n"),
    ] {
        assert_eq!(rewritten(from, Shape::Same), to, "{from:?}");
    }
}

#[test]
fn a_line_feed_alone_does_not_end_a_text() {
    assert_eq!(rewritten("*2\r\n+a\nb\r\n#t\r\n", Shape::Same), "*2\r\n+a\nb\r\n:1\r\n");
}

#[test]
fn a_push_amid_a_reply_is_none_of_its_elements() {
    let push = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    let exec = format!("*2\r\n#t\r\n{push}#f\r\n");
    assert_eq!(rewritten(&exec, Shape::Same), "*2\r\n:1\r\n:0\r\n");
    let attribute = format!("|1\r\n+a\r\n{push}+b\r\n#t\r\n");
    assert_eq!(rewritten(&attribute, Shape::Same), ":1\r\n");
}

#[test]
fn a_null_is_an_array_where_the_shape_says_so() {
    assert_eq!(rewritten("_\r\n", Shape::NullArray), "*-1\r\n");
    assert_eq!(rewritten("_\r\n", Shape::NullArrayOnTimeout), "*-1\r\n");
    assert_eq!(rewritten("*1\r\n_\r\n", Shape::NullArray), "*1\r\n$-1\r\n");
    assert_eq!(rewritten("*1\r\n_\r\n", Shape::NullArrayParts), "*1\r\n*-1\r\n");
    assert_eq!(rewritten("*4\r\n:0\r\n_\r\n_\r\n_\r\n", Shape::Pending), "*4\r\n:0\r\n$-1\r\n$-1\r\n*-1\r\n");
}

#[test]
fn pairs_are_flattened_and_what_is_flat_stays() {
    assert_eq!(
        rewritten("*2\r\n*2\r\n+a\r\n,1\r\n*2\r\n+b\r\n+2\r\n", Shape::Pairs),
        "*4\r\n+a\r\n$1\r\n1\r\n+b\r\n+2\r\n"
    );
    assert_eq!(rewritten("*2\r\n+a\r\n,1\r\n", Shape::Pairs), "*2\r\n+a\r\n$1\r\n1\r\n");
    assert_eq!(rewritten("*0\r\n", Shape::Pairs), "*0\r\n");
    assert_eq!(rewritten("_\r\n", Shape::Pairs), "$-1\r\n");
    assert_eq!(rewritten("-ERR\r\n", Shape::Pairs), "-ERR\r\n");
}

#[test]
fn streams_are_pairs_and_deleted_entries_null_arrays() {
    assert_eq!(
        rewritten("%2\r\n+s\r\n*1\r\n*2\r\n+1-1\r\n_\r\n+t\r\n*0\r\n", Shape::Streams),
        "*2\r\n*2\r\n+s\r\n*1\r\n*2\r\n+1-1\r\n*-1\r\n*2\r\n+t\r\n*0\r\n"
    );
    assert_eq!(rewritten("_\r\n", Shape::Streams), "*-1\r\n");
}

#[test]
fn each_element_of_exec_has_its_own_shape() {
    use Shape::{NullArray, NullArrayOnTimeout, Pairs, Same, Streams};
    assert_eq!(
        rewritten_exec(
            "*6\r\n_\r\n_\r\n_\r\n*1\r\n*2\r\n+a\r\n,1\r\n%1\r\n+s\r\n*0\r\n-ERR\r\n",
            vec![Same, NullArray, NullArrayOnTimeout, Pairs, Streams, Same]
        ),
        "*6\r\n$-1\r\n*-1\r\n$-1\r\n*2\r\n+a\r\n$1\r\n1\r\n*1\r\n*2\r\n+s\r\n*0\r\n-ERR\r\n"
    );
    assert_eq!(rewritten_exec("_\r\n", vec![Same]), "*-1\r\n");
    assert_eq!(rewritten_exec("*1\r\n_\r\n", vec![]), "*1\r\n$-1\r\n");
}

#[test]
fn nothing_behind_the_reply_is_taken() {
    let mut out = Vec::new();
    let mut downgrade = Downgrade::new(Shape::Same);
    assert_eq!(downgrade.rewrite(b"*1\r\n$1\r\na\r\n+next\r\n", &mut out), 11);
    assert!(downgrade.is_done());
    assert_eq!(out, b"*1\r\n$1\r\na\r\n");
}

#[test]
fn broken_lengths_neither_panic_nor_allocate() {
    for frame in [
        "*9999999999999999999999\r\n",
        "%999999999999999999\r\n+a\r\n",
        "=2\r\nab\r\n",
        "=x\r\n",
        "\n",
        "\r\n",
        "!-1\r\n",
        "|\r\n",
    ] {
        rewritten(frame, Shape::Same);
        rewritten(frame, Shape::Pairs);
    }
}

/// A RESP3 value as bytes, and as bytes of RESP2 with nulls as `$-1`.
fn value() -> impl Strategy<Value = (String, String)> {
    let leaf = prop_oneof![
        "[a-z ]{0,6}".prop_map(|s| (format!("+{s}\r\n"), format!("+{s}\r\n"))),
        "[a-z\r\n]{0,6}".prop_map(|s| (format!("${}\r\n{s}\r\n", s.len()), format!("${}\r\n{s}\r\n", s.len()))),
        "[a-z\r\n]{0,6}".prop_map(|s| (format!("={}\r\ntxt:{s}\r\n", s.len() + 4), format!("${}\r\n{s}\r\n", s.len()))),
        any::<i64>().prop_map(|n| (format!(":{n}\r\n"), format!(":{n}\r\n"))),
        any::<i64>().prop_map(|n| (format!(",{n}\r\n"), format!("${}\r\n{n}\r\n", n.to_string().len()))),
        any::<bool>().prop_map(|b| (format!("#{}\r\n", if b { 't' } else { 'f' }), format!(":{}\r\n", u8::from(b)))),
        Just(("_\r\n".into(), "$-1\r\n".into())),
        "[a-z ]{1,6}".prop_map(|s| (format!("!{}\r\n{s}\r\n", s.len()), format!("-{s}\r\n"))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..4);
        let joined = |v: &[(String, String)]| -> (String, String) { v.iter().cloned().unzip() };
        prop_oneof![
            (many.clone(), prop::sample::select(vec!['*', '~'])).prop_map(move |(v, kind)| {
                let (from, to) = joined(&v);
                (format!("{kind}{}\r\n{from}", v.len()), format!("*{}\r\n{to}", v.len()))
            }),
            prop::collection::vec((inner.clone(), inner.clone()), 0..3).prop_map(move |v| {
                let flat: Vec<_> = v.iter().flat_map(|(k, w)| [k.clone(), w.clone()]).collect();
                let (from, to) = joined(&flat);
                (format!("%{}\r\n{from}", v.len()), format!("*{}\r\n{to}", 2 * v.len()))
            }),
            (inner.clone(), inner.clone(), inner).prop_map(|(k, v, w)| (format!("|1\r\n{}{}{}", k.0, v.0, w.0), w.1)),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_in_any_pieces_becomes_its_resp2_form((from, to) in value(), cuts in prop::collection::vec(1usize..9, 1..64)) {
        let mut out = Vec::new();
        let mut downgrade = Downgrade::new(Shape::Same);
        let (mut start, mut end) = (0, 0);
        let mut cuts = cuts.iter().cycle();
        while !downgrade.is_done() {
            end = from.len().min(end + cuts.next().unwrap());
            start += downgrade.rewrite(&from.as_bytes()[start..end], &mut out);
            prop_assert!(end < from.len() || downgrade.is_done());
        }
        prop_assert_eq!(start, from.len());
        prop_assert_eq!(String::from_utf8(out).unwrap(), to);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"*$%~=!|_,#\r\n0123".to_vec())], 0..64)) {
        for shape in [Shape::Same, Shape::Pairs, Shape::Streams, Shape::Pending, Shape::NullArrayParts] {
            let mut out = Vec::new();
            prop_assert!(Downgrade::new(shape).rewrite(&bytes, &mut out) <= bytes.len());
        }
        let mut out = Vec::new();
        prop_assert!(Downgrade::exec(vec![Shape::Pairs; 3]).rewrite(&bytes, &mut out) <= bytes.len());
    }
}
