//! Large values and long arrays, both ways.

use std::io::Read;

use super::started;
use crate::support::resp::{encode, words};
use crate::support::{Conn, Sidecar, V};

const TEN_MB: usize = 10 * 1024 * 1024;

fn conns(sidecar: &Sidecar) -> [Conn; 2] {
    [sidecar.conn(), sidecar.conn3()]
}

fn value(length: usize, salt: u8) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8 ^ salt).collect()
}

#[test]
fn values_of_ten_megabytes_pass_both_ways() {
    let (server, sidecar) = started("");
    for (i, mut conn) in conns(&sidecar).into_iter().enumerate() {
        let big = value(TEN_MB, i as u8);
        assert_eq!(conn.ask(&[&b"SET"[..], b"big", &big]), V::Simple("OK".into()));
        assert!(server.conn().ask(&["GET", "big"]) == V::Bulk(big.clone()));
        for _ in 0..4 {
            assert!(conn.ask(&["GET", "big"]) == V::Bulk(big.clone()));
            assert_eq!(conn.line("STRLEN big").int(), TEN_MB as i64);
        }
        // Among others, in a pipeline and in a transaction.
        let replies = conn.pipeline(&["GET small", "GET big", "GET small", "MULTI", "GET big", "EXEC", "PING"]);
        assert!(replies[1] == V::Bulk(big.clone()) && replies[5] == V::Array(vec![V::Bulk(big.clone())]));
        assert_eq!((&replies[0], &replies[2], &replies[6]), (&V::Nil, &V::Nil, &V::Simple("PONG".into())));
    }
}

#[test]
fn a_value_just_below_and_above_each_limit_is_the_same_whether_cached_or_not() {
    let (server, sidecar) = started("cache.max_entry_bytes = '256KiB'\nupstream.large_request_bytes = '64KiB'");
    for mut conn in conns(&sidecar) {
        for length in [
            1000,
            16 * 1024 - 1,
            16 * 1024,
            64 * 1024 - 60,
            64 * 1024,
            256 * 1024 - 100,
            256 * 1024,
            256 * 1024 + 1,
            1024 * 1024,
        ] {
            let bytes = value(length, 7);
            assert_eq!(conn.ask(&[&b"SET"[..], b"k", &bytes]), V::Simple("OK".into()), "{length}");
            for _ in 0..4 {
                assert!(conn.ask(&["GET", "k"]) == V::Bulk(bytes.clone()), "{length}");
            }
            server.conn().ask(&[&b"SET"[..], b"k", &value(length, 9)]);
            crate::support::eventually("the new value is seen", || {
                conn.ask(&["GET", "k"]) == V::Bulk(value(length, 9))
            });
        }
    }
}

#[test]
fn an_array_of_a_hundred_thousand_elements_passes() {
    let (server, sidecar) = started("");
    let mut direct = server.conn();
    let elements: Vec<String> = (0..100_000).map(|i| format!("e{i}")).collect();
    for chunk in elements.chunks(10_000) {
        let args: Vec<&str> = ["RPUSH", "list"].into_iter().chain(chunk.iter().map(String::as_str)).collect();
        direct.ask(&args);
    }
    // In pieces: each of them within a reply's patience.
    let fill = "for i=ARGV[1]*1000+1,ARGV[1]*1000+1000 do redis.call('ZADD',KEYS[1],i,'m'..i) end return 1";
    for thousand in 0..100 {
        assert_eq!(direct.ask(&["EVAL", fill, "1", "zset", &thousand.to_string()]), V::Int(1));
    }
    for resp3 in [false, true] {
        let mut direct = if resp3 { Conn::open3(server.addr()) } else { server.conn() };
        let mut conn = if resp3 { sidecar.conn3() } else { sidecar.conn() };
        // Scores are doubles in RESP3: rewritten for RESP2 as they pass.
        for line in ["LRANGE list 0 -1", "ZRANGE zset 0 -1 WITHSCORES"] {
            let request = encode(&words(line));
            let expected = direct.call(&words(line));
            for _ in 0..3 {
                let mut got = vec![0; expected.len()];
                conn.send_raw(&request);
                // Not by frames: our reader begins anew with every piece that comes.
                conn.writer().read_exact(&mut got).unwrap();
                assert!(got == expected, "{line} RESP3: {resp3}");
            }
            assert_eq!(conn.line("PING"), V::Simple("PONG".into()));
        }
    }
    // As many arguments in a request.
    let args: Vec<&str> = ["MGET"].into_iter().chain(elements.iter().map(String::as_str)).collect();
    assert_eq!(sidecar.conn().ask(&args).items().len(), 100_000);
}

#[test]
fn a_large_reply_to_one_client_does_not_mix_with_anothers() {
    let (server, sidecar) = started("");
    server.conn().ask(&[&b"SET"[..], b"big", &value(TEN_MB, 1)]);
    server.outside("SET small v");
    let readers: Vec<_> = (0..3)
        .map(|i| {
            let mut conn = if i == 0 { sidecar.conn3() } else { sidecar.conn() };
            std::thread::spawn(move || {
                for _ in 0..3 {
                    let replies = conn.pipeline(&["GET small", "GET big", "GET small"]);
                    assert!(replies == [V::bulk("v"), V::Bulk(value(TEN_MB, 1)), V::bulk("v")]);
                }
            })
        })
        .collect();
    let mut conn = sidecar.conn();
    for i in 0..200 {
        assert_eq!(
            conn.pipeline(&["ECHO a", "GET small", &format!("ECHO {i}")])[1..],
            [V::bulk("v"), V::bulk(i.to_string())]
        );
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn a_reply_nested_as_deep_as_a_script_can_nest_it_passes_and_the_connection_goes_on() {
    let (server, sidecar) = started("");
    let request = encode(&["EVAL", "local a = {}; local b = {a}; a[1] = b; return a", "0"]);
    // LUAI_MAXCSTACK, less what Redis itself has on it.
    let expected = format!("{}-ERR reached lua stack limit\r\n", "*1\r\n".repeat(7995));
    for mut conn in [server.conn(), sidecar.conn(), sidecar.conn3()] {
        conn.send_raw(&request);
        let mut got = vec![0; expected.len()];
        conn.writer().read_exact(&mut got).unwrap();
        assert!(got == expected.as_bytes(), "{}", String::from_utf8_lossy(&got[got.len() - 200..]));
        assert_eq!(conn.line("EXISTS no").int(), 0);
    }
}
