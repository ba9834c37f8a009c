//! Which nodes upstream consists of, and which of them a command goes to.
//!
//! An enum and not a trait: the kinds are few, known, and decided by the URL's scheme.

use std::fmt;

use crate::net::Address;

/// One node, by its place in the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId(pub u32);

/// What upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server, at one address.
    Standalone {
        /// Where; the name is resolved at each connect.
        address: Address,
    },
}

// === impl Topology ===

impl Topology {
    /// The node that a command with this first key goes to; `None` for a command without keys.
    pub fn node(&self, _key: Option<&[u8]>) -> NodeId {
        match self {
            Topology::Standalone { .. } => NodeId(0),
        }
    }

    /// Where a node listens.
    pub fn address(&self, _node: NodeId) -> &Address {
        match self {
            Topology::Standalone { address } => address,
        }
    }
}

/// As operators know it.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topology::Standalone { address } => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standalone_upstream_has_one_node_for_everything() {
        let address = Address::Tcp { host: "h".into(), port: 1 };
        let topology = Topology::Standalone { address: address.clone() };
        assert_eq!(topology.node(None), topology.node(Some(b"k")));
        assert_eq!(topology.address(topology.node(None)), &address);
        assert_eq!(topology.to_string(), "h:1");
    }
}
