//! A master that is one no more is left, with all that clients had there, though it is well and can be reached.

use super::{PATIENT, allow_loss};
use crate::support::{Conn, Kind, Sentinels, Sidecar, V, eventually};

const OK: fn() -> V = || V::Simple("OK".into());

/// A client that waits on a connection of its own is at the server.
fn awaits(all: &Sentinels, command: &str) {
    eventually("it is blocked at the master", || {
        all.server(0).outside("CLIENT LIST").text().contains(&format!(" cmd={command} "))
    });
}

fn what_clients_had_at_the_old_master_ends(kind: Kind) {
    let all = Sentinels::start(kind);
    let sidecar = Sidecar::start(&all, PATIENT);
    allow_loss(&sidecar);
    let mut blocked = sidecar.conn();
    blocked.send(&["BLPOP", "list", "0"]);
    awaits(&all, "blpop");
    let mut subscriber = sidecar.conn();
    assert_eq!(subscriber.line("SUBSCRIBE channel").items().len(), 3);
    let mut watching = sidecar.conn();
    assert_eq!(watching.line("WATCH k"), OK());
    let mut spelling = sidecar.conn();
    assert_eq!((spelling.line("MULTI"), spelling.line("SET k 1")), (OK(), V::Simple("QUEUED".into())));

    let new = all.fail_over();
    let error = blocked.value();
    assert!(matches!(&error, V::Error(text) if text.contains("lost") || text.contains("UNBLOCKED")), "{error:?}");
    assert_eq!(blocked.line("PING"), V::Simple("PONG".into()));
    for client in [&mut subscriber, &mut watching, &mut spelling] {
        client.expect_closed();
    }
    // Anew, all of it is at the new master.
    let mut subscriber = sidecar.conn();
    assert_eq!(subscriber.line("SUBSCRIBE channel").items().len(), 3);
    assert_eq!(all.server(new).outside("PUBLISH channel x"), V::Int(1));
    assert_eq!(subscriber.value().items()[2], V::bulk("x"));
    blocked.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked there", || all.server(new).outside("CLIENT LIST").text().contains(" cmd=blpop "));
    all.server(new).outside("RPUSH list x");
    assert_eq!(blocked.value().items()[1], V::bulk("x"));
    nothing_is_left_at(&mut all.server(0).conn());
}

/// No connection of ours is there any more.
fn nothing_is_left_at(server: &mut Conn) {
    eventually("nothing is left there", || {
        let list = server.line("CLIENT LIST").text();
        !list.contains("lib-name=sidecache") && !list.contains("name=sidecache")
    });
}

#[test]
fn what_clients_had_at_the_old_master_of_redis_ends() {
    what_clients_had_at_the_old_master_ends(Kind::Redis);
}

#[test]
fn what_clients_had_at_the_old_master_of_valkey_ends() {
    what_clients_had_at_the_old_master_ends(Kind::Valkey);
}

#[test]
fn an_isolated_master_is_left_though_it_answers() {
    let all = Sentinels::start(Kind::Redis);
    for at in 0..3 {
        all.server(at).outside("ACL SETUSER app on >secret ~* &* +@all");
    }
    let sidecar = Sidecar::start(&all, &format!("{PATIENT}\nupstream.user = 'app'\nupstream.password = 'secret'"));
    allow_loss(&sidecar);
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), OK());
    // Nobody but us will end these.
    let [mut blocked, mut subscriber, mut watching] = std::array::from_fn(|_| sidecar.conn());
    blocked.send(&["BLPOP", "list", "0"]);
    awaits(&all, "blpop");
    assert_eq!(subscriber.line("SUBSCRIBE channel").items().len(), 3);
    assert_eq!(watching.line("WATCH k"), OK());
    let mut old = all.server(0).conn();
    assert_eq!(old.line("AUTH app secret"), OK());
    // Sentinels and replicas cannot ask it anything any more; we can.
    assert_eq!(old.line("ACL SETUSER default -@all"), OK());
    let mut new = 0;
    crate::support::wait::in_the_end("another is the master", || {
        new = all.master_by(0);
        new != 0 && all.master_by(1) == new
    });
    let mut number = 1;
    eventually("it is left", || {
        number += 1;
        assert_eq!(client.line(&format!("SET k {number}")), OK());
        old.line("GET k") != V::bulk(number.to_string())
    });
    assert_eq!(all.server(new).outside("GET k"), V::bulk(number.to_string()));
    assert_eq!(client.line("GET k"), V::bulk(number.to_string()));
    assert_eq!(old.line("ROLE").items()[0], V::bulk("master"));
    let error = blocked.value();
    assert!(matches!(&error, V::Error(text) if text.contains("the node is not the master any more")), "{error:?}");
    subscriber.expect_closed();
    watching.expect_closed();
    nothing_is_left_at(&mut old);
}

