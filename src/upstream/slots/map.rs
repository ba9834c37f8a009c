//! Who owns which slots, as a node tells it in CLUSTER SHARDS or CLUSTER SLOTS.
//!
//! *Invariant:* both replies, in RESP2 and in RESP3, about the same cluster give the same map (save for health, which
//! SLOTS does not tell), in whatever order the node lists shards and nodes. Shards without slots are left out: SLOTS
//! does not list them either. What a map must have before it is used says [`SlotMap::check`].

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::SLOTS;
use super::redirect::known;
use crate::protocol::Value;

/// Masters, their replicas and their slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMap {
    /// In the order of their lowest slots.
    pub shards: Vec<Shard>,
}

/// A master, its replicas and its slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Who answers for the slots.
    pub master: Member,
    /// Its replicas, by id.
    pub replicas: Vec<Member>,
    /// First and last slot of each range, ascending, neighbours joined.
    pub ranges: Vec<(u16, u16)>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The cluster's name for it: 40 hex digits.
    pub id: String,
    /// Where clients are to reach it; nothing: on the host of the node that was asked.
    pub host: Option<String>,
    /// The port for clients without TLS.
    pub port: u16,
    /// Whether the node that was asked thinks that it serves: neither failed nor loading. True where it does not say.
    pub healthy: bool,
}

/// Why a map is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapFault {
    /// The node answered with an error: its line, without its CRLF.
    #[error("{}", String::from_utf8_lossy(.0))]
    Refused(Vec<u8>),
    /// The reply is not what the command's documentation promises.
    #[error("the slot map cannot be read: {0}")]
    Malformed(&'static str),
    /// No slot has an owner.
    #[error("the slot map is empty")]
    Empty,
    /// No master is healthy: who asks an isolated node may get this.
    #[error("no master in the slot map is healthy")]
    NoMasters,
    /// A slot has two owners.
    #[error("the slot map gives slot {0} to two masters")]
    Overlap(u16),
    /// So many slots have no owner. The rest is right: better than no map, worse than a fuller one.
    #[error("{0} slots have no owner in the slot map")]
    Partial(u16),
}

/// A node of CLUSTER SHARDS and what it is.
struct Listed {
    member: Member,
    is_master: bool,
}

// === impl SlotMap ===

impl SlotMap {
    /// Of the reply to CLUSTER SHARDS. Where a shard lists two masters, as it may after a failover, the healthy one counts.
    ///
    /// # Errors
    /// [`MapFault::Refused`] and [`MapFault::Malformed`]; what else may be wrong, [`SlotMap::check`] says.
    pub fn from_shards(reply: &Value) -> Result<SlotMap, MapFault> {
        let mut shards = Vec::new();
        for shard in rows(reply)? {
            let ranges = field_array(shard, "slots")?;
            if ranges.len() % 2 != 0 {
                return Err(MapFault::Malformed("a range without an end"));
            }
            let ranges = ranges.chunks_exact(2).map(|pair| range(pair.first(), pair.get(1)));
            let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
            let listed = field_array(shard, "nodes")?.iter().filter_map(|node| listed(node).transpose());
            let mut listed = listed.collect::<Result<Vec<_>, _>>()?;
            let healthy = listed.iter().position(|node| node.is_master && node.member.healthy);
            if let Some(at) = healthy.or_else(|| listed.iter().position(|node| node.is_master)) {
                let master = listed.swap_remove(at).member;
                let replicas = listed.into_iter().filter(|node| !node.is_master).map(|node| node.member).collect();
                shards.push(Shard { master, replicas, ranges });
            }
        }
        Ok(SlotMap::of(shards))
    }

    /// Of the reply to CLUSTER SLOTS, which tells nothing of health: all are taken to be healthy.
    ///
    /// # Errors
    /// As [`SlotMap::from_shards`].
    pub fn from_slots(reply: &Value) -> Result<SlotMap, MapFault> {
        let mut shards: Vec<Shard> = Vec::new();
        for row in rows(reply)? {
            let row = row.as_array().ok_or(MapFault::Malformed("a row is no array"))?;
            let range = range(row.first(), row.get(1))?;
            let nodes = row.get(2..).unwrap_or_default().iter();
            let mut members = nodes.map(slots_member).collect::<Result<Vec<_>, _>>()?.into_iter();
            let Some(master) = members.next() else { continue };
            match shards.iter_mut().find(|shard| shard.master == master) {
                Some(shard) => shard.ranges.push(range),
                None => shards.push(Shard { master, replicas: members.collect(), ranges: vec![range] }),
            }
        }
        Ok(SlotMap::of(shards))
    }

    /// One order for whatever order a node listed them in.
    fn of(mut shards: Vec<Shard>) -> SlotMap {
        shards.retain(|shard| !shard.ranges.is_empty());
        for shard in &mut shards {
            shard.replicas.sort_unstable();
            shard.ranges.sort_unstable();
            shard.ranges.dedup_by(|next, last| {
                let joined = last.1.checked_add(1) == Some(next.0);
                if joined {
                    last.1 = next.1;
                }
                joined
            });
        }
        shards.sort_unstable_by(|a, b| (&a.ranges, &a.master).cmp(&(&b.ranges, &b.master)));
        SlotMap { shards }
    }

