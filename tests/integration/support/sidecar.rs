//! A sidecache process in front of an upstream, with its metrics and its logs.
//!
//! *Invariant:* a test that makes it log a WARN or ERROR line says so (`allow_log`); any other such line fails
//! the test when the sidecar is dropped, and so does a sidecache that ended by itself.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::cluster::Cluster;
use super::link::Link;
use super::port::Port;
use super::redis::{Server, signal};
use super::resp::Conn;
use super::scripted::Scripted;
use super::sentinel::{SERVICE, Sentinels};
use super::wait::{PATIENCE, eventually, holds_within};

/// How long a sidecache may take to end after SIGTERM before it is killed.
const END: Duration = Duration::from_secs(5);

/// Of `[upstream]`: on a machine that stands still for seconds nothing is given up, unless a test is about that. Less
/// than the tests' own patience, so that errors come before it ends; and what is left of a command's time when it has
/// waited for a connection is time enough to send it again.
const UNHURRIED: &str = "command_timeout = \"8s\"\nconnect_timeout = \"4s\"\n\
                         pool.wait_timeout = \"8s\"\nwaiting_pool.wait_timeout = \"8s\"\n";

/// Whatever a sidecache can stand in front of.
pub trait Upstream {
    /// Its URL for `upstream.url`.
    fn url(&self) -> String;
}

impl Upstream for Server {
    fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }
}

impl Upstream for Cluster {
    fn url(&self) -> String {
        format!("redis-cluster://{}", self.seeds())
    }
}

impl Upstream for Sentinels {
    fn url(&self) -> String {
        format!("redis-sentinel://{}/{SERVICE}", self.seeds())
    }
}

impl Upstream for Link {
    fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }
}

impl Upstream for Scripted {
    fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }
}

impl Upstream for str {
    fn url(&self) -> String {
        self.to_string()
    }
}

/// How far a sidecache must have come before the test goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// It answers `+PONG`, so upstream is reached, and its background polls have looked: the first look drops what was
    /// filled before it, at whatever moment it comes.
    Answers,
    /// It takes connections; upstream may be down.
    Listens,
}

/// A running sidecache.
pub struct Sidecar {
    child: Child,
    port: Port,
    admin_port: Port,
    folder: TempDir,
    /// Whether it polls upstream in the background.
    polls: bool,
    logs: Arc<Mutex<Vec<String>>>,
    /// The threads that collect the logs; they end with the process.
    collectors: Vec<JoinHandle<()>>,
    allowed: Mutex<Vec<String>>,
    /// Set once the test has ended it by its own wish.
    ended: Option<ExitStatus>,
}

impl Sidecar {
    /// Starts one in front of `upstream` and waits until a PING through it is answered. `toml` is laid over the
    /// harness's own settings, key by key: `"threads = 2\ncache.mode = 'off'"`.
    #[track_caller]
    pub fn start(upstream: &(impl Upstream + ?Sized), toml: &str) -> Sidecar {
        Sidecar::launch(&upstream.url(), toml, Ready::Answers, None)
    }

    /// As `start`, where this file stands in the place of /etc/hosts: names mean what the test writes there, at any time. It
    /// takes a mount namespace of its own; see [`Sidecar::can_have_hosts`].
    #[track_caller]
    pub fn start_with_hosts(upstream: &(impl Upstream + ?Sized), toml: &str, hosts: &Path) -> Sidecar {
        Sidecar::launch(&upstream.url(), toml, Ready::Answers, Some(hosts))
    }

