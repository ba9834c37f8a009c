//! The commands answered here: what they change belongs to the client's connection, which upstream never sees.
//!
//! *Invariant:* the texts are Redis's own, but for what only exists here. AUTH and SELECT are upstream's to decide:
//! their answers come from it.

use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;

use super::connection::{Connection, Over};
use super::one_node::OneNode;
use crate::command::Row;
use crate::dispatch::accounts::Place;
use crate::dispatch::lane::{After, TrackedLane, Trouble};
use crate::dispatch::session::{Voice, Words};
use crate::error::Error;
use crate::protocol::{Args, Value, encode};
use crate::switch::{Rule, on};
use crate::telemetry::labels::Class;
use crate::upstream::dedicated::PoolKind;
use crate::upstream::identity::Identity;

/// How long CLIENT KILL waits for those who are to leave.
const DEPARTURE: Duration = Duration::from_secs(1);

/// HELLO's options.
#[derive(Default)]
struct Hello {
    resp3: Option<bool>,
    auth: Option<Identity>,
    name: Option<String>,
}

// === impl Connection: at once ===

impl Connection {
    /// Answers a command that waits for nothing, in its turn; false: it must wait for the client's earlier replies.
    pub(super) fn local(&mut self, row: &'static Row, args: &Args<'_>) -> bool {
        let mut reply = BytesMut::new();
        match row.name {
            "ping" => return self.ping(row, args),
            _ if self.upstream_lacks(row) => {
                self.worker.forward(&self.session, row, args, Class::Local, After::Nothing);
                return true;
            }
            _ if row.is_of_the_cluster() && self.worker.is_cluster() && row.arity_ok(args.len()) => {
                let here = OneNode::at(&self.session.card.local_address);
                here.answer(row, args, self.session.resp3(), &mut reply);
            }
            "echo" if args.len() == 2 => encode::bulk(&mut reply, args.get(1).unwrap_or_default()),
            name if name.starts_with("client|") && row.arity_ok(args.len()) => {
                if !self.client_command(name, args, &mut reply) {
                    return false;
                }
            }
            "select" | "auth" | "hello" | "reset" | "quit" | "readonly" | "readwrite" => return false,
            name => encode::error(&mut reply, &Error::Arity(name.into()).to_string()),
        }
        self.worker.unpark(&self.session);
        self.worker.count_local(Class::Local);
        let mute = self.session.mute() || row.name == "client|reply" && self.session.voice.get() != Voice::On;
        self.session.replies.borrow_mut().answer(&reply, mute);
        true
    }

    /// Whether upstream, as far as its version is known, has no such command: then it says so in its own words.
    pub(super) fn upstream_lacks(&self, row: &Row) -> bool {
        let since = match row.name {
            "client|setinfo" | "client|no-touch" => [("redis", Some((7, 2))), ("valkey", None)],
            "cluster|myshardid" => [("redis", Some((7, 2))), ("valkey", None)],
            "client|capa" => [("redis", Some((u32::MAX, 0))), ("valkey", Some((8, 0)))],
            _ => return false,
        };
        let lane = self.session.lane();
        let ready = lane.ready.borrow();
        let Some(server) = ready.as_ref().map(|ready| &ready.server) else { return false };
        let since = since.iter().find(|(name, _)| *name == server.name);
        since.and_then(|(_, since)| *since).is_some_and(|since| (server.major, server.minor) < since)
    }

    /// A PONG means that upstream was alive a moment ago: answered here only while the lease says so.
    fn ping(&mut self, row: &'static Row, args: &Args<'_>) -> bool {
        if self.session.careful.get() && args.len() <= 2 {
            // In RESP2's subscribe mode.
            let mut reply = BytesMut::from(&b"*2\r\n$4\r\npong\r\n"[..]);
            encode::bulk(&mut reply, args.get(1).unwrap_or_default());
            self.worker.count_local(Class::Local);
            self.session.replies.borrow_mut().answer(&reply, self.session.mute());
            return true;
        }
        let lane = self.worker.route(&self.session, None);
        let alive = lane.standing.lease.holds(self.worker.now(), self.worker.coherence.max_staleness);
        if on(Rule::PongNeedsTheLease) && !alive || args.len() > 2 {
            self.worker.forward(&self.session, row, args, Class::Local, After::Nothing);
            return true;
        }
        if !self.worker.is_cluster() {
            self.worker.heartbeat(&lane, self.worker.now(), None);
        }
        let mut reply = BytesMut::new();
        match args.get(1) {
            None => encode::simple(&mut reply, "PONG"),
            Some(text) => encode::bulk(&mut reply, text),
        }
        self.worker.unpark(&self.session);
        self.worker.count_local(Class::Local);
        self.session.replies.borrow_mut().answer(&reply, self.session.mute());
        true
    }

