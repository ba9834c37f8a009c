//! The first words on a connection to upstream: a sequence as data, sent at once, judged reply by reply.
//!
//! *Invariant:* `Tracking::On` only if this connection speaks RESP3, the server is one whose pushes come
//! between replies and never inside them, and the server itself has confirmed that tracking is on.
//! AUTH is a command of its own and not an option of HELLO: its error is then exactly the one that a
//! client sending AUTH would get, and a server that lacks HELLO does not echo the password.
//! Not here: connecting (`net`), who the user is (`identity`), any retry.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::identity::Identity;
use crate::net::Stream;
use crate::protocol::{ReplyError, ReplyScanner, Value, frame};

/// Most bytes of unread replies; the longest, HELLO's with many modules, is a few kilobytes.
const MAX_BUFFERED: usize = 64 * 1024;
/// Room made for each read.
const READ_SIZE: usize = 4 * 1024;

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Shared by many clients.
    Lane {
        /// Whether to ask for tracking.
        tracking: bool,
    },
    /// For one client at a time; never tracked.
    Dedicated,
}

/// What to say.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// As whom.
    pub identity: &'a Identity,
    /// The database.
    pub db: u32,
    /// RESP3 rather than RESP2. A server without RESP3 is taken as it is; see [`Ready::proto`].
    pub resp3: bool,
    /// The connection's name in CLIENT LIST.
    pub name: &'a str,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether the server is a replica that is to be read from: said before anything else.
    pub readonly: bool,
    /// The id of a connection that this one succeeds, to be killed so that no late write of it follows ours.
    pub kill: Option<u64>,
}

/// A connection on which everything has been said.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    /// The RESP version in force: 2 or 3.
    pub proto: u8,
    /// CLIENT ID; 0 if upstream would not tell.
    pub connection_id: u64,
    /// Whether the cache may rely on pushes.
    pub tracking: Tracking,
    /// What the server says it is; all zero without HELLO.
    pub server: ServerVersion,
    /// `standalone`, `sentinel` or `cluster`, as HELLO has it; empty without HELLO.
    pub mode: String,
    /// `master` or `replica`, as HELLO has it; empty without HELLO.
    pub role: String,
    /// The modules, as HELLO lists them; null without HELLO.
    pub modules: Value,
}

/// Whether the cache may rely on pushes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// The server confirmed it.
    On,
    /// It may not, and why, in words for the log and INFO.
    Unavailable(String),
}

/// A server's name and version.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerVersion {
    /// `redis`, `valkey` or another's name.
    pub name: String,
    /// The version's first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub patch: u32,
}

/// Why a connection is not ready.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not finished within the time allowed.
    #[error("no answer to the handshake within the time allowed")]
    Timeout,
    /// AUTH was refused, or is missing: upstream's own error line, without its CRLF.
    #[error("{}", String::from_utf8_lossy(.0))]
    Auth(Vec<u8>),
    /// SELECT was refused: upstream's own error line, without its CRLF.
    #[error("SELECT failed: {}", String::from_utf8_lossy(.0))]
    Select(Vec<u8>),
    /// Upstream does not want us (too many clients, protected mode …): its own error line, without its CRLF.
    #[error("refused: {}", String::from_utf8_lossy(.0))]
    Refused(Vec<u8>),
    /// Upstream does not speak as Redis does.
    #[error("not a Redis server: {0}")]
    Protocol(&'static str),
    /// It is not known where to connect to.
    #[error("nobody knows where it is at present")]
    Nowhere,
    /// The server says that it is a replica.
    #[error("it is not the master any more")]
    NotMaster,
    /// Upstream's bytes are no RESP.
    #[error("not a Redis server: {0}")]
    Resp(#[from] ReplyError),
}

/// One command of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ReadOnly,
    Auth,
    Hello,
    Select,
    Name,
    Id,
    Kill,
    Tracking,
    TrackingInfo,
}

/// Says `hello` on a fresh stream and waits for all answers: one round trip. Returns what was learnt and
/// the bytes that came behind the last answer.
///
/// # Errors
/// [`HandshakeError`]; the stream is then of no further use.
pub async fn handshake(
    stream: &mut Stream,
    hello: &Hello<'_>,
    timeout: Duration,
) -> Result<(Ready, BytesMut), HandshakeError> {
    match tokio::time::timeout(timeout, converse(stream, hello)).await {
        Ok(result) => result,
        Err(_) => Err(HandshakeError::Timeout),
    }
}

// === impl Ready ===

