//! Which nodes upstream consists of, and where they are.
//!
//! An enum and not a trait: the kinds are few, known, and decided by the URL's scheme. What it tells may change at any
//! time; who holds connections is told of changes by a message (`dispatch::worker`).

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use super::cluster::Cluster;
use crate::net::Address;

/// One node, by its place in the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId(pub u32);

/// What upstream is.
#[derive(Clone, Debug)]
pub enum Topology {
    /// One server, at one address.
    Standalone {
        /// Where; the name is resolved at each connect.
        address: Address,
    },
    /// A master that Sentinels watch over.
    Sentinel(Arc<Sentinel>),
    /// A Redis Cluster.
    Cluster(Arc<Cluster>),
}

/// A master that Sentinels watch over.
#[derive(Debug)]
pub struct Sentinel {
    /// Where the configured Sentinels listen.
    pub sentinels: Vec<Address>,
    /// The master's name there.
    pub service: String,
    /// Who the master is, as far as is known.
    master: RwLock<Option<Address>>,
    /// Rings when it should be asked for again.
    pub wanted: Notify,
}

// === impl Topology ===

impl Topology {
    /// The node of what has only one.
    pub const ONLY: NodeId = NodeId(0);

    /// Where a node listens at present; `None`: it is unknown, or has left.
    pub fn address(&self, node: NodeId) -> Option<Address> {
        match self {
            Topology::Standalone { address } => Some(address.clone()),
            Topology::Sentinel(sentinel) => sentinel.master(),
            Topology::Cluster(cluster) => cluster.address(node),
        }
    }

    /// The nodes that commands go to.
    pub fn nodes(&self) -> Vec<NodeId> {
        match self {
            Topology::Standalone { .. } | Topology::Sentinel(_) => vec![Topology::ONLY],
            Topology::Cluster(cluster) => cluster.masters(),
        }
    }

    /// The cluster, if it is one.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self {
            Topology::Cluster(cluster) => Some(cluster),
            Topology::Standalone { .. } | Topology::Sentinel(_) => None,
        }
    }

    /// Whether commands may be sent again elsewhere.
    pub fn has_alternatives(&self) -> bool {
        !matches!(self, Topology::Standalone { .. })
    }

    /// Asks for the topology to be looked at again: something speaks against what is known.
    pub fn doubt(&self) {
        match self {
            Topology::Standalone { .. } => {}
            Topology::Sentinel(sentinel) => sentinel.wanted.notify_one(),
            Topology::Cluster(cluster) => cluster.wanted.notify_one(),
        }
    }

    /// A node as operators know it: its address, and what it is part of where that is not the same.
    pub fn name(&self, node: NodeId) -> String {
        match (self, self.address(node)) {
            (Topology::Sentinel(sentinel), Some(address)) => format!("{} ({address})", sentinel.service),
            (_, Some(address)) => address.to_string(),
            (_, None) => self.to_string(),
        }
    }
}

impl PartialEq for Topology {
    fn eq(&self, other: &Topology) -> bool {
        match (self, other) {
            (Topology::Standalone { address }, Topology::Standalone { address: other }) => address == other,
            _ => false,
        }
    }
}

impl Eq for Topology {}

/// As operators know it.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topology::Standalone { address } => address.fmt(f),
            Topology::Sentinel(sentinel) => write!(f, "master {}", sentinel.service),
            Topology::Cluster(cluster) => cluster.fmt(f),
        }
    }
}

// === impl Sentinel ===

impl Sentinel {
    /// Nobody is known to be the master yet.
    pub fn new(sentinels: Vec<Address>, service: String) -> Sentinel {
        Sentinel { sentinels, service, master: RwLock::default(), wanted: Notify::new() }
    }

    /// Who the master is, as far as is known.
    pub fn master(&self) -> Option<Address> {
        self.master.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is this one from now on, or nobody that is known; returns who it was before.
    pub fn set_master(&self, master: Option<Address>) -> Option<Address> {
        std::mem::replace(&mut *self.master.write().unwrap_or_else(PoisonError::into_inner), master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standalone_upstream_is_one_node() {
        let address = Address::Tcp { host: "h".into(), port: 1 };
        let topology = Topology::Standalone { address: address.clone() };
        assert_eq!(topology.address(Topology::ONLY), Some(address));
        assert_eq!(topology.to_string(), "h:1");
        assert!(!topology.has_alternatives());
    }

    #[test]
    fn a_watched_master_is_where_it_was_last_seen() {
        let sentinel = Arc::new(Sentinel::new(Vec::new(), "mymaster".into()));
        let topology = Topology::Sentinel(Arc::clone(&sentinel));
        assert_eq!((topology.address(Topology::ONLY), topology.name(Topology::ONLY)), (None, "master mymaster".into()));
        let address = Address::Tcp { host: "h".into(), port: 1 };
        assert_eq!(sentinel.set_master(Some(address.clone())), None);
        assert_eq!(topology.address(Topology::ONLY), Some(address));
        assert_eq!(topology.name(Topology::ONLY), "mymaster (h:1)");
    }
}
