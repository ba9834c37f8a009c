//! What goes wrong, when, and for how long; and how soon the service is back.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::client::{Client, Field, Log};
use super::history::{Event, MS, Path, Time, Via, Wipe, now};
use super::values::words;
use crate::differential::dice::Dice;
use crate::limits::descriptors;
use crate::support::link::{BOTH, Connection, Dir};
use crate::support::resp::{Stream, encode};
use crate::support::wait::pass;
use crate::support::{Conn, Link, Server, Sidecar};
use std::sync::Arc;

/// After this long the service must be back: far beyond backoff and time-outs, since the machine may stand still.
const BACK: Time = 30_000 * MS;

/// A server, two links, two sidecars; dropped in this order, since a sidecar that outlives its upstream complains.
pub struct Stage {
    /// A and B.
    pub sidecars: [Sidecar; 2],
    /// Theirs to the server.
    pub links: [Link; 2],
    /// The server.
    pub server: Server,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server is killed and started again, empty.
    ServerKilled,
    /// The server stands still.
    ServerStopped,
    /// The server is asleep in a command.
    ServerAsleep,
    /// CLIENT PAUSE, from outside or through A, of writes or of all.
    ClientPause,
    /// The server's table of tracked keys holds ten.
    SmallTrackingTable,
    /// The server is full, and evicts.
    Eviction,
    /// CLIENT KILL of all clients, or of some of the sidecars' connections.
    ClientKill,
    /// Each connection and direction of a sidecar has a delay of its own, up to 0.4 s, and soon another.
    Delays,
    /// No bytes pass between a sidecar and the server; none are lost.
    Silence,
    /// Lanes are not heard; what dedicated connections say passes.
    DeafLanes,
    /// Bytes are lost in one direction without a sign.
    Swallowed,
    /// Connections end in the middle of a reply.
    CutInReply,
    /// Connections are reset.
    Reset,
    /// A sidecar stands still beyond `max_staleness`.
    SidecarStopped,
    /// Clients that do not read large replies.
    HugeReplies,
    /// Clients that leave in the middle of a pipeline.
    VanishingClients,
    /// A sidecar has no file descriptors left.
    NoDescriptors,
}

/// All of them; those twice that let a cache grow old.
pub const FAULTS: [Fault; 19] = [
    Fault::DeafLanes,
    Fault::DeafLanes,
    Fault::Delays,
    Fault::ServerKilled,
    Fault::Delays,
    Fault::Silence,
    Fault::SidecarStopped,
    Fault::ServerStopped,
    Fault::ClientKill,
    Fault::Eviction,
    Fault::Swallowed,
    Fault::CutInReply,
    Fault::Reset,
    Fault::ClientPause,
    Fault::SmallTrackingTable,
    Fault::ServerAsleep,
    Fault::HugeReplies,
    Fault::VanishingClients,
    Fault::NoDescriptors,
];

/// Those that need nothing of the server, and so may come on top of any other.
const SECOND: [Fault; 7] = [
    Fault::DeafLanes,
    Fault::Delays,
    Fault::Silence,
    Fault::CutInReply,
    Fault::Reset,
    Fault::SidecarStopped,
    Fault::VanishingClients,
];

/// A time in which something was wrong.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What, by name.
    pub faults: Vec<String>,
    /// When it began.
    pub from: Time,
    /// When healing began.
    pub healed: Time,
    /// When both sidecars had answered everything asked of them.
    pub back: Time,
}

/// Makes things go wrong.
pub struct Storm<'a> {
    stage: &'a Stage,
    field: &'a Arc<Field>,
    dice: Dice,
    /// What it has noted.
    pub log: Log,
    /// What it has done.
    pub phases: Vec<Phase>,
    /// The longest that a fault lasts, in milliseconds, beside what a lease needs to lapse.
    pub longest: usize,
    /// When what may remove keys began.
    removing: Time,
    /// Clients that do not read.
    lazy: Vec<Conn>,
}

