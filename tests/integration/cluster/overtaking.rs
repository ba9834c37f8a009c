//! Commands that must be sent elsewhere are not overtaken by later ones of the same client.

use std::time::Duration;

use super::PATIENT;
use crate::support::cluster::SlotMove;
use crate::support::resp::{encode, words};
use crate::support::wait::steadily;
use crate::support::{Cluster, Conn, Dir, Kind, Link, Sidecar, V, eventually};

/// Sends all lines in one write.
fn send(client: &mut Conn, lines: &[&str]) {
    client.send_raw(&lines.iter().flat_map(|line| encode(&words(line))).collect::<Vec<u8>>());
}

fn ok() -> V {
    V::Simple("OK".into())
}

/// A cluster, a client of a sidecar before it, and two keys of a slot that is being moved: the first has been, the second not.
fn half_moved(test: impl FnOnce(&Cluster, &mut Conn, [&str; 2], SlotMove<'_>)) {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let tag = cluster.key_on(0, "k");
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("MSET {{{tag}}}x 0 {{{tag}}}y 0")), ok());
    // Read before, they are worth keeping when they are read again.
    client.line(&format!("MGET {{{tag}}}x {{{tag}}}y"));
    let moving = cluster.begin_move(cluster.slot(&tag), 0, 1);
    assert_eq!(moving.keys(1), 1);
    let [x, y] = ["x", "y"].map(|name| format!("{{{tag}}}{name}"));
    let is_there = |key: &str| cluster.node(0).conn().line(&format!("EXISTS {key}")) == V::Int(1);
    let (there, moved) = if is_there(&x) { (&x, &y) } else { (&y, &x) };
    test(&cluster, &mut client, [moved, there], moving);
}

/// The value at the new owner.
fn at_importer(cluster: &Cluster, key: &str) -> V {
    cluster.node(1).conn().line(&format!("GET {key}"))
}

/// What waits because its keys lie on two nodes is not overtaken by what could be sent on at once.
#[test]
fn a_write_that_is_sent_on_queues_behind_one_that_waits() {
    half_moved(|cluster, client, [moved, there], moving| {
        send(client, &[&format!("MSET {moved} 1 {there} 1"), &format!("SET {moved} 2")]);
        client.nothing_for(Duration::from_millis(100));
        while moving.keys(10) > 0 {}
        moving.finish();
        assert_eq!([client.value(), client.value()], [ok(), ok()]);
        assert_eq!([at_importer(cluster, moved), at_importer(cluster, there)], [V::bulk("2"), V::bulk("1")]);
    });
}

/// If a later write of the same slot was executed all the same, the earlier must not be any more.
#[test]
fn a_write_that_waits_is_given_up_when_a_later_one_was_executed() {
    half_moved(|cluster, client, [moved, there], moving| {
        send(client, &[&format!("MSET {moved} 1 {there} 1"), &format!("SET {there} 2")]);
        let mut direct = cluster.node(0).conn();
        eventually("the second is executed", || direct.line(&format!("GET {there}")) == V::bulk("2"));
        while moving.keys(10) > 0 {}
        moving.finish();
        let [first, second] = [client.value(), client.value()];
        assert!(matches!(&first, V::Error(text) if text.starts_with("TRYAGAIN ")), "{first:?}");
        assert_eq!(second, ok());
        assert_eq!([at_importer(cluster, moved), at_importer(cluster, there)], [V::bulk("0"), V::bulk("2")]);
    });
}

/// So must a transaction, which waits for the end of its slot's move.
#[test]
fn a_transaction_that_waits_is_given_up_when_a_later_one_was_executed() {
    half_moved(|cluster, client, [moved, there], moving| {
        let lines = ["MULTI", &format!("SET {moved} 1"), "EXEC", "MULTI", &format!("SET {there} 2"), "EXEC"]
            .map(str::to_string);
        send(client, &lines.each_ref().map(String::as_str));
        let replies: Vec<V> = lines.iter().map(|_| client.value()).collect();
        while moving.keys(10) > 0 {}
        moving.finish();
        assert!(matches!(&replies[2], V::Error(text) if text.starts_with("TRYAGAIN ")), "{replies:?}");
        assert_eq!(replies[5], V::Array(vec![ok()]), "{replies:?}");
        assert_eq!([at_importer(cluster, moved), at_importer(cluster, there)], [V::bulk("0"), V::bulk("2")]);
    });
}

