//! The table holds together, and the document made of it is up to date.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::*;
use crate::telemetry::process;

fn check(series: Series, kinds: &[Kind]) {
    let family = family_of(series.family).unwrap_or_else(|| panic!("{} has no family", series.family));
    assert!(kinds.contains(&family.kind), "{series:?} is of another kind than {family:?}");
    let names: Vec<_> = series.labels.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, family.labels, "{series:?} has other labels than its family");
}

#[test]
fn every_series_belongs_to_a_family_of_its_kind_and_labels() {
    Counter::ALL.iter().for_each(|v| check(v.series(), &[Kind::Counter]));
    Gauge::ALL.iter().for_each(|v| check(v.series(), &[Kind::Gauge, Kind::Highest]));
    Histogram::ALL.iter().for_each(|v| check(v.series(), &[Kind::Histogram]));
    Upstream::ALL.iter().for_each(|v| check(v.series(), &[Kind::Highest]));
}

#[test]
fn no_series_is_named_twice() {
    let mut seen = HashSet::new();
    for series in fixed_series() {
        assert!(seen.insert(series), "{series:?} is there twice");
    }
}

#[test]
fn every_family_is_named_once_and_has_values() {
    let mut seen = HashSet::new();
    let rendered_apart = [BUILD_INFO, UPSTREAM_INFO];
    for family in FAMILIES {
        assert!(seen.insert(family.name), "{} is there twice", family.name);
        let fixed = fixed_series().any(|series| series.family == family.name);
        let by_label = family.labels.iter().any(|label| !family.values(label).is_empty());
        assert!(fixed || by_label || rendered_apart.contains(&family.name), "{} has no series", family.name);
    }
}

#[test]
fn names_carry_the_prefix_and_their_unit() {
    for Family { name, kind, unit, help, .. } in FAMILIES {
        assert!(name.starts_with("sidecache_"), "{name}");
        assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        let stem = name.trim_end_matches("_total");
        assert_eq!(stem.ends_with("_bytes"), *unit == Unit::Bytes, "{name}");
        assert_eq!(stem.ends_with("_seconds"), *unit == Unit::Seconds, "{name}");
    }
}

#[test]
fn label_enums_and_series_agree() {
    for pool in Pool::ALL {
        let series = [
            Counter::pool_timeouts(*pool).series(),
            Counter::pool_created(*pool).series(),
            Gauge::pool_in_use(*pool).series(),
            Gauge::pool_idle(*pool).series(),
            Gauge::pool_waiting(*pool).series(),
        ];
        assert!(series.iter().all(|s| s.labels == [("pool", pool.label())]), "{pool:?}");
    }
    for state in LaneState::ALL {
        assert_eq!(Gauge::lanes(*state).series().labels, [("state", state.label())]);
    }
    for reason in EpochBump::ALL {
        assert_eq!(Counter::epoch_bumps(*reason).series().labels, [("reason", reason.label())]);
    }
}

/// docs/metrics.md, made of the table.
fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         At `/metrics` of the admin address (default `127.0.0.1:9180`), in Prometheus's text format. This page is made\n\
         from `src/telemetry/metrics.rs`; `UPDATE_DOCS=1 cargo test` writes it anew.\n\n\
         Counters are sums over all workers. What upstream tells of itself (`sidecache_upstream_*` gauges) is asked\n\
         with `INFO` at most every 5 s and only while `/metrics` is read; its own counters are gauges here, since they\n\
         fall when it restarts.\n\n\
         | name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Highest => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", family.name, labels.join(", "), family.help);
    }
    for (name, kind, help) in process::FAMILIES {
        let _ = writeln!(text, "| `{name}` | {kind} | | {help} |");
    }
    text += "\n## Values of labels\n\n| name | label | values |\n|---|---|---|\n";
    for family in FAMILIES {
        for label in family.labels {
            let values: Vec<_> = family.values(label).into_iter().map(|value| format!("`{value}`")).collect();
            if !values.is_empty() {
                let _ = writeln!(text, "| `{}` | `{label}` | {} |", family.name, values.join(" "));
            }
        }
    }
    text
}

#[test]
fn the_document_of_the_metrics_is_up_to_date() {
    crate::telemetry::test_docs::check("docs/metrics.md", &document());
}
