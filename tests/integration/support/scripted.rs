//! An upstream that answers as its script says.
//!
//! The commands of a handshake and of freshness (HELLO, AUTH, SELECT, CLIENT …, PING, PTTL) are answered by
//! itself, as Redis 7 would, so that a script states only what is interesting; `take` hands one of them to the
//! script, `answer` gives it another reply.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::resp::{Conn, V, decode};

/// What the upstream was sent, in order of arrival.
type Record = Arc<Mutex<Vec<(usize, Vec<String>)>>>;

/// A scripted upstream. Each connection runs the script in a thread of its own.
pub struct Scripted {
    addr: SocketAddr,
    record: Record,
    opened: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    /// What scripts panicked with.
    faults: Arc<Mutex<Vec<String>>>,
}

/// One connection, as the script sees it.
pub struct Turn {
    /// Its place in the order of connecting, from 0.
    pub index: usize,
    conn: Conn,
    record: Record,
    taken: HashSet<String>,
    answers: HashMap<String, Vec<u8>>,
}

impl Scripted {
    /// Runs `script` for each connection; the connection is closed when it returns.
    pub fn start(script: impl Fn(&mut Turn) + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let scripted = Scripted {
            addr: listener.local_addr().unwrap(),
            record: Arc::default(),
            opened: Arc::default(),
            ended: Arc::default(),
            faults: Arc::default(),
        };
        let (record, opened) = (Arc::clone(&scripted.record), Arc::clone(&scripted.opened));
        let (ended, faults) = (Arc::clone(&scripted.ended), Arc::clone(&scripted.faults));
        let script = Arc::new(script);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let index = opened.fetch_add(1, Ordering::SeqCst);
                let mut turn = Turn::new(index, stream, Arc::clone(&record));
                let (script, faults) = (Arc::clone(&script), Arc::clone(&faults));
                std::thread::spawn(move || {
                    let run = std::panic::AssertUnwindSafe(|| script(&mut turn));
                    if let Err(fault) = std::panic::catch_unwind(run) {
                        let text = fault.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| fault.downcast_ref::<&str>().map(ToString::to_string));
                        faults.lock().unwrap().push(text.unwrap_or_default());
                    }
                });
            }
        });
        scripted
    }

    /// Answers each command by a table of lines: `&[("GET k", "$1\r\n1\r\n")]`; others with an error.
    pub fn replies(table: &[(&str, &str)]) -> Scripted {
        let table: HashMap<String, String> = table.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Scripted::start(move |turn| {
            while let Some(command) = turn.next() {
                let reply = table.get(&command.join(" "));
                turn.reply(reply.map_or("-ERR unknown command\r\n", String::as_str));
            }
        })
    }

    /// Where to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were opened.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// All commands received, each with its connection's index; the handshakes' too.
    pub fn commands(&self) -> Vec<(usize, Vec<String>)> {
        self.record.lock().unwrap().clone()
    }

    /// How often a command, written as a line, was received.
    pub fn received(&self, line: &str) -> usize {
        self.commands().iter().filter(|(_, command)| command.join(" ").eq_ignore_ascii_case(line)).count()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.addr);
        let faults = self.faults.lock().unwrap();
        if !std::thread::panicking() {
            assert!(faults.is_empty(), "the script failed: {faults:?}");
        }
    }
}

impl Turn {
    fn new(index: usize, stream: TcpStream, record: Record) -> Turn {
        stream.set_nodelay(true).unwrap();
        Turn { index, conn: Conn::of(stream), record, taken: HashSet::new(), answers: HashMap::new() }
    }

    /// From here on this command (`"PING"`, `"CLIENT CACHING"`) is given to the script.
    pub fn take(&mut self, command: &str) {
        self.taken.insert(command.to_uppercase());
    }

    /// From here on this command is answered so, unseen by the script.
    pub fn answer(&mut self, command: &str, reply: &str) {
        self.taken.remove(&command.to_uppercase());
        self.answers.insert(command.to_uppercase(), reply.as_bytes().to_vec());
    }

    /// The next command that is not answered by itself; `None` when the connection was closed or has been silent
    /// for a minute.
    pub fn next(&mut self) -> Option<Vec<String>> {
        loop {
            let command = self.any()?;
            let Some(reply) = self.own_reply(&command) else { return Some(command) };
            if !self.conn.try_send_raw(&reply) {
                return None;
            }
        }
    }

    /// The next command, which must be this line; false when the connection was closed.
    #[track_caller]
    pub fn expect(&mut self, line: &str) -> bool {
        let Some(command) = self.next() else { return false };
        assert_eq!(command.join(" "), line, "connection {}", self.index);
        true
    }

    /// Sends these bytes, whole replies or not.
    pub fn reply(&mut self, bytes: impl AsRef<[u8]>) {
        self.conn.try_send_raw(bytes.as_ref());
    }

    /// Sends an invalidation of these keys.
    pub fn invalidate(&mut self, keys: &[&str]) {
        let keys: String = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())).collect();
        let count = keys.matches('$').count();
        self.reply(format!(">2\r\n$10\r\ninvalidate\r\n*{count}\r\n{keys}"));
    }

    /// Goes on answering by itself what it can, until the connection is closed; other commands get no reply.
    pub fn idle(&mut self) {
        while self.next().is_some() {}
    }

    fn any(&mut self) -> Option<Vec<String>> {
        let frame = self.conn.try_read_frame().ok()?;
        let V::Array(words) = decode(&frame)?.0 else { panic!("not a command: {frame:?}") };
        let command: Vec<String> = words.iter().map(V::text).collect();
        self.record.lock().unwrap().push((self.index, command.clone()));
        Some(command)
    }

    fn own_reply(&self, command: &[String]) -> Option<Vec<u8>> {
        let name = command[0].to_uppercase();
        let full = command.get(1).map_or_else(|| name.clone(), |word| format!("{name} {}", word.to_uppercase()));
        if self.taken.contains(&name) || self.taken.contains(&full) {
            return None;
        }
        if let Some(reply) = self.answers.get(&full).or_else(|| self.answers.get(&name)) {
            return Some(reply.clone());
        }
        let reply = match (name.as_str(), full.as_str()) {
            ("HELLO", _) if command.get(1).is_some_and(|version| version == "3") => self.hello('%', 7, 3),
            ("HELLO", _) => self.hello('*', 14, 2),
            (_, "CLIENT TRACKINGINFO") => "%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$5\r\noptin\r\n\
                 $8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n*0\r\n"
                .into(),
            (_, "CLIENT ID") => format!(":{}\r\n", self.index + 1),
            (_, "CLIENT KILL") => ":0\r\n".into(),
            ("AUTH" | "SELECT" | "CLIENT" | "READONLY", _) => "+OK\r\n".into(),
            ("PING", _) => "+PONG\r\n".into(),
            ("PTTL", _) => ":-1\r\n".into(),
            _ => return None,
        };
        Some(reply.into_bytes())
    }

    fn hello(&self, kind: char, count: usize, version: u8) -> String {
        format!(
            "{kind}{count}\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:{version}\r\n\
             $2\r\nid\r\n:{}\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
            self.index + 1
        )
    }
}

impl Conn {
    /// Of a socket that connected to us; such a side waits longer, since a sidecar may be silent for long.
    fn of(stream: TcpStream) -> Conn {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Conn::from_stream(super::resp::Stream::Tcp(stream))
    }
}
