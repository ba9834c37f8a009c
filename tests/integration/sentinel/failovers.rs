//! The master changes under load: by a crash, by silence, by command.

use std::time::Instant;

use super::load::Load;
use super::{PATIENT, allow_loss, hits};
use crate::support::wait::{LONG_PATIENCE, in_the_end};
use crate::support::{Kind, Sentinels, Sidecar, V, eventually};

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

/// The first master is the master again: what it says counts as if it had never been left, and nothing of before does.
#[test]
fn a_failover_is_undone() {
    let all = Sentinels::start(Kind::Redis);
    assert_eq!(all.server(2).outside("CONFIG SET replica-priority 0"), V::Simple("OK".into()));
    in_the_end("no Sentinel will choose the third server", || {
        (0..3).all(|at| {
            let replicas = all.sentinel(at).conn().line("SENTINEL REPLICAS mymaster");
            replicas.items().iter().any(|replica| replica.field("slave-priority") == Some(&V::bulk("0")))
        })
    });
    let sidecar = Sidecar::start(&all, PATIENT);
    allow_loss(&sidecar);
    let load = Load::start(&sidecar);
    let (mut client, mut writer) = (sidecar.conn(), sidecar.conn());
    [&mut client, &mut writer].into_iter().for_each(|conn| conn.set_patience(LONG_PATIENCE));
    let mut warm = |value: &str| {
        in_the_end("it is a hit", || {
            let before = hits(&sidecar);
            client.line("GET k") == V::bulk(value) && hits(&sidecar) > before
        });
    };
    let mut write = |value: &str| in_the_end("it is written", || writer.line(&format!("SET k {value}")) == ok());
    write("1");
    warm("1");
    let mut master = 0;
    for value in ["2", "3"] {
        // Of two servers each time the other.
        master = all.fail_over();
        assert_ne!(master, 2);
        load.go_on();
        write(value);
        // Served from the cache, and kept right by this master's pushes.
        warm(value);
        let outside = format!("{value}0");
        all.server(master).outside(&format!("SET k {outside}"));
        warm(&outside);
        all.await_replicas_of(master);
    }
    let changes = sidecar.metric("sidecache_topology_changes_total");
    load.end(changes as usize, all.server(master));
}

fn ok() -> V {
    V::Simple("OK".into())
}
