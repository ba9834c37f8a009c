//! What happens to a cluster while it is used.

use std::sync::Arc;
use std::time::Duration;

use super::super::client::{Client, Field, Log};
use super::super::faults::{Phase, quiet_expiry};
use super::super::history::{Event, Harm, MS, Path, Time, now};
use super::super::values::words;
use super::Ground;
use crate::differential::dice::Dice;
use crate::support::cluster::{NODE_TIMEOUT, SHORT_NODE_TIMEOUT};
use crate::support::wait::{in_the_end, pass};
use crate::support::{Cluster, Kind};

/// After this long the service must be back: a node may have to be replaced, and the machine may stand still.
const BACK: Time = 60_000 * MS;

/// For so long a node that has become a master must not do so again, see `Cluster::fail_over`.
const AGAIN: Time = 12_000 * MS;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A slot goes to another master with its keys, one after the other.
    Reshard,
    /// A slot is given to another master, and its keys are dropped.
    ForcedSlot,
    /// A replica takes its master's place, on demand.
    FailOver,
    /// A master is killed, and its replica promoted.
    MasterKilled,
    /// All nodes but one master stand still.
    Isolated,
    /// A node comes, gets a slot, loses it again, and leaves.
    NodeAdded,
}

/// All of them, the commonest more than once.
pub const FAULTS: [Fault; 9] = [
    Fault::Reshard,
    Fault::FailOver,
    Fault::Reshard,
    Fault::ForcedSlot,
    Fault::MasterKilled,
    Fault::Reshard,
    Fault::ForcedSlot,
    Fault::NodeAdded,
    Fault::Isolated,
];

/// Makes things happen.
pub struct Storm<'a> {
    cluster: &'a mut Cluster,
    ground: &'a Ground,
    field: &'a Arc<Field>,
    dice: Dice,
    /// Nodes that became masters on demand, and when.
    promoted: Vec<(usize, Time)>,
    /// What it has noted.
    pub log: Log,
    /// What it has done.
    pub phases: Vec<Phase>,
}