    /// CLIENT's subcommands; false: not answered at once.
    fn client_command(&mut self, name: &str, args: &Args<'_>, reply: &mut BytesMut) -> bool {
        match name {
            "client|id" => encode::integer(reply, self.session.card.id as i64),
            "client|getname" => {
                let name = self.words(|words| words.name.clone());
                if name.is_empty() { self.null(reply) } else { encode::bulk(reply, name.as_bytes()) }
            }
            "client|setname" => match client_name(args.get(2).unwrap_or_default()) {
                Ok(name) => {
                    self.words(|words| words.name = name);
                    encode::simple(reply, "OK");
                }
                Err(error) => encode::error(reply, &error.to_string()),
            },
            "client|setinfo" => self.set_info(args, reply),
            "client|reply" => self.set_voice(args, reply),
            "client|no-evict" | "client|no-touch" => match args.get(2) {
                Some(word) if word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"off") => {
                    encode::simple(reply, "OK");
                }
                _ => encode::error(reply, &Error::Syntax.to_string()),
            },
            "client|capa" => encode::simple(reply, "OK"),
            "client|info" | "client|list" => return self.client_registry(name, args, reply),
            _ => return false,
        }
        true
    }

    fn set_info(&self, args: &Args<'_>, reply: &mut BytesMut) {
        let value = match client_name(args.get(3).unwrap_or_default()) {
            Ok(value) => value,
            Err(_) => {
                let option = String::from_utf8_lossy(args.get(2).unwrap_or_default()).into_owned();
                return encode::error(reply, &Error::ClientInfo(option).to_string());
            }
        };
        let option = args.get(2).unwrap_or_default().to_ascii_lowercase();
        match &option[..] {
            b"lib-name" => self.words(|words| words.lib_name = value),
            b"lib-ver" => self.words(|words| words.lib_ver = value),
            _ => {
                let option = String::from_utf8_lossy(args.get(2).unwrap_or_default()).into_owned();
                return encode::error(reply, &Error::ClientOption(option).to_string());
            }
        }
        encode::simple(reply, "OK");
    }

    fn set_voice(&self, args: &Args<'_>, reply: &mut BytesMut) {
        let word = args.get(2).unwrap_or_default().to_ascii_lowercase();
        let voice = match &word[..] {
            b"on" => Voice::On,
            b"off" => Voice::Off,
            b"skip" if self.session.voice.get() == Voice::Off => Voice::Off,
            b"skip" => Voice::SkipNext,
            _ => return encode::error(reply, &Error::Syntax.to_string()),
        };
        self.session.voice.set(voice);
        if voice == Voice::On {
            encode::simple(reply, "OK");
        }
    }

    pub(super) fn null(&self, reply: &mut BytesMut) {
        reply.extend_from_slice(if self.session.resp3() { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub(super) fn words<T>(&self, f: impl FnOnce(&mut Words) -> T) -> T {
        f(&mut self.session.card.words.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Connection: once all earlier replies are in ===

impl Connection {
    /// Answers a command that changes the connection (rule 5).
    pub(super) async fn local_slow(&mut self, row: &'static Row, args: &Args<'_>) -> Result<(), Over> {
        self.worker.count_local(Class::Local);
        if !row.arity_ok(args.len()) {
            self.say(&Error::Arity(row.name.replace('|', " ")));
            return Ok(());
        }
        match row.name {
            "quit" => {
                self.session.replies.borrow_mut().answer(b"+OK\r\n", false);
                self.worker.flush_one(&self.session);
                return self.farewell().await;
            }
            "reset" => self.reset(),
            "select" => self.select(args).await,
            "auth" => self.auth(args).await,
            "hello" => self.hello(args).await,
            "client|kill" => self.kill(args).await,
            _ => self.forward_alone(args).await,
        }
        Ok(())
    }

    fn reset(&mut self) {
        let settings = &self.worker.settings;
        self.worker.unsubscribe_all(&self.session);
        self.worker.ride(&self.session, self.worker.main_lane());
        self.session.speak(false);
        self.session.voice.set(Voice::On);
        self.session.authenticated.set(!settings.client.require_auth);
        self.words(|words| *words = Words::default());
        self.session.replies.borrow_mut().answer(b"+RESET\r\n", false);
    }

    /// The lane to the same node, of another user or database. Its own is let go of here: a lane that nobody holds is
    /// one that nobody rides.
    pub(super) fn lane_beside(&self, of: impl FnOnce(&TrackedLane) -> (u32, u32)) -> Rc<TrackedLane> {
        let mine = self.session.lane();
        let (identity, db) = of(&mine);
        self.worker.lane(self.worker.home(), identity, db)
    }

    async fn select(&mut self, args: &Args<'_>) {
        // A number that servers write otherwise (007, +1) is none to them.
        let canonical = |text: &&str| text.parse::<u32>().is_ok_and(|db| db.to_string() == **text);
        let db = args.get(1).and_then(|db| std::str::from_utf8(db).ok()).filter(canonical);
        let Some(db) = db.and_then(|db| db.parse().ok()) else { return self.forward_alone(args).await };
        let lane = self.lane_beside(|mine| (mine.identity, db));
        match self.ready(&lane).await {
            Ok(()) => {
                self.worker.ride(&self.session, lane);
                self.session.replies.borrow_mut().answer(b"+OK\r\n", self.session.mute());
            }
            Err(reply) => {
                self.session.replies.borrow_mut().answer(&reply, self.session.mute());
                self.worker.forget(&lane);
            }
        }
    }

    /// What only upstream can answer, on a connection of its own.
    async fn forward_alone(&mut self, args: &Args<'_>) {
        // Whatever comes of it is the answer; the connection is not used again.
        let _ = Box::pin(self.dedicated(Class::Dedicated, args)).await;
    }

    async fn auth(&mut self, args: &Args<'_>) {
        let word = |i| args.get(i).map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
        let identity = match args.len() {
            2 => Identity::new("", word(1)),
            3 => Identity::new(word(1), word(2)),
            _ => return self.say(&Error::Syntax),
        };
        if let Some(reply) = self.authenticate(&identity).await {
            self.session.replies.borrow_mut().answer(&reply, self.session.mute());
        } else {
            self.session.replies.borrow_mut().answer(b"+OK\r\n", self.session.mute());
        }
    }

    /// Has upstream decide; the client rides that user's lane from then on. Returns the reply of a refusal.
    async fn authenticate(&mut self, identity: &Identity) -> Option<Vec<u8>> {
        let account = self.worker.account(identity);
        let lane = self.lane_beside(|mine| (account, mine.db));
        let fresh = !lane.queue.is_up();
        let mut refused = self.ready(&lane).await.err();
        if on(Rule::PasswordIsVerified) && refused.is_none() && !fresh {
            // The lane was there before: whether the password still holds only upstream can tell.
            refused = self.verify(account, identity).await.err();
        }
        if refused.is_some() {
            self.worker.forget(&lane);
            return refused;
        }
        let user = if identity.user.is_empty() { "default" } else { &identity.user };
        self.words(|words| words.user = user.into());
        self.worker.ride(&self.session, lane);
        self.session.authenticated.set(true);
        None
    }

    async fn verify(&mut self, account: u32, identity: &Identity) -> Result<(), Vec<u8>> {
        let (user, password) = (identity.user.as_str(), identity.password.reveal());
        let refusal = match user {
            "" => self.refusal(account, &["AUTH", password]).await?,
            user => self.refusal(account, &["AUTH", user, password]).await?,
        };
        refusal.map_or(Ok(()), Err)
    }

    /// Upstream's error, if it answers with one, to a command of our own as this user.
    async fn refusal(&mut self, account: u32, words: &[&str]) -> Result<Option<Vec<u8>>, Vec<u8>> {
        let account = self.worker.account_at(account).ok_or_else(|| Error::NoAuth.reply())?;
        let lost = |cause: String| Error::Lost { upstream: self.worker.upstream_name(), cause }.reply();
        let home = || self.worker.home();
        let place = Place { node: home(), now: Some(&home) };
        let checked_out = self.worker.check_out(&account, place, PoolKind::Control).await;
        let (_, mut connection) = checked_out.map_err(|error| self.worker.pool_error(PoolKind::Control, &error))?;
        let mut request = BytesMut::new();
        encode::request(&mut request, words);
        connection.send(&request, 1);
        let answer = async {
            connection.flush().await.map_err(|error| error.to_string())?;
            connection.read_reply().await.map_err(|error| error.to_string())
        };
        let limit = self.worker.settings.upstream.command_timeout;
        let piece = match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(lost)?,
            Err(_) => return Err(Error::Timeout { upstream: self.worker.upstream_name() }.reply()),
        };
        Ok(piece.error_line().map(|_| piece.bytes.to_vec()))
    }

    /// CLIENT KILL acts on others: whether this user may, only upstream knows. It has no client with the id 0.
    async fn kill(&mut self, args: &Args<'_>) {
        let account = self.session.lane().identity;
        let mut reply = BytesMut::new();
        match self.refusal(account, &["CLIENT", "KILL", "ID", "0"]).await {
            Ok(Some(refusal)) if refusal.starts_with(b"-NOPERM") => reply.extend_from_slice(&refusal),
            Err(failure) => reply.extend_from_slice(&failure),
            Ok(_) => {
                let Some(killed) = self.client_kill(args, &mut reply) else { return self.forward_alone(args).await };
                // As with Redis, who hears of it finds them gone; two who kill each other need not wait for that.
                let registry = Arc::clone(&self.registry);
                let gone = async {
                    for id in killed {
                        registry.departed(id).await;
                    }
                };
                let _ = tokio::time::timeout(DEPARTURE, gone).await;
            }
        }
        self.session.replies.borrow_mut().answer(&reply, self.session.mute());
    }

    async fn hello(&mut self, args: &Args<'_>) {
        let hello = match parse_hello(args) {
            Ok(hello) => hello,
            Err(error) => return self.say(&error),
        };
        if let Some(identity) = &hello.auth
            && let Some(refusal) = self.authenticate(identity).await
        {
            return self.session.replies.borrow_mut().answer(&refusal, self.session.mute());
        }
        // The node that it came by may have left.
        let lane = self.lane_beside(|mine| (mine.identity, mine.db));
        if !self.session.authenticated.get() {
            return self.say(&self.hello_no_auth(&lane));
        }
        if let Err(reply) = self.ready(&lane).await {
            let no_auth = reply.starts_with(b"-NOAUTH");
            let reply = if no_auth { self.hello_no_auth(&lane).reply() } else { reply };
            return self.session.replies.borrow_mut().answer(&reply, self.session.mute());
        }
        if hello.resp3 == Some(true) && lane.speaks_resp2() {
            return self.say(&Error::NoProto);
        }
        if let Some(name) = hello.name {
            self.words(|words| words.name = name);
        }
        if let Some(resp3) = hello.resp3 {
            self.session.speak(resp3);
        }
        let reply = self.hello_reply(&lane);
        self.session.replies.borrow_mut().answer(&reply, self.session.mute());
    }

    /// The RESP version that HELLO asks for, if it is another and nothing is wrong with the rest.
    pub(super) fn new_version(&self, row: &Row, args: &Args<'_>) -> Option<u8> {
        let resp3 = parse_hello(args).ok().filter(|_| row.name == "hello")?.resp3?;
        (resp3 != self.session.resp3()).then_some(if resp3 { 3 } else { 2 })
    }

    /// Redis named the RESP version in it from 7.2 on.
    fn hello_no_auth(&self, lane: &TrackedLane) -> Error {
        let ready = lane.ready.borrow();
        let server = ready.as_ref().map(|ready| &ready.server);
        let old = server.is_some_and(|server| server.name == "redis" && (server.major, server.minor) < (7, 2));
        Error::HelloNoAuth(if old { "" } else { "<proto> " })
    }

    fn hello_reply(&self, lane: &TrackedLane) -> BytesMut {
        let mut reply = BytesMut::new();
        let resp3 = self.session.resp3();
        reply.extend_from_slice(if resp3 { b"%7\r\n" } else { b"*14\r\n" });
        let ready = lane.ready.borrow();
        let server = ready.as_ref().map(|ready| ready.server.clone()).unwrap_or_default();
        let version = format!("{}.{}.{}", server.major, server.minor, server.patch);
        let (mode, role) = ready.as_ref().map_or(("", ""), |ready| (&ready.mode, &ready.role));
        let text = |reply: &mut BytesMut, key: &str, value: &str| {
            encode::bulk(reply, key.as_bytes());
            encode::bulk(reply, value.as_bytes());
        };
        text(&mut reply, "server", if server.name.is_empty() { "redis" } else { &server.name });
        text(&mut reply, "version", &version);
        encode::bulk(&mut reply, b"proto");
        encode::integer(&mut reply, if resp3 { 3 } else { 2 });
        encode::bulk(&mut reply, b"id");
        encode::integer(&mut reply, self.session.card.id as i64);
        text(&mut reply, "mode", if mode.is_empty() { "standalone" } else { mode });
        text(&mut reply, "role", if role.is_empty() { "master" } else { role });
        encode::bulk(&mut reply, b"modules");
        match ready.as_ref().map(|ready| &ready.modules) {
            Some(modules @ Value::Array(_)) => encode::value(&mut reply, modules, resp3),
            _ => encode::array_header(&mut reply, 0),
        }
        reply
    }

    /// Waits until a lane is connected; the reply to give if it cannot be.
    async fn ready(&mut self, lane: &Rc<TrackedLane>) -> Result<(), Vec<u8>> {
        if lane.queue.is_up() {
            return Ok(());
        }
        let patience = self.worker.settings.upstream.connect_timeout;
        let connected = async {
            loop {
                let changed = lane.changed.notified();
                if lane.queue.is_up() {
                    return Ok(());
                }
                lane.queue.want();
                changed.await;
                if let Some(Trouble::Refused(line)) = &*lane.trouble.borrow()
                    && !lane.queue.is_up()
                {
                    return Err(line.clone());
                }
            }
        };
        if let Ok(result) = tokio::time::timeout(patience, connected).await {
            return result;
        }
        let cause = match &*lane.trouble.borrow() {
            Some(Trouble::Unreachable(cause)) => cause.clone(),
            Some(Trouble::Refused(line)) => return Err(line.clone()),
            None => "connecting takes too long".into(),
        };
        let error = Error::Unreachable { upstream: self.worker.upstream_name(), cause };
        self.worker.cells.error(error.kind());
        Err(error.reply())
    }

    fn say(&self, error: &Error) {
        self.worker.cells.error(error.kind());
        self.session.replies.borrow_mut().answer(&error.reply(), self.session.mute());
    }
}

fn parse_hello(args: &Args<'_>) -> Result<Hello, Error> {
    let mut hello = Hello::default();
    let Some(version) = args.get(1) else { return Ok(hello) };
    let number = std::str::from_utf8(version).ok().and_then(|text| text.parse::<i64>().ok());
    let version = number.filter(|number| number.to_string().as_bytes() == version).ok_or(Error::ProtocolVersion)?;
    hello.resp3 = match version {
        2 => Some(false),
        3 => Some(true),
        _ => return Err(Error::NoProto),
    };
    let mut i = 2;
    while let Some(word) = args.get(i) {
        let more = args.len() - i - 1;
        let text = |i: usize| String::from_utf8_lossy(args.get(i).unwrap_or_default()).into_owned();
        if word.eq_ignore_ascii_case(b"auth") && more >= 2 {
            hello.auth = Some(Identity::new(text(i + 1), text(i + 2)));
            i += 3;
        } else if word.eq_ignore_ascii_case(b"setname") && more >= 1 {
            hello.name = Some(client_name(args.get(i + 1).unwrap_or_default())?);
            i += 2;
        } else {
            return Err(Error::HelloOption(text(i)));
        }
    }
    Ok(hello)
}

/// A name as Redis allows it: printable ASCII without spaces (networking.c, validateClientAttr).
fn client_name(name: &[u8]) -> Result<String, Error> {
    if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err(Error::ClientName);
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}