/// What is sent only when something waits already is not sent on before that has been answered: it costs no error.
#[test]
fn what_is_sent_while_something_waits_is_executed_behind_it() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let tag = cluster.key_on(0, "k");
    let [x, y] = ["x", "y"].map(|name| format!("{{{tag}}}{name}"));
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("MSET {x} 0 {y} 0")), ok());
    let moving = cluster.begin_move(cluster.slot(&tag), 0, 1);
    assert_eq!(moving.keys(1), 1);
    send(&mut client, &[&format!("MSET {x} 1 {y} 1")]);
    eventually("it waits", || sidecar.metric("sidecache_redirects_total{kind=\"try_again\"}") > 0.0);
    let sets = [format!("SET {x} 2"), format!("SET {y} 2")];
    send(&mut client, &[&sets[0], "MULTI", &sets[1], "EXEC"]);
    client.nothing_for(Duration::from_millis(100));
    while moving.keys(10) > 0 {}
    moving.finish();
    let replies: Vec<V> = (0..5).map(|_| client.value()).collect();
    assert_eq!([&replies[0], &replies[1], &replies[4]], [&ok(), &ok(), &V::Array(vec![ok()])], "{replies:?}");
    assert_eq!([at_importer(&cluster, &x), at_importer(&cluster, &y)], [V::bulk("2"), V::bulk("2")]);
}

/// A reply so large that it is passed on in pieces, which is done before it is whole.
fn large() -> String {
    "x".repeat(8 << 20)
}

/// What the old owner still says of a key is too old once the writes before have been done.
#[test]
fn a_read_with_a_large_reply_is_asked_again_behind_the_write_that_waits() {
    half_moved(|cluster, client, [moved, there], moving| {
        assert_eq!(cluster.node(0).conn().ask(&["SET", there, &large()]), ok());
        let read = cluster.node(0).calls("get");
        send(client, &[&format!("MSET {moved} 1 {there} 1"), &format!("GET {there}")]);
        eventually("it is read where it was", || cluster.node(0).calls("get") > read);
        client.nothing_for(Duration::from_millis(100));
        while moving.keys(10) > 0 {}
        moving.finish();
        assert_eq!(client.value(), ok());
        let seen = client.value();
        assert!(seen == V::bulk("1"), "{} bytes", seen.text().len());
    });
}

/// As with any write: what waits before it would now follow it.
#[test]
fn a_write_that_waits_is_given_up_when_a_later_one_has_a_large_reply() {
    half_moved(|cluster, client, [moved, there], moving| {
        assert_eq!(cluster.node(0).conn().ask(&["SET", there, &large()]), ok());
        send(client, &[&format!("MSET {moved} 1 {there} 1"), &format!("GETSET {there} 2")]);
        let mut direct = cluster.node(0).conn();
        eventually("the second is executed", || direct.line(&format!("GET {there}")) == V::bulk("2"));
        let [first, second] = [client.value(), client.value()];
        assert!(matches!(&first, V::Error(text) if text.starts_with("TRYAGAIN ")), "{first:?}");
        assert!(second == V::bulk(large()), "{} bytes", second.text().len());
        while moving.keys(10) > 0 {}
        moving.finish();
        assert_eq!([at_importer(cluster, moved), at_importer(cluster, there)], [V::bulk("0"), V::bulk("2")]);
    });
}

