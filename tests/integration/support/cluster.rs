//! A real cluster: nodes on free ports, whose slots, failovers and members a test moves about.
//!
//! Nodes are named by their place in the order in which they were started: first the masters, then their replicas.
//! Whoever is asked for the state of things is a node that runs: not killed, not stopped.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::port::Port;
use super::redis::{Kind, Server, process_state};
use super::resp::V;
use super::wait::{PATIENCE, eventually_some, holds_within, in_the_end};

/// How many slots a cluster has.
pub const SLOTS: u16 = 16384;
/// After so long, nodes that do not know each other yet are introduced again.
const AGAIN: Duration = Duration::from_secs(3);
/// While the cluster is built and nothing may fail over: so short that a node soon takes writes.
const NODE_TIMEOUT_AT_START: &str = "1000";
/// After that: longer than any machine stands still, so that nothing fails over by itself.
pub const NODE_TIMEOUT: u32 = 20_000;
/// Where a killed master is to be replaced within some three seconds; see [`Cluster::set_node_timeout`].
pub const SHORT_NODE_TIMEOUT: u32 = 2000;

/// The argument after which replicas take over on request only.
const NO_FAILOVER: &str = "--cluster-replica-no-failover";

/// A running cluster.
pub struct Cluster {
    /// Which server it is made of.
    pub kind: Kind,
    /// Arguments of every node.
    args: Vec<String>,
    nodes: Vec<Node>,
    /// In milliseconds.
    node_timeout: Cell<u32>,
}

struct Node {
    server: Server,
    bus: Port,
    id: String,
}

/// A line of CLUSTER NODES.
struct Line {
    id: String,
    flags: Vec<String>,
    link: String,
    /// Ranges as they stand there, moves under way left out.
    slots: Vec<String>,
}

/// A slot's move from one master to another, by hand; see [`Cluster::begin_move`].
pub struct SlotMove<'a> {
    cluster: &'a Cluster,
    /// The slot.
    pub slot: u16,
    /// Where it is.
    pub from: usize,
    /// Where it goes.
    pub to: usize,
}

// === impl Cluster ===

impl Cluster {
    /// A cluster of so many masters, each with so many replicas: the slots shared evenly, every node content.
    #[track_caller]
    pub fn start(kind: Kind, masters: usize, replicas_each: usize) -> Cluster {
        Cluster::with(kind, masters, replicas_each, &[])
    }

    /// The same with further arguments for every node: `&["--cluster-require-full-coverage", "no"]`.
    #[track_caller]
    pub fn with(kind: Kind, masters: usize, replicas_each: usize, args: &[&str]) -> Cluster {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let nodes = (0..masters * (1 + replicas_each)).map(|_| Node::start(kind, &args)).collect();
        let cluster = Cluster { kind, args, nodes, node_timeout: Cell::new(NODE_TIMEOUT) };
        for at in 0..cluster.nodes.len() {
            cluster.call(at, &format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1));
        }
        for at in 0..masters {
            let bound = |at: usize| at * usize::from(SLOTS) / masters;
            cluster.call(at, &format!("CLUSTER ADDSLOTSRANGE {} {}", bound(at), bound(at + 1) - 1));
        }
        cluster.meet();
        for at in masters..cluster.nodes.len() {
            cluster.replicate(at, (at - masters) % masters);
        }
        cluster.settle();
        cluster
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node's process: to be killed, stopped, started anew (empty; it remembers the cluster; [`Cluster::settle`] then).
    pub fn node(&self, at: usize) -> &Server {
        &self.nodes[at].server
    }

    /// The cluster's name for a node.
    pub fn id(&self, at: usize) -> &str {
        &self.nodes[at].id
    }

    /// The node that listens on this port.
    pub fn at_port(&self, port: u16) -> Option<usize> {
        self.nodes.iter().position(|node| node.server.port() == port)
    }

