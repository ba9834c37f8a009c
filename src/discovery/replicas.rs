//! How far each replica has come, and how fast nodes answer.
//!
//! A master is asked for its ROLE, which tells its replication offset, and then its replicas for theirs: a replica whose
//! offset is no smaller has everything that its master had executed when it was asked. *Invariant:* a replica that is out of
//! reach, has lost its master or has become one itself is not fit to be read from until a later round finds it so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bb8_redis::redis::{self, aio::MultiplexedConnection};
use tokio::time::{sleep, timeout};

use super::Parts;
use crate::dispatch::worker::Settings;
use crate::net::{Address, boottime};
use crate::upstream::control::Unanswered;
use crate::upstream::topology::NodeId;

/// Time for an answer.
const LIMIT: Duration = Duration::from_millis(500);

/// Rounds whose offsets are remembered: a replica may be some rounds behind.
const ROUNDS: usize = 32;

/// What a server says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// Its offset, and who replicates it.
    Master(i64, Vec<(String, u16)>),
    /// Whether it is connected to its master, and its offset.
    Replica(bool, i64),
    /// A Sentinel, or what is not known.
    Other,
}

/// What is remembered of one master: when it was asked, and its offset then.
struct History {
    master: NodeId,
    offsets: VecDeque<(u64, i64)>,
}

/// Who is asked, with the connections kept.
struct Asking {
    parts: Parts,
    settings: Arc<Settings>,
    connections: Vec<(Address, MultiplexedConnection)>,
    histories: Vec<History>,
}

/// Looks at all replicas, over and over, for as long as the task lives.
pub async fn watch(parts: Parts, settings: Arc<Settings>, period: Duration) {
    let mut asking = Asking { parts, settings, connections: Vec::new(), histories: Vec::new() };
    loop {
        asking.round().await;
        sleep(period).await;
    }
}

// === impl Asking ===

impl Asking {
    async fn round(&mut self) {
        let masters = self.settings.topology.nodes();
        self.histories.retain(|history| masters.contains(&history.master));
        let mut found = Vec::new();
        for &master in &masters {
            let Some(address) = self.settings.topology.address(master) else { continue };
            let asked = boottime();
            let Some(Role::Master(offset, replicas)) = self.role(&address).await else { continue };
            self.settings.replicas.master_answered(master, boottime().saturating_sub(asked), &masters);
            self.remember(master, asked, offset);
            found.extend(self.replicas_of(master, replicas));
        }
        if self.settings.replicas.set(found) {
            self.parts.tell();
        }
        let list = self.settings.replicas.list();
        self.connections.retain(|(address, _)| {
            let is_master = masters.iter().any(|&node| self.settings.topology.address(node).as_ref() == Some(address));
            is_master || list.iter().any(|replica| replica.address == *address)
        });
        let max_lag = u64::try_from(self.settings.upstream.replica_max_lag.as_nanos()).unwrap_or(u64::MAX);
        for replica in list.iter() {
            let asked = boottime();
            let role = self.role(&replica.address).await;
            replica.health.answered_after(boottime().saturating_sub(asked));
            match role {
                Some(Role::Replica(true, offset)) => {
                    if let Some(moment) = self.moment_of(replica.master, offset) {
                        replica.health.set_caught_up(moment, boottime(), max_lag);
                    }
                }
                other => {
                    tracing::debug!(replica = %replica.address, role = ?other, "not fit to be read from");
                    replica.health.set_unfit();
                }
            }
        }
    }

    /// A cluster's map says who replicates whom; elsewhere the master does.
    fn replicas_of(&self, master: NodeId, told: Vec<(String, u16)>) -> Vec<(NodeId, Address, Option<NodeId>)> {
        if let Some(cluster) = self.settings.topology.cluster() {
            let nodes = cluster.nodes().into_iter().filter(|(_, node)| node.replica_of == Some(master));
            return nodes.map(|(id, node)| (master, node.address, Some(id))).collect();
        }
        let place = |(host, port): (String, u16)| {
            let (host, port) = self.parts.address_map.apply(&host, port);
            (master, Address::Tcp { host, port }, None)
        };
        told.into_iter().map(place).collect()
    }

    fn remember(&mut self, master: NodeId, asked: u64, offset: i64) {
        let at = self.histories.iter().position(|history| history.master == master).unwrap_or_else(|| {
            self.histories.push(History { master, offsets: VecDeque::new() });
            self.histories.len() - 1
        });
        if let Some(history) = self.histories.get_mut(at) {
            history.remember(asked, offset);
        }
    }

