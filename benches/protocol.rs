//! What it costs to find the end of a request or a reply, ours against `redis-protocol`'s decoders, and what else is done
//! with their bytes: a command's row is looked up, a reply is appended, a RESP3 reply is rewritten for RESP2.
//!
//! Nanoseconds per frame, pipelined in a 16 KiB buffer, release profile, two shared cores of a cloud machine under other
//! load (so the ratios say more than the numbers):
//!
//! | frame | ours | resp2 `decode_range` | resp2 `decode` | resp3 `decode_range` |
//! |---|---|---|---|---|
//! | `*3 SET`, 16 B key, 100 B value | 17 | 106 | 246 | 266 |
//! | `*2 GET`, 16 B key | 11.5 | 100 | 154 | 232 |
//! | `$100` reply | 6.7 | 27 | 60 | 67 |
//! | `+OK` reply | 2.4 | 20 | 59 | 55 |
//! | array of 100 `$16` | 448 | 1946 | 4339 | 5934 |
//! | invalidation of one key, its key read (the decoder's: not read) | 52 | - | - | 266 |
//! | encoding `*2 GET` | 28 | - | - | - |
//!
//! Looking a command up: `GET` 7.6 ns, `zrangebyscore` 12, `CONFIG GET` 16, one that is not there 3.6. Appending a reply of
//! 100 B 2.9 ns, 1000 B 8.7, 4000 B 58. Rewriting for RESP2: a null 21 ns, a hash of 100 fields 3.5 µs, 100 members with
//! scores 4.6 µs.

#![allow(clippy::unwrap_used, reason = "a frame that cannot be read ends the benchmark")]
#![allow(missing_docs, reason = "criterion's macros write public functions")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use redis_protocol::{resp2, resp3};
use sidecache::command::look_up;
use sidecache::limits::AUTHENTICATED;
use sidecache::protocol::downgrade::{self, Shape};
use sidecache::protocol::{Invalidation, Parsed, ReplyScanner, RequestParser, encode, frame};

/// Bytes of pipelined frames that one buffer holds: what a read brings under load.
const BUFFER: usize = 16 * 1024;

/// As many of `frame` as fit into one buffer.
fn pipelined(frame: &[u8]) -> Bytes {
    Bytes::from(frame.repeat((BUFFER / frame.len()).max(1)))
}

/// Measures `len_of`, the length of the frame at the front of its argument, frame after frame through the buffer.
fn per_frame(c: &mut Criterion, name: &str, buffer: &Bytes, mut len_of: impl FnMut(&[u8]) -> usize) {
    let mut at = 0;
    c.bench_function(name, |b| {
        b.iter(|| {
            if at >= buffer.len() {
                at = 0;
            }
            at += len_of(black_box(&buffer[at..]));
        });
    });
}

fn references(c: &mut Criterion, name: &str, buffer: &Bytes) {
    per_frame(c, &format!("{name}/resp2 decode_range"), buffer, |rest| {
        resp2::decode::decode_range(rest).unwrap().unwrap().1
    });
    per_frame(c, &format!("{name}/resp2 decode"), buffer, |rest| resp2::decode::decode(rest).unwrap().unwrap().1);
    per_frame(c, &format!("{name}/resp3 decode_range"), buffer, |rest| {
        resp3::decode::complete::decode_range(rest).unwrap().unwrap().1
    });
}

fn requests(c: &mut Criterion) {
    let value = [b'v'; 100];
    let set: &[&[u8]] = &[b"SET", b"user:00000000042", &value];
    let get: &[&[u8]] = &[b"GET", b"user:00000000042"];
    for (name, args) in [("*3 SET", set), ("*2 GET", get)] {
        let mut request = Vec::new();
        encode::request(&mut request, args);
        let buffer = pipelined(&request);
        let mut parser = RequestParser::default();
        per_frame(c, &format!("{name}/ours"), &buffer, |rest| match parser.parse(rest, &AUTHENTICATED) {
            Ok(Parsed::Request { len }) => {
                black_box(parser.ranges());
                len
            }
            other => unreachable!("{other:?}"),
        });
        references(c, name, &buffer);
    }
}