/// What a client has sent already is answered before what waits is tried again, wherever it was sent.
#[test]
fn what_waits_is_tried_again_behind_what_is_on_its_way_to_others() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let link = Link::to(cluster.node(2).addr());
    let toml = format!("{PATIENT}\nupstream.address_map = ['{}={}']", cluster.node(2).addr(), link.addr());
    let sidecar = Sidecar::start(&cluster, &toml);
    let (tag, other) = (cluster.key_on(0, "k"), cluster.key_on(2, "o"));
    let [x, y] = ["x", "y"].map(|name| format!("{{{tag}}}{name}"));
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("MSET {x} 0 {y} 0")), ok());
    assert_eq!(client.line(&format!("SET {other} 0")), ok());
    let moving = cluster.begin_move(cluster.slot(&tag), 0, 1);
    assert_eq!(moving.keys(1), 1);
    let lanes = link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
    lanes.iter().for_each(|lane| lane.hold(Dir::ToServer));
    let tried = || sidecar.metric("sidecache_redirects_total{kind=\"try_again\"}");
    send(&mut client, &[&format!("SET {other} 1"), &format!("MSET {x} 1 {y} 1")]);
    eventually("it is turned away", || tried() > 0.0);
    while moving.keys(10) > 0 {}
    moving.finish();
    let mut importer = cluster.node(1).conn();
    let get = format!("GET {x}");
    steadily("it waits", Duration::from_millis(500), || importer.line(&get) == V::bulk("0") && tried() == 1.0);
    lanes.iter().for_each(|lane| lane.resume(Dir::ToServer));
    assert_eq!([client.value(), client.value()], [ok(), ok()]);
    assert_eq!(importer.line(&get), V::bulk("1"));
}

/// What is turned away after a later command of the client is tried again before it all the same.
#[test]
fn what_waits_is_tried_again_in_the_client_s_order_whatever_was_turned_away_first() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let link = Link::to(cluster.node(1).addr());
    let toml = format!("{PATIENT}\nupstream.address_map = ['{}={}']", cluster.node(1).addr(), link.addr());
    let sidecar = Sidecar::start(&cluster, &toml);
    let (key, other) = (cluster.key_on(0, "k"), cluster.key_on(1, "o"));
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("SET {other} 0")), ok());
    // The slot's importer is asked for a key that is not there.
    let moving = cluster.begin_move(cluster.slot(&key), 0, 1);
    let lanes = link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
    lanes.iter().for_each(|lane| lane.hold(Dir::ToServer));
    let asked = || sidecar.metric("sidecache_redirects_total{kind=\"ask\"}");
    send(&mut client, &[&format!("STRLEN {key}"), "MULTI", &format!("SET {key} 12"), "EXEC"]);
    eventually("both are turned away", || asked() == 2.0);
    // It is not to be one any more, and sends the first back, which is later than the second then.
    moving.give_up();
    lanes.iter().for_each(|lane| lane.resume(Dir::ToServer));
    let replies: Vec<V> = (0..4).map(|_| client.value()).collect();
    assert_eq!([&replies[0], &replies[3]], [&V::Int(0), &V::Array(vec![ok()])], "{replies:?}");
    assert_eq!(cluster.node(0).conn().line(&format!("GET {key}")), V::bulk("12"));
}

/// Of another slot, it may be: a transaction waits for the end of its slot's move and is executed then.
#[test]
fn what_waits_is_not_given_up_for_what_is_done_in_another_slot() {
    half_moved(|cluster, client, [moved, _], moving| {
        let other = cluster.key_on(0, "other");
        let lines = ["MULTI", &format!("SET {moved} 1"), "EXEC", &format!("SET {other} 1"), &format!("GET {other}")];
        send(client, &lines);
        let mut direct = cluster.node(0).conn();
        eventually("the later one is executed", || direct.line(&format!("GET {other}")) == V::bulk("1"));
        while moving.keys(10) > 0 {}
        moving.finish();
        let replies: Vec<V> = lines.iter().map(|_| client.value()).collect();
        assert_eq!(replies[2..], [V::Array(vec![ok()]), ok(), V::bulk("1")], "{replies:?}");
    });
}

