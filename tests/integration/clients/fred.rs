//! fred: a pool of its clients, in RESP2 and RESP3, against the server alone and through sidecache.

use std::time::Duration;

use fred::clients::{Client, Pool};
use fred::interfaces::{
    ClientLike, EventInterface, KeysInterface, ListInterface, PubsubInterface, TransactionInterface,
};
use fred::prelude::{Builder, Config, ErrorKind, ReconnectPolicy, ServerConfig};
use fred::types::{CustomCommand, Message, RespVersion, Value};
use tokio::sync::broadcast::Receiver;

use super::Pair;
use crate::support::{Kind, Server};

/// RESP2, the library's default, and RESP3.
const PROTOCOLS: [RespVersion; 2] = [RespVersion::RESP2, RespVersion::RESP3];

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("no end within 120 s") })
}

/// By default the library does not connect again, and a policy's default is to try once a second.
fn builder(port: u16, protocol: &RespVersion) -> Builder {
    let server = ServerConfig::new_centralized("127.0.0.1", port);
    let mut builder = Builder::from_config(Config { server, version: protocol.clone(), ..Config::default() });
    builder.set_policy(ReconnectPolicy::new_exponential(0, 10, 1000, 2));
    builder
}

async fn client(port: u16, protocol: &RespVersion) -> Client {
    let client = builder(port, protocol).build().unwrap();
    client.init().await.unwrap();
    client
}

/// A command that the library has no method for here.
async fn call(client: &Client, words: &[&str]) -> Value {
    let command = CustomCommand::new(words[0].to_string(), None::<u16>, false);
    client.custom(command, words[1..].to_vec()).await.unwrap()
}

async fn session(port: u16, protocol: &RespVersion, server: &Server) {
    let pool = builder(port, protocol).build_pool(4).unwrap();
    pool.init().await.unwrap();
    reads_and_writes(&pool, server).await;
    pipelines(&pool).await;
    transactions(port, protocol, server).await;
    subscriptions(port, protocol, server).await;
    blocking(&pool, port, protocol).await;
    comes_back(&pool, port, protocol).await;
    pool.quit().await.unwrap();
}