fn replies(c: &mut Criterion) {
    let mut bulk = Vec::new();
    encode::bulk(&mut bulk, &[b'v'; 100]);
    let mut array = Vec::new();
    encode::request(&mut array, &[[b'v'; 16]; 100]);
    for (name, reply) in [("$100 reply", bulk), ("+OK reply", b"+OK\r\n".to_vec()), ("*100 of $16 reply", array)] {
        let buffer = pipelined(&reply);
        let mut scanner = ReplyScanner::default();
        per_frame(c, &format!("{name}/ours"), &buffer, |rest| scanner.scan(rest).unwrap().unwrap().len);
        references(c, name, &buffer);
    }
}

fn pushes(c: &mut Criterion) {
    let push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$16\r\nuser:00000000042\r\n";
    let buffer = pipelined(push);
    let mut scanner = ReplyScanner::default();
    per_frame(c, "invalidation push/ours, scan and keys", &buffer, |rest| {
        let len = scanner.scan(rest).unwrap().unwrap().len;
        match frame::invalidation(&rest[..len]) {
            Some(Invalidation::Keys(keys)) => keys.for_each(|key| {
                black_box(key);
            }),
            other => unreachable!("{other:?}"),
        }
        len
    });
    per_frame(c, "invalidation push/resp3 decode_range", &buffer, |rest| {
        resp3::decode::complete::decode_range(rest).unwrap().unwrap().1
    });
}

fn encoding(c: &mut Criterion) {
    let mut out = bytes::BytesMut::with_capacity(BUFFER);
    c.bench_function("encode *2 GET/ours", |b| {
        b.iter(|| {
            out.clear();
            encode::request(&mut out, black_box(&[&b"GET"[..], b"user:00000000042"]));
        });
    });
}

/// From a parsed request to its row of the table: names of each kind, one of them with a subcommand.
fn commands(c: &mut Criterion) {
    for words in
        [&[&b"GET"[..], b"k"][..], &[b"zrangebyscore", b"k", b"0", b"1"], &[b"CONFIG", b"GET", b"save"], &[b"NOSUCH"]]
    {
        let mut request = Vec::new();
        encode::request(&mut request, words);
        let mut parser = RequestParser::default();
        assert!(matches!(parser.parse(&request, &AUTHENTICATED), Ok(Parsed::Request { .. })));
        let args = parser.args(&request);
        let name = String::from_utf8_lossy(words[0]).into_owned();
        c.bench_function(&format!("look up a command/{name}"), |b| b.iter(|| look_up(black_box(&args))));
    }
}

/// A hit's reply goes into the client's output buffer, which is taken when it is full, as after a write.
fn appending(c: &mut Criterion) {
    for length in [100, 1000, 4000] {
        let mut reply = Vec::new();
        encode::bulk(&mut reply, &vec![b'v'; length]);
        let mut out = bytes::BytesMut::with_capacity(2 * BUFFER);
        c.bench_function(&format!("append a reply/{length} B"), |b| {
            b.iter(|| {
                if out.len() > BUFFER {
                    out.clear();
                }
                out.extend_from_slice(black_box(&reply));
            });
        });
    }
}

/// Whole replies, of the kinds that occur: a null, a hash, scores beside their members.
fn rewriting(c: &mut Criterion) {
    let mut hash = b"%100\r\n".to_vec();
    let mut pairs = b"*100\r\n".to_vec();
    for i in 0..100 {
        encode::bulk(&mut hash, format!("field:{i:06}").as_bytes());
        encode::bulk(&mut hash, &[b'v'; 16]);
        pairs.extend_from_slice(format!("*2\r\n$8\r\nmem:{i:04}\r\n,{i}.5\r\n").as_bytes());
    }
    let all = [
        ("null", b"_\r\n".to_vec(), Shape::Same),
        ("%100 of $16", hash, Shape::Same),
        ("*100 pairs", pairs, Shape::Pairs),
    ];
    for (name, reply, shape) in all {
        let mut out = bytes::BytesMut::with_capacity(BUFFER);
        c.bench_function(&format!("rewrite for RESP2/{name}"), |b| {
            b.iter(|| {
                out.clear();
                downgrade::rewrite_whole(black_box(&reply), shape, &mut out);
            });
        });
    }
}

criterion_group!(benches, requests, replies, pushes, encoding, commands, appending, rewriting);
criterion_main!(benches);
