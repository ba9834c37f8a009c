//! Who is where: asks the cluster for its slot map, or Sentinels for the master, and tells the workers what has changed.
//!
//! The control plane, on the thread that accepts clients: never on a command's way. *Invariant:* one question is under way
//! at a time, however many doubts ring, and two are never closer together than a pause. Not here: what workers make of it
//! (`dispatch::routes`).

pub mod cluster;
pub mod replicas;
pub mod sentinel;

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use crate::dispatch::worker::Message;
use crate::net::Address;
use crate::upstream::control::Target;
use crate::upstream::slots::AddressMap;

/// How to log in at an address; `None`: not at present.
pub type Login = Arc<dyn Fn(Address) -> Option<Target> + Send + Sync>;

/// What discovery needs.
#[derive(Clone)]
pub struct Parts {
    /// How to log in at a node.
    pub target: Login,
    /// Where nodes are, as seen from here.
    pub address_map: AddressMap,
    /// The workers.
    pub workers: Vec<UnboundedSender<Message>>,
    /// What is counted.
    pub cells: Arc<crate::telemetry::Cells>,
}

// === impl Parts ===

impl Parts {
    /// Every worker looks at the topology again.
    fn tell(&self) {
        for worker in &self.workers {
            // One that has ended has no lanes.
            let _ = worker.send(Message::Topology);
        }
    }
}