async fn reads_and_writes(pool: &Pool, server: &Server) {
    let _: () = pool.del(vec!["a", "l", "n"]).await.unwrap();
    assert_eq!(pool.get::<Option<String>, _>("a").await.unwrap(), None);
    let _: () = pool.set("a", "1", None, None, false).await.unwrap();
    for _ in 0..8 {
        assert_eq!(pool.get::<String, _>("a").await.unwrap(), "1");
    }
    assert_eq!(pool.incr::<i64, _>("a").await.unwrap(), 2);
    assert_eq!(pool.get::<i64, _>("a").await.unwrap(), 2);
    server.outside("SET a outside");
    while pool.get::<String, _>("a").await.unwrap() != "outside" {}

    let _: () = pool.rpush("l", "x").await.unwrap();
    for _ in 0..4 {
        assert!(pool.get::<String, _>("l").await.unwrap_err().details().contains("WRONGTYPE"));
    }
    let binary: Vec<u8> = (0..=255).collect();
    let big = binary.repeat(4096);
    let _: () = pool.set(binary.as_slice(), binary.as_slice(), None, None, false).await.unwrap();
    let _: () = pool.set("big", big.as_slice(), None, None, false).await.unwrap();
    for _ in 0..4 {
        assert_eq!(pool.get::<Vec<u8>, _>(binary.as_slice()).await.unwrap(), binary);
        assert!(pool.get::<Vec<u8>, _>("big").await.unwrap() == big);
    }
    let tasks: Vec<_> = (0..200_i64)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let key = format!("task:{i}");
                let _: () = pool.set(&key, i, None, None, false).await.unwrap();
                assert_eq!(pool.get::<i64, _>(&key).await.unwrap(), i);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn pipelines(pool: &Pool) {
    let pipeline = pool.next().pipeline();
    for i in 0..500_i64 {
        let _: () = pipeline.set(format!("p:{i}"), i, None, None, false).await.unwrap();
        let _: () = pipeline.get(format!("p:{i}")).await.unwrap();
    }
    let replies: Vec<Value> = pipeline.all().await.unwrap();
    let numbers: Vec<i64> = replies.into_iter().skip(1).step_by(2).map(|reply| reply.convert().unwrap()).collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}

async fn transactions(port: u16, protocol: &RespVersion, server: &Server) {
    let own = client(port, protocol).await;
    let _: () = own.set("n", 1, None, None, false).await.unwrap();
    let increment = async || {
        let transaction = own.multi();
        let _: () = transaction.incr("n").await.unwrap();
        let _: () = transaction.get("n").await.unwrap();
        transaction.exec::<Value>(true).await.unwrap()
    };
    assert_eq!(increment().await.convert::<(i64, i64)>().unwrap(), (2, 2));
    own.watch("n").await.unwrap();
    server.outside("SET n 7");
    assert!(increment().await.is_null());
    own.watch("n").await.unwrap();
    assert_eq!(increment().await.convert::<(i64, i64)>().unwrap(), (8, 8));
    own.quit().await.unwrap();
}

async fn subscriptions(port: u16, protocol: &RespVersion, server: &Server) {
    let publisher = client(port, protocol).await;
    let own = client(port, protocol).await;
    let mut heard = own.message_rx();
    own.subscribe("news").await.unwrap();
    own.psubscribe("weather.*").await.unwrap();
    // In RESP3 the library does not wait for the confirmations.
    while publisher.publish::<i64, _, _>("news", "inside").await.unwrap() == 0 {}
    hear(&mut heard, "inside").await;
    while server.outside("PUBLISH weather.rome outside").int() == 0 {}
    hear(&mut heard, "outside").await;
    own.unsubscribe("news").await.unwrap();
    own.punsubscribe("weather.*").await.unwrap();
    assert_eq!(own.get::<String, _>("kept").await.unwrap(), "kept");
    assert_eq!(publisher.publish::<i64, _, _>("news", "nobody").await.unwrap(), 0);
    own.quit().await.unwrap();
    publisher.quit().await.unwrap();
}

async fn hear(heard: &mut Receiver<Message>, wanted: &str) {
    assert_eq!(heard.recv().await.unwrap().value.as_str().as_deref(), Some(wanted));
}

/// The client that waits serves nobody else meanwhile; the pool's others do.
async fn blocking(pool: &Pool, port: u16, protocol: &RespVersion) {
    let _: () = pool.del("q").await.unwrap();
    let own = client(port, protocol).await;
    // For the library, nothing within that time is an error.
    assert_eq!(own.blpop::<Value, _>("q", 0.05).await.unwrap_err().kind(), &ErrorKind::Timeout);
    let popped = tokio::spawn({
        let own = own.clone();
        async move { own.blpop::<(String, String), _>("q", 20.0).await.unwrap() }
    });
    assert_eq!(pool.rpush::<i64, _, _>("q", "woken").await.unwrap(), 1);
    assert_eq!(popped.await.unwrap(), ("q".into(), "woken".into()));
    own.quit().await.unwrap();
}

async fn comes_back(pool: &Pool, port: u16, protocol: &RespVersion) {
    let _: () = pool.set("cut", "before", None, None, false).await.unwrap();
    let killer = client(port, protocol).await;
    let mut again: Vec<_> = pool.clients().iter().map(|client| client.reconnect_rx()).collect();
    let killed = call(&killer, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    assert!(killed.as_i64().unwrap() >= 4, "{killed:?}");
    for client in &mut again {
        client.recv().await.unwrap();
    }
    for _ in 0..4 {
        assert_eq!(pool.get::<String, _>("cut").await.unwrap(), "before");
    }
    let _: () = pool.set("cut", "after", None, None, false).await.unwrap();
    assert_eq!(pool.get::<String, _>("cut").await.unwrap(), "after");
    killer.quit().await.unwrap();
}

#[test]
fn fred_runs_its_session() {
    for (kind, threads) in super::PLACES {
        for protocol in &PROTOCOLS {
            let server = Server::with(kind, &[]);
            server.outside("SET kept kept");
            if kind == Kind::Redis {
                run(session(server.port(), protocol, &server));
            }
            let Pair { server, sidecar } = Pair::before(server, threads);
            for _ in ["cold", "warm"] {
                run(session(sidecar.addr().port(), protocol, &server));
            }
        }
    }
}
