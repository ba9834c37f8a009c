//! Sentinels that are away, refuse, or tell of others.

use std::time::Duration;

use super::{PATIENT, allow_loss};
use crate::support::sentinel::SERVICE;
use crate::support::wait::steadily;
use crate::support::{Kind, Sentinels, Sidecar, V, eventually};

const OK: fn() -> V = || V::Simple("OK".into());

#[test]
fn sentinels_may_come_after_the_sidecar_and_only_one_need_be_named() {
    let all = Sentinels::start(Kind::Redis);
    (0..3).for_each(|at| all.sentinel(at).kill());
    let seed = format!("redis-sentinel://{}/{SERVICE}", all.sentinel(0).addr());
    let sidecar = Sidecar::start_alone(&*seed, PATIENT);
    allow_loss(&sidecar);
    let complaints = || sidecar.logs().iter().filter(|line| line.contains("WARN")).count();
    eventually("it is told that nobody answers", || complaints() == 1);
    let mut client = sidecar.conn();
    client.send(&["SET", "k", "1"]);
    assert_eq!(sidecar.http("/readyz").0, 503);
    steadily("told once", Duration::from_millis(1500), || complaints() == 1);
    (0..3).for_each(|at| all.sentinel(at).restart());
    assert_eq!(client.value(), OK());
    eventually("the others are found", || sidecar.metric("sidecache_sentinels") == 3.0);
    // The one that was named goes, then another; the last one does.
    all.sentinel(0).kill();
    eventually("two are left", || sidecar.metric("sidecache_sentinels") == 2.0);
    let new = all.fail_over();
    eventually("it is where the master is", || {
        let moved = client.line("SET k 2") == OK();
        moved && all.server(new).outside("GET k") == V::bulk("2")
    });
    all.sentinel(1).kill();
    eventually("one is left", || sidecar.metric("sidecache_sentinels") == 1.0);
    assert_eq!(client.line("SET k 3"), OK());
    all.sentinel(2).kill();
    eventually("none is left", || sidecar.metric("sidecache_sentinels") == 0.0);
    // The master is no less one for that.
    assert_eq!((client.line("SET k 4"), client.line("GET k")), (OK(), V::bulk("4")));
}

#[test]
fn sentinels_have_a_password_of_their_own() {
    let all = Sentinels::with(
        Kind::Redis,
        &["--requirepass", "server", "--masterauth", "server"],
        &["sentinel auth-pass mymaster server", "requirepass sentinel"],
    );
    let with = |password: &str| {
        let passwords = format!("upstream.password = 'server'\nupstream.sentinel_password = '{password}'");
        format!("{PATIENT}\n{passwords}")
    };
    let sidecar = Sidecar::start(&all, &with("sentinel"));
    assert_eq!(sidecar.conn().line("SET k 1"), OK());
    eventually("all Sentinels answer", || sidecar.metric("sidecache_sentinels") == 3.0);

    for password in ["server", ""] {
        let sidecar = Sidecar::start_alone(&all, &with(password));
        let refusal = "a Sentinel refuses to tell the master of mymaster";
        sidecar.allow_log(refusal);
        eventually("it is told", || sidecar.complaints().is_empty() && !warnings(&sidecar).is_empty());
        steadily("told once", Duration::from_millis(1500), || warnings(&sidecar).len() == 1);
        assert!(warnings(&sidecar)[0].contains(refusal), "{:?}", warnings(&sidecar));
    }
}

#[test]
fn a_service_that_no_sentinel_knows_is_told_of_once() {
    let all = Sentinels::start(Kind::Valkey);
    let sidecar =
        Sidecar::start_alone(&*format!("redis-sentinel://{}/other", all.seeds()), "upstream.failover_wait = '1s'");
    sidecar.allow_log("No such master with that name");
    eventually("it is told", || !warnings(&sidecar).is_empty());
    let reply = sidecar.conn().line("SET k 1");
    assert!(matches!(&reply, V::Error(text) if text.contains("master other")), "{reply:?}");
    steadily("told once", Duration::from_millis(1500), || warnings(&sidecar).len() == 1);
}

fn warnings(sidecar: &Sidecar) -> Vec<String> {
    sidecar.logs().into_iter().filter(|line| line.contains("WARN")).collect()
}