    fn moment_of(&self, master: NodeId, offset: i64) -> Option<u64> {
        self.histories.iter().find(|history| history.master == master)?.moment_of(offset)
    }

    /// What the server at an address says it is; `None`: it does not answer.
    async fn role(&mut self, address: &Address) -> Option<Role> {
        let answer = timeout(LIMIT, self.ask(address)).await;
        let answer = answer.unwrap_or(Err(Unanswered::NoConnection));
        if let Err(error) = &answer {
            tracing::debug!(node = %address, %error, "no ROLE");
            self.connections.retain(|(of, _)| of != address);
        }
        answer.ok()
    }

    async fn ask(&mut self, address: &Address) -> Result<Role, Unanswered> {
        let kept = self.connections.iter().find(|(of, _)| of == address).map(|(_, connection)| connection.clone());
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let target = (self.parts.target)(address.clone()).ok_or(Unanswered::NoTarget)?;
                let connection = target.connect().await?;
                self.connections.push((address.clone(), connection.clone()));
                connection
            }
        };
        let reply: redis::Value = redis::cmd("ROLE").query_async(&mut connection).await?;
        Ok(role_of(&reply))
    }
}

// === impl History ===

impl History {
    fn remember(&mut self, asked: u64, offset: i64) {
        // Another history of replication: offsets begin anew.
        if self.offsets.back().is_some_and(|&(_, last)| offset < last) {
            self.offsets.clear();
        }
        if self.offsets.len() == ROUNDS {
            self.offsets.pop_front();
        }
        self.offsets.push_back((asked, offset));
    }

    /// The latest moment at which the master had executed no more than this.
    fn moment_of(&self, offset: i64) -> Option<u64> {
        self.offsets.iter().rev().find(|&&(_, at)| at <= offset).map(|&(moment, _)| moment)
    }
}

fn role_of(reply: &redis::Value) -> Role {
    let redis::Value::Array(items) = reply else { return Role::Other };
    let text = |at: usize| match items.get(at) {
        Some(redis::Value::BulkString(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    let number = |at: usize| match items.get(at) {
        Some(redis::Value::Int(number)) => Some(*number),
        _ => None,
    };
    match (text(0).as_str(), number(1), number(4)) {
        ("master", Some(offset), _) => Role::Master(offset, replicas_in(items.get(2))),
        ("slave", _, Some(offset)) => Role::Replica(text(3) == "connected", offset),
        _ => Role::Other,
    }
}

fn replicas_in(list: Option<&redis::Value>) -> Vec<(String, u16)> {
    let Some(redis::Value::Array(rows)) = list else { return Vec::new() };
    let replica = |row: &redis::Value| {
        let redis::Value::Array(words) = row else { return None };
        let [redis::Value::BulkString(host), redis::Value::BulkString(port), ..] = &words[..] else { return None };
        let port = std::str::from_utf8(port).ok()?.parse().ok()?;
        Some((String::from_utf8_lossy(host).into_owned(), port))
    };
    rows.iter().filter_map(replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> redis::Value {
        redis::Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_a_server_says_it_is_is_read() {
        use redis::Value::{Array, Int};
        let row = Array(vec![bulk("10.0.0.2"), bulk("6380"), bulk("17")]);
        let master = Array(vec![bulk("master"), Int(20), Array(vec![row, Array(vec![])])]);
        assert_eq!(role_of(&master), Role::Master(20, vec![("10.0.0.2".into(), 6380)]));
        let replica = |state| Array(vec![bulk("slave"), bulk("10.0.0.1"), Int(6379), bulk(state), Int(19)]);
        assert_eq!(role_of(&replica("connected")), Role::Replica(true, 19));
        assert_eq!(role_of(&replica("sync")), Role::Replica(false, 19));
        assert_eq!(role_of(&Array(vec![bulk("sentinel"), Array(vec![])])), Role::Other);
        assert_eq!(role_of(&Int(1)), Role::Other);
    }

    #[test]
    fn a_replica_has_what_its_master_had_when_their_offsets_were_the_same() {
        let mut history = History { master: NodeId(0), offsets: VecDeque::new() };
        [(100, 10), (200, 10), (300, 50)].into_iter().for_each(|(asked, offset)| history.remember(asked, offset));
        let moments: Vec<Option<u64>> = [9, 10, 49, 50, 90].map(|offset| history.moment_of(offset)).to_vec();
        assert_eq!(moments, [None, Some(200), Some(200), Some(300), Some(300)]);
        history.remember(400, 5);
        assert_eq!((history.moment_of(50), history.moment_of(4)), (Some(400), None), "a new history");
    }
}
