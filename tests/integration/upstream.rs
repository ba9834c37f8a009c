//! The handshake and the pools against real servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use sidecache::net::{Address, ConnectOptions, Stream};
use sidecache::upstream::connection::ConnectionError;
use sidecache::upstream::dedicated::{Checkout, Dedicated, PoolError, PoolKind};
use sidecache::upstream::handshake::{HandshakeError, Hello, Purpose, Ready, Tracking, handshake};
use sidecache::upstream::identity::Identity;
use sidecache::upstream::{CLIENT_NAME, Config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Kind, Link, Scripted, Server, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(test)
}

fn at(addr: std::net::SocketAddr) -> Address {
    Address::Tcp { host: addr.ip().to_string(), port: addr.port() }
}

async fn connect(address: &Address) -> Stream {
    Stream::connect(address, ConnectOptions { timeout: PATIENCE, user_timeout: PATIENCE }).await.unwrap()
}

fn a_lane(identity: &Identity) -> Hello<'_> {
    let purpose = Purpose::Lane { tracking: true };
    Hello { identity, db: 0, resp3: true, name: CLIENT_NAME, purpose, readonly: false, kill: None }
}

async fn shake(address: &Address, hello: &Hello<'_>) -> Result<(Stream, Ready), HandshakeError> {
    let mut stream = connect(address).await;
    let (ready, behind) = handshake(&mut stream, hello, PATIENCE).await?;
    assert!(behind.is_empty());
    Ok((stream, ready))
}

/// Sends an inline command and reads until the reply ends so.
async fn call(stream: &mut Stream, line: &str, end: &str) -> String {
    stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    let mut reply = BytesMut::new();
    while !reply.ends_with(end.as_bytes()) {
        assert!(stream.read_buf(&mut reply).await.unwrap() > 0, "{line}: {reply:?}");
    }
    String::from_utf8(reply.to_vec()).unwrap()
}

fn pools(address: Address, identity: Identity, change: impl FnOnce(&mut Config)) -> Dedicated {
    let mut config = Config { connect_timeout: PATIENCE, ..Config::default() };
    config.pool.max = 2;
    config.pool.wait_timeout = PATIENCE;
    change(&mut config);
    Dedicated::new(address, false, &identity.into(), &config)
}

async fn get(pools: &Dedicated) -> Checkout {
    pools.get(PoolKind::Transactions).await.unwrap()
}

async fn ask(connection: &mut Checkout, line: &str) -> Vec<u8> {
    connection.send(format!("{line}\r\n").as_bytes(), 1);
    connection.flush().await.unwrap();
    connection.read_reply().await.unwrap().bytes.to_vec()
}

#[test]
fn a_lane_handshakes_with_tracking_on_redis_and_valkey_over_tcp_and_unix_sockets() {
    for server in Server::both() {
        run(async {
            for address in [at(server.addr()), Address::Unix(server.socket())] {
                let identity = Identity::default();
                let mut hello = a_lane(&identity);
                hello.db = 3;
                let (mut stream, ready) = shake(&address, &hello).await.unwrap();
                assert_eq!((ready.tracking, ready.proto), (Tracking::On, 3));
                assert_eq!((ready.mode.as_str(), ready.role.as_str()), ("standalone", "master"));
                let name = if server.kind == Kind::Redis { "redis" } else { "valkey" };
                assert_eq!((ready.server.name.as_str(), ready.server.major >= 7), (name, true));
                let info = call(&mut stream, "CLIENT INFO", "\n\r\n").await;
                for word in [&format!("id={} ", ready.connection_id), " name=sidecache ", " db=3 ", " resp=3"] {
                    assert!(info.contains(word), "{word}: {info}");
                }
                call(&mut stream, "CLIENT CACHING YES", "+OK\r\n").await;
                call(&mut stream, "GET k", "_\r\n").await;
                let mut push = BytesMut::new();
                server.outside("SET k v");
                // Tracking knows no database, so the write in database 0 is told.
                while !push.ends_with(b"$1\r\nk\r\n") {
                    stream.read_buf(&mut push).await.unwrap();
                }
                assert!(push.starts_with(b">2\r\n$10\r\ninvalidate"));
                server.outside("FLUSHALL");
            }
        });
    }
}