impl<'a> Storm<'a> {
    /// In this cluster.
    pub fn new(cluster: &'a mut Cluster, ground: &'a Ground, field: &'a Arc<Field>, seed: u64) -> Storm<'a> {
        let (dice, promoted, log, phases) = (Dice::new(seed), Vec::new(), Log::new(), Vec::new());
        Storm { cluster, ground, field, dice, promoted, log, phases }
    }

    /// This happens, and then nothing for a while.
    pub fn strike(&mut self, fault: Fault) {
        let from = now();
        match fault {
            Fault::Reshard => self.reshard(),
            Fault::ForcedSlot => self.force(),
            Fault::FailOver => self.fail_over(),
            Fault::MasterKilled => self.kill(),
            Fault::Isolated => self.isolate(),
            Fault::NodeAdded => self.add(),
        }
        let healed = now();
        self.probe(healed, fault);
        self.phases.push(Phase { faults: vec![format!("{fault:?}")], from, healed, back: now() });
        self.rest(300);
    }

    fn rest(&mut self, most_ms: usize) {
        pass(Duration::from_millis(u64::try_from(self.dice.below(most_ms + 1)).unwrap()));
    }

    fn begin(&self, groups: &[usize], harm: Harm) {
        self.field.terrain.as_ref().unwrap().begin(groups, harm);
    }

    fn end(&self, harm: impl Fn(usize) -> Harm) {
        self.field.terrain.as_ref().unwrap().end(harm);
    }

    /// The groups whose keys a master holds.
    fn groups_on(&self, master: usize) -> Vec<usize> {
        (0..self.ground.tags.len()).filter(|&group| self.owner(group) == master).collect()
    }

    fn owner(&self, group: usize) -> usize {
        self.cluster.owner(self.ground.tags[group].slot)
    }

    fn masters(&self) -> Vec<usize> {
        let mut masters: Vec<usize> = self.ground.still().map(|group| self.owner(group)).collect();
        masters.dedup();
        masters
    }

    fn a_master_but(&mut self, not: usize) -> usize {
        let others: Vec<usize> = self.masters().into_iter().filter(|&at| at != not).collect();
        others[self.dice.below(others.len())]
    }

    fn reshard(&mut self) {
        let moving = self.ground.moving();
        let group = moving[self.dice.below(moving.len())];
        let to = self.a_master_but(self.owner(group));
        self.bring(group, to);
    }

    fn bring(&mut self, group: usize, to: usize) {
        let (slot, from) = (self.ground.tags[group].slot, self.owner(group));
        self.begin(&[group], Harm::Moves);
        if self.cluster.kind == Kind::Valkey && self.dice.percent(30) {
            self.cluster.migrate_slots_at_once(slot, slot, from, to);
        } else {
            let pace = [2, 10, 30][self.dice.below(3)];
            let moving = self.cluster.begin_move(slot, from, to);
            loop {
                pass(Duration::from_millis(u64::try_from(self.dice.below(pace)).unwrap()));
                if moving.keys(1 + self.dice.below(3)) == 0 {
                    break;
                }
            }
            pass(Duration::from_millis(u64::try_from(self.dice.below(200)).unwrap()));
            while moving.keys(10) > 0 {}
            moving.finish();
        }
        self.end(|_| Harm::Moves);
    }

    fn force(&mut self) {
        let forced = self.ground.forced();
        let group = forced[self.dice.below(forced.len())];
        let to = self.a_master_but(self.owner(group));
        self.begin(&[group], Harm::Loses);
        self.cluster.force_slot(self.ground.tags[group].slot, to);
        self.end(|_| Harm::Loses);
    }

    /// Masters, each with a replica that may take its place: one that has done so lately may not again; see `AGAIN`.
    fn replaceable(&mut self) -> Vec<(usize, usize)> {
        self.promoted.retain(|(_, at)| now() - at < AGAIN);
        let recent: Vec<usize> = self.promoted.iter().map(|(at, _)| *at).collect();
        let pairs = self.masters().into_iter().filter_map(|at| Some((at, *self.cluster.replicas_of(at).first()?)));
        pairs.filter(|(_, replica)| !recent.contains(replica)).collect()
    }

    fn fail_over(&mut self) {
        let fit = self.replaceable();
        if fit.is_empty() {
            return self.reshard();
        }
        let (master, replica) = fit[self.dice.below(fit.len())];
        self.begin(&self.groups_on(master), Harm::Moves);
        self.cluster.fail_over(replica, "");
        self.end(|_| Harm::Moves);
        self.promoted.push((replica, now()));
    }

    fn kill(&mut self) {
        // A failover and a move at once can leave a former master with neither slots nor master of its own: nobody takes the place
        // of whom it replicated.
        let fit = self.replaceable();
        if fit.is_empty() {
            return self.reshard();
        }
        let (master, _) = fit[self.dice.below(fit.len())];
        let groups = self.groups_on(master);
        self.cluster.set_node_timeout(SHORT_NODE_TIMEOUT);
        self.begin(&groups, Harm::Loses);
        self.cluster.node(master).kill();
        let new = self.cluster.await_new_owner(self.ground.tags[groups[0]].slot, master);
        self.end(|_| Harm::Loses);
        self.promoted.push((new, now()));
        self.rest(500);
        self.cluster.node(master).restart();
        quiet_expiry(self.cluster.node(master));
        // It begins with settings of its own.
        self.cluster.set_node_timeout(NODE_TIMEOUT);
        self.cluster.settle();
    }

    /// The others know nothing of the time that they stood still for, and may replace each other when they go on.
    fn isolate(&mut self) {
        let masters = self.masters();
        let alone = masters[self.dice.below(masters.len())];
        let all: Vec<usize> = (0..self.ground.tags.len()).collect();
        let owners: Vec<usize> = all.iter().map(|&group| self.owner(group)).collect();
        self.cluster.set_node_timeout(SHORT_NODE_TIMEOUT);
        self.begin(&all, Harm::Loses);
        let others: Vec<usize> = self.cluster.running().into_iter().filter(|&at| at != alone).collect();
        others.iter().for_each(|&at| self.cluster.node(at).stop());
        let node = self.cluster.node(alone);
        in_the_end("the isolated master knows that it is", || {
            node.conn().line("CLUSTER INFO").text().contains("cluster_state:fail")
        });
        self.rest(500);
        others.iter().for_each(|&at| self.cluster.node(at).cont());
        self.cluster.settle();
        let kept = |group: usize| self.owner(group) == owners[group];
        self.end(|group| if kept(group) { Harm::Moves } else { Harm::Loses });
        self.cluster.set_node_timeout(NODE_TIMEOUT);
    }

    fn add(&mut self) {
        let added = self.cluster.add();
        quiet_expiry(self.cluster.node(added));
        self.field.terrain.as_ref().unwrap().seeds.lock().unwrap().push(self.cluster.node(added).addr());
        let moving = self.ground.moving();
        let group = moving[self.dice.below(moving.len())];
        self.bring(group, added);
        self.rest(1000);
        let to = self.a_master_but(added);
        self.bring(group, to);
        self.cluster.forget(added);
        self.await_left(added);
        self.cluster.node(added).kill();
        self.cluster.settle();
    }

    /// Whoever ends a node that others still send to costs them what is on its way. Lanes are what tracks.
    fn await_left(&self, node: usize) {
        let mut conn = self.cluster.node(node).conn();
        let tracks =
            |line: &str| line.split(' ').filter_map(|word| word.strip_prefix("flags=")).any(|f| f.contains('t'));
        in_the_end("no sidecar has a lane to the node any more", || {
            !conn.line("CLIENT LIST").text().lines().any(tracks)
        });
    }

    /// Asks both sidecars until each has answered everything asked of it, of every group.
    fn probe(&mut self, healed: Time, fault: Fault) {
        for path in [Path::A, Path::B] {
            let mut client = Client::plain(self.field, path);
            let lines = self.ground.tags.iter().flat_map(|tag| {
                let key = format!("{{{}}}probe", tag.name);
                [format!("SET {key} 1"), format!("GET {key}"), format!("EVAL return(1) 1 {key}")]
                    .map(|line| words(&line))
            });
            let lines: Vec<_> = lines.collect();
            loop {
                let mut log = Log::new();
                let answers = client.tagged(&mut log, &lines);
                let failed = log.iter().any(|event| matches!(event, Event::Failed { .. }));
                self.log.extend(log);
                if answers.is_some() && !failed {
                    break;
                }
                if now() - healed > BACK {
                    self.log
                        .push(Event::Wrong("P8", format!("{path:?} not back {} s after {fault:?}", BACK / MS / 1000)));
                    break;
                }
                pass(Duration::from_millis(1));
            }
        }
    }
}
