//! The scraper against a stand-in that answers INFO, and against nobody.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::net::Address;

const INFO: &str = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nuptime_in_seconds:77\r\n\
    # Clients\r\nconnected_clients:12\r\ntracking_clients:2\r\n# Memory\r\nused_memory:1048576\r\nmaxmemory:0\r\n\
    # Stats\r\ninstantaneous_ops_per_sec:345\r\nkeyspace_hits:10\r\n# Replication\r\nrole:slave\r\n\
    # Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\ndb11:keys=4,expires=0,avg_ttl=0\r\n";

/// Answers PING, INFO and CLIENT as a server does, and counts the INFOs.
async fn stand_in(infos: Arc<AtomicUsize>) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let infos = Arc::clone(&infos);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                    let request = String::from_utf8_lossy(&bytes[..n]).into_owned();
                    let mut reply = String::new();
                    for word in request.split("\r\n") {
                        match word {
                            "CLIENT" => reply += "+OK\r\n",
                            "PING" => reply += "+PONG\r\n",
                            "INFO" => {
                                infos.fetch_add(1, Ordering::Relaxed);
                                reply += &format!("${}\r\n{INFO}\r\n", INFO.len());
                            }
                            _ => {}
                        }
                    }
                    stream.write_all(reply.as_bytes()).await.unwrap();
                }
            });
        }
    });
    Address::Tcp { host: "127.0.0.1".into(), port }
}

fn target(address: Address) -> Target {
    Target { address, user: String::new(), password: String::new(), password_file: None }
}

#[test]
fn the_figures_of_info_are_published() {
    let registry = Registry::new();
    publish(&registry, INFO);
    let expected = [
        (Upstream::Up, 1),
        (Upstream::Clients, 12),
        (Upstream::TrackingClients, 2),
        (Upstream::MemoryUsed, 1_048_576),
        (Upstream::OpsPerSecond, 345),
        (Upstream::Uptime, 77),
        (Upstream::RoleMaster, 0),
        (Upstream::RoleReplica, 1),
        (Upstream::Keys, 7),
    ];
    for (gauge, value) in expected {
        assert_eq!(registry.upstream(gauge), value, "{gauge:?}");
    }
    assert!(registry.render().contains(r#"sidecache_upstream_info{version="9.1.2",server="valkey"} 1"#));
}

#[tokio::test]
async fn upstream_is_asked_at_most_once_in_the_interval() {
    let infos = Arc::new(AtomicUsize::new(0));
    let address = stand_in(Arc::clone(&infos)).await;
    let registry = Arc::new(Registry::new());
    let scraper = Arc::new(Scraper::new(Arc::clone(&registry), move || Some(target(address.clone()))));
    // `refresh` waits for a moment only: then the values are for the next reader.
    let told = async || {
        while registry.upstream(Upstream::Up) == 0 {
            tokio::task::yield_now().await;
        }
    };
    for _ in 0..3 {
        scraper.refresh().await;
    }
    told().await;
    assert_eq!(infos.load(Ordering::Relaxed), 1);
    // As if the interval had passed.
    *scraper.begun.lock().unwrap() = None;
    registry.set_upstream(Upstream::Up, 0);
    scraper.refresh().await;
    told().await;
    assert_eq!(infos.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_upstream_that_has_gone_is_shown_as_down() {
    // Bound, so that nobody else gets it, and deaf.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let closed = deaf.local_addr().unwrap();
    let registry = Arc::new(Registry::new());
    registry.set_upstream(Upstream::Up, 1);
    let address = Address::Tcp { host: "127.0.0.1".into(), port: closed.port() };
    let scraper = Arc::new(Scraper::new(Arc::clone(&registry), move || Some(target(address.clone()))));
    scraper.ask().await;
    assert_eq!(registry.upstream(Upstream::Up), 0);
}

#[test]
fn a_target_does_not_show_its_password() {
    let target = Target { password: "hunter2".into(), ..target(Address::Tcp { host: "localhost".into(), port: 1 }) };
    assert!(!format!("{target:?}").contains("hunter2"));
}

#[test]
fn only_an_answer_that_will_be_the_same_next_time_is_a_refusal() {
    let answered = |code: &str| Unanswered::of_answer(redis::make_extension_error(code.into(), None));
    assert!(["NOPERM", "NOAUTH", "ERR"].into_iter().all(|code| answered(code).is_refusal()));
    assert!(["LOADING", "BUSY"].into_iter().all(|code| !answered(code).is_refusal()));
    assert!(answered("NOPERM").is_denial() && !answered("ERR").is_denial());
    assert!(!Unanswered::NoConnection.is_refusal());
}