impl Ready {
    fn unknown() -> Ready {
        Ready {
            proto: 2,
            connection_id: 0,
            tracking: Tracking::Unavailable("not asked for".into()),
            server: ServerVersion::default(),
            mode: String::new(),
            role: String::new(),
            modules: Value::Null,
        }
    }

    /// Takes in the answer to one step.
    fn learn(&mut self, step: Step, answer: &Value) -> Result<(), HandshakeError> {
        match (step, answer) {
            (Step::Auth, Value::Error(line)) => Err(refusal(line, HandshakeError::Auth)),
            (Step::Select, Value::Error(line)) => Err(refusal(line, HandshakeError::Select)),
            (Step::Hello, Value::Error(line)) if lacks_hello(line) => Ok(()),
            (Step::Hello, Value::Error(line)) if line.starts_with(b"NOAUTH") => {
                Err(refusal(line, HandshakeError::Auth))
            }
            (Step::Hello, Value::Error(line)) => Err(refusal(line, HandshakeError::Refused)),
            (Step::Hello, fields) => self.learn_hello(fields),
            // A name, an id and a predecessor's end are wishes: a user who may not have them still gets a connection.
            (Step::Id, answer) => {
                self.connection_id = number(answer).unwrap_or(self.connection_id);
                Ok(())
            }
            (Step::Tracking, answer) => {
                self.tracking = self.judge_tracking(answer);
                Ok(())
            }
            (Step::TrackingInfo, answer) if self.tracking == Tracking::On => {
                self.tracking = judge_flags(answer);
                Ok(())
            }
            (Step::ReadOnly | Step::Auth | Step::Select | Step::Name | Step::Kill | Step::TrackingInfo, _) => Ok(()),
        }
    }

    fn learn_hello(&mut self, fields: &Value) -> Result<(), HandshakeError> {
        let proto = fields.field("proto").and_then(number);
        self.proto = match proto {
            Some(2) => 2,
            Some(3) => 3,
            _ => return Err(HandshakeError::Protocol("HELLO's answer names no RESP version")),
        };
        let text = |name: &str| fields.field(name).and_then(Value::as_bytes).map(String::from_utf8_lossy);
        self.server.name = text("server").unwrap_or_default().into_owned();
        self.server.set_numbers(&text("version").unwrap_or_default());
        self.mode = text("mode").unwrap_or_default().into_owned();
        self.role = text("role").unwrap_or_default().into_owned();
        self.modules = fields.field("modules").cloned().unwrap_or(Value::Null);
        self.connection_id = fields.field("id").and_then(number).unwrap_or(0);
        Ok(())
    }

    fn judge_tracking(&self, answer: &Value) -> Tracking {
        if self.proto != 3 {
            return Tracking::Unavailable("upstream does not speak RESP3".into());
        }
        if let Value::Error(line) = answer {
            return Tracking::Unavailable(String::from_utf8_lossy(line).into_owned());
        }
        if !self.server.pushes_in_order() {
            let ServerVersion { name, major, minor, patch } = &self.server;
            return Tracking::Unavailable(format!(
                "{name} {major}.{minor}.{patch} is too old: 6.2.8, 7.0.5 or Valkey is needed"
            ));
        }
        Tracking::On
    }
}

// === impl ServerVersion ===

impl ServerVersion {
    /// Whether invalidations come between replies and never inside them: Redis 6.2.8, 7.0.5 and later, any
    /// Valkey. A 6.3 is no Redis but a fork whose threads send pushes out of order.
    pub fn pushes_in_order(&self) -> bool {
        match self.name.as_str() {
            "valkey" => true,
            "redis" => {
                let version = (self.major, self.minor, self.patch);
                version >= (7, 0, 5) || ((6, 2, 8)..(6, 3, 0)).contains(&version)
            }
            _ => false,
        }
    }

    fn set_numbers(&mut self, text: &str) {
        let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        self.major = numbers.next().unwrap_or(0);
        self.minor = numbers.next().unwrap_or(0);
        self.patch = numbers.next().unwrap_or(0);
    }
}

async fn converse(stream: &mut Stream, hello: &Hello<'_>) -> Result<(Ready, BytesMut), HandshakeError> {
    let (steps, request) = sequence(hello);
    stream.write_all(&request).await?;
    let mut buffer = BytesMut::with_capacity(READ_SIZE);
    let mut scanner = ReplyScanner::default();
    let mut ready = Ready::unknown();
    for step in steps {
        let answer = read_answer(stream, &mut buffer, &mut scanner).await?;
        ready.learn(step, &answer)?;
    }
    Ok((ready, buffer))
}