    /// Whether this machine lets a process have mounts of its own.
    pub fn can_have_hosts() -> bool {
        Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success())
    }

    /// As `start`, but waits only until it takes connections: for an upstream that is not there.
    #[track_caller]
    pub fn start_alone(upstream: &(impl Upstream + ?Sized), toml: &str) -> Sidecar {
        Sidecar::launch(&upstream.url(), toml, Ready::Listens, None)
    }

    #[track_caller]
    fn launch(url: &str, toml: &str, ready: Ready, hosts: Option<&Path>) -> Sidecar {
        let mut last_logs = String::new();
        // Another process may take a port between our look and sidecache's bind: then it ends, and we try others.
        for _ in 0..5 {
            let mut sidecar = Sidecar::spawn(url, toml, hosts);
            let mut ended = false;
            let up = holds_within(PATIENCE, || {
                ended = sidecar.child.try_wait().unwrap().is_some();
                ended || sidecar.is(ready)
            });
            let up = up && (ended || ready == Ready::Listens || holds_within(PATIENCE, || sidecar.has_looked()));
            if up && !ended {
                return sidecar;
            }
            let _ = sidecar.child.kill();
            sidecar.ended = Some(sidecar.child.wait().unwrap());
            for collector in sidecar.collectors.drain(..) {
                let _ = collector.join();
            }
            last_logs = sidecar.logs().join("\n");
            sidecar.allow_log("");
            assert!(ended, "sidecache runs but is not ready:\n{last_logs}");
            if !last_logs.contains("in use") {
                break;
            }
        }
        panic!("sidecache does not start:\n{last_logs}");
    }

    fn spawn(url: &str, toml: &str, hosts: Option<&Path>) -> Sidecar {
        let folder = tempfile::Builder::new().prefix("sidecache-").tempdir().unwrap();
        let (port, admin_port) = (Port::free(), Port::free());
        let socket = folder.path().join("client.sock");
        let own = format!(
            "[client]\nlisten = [\"127.0.0.1:{}\", \"unix:{}\"]\ndrain_timeout = \"2s\"\n\
             [upstream]\nurl = \"{url}\"\n{UNHURRIED}\
             [admin]\nlisten = \"127.0.0.1:{}\"\n[log]\nlevel = \"info,sidecache=debug\"\n",
            port.number,
            socket.display(),
            admin_port.number
        );
        let mut settings: toml::Table = own.parse().unwrap();
        lay_over(&mut settings, toml.parse().unwrap_or_else(|e| panic!("{e}\n{toml}")));
        let mode = settings.get("cache").and_then(|cache| cache.get("mode"));
        let polls = mode.and_then(toml::Value::as_str) != Some("off");
        let file = folder.path().join("sidecache.toml");
        std::fs::write(&file, toml::to_string(&settings).unwrap()).unwrap();

        let program = env!("CARGO_BIN_EXE_sidecache");
        let mut command = Command::new(if hosts.is_some() { "unshare" } else { program });
        if let Some(hosts) = hosts {
            // Each executes the next: the process stays the same.
            command.args(["-rm", "sh", "-c", r#"mount --bind "$0" /etc/hosts && exec "$@""#]).arg(hosts).arg(program);
        }
        // What the developer has set for a sidecache of their own must not reach the test's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIDECACHE_")) {
            command.env_remove(name);
        }
        command.arg("--config").arg(&file).env("NO_COLOR", "1").current_dir(folder.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let logs = Arc::default();
        let collectors =
            vec![collect(child.stdout.take().unwrap(), &logs), collect(child.stderr.take().unwrap(), &logs)];
        Sidecar { child, port, admin_port, folder, polls, logs, collectors, allowed: Mutex::default(), ended: None }
    }

    /// Asked by its Unix socket: a stranger may have the port, but not a socket in our folder. The clients that ask have
    /// left when this returns.
    fn is(&self, ready: Ready) -> bool {
        let Ok(mut conn) = Conn::try_open(self.socket()) else { return false };
        let is = if ready == Ready::Listens {
            Conn::try_open(self.addr()).map(leave).is_ok()
        } else {
            conn.try_send_raw(b"PING\r\n");
            conn.try_read_frame().is_ok_and(|reply| reply.starts_with(b"+PONG") || reply.starts_with(b"-NOAUTH"))
        };
        leave(conn);
        is
    }

    /// Whether nothing that is cached from here on will be dropped without a cause.
    fn has_looked(&self) -> bool {
        !self.polls || self.logs.lock().unwrap().iter().any(|line| line.contains("background polls have looked"))
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number))
    }

    /// The Unix socket where clients connect, as `unix:/path`.
    pub fn socket(&self) -> String {
        format!("unix:{}", self.folder.path().join("client.sock").display())
    }

    /// Where /metrics, /livez and /readyz are.
    pub fn admin_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.admin_port.number))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client's connection.
    #[track_caller]
    pub fn conn(&self) -> Conn {
        Conn::open(self.addr())
    }

    /// A client's connection in RESP3.
    #[track_caller]
    pub fn conn3(&self) -> Conn {
        Conn::open3(self.addr())
    }

    /// `GET path` on the admin port: status and body.
    #[track_caller]
    pub fn http(&self, path: &str) -> (u16, String) {
        self.try_http(path).expect("an HTTP response")
    }

    /// As `http`; `None` if there is no whole answer, since the process ends.
    pub fn try_http(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin_addr()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: sidecache\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
    }

    /// All series of /metrics by name and labels, the labels in alphabetical order.
    #[track_caller]
    pub fn metrics(&self) -> HashMap<String, f64> {
        let (status, body) = self.http("/metrics");
        assert_eq!(status, 200, "{body}");
        let lines = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines
            .map(|line| line.rsplit_once(' ').expect("name value"))
            .map(|(name, value)| (sorted(name), value.parse().unwrap()))
            .collect()
    }

    /// One series: `metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}")`, the labels in any order.
    /// Zero if there is no such label value yet; a name that no series has fails the test.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics();
        if let Some(value) = metrics.get(&sorted(series)) {
            return *value;
        }
        let family = family(series);
        assert!(
            metrics.keys().any(|name| self::family(name) == family),
            "no metric {family} among {:?}",
            metrics.keys()
        );
        0.0
    }

    /// The sum over all series of this name.
    #[track_caller]
    pub fn metric_sum(&self, name: &str) -> f64 {
        let metrics = self.metrics();
        assert!(metrics.keys().any(|series| family(series) == name), "no metric {name} among {:?}", metrics.keys());
        metrics.iter().filter(|(series, _)| family(series) == name).map(|(_, value)| value).sum()
    }

    /// All lines logged up to here.
    pub fn logs(&self) -> Vec<String> {
        self.logs.lock().unwrap().clone()
    }

    /// Announces WARN and ERROR lines that contain `text`, before or after they are logged.
    pub fn allow_log(&self, text: &str) {
        self.allowed.lock().unwrap().push(text.to_string());
    }

    /// SIGTERM, then waits for the end however long the drain takes (within the tests' patience).
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.begin_end();
        self.wait_end()
    }

    /// SIGTERM only: the drain begins.
    pub fn begin_end(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Waits for the end of the process and of its log.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = super::wait::eventually_some("sidecache ends", || child.try_wait().unwrap());
        self.ended = Some(status);
        for collector in self.collectors.drain(..) {
            let _ = collector.join();
        }
        status
    }

    /// SIGSTOP, as a suspended or starved process. Returns when it has stopped.
    pub fn stop(&self) {
        super::redis::stop(self.pid());
    }

    /// SIGCONT.
    pub fn cont(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// WARN and ERROR lines that nobody announced.
    pub fn complaints(&self) -> Vec<String> {
        let allowed = self.allowed.lock().unwrap();
        let complaints = |line: &String| is_complaint(line) && !allowed.iter().any(|text| line.contains(text));
        self.logs().into_iter().filter(complaints).collect()
    }

    /// Ends the process if it still runs; false if it had ended without being asked.
    fn end(&mut self) -> bool {
        if self.ended.is_some() {
            return true;
        }
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return false;
        }
        signal(self.pid(), Signal::CONT);
        signal(self.pid(), Signal::TERM);
        if !holds_within(END, || self.child.try_wait().is_ok_and(|status| status.is_some())) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        true
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let as_asked = self.end();
        // The last lines may still be in the pipes.
        for collector in self.collectors.drain(..) {
            let _ = collector.join();
        }
        let logs = self.logs().join("\n");
        if std::thread::panicking() {
            eprintln!("--- sidecache's log ---\n{logs}");
            return;
        }
        assert!(as_asked, "sidecache ended by itself:\n{logs}");
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "not announced by allow_log:\n{}", complaints.join("\n"));
    }
}