/// Without slots every two commands may be about the same: what waits must not follow a later one that has taken effect.
#[test]
fn what_waits_is_given_up_for_any_later_command_that_has_taken_effect() {
    // Where the sidecar looks at the master's role just then, it leaves it, and both commands wait for the next.
    let is_seen = (0..20).any(|_| {
        let all = Sentinels::start(Kind::Redis);
        let sidecar = Sidecar::start(&all, PATIENT);
        allow_loss(&sidecar);
        let mut client = sidecar.conn();
        assert_eq!(client.line("SET k 0"), OK());
        (0..3).for_each(|at| all.sentinel(at).stop());
        let (mut master, other) = (all.server(0).conn(), all.server(1).port());
        assert_eq!(master.line(&format!("REPLICAOF 127.0.0.1 {other}")), OK());
        // Replicas publish.
        client.send_raw(b"SET k 1\r\nPUBLISH channel x\r\n");
        eventually("it is turned away, or waits", || {
            let left = sidecar.logs().iter().any(|line| line.contains("any more; commands wait"));
            left || sidecar.metric("sidecache_redirects_total{kind=\"try_again\"}") > 0.0
        });
        let published = all.server(0).calls("publish") > 0;
        assert_eq!(master.line("REPLICAOF NO ONE"), OK());
        if published {
            let (set, published) = (client.value(), client.value());
            assert!(matches!(&set, V::Error(text) if text.starts_with("READONLY ")), "{set:?}");
            assert_eq!((published, master.line("GET k")), (V::Int(0), V::bulk("0")));
        }
        (0..3).for_each(|at| all.sentinel(at).cont());
        published
    });
    assert!(is_seen, "the sidecar was always faster");
}

#[test]
fn a_demoted_master_is_left_though_nobody_knows_another() {
    let all = Sentinels::start(Kind::Valkey);
    let sidecar = Sidecar::start(&all, PATIENT);
    allow_loss(&sidecar);
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), OK());
    (0..3).for_each(|at| all.sentinel(at).stop());
    let other = all.server(1).port();
    all.server(0).outside(&format!("REPLICAOF 127.0.0.1 {other}"));
    let said = |text: &str| sidecar.logs().iter().any(|line| line.contains(text));
    eventually("it is left", || said("is not the master of mymaster any more; commands wait for the new one"));
    let times = |text: &str| sidecar.logs().iter().filter(|line| line.contains(text)).count();
    // Certainly not sent, so it waits, and is not told READONLY.
    client.send(&["SET", "k", "2"]);
    all.server(0).outside("REPLICAOF NO ONE");
    (0..3).for_each(|at| all.sentinel(at).cont());
    assert_eq!(client.value(), OK());
    assert_eq!(client.line("GET k"), V::bulk("2"));
    assert_eq!(
        (times("is not the master of mymaster any more"), times(" again")),
        (1, 1),
        "it was taken back too early"
    );
    let info = client.line("INFO sidecache").text();
    assert!(info.contains(&format!("sidecache_master:{}\r\n", all.server(0).addr())), "{info}");
}