#[test]
fn passwords_and_users_are_upstreams_own_matter() {
    let server = Server::with(Kind::Redis, &["--requirepass", "p w\"x"]);
    let line = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"];
    assert_eq!(server.conn().call(&line), b"+OK\r\n");
    let address = at(server.addr());
    run(async {
        for identity in
            [Identity::new("", "p w\"x"), Identity::new("default", "p w\"x"), Identity::new("app", "secret")]
        {
            let (mut stream, ready) = shake(&address, &a_lane(&identity)).await.unwrap();
            assert_eq!(ready.tracking, Tracking::On);
            let user = if identity.user.is_empty() { "default" } else { &identity.user };
            let info = call(&mut stream, "CLIENT INFO", "\n\r\n").await;
            assert!(info.contains(&format!(" user={user} ")), "{info}");
        }
        let refused = async |identity: Identity| match shake(&address, &a_lane(&identity)).await {
            Err(HandshakeError::Auth(line)) => String::from_utf8(line).unwrap(),
            other => panic!("{:?}", other.map(|(_, ready)| ready)),
        };
        let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
        assert_eq!(refused(Identity::new("", "no")).await, wrong);
        assert_eq!(refused(Identity::new("app", "no")).await, wrong);
        assert_eq!(refused(Identity::new("nobody", "secret")).await, wrong);
        assert!(refused(Identity::default()).await.starts_with("-NOAUTH "));
    });
}

#[test]
fn a_password_where_none_is_set_gets_the_answer_that_upstream_gives_to_auth() {
    let server = Server::redis();
    let mut direct = server.conn();
    let expected = direct.call(&["AUTH", "x"]);
    let identity = Identity::new("", "x");
    match run(shake(&at(server.addr()), &a_lane(&identity))) {
        Err(HandshakeError::Auth(line)) => assert_eq!([line.as_slice(), b"\r\n"].concat(), expected),
        other => panic!("{:?}", other.map(|(_, ready)| ready)),
    }
}

#[test]
fn a_database_out_of_range_is_refused_in_upstreams_words() {
    let server = Server::redis();
    let identity = Identity::default();
    let mut hello = a_lane(&identity);
    hello.db = 99;
    match run(shake(&at(server.addr()), &hello)) {
        Err(HandshakeError::Select(line)) => assert_eq!(line, b"-ERR DB index is out of range"),
        other => panic!("{:?}", other.map(|(_, ready)| ready)),
    }
}

#[test]
fn a_user_without_client_commands_gets_a_connection_without_tracking() {
    for server in Server::both() {
        server.outside("ACL SETUSER app on >secret ~* &* +@all -client");
        let identity = Identity::new("app", "secret");
        run(async {
            let (mut stream, ready) = shake(&at(server.addr()), &a_lane(&identity)).await.unwrap();
            assert!(matches!(ready.tracking, Tracking::Unavailable(reason) if reason.starts_with("NOPERM")));
            assert_ne!(ready.connection_id, 0);
            call(&mut stream, "GET k", "_\r\n").await;
        });
    }
}

#[test]
fn a_successor_kills_its_predecessor() {
    let server = Server::redis();
    let address = at(server.addr());
    let identity = Identity::default();
    run(async {
        let (mut old, ready) = shake(&address, &a_lane(&identity)).await.unwrap();
        let mut hello = a_lane(&identity);
        hello.kill = Some(ready.connection_id);
        let (_new, next) = shake(&address, &hello).await.unwrap();
        assert_ne!(next.connection_id, ready.connection_id);
        assert_eq!(old.read(&mut [0; 1]).await.unwrap_or(0), 0);
        // It is gone already: not a reason to fail.
        shake(&address, &hello).await.unwrap();
    });
}

