//! What a run found, as one JSON object.

use super::histogram::Histogram;

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// Commands answered that count: in closed loop those answered in the window, in open loop those due in it.
    pub commands: u64,
    /// Commands answered in the window: the throughput.
    pub in_window: u64,
    /// The window's length.
    pub seconds: f64,
    /// All commands answered, before the window and after it too: what a process's CPU time is divided by if it was
    /// read before and after the run.
    pub all_commands: u64,
    /// Errors, replies of another type or length, and commands never answered, in the whole run.
    pub errors: u64,
    /// Nulls to commands that count, where a value could have been.
    pub missing: u64,
    /// In open loop: commands that were due in the window and for which no connection came free.
    pub unsent: u64,
    /// Connections lost and opened anew.
    pub reconnects: u64,
    /// From when a command was due (open loop) or sent until its reply was read, of those that count.
    pub latency: Histogram,
    /// This process's own CPU time in the window: what is not far below its length says that the generator was the limit.
    pub cpu_seconds: f64,
}

impl Report {
    /// One line.
    pub fn to_json(&self) -> String {
        let us = |nanoseconds: u64| format!("{:.1}", nanoseconds as f64 / 1e3);
        let quantile = |part: f64| us(self.latency.quantile(part));
        format!(
            "{{\"commands\":{},\"seconds\":{:.3},\"all_commands\":{},\"errors\":{},\"missing\":{},\"unsent\":{},\
             \"reconnects\":{},\"per_second\":{:.1},\"latency_us\":{{\"p50\":{},\"p90\":{},\"p99\":{},\"p99.9\":{},\
             \"max\":{}}},\"cpu_seconds\":{:.3}}}",
            self.commands,
            self.seconds,
            self.all_commands,
            self.errors,
            self.missing,
            self.unsent,
            self.reconnects,
            self.in_window as f64 / self.seconds,
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999),
            us(self.latency.max()),
            self.cpu_seconds,
        )
    }
}
