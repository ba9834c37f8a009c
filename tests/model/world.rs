//! The state of a case, the steps that are possible in it, and the promises it is held to.
//!
//! Steps are atomic, as the product's are: a worker does what a command, an arrival or a message of another worker
//! asks for in one poll. What it does then stands in `worker`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use sidecache::cache::{Config, Flights, Mode, Slot};
use sidecache::coherence::{Coherence, Shared, Standing};
use sidecache::dispatch::replies::Replies;

use super::cases::{Case, Op};
use super::explore::Model;
use super::parts::{Client, Dedicated, Hold, Worker};
use super::promises::{Kind, Owed, Seen, judge_entry, version_in};
use super::rules::{Rule, Rules};
use super::upstream::{KEYS, MILLISECOND, Ticket, Upstream, Wire};

/// P4's bound: two steps of the clock.
pub const MAX_STALENESS: u64 = 2 * MILLISECOND;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A client's next command is sent.
    Send { client: usize },
    /// The server executes a lane's next command.
    Execute { lane: usize },
    /// The same, but CLIENT CACHING fails with -BUSY.
    ExecuteBusy { lane: usize },
    /// A worker meets the next reply or push of its lane.
    Arrive { lane: usize },
    /// The server executes a client's command on its dedicated connection.
    ExecuteDedicated { client: usize },
    /// Its reply arrives.
    News { client: usize },
    /// A worker takes the next message of another.
    Message { worker: usize },
    /// An outside write of a key.
    Outside { key: usize },
    /// An outside FLUSHALL.
    OutsideFlush,
    /// The clock goes on.
    Tick,
    /// A lane loses its connection.
    Lose { lane: usize },
    /// A write of the lost connection is executed after all.
    Ghost { lane: usize },
    /// The lane has a new connection.
    Up { lane: usize },
    /// A lane's fence has taken too long.
    FenceFails { lane: usize },
}

/// A case under way.
pub struct World {
    pub rules: Rules,
    pub now: u64,
    pub slots: [Slot; KEYS],
    pub workers: Vec<Worker>,
    pub clients: Vec<Client>,
    pub holds: Vec<Hold>,
    pub upstream: Upstream,
    /// News that all workers have to follow.
    pub news: u64,
    /// What may still happen.
    pub left: Case,
}

// === impl World ===

impl World {
    /// The beginning of a case. `shared` may have been used before: nothing rests on where its counters stand.
    pub fn new(case: &Case, rules: Rules, shared: &Arc<Shared>) -> World {
        let age = std::time::Duration::from_nanos(MAX_STALENESS);
        let config = Config {
            max_staleness: age,
            ttl_mode_age: if rules.hold(Rule::Age) { age } else { 100 * age },
            ..Config::default()
        };
        let now = 1_000_000 * MILLISECOND;
        let worker = |number: usize| Worker {
            coherence: Coherence::new(Arc::clone(shared), &config, 7),
            standing: Standing::new(number as u32),
            flights: Flights::new(),
            store: Default::default(),
            wire: Wire { up: true, ..Wire::default() },
            next_order: 1,
            heartbeat: 0,
            busy: false,
            fencing: false,
            next_fence: Vec::new(),
            inbox: VecDeque::new(),
            seen: Seen::default(),
        };
        let client = |(worker, ops): &(usize, Vec<Op>)| Client {
            worker: *worker,
            ops: ops.iter().copied().collect(),
            replies: Replies::default(),
            newest: 0,
            owed: VecDeque::new(),
            dedicated: Dedicated::None,
            seen: Seen::default(),
            parked: VecDeque::new(),
            past: 0,
        };
        let mut world = World {
            rules,
            now,
            slots: [0, 1].map(|key| shared.generations.slot(&[key])),
            workers: (0..case.workers).map(worker).collect(),
            clients: case.clients.iter().map(client).collect(),
            holds: Vec::new(),
            upstream: Upstream { first_until: case.ttl.map(|ttl| now / MILLISECOND + ttl), ..Upstream::default() },
            news: 0,
            left: case.clone(),
        };
        world.workers.iter().for_each(|worker| worker.standing.begin(world.mode()));
        for &(worker, key) in &case.warm {
            world.warm(worker, key);
        }
        world
    }

    /// How entries are kept right, as the handshake has said.
    pub fn mode(&self) -> Mode {
        if self.left.by_age { Mode::Ttl } else { Mode::Tracking }
    }

    /// An entry from the beginning on, by the way that every entry comes.
    fn warm(&mut self, worker: usize, key: usize) {
        let ticket = Ticket { client: usize::MAX, number: 0, attempt: 0 };
        self.board(worker, ticket, key, true);
        for _ in 0..2 {
            self.execute(worker, false);
            self.arrive(worker);
        }
    }

    /// Has the server do something.
    pub fn serve<T>(&mut self, act: impl FnOnce(&mut Upstream, &mut [&mut Wire]) -> T) -> T {
        let mut wires: Vec<&mut Wire> = self.workers.iter_mut().map(|worker| &mut worker.wire).collect();
        act(&mut self.upstream, &mut wires)
    }

    fn execute(&mut self, lane: usize, busy: bool) {
        let now = self.now;
        self.serve(|upstream, wires| upstream.execute(wires, lane, now, busy));
    }

    /// What a command that is sent now by a client must not be older than: beside its own past, its worker's.
    pub fn owe(&mut self, client: usize, key: usize, kind: Kind) {
        let seen = self.workers[self.clients[client].worker].seen;
        let seen = Seen { place: seen.place.max(self.news), ..seen };
        let at = self.now;
        self.clients[client].owed.push_back(Owed { key, kind, at, seen });
    }

