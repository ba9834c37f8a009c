//! What `/metrics` says, read by a strict little parser of the text format.

use std::collections::HashMap;

use super::*;
use crate::telemetry::metrics::FAMILIES;

/// One family as read back.
#[derive(Debug, Default)]
struct Read {
    kind: String,
    help: String,
    /// The whole left side (name and labels) and the value.
    samples: Vec<(String, f64)>,
}

/// Reads the text format; panics at whatever Prometheus would refuse, and at families in pieces.
fn parse(text: &str) -> HashMap<String, Read> {
    assert!(text.ends_with('\n'), "the last line must end");
    let mut families: HashMap<String, Read> = HashMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            let fresh = Read { help: help.to_owned(), ..Read::default() };
            assert!(families.insert(name.to_owned(), fresh).is_none(), "{name} is there twice");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else {
            let (left, value) = line.rsplit_once(' ').unwrap();
            let name = left.split('{').next().unwrap();
            check_labels(left);
            let family = families.get_mut(&current).unwrap();
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "{line} under {current}");
            family.samples.push((left.to_owned(), value.parse().unwrap()));
        }
    }
    families
}

/// Checks `name{label="value",…}`.
fn check_labels(left: &str) {
    let Some((_, labels)) = left.split_once('{') else {
        assert!(left.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{left}");
        return;
    };
    let labels = labels.strip_suffix('}').unwrap();
    for pair in labels.split("\",") {
        let (name, value) = pair.split_once("=\"").unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{left}");
        assert!(!value.trim_end_matches('"').replace("\\\\", "").replace("\\\"", "").contains(['"', '\n']), "{left}");
    }
}

fn value(text: &str, left: &str) -> f64 {
    let families = parse(text);
    let mut samples = families.into_values().flat_map(|family| family.samples);
    samples.find(|(name, _)| name == left).unwrap_or_else(|| panic!("no {left} in\n{text}")).1
}

#[test]
fn every_declared_family_is_shown_with_its_kind_and_help() {
    let registry = Registry::new();
    registry.set_upstream_server("redis", "7.0.15");
    let mut shown = parse(&registry.render());
    for family in FAMILIES {
        let read = shown.remove(family.name).unwrap_or_else(|| panic!("{} is not shown", family.name));
        assert_eq!(read.help, family.help);
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Highest => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(read.kind, kind, "{}", family.name);
        assert!(!read.samples.is_empty(), "{} has no samples", family.name);
        for label in family.labels {
            assert!(read.samples.iter().all(|(left, _)| left.contains(&format!("{label}=\""))), "{read:?}");
        }
    }
    for (name, ..) in process::FAMILIES {
        assert!(shown.remove(name).is_some(), "{name}");
    }
    assert!(shown.is_empty(), "shown but not declared: {:?}", shown.keys());
}

#[test]
fn the_workers_counts_are_added() {
    let registry = Registry::new();
    let (one, two) = (registry.cells(), registry.cells());
    one.command(Class::Read, Outcome::Hit);
    two.command(Class::Read, Outcome::Hit);
    two.bypass(Bypass::Rule);
    two.fill_refused(FillRefused::Epoch);
    two.error(ErrorKind::Timeout);
    one.add(Counter::ClientBytesIn, 40);
    two.add(Counter::ClientBytesIn, 2);
    one.shift(Gauge::Clients, 3);
    two.shift(Gauge::Clients, 1);
    let text = registry.render();
    assert_eq!(value(&text, r#"sidecache_commands_total{class="read",outcome="hit"}"#), 2.0);
    assert_eq!(value(&text, r#"sidecache_cache_bypass_total{reason="rule"}"#), 1.0);
    assert_eq!(value(&text, r#"sidecache_cache_fills_refused_total{reason="epoch"}"#), 1.0);
    assert_eq!(value(&text, r#"sidecache_errors_total{kind="timeout"}"#), 1.0);
    assert_eq!(value(&text, r#"sidecache_client_bytes_total{direction="in"}"#), 42.0);
    assert_eq!(value(&text, "sidecache_clients"), 4.0);
    assert_eq!(registry.gauge(Gauge::Clients), 4);
}

#[test]
fn a_shared_state_is_not_added_up() {
    let registry = Registry::new();
    for cells in [registry.cells(), registry.cells()] {
        cells.set(Gauge::ModeTracking, 1);
        cells.set(Gauge::NodeEpoch, 7);
    }
    let text = registry.render();
    assert_eq!(value(&text, r#"sidecache_cache_mode{mode="tracking"}"#), 1.0);
    assert_eq!(value(&text, r#"sidecache_cache_mode{mode="ttl"}"#), 0.0);
    assert_eq!(value(&text, "sidecache_node_epoch"), 7.0);
}

#[test]
fn a_histogram_is_cumulative_and_its_count_is_its_last_bucket() {
    let registry = Registry::new();
    let (one, two) = (registry.cells(), registry.cells());
    one.observe(Histogram::HitLatency, 1_500, 2);
    two.observe(Histogram::HitLatency, 2_000_000, 1);
    two.observe(Histogram::HitLatency, u64::MAX / 4, 1);
    let families = parse(&registry.render());
    let samples = &families["sidecache_hit_latency_seconds"].samples;
    let buckets: Vec<f64> = samples.iter().filter(|(left, _)| left.contains("_bucket")).map(|(_, v)| *v).collect();
    assert!(buckets.is_sorted(), "{buckets:?}");
    assert_eq!(buckets.len(), cells::BOUNDS + 1);
    assert_eq!((buckets[0], buckets[1], buckets[cells::BOUNDS - 1], buckets[cells::BOUNDS]), (0.0, 2.0, 3.0, 4.0));
    assert!(samples.contains(&("sidecache_hit_latency_seconds_count".to_owned(), 4.0)));
    let bounds: Vec<f64> =
        samples.iter().filter_map(|(left, _)| left.split("le=\"").nth(1)?.strip_suffix("\"}")?.parse().ok()).collect();
    assert!(bounds.is_sorted() && bounds[0] == 0.000_001_024, "{bounds:?}");
}

#[test]
fn counts_rise_from_one_reading_to_the_next() {
    let registry = Registry::new();
    let cells = registry.cells();
    for reading in 1..=3 {
        cells.add(Counter::Fills, 1);
        assert_eq!(value(&registry.render(), "sidecache_cache_fills_total"), f64::from(reading));
    }
}

#[test]
fn two_registries_in_one_process_count_apart() {
    let (one, two) = (Registry::new(), Registry::new());
    one.cells().add(Counter::Fills, 5);
    assert_eq!(value(&one.render(), "sidecache_cache_fills_total"), 5.0);
    assert_eq!(value(&two.render(), "sidecache_cache_fills_total"), 0.0);
}

#[test]
fn what_upstream_calls_itself_cannot_break_the_format() {
    let registry = Registry::new();
    assert!(!registry.render().contains("sidecache_upstream_info"), "unknown is not shown");
    registry.set_upstream_server("redis", "7\"\n\\x");
    let text = registry.render();
    assert_eq!(value(&text, r#"sidecache_upstream_info{version="7\"\n\\x",server="redis"}"#), 1.0);
}

#[test]
fn two_renderings_have_the_same_order() {
    let registry = Registry::new();
    let names = |text: String| text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(registry.render()), names(registry.render()));
}
