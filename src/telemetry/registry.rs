//! All workers' cells and upstream's last INFO, summed and shown as Prometheus text.
//!
//! Handles for every series are made once, at the start, on a recorder of our own: nothing
//! global, so two proxies can live in one process. Invariant: a worker is never made to wait;
//! only those who ask for `/metrics` pay for the sums. Not here: HTTP (`admin`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::cells::{self, Cells, Distribution};
use super::labels::{Bypass, Class, ErrorKind, FillRefused, Outcome};
use super::metrics::{self as table, Counter, Gauge, Histogram, Kind, Unit, Upstream};
use super::process;

/// Everything that `/metrics` shows.
pub struct Registry {
    /// When it was made, near enough to the process's start.
    started: SystemTime,
    /// One per worker and one for whoever else counts. Held to add one or to copy the list.
    workers: Mutex<Vec<Arc<Cells>>>,
    /// What upstream's INFO told last.
    upstream: [AtomicI64; Upstream::ALL.len()],
    /// Name and version of upstream's server. Held to copy or replace two short texts.
    server: Mutex<Option<(String, String)>>,
    /// Renders what the handles below were set to.
    exporter: PrometheusHandle,
    /// One handle per counter.
    counters: Vec<(Counted, metrics::Counter)>,
    /// One handle per gauge of the workers.
    gauges: Vec<(Gauge, metrics::Gauge)>,
    /// One handle per gauge of upstream.
    upstream_gauges: Vec<(Upstream, metrics::Gauge)>,
}

/// Where a counter's value stands in the cells.
#[derive(Clone, Copy)]
enum Counted {
    /// Commands of one class and outcome.
    Command(Class, Outcome),
    /// Reads past the cache, for one reason.
    Bypass(Bypass),
    /// Replies not put in, for one reason.
    FillRefused(FillRefused),
    /// Errors of one kind.
    Error(ErrorKind),
    /// A counter with fixed labels or none.
    Plain(Counter),
}

// === impl Registry ===

impl Registry {
    /// A registry without workers.
    pub fn new() -> Registry {
        let recorder = build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::gauge!(table::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            Registry {
                started: SystemTime::now(),
                workers: Mutex::new(Vec::new()),
                upstream: std::array::from_fn(|_| AtomicI64::new(0)),
                server: Mutex::new(None),
                exporter: recorder.handle(),
                counters: Counted::all().into_iter().map(|counted| (counted, counted.register())).collect(),
                gauges: Gauge::ALL.iter().map(|gauge| (*gauge, register_gauge(gauge.series()))).collect(),
                upstream_gauges: Upstream::ALL.iter().map(|gauge| (*gauge, register_gauge(gauge.series()))).collect(),
            }
        })
    }

    /// Cells for one writer, counted from now on.
    pub fn cells(&self) -> Arc<Cells> {
        let cells = Arc::new(Cells::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cells));
        cells
    }

    /// A counter over all workers.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.workers().iter().map(|cells| cells.counter(counter)).sum()
    }

    /// Commands over all workers.
    pub fn commands(&self, class: Class, outcome: Outcome) -> u64 {
        self.workers().iter().map(|cells| cells.commands(class, outcome)).sum()
    }

    /// Errors of one kind over all workers.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.workers().iter().map(|cells| cells.errors(kind)).sum()
    }

    /// A gauge over all workers: their sum, or their largest where the family says so.
    pub fn gauge(&self, gauge: Gauge) -> i64 {
        merged(&self.workers(), gauge)
    }

    /// A histogram over all workers.
    pub fn distribution(&self, histogram: Histogram) -> Distribution {
        let mut all = Distribution::EMPTY;
        for cells in self.workers() {
            all.merge(&cells.distribution(histogram));
        }
        all
    }

    /// Notes what upstream told of itself.
    pub fn set_upstream(&self, gauge: Upstream, value: i64) {
        self.upstream[gauge as usize].store(value, Relaxed);
    }

    /// What upstream told of itself last.
    pub fn upstream(&self, gauge: Upstream) -> i64 {
        self.upstream[gauge as usize].load(Relaxed)
    }

    /// Notes the name and version of upstream's server.
    pub fn set_upstream_server(&self, server: &str, version: &str) {
        let mut known = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((server.to_owned(), version.to_owned()));
    }

    /// Everything in Prometheus's text format, families and lines in alphabetical order.
    pub fn render(&self) -> String {
        let workers = self.workers();
        for (counted, handle) in &self.counters {
            handle.absolute(workers.iter().map(|cells| counted.read(cells)).sum());
        }
        for (gauge, handle) in &self.gauges {
            handle.set(merged(&workers, *gauge) as f64);
        }
        for (gauge, handle) in &self.upstream_gauges {
            handle.set(self.upstream(*gauge) as f64);
        }
        let mut text = in_order(&self.exporter.render());
        for histogram in Histogram::ALL {
            append_histogram(&mut text, *histogram, &self.distribution(*histogram));
        }
        self.append_server(&mut text);
        process::append(&mut text, self.started);
        text
    }

    fn workers(&self) -> Vec<Arc<Cells>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Upstream's version changes while we run, so its line is not a handle's.
    fn append_server(&self, text: &mut String) {
        let known = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((server, version)) = known else { return };
        append_head(text, table::UPSTREAM_INFO, "gauge");
        let (version, server) = (escaped(&version), escaped(&server));
        let _ = writeln!(text, "{}{{version=\"{version}\",server=\"{server}\"}} 1", table::UPSTREAM_INFO);
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("workers", &self.workers().len()).finish_non_exhaustive()
    }
}