    /// Reads what a client's socket would be given, and judges it.
    fn hear(&mut self, client: usize) -> Result<(), String> {
        let text: BytesMut = self.clients[client].replies.out.tail().split();
        for line in text.as_ref().split(|&byte: &u8| byte == b'\n').filter(|line| !line.is_empty()) {
            let line = String::from_utf8_lossy(line);
            let (kind, number) = line.trim_end().split_at(1);
            let number: u64 = number.parse().map_err(|_| format!("not a reply: {line}"))?;
            let of = &mut self.clients[client];
            let owed = of.owed.pop_front().ok_or("P7: a reply that nobody is owed")?;
            let failed = kind == "-";
            let seen = match owed.kind {
                Kind::Read | Kind::News if failed => continue,
                Kind::Read | Kind::News => {
                    owed.read(&self.upstream, number, of.seen, MAX_STALENESS, !self.left.by_age)?
                }
                // It was lost before it was executed.
                Kind::Write { .. } | Kind::Flush if number == 0 => continue,
                Kind::Write { .. } | Kind::Flush => owed.write(number, of.seen, failed)?,
            };
            of.seen = seen;
            let at = of.worker;
            self.workers[at].seen = self.workers[at].seen.and(seen);
            for worker in &mut self.workers {
                worker.seen = worker.seen.and(Seen { place: 0, ..seen });
            }
            if owed.kind == Kind::News || owed.kind == (Kind::Write { news: true }) && !failed {
                self.news = self.news.max(seen.place);
            }
        }
        Ok(())
    }

    /// Every entry that would be served now is one that may be.
    fn judge_entries(&self) -> Result<(), String> {
        for worker in &self.workers {
            for (key, entry) in worker.store.iter().enumerate() {
                if let Some(entry) = entry.as_ref().filter(|entry| self.may_hit(worker, entry)) {
                    judge_entry(&self.upstream, key, version_in(entry), self.now, MAX_STALENESS)?;
                }
            }
        }
        Ok(())
    }
}

impl Model for World {
    type Choice = Choice;

    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for (client, of) in self.clients.iter().enumerate() {
            match (of.dedicated, of.ops.front()) {
                (Dedicated::None, Some(op)) if !matches!(op, Op::Learn(_)) || of.replies.is_settled() => {
                    choices.push(Choice::Send { client });
                }
                (Dedicated::Sent { .. }, _) => choices.push(Choice::ExecuteDedicated { client }),
                (Dedicated::Executed { .. }, _) => choices.push(Choice::News { client }),
                _ => {}
            }
        }
        for (lane, worker) in self.workers.iter().enumerate() {
            let may = [
                (!worker.inbox.is_empty(), Choice::Message { worker: lane }),
                (worker.wire.up && !worker.wire.out.is_empty(), Choice::Execute { lane }),
                (self.left.busy > 0 && worker.is_next_register(), Choice::ExecuteBusy { lane }),
                (!worker.wire.back.is_empty(), Choice::Arrive { lane }),
                (!worker.wire.up, Choice::Up { lane }),
                (!worker.wire.ghosts.is_empty(), Choice::Ghost { lane }),
                (self.left.losses > 0 && worker.wire.up, Choice::Lose { lane }),
                (self.left.failed_fences > 0 && worker.fencing, Choice::FenceFails { lane }),
            ];
            choices.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, choice)| choice));
        }
        choices.extend((0..KEYS).filter(|&key| self.left.outside[key] > 0).map(|key| Choice::Outside { key }));
        choices.extend((self.left.flushes > 0).then_some(Choice::OutsideFlush));
        choices.extend((self.left.ticks > 0).then_some(Choice::Tick));
        choices
    }

    fn step(&mut self, choice: Choice) -> Result<(), String> {
        let (now, mode) = (self.now, self.mode());
        match choice {
            Choice::Send { client } => self.send(client),
            Choice::Execute { lane } => self.execute(lane, false),
            Choice::ExecuteBusy { lane } => {
                self.left.busy -= 1;
                self.execute(lane, true);
            }
            Choice::Arrive { lane } => self.arrive(lane),
            Choice::ExecuteDedicated { client } => {
                if let Dedicated::Sent { key } = self.clients[client].dedicated {
                    let version = self.serve(|upstream, wires| upstream.look(wires, key, now));
                    self.clients[client].dedicated = Dedicated::Executed { version };
                }
            }
            Choice::News { client } => self.news_arrives(client),
            Choice::Message { worker } => self.take_message(worker),
            Choice::Outside { key } => {
                self.left.outside[key] -= 1;
                self.serve(|upstream, wires| upstream.change(wires, Some(key), now));
            }
            Choice::OutsideFlush => {
                self.left.flushes -= 1;
                self.serve(|upstream, wires| upstream.change(wires, None, now));
            }
            Choice::Tick => {
                self.left.ticks -= 1;
                self.now += MILLISECOND;
            }
            Choice::Lose { lane } => {
                self.left.losses -= 1;
                self.lose(lane);
            }
            Choice::Ghost { lane } => {
                let key = self.workers[lane].wire.ghosts.pop_front();
                self.serve(|upstream, wires| upstream.change(wires, key, now));
            }
            Choice::Up { lane } => {
                let worker = &mut self.workers[lane];
                worker.wire.up = true;
                if self.rules.hold(Rule::LaneEpoch) {
                    worker.standing.begin(mode);
                }
            }
            Choice::FenceFails { lane } => {
                self.left.failed_fences -= 1;
                self.fence_fails(lane);
            }
        }
        (0..self.clients.len()).try_for_each(|client| self.hear(client))?;
        self.judge_entries()
    }

    fn key(&self) -> u64 {
        self.hashed()
    }
}
