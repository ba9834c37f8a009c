//! A master, two replicas and three Sentinels that watch them.
//!
//! Servers are named by their place: 0 is the master at the start. Whoever is asked runs: not killed, not stopped.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::port::Port;
use super::redis::{Kind, Server, folder, process_state, signal, stop};
use super::resp::{Conn, V};
use super::wait::{PATIENCE, holds_within, in_the_end};

/// The name under which the Sentinels know the master.
pub const SERVICE: &str = "mymaster";
/// What a Sentinel thinks of its servers, in milliseconds: silent for so long is down …
const DOWN_AFTER: u32 = 1500;
/// … and a failover that has not succeeded is tried again after twice this.
const FAILOVER_TIMEOUT: u32 = 4000;
/// How many Sentinels must think so.
const QUORUM: u32 = 2;

/// A running set of servers and Sentinels.
pub struct Sentinels {
    /// Which server it is made of.
    pub kind: Kind,
    servers: Vec<Server>,
    sentinels: Vec<Sentinel>,
}

/// One Sentinel.
pub struct Sentinel {
    kind: Kind,
    port: Port,
    folder: TempDir,
    password: Option<String>,
    child: Mutex<Child>,
}

// === impl Sentinels ===

impl Sentinels {
    /// A master, two replicas, three Sentinels that know them all.
    #[track_caller]
    pub fn start(kind: Kind) -> Sentinels {
        Sentinels::with(kind, &[], &[])
    }

    /// The same with further arguments for the servers (`&["--requirepass", "x", "--masterauth", "x"]`) and further lines
    /// for the Sentinels' files (`&["sentinel auth-pass mymaster x", "requirepass y"]`).
    #[track_caller]
    pub fn with(kind: Kind, args: &[&str], lines: &[&str]) -> Sentinels {
        Sentinels::at("127.0.0.1", kind, args, lines)
    }

    /// The same where all go by this name: what Sentinels tell of the servers and of each other is no address.
    #[track_caller]
    pub fn by_name(host: &str, kind: Kind) -> Sentinels {
        let lines = ["resolve-hostnames yes", "announce-hostnames yes", &format!("announce-ip {host}")];
        let lines = lines.map(|line| format!("sentinel {line}"));
        Sentinels::at(host, kind, &["--replica-announce-ip", host], &lines.each_ref().map(String::as_str))
    }

    #[track_caller]
    fn at(host: &str, kind: Kind, args: &[&str], lines: &[&str]) -> Sentinels {
        let own = ["--repl-diskless-sync-delay", "0"];
        let args: Vec<&str> = own.iter().chain(args).copied().collect();
        let master = Server::with(kind, &args);
        let port = master.port().to_string();
        let mut args = args;
        args.extend(["--replicaof", host, &port]);
        let servers = vec![Server::with(kind, &args), Server::with(kind, &args)];
        let servers: Vec<Server> = std::iter::once(master).chain(servers).collect();
        let mut all = Sentinels { kind, servers, sentinels: Vec::new() };
        all.await_replicas_of(0);
        all.sentinels = (0..3).map(|_| Sentinel::start(kind, host, all.servers[0].port(), lines)).collect();
        in_the_end("the Sentinels know the replicas and each other", || {
            all.sentinels.iter().all(|sentinel| {
                let master = sentinel.conn().line(&format!("SENTINEL MASTER {SERVICE}"));
                ["num-slaves", "num-other-sentinels"].iter().all(|name| master.field(name).unwrap().text() == "2")
                    && sentinel.flags() == "master"
            })
        });
        all
    }

    /// A server.
    pub fn server(&self, at: usize) -> &Server {
        &self.servers[at]
    }

    /// Whether a server runs.
    pub fn runs(&self, at: usize) -> bool {
        runs(self.servers[at].pid())
    }

    /// A Sentinel.
    pub fn sentinel(&self, at: usize) -> &Sentinel {
        &self.sentinels[at]
    }

    /// `host:port,host:port…` of all Sentinels, as the URL has it.
    pub fn seeds(&self) -> String {
        let addresses: Vec<_> = self.sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        addresses.join(",")
    }

    /// The master as a Sentinel tells it.
    #[track_caller]
    pub fn master_by(&self, sentinel: usize) -> usize {
        let address = self.sentinels[sentinel].conn().line(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}"));
        let port: u16 = address.items()[1].text().parse().unwrap();
        let at = self.servers.iter().position(|server| server.port() == port);
        at.unwrap_or_else(|| panic!("{port} is no server of ours"))
    }

    /// The master that all running Sentinels tell, none of them busy with a failover, and that knows itself to be one;
    /// `None`: there is none at present. (A Sentinel that is stopped while it leads a failover may tell a wrong master ever
    /// after: it takes in the others' next decision, and then ends its own.)
    #[track_caller]
    pub fn master(&self) -> Option<usize> {
        let running: Vec<_> = (0..self.sentinels.len()).filter(|&at| runs(self.sentinels[at].pid())).collect();
        let told: Vec<usize> = running.iter().map(|&at| self.master_by(at)).collect();
        let &master = told.first()?;
        let agreed = told.iter().all(|&other| other == master) && runs(self.servers[master].pid());
        let agreed = agreed && running.iter().all(|&at| self.sentinels[at].flags() == "master");
        (agreed && self.role(master) == "master").then_some(master)
    }

    /// Waits until a server other than `old` is the master, and gives it.
    #[track_caller]
    pub fn await_other_master(&self, old: usize) -> usize {
        let mut new = None;
        in_the_end("another server is the master", || {
            new = self.master().filter(|&new| new != old);
            new.is_some()
        });
        new.unwrap()
    }