/// Parts of a command that wait at the same time are all tried again, and what stands behind them is executed after them.
#[test]
fn all_parts_of_a_command_that_wait_are_tried_again() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let tags = ["k", "l"].map(|name| cluster.key_on(0, name));
    let keys: Vec<String> = tags.iter().flat_map(|tag| [format!("{{{tag}}}x"), format!("{{{tag}}}y")]).collect();
    let all = |value: &str| keys.iter().map(|key| format!(" {key} {value}")).collect::<String>();
    let mut client = sidecar.conn();
    assert_eq!(client.line(&format!("MSET{}", all("0"))), ok());
    let moves = tags.each_ref().map(|tag| cluster.begin_move(cluster.slot(tag), 0, 1));
    moves.iter().for_each(|moving| assert_eq!(moving.keys(1), 1));
    let mget = format!("MGET {}", keys.join(" "));
    send(&mut client, &[&format!("MSET{}", all("1")), &mget]);
    client.nothing_for(Duration::from_millis(100));
    for moving in moves {
        while moving.keys(10) > 0 {}
        moving.finish();
    }
    assert_eq!([client.value(), client.value()], [ok(), V::Array(vec![V::bulk("1"); 4])]);
}

/// An MGET asks how long its keys live where they are first sought; what another node answers is not kept all the same.
#[test]
fn what_an_mget_shows_by_a_redirect_is_not_kept() {
    half_moved(|cluster, client, [moved, there], moving| {
        let mget = format!("MGET {moved} {there}");
        send(client, &[&mget]);
        client.nothing_for(Duration::from_millis(100));
        while moving.keys(10) > 0 {}
        assert_eq!(client.value(), V::Array(vec![V::bulk("0"), V::bulk("0")]));
        for value in ["1", "2", "3"] {
            let line = format!("SET {there} {value}");
            assert_eq!(cluster.node(1).conn().pipeline(&["ASKING", &line])[1], ok());
            assert_eq!(client.line(&mget), V::Array(vec![V::bulk("0"), V::bulk(value)]));
        }
        moving.finish();
    });
}

/// `SET k 1` is on its way to the old owner when the map changes: `SET k 2` must not reach the new one before it.
#[test]
fn a_write_by_the_new_map_waits_for_those_by_the_old() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let link = Link::to(cluster.node(0).addr());
    let toml = format!("{PATIENT}\nupstream.address_map = ['{}={}']", cluster.node(0).addr(), link.addr());
    let sidecar = Sidecar::start(&cluster, &toml);
    let key = cluster.key_on(0, "k");
    let (mut client, mut other) = (sidecar.conn(), sidecar.conn());
    assert_eq!(client.line(&format!("SET {key} 0")), ok());
    let lanes = link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
    lanes.iter().for_each(|lane| lane.hold(Dir::ToServer));
    let before: u64 = lanes.iter().map(|lane| lane.bytes(Dir::ToServer)).sum();
    send(&mut client, &[&format!("SET {key} 1")]);
    eventually("it is on its way", || lanes.iter().map(|lane| lane.bytes(Dir::ToServer)).sum::<u64>() > before);
    let changes = sidecar.metric("sidecache_topology_changes_total");
    cluster.migrate_slot(cluster.slot(&key), 0, 1);
    eventually("the sidecar knows", || sidecar.metric("sidecache_topology_changes_total") > changes);
    send(&mut client, &[&format!("SET {key} 2")]);
    // By then the second would have been executed, had it been sent.
    for n in 0..20 {
        assert_eq!(other.line(&format!("SET {{{key}}}other {n}")), ok());
    }
    lanes.iter().for_each(|lane| lane.resume(Dir::ToServer));
    assert_eq!([client.value(), client.value()], [ok(), ok()]);
    assert_eq!(at_importer(&cluster, &key), V::bulk("2"));
}

