//! The pages over real HTTP.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

/// A running server without upstream, and what stops it.
struct Running {
    admin: Admin,
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    stop: oneshot::Sender<()>,
}

fn start() -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let registry = Arc::new(Registry::new());
    let readiness = Arc::new(Readiness::new());
    let scraper = Arc::new(Scraper::new(Arc::clone(&registry), || None));
    let pages = Pages { registry: Arc::clone(&registry), readiness: Arc::clone(&readiness), scraper };
    let config = Config { listen: Some("127.0.0.1:0".into()) };
    let shutdown = async move {
        let _ = stopped.await;
    };
    let admin = Admin::start(&config, pages, shutdown).unwrap().unwrap();
    Running { admin, readiness, registry, stop }
}

/// Sends bytes and reads to the end.
async fn exchange(running: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(running.admin.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // An answer given before all was read may be followed by a reset; what came before it counts.
    while let Ok(1..) = stream.read_buf(&mut reply).await {}
    String::from_utf8(reply).unwrap()
}

async fn get(running: &Running, path: &str) -> (u16, String) {
    let reply = exchange(running, &format!("GET {path} HTTP/1.1\r\nHost: sidecache\r\n\r\n")).await;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn every_page_that_the_index_names_is_there() {
    let running = start();
    running.readiness.set(Ready::Ready);
    let (status, index) = get(&running, "/").await;
    assert_eq!(status, 200);
    let named: Vec<_> = index.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert_eq!(named, ["/metrics", "/livez", "/readyz"]);
    for path in named {
        assert_eq!(get(&running, path).await.0, 200, "{path}");
    }
    assert_eq!(get(&running, "/metricsx").await.0, 404);
    assert_eq!(get(&running, "/metrics?x=1").await.0, 200);
}

#[tokio::test]
async fn readyz_follows_upstream_and_says_why_not() {
    let running = start();
    assert_eq!(get(&running, "/readyz").await, (503, "not ready: upstream has not answered yet\n".into()));
    running.readiness.set(Ready::Ready);
    assert_eq!(get(&running, "/readyz").await, (200, "ready\n".into()));
    running.readiness.set(Ready::Unreachable);
    assert_eq!(get(&running, "/readyz").await, (503, "not ready: upstream cannot be reached\n".into()));
    assert_eq!(get(&running, "/livez").await.0, 200);
}

#[tokio::test]
async fn metrics_shows_what_the_workers_count_in_prometheus_format() {
    let running = start();
    running.registry.cells().add(crate::telemetry::Counter::Fills, 3);
    let reply = exchange(&running, "GET /metrics HTTP/1.1\r\nHost: sidecache\r\n\r\n").await;
    assert!(reply.contains("content-type: text/plain; version=0.0.4"), "{reply}");
    assert!(reply.contains("\nsidecache_cache_fills_total 3\n"), "{reply}");
}

#[tokio::test]
async fn other_methods_are_refused_and_head_has_no_body() {
    let running = start();
    let refusal = exchange(&running, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(refusal.starts_with("HTTP/1.1 405 ") && refusal.contains("allow: GET, HEAD"), "{refusal}");
    let head = exchange(&running, "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_head_without_end_is_refused_before_it_costs_memory() {
    let running = start();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES));
    assert!(exchange(&running, &long).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS + 1));
    assert!(exchange(&running, &many).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn shutdown_frees_the_port_and_ends_the_thread() {
    let running = start();
    let address = running.admin.address();
    running.stop.send(()).unwrap();
    running.admin.join();
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn without_an_address_there_is_no_server() {
    let registry = Arc::new(Registry::new());
    let scraper = Arc::new(Scraper::new(Arc::clone(&registry), || None));
    let pages = Pages { registry, readiness: Arc::default(), scraper };
    assert!(Admin::start(&Config { listen: None }, pages, std::future::pending()).unwrap().is_none());
}
