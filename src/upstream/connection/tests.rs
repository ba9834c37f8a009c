//! A connection against an upstream that sends exactly what a test wants, in pieces of the test's choice.

use std::time::Duration;

use super::*;
use crate::net::{Address, ConnectOptions, Listener};
use crate::protocol::Value;
use crate::upstream::handshake::{ServerVersion, Tracking};

fn ready() -> Ready {
    Ready {
        proto: 3,
        connection_id: 1,
        tracking: Tracking::Unavailable(String::new()),
        server: ServerVersion::default(),
        mode: String::new(),
        role: String::new(),
        modules: Value::Null,
    }
}

/// A connection and the upstream's end of it.
async fn a_connection() -> (Connection, Stream) {
    let listener = Listener::bind(&Address::Tcp { host: "127.0.0.1".into(), port: 0 }).unwrap();
    let options = ConnectOptions { timeout: Duration::from_secs(5), user_timeout: Duration::ZERO };
    let address = listener.local_address().unwrap();
    let (ours, theirs) = tokio::join!(Stream::connect(&address, options), listener.accept());
    let connection = Connection::new(ours.unwrap(), ready(), 0, BytesMut::new());
    (connection, theirs.unwrap().into_stream().unwrap())
}

async fn heard(upstream: &mut Stream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    upstream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn one_whose_node_is_left_fails_and_is_not_used_again() {
    let (connection, mut upstream) = a_connection().await;
    let left = watch::Sender::new(false);
    let mut connection = connection.until(left.subscribe());
    connection.send(b"BLPOP", 1);
    connection.flush().await.unwrap();
    heard(&mut upstream, b"BLPOP").await;
    left.send_replace(true);
    let error = connection.read_reply().await.unwrap_err();
    assert!(error.to_string().contains("not the master any more"), "{error}");
    assert!(!connection.is_clean());
}

#[tokio::test]
async fn replies_come_one_by_one_and_pushes_count_for_none() {
    let (mut connection, mut upstream) = a_connection().await;
    connection.send(b"*1\r\n$1\r\na\r\n", 1);
    connection.send(b"*1\r\n$1\r\nb\r\n", 1);
    assert!(!connection.is_clean());
    connection.flush().await.unwrap();
    heard(&mut upstream, b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n").await;
    upstream.write_all(b">1\r\n+x\r\n-ERR no\r\n|1\r\n+k\r\n+v\r\n~0\r\n").await.unwrap();
    assert!(connection.read_reply().await.unwrap().is_push());
    assert_eq!(connection.owed(), 2);
    let error = connection.read_reply().await.unwrap();
    assert_eq!(error.error_line(), Some(b"-ERR no".as_slice()));
    assert!(!connection.is_clean());
    let set = connection.read_reply().await.unwrap();
    assert_eq!((set.kind, set.resp3, set.error_line()), (b'~', true, None));
    assert_eq!(&set.bytes[set.start..], b"~0\r\n");
    assert!(connection.is_clean());
    assert_eq!(connection.buffered_reply().unwrap(), None);
}

#[tokio::test]
async fn a_long_reply_comes_in_pieces_that_add_up_to_it() {
    let (mut connection, mut upstream) = a_connection().await;
    let mut long = b"*2\r\n$1000000\r\n".to_vec();
    long.resize(long.len() + 1_000_000, b'x');
    long.extend_from_slice(b"\r\n_\r\n");
    let sent = [long.as_slice(), b"+OK\r\n"].concat();
    connection.send(b"", 2);
    let speak = upstream.write_all(&sent);
    let listen = async {
        let mut pieces = Vec::new();
        while pieces.last().is_none_or(|piece: &Piece| !piece.last) {
            assert_eq!(connection.owed(), 2);
            assert!(!connection.is_clean());
            pieces.push(connection.read_some().await.unwrap());
        }
        pieces
    };
    let (spoken, pieces) = tokio::join!(speak, listen);
    spoken.unwrap();
    assert!(pieces.len() > 2);
    assert_eq!(pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect::<Vec<u8>>(), long);
    assert!(pieces.iter().all(|piece| piece.kind == b'*'));
    assert_eq!(pieces.iter().filter(|piece| piece.first).count(), 1);
    assert!(pieces[0].first && pieces[pieces.len() - 1].resp3);
    let small = connection.read_some().await.unwrap();
    assert!(small.first && small.last && &small.bytes[..] == b"+OK\r\n");
    assert!(connection.is_clean());
}

#[tokio::test]
async fn the_same_reply_is_collected_whole_when_it_is_asked_for_whole() {
    let (mut connection, mut upstream) = a_connection().await;
    let mut long = b"$300000\r\n".to_vec();
    long.resize(long.len() + 300_000, b'x');
    long.extend_from_slice(b"\r\n");
    connection.send(b"", 1);
    let (spoken, reply) = tokio::join!(upstream.write_all(&long), connection.read_reply());
    spoken.unwrap();
    assert_eq!(reply.unwrap().bytes, long);
    connection.rest();
    assert!(connection.is_clean() && connection.input.capacity() <= KEPT_CAPACITY);
}

#[tokio::test]
async fn a_cancelled_read_loses_nothing_and_leaves_the_connection_unclean() {
    let (mut connection, mut upstream) = a_connection().await;
    connection.send(b"", 1);
    upstream.write_all(b"$5\r\nhe").await.unwrap();
    connection.stream_is_readable().await;
    let cancelled = tokio::select! {
        biased;
        reply = connection.read_reply() => Some(reply),
        () = std::future::ready(()) => None,
    };
    assert!(cancelled.is_none());
    assert!(!connection.is_clean());
    upstream.write_all(b"llo\r\n").await.unwrap();
    assert_eq!(&connection.read_reply().await.unwrap().bytes[..], b"$5\r\nhello\r\n");
    assert!(connection.is_clean());
}

#[tokio::test]
async fn bytes_behind_the_last_reply_leave_the_connection_unclean() {
    let (mut connection, mut upstream) = a_connection().await;
    connection.send(b"", 1);
    upstream.write_all(b"+OK\r\n>1\r\n+x").await.unwrap();
    assert_eq!(&connection.read_reply().await.unwrap().bytes[..], b"+OK\r\n");
    assert!(!connection.is_clean());
    upstream.write_all(b"\r\n").await.unwrap();
    assert!(connection.read_reply().await.unwrap().is_push());
    assert!(connection.is_clean());
}

#[tokio::test]
async fn what_nobody_asked_for_ends_a_connection_unless_it_is_tainted_anyway() {
    let (mut connection, mut upstream) = a_connection().await;
    upstream.write_all(b"+late\r\n").await.unwrap();
    assert!(matches!(connection.read_reply().await.unwrap_err(), ConnectionError::Unasked));
    assert!(!connection.is_clean());

    let (mut connection, mut upstream) = a_connection().await;
    connection.taint();
    upstream.write_all(b"*1\r\n+message\r\n").await.unwrap();
    assert_eq!(connection.read_reply().await.unwrap().kind, b'*');
    assert!(!connection.is_clean());
}

#[tokio::test]
async fn an_end_or_nonsense_in_the_midst_of_a_reply_taints_the_connection() {
    for (bytes, closed) in [("$5\r\nhe", true), ("$x\r\n", false), ("HTTP/1.1", false)] {
        let (mut connection, mut upstream) = a_connection().await;
        connection.send(b"", 1);
        upstream.write_all(bytes.as_bytes()).await.unwrap();
        drop(upstream);
        let error = connection.read_reply().await.unwrap_err();
        assert_eq!(matches!(error, ConnectionError::Closed), closed, "{error}");
        assert!(!connection.is_clean());
    }
}

#[tokio::test]
async fn aligning_says_only_what_differs() {
    let (mut connection, mut upstream) = a_connection().await;
    connection.align(3, 0).await.unwrap();
    upstream.write_all(b"*0\r\n+OK\r\n").await.unwrap();
    connection.align(2, 7).await.unwrap();
    heard(&mut upstream, b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n").await;
    assert_eq!((connection.proto(), connection.db()), (2, 7));
    upstream.write_all(b"-ERR DB index is out of range\r\n").await.unwrap();
    let error = connection.align(2, 99).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Refused(line) if line == b"-ERR DB index is out of range"));
    assert_eq!((connection.proto(), connection.db(), connection.is_clean()), (2, 7, true));
}

impl Connection {
    async fn stream_is_readable(&self) {
        let Stream::Tcp(stream) = &self.stream else { panic!("a TCP stream was asked for") };
        stream.readable().await.unwrap();
    }
}
