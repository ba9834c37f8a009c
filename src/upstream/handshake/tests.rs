//! The sequence and its judgement, against upstreams that say what a real one would be hard to bring to say.

use super::*;
use crate::net::{Address, ConnectOptions, Listener};

const HELLO_7: &str = "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:42\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
const TRACKING_ON: &str =
    "%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$5\r\noptin\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n";

fn a_lane(identity: &Identity) -> Hello<'_> {
    Hello {
        identity,
        db: 0,
        resp3: true,
        name: "sidecache",
        purpose: Purpose::Lane { tracking: true },
        readonly: false,
        kill: None,
    }
}

/// Shakes hands with an upstream that says `answer` whatever it is asked.
async fn shake(hello: &Hello<'_>, answer: &str) -> Result<(Ready, BytesMut), HandshakeError> {
    let listener = Listener::bind(&Address::Tcp { host: "127.0.0.1".into(), port: 0 }).unwrap();
    let options = ConnectOptions { timeout: Duration::from_secs(5), user_timeout: Duration::ZERO };
    let address = listener.local_address().unwrap();
    let (ours, theirs) = tokio::join!(Stream::connect(&address, options), listener.accept());
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap().into_stream().unwrap());
    let speak = async {
        theirs.write_all(answer.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut heard = Vec::new();
        let _ = theirs.read_to_end(&mut heard).await;
    };
    let talk = async {
        let result = handshake(&mut ours, hello, Duration::from_secs(5)).await;
        drop(ours);
        result
    };
    tokio::join!(talk, speak).0
}

