//! redis-rs: its multiplexed connection and its connection manager, in RESP2 and RESP3.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, PushInfo, PushKind, Value};

use super::Pair;
use crate::support::{Server, Sidecar};

/// RESP2, the library's default, and RESP3.
const PROTOCOLS: [&str; 2] = ["", "?protocol=resp3"];

/// The library's own limit of 500 ms for a reply is for machines that do nothing else.
const PATIENCE: Duration = Duration::from_secs(20);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("no end within 120 s") })
}

fn client(sidecar: &Sidecar, protocol: &str) -> Client {
    Client::open(format!("redis://{}/{protocol}", sidecar.addr())).unwrap()
}

/// Reads and writes of a service, over whichever connection.
async fn session<C: AsyncCommands + Clone + Send + 'static>(conn: &mut C, server: &Server) {
    let _: () = conn.del(&["k", "h", "st", "n"]).await.unwrap();
    assert_eq!(conn.get::<_, Option<String>>("k").await.unwrap(), None);
    let _: () = conn.set("k", "v").await.unwrap();
    for _ in 0..4 {
        assert_eq!(conn.get::<_, String>("k").await.unwrap(), "v");
    }
    let _: () = conn.hset_multiple("h", &[("f", 1), ("g", 2)]).await.unwrap();
    for _ in 0..3 {
        let all: HashMap<String, i64> = conn.hgetall("h").await.unwrap();
        assert_eq!(all, HashMap::from([("f".into(), 1), ("g".into(), 2)]));
        assert_eq!(conn.get::<_, String>("h").await.unwrap_err().code(), Some("WRONGTYPE"));
    }
    let binary: Vec<u8> = (0..=255).collect();
    let _: () = conn.set(&binary, &binary).await.unwrap();
    assert_eq!(conn.get::<_, Vec<u8>>(&binary).await.unwrap(), binary);

    server.outside("SET k outside");
    while conn.get::<_, String>("k").await.unwrap() != "outside" {}

    pipelines(conn).await;
    scripts(conn).await;
    streams(conn).await;
    let value = vec![7_u8; 10 << 20];
    let _: () = conn.set("big", &value).await.unwrap();
    assert!(conn.get::<_, Vec<u8>>("big").await.unwrap() == value);
    let _: () = conn.del("big").await.unwrap();
    let _: () = conn.pset_ex("e", 1, 30).await.unwrap();
    while conn.get::<_, Option<i64>>("e").await.unwrap().is_some() {}
}

async fn pipelines(conn: &mut impl AsyncCommands) {
    let mut pipe = redis::pipe();
    for i in 0..500 {
        pipe.set(format!("p:{i}"), i).ignore().get(format!("p:{i}"));
    }
    let got: Vec<i64> = pipe.query_async(conn).await.unwrap();
    assert_eq!(got, (0..500).collect::<Vec<_>>());
    let _: () = conn.set("n", 1).await.unwrap();
    let got: (i64, i64) = redis::pipe().atomic().incr("n", 1).get("n").query_async(conn).await.unwrap();
    assert_eq!(got, (2, 2));
    assert_eq!(conn.get::<_, i64>("n").await.unwrap(), 2);
}

async fn scripts(conn: &mut impl AsyncCommands) {
    let _: () = conn.del("sc").await.unwrap();
    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for i in 1..4 {
        assert_eq!(script.key("sc").arg(2).invoke_async::<i64>(conn).await.unwrap(), 2 * i);
        assert_eq!(conn.get::<_, i64>("sc").await.unwrap(), 2 * i);
    }
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(conn).await.unwrap();
    assert_eq!(script.key("sc").arg(2).invoke_async::<i64>(conn).await.unwrap(), 8);
}

async fn streams(conn: &mut impl AsyncCommands) {
    let _: () = conn.xgroup_create_mkstream("st", "g", "$").await.unwrap();
    let id: String = conn.xadd("st", "*", &[("f", "v")]).await.unwrap();
    let options = redis::streams::StreamReadOptions::default().group("g", "me").count(1);
    let read: redis::streams::StreamReadReply = conn.xread_options(&["st"], &[">"], &options).await.unwrap();
    assert_eq!(read.keys[0].ids[0].id, id);
    assert_eq!(conn.xack::<_, _, _, i64>("st", "g", &[&id]).await.unwrap(), 1);
}