#[test]
fn a_server_that_is_full_says_so() {
    let server = Server::with(Kind::Redis, &["--maxclients", "1"]);
    let _only = server.admitted();
    let identity = Identity::new("", "x");
    match run(shake(&at(server.addr()), &a_lane(&identity))) {
        Err(HandshakeError::Refused(line)) => assert_eq!(line, b"-ERR max number of clients reached"),
        // The server closes behind its answer; our late bytes may make that a reset.
        Err(HandshakeError::Io(_)) => {}
        other => panic!("{:?}", other.map(|(_, ready)| ready)),
    }
}

#[test]
fn a_silent_server_ends_the_handshake_in_time() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    link.hold();
    run(async {
        let mut stream = connect(&at(link.addr())).await;
        let identity = Identity::default();
        let result = handshake(&mut stream, &a_lane(&identity), Duration::from_millis(100)).await;
        assert!(matches!(result, Err(HandshakeError::Timeout)));
    });
}

#[test]
fn a_server_from_before_hello_gives_a_resp2_connection() {
    let upstream = Scripted::start(|turn| {
        for command in ["AUTH", "HELLO", "CLIENT SETNAME", "CLIENT ID", "CLIENT TRACKING", "CLIENT TRACKINGINFO"] {
            turn.take(command);
        }
        while let Some(command) = turn.next() {
            let line = command.join(" ");
            turn.reply(match line.as_str() {
                "AUTH secret" | "CLIENT SETNAME sidecache" => "+OK\r\n".to_string(),
                "CLIENT ID" => ":5\r\n".to_string(),
                _ => format!("-ERR unknown command `{}`, with args beginning with: \r\n", command[0]),
            });
        }
    });
    let identity = Identity::new("", "secret");
    let (_, ready) = run(shake(&at(upstream.addr()), &a_lane(&identity))).unwrap();
    assert_eq!((ready.proto, ready.connection_id), (2, 5));
    assert!(matches!(ready.tracking, Tracking::Unavailable(reason) if reason.contains("RESP3")));
}

#[test]
fn pools_keep_to_their_limit_and_to_upstreams_words() {
    let server = Server::with(Kind::Redis, &["--requirepass", "secret"]);
    let address = at(server.addr());
    run(async {
        let pool = pools(address.clone(), Identity::new("", "secret"), |config| {
            // Long enough for the two that connect.
            config.pool.wait_timeout = Duration::from_secs(4);
        });
        let (mut one, two) = (get(&pool).await, get(&pool).await);
        assert!(matches!(pool.get(PoolKind::Transactions).await, Err(PoolError::Exhausted { limit: 2, .. })));
        assert_eq!(ask(&mut one, "SET k v").await, b"+OK\r\n");
        assert_ne!(one.ready.connection_id, two.ready.connection_id);

        let wrong = pools(address, Identity::new("", "wrong"), |_| {});
        match wrong.get(PoolKind::Transactions).await {
            Err(PoolError::Refused(line)) => assert!(line.starts_with(b"-WRONGPASS ")),
            other => panic!("{:?}", other.map(|_| ())),
        }
    });
}

#[test]
fn the_reply_to_an_abandoned_blocking_command_reaches_nobody() {
    let server = Server::redis();
    run(async {
        let pool = pools(at(server.addr()), Identity::default(), |config| config.pool.max = 1);
        let mut abandoned = get(&pool).await;
        abandoned.send(b"BLPOP q 0\r\n", 1);
        abandoned.flush().await.unwrap();
        let id = abandoned.ready.connection_id;
        drop(abandoned);
        let mut next = get(&pool).await;
        assert_ne!(next.ready.connection_id, id);
        assert_eq!(ask(&mut next, "RPUSH q x").await, b":1\r\n");
        assert_eq!(ask(&mut next, "LPOP q").await, b"$1\r\nx\r\n");
    });
}

#[test]
fn connections_that_upstream_closed_while_they_rested_are_noticed() {
    let server = Server::redis();
    run(async {
        let pool = pools(at(server.addr()), Identity::default(), |_| {});
        let (one, two) = (get(&pool).await, get(&pool).await);
        let ids = [one.ready.connection_id, two.ready.connection_id];
        drop((one, two));
        server.outside("CLIENT KILL TYPE normal");
        let mut next = get(&pool).await;
        assert!(!ids.contains(&next.ready.connection_id));
        assert_eq!(ask(&mut next, "PING").await, b"+PONG\r\n");
        assert_eq!(pool.stats(PoolKind::Transactions).closed, 2);
    });
}

