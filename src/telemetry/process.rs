//! The process's own metrics, by the names that Prometheus's client libraries share.
//!
//! Read from the kernel when asked; a figure that cannot be read is left out.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Name, kind and help, as the client libraries have them.
pub const FAMILIES: [(&str, &str, &str); 4] = [
    ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds."),
    ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes."),
    ("process_open_fds", "gauge", "Number of open file descriptors."),
    ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds."),
];

/// Appends the process's metrics in Prometheus's text format.
pub fn append(text: &mut String, started: SystemTime) {
    let values = [cpu_seconds(), resident_bytes(), open_files(), since_epoch(started)];
    for ((name, kind, help), value) in FAMILIES.iter().zip(values) {
        let Some(value) = value else { continue };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

fn cpu_seconds() -> Option<f64> {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9)
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn open_files() -> Option<f64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

fn since_epoch(started: SystemTime) -> Option<f64> {
    Some(started.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}