/// Nobody has sent it yet when its slot's owner turns out to be another: it goes there whole, before what stands behind it.
#[test]
fn a_transaction_that_waits_for_a_connection_goes_to_the_new_owner_before_the_read_behind_it() {
    let cluster = Cluster::start(Kind::Redis, 3, 1);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    sidecar.allow_log("lane lost");
    sidecar.allow_log("no connection to upstream");
    let keys: Vec<String> = (0..20).map(|n| cluster.key_on(1, &format!("k{n}x"))).collect();
    let mut client = sidecar.conn();
    for key in &keys {
        assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
    }
    let replica = cluster.replicas_of(1)[0];
    eventually("the replica has them", || cluster.node(replica).conn().line("DBSIZE") == V::Int(20));
    cluster.node(1).kill();
    let lost = || sidecar.logs().iter().any(|line| line.contains("lane lost") || line.contains("no connection"));
    let mut clients: Vec<_> = keys.iter().map(|_| sidecar.conn()).collect();
    for (key, client) in keys.iter().zip(&mut clients) {
        let set = format!("SET {key} 2");
        let get = format!("GET {key}");
        send(client, &["MULTI", &set, "EXEC", &get]);
    }
    eventually("the lane is lost", lost);
    cluster.fail_over(replica, "TAKEOVER");
    for client in &mut clients {
        let replies: Vec<V> = (0..4).map(|_| client.value()).collect();
        assert_eq!(replies[2..], [V::Array(vec![V::Simple("OK".into())]), V::bulk("2")], "{replies:?}");
    }
}

/// It waits for a connection to a dead node when its slot goes to another, whose lane is full.
#[test]
fn a_transaction_that_cannot_go_where_it_belongs_has_all_its_commands_answered() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\nupstream.lane_max_commands = 4"));
    ["lane lost", "no connection to upstream"].iter().for_each(|text| sidecar.allow_log(text));
    let [full, key] = [0, 1].map(|at| cluster.key_on(at, "k"));
    let (mut client, mut other) = (sidecar.conn(), sidecar.conn());
    assert_eq!([client.line(&format!("SET {key} 1")), other.line(&format!("SET {full} 1"))], [ok(), ok()]);
    cluster.node(1).kill();
    eventually("the lane is lost", || sidecar.logs().iter().any(|line| line.contains("lane lost")));
    cluster.node(0).stop();
    send(&mut other, &[&format!("SET {full} 2")]);
    send(&mut client, &["MULTI", &format!("SET {key} 2"), "EXEC"]);
    let setslot = format!("CLUSTER SETSLOT {} NODE {}", cluster.slot(&key), cluster.id(0));
    assert_eq!(cluster.node(2).conn().line(&setslot), ok());
    let replies: Vec<V> = (0..3).map(|_| client.value()).collect();
    cluster.node(0).cont();
    assert!(replies.iter().all(|reply| matches!(reply, V::Error(_))), "{replies:?}");
    assert_eq!(other.value(), ok());
}

/// They are tried one after the other, but their patience ends at the same time.
#[test]
fn all_that_waits_is_given_up_in_time_when_the_nodes_are_silent() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let limits = "upstream.connect_timeout = '4s'\nupstream.command_timeout = '4s'";
    let sidecar = Sidecar::start(&cluster, limits);
    let allowed = ["lane lost", "no connection to upstream", "no node of the cluster"];
    allowed.iter().for_each(|text| sidecar.allow_log(text));
    let tag = cluster.key_on(0, "k");
    let mut client = sidecar.conn();
    let mset = format!("MSET {{{tag}}}x 0 {{{tag}}}y 0");
    assert_eq!(client.line(&mset), ok());
    let moving = cluster.begin_move(cluster.slot(&tag), 0, 1);
    assert_eq!(moving.keys(1), 1);
    send(&mut client, &[mset.as_str(); 40]);
    eventually("they wait", || sidecar.metric("sidecache_redirects_total{kind=\"try_again\"}") >= 40.0);
    [0, 1].iter().for_each(|&at| cluster.node(at).stop());
    let begun = std::time::Instant::now();
    let replies: Vec<V> = (0..40).map(|_| client.value()).collect();
    [0, 1].iter().for_each(|&at| cluster.node(at).cont());
    assert!(replies.iter().all(|reply| matches!(reply, V::Error(_))), "{replies:?}");
    // One by one they took a second each.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    moving.give_up();
}