/// A thousand tasks that share the connection get each their own replies.
async fn shared<C: AsyncCommands + Clone + Send + 'static>(conn: &C) {
    let tasks: Vec<_> = (0..1000_i64)
        .map(|i| {
            let mut conn = conn.clone();
            tokio::spawn(async move {
                let key = format!("task:{i}");
                let _: () = conn.set(&key, i).await.unwrap();
                assert_eq!(conn.get::<_, i64>(&key).await.unwrap(), i);
                assert_eq!(conn.get::<_, i64>(&key).await.unwrap(), i);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn scans(conn: &mut MultiplexedConnection) {
    let mut pipe = redis::pipe();
    for i in 0..5000 {
        pipe.set(format!("scan:{i}"), i).ignore();
    }
    let _: () = pipe.query_async(conn).await.unwrap();
    let options = redis::ScanOptions::default().with_pattern("scan:*").with_count(500);
    let mut found: HashSet<String> = HashSet::new();
    let mut scan = conn.scan_options::<String>(options).await.unwrap();
    while let Some(key) = scan.next_item().await {
        found.insert(key.unwrap());
    }
    assert_eq!(found.len(), 5000);
}

#[test]
fn redis_rs_runs_its_session_on_a_multiplexed_connection() {
    for (kind, threads) in super::everywhere() {
        let Pair { server, sidecar } = Pair::start(kind, threads);
        for protocol in PROTOCOLS {
            for _ in ["cold", "warm"] {
                run(async {
                    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
                    let client = client(&sidecar, protocol);
                    let mut conn = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
                    session(&mut conn, &server).await;
                    shared(&conn).await;
                    scans(&mut conn).await;
                });
            }
        }
    }
}

#[test]
fn redis_rs_runs_its_session_on_a_connection_manager() {
    for (kind, threads) in super::everywhere() {
        let Pair { server, sidecar } = Pair::start(kind, threads);
        for protocol in PROTOCOLS {
            for _ in ["cold", "warm"] {
                run(async {
                    let config = ConnectionManagerConfig::new().set_response_timeout(Some(PATIENCE));
                    let mut conn =
                        ConnectionManager::new_with_config(client(&sidecar, protocol), config).await.unwrap();
                    session(&mut conn, &server).await;
                    shared(&conn).await;
                });
            }
        }
    }
}

#[test]
fn redis_rs_blocks_on_a_pop_until_another_connection_pushes() {
    for (kind, threads) in super::everywhere() {
        let Pair { server: _server, sidecar } = Pair::start(kind, threads);
        for protocol in PROTOCOLS {
            run(async {
                let client = client(&sidecar, protocol);
                let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
                let mut waits = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
                let mut pushes = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
                let nothing: Option<(String, String)> = waits.blpop("q", 0.05).await.unwrap();
                assert_eq!(nothing, None);
                let popped = tokio::spawn(async move { waits.blpop::<_, (String, String)>("q", 20.0).await.unwrap() });
                let _: () = pushes.rpush("q", "woken").await.unwrap();
                assert_eq!(popped.await.unwrap(), ("q".into(), "woken".into()));
                assert_eq!(pushes.llen::<_, i64>("q").await.unwrap(), 0);
            });
        }
    }
}

/// In RESP2 a subscription has a connection of its own.
#[test]
fn redis_rs_subscribes_in_resp2() {
    for (kind, threads) in super::everywhere() {
        let Pair { server, sidecar } = Pair::start(kind, threads);
        let mut conn = client(&sidecar, PROTOCOLS[0]).get_connection().unwrap();
        conn.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sub = conn.as_pubsub();
        sub.subscribe("news").unwrap();
        sub.psubscribe("weather.*").unwrap();
        let mut next = |wanted: &str| assert_eq!(sub.get_message().unwrap().get_payload::<String>().unwrap(), wanted);
        sidecar.conn().line("PUBLISH news inside");
        next("inside");
        server.outside("PUBLISH weather.rome sun");
        next("sun");
        sub.unsubscribe("news").unwrap();
        sub.punsubscribe("weather.*").unwrap();
        drop(sub);
        assert_eq!(redis::cmd("PING").query::<String>(&mut conn).unwrap(), "PONG");
    }
}

/// In RESP3 it shares the connection with everything else, and the manager makes it anew after a loss.
#[test]
fn redis_rss_manager_gets_over_a_restart_of_upstream() {
    for (kind, threads) in super::everywhere() {
        let Pair { server, sidecar } = Pair::start(kind, threads);
        sidecar.allow_log("upstream");
        run(async {
            let (sender, mut pushes) = tokio::sync::mpsc::unbounded_channel();
            let config = ConnectionManagerConfig::new()
                .set_response_timeout(Some(PATIENCE))
                .set_push_sender(sender)
                .set_automatic_resubscription();
            let mut conn = ConnectionManager::new_with_config(client(&sidecar, PROTOCOLS[1]), config).await.unwrap();
            conn.subscribe("news").await.unwrap();
            let _: () = conn.set("k", "before").await.unwrap();
            for _ in 0..3 {
                assert_eq!(conn.get::<_, String>("k").await.unwrap(), "before");
            }
            server.outside("PUBLISH news before");
            hear(&mut pushes, "before").await;

            server.restart();
            // The library reconnects behind the first command that fails.
            while conn.set::<_, _, ()>("l", "after").await.is_err() {}
            assert_eq!(conn.get::<_, Option<String>>("k").await.unwrap(), None);
            assert_eq!(conn.get::<_, String>("l").await.unwrap(), "after");
            while server.outside("PUBLISH news after").int() == 0 {
                tokio::task::yield_now().await;
                let _: String = redis::cmd("PING").query_async(&mut conn).await.unwrap();
            }
            hear(&mut pushes, "after").await;
        });
    }
}

async fn hear(pushes: &mut tokio::sync::mpsc::UnboundedReceiver<PushInfo>, wanted: &str) {
    loop {
        let push = pushes.recv().await.unwrap();
        if push.kind == PushKind::Message {
            assert_eq!(push.data.last(), Some(&Value::BulkString(wanted.into())));
            return;
        }
    }
}
