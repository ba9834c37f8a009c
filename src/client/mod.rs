//! The application's side: `listener` accepts, `connection` serves one client, `dedicated` (with `checkout`, `effects`,
//! `expect`, `patience` and `delivery`) when it needs a connection of its own; `local`, `list`, `ids` and `one_node`
//! answer what is answered here, `registry` knows all clients.

mod checkout;
pub mod config;
pub mod connection;
pub mod dedicated;
pub mod delivery;
pub mod effects;
mod elsewhere;
mod everywhere;
pub mod expect;
pub mod ids;
pub mod list;
pub mod listener;
pub mod local;
pub mod one_node;
pub mod patience;
pub mod registry;

pub use config::Config;
pub use registry::Registry;