#[test]
fn an_upstream_that_is_gone_fails_fast_and_one_that_is_back_is_used() {
    let server = Server::redis();
    run(async {
        let pool = pools(at(server.addr()), Identity::default(), |_| {});
        drop(get(&pool).await);
        server.kill();
        let error = pool.get(PoolKind::Transactions).await.unwrap_err();
        assert!(
            matches!(&error, PoolError::Unreachable { cause, .. } if matches!(**cause, HandshakeError::Io(_))),
            "{error}"
        );
        server.restart();
        assert_eq!(ask(&mut get(&pool).await, "PING").await, b"+PONG\r\n");
    });
}

#[test]
fn a_wait_begun_while_upstream_was_away_is_served_when_it_is_back() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    link.hold();
    run(async {
        let pool = Arc::new(pools(at(link.addr()), Identity::default(), |config| {
            config.pool.max = 1;
        }));
        // The first begins the attempt that will fail; the second comes after it and finds the pool full.
        let first = {
            let pool = pool.clone();
            tokio::task::spawn_local(async move { pool.get(PoolKind::Transactions).await.map(|_| ()) })
        };
        while link.connections().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = {
            let pool = pool.clone();
            tokio::task::spawn_local(async move { pool.get(PoolKind::Transactions).await.map(|_| ()) })
        };
        while pool.stats(PoolKind::Transactions).waiting < 2 {
            tokio::task::yield_now().await;
        }
        link.cut();
        link.resume();
        assert!(first.await.unwrap().is_err());
        second.await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_is_aligned_to_database_and_resp_version() {
    for server in Server::both() {
        run(async {
            let pool = pools(at(server.addr()), Identity::default(), |config| config.pool.max = 1);
            let mut connection = get(&pool).await;
            connection.align(2, 4).await.unwrap();
            assert_eq!(ask(&mut connection, "GET none").await, b"$-1\r\n");
            assert_eq!(ask(&mut connection, "SET k 4").await, b"+OK\r\n");
            drop(connection);
            let mut connection = get(&pool).await;
            assert_eq!((connection.proto(), connection.db()), (2, 4));
            connection.align(3, 0).await.unwrap();
            assert_eq!(ask(&mut connection, "GET k").await, b"_\r\n");
            match connection.align(2, 99).await.unwrap_err() {
                ConnectionError::Refused(line) => assert_eq!(line, b"-ERR DB index is out of range"),
                other => panic!("{other}"),
            }
            assert!(connection.is_clean());
            assert_eq!((connection.proto(), connection.db()), (2, 0));
            assert_eq!(ask(&mut connection, "GET k").await, b"$-1\r\n");
        });
    }
}

#[test]
fn a_large_value_streams_through_in_pieces() {
    let server = Server::redis();
    server.outside("SETRANGE big 9999999 x");
    run(async {
        let pool = pools(at(server.addr()), Identity::default(), |_| {});
        let mut connection = get(&pool).await;
        connection.send(b"GET big\r\nPING\r\n", 2);
        connection.flush().await.unwrap();
        let (mut pieces, mut bytes) = (0, 0);
        loop {
            let piece = connection.read_some().await.unwrap();
            (pieces, bytes) = (pieces + 1, bytes + piece.bytes.len());
            if piece.last {
                break;
            }
        }
        assert_eq!(bytes, "$10000000\r\n\r\n".len() + 10_000_000);
        assert!(pieces > 10, "{pieces}");
        assert_eq!(&connection.read_some().await.unwrap().bytes[..], b"+PONG\r\n");
        assert!(connection.is_clean());
        let stats = pool.stats(PoolKind::Transactions);
        assert_eq!((stats.in_use, stats.idle), (1, 0));
    });
    eventually("the connection is closed with its pool", || {
        server.conn().ask(&["CLIENT", "LIST"]).text().lines().count() == 1
    });
}