    /// `host:port,host:port…` of all nodes, as the URL has it.
    pub fn seeds(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.server.addr().to_string()).collect();
        addresses.join(",")
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&at| self.nodes[at].runs()).collect()
    }

    /// The slot of a key, as a node computes it.
    #[track_caller]
    pub fn slot(&self, key: &str) -> u16 {
        let slot = self.node(self.one()).conn().ask(&["CLUSTER", "KEYSLOT", key]).int();
        u16::try_from(slot).unwrap()
    }

    /// The owner of a slot as a running node sees it; `None`: it sees none.
    #[track_caller]
    pub fn owner_seen_by(&self, asked: usize, slot: u16) -> Option<usize> {
        let holds = |range: &String| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&slot)
        };
        let lines = self.lines(asked);
        let owner = lines.iter().find(|line| line.slots.iter().any(holds))?;
        self.nodes.iter().position(|node| node.id == owner.id)
    }

    /// The owner of a slot, as the first node that runs sees it.
    #[track_caller]
    pub fn owner(&self, slot: u16) -> usize {
        let asked = self.one();
        self.owner_seen_by(asked, slot).unwrap_or_else(|| panic!("node {asked} knows no owner of slot {slot}"))
    }

    /// The owner of a key.
    #[track_caller]
    pub fn owner_of(&self, key: &str) -> usize {
        self.owner(self.slot(key))
    }

    /// A key beginning with `prefix` that belongs to this master.
    #[track_caller]
    pub fn key_on(&self, at: usize, prefix: &str) -> String {
        let key = (0..1000).map(|n| format!("{prefix}{n}")).find(|key| self.owner_of(key) == at);
        key.unwrap_or_else(|| panic!("node {at} owns no slots"))
    }

    /// The running replicas of a master, as they say themselves.
    #[track_caller]
    pub fn replicas_of(&self, master: usize) -> Vec<usize> {
        let port = self.node(master).port().to_string();
        let follows = |&at: &usize| self.node(at).info("replication").get("master_port") == Some(&port);
        self.running().into_iter().filter(follows).collect()
    }

    /// Waits until all running nodes agree who owns what, say that all is well, and no replica of them lags. To be called
    /// when a node is back, too: it is then told what was changed meanwhile.
    #[track_caller]
    pub fn settle(&self) {
        self.await_agreement();
        self.configure();
    }

    #[track_caller]
    fn await_agreement(&self) {
        in_the_end("the cluster is settled", || {
            let running = self.running();
            let views: Vec<_> = running.iter().map(|&at| self.view(at)).collect();
            views.windows(2).all(|pair| pair[0] == pair[1])
                && running.iter().all(|&at| self.field(at, "cluster_state") == "ok")
                && running.iter().all(|&at| self.replicates(at))
        });
    }

    /// After how many milliseconds of silence a node counts as failed; at first longer than any machine stands still. While the
    /// machine stands still all are silent: what must not be replaced then has a long one.
    #[track_caller]
    pub fn set_node_timeout(&self, milliseconds: u32) {
        self.node_timeout.set(milliseconds);
        self.configure();
    }

    /// Tells the running nodes what is in force once the cluster is built.
    #[track_caller]
    fn configure(&self) {
        let fails_over = !self.args.iter().any(|arg| arg == NO_FAILOVER);
        for at in self.running() {
            self.call(at, &format!("CONFIG SET cluster-node-timeout {}", self.node_timeout.get()));
            if fails_over {
                self.call(at, "CONFIG SET cluster-replica-no-failover no");
            }
        }
    }

    /// Begins to move a slot: keys that the old owner lacks are from now on asked for at the new one, by ASK.
    #[track_caller]
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) -> SlotMove<'_> {
        self.call(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.id(from)));
        self.call(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.id(to)));
        SlotMove { cluster: self, slot, from, to }
    }

    /// Moves a slot with all its keys, and waits until every node knows.
    #[track_caller]
    pub fn migrate_slot(&self, slot: u16, from: usize, to: usize) {
        let moving = self.begin_move(slot, from, to);
        while moving.keys(100) > 0 {}
        moving.finish();
    }

    /// Moves slots as Valkey 9 does it by itself, and waits until every node knows.
    #[track_caller]
    pub fn migrate_slots_at_once(&self, first: u16, last: u16, from: usize, to: usize) {
        self.call(from, &format!("CLUSTER MIGRATESLOTS SLOTSRANGE {first} {last} NODE {}", self.id(to)));
        self.await_owner(first, to);
        self.await_owner(last, to);
    }

    /// Gives a slot to another master without its keys: the old owner drops them. Waits until every node knows.
    #[track_caller]
    pub fn force_slot(&self, slot: u16, to: usize) {
        // Ending an import gives the new owner a higher epoch than the old one's, and so the others follow it.
        self.call(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.id(self.owner(slot))));
        self.call(to, &format!("CLUSTER SETSLOT {slot} NODE {}", self.id(to)));
        self.await_owner(slot, to);
    }

    /// Makes a replica the master, by `CLUSTER FAILOVER` with `how` (empty, FORCE or TAKEOVER), and waits until it is one
    /// and all running nodes agree.
    ///
    /// A replica that has become a master, in whatever way, must not have to do so again, as a replica, within the next
    /// ten seconds: Redis 7.0 then counts the votes of the first time, and the others do not follow it.
    #[track_caller]
    pub fn fail_over(&self, replica: usize, how: &str) {
        in_the_end("the replica is a master", || {
            // It may give up, if the machine stands still, and then has to be told again.
            let _ = self.node(replica).conn().line(&format!("CLUSTER FAILOVER {how}"));
            holds_within(PATIENCE, || self.node(replica).info("replication")["role"] == "master")
        });
        self.settle();
    }

    /// Waits until a running node other than `old` owns the slot in the eyes of all running nodes, and gives it.
    #[track_caller]
    pub fn await_new_owner(&self, slot: u16, old: usize) -> usize {
        let mut new = None;
        in_the_end("the slot has a new owner", || {
            let running = self.running();
            new = self.owner_seen_by(self.one(), slot).filter(|new| *new != old && running.contains(new));
            new.is_some() && running.iter().all(|&at| self.owner_seen_by(at, slot) == new)
        });
        self.settle();
        new.unwrap()
    }

    /// Starts a node more, a master without slots, and gives its place.
    #[track_caller]
    pub fn add(&mut self) -> usize {
        self.nodes.push(Node::start(self.kind, &self.args));
        self.meet();
        self.settle();
        self.nodes.len() - 1
    }

    /// Makes a node without slots a replica.
    #[track_caller]
    pub fn replicate(&self, replica: usize, master: usize) {
        self.call(replica, &format!("CLUSTER REPLICATE {}", self.id(master)));
    }

    /// Makes all others forget a node without slots; it goes on running.
    #[track_caller]
    pub fn forget(&self, at: usize) {
        let others = || self.running().into_iter().filter(|&other| other != at);
        others().for_each(|other| self.call(other, &format!("CLUSTER FORGET {}", self.id(at))));
        in_the_end("it is forgotten", || {
            others().all(|other| self.lines(other).iter().all(|line| line.id != self.id(at)))
        });
    }

    /// Waits until every running node sees this owner.
    #[track_caller]
    pub fn await_owner(&self, slot: u16, owner: usize) {
        in_the_end("every node knows the slot's owner", || {
            self.running().into_iter().all(|at| self.owner_seen_by(at, slot) == Some(owner))
        });
    }

    /// Makes all running nodes acquainted. A node that stands still while it is being introduced is forgotten after a second,
    /// and has to be introduced again.
    #[track_caller]
    fn meet(&self) {
        let mut introduced = None::<Instant>;
        let knows = |line: &Line| line.link == "connected" && !line.flags.contains(&"handshake".into());
        in_the_end("the nodes know each other", || {
            if introduced.is_none_or(|at| at.elapsed() > AGAIN) {
                introduced = Some(Instant::now());
                self.introduce();
            }
            let running = self.running();
            running.iter().all(|&at| {
                let known = self.lines(at);
                running.iter().all(|&other| known.iter().any(|line| line.id == self.id(other) && knows(line)))
            })
        });
    }

    /// Introduces to each running node those that it does not know.
    #[track_caller]
    fn introduce(&self) {
        let running = self.running();
        for (&at, &other) in running.iter().flat_map(|at| running.iter().map(move |other| (at, other))) {
            let Node { server, bus, .. } = &self.nodes[other];
            if at != other && self.lines(at).iter().all(|line| line.id != self.id(other)) {
                self.call(at, &format!("CLUSTER MEET 127.0.0.1 {} {}", server.port(), bus.number));
            }
        }
    }

    /// Sends a command that must be answered with OK.
    #[track_caller]
    fn call(&self, at: usize, line: &str) {
        let mut reply = V::Nil;
        // Valkey has its replicas confirm a slot's new owner, within two seconds; it may be told again.
        in_the_end("enough replicas confirm", || {
            reply = self.node(at).conn().line(line);
            !matches!(&reply, V::Error(text) if text.starts_with("NOREPLICAS"))
        });
        assert_eq!(reply, V::Simple("OK".into()), "node {at}: {line}");
    }

    /// The first node that runs. (None does for a moment, if the whole test was stopped and goes on.)
    #[track_caller]
    fn one(&self) -> usize {
        eventually_some("a node runs", || self.running().first().copied())
    }

    /// A field of CLUSTER INFO.
    #[track_caller]
    fn field(&self, at: usize, name: &str) -> String {
        let text = self.node(at).conn().line("CLUSTER INFO").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in CLUSTER INFO")).to_owned()
    }

    /// Which master has which slots, as a node sees it.
    #[track_caller]
    fn view(&self, at: usize) -> BTreeMap<String, Vec<String>> {
        let owners = self.lines(at).into_iter().filter(|line| !line.slots.is_empty());
        owners.map(|line| (line.id, line.slots)).collect()
    }

    #[track_caller]
    fn lines(&self, at: usize) -> Vec<Line> {
        let text = self.node(at).conn().line("CLUSTER NODES").text();
        text.lines().map(Line::parse).collect()
    }

    /// Whether a node is a master, or a replica that its master has brought up to date.
    #[track_caller]
    fn replicates(&self, at: usize) -> bool {
        let info = self.node(at).info("replication");
        if info["role"] == "master" {
            return true;
        }
        let Some(master) = self.at_port(info["master_port"].parse().unwrap()).filter(|&at| self.nodes[at].runs())
        else {
            return false;
        };
        let us = format!("port={},state=online", self.node(at).port());
        info["master_link_status"] == "up"
            && self.node(master).info("replication").values().any(|replica| replica.contains(&us))
    }
}

