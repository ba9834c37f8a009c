//! The application's side: `listener` accepts, `connection` serves one client, `dedicated`, `checkout`, `effects`,
//! `expect` and `patience` when it needs a connection of its own, `local` and `list` answer what is answered here,
//! `registry` knows all clients.

mod checkout;
pub mod config;
pub mod connection;
pub mod dedicated;
pub mod effects;
pub mod expect;
pub mod ids;
pub mod list;
pub mod listener;
pub mod local;
pub mod patience;
pub mod registry;

pub use config::Config;
pub use registry::Registry;