// === impl Counted ===

impl Counted {
    /// Every counter there is.
    fn all() -> Vec<Counted> {
        let pairs = |class: &Class| Outcome::ALL.iter().map(|outcome| (*class, *outcome)).collect::<Vec<_>>();
        let commands = Class::ALL.iter().flat_map(pairs).map(|(class, outcome)| Counted::Command(class, outcome));
        commands
            .chain(Bypass::ALL.iter().map(|reason| Counted::Bypass(*reason)))
            .chain(FillRefused::ALL.iter().map(|reason| Counted::FillRefused(*reason)))
            .chain(ErrorKind::ALL.iter().map(|kind| Counted::Error(*kind)))
            .chain(Counter::ALL.iter().map(|counter| Counted::Plain(*counter)))
            .collect()
    }

    /// Its handle on the recorder in scope.
    fn register(self) -> metrics::Counter {
        match self {
            Counted::Command(class, outcome) => {
                metrics::counter!(table::COMMANDS, "class" => class.label(), "outcome" => outcome.label())
            }
            Counted::Bypass(reason) => metrics::counter!(table::BYPASS, "reason" => reason.label()),
            Counted::FillRefused(reason) => metrics::counter!(table::FILLS_REFUSED, "reason" => reason.label()),
            Counted::Error(kind) => metrics::counter!(table::ERRORS, "kind" => kind.label()),
            Counted::Plain(counter) => metrics::counter!(counter.series().family, counter.series().labels),
        }
    }

    /// Its value in one worker's cells.
    fn read(self, cells: &Cells) -> u64 {
        match self {
            Counted::Command(class, outcome) => cells.commands(class, outcome),
            Counted::Bypass(reason) => cells.bypassed(reason),
            Counted::FillRefused(reason) => cells.fills_refused(reason),
            Counted::Error(kind) => cells.errors(kind),
            Counted::Plain(counter) => cells.counter(counter),
        }
    }
}

/// The recorder that the handles live on; not installed anywhere.
pub fn build_recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().build_recorder()
}

fn register_gauge(series: table::Series) -> metrics::Gauge {
    metrics::gauge!(series.family, series.labels)
}

/// Tells the recorder in scope the help of every family that it renders.
fn describe() {
    for family in table::FAMILIES {
        let unit = match family.unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Bytes => metrics::Unit::Bytes,
            Unit::Seconds => metrics::Unit::Seconds,
        };
        match family.kind {
            Kind::Counter => metrics::describe_counter!(family.name, unit, family.help),
            Kind::Gauge | Kind::Highest => metrics::describe_gauge!(family.name, unit, family.help),
            Kind::Histogram => {}
        }
    }
}

fn merged(workers: &[Arc<Cells>], gauge: Gauge) -> i64 {
    let values = workers.iter().map(|cells| cells.gauge(gauge));
    match table::family_of(gauge.series().family).map(|family| family.kind) {
        Some(Kind::Highest) => values.max().unwrap_or(0),
        _ => values.sum(),
    }
}

/// The exporter walks hash maps; operators and diffs want one order.
fn in_order(rendered: &str) -> String {
    let mut families = BTreeMap::new();
    for family in rendered.split("\n\n").filter(|family| !family.is_empty()) {
        let (mut comments, mut samples): (Vec<_>, Vec<_>) = family.lines().partition(|line| line.starts_with('#'));
        samples.sort_unstable();
        let name = samples.first().map_or("", |line| line.split(['{', ' ']).next().unwrap_or(line));
        comments.append(&mut samples);
        families.insert(name.to_owned(), comments.join("\n"));
    }
    families.into_values().fold(String::with_capacity(rendered.len()), |text, family| text + &family + "\n")
}

/// Appends a histogram's lines: cumulative buckets, sum and count from one reading.
fn append_histogram(text: &mut String, histogram: Histogram, seen: &Distribution) {
    let name = histogram.series().family;
    append_head(text, name, "histogram");
    let mut below = 0;
    for (place, count) in seen.counts.iter().take(cells::BOUNDS).enumerate() {
        below += count;
        let bound = cells::bound(place) as f64 / 1e9;
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
    }
    let (count, sum) = (seen.count(), seen.nanos as f64 / 1e9);
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
}

fn append_head(text: &mut String, name: &str, kind: &str) {
    let help = table::family_of(name).map_or("", |family| family.help);
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value as the text format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
