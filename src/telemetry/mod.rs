//! What operators see: metrics declared once as data, and logs.
//!
//! Workers count in cells of their own (one writer each, relaxed atomics); the admin thread
//! sums them when it is asked.

pub mod cells;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod process;
pub mod registry;
#[cfg(test)]
pub mod test_docs;

pub use cells::Cells;
pub use metrics::{Counter, Gauge, Histogram};
pub use registry::Registry;