// === impl Node ===

impl Node {
    #[track_caller]
    fn start(kind: Kind, args: &[String]) -> Node {
        let bus = Port::free();
        let number = bus.number.to_string();
        let own = [
            ["--cluster-enabled", "yes"],
            ["--cluster-port", &number],
            ["--cluster-node-timeout", NODE_TIMEOUT_AT_START],
            [NO_FAILOVER, "yes"],
            // A replica that was cut off, or stood still with the machine, may stand for election all the same.
            ["--cluster-replica-validity-factor", "0"],
            // Replicas stay with their masters.
            ["--cluster-allow-replica-migration", "no"],
            ["--repl-diskless-sync-delay", "0"],
        ];
        let all: Vec<&str> = own.iter().flatten().copied().chain(args.iter().map(String::as_str)).collect();
        let server = Server::with(kind, &all);
        let id = server.conn().line("CLUSTER MYID").text();
        Node { server, bus, id }
    }

    fn runs(&self) -> bool {
        process_state(self.server.pid()).is_some_and(|state| !matches!(state, 'T' | 'Z' | 'X'))
    }
}

// === impl Line ===

impl Line {
    fn parse(text: &str) -> Line {
        let words: Vec<&str> = text.split_whitespace().collect();
        let flags = words[2].split(',').map(str::to_owned).collect();
        let slots = words[8..].iter().filter(|range| !range.starts_with('[')).map(ToString::to_string).collect();
        Line { id: words[0].to_owned(), flags, link: words[7].to_owned(), slots }
    }
}

