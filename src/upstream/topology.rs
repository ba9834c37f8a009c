//! Which nodes upstream consists of, and which of them a command goes to.
//!
//! An enum and not a trait: the kinds are few, known, and decided by the URL's scheme.

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

    /// Where a node listens; `None` if there is no such node.
    pub fn address(&self, node: NodeId) -> Option<&Address> {
        match self {
            Topology::Standalone { address } => (node == NodeId(0)).then_some(address),
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        match self {
            Topology::Standalone { .. } => std::iter::once(NodeId(0)),
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
        assert_eq!(topology.nodes().collect::<Vec<_>>(), [NodeId(0)]);
        assert_eq!(topology.address(NodeId(0)), Some(&address));
        assert_eq!(topology.address(NodeId(1)), None);
    }
}