/// Says good-bye and waits until the sidecache has closed, so that this client is none of its clients any more.
fn leave(mut conn: Conn) {
    conn.try_send_raw(b"QUIT\r\n");
    while conn.try_read_frame().is_ok() {}
}

/// Whether a line of the log, text or JSON, is of level WARN or ERROR; a panic's first line is one too.
pub fn is_complaint(line: &str) -> bool {
    let level = line.split_whitespace().take(3).any(|word| word == "WARN" || word == "ERROR");
    level || line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"") || line.contains("panicked at")
}

/// Puts `over` into `base`, table by table.
fn lay_over(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Collects what the process writes. The thread ends with the process.
fn collect(from: impl Read + Send + 'static, logs: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let logs = Arc::clone(logs);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            logs.lock().unwrap().push(line);
        }
    })
}

fn family(series: &str) -> &str {
    series.split('{').next().unwrap_or(series)
}

/// The series with its labels in alphabetical order.
fn sorted(series: &str) -> String {
    let Some((name, rest)) = series.split_once('{') else { return series.to_string() };
    let labels = rest.trim_end_matches('}').replace("\",", "\"\n");
    let mut labels: Vec<&str> = labels.split('\n').filter(|label| !label.is_empty()).collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_errors_are_complaints_in_both_formats() {
        let complaints = [
            "2026-11-21T08:00:00Z  WARN sidecache::upstream: upstream is away",
            "2026-11-21T08:00:00Z ERROR sidecache: cannot listen",
            r#"{"timestamp":"2026-11-21T08:00:00Z","level":"WARN","message":"upstream is away"}"#,
            "thread 'worker' panicked at src/x.rs:1:1:",
        ];
        assert!(complaints.into_iter().all(is_complaint));
        assert!(!is_complaint("2026-11-21T08:00:00Z  INFO sidecache: after a WARN or an ERROR"));
        assert!(!is_complaint(r#"{"level":"INFO","message":"started"}"#));
    }

    #[test]
    fn settings_are_laid_over_key_by_key() {
        let mut settings: toml::Table = "[client]\nlisten = [\"a\"]\n[upstream]\nurl = \"b\"".parse().unwrap();
        lay_over(&mut settings, "threads = 2\nclient.max_clients = 1\nupstream.url = \"c\"".parse().unwrap());
        let wanted = "threads = 2\n[client]\nlisten = [\"a\"]\nmax_clients = 1\n[upstream]\nurl = \"c\"";
        assert_eq!(settings, wanted.parse().unwrap());
    }

    #[test]
    fn labels_are_compared_in_any_order() {
        assert_eq!(sorted("a_total{y=\"1,2\",x=\"3\"}"), "a_total{x=\"3\",y=\"1,2\"}");
        assert_eq!(sorted("up"), "up");
        assert_eq!(family("a_total{x=\"3\"}"), "a_total");
    }
}
