//! The cache tier: replies kept in this process, by the command that produced them.
//!
//! *Invariant:* validity lives in the entry, not in the store. An entry carries its key's generation,
//! its lane's and its node's epoch and a deadline; whoever finds it judges it by these, so a copy that
//! the store has forgotten, or not yet dropped, is still judged rightly.
//! Not here: how invalidations reach us and what they do (`coherence`), any network, any clock.
//!
//! ```text
//!  first read          second read               reply, generation and epochs unchanged
//!  ──────────► plain ─────────────► flight ─────────────────────────────────────────► entry
//!              flight   (admitted)     │                                               │
//!                                      │ push / inside write / lost lane               │ the same,
//!                                      ▼                                               ▼ or the deadline
//!                              answered, not filled                              unreachable at once
//! ```

pub mod admission;
pub mod atomic;
pub mod audit;
pub mod config;
pub mod entry;
pub mod flight;
pub mod generation;
mod index;
pub mod lease;
pub mod rules;
pub mod store;

pub use admission::Admission;
pub use config::{Config, Mget, Mode, Rule};
pub use entry::{Basis, Entry, Key, Lookup};
pub use flight::{Flight, Flights};
pub use generation::{Epoch, Generations, Slot};
pub use rules::Rules;
pub use store::Store;
