//! The push matrix: every write of the command table from outside, against every cached read of it. After the write each
//! cached reply is what the server says, and a push is what brought that about; on Redis and on Valkey.
//!
//! Both are made of the samples, so a new row without one fails by name. The reads that are not cached look on directly,
//! with tracking on: where a write changes a reply and sends no push, the exceptions say why that is no fault, and a
//! cached read among them is one. An exception that is no longer needed fails too.

use sidecache::command::{Row, index};
use sidecache::telemetry::labels::Class;

use crate::matrix::ways::NO_ARGS;
use crate::support::redis::Kind;

mod bench;
mod commands;
mod exceptions;

use bench::{Bench, Seen};
use exceptions::{SILENT, SILENT_ON_VALKEY, VARYING, WITHOUT_EFFECT, WITHOUT_LINE};

/// So many faults are waited for, no more.
const FAULTS: usize = 3;

#[test]
fn every_outside_write_is_seen_through_every_cached_read_on_redis() {
    run_all(Kind::Redis);
}

#[test]
fn every_outside_write_is_seen_through_every_cached_read_on_valkey() {
    run_all(Kind::Valkey);
}

fn run_all(kind: Kind) {
    let mut bench = Bench::new(kind, commands::setup(), commands::reads());
    let mut seen = Seen::default();
    for write in commands::writes() {
        if bench.knows(write.row.name) && seen.faults.len() < FAULTS {
            bench.run(&write, &mut seen);
        }
    }
    assert!(seen.faults.is_empty(), "{kind:?}:\n{}", seen.faults.join("\n"));
    let faults = incomplete(&mut bench, kind, &seen);
    assert!(faults.is_empty(), "{kind:?}:\n{}", faults.join("\n"));
}

/// What was not tried although it should have been, and what is excused although it need not be.
fn incomplete(bench: &mut Bench, kind: Kind, seen: &Seen) -> Vec<String> {
    let mut faults = Vec::new();
    let mut known: Vec<&Row> = index::rows().filter(|row| !row.is_container()).collect();
    known.retain(|row| bench.knows(row.name));
    let listed = |list: &[(&str, &str)], row: &Row| list.iter().any(|(name, _)| *name == row.name);
    for row in &known {
        let name = row.name;
        if row.is_write() && seen.writes.contains(name) == listed(&WITHOUT_LINE, row) {
            faults.push(format!("{name}: has no sample, or has one and is excused"));
        }
        if seen.writes.contains(name) && seen.effective.contains(name) == listed(&WITHOUT_EFFECT, row) {
            faults.push(format!("{name}: changes no cached reply, or changes one and is excused"));
        }
        let cached = matches!(row.class(&NO_ARGS), Class::Read | Class::Mget);
        if cached && !seen.changed.contains(name) {
            faults.push(format!("{name}: is cached, and no write has changed its reply"));
        }
    }
    let knows = |name: &str| name == "*" || known.iter().any(|row| row.name == name);
    for (write, read) in SILENT.iter().flat_map(|(write, reads, _)| reads.iter().map(move |read| (*write, *read))) {
        let is_silent = seen.silent.iter().any(|&(w, r)| w == write && (read == "*" || r == read));
        let is_there = kind == Kind::Valkey || !SILENT_ON_VALKEY.contains(&(write, read));
        if is_there && knows(write) && knows(read) && !is_silent {
            faults.push(format!("{write}: a push tells what it changes for {read}; take it off the list"));
        }
    }
    let excused = VARYING.iter().chain(&WITHOUT_EFFECT).chain(&WITHOUT_LINE);
    faults.extend(
        excused.filter(|(name, _)| index::named(name).is_none()).map(|(name, _)| format!("{name}: is no command")),
    );
    faults
}
