//! The admin server: `/metrics`, `/livez`, `/readyz`, on a thread of its own.
//!
//! Invariant: no worker ever waits for it; it reads atomics and short copies. Every connection
//! has a bounded number, size and time, so that nobody who can reach the port can hold much.
//! Not here: what is counted (`telemetry`), who decides on readiness (`proxy`).

pub mod polls;
pub mod readiness;
pub mod scrape;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::telemetry::Registry;

pub use readiness::{Readiness, Ready};
pub use scrape::Scraper;

/// Most connections at once: Prometheus, two probes and some people.
const CONNECTIONS: usize = 64;
/// A connection serves one request within this time, whatever its peer does.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Time for a request's head. Shorter than a probe's usual patience.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Bytes that a request's head may have; hyper's least is 8 KiB.
const HEAD_BYTES: usize = 8 * 1024;
/// Headers that a request may have.
const HEADERS: usize = 64;
/// Pause after a failed accept, which would fail again at once (EMFILE).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What `/` says.
const INDEX: &str = "sidecache\n\n\
    /metrics  Prometheus metrics\n\
    /livez    200 while the process runs\n\
    /readyz   200 while upstream can be reached\n";
/// Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The admin server's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens, `host:port`; `None`: nowhere.
    pub listen: Option<String>,
}

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// For `/metrics`.
    pub registry: Arc<Registry>,
    /// For `/readyz`.
    pub readiness: Arc<Readiness>,
    /// Brings upstream's INFO up to date for `/metrics`.
    pub scraper: Arc<Scraper>,
}

/// A running admin server.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    thread: std::thread::JoinHandle<()>,
}

impl Default for Config {
    fn default() -> Self {
        Config { listen: Some("127.0.0.1:9180".into()) }
    }
}

// === impl Admin ===

impl Admin {
    /// Binds and serves until `shutdown` is done. `None` if the configuration wants no admin server.
    ///
    /// # Errors
    /// If the address cannot be bound or the thread not started.
    pub fn start(
        config: &Config,
        pages: Pages,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<Option<Admin>> {
        let Some(listen) = &config.listen else { return Ok(None) };
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async {
                match TcpListener::from_std(listener) {
                    Ok(listener) => tokio::select! {
                        () = serve(listener, pages) => {}
                        () = shutdown => {}
                    },
                    Err(error) => tracing::error!(%error, "the admin server cannot listen"),
                }
            });
        })?;
        tracing::info!(%address, "admin server listens");
        Ok(Some(Admin { address, thread }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for its thread, which ends once `shutdown` is done.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// Accepts for ever.
async fn serve(listener: TcpListener, pages: Pages) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    // A peer that breaks off or dawdles is no news.
                    let _ = timeout(CONNECTION_TIME, converse(stream, pages)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin server cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one request.
async fn converse(stream: TcpStream, pages: Pages) -> hyper::Result<()> {
    let service = service_fn(|request| answer(request, &pages));
    hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: Request<Incoming>, pages: &Pages) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if !["/", "/metrics", "/livez", "/readyz"].contains(&path) {
        return Ok(page(StatusCode::NOT_FOUND, "not found\n"));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    Ok(match path {
        "/metrics" => metrics(pages).await,
        "/livez" => page(StatusCode::OK, "alive\n"),
        "/readyz" => readyz(pages.readiness.get()),
        _ => page(StatusCode::OK, INDEX),
    })
}

async fn metrics(pages: &Pages) -> Response<Full<Bytes>> {
    pages.scraper.refresh().await;
    let mut response = page(StatusCode::OK, pages.registry.render());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}

fn readyz(ready: Ready) -> Response<Full<Bytes>> {
    match ready.obstacle() {
        None => page(StatusCode::OK, "ready\n"),
        Some(obstacle) => page(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {obstacle}\n")),
    }
}

fn page(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_TYPE));
    response
}

#[cfg(test)]
mod tests;