#[test]
fn the_sequence_says_only_what_is_needed() {
    let anonymous = Identity::default();
    let mut hello = a_lane(&anonymous);
    assert_eq!(sequence(&hello).0, [Step::Hello, Step::Name, Step::Id, Step::Tracking, Step::TrackingInfo]);
    hello.purpose = Purpose::Dedicated;
    hello.db = 3;
    hello.kill = Some(9);
    let identity = Identity::new("app", "p w");
    hello.identity = &identity;
    let (steps, bytes) = sequence(&hello);
    assert_eq!(steps, [Step::Auth, Step::Hello, Step::Kill, Step::Select, Step::Name, Step::Id]);
    assert!(bytes.starts_with(b"*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$3\r\np w\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"));
    let nameless = Identity::new("", "pw");
    hello.identity = &nameless;
    assert!(sequence(&hello).1.starts_with(b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n"));
}

#[tokio::test]
async fn everything_granted_gives_a_tracked_connection_and_what_came_behind() {
    let identity = Identity::default();
    let push = ">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n";
    let answer = format!("{HELLO_7}{push}+OK\r\n:42\r\n+OK\r\n{TRACKING_ON}{push}");
    let (ready, left) = shake(&a_lane(&identity), &answer).await.unwrap();
    assert_eq!(ready.tracking, Tracking::On);
    assert_eq!((ready.proto, ready.connection_id), (3, 42));
    assert_eq!((ready.mode.as_str(), ready.role.as_str()), ("standalone", "master"));
    assert_eq!(ready.server, ServerVersion { name: "redis".into(), major: 7, minor: 0, patch: 15 });
    assert_eq!(&left[..], push.as_bytes());
}

#[tokio::test]
async fn a_server_without_hello_is_taken_as_resp2_without_tracking() {
    let identity = Identity::new("", "pw");
    let unknown = "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n";
    let answer = format!("+OK\r\n{unknown}+OK\r\n:7\r\n-ERR syntax\r\n-ERR unknown subcommand\r\n");
    let (ready, _) = shake(&a_lane(&identity), &answer).await.unwrap();
    assert_eq!((ready.proto, ready.connection_id), (2, 7));
    assert!(matches!(ready.tracking, Tracking::Unavailable(_)));
}

#[tokio::test]
async fn a_flat_hello_is_understood() {
    let identity = Identity::default();
    let mut hello = a_lane(&identity);
    hello.purpose = Purpose::Dedicated;
    hello.resp3 = false;
    let answer =
        "*6\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n9.1.2\r\n$5\r\nproto\r\n:2\r\n+OK\r\n:8\r\n";
    let (ready, _) = shake(&hello, answer).await.unwrap();
    assert_eq!((ready.proto, ready.server.name.as_str(), ready.server.major), (2, "valkey", 9));
}

#[tokio::test]
async fn an_old_server_is_not_trusted_with_tracking() {
    let identity = Identity::default();
    let answer = format!("{}+OK\r\n:42\r\n+OK\r\n{TRACKING_ON}", HELLO_7.replace("$6\r\n7.0.15", "$5\r\n7.0.4"));
    let (ready, _) = shake(&a_lane(&identity), &answer).await.unwrap();
    assert_eq!(
        ready.tracking,
        Tracking::Unavailable("redis 7.0.4 is too old: 6.2.8, 7.0.5 or Valkey is needed".into())
    );
}

#[test]
fn the_version_floor_is_where_pushes_left_the_replies() {
    let trusted = |name: &str, text: &str| {
        let mut server = ServerVersion { name: name.into(), ..ServerVersion::default() };
        server.set_numbers(text);
        server.pushes_in_order()
    };
    for version in ["6.2.8", "6.2.18", "7.0.5", "7.2.0", "8.0-rc1", "255.255.255"] {
        assert!(trusted("redis", version), "{version}");
    }
    for version in ["6.0.20", "6.2.7", "6.3.4", "7.0.4", "", "x"] {
        assert!(!trusted("redis", version), "{version}");
    }
    assert!(trusted("valkey", "7.2.5"));
    assert!(!trusted("other", "9.0.0"));
}

#[tokio::test]
async fn tracking_counts_only_when_the_server_confirms_it() {
    let identity = Identity::default();
    for flags in ["~1\r\n$3\r\noff\r\n", "~1\r\n$2\r\non\r\n", "~3\r\n$2\r\non\r\n$5\r\noptin\r\n$6\r\nnoloop\r\n"] {
        let answer = format!("{HELLO_7}+OK\r\n:42\r\n+OK\r\n%1\r\n$5\r\nflags\r\n{flags}");
        let (ready, _) = shake(&a_lane(&identity), &answer).await.unwrap();
        assert!(matches!(ready.tracking, Tracking::Unavailable(_)), "{flags}");
    }
    let refused = "-NOPERM this user has no permissions to run the 'client|tracking' command\r\n";
    let answer = format!("{HELLO_7}-NOPERM no\r\n-NOPERM no\r\n{refused}{refused}");
    let (ready, _) = shake(&a_lane(&identity), &answer).await.unwrap();
    assert!(matches!(ready.tracking, Tracking::Unavailable(reason) if reason.contains("client|tracking")));
    assert_eq!(ready.connection_id, 42);
}

#[tokio::test]
async fn each_refusal_is_told_apart_and_keeps_upstreams_words() {
    let identity = Identity::new("app", "pw");
    let mut hello = a_lane(&identity);
    hello.db = 99;
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
    let error = shake(&hello, &format!("{wrong}\r\n-NOAUTH x\r\n")).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Auth(line) if line == wrong.as_bytes()));
    let full = "-ERR max number of clients reached\r\n";
    assert!(matches!(shake(&hello, full).await.unwrap_err(), HandshakeError::Refused(_)));
    let range = format!("+OK\r\n{HELLO_7}-ERR DB index is out of range\r\n");
    let error = shake(&hello, &range).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Select(line) if line == b"-ERR DB index is out of range"));
    let error = shake(&hello, "+OK\r\n-NOAUTH HELLO must be called …\r\n").await.unwrap_err();
    assert!(matches!(error, HandshakeError::Auth(_)));
    assert!(matches!(shake(&hello, "SSH-2.0\r\n").await.unwrap_err(), HandshakeError::Resp(_)));
    assert!(matches!(shake(&hello, "+OK\r\n").await.unwrap_err(), HandshakeError::Io(_)));
    let endless = format!("+OK\r\n${}\r\n{}", MAX_BUFFERED * 4, "x".repeat(MAX_BUFFERED * 2));
    assert!(matches!(shake(&hello, &endless).await.unwrap_err(), HandshakeError::Protocol(_)));
}