    /// Whether the map may be used.
    ///
    /// # Errors
    /// [`MapFault::Overlap`], [`MapFault::Empty`] and [`MapFault::NoMasters`]: not at all. [`MapFault::Partial`]: the
    /// caller decides; such a map never takes the place of a fuller one.
    pub fn check(&self) -> Result<(), MapFault> {
        let mut ranges: Vec<(u16, u16)> = self.shards.iter().flat_map(|shard| shard.ranges.iter().copied()).collect();
        ranges.sort_unstable();
        let mut next = 0;
        let mut missing = 0;
        for (first, last) in ranges {
            if last < first || last >= SLOTS {
                return Err(MapFault::Malformed("a range of what are no slots"));
            }
            if first < next {
                return Err(MapFault::Overlap(first));
            }
            missing += first - next;
            next = last + 1;
        }
        missing += SLOTS - next;
        match missing {
            SLOTS => Err(MapFault::Empty),
            _ if !self.shards.iter().any(|shard| shard.master.healthy) => Err(MapFault::NoMasters),
            0 => Ok(()),
            missing => Err(MapFault::Partial(missing)),
        }
    }

    /// For each of the 16,384 slots the place of its shard in `shards`.
    pub fn owner_of_each_slot(&self) -> Vec<Option<usize>> {
        let mut owners = vec![None; usize::from(SLOTS)];
        for (place, shard) in self.shards.iter().enumerate() {
            for &(first, last) in &shard.ranges {
                if let Some(owned) = owners.get_mut(usize::from(first)..=usize::from(last)) {
                    owned.fill(Some(place));
                }
            }
        }
        owners
    }

    /// A number that is another one if anything in the map is, and the same for the same cluster, in whatever order a
    /// node lists it. It is worth nothing outside this process.
    pub fn digest(&self) -> u64 {
        // A map that was made by hand may not be in order.
        FixedState::default().hash_one(SlotMap::of(self.shards.clone()).shards)
    }
}

/// The elements of a reply that is no error.
fn rows(reply: &Value) -> Result<&[Value], MapFault> {
    match reply {
        Value::Error(line) => Err(MapFault::Refused(line.clone())),
        reply => reply.as_array().ok_or(MapFault::Malformed("no array")),
    }
}

fn field_array<'a>(map: &'a Value, name: &str) -> Result<&'a [Value], MapFault> {
    map.field(name).and_then(Value::as_array).ok_or(MapFault::Malformed("a shard without slots or nodes"))
}

fn range(first: Option<&Value>, last: Option<&Value>) -> Result<(u16, u16), MapFault> {
    let slot = |value: Option<&Value>| {
        let slot = value.and_then(Value::as_integer).and_then(|slot| u16::try_from(slot).ok());
        slot.filter(|&slot| slot < SLOTS).ok_or(MapFault::Malformed("a range of what are no slots"))
    };
    let range = (slot(first)?, slot(last)?);
    if range.0 <= range.1 { Ok(range) } else { Err(MapFault::Malformed("a range that ends before it begins")) }
}

/// A node of CLUSTER SHARDS; nothing if it can be reached by TLS alone.
fn listed(node: &Value) -> Result<Option<Listed>, MapFault> {
    let Some(port) = node.field("port") else { return Ok(None) };
    let word = |name: &str| node.field(name).and_then(Value::as_bytes);
    let id = text(node.field("id")).ok_or(MapFault::Malformed("a node without an id"))?;
    let host = host(node.field("endpoint").or(node.field("ip")), Some(node));
    let healthy = word("health").is_none_or(|health| health == b"online");
    let member = Member { id, host, port: self::port(Some(port))?, healthy };
    Ok(Some(Listed { member, is_master: word("role") == Some(b"master") }))
}

/// A node of CLUSTER SLOTS: endpoint, port, id and, from Redis 7.0 on, what else is known of its address.
fn slots_member(node: &Value) -> Result<Member, MapFault> {
    let fields = node.as_array().ok_or(MapFault::Malformed("a node is no array"))?;
    let id = text(fields.get(2)).ok_or(MapFault::Malformed("a node without an id"))?;
    Ok(Member { id, host: host(fields.first(), fields.get(3)), port: port(fields.get(1))?, healthy: true })
}

/// Where clients are to go. A question mark stands for a host name that nobody has set: there the address counts.
fn host(endpoint: Option<&Value>, more: Option<&Value>) -> Option<String> {
    let endpoint = text(endpoint)?;
    let host = if endpoint == "?" { text(more.and_then(|more| more.field("ip")))? } else { endpoint };
    known(&host).map(str::to_owned)
}

fn port(value: Option<&Value>) -> Result<u16, MapFault> {
    let port = value.and_then(Value::as_integer).and_then(|port| u16::try_from(port).ok());
    port.filter(|&port| port != 0).ok_or(MapFault::Malformed("a node without a port"))
}

fn text(value: Option<&Value>) -> Option<String> {
    String::from_utf8(value?.as_bytes()?.to_vec()).ok()
}

#[cfg(test)]
mod tests;