    /// Has the Sentinels make another server the master though the old one is well; waits for it, and gives it.
    #[track_caller]
    pub fn fail_over(&self) -> usize {
        let mut old = None;
        in_the_end("there is a master", || {
            old = self.master();
            old.is_some()
        });
        let old = old.unwrap();
        let mut new = None;
        in_the_end("the failover is over", || {
            // Refused where no replica seems good enough, as after a standstill of the machine, and where one is under way.
            let asked = self.sentinels.iter().find(|sentinel| runs(sentinel.pid())).unwrap();
            let _ = asked.conn().line(&format!("SENTINEL FAILOVER {SERVICE}"));
            holds_within(PATIENCE, || {
                new = self.master().filter(|&new| new != old);
                new.is_some()
            })
        });
        new.unwrap()
    }

    /// Waits until all other running servers are replicas of this one and up to date.
    #[track_caller]
    pub fn await_replicas_of(&self, master: usize) {
        let others = self.servers.iter().enumerate().filter(|&(at, server)| at != master && runs(server.pid()));
        let others: Vec<String> = others.map(|(_, server)| format!("port={},state=online", server.port())).collect();
        in_the_end("the replicas are up to date", || {
            let known = self.servers[master].info("replication");
            others.iter().all(|other| known.values().any(|replica| replica.contains(other)))
        });
    }

    #[track_caller]
    fn role(&self, at: usize) -> String {
        self.servers[at].conn().line("ROLE").items()[0].text()
    }
}

// === impl Sentinel ===

impl Sentinel {
    #[track_caller]
    fn start(kind: Kind, host: &str, master: u16, lines: &[&str]) -> Sentinel {
        // Whether names count must be known before the first is told.
        let (first, lines): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.contains("hostnames"));
        let password = lines.iter().find_map(|line| line.strip_prefix("requirepass ")).map(str::to_owned);
        for _ in 0..10 {
            let folder = folder();
            let port = Port::free();
            let own = [
                format!("port {}", port.number),
                "bind 127.0.0.1".into(),
                format!("dir {}", folder.path().display()),
                format!("sentinel monitor {SERVICE} {host} {master} {QUORUM}"),
                format!("sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}"),
                format!("sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT}"),
            ];
            let own = own.iter().map(String::as_str);
            let file: Vec<&str> = first.iter().copied().chain(own).chain(lines.iter().copied()).collect();
            std::fs::write(folder.path().join("sentinel.conf"), file.join("\n") + "\n").unwrap();
            let child = Mutex::new(spawn(kind, &folder));
            let sentinel = Sentinel { kind, port, folder, password: password.clone(), child };
            if sentinel.comes_up() {
                sentinel.hurry();
                return sentinel;
            }
        }
        panic!("{kind:?} does not start as a Sentinel");
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// A direct connection, authenticated where the Sentinel asks for it.
    #[track_caller]
    pub fn conn(&self) -> Conn {
        let mut conn = Conn::open(self.addr());
        if let Some(password) = &self.password {
            assert_eq!(conn.call(&["AUTH", password]), b"+OK\r\n");
        }
        conn
    }

    /// What it says of the master: `master`, and `s_down`, `o_down`, `failover_in_progress` where they are true.
    #[track_caller]
    pub fn flags(&self) -> String {
        self.conn().line(&format!("SENTINEL MASTER {SERVICE}")).field("flags").unwrap().text()
    }

    /// Ends the process at once, as a crash would.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGSTOP: the process is silent, its sockets stay open. Returns when it has stopped. When it goes on it takes no
    /// part in anything for half a minute, since it trusts no clock.
    pub fn stop(&self) {
        stop(self.pid());
    }

    /// SIGCONT.
    pub fn cont(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// Starts it anew on its port, with what it wrote into its file; ends it first if it runs.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        *self.child.lock().unwrap() = spawn(self.kind, &self.folder);
        assert!(self.comes_up(), "the Sentinel does not start again");
        self.hurry();
    }

    /// It looks every half second at what it else looks at every ten.
    #[track_caller]
    fn hurry(&self) {
        let reply = self.conn().line("SENTINEL DEBUG INFO-PERIOD 500 PUBLISH-PERIOD 500 DEFAULT-DOWN-AFTER 1500");
        assert_eq!(reply, V::Simple("OK".into()));
    }

    /// False if the process ended instead (another process had the port). A stranger on the port is known by its id.
    fn comes_up(&self) -> bool {
        let pid = format!("process_id:{}\r", self.pid());
        let mut ended = false;
        let up = holds_within(PATIENCE, || {
            ended = self.child.lock().unwrap().try_wait().unwrap().is_some();
            let Ok(mut conn) = Conn::try_open(self.addr()) else { return ended };
            if let Some(password) = &self.password {
                let _ = conn.try_send_raw(format!("AUTH {password}\r\n").as_bytes()) && conn.try_read_frame().is_ok();
            }
            let asked = conn.try_send_raw(b"INFO server\r\n");
            let info = conn.try_read_frame().unwrap_or_default();
            ended || asked && String::from_utf8_lossy(&info).contains(&pid)
        });
        up && !ended
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(kind: Kind, folder: &TempDir) -> Child {
    let program = kind.program();
    let log = std::fs::File::options().append(true).create(true).open(folder.path().join("log")).unwrap();
    let mut command = Command::new(&program);
    command.args(["sentinel.conf", "--sentinel"]).current_dir(folder.path());
    command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
    command.spawn().unwrap_or_else(|e| panic!("cannot run {}: {e}; run `make deps`", program.display()))
}

fn runs(pid: u32) -> bool {
    process_state(pid).is_some_and(|state| !matches!(state, 'T' | 'Z' | 'X'))
}