impl<'a> Storm<'a> {
    /// On this stage.
    pub fn new(stage: &'a Stage, field: &'a Arc<Field>, seed: u64) -> Storm<'a> {
        let (dice, log, phases, lazy) = (Dice::new(seed), Log::new(), Vec::new(), Vec::new());
        Storm { stage, field, dice, log, phases, longest: 2000, removing: 0, lazy }
    }

    /// This fault, at times with a second one; then healing, and a calm.
    pub fn strike(&mut self, fault: Fault) {
        let mut faults = vec![fault];
        if self.dice.percent(30) {
            let second = SECOND[self.dice.below(SECOND.len())];
            // What holds, or cuts in, a stream from which bytes were swallowed would pass on what comes behind the hole.
            let flows = matches!(second, Fault::DeafLanes | Fault::Silence | Fault::CutInReply);
            if second != fault && !(fault == Fault::Swallowed && flows) {
                faults.push(second);
            }
        }
        let from = now();
        // A has more clients.
        let which = usize::from(self.dice.percent(25));
        faults.iter().for_each(|fault| self.begin(*fault, which));
        // Long enough for leases to lapse.
        let lapses = [Fault::SidecarStopped, Fault::DeafLanes].iter().any(|fault| faults.contains(fault));
        let most = if lapses || self.dice.percent(40) { self.longest } else { 600 };
        let least = if lapses { self.field.max_staleness.as_millis() } else { 0 };
        let end = now() + (Time::try_from(least).unwrap() + Time::try_from(self.dice.below(most)).unwrap()) * MS;
        while now() < end {
            pass(Duration::from_nanos(end.saturating_sub(now()).min(200 * MS)));
            if faults.contains(&Fault::Delays) {
                self.begin(Fault::Delays, which);
            }
        }
        let healed = now();
        faults.iter().rev().for_each(|fault| self.heal(*fault));
        self.probe(healed, &faults);
        let faults = faults.iter().map(|fault| format!("{fault:?}")).collect();
        self.phases.push(Phase { faults, from, healed, back: now() });
        pass(Duration::from_millis(100 + u64::try_from(self.dice.below(500)).unwrap()));
    }

    fn those(&self, which: usize, lanes: bool) -> Vec<Arc<Connection>> {
        self.stage.links[which].those(|connection| !lanes || connection.said(Dir::ToServer, "TRACKING"))
    }

    fn dir(&mut self) -> Dir {
        BOTH[self.dice.below(2)]
    }

    fn begin(&mut self, fault: Fault, which: usize) {
        let Stage { sidecars, links, server } = self.stage;
        match fault {
            Fault::ServerKilled => {
                self.removing = now();
                server.kill();
            }
            Fault::ServerStopped => server.stop(),
            Fault::ServerAsleep => {
                let seconds = 0.2 + self.dice.below(13) as f64 / 10.0;
                server.conn().line(&format!("DEBUG SLEEP {seconds}"));
            }
            Fault::ClientPause => {
                let line =
                    format!("CLIENT PAUSE {} {}", 200 + self.dice.below(1200), self.dice.pick(&["ALL", "WRITE"]));
                let mut conn = if self.dice.percent(50) { server.conn() } else { sidecars[0].conn() };
                conn.try_send_raw(&encode(&words(&line)));
                let _ = conn.try_read_frame();
            }
            Fault::SmallTrackingTable => drop(server.conn().line("CONFIG SET tracking-table-max-keys 10")),
            Fault::Eviction => {
                self.removing = now();
                let used: u64 = server.info("memory")["used_memory"].parse().unwrap();
                let mut conn = server.conn();
                conn.line("CONFIG SET maxmemory-policy allkeys-random");
                conn.line(&format!("CONFIG SET maxmemory {}", used - used / 50));
            }
            Fault::ClientKill => self.kill_clients(),
            Fault::Delays => {
                // Short ones leave something in the cache, long ones let much overtake.
                let most = [15, 80, 400][self.dice.below(3)];
                for connection in self.those(which, false) {
                    for dir in BOTH {
                        connection.delay(dir, Duration::from_millis(u64::try_from(self.dice.below(most)).unwrap()));
                    }
                }
            }
            Fault::Silence => links[which].hold(),
            Fault::DeafLanes => self.those(which, true).iter().for_each(|lane| lane.hold(Dir::ToClient)),
            Fault::Swallowed => {
                let (dir, lanes) = (self.dir(), self.dice.percent(50));
                self.those(which, lanes).iter().for_each(|connection| connection.swallow(dir));
            }
            Fault::CutInReply => {
                let dir = self.dir();
                self.those(which, false).iter().for_each(|connection| connection.cut_in_next(dir));
            }
            Fault::Reset => links[which].reset(),
            Fault::SidecarStopped => sidecars[which].stop(),
            Fault::HugeReplies => self.be_lazy(),
            Fault::VanishingClients => self.vanish(),
            Fault::NoDescriptors => {
                let limit = u64::try_from(descriptors(&sidecars[which]) + 1).unwrap();
                limit_descriptors(&sidecars[which], limit);
                self.lazy = (0..20).filter_map(|_| Conn::try_open(sidecars[which].addr()).ok()).collect();
                // What has connections must find new ones.
                links[which].reset();
            }
        }
    }

    fn heal(&mut self, fault: Fault) {
        let Stage { sidecars, links, server } = self.stage;
        match fault {
            Fault::ServerKilled => {
                server.restart();
                quiet_expiry(server);
                self.removed(true);
            }
            Fault::ServerStopped => server.cont(),
            Fault::SmallTrackingTable => drop(server.conn().line("CONFIG SET tracking-table-max-keys 1000000")),
            Fault::Eviction => {
                server.conn().line("CONFIG SET maxmemory 0");
                self.removed(false);
            }
            Fault::Delays => {
                let all = links.iter().flat_map(Link::connections);
                all.for_each(|connection| BOTH.into_iter().for_each(|dir| connection.delay(dir, Duration::ZERO)));
            }
            Fault::Silence | Fault::DeafLanes => links.iter().for_each(Link::resume),
            // A stream with a hole in it cannot go on.
            Fault::Swallowed => links.iter().for_each(Link::cut),
            Fault::SidecarStopped => sidecars.iter().for_each(Sidecar::cont),
            Fault::NoDescriptors => {
                self.lazy.clear();
                sidecars.iter().for_each(|sidecar| limit_descriptors(sidecar, own_limit()));
            }
            Fault::HugeReplies => self.lazy.clear(),
            Fault::ServerAsleep | Fault::ClientPause | Fault::ClientKill => {}
            Fault::CutInReply | Fault::Reset | Fault::VanishingClients => {}
        }
    }

    fn removed(&mut self, whole: bool) {
        let (sent, done) = (self.removing, Some(now()));
        self.log.push(Event::Wipe(Wipe { db: None, path: Path::Direct, sent, done, whole }));
    }

    fn kill_clients(&mut self) {
        let mut conn = self.stage.server.conn();
        if self.dice.percent(40) {
            conn.line("CLIENT KILL TYPE normal SKIPME yes");
            return;
        }
        let list = conn.line("CLIENT LIST").text();
        for line in list.lines().filter(|line| line.contains("name=sidecache")) {
            let id = line.split(' ').next().and_then(|part| part.strip_prefix("id="));
            if let Some(id) = id.filter(|_| self.dice.percent(50)) {
                conn.line(&format!("CLIENT KILL ID {id}"));
            }
        }
    }

    /// Clients of A that ask for much and read nothing.
    fn be_lazy(&mut self) {
        let mut conn = self.stage.server.conn();
        conn.line("SELECT 3");
        conn.line(&format!("SETRANGE huge {} x", 4 << 20));
        for _ in 0..3 {
            let Ok(mut conn) = Conn::try_open(self.stage.sidecars[0].addr()) else { continue };
            let lines = ["SELECT 3", "GET huge", "GET huge", "STRLEN huge"];
            conn.try_send_raw(&lines.iter().flat_map(|line| encode(&words(line))).collect::<Vec<u8>>());
            self.lazy.push(conn);
        }
    }

    /// Clients that leave behind reads of what others read, half a command included.
    fn vanish(&mut self) {
        for _ in 0..20 {
            let path = self.dice.below(2);
            let Ok(Stream::Tcp(stream)) = Stream::connect(&self.stage.sidecars[path].addr().to_string()) else {
                continue;
            };
            let mut conn = Conn::from_stream(Stream::Tcp(stream));
            let mut bytes = Vec::new();
            for slot in self.field.slots.iter().filter(|slot| slot.db == 0) {
                for key in slot.current() {
                    bytes.extend(encode(&words(&format!("GET {}", key.name))));
                    bytes.extend(encode(&words(&format!("TYPE {}", key.name))));
                }
            }
            bytes.extend(encode(&["INCR", "vanished"]));
            bytes.truncate(bytes.len() - self.dice.below(60));
            conn.try_send_raw(&bytes);
        }
    }

    /// Asks both sidecars until each has answered everything asked of it.
    fn probe(&mut self, healed: Time, faults: &[Fault]) {
        for path in [Path::A, Path::B] {
            let mut client = Client::new(self.field, Via { path, db: 3, app: false }, false);
            let lines = ["SET probe 1", "GET probe", "EVAL return(1) 0", "MULTI", "GET probe", "EXEC", "HLEN none"];
            loop {
                let mut log = Log::new();
                let answers = client.tagged(&mut log, &lines.map(words));
                let failed = log.iter().any(|event| matches!(event, Event::Failed { .. }));
                self.log.extend(log);
                if answers.is_some() && !failed {
                    break;
                }
                if now() - healed > BACK {
                    let text = format!("{path:?} not back {} s after {faults:?}", BACK / MS / 1000);
                    self.log.push(Event::Wrong("P8", text));
                    break;
                }
                pass(Duration::from_millis(1));
            }
        }
    }
}

/// Keys that have expired stay until somebody asks for them.
pub fn quiet_expiry(server: &Server) {
    server.outside("DEBUG SET-ACTIVE-EXPIRE 0");
}

fn own_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

fn limit_descriptors(sidecar: &Sidecar, limit: u64) {
    let pid = Pid::from_raw(i32::try_from(sidecar.pid()).unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap();
}