/// The steps, and the bytes of all of them. None depends on the answer to another: what an older server
/// lacks it answers with an error, which is judged.
fn sequence(hello: &Hello<'_>) -> (Vec<Step>, BytesMut) {
    let mut steps = Vec::with_capacity(8);
    let mut out = BytesMut::with_capacity(256);
    let mut say = |step: Step, words: &[&[u8]]| {
        steps.push(step);
        write_command(&mut out, words);
    };
    let Identity { user, password } = hello.identity;
    let password = password.reveal().as_bytes();
    if !user.is_empty() {
        say(Step::Auth, &[b"AUTH", user.as_bytes(), password]);
    } else if !password.is_empty() {
        say(Step::Auth, &[b"AUTH", password]);
    }
    if hello.readonly {
        // A replica outside of a cluster knows no such command, and serves reads anyway.
        say(Step::ReadOnly, &[b"READONLY"]);
    }
    say(Step::Hello, &[b"HELLO", if hello.resp3 { b"3" } else { b"2" }]);
    if let Some(id) = hello.kill {
        say(Step::Kill, &[b"CLIENT", b"KILL", b"ID", itoa::Buffer::new().format(id).as_bytes()]);
    }
    if hello.db != 0 {
        say(Step::Select, &[b"SELECT", itoa::Buffer::new().format(hello.db).as_bytes()]);
    }
    say(Step::Name, &[b"CLIENT", b"SETNAME", hello.name.as_bytes()]);
    say(Step::Id, &[b"CLIENT", b"ID"]);
    if hello.purpose == (Purpose::Lane { tracking: true }) {
        say(Step::Tracking, &[b"CLIENT", b"TRACKING", b"ON", b"OPTIN"]);
        say(Step::TrackingInfo, &[b"CLIENT", b"TRACKINGINFO"]);
    }
    (steps, out)
}

/// Appends a command as an array of bulk strings.
pub(super) fn write_command(out: &mut BytesMut, words: &[&[u8]]) {
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(b"*");
    out.extend_from_slice(number.format(words.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for word in words {
        out.extend_from_slice(b"$");
        out.extend_from_slice(number.format(word.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The next reply; pushes are passed over, since nothing is tracked yet.
async fn read_answer(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    scanner: &mut ReplyScanner,
) -> Result<Value, HandshakeError> {
    loop {
        if let Some(bounds) = scanner.scan(buffer)? {
            let bytes = buffer.split_to(bounds.len);
            if bounds.kind != b'>' {
                return Ok(frame::decode(&bytes)?);
            }
            continue;
        }
        if buffer.len() > MAX_BUFFERED {
            return Err(HandshakeError::Protocol("an answer to the handshake is too long"));
        }
        buffer.reserve(READ_SIZE);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by upstream").into());
        }
    }
}

/// Whether this is how a server without HELLO, or without the RESP version asked for, says so.
fn lacks_hello(line: &[u8]) -> bool {
    match split_code(line) {
        (b"ERR", text) => text.starts_with(b"unknown") || text.starts_with(b"unsupported"),
        (code, _) => matches!(code, b"NOPROTO" | b"NOPERM"),
    }
}

/// What the server says to every newcomer, whatever it was asked, is no answer to this step.
fn refusal(line: &[u8], answer: fn(Vec<u8>) -> HandshakeError) -> HandshakeError {
    let greeting = match split_code(line) {
        (b"ERR", text) => text.starts_with(b"max number of clients"),
        (code, _) => code == b"DENIED",
    };
    let kind = if greeting { HandshakeError::Refused } else { answer };
    kind([b"-", line].concat())
}

/// An error's code word and its text.
fn split_code(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (code, text) = line.split_at(end);
    (code, text.get(1..).unwrap_or_default())
}

/// TRACKINGINFO must show what we asked for and nothing that would keep pushes from us.
fn judge_flags(answer: &Value) -> Tracking {
    if let Value::Error(line) = answer {
        return Tracking::Unavailable(String::from_utf8_lossy(line).into_owned());
    }
    let flags = answer.field("flags").and_then(Value::as_array).unwrap_or_default();
    let has = |flag: &str| flags.iter().any(|candidate| candidate.as_bytes() == Some(flag.as_bytes()));
    let harmful = has("noloop") || has("bcast") || has("broken_redirect");
    if has("on") && has("optin") && !harmful {
        return Tracking::On;
    }
    Tracking::Unavailable("CLIENT TRACKINGINFO does not confirm it".into())
}

fn number(value: &Value) -> Option<u64> {
    value.as_integer().and_then(|number| u64::try_from(number).ok())
}

#[cfg(test)]
mod tests;
