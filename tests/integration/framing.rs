//! Whatever the bytes are cut into and however large they are, each request has its reply, whole and in its turn; what is
//! no RESP is answered as Redis does.

use std::io::Write;

use crate::support::resp::{Stream, encode, words};
use crate::support::{Conn, Server, Sidecar, V};

mod large;
mod limits;

fn started(toml: &str) -> (Server, Sidecar) {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, toml);
    (server, sidecar)
}

/// All that comes for these bytes until the end. The client closes its side once it has as many frames as it waits for: a
/// sidecache answers who has closed it for a second only.
fn everything(mut conn: Conn, bytes: &[u8], frames: usize) -> Vec<String> {
    let _ = conn.try_send_raw(bytes);
    let Stream::Tcp(stream) = conn.writer() else { unreachable!() };
    let mut all: Vec<Vec<u8>> = Vec::new();
    while all.len() < frames
        && let Ok(frame) = conn.try_read_frame()
    {
        all.push(frame);
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    while let Ok(frame) = conn.try_read_frame() {
        all.push(frame);
    }
    all.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
}

/// The same bytes to a server and to a sidecache are answered alike, to the end.
#[track_caller]
fn alike(sidecar: Conn, direct: Conn, bytes: &[u8], shown: &str) {
    let expected = everything(direct, bytes, 0);
    assert_eq!(everything(sidecar, bytes, expected.len()), expected, "{shown}");
}

#[test]
fn ten_thousand_commands_in_one_write_are_answered_in_order() {
    let (server, sidecar) = started("");
    for resp3 in [false, true] {
        let mut conn = if resp3 { sidecar.conn3() } else { sidecar.conn() };
        for i in 0..100 {
            server.outside(&format!("SET k{i} v{i}"));
        }
        let bytes: Vec<u8> = (0..10_000).flat_map(|i| encode(&["GET", &format!("k{}", i % 100)])).collect();
        for _ in 0..3 {
            let mut writer = conn.writer();
            let sent = bytes.clone();
            let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
            for i in 0..10_000 {
                assert_eq!(conn.value(), V::bulk(format!("v{}", i % 100)), "reply {i}");
            }
            writing.join().unwrap();
        }
    }
}

#[test]
fn requests_byte_by_byte_are_as_good_as_whole() {
    let (_server, sidecar) = started("");
    let mut conn = sidecar.conn();
    let mut witness = sidecar.conn();
    let lines = [
        "SET k v",
        "GET k",
        "GET k",
        "MULTI",
        "GET k",
        "EXEC",
        "WATCH k",
        "GET k",
        "UNWATCH",
        "HSET h f v",
        "HGETALL h",
    ];
    let mut bytes: Vec<u8> = lines.iter().flat_map(|line| encode(&words(line))).collect();
    bytes.extend(b"\r\nPING\r\n  get k \n");
    for (i, byte) in bytes.iter().enumerate() {
        conn.send_raw(&[*byte]);
        if i % 8 == 0 {
            // What the worker answers here, it has read after the bytes before it.
            witness.line("ECHO x");
        }
    }
    let replies: Vec<V> = (0..lines.len() + 2).map(|_| conn.value()).collect();
    assert_eq!(replies[5], V::Array(vec![V::bulk("v")]));
    assert_eq!(replies[replies.len() - 2..], [V::Simple("PONG".into()), V::bulk("v")]);
}

#[test]
fn protocol_errors_are_answered_in_their_turn_with_redis_text_and_end_the_connection() {
    let (server, sidecar) = started("");
    server.outside("SET k v");
    let before = encode(&["GET", "k"]);
    let huge = format!("*1\r\n${}\r\n", 600 * 1024 * 1024);
    let long_inline = "x".repeat(70_000);
    let cases: [&[u8]; 15] = [
        b"*abc\r\n",
        b"*-5\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\nGET\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$-1\r\n",
        huge.as_bytes(),
        b"*2\r\n$3\r\nGET\r\n*1\r\n$1\r\na\r\n",
        b"GET \"k\r\n",
        b"GET 'k\r\n",
        b"GET \"k\"x\r\n",
        long_inline.as_bytes(),
        b"*\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n+a\r\n",
    ];
    for case in cases {
        // The GET behind it is not answered if it is an error.
        let bytes = [&before[..], case].concat();
        let shown = String::from_utf8_lossy(&case[..case.len().min(40)]).into_owned();
        alike(sidecar.conn(), server.conn(), &bytes, &format!("{shown:?}"));
        // In a transaction, and where keys are watched, other code reads the requests.
        for state in ["MULTI", "WATCH k"] {
            let bytes = [&encode(&words(state))[..], &before, case].concat();
            alike(sidecar.conn(), server.conn(), &bytes, &format!("{state} {shown:?}"));
        }
    }
    // Redis 7.0 would take two billion elements; we take a million.
    let refusal = "-ERR Protocol error: invalid multibulk length\r\n";
    assert_eq!(everything(sidecar.conn(), b"*2000000000\r\n", 1), [refusal]);
    assert_eq!(sidecar.conn().line("GET k"), V::bulk("v"), "it still serves");
}

#[test]
fn odd_but_valid_requests_are_answered_as_upstream_does() {
    let (_server, sidecar) = started("");
    let twin = Server::redis();
    let cases: [&[u8]; 14] = [
        b"*0\r\nPING\r\n",
        b"*-1\r\nPING\r\n",
        b"\r\n\r\nPING\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
        b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$0\r\n\r\nGET \"\"\r\n",
        b"*7\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\n3\r\nGET a\r\n",
        b"PING",
        b"   \r\nPING\r\n",
        b"*1\r\n$4\r\nPI",
        b"EVAL \"return redis.error_reply('E')\" 0\r\nEVAL \"return {{{{1}}},{}}\" 0\r\n",
        b"MGET a a a\r\nDEL a a\r\n",
        b"get a\nGET a\r\nGET\ta\r\n",
        b"SET \"a\\x41\\n\" '\\'q'\r\nGET \"aA\\n\"\r\n",
    ];
    for case in cases {
        let shown = String::from_utf8_lossy(case).into_owned();
        alike(sidecar.conn(), twin.conn(), case, &format!("{shown:?}"));
    }
}

#[test]
fn what_a_script_calls_a_big_number_passes_whatever_it_is() {
    let (server, sidecar) = started("");
    let request = ["EVAL", "redis.setresp(3) return {big_number = '1x\\r\\n2'}", "0"];
    for resp3 in [false, true] {
        let [mut direct, mut through] =
            [server.addr(), sidecar.addr()].map(|addr| if resp3 { Conn::open3(addr) } else { Conn::open(addr) });
        assert_eq!(through.call(&request), direct.call(&request), "RESP3: {resp3}");
        assert_eq!(through.line("EXISTS no").int(), 0, "the connection goes on");
    }
}

#[test]
fn a_unix_socket_serves_as_tcp_does() {
    let (server, sidecar) = started("");
    server.outside("SET k v");
    let mut conn = Conn::open(sidecar.socket());
    for _ in 0..4 {
        assert_eq!(conn.line("GET k"), V::bulk("v"));
    }
    assert_eq!(conn.pipeline(&["SET k 2", "GET k", "MULTI", "GET k", "EXEC"])[4], V::Array(vec![V::bulk("2")]));
    let line = conn.line("CLIENT INFO").text();
    assert!(line.contains("client.sock:0"), "{line}");
    assert!(sidecar.metric("sidecache_clients") >= 1.0);
}
