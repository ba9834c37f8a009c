//! Real servers: redis-server and valkey-server processes, each in a folder and on a port of its own.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::port::Port;
use super::resp::Conn;
use super::wait::{PATIENCE, eventually, eventually_some, holds_within};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// redis-server, found in PATH or as SIDECACHE_REDIS.
    Redis,
    /// valkey-server, found as SIDECACHE_VALKEY or where `make deps` puts it.
    Valkey,
}

/// Both.
pub const KINDS: [Kind; 2] = [Kind::Redis, Kind::Valkey];

impl Kind {
    /// The program to run.
    #[track_caller]
    pub fn program(self) -> PathBuf {
        match self {
            Kind::Redis => std::env::var_os("SIDECACHE_REDIS").map_or_else(|| "redis-server".into(), PathBuf::from),
            Kind::Valkey => {
                let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/valkey-server");
                let path = std::env::var_os("SIDECACHE_VALKEY").map_or(unpacked, PathBuf::from);
                let hint = "run `make deps`, or name one in SIDECACHE_VALKEY";
                assert!(path.exists(), "no valkey-server at {}: {hint}", path.display());
                path
            }
        }
    }
}

/// A running server. All methods take `&self`, so that a test may stop it while a closure still looks at it.
pub struct Server {
    /// Which server it is.
    pub kind: Kind,
    args: Vec<String>,
    port: Port,
    folder: TempDir,
    child: Mutex<Child>,
}

impl Server {
    /// A redis-server with the defaults.
    #[track_caller]
    pub fn redis() -> Server {
        Server::with(Kind::Redis, &[])
    }

    /// A valkey-server with the defaults.
    #[track_caller]
    pub fn valkey() -> Server {
        Server::with(Kind::Valkey, &[])
    }

    /// One of each.
    #[track_caller]
    pub fn both() -> [Server; 2] {
        KINDS.map(|kind| Server::with(kind, &[]))
    }

