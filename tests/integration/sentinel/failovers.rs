//! The master changes under load: by a crash, by silence, by command.

use std::time::Instant;

use super::load::Load;
use super::{PATIENT, allow_loss};
use crate::support::{Kind, Sentinels, Sidecar, eventually};

/// How the old master goes.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Killed.
    Crash,
    /// Stopped; its sockets stay open.
    Silence,
    /// It is well, and becomes a replica.
    Command,
}

fn the_master_goes(kind: Kind, how: How) {
    let all = Sentinels::start(kind);
    let threads = if kind == Kind::Valkey { 2 } else { 1 };
    let sidecar = Sidecar::start(&all, &format!("threads = {threads}\n{PATIENT}"));
    allow_loss(&sidecar);
    let load = Load::start(&sidecar);
    load.go_on();
    let begun = Instant::now();
    let new = match how {
        How::Crash => {
            all.server(0).kill();
            all.await_other_master(0)
        }
        How::Silence => {
            all.server(0).stop();
            all.await_other_master(0)
        }
        How::Command => all.fail_over(),
    };
    let agreed = begun.elapsed();
    load.go_on();
    // A failover that fails, as on a busy machine, takes more than one.
    let changes = sidecar.metric("sidecache_topology_changes_total");
    let outcome = load.end(changes as usize, all.server(new));
    eprintln!(
        "{kind:?}, {how:?}: longest gap {:?}; all Sentinels agreed after {agreed:?}; {} tried again; {} errors: {:?}",
        outcome.gap,
        sidecar.metric("sidecache_redirects_total{kind=\"try_again\"}"),
        outcome.errors.len(),
        outcome.errors.first()
    );
    let to = format!("→ {}; ", all.server(new).addr());
    eventually("the operator is told", || {
        sidecar.logs().iter().any(|line| line.contains("master of mymaster moved") && line.contains(&to))
    });
    if let How::Silence = how {
        all.server(0).cont();
    }
}

#[test]
fn a_redis_master_crashes() {
    the_master_goes(Kind::Redis, How::Crash);
}

#[test]
fn a_redis_master_falls_silent() {
    the_master_goes(Kind::Redis, How::Silence);
}

#[test]
fn a_redis_master_is_changed_by_command() {
    the_master_goes(Kind::Redis, How::Command);
}

#[test]
fn a_valkey_master_crashes() {
    the_master_goes(Kind::Valkey, How::Crash);
}

#[test]
fn a_valkey_master_falls_silent() {
    the_master_goes(Kind::Valkey, How::Silence);
}

#[test]
fn a_valkey_master_is_changed_by_command() {
    the_master_goes(Kind::Valkey, How::Command);
}