// === impl SlotMove ===

impl SlotMove<'_> {
    /// Moves at most so many keys; says how many it were. Those that have expired are only removed.
    #[track_caller]
    pub fn keys(&self, most: usize) -> usize {
        let mut conn = self.cluster.node(self.from).conn();
        let keys = conn.line(&format!("CLUSTER GETKEYSINSLOT {} {most}", self.slot));
        let keys: Vec<String> = keys.items().iter().map(V::text).collect();
        if keys.is_empty() {
            return 0;
        }
        let port = self.cluster.node(self.to).port().to_string();
        let mut command: Vec<&str> = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "60000", "KEYS"];
        command.extend(keys.iter().map(String::as_str));
        // What has expired stays in the slot until somebody asks for it.
        keys.iter().for_each(|key| drop(conn.ask(&["EXISTS", key])));
        let reply = conn.ask(&command);
        assert!(matches!(reply.text().as_str(), "OK" | "NOKEY"), "{reply:?}");
        keys.len()
    }

    /// Gives the slot to its new owner, and waits until every node knows. Keys that were not moved must not be left.
    #[track_caller]
    pub fn finish(self) {
        let (cluster, slot) = (self.cluster, self.slot);
        for at in [self.to, self.from] {
            cluster.call(at, &format!("CLUSTER SETSLOT {slot} NODE {}", cluster.id(self.to)));
        }
        cluster.await_owner(slot, self.to);
    }

    /// Leaves the slot where it was. Keys that were moved already stay at the other node.
    #[track_caller]
    pub fn give_up(self) {
        for at in [self.from, self.to] {
            self.cluster.call(at, &format!("CLUSTER SETSLOT {} STABLE", self.slot));
        }
    }
}