    /// A server with further arguments: `&["--requirepass", "x"]`.
    #[track_caller]
    pub fn with(kind: Kind, args: &[&str]) -> Server {
        let folder = folder();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        for _ in 0..10 {
            let port = Port::free();
            let mut child = spawn(kind, &args, port.number, folder.path());
            if wait_until_it_answers(&mut child, folder.path()) {
                return Server { kind, args, port, folder, child: Mutex::new(child) };
            }
        }
        panic!("{kind:?} does not start:\n{}", log_tail(folder.path()));
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port()))
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("server.sock")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// A direct connection, authenticated if the server was started with `--requirepass`.
    #[track_caller]
    pub fn conn(&self) -> Conn {
        let mut conn = Conn::open(self.addr());
        let password = self.args.iter().position(|arg| arg == "--requirepass").map(|at| self.args[at + 1].as_str());
        if let Some(password) = password {
            assert_eq!(conn.call(&["AUTH", password]), b"+OK\r\n");
        }
        conn
    }

    /// A direct connection that the server has taken: where it takes few, the harness's own may have to leave first.
    #[track_caller]
    pub fn admitted(&self) -> Conn {
        eventually_some("there is room for a client", || {
            let mut conn = Conn::open(self.addr());
            conn.try_send_raw(b"PING\r\n");
            conn.try_read_frame().is_ok_and(|reply| reply == b"+PONG\r\n").then_some(conn)
        })
    }

    /// Sends one command typed as a line, from outside; fails the test if the reply is an error.
    #[track_caller]
    pub fn outside(&self, line: &str) -> super::V {
        let reply = self.conn().line(line);
        assert!(!matches!(reply, super::V::Error(_)), "{line}: {reply:?}");
        reply
    }

    /// The fields of `INFO section`.
    #[track_caller]
    pub fn info(&self, section: &str) -> HashMap<String, String> {
        let text = self.conn().ask(&["INFO", section]).text();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// How often this command was executed: `calls("get")`, `calls("client|tracking")`. INFO, AUTH and PING of
    /// the harness itself count too.
    #[track_caller]
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.info("commandstats");
        let Some(line) = stats.get(&format!("cmdstat_{command}")) else { return 0 };
        let calls = line.split(',').find_map(|part| part.strip_prefix("calls="));
        calls.expect("calls= in INFO commandstats").parse().unwrap()
    }

    /// Sets all such counters to zero.
    #[track_caller]
    pub fn reset_calls(&self) {
        self.outside("CONFIG RESETSTAT");
    }

    /// Ends the process at once, as a crash would; the kernel closes its connections.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGSTOP: the process is silent, its sockets stay open. Returns when it has stopped.
    pub fn stop(&self) {
        stop(self.pid());
    }

    /// SIGCONT.
    pub fn cont(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// Starts it anew, empty, on the same port; ends it first if it runs.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        let mut child = self.child.lock().unwrap();
        for _ in 0..10 {
            eventually("the port is free", || TcpListener::bind(self.addr()).is_ok());
            *child = spawn(self.kind, &self.args, self.port(), self.folder.path());
            if wait_until_it_answers(&mut child, self.folder.path()) {
                return;
            }
        }
        panic!("{:?} does not start again:\n{}", self.kind, log_tail(self.folder.path()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a signal to a process that the test started and has not yet waited for.
#[track_caller]
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap_or_else(|e| panic!("kill {signal:?} {pid:?}: {e}"));
}

/// The state letter of /proc/PID/stat: R, S, T …; `None` when the process is gone.
pub fn process_state(pid: u32) -> Option<char> {
    state_in(Path::new(&format!("/proc/{pid}/stat")))
}

fn state_in(stat: &Path) -> Option<char> {
    let stat = std::fs::read_to_string(stat).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Sends SIGSTOP and returns when it has reached the last of the process's threads.
#[track_caller]
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    let stopped = |thread: std::fs::DirEntry| state_in(&thread.path().join("stat")) == Some('T');
    eventually("the process is stopped", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| thread.is_ok_and(stopped))
    });
}

fn spawn(kind: Kind, args: &[String], port: u16, folder: &Path) -> Child {
    let program = kind.program();
    let log = std::fs::File::options().append(true).create(true).open(folder.join("log")).unwrap();
    let mut command = Command::new(&program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--unixsocket", "server.sock"]);
    command.arg("--dir").arg(folder);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(["--enable-debug-command", "yes"]).args(args);
    command.current_dir(folder).stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
    command.spawn().unwrap_or_else(|e| panic!("cannot run {}: {e}; run `make deps`", program.display()))
}

/// A server's folder, in memory if possible: nodes of a cluster and Sentinels wait until what they note is on the disk, which
/// may be busy for seconds. For that long they are mute, and a Sentinel that finds it has been does nothing for half a minute.
pub fn folder() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let named = builder.prefix("sidecache-");
    named.tempdir_in("/dev/shm").or_else(|_| named.tempdir()).unwrap()
}

/// False if the process ended instead (another process had the port). It is asked by its Unix socket: a
/// stranger may answer on the port, but not in our folder; and the server opens the port first.
fn wait_until_it_answers(child: &mut Child, folder: &Path) -> bool {
    let socket = format!("unix:{}", folder.join("server.sock").display());
    let answers = |child: &mut Child| {
        let Ok(mut conn) = Conn::try_open(&socket) else { return false };
        let asked = conn.try_send_raw(b"PING\r\n");
        let reply = conn.try_read_frame().unwrap_or_default();
        let up = asked && (reply.starts_with(b"+PONG") || reply.starts_with(b"-NOAUTH"));
        up && child.try_wait().unwrap().is_none()
    };
    let mut ended = false;
    let up = holds_within(PATIENCE, || {
        ended = child.try_wait().unwrap().is_some();
        ended || answers(child)
    });
    if !up {
        let _ = child.kill();
        let _ = child.wait();
    }
    up && !ended
}

fn log_tail(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
