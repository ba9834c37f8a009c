//! Nodes that are known by name, and nodes that come and go under ever new addresses.

use super::PATIENT;
use crate::support::redis::KINDS;
use crate::support::sentinel::SERVICE;
use crate::support::{Cluster, Conn, Kind, Sentinels, Server, Sidecar, V, eventually};

/// On many machines it has several addresses, of which the servers have one: they listen on 127.0.0.1 only.
const NAME: &str = "localhost";

fn ok() -> V {
    V::Simple("OK".into())
}

/// The same seeds by name.
fn by_name(seeds: &str) -> String {
    seeds.replace("127.0.0.1", NAME)
}

#[test]
fn a_server_goes_by_a_name() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&*format!("redis://{NAME}:{}", server.port()), PATIENT);
    assert_eq!(sidecar.conn().line("SET k 1"), ok());
    // Connections of its own, too.
    let mut client = sidecar.conn();
    assert_eq!([client.line("WATCH k"), client.line("MULTI")], [ok(), ok()]);
    assert_eq!([client.line("GET k"), client.line("EXEC")], [V::Simple("QUEUED".into()), V::Array(vec![V::bulk("1")])]);
    server.restart();
    sidecar.allow_log("lane lost");
    sidecar.allow_log("no connection to upstream");
    eventually("it is there again", || sidecar.conn().line("SET k 2") == ok());
}

/// The addresses of a name are this test's own: each is tried, and a new answer is followed at the next connection.
#[test]
fn every_address_of_a_name_is_tried_and_a_new_answer_followed() {
    if !Sidecar::can_have_hosts() {
        return eprintln!("SKIPPED: this machine lets nobody have mounts of their own (unshare -rm)");
    }
    let one = Server::with(Kind::Redis, &["--bind", "127.0.0.1", "127.0.1.2"]);
    let port = one.port().to_string();
    let other = Server::with(Kind::Redis, &["--bind", "127.0.1.3", "--port", &port]);
    let at_other = || Conn::open(format!("unix:{}", other.socket().display()));
    one.outside("SET who one");
    assert_eq!(at_other().line("SET who other"), ok());
    let hosts = tempfile::NamedTempFile::new().unwrap();
    // In place: it is this file that is mounted.
    let answer = |addresses: &[&str]| {
        let lines: Vec<String> = addresses.iter().map(|address| format!("{address} upstream.test\n")).collect();
        std::fs::write(hosts.path(), lines.concat()).unwrap();
    };
    // Nobody listens at the first and at the last, be they taken as they stand here or sorted: a resolver puts those first that
    // are the nearest to our own address, 127.0.0.1.
    let among = |address| answer(&["127.0.0.3", address, "127.1.0.9"]);
    among("127.0.1.2");
    let sidecar = Sidecar::start_with_hosts(&*format!("redis://upstream.test:{port}"), PATIENT, hosts.path());
    ["lane lost", "no connection to upstream"].iter().for_each(|text| sidecar.allow_log(text));
    let mut client = sidecar.conn();
    // On lanes, and on connections of their own.
    let who = |client: &mut Conn| {
        let lines = ["GET who", "WATCH who", "GET who", "UNWATCH"];
        let [lane, _, own, _] = lines.map(|line| client.line(line));
        (lane, own)
    };
    assert_eq!(who(&mut client), (V::bulk("one"), V::bulk("one")));
    among("127.0.1.3");
    assert_eq!(who(&mut client), (V::bulk("one"), V::bulk("one")), "connections stay where they are");
    one.outside("CLIENT KILL TYPE normal SKIPME yes");
    eventually("the new answer is followed", || who(&mut sidecar.conn()) == (V::bulk("other"), V::bulk("other")));
    answer(&["127.0.1.2"]);
    at_other().line("CLIENT KILL TYPE normal SKIPME yes");
    eventually("and the next", || who(&mut sidecar.conn()) == (V::bulk("one"), V::bulk("one")));
}

/// What nodes are called in maps and redirects.
fn a_cluster_goes_by_names(kind: Kind) {
    let args = ["--cluster-announce-hostname", NAME, "--cluster-preferred-endpoint-type", "hostname"];
    let cluster = Cluster::with(kind, 3, 0, &args);
    let sidecar = Sidecar::start(&*format!("redis-cluster://{}", by_name(&cluster.seeds())), PATIENT);
    let mut client = sidecar.conn();
    for at in 0..3 {
        let key = cluster.key_on(at, "k");
        assert_eq!(client.line(&format!("SET {key} {at}")), ok());
        assert_eq!(client.line(&format!("GET {key}")), V::bulk(at.to_string()));
    }
    let key = cluster.key_on(0, "k");
    let moving = cluster.begin_move(cluster.slot(&key), 0, 1);
    while moving.keys(10) > 0 {}
    assert_eq!(client.line(&format!("INCR {key}")), V::Int(1), "by ASK");
    moving.finish();
    assert_eq!(client.line(&format!("INCR {key}")), V::Int(2));
    // The names are the nodes': there are no others, which would have lanes of their own.
    assert_eq!(sidecar.metric("sidecache_lane_connects_total"), 3.0);
    eventually("each is known once", || sidecar.metric("sidecache_nodes{role=\"master\"}") == 3.0);
    // They came under the names that the seeds had already.
    let others =
        sidecar.logs().into_iter().filter(|line| line.contains("nodes_come=") && !line.contains("nodes_come= "));
    assert_eq!(others.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn clusters_go_by_names() {
    KINDS.into_iter().for_each(a_cluster_goes_by_names);
}

#[test]
fn sentinels_go_by_names() {
    let all = Sentinels::by_name(NAME, Kind::Valkey);
    let told = || all.sentinel(0).conn().line(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}")).items()[0].text();
    assert_eq!(told(), NAME);
    let sidecar = Sidecar::start(&*format!("redis-sentinel://{}/{SERVICE}", by_name(&all.seeds())), PATIENT);
    ["lane lost", "no connection to upstream", "a Sentinel does not answer"]
        .iter()
        .for_each(|text| sidecar.allow_log(text));
    let mut client = sidecar.conn();
    assert_eq!(client.line("SET k 1"), ok());
    let new = all.fail_over();
    assert_eq!(told(), NAME);
    eventually("it is where the master is", || {
        assert_eq!(client.line("SET k 2"), ok());
        all.server(new).outside("GET k") == V::bulk("2")
    });
}

/// Descriptors that the process has open.
fn descriptors(sidecar: &Sidecar) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count()
}

/// Each with a slot of its own for a while, each read, written and subscribed at.
#[test]
fn nodes_that_have_gone_leave_nothing_behind() {
    let mut cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, &format!("{PATIENT}\nthreads = 2"));
    ["lane lost", "no connection to upstream"].iter().for_each(|text| sidecar.allow_log(text));
    let key = cluster.key_on(0, "k");
    let slot = cluster.slot(&key);
    let use_it = || {
        // At once, so that each worker gets one.
        for mut client in [sidecar.conn(), sidecar.conn()] {
            let lines = [format!("SET {key} 1"), format!("GET {key}"), "WATCH {KEY}".replace("{KEY}", &key)];
            let replies = lines.map(|line| client.line(&line));
            assert_eq!(replies, [ok(), V::bulk("1"), ok()]);
            assert_eq!([client.line("MULTI"), client.line("EXEC")], [ok(), V::Array(Vec::new())]);
        }
    };
    let lanes = || sidecar.metric_sum("sidecache_lanes");
    // Of lanes that have no connection and want none, no metric tells.
    let closed = || sidecar.logs().iter().filter(|line| line.contains("lane closed: its node has left")).count();
    // Both workers have been everywhere.
    (0..6).for_each(|_| use_it());
    let mut before = None;
    for turn in 0..6 {
        let added = cluster.add();
        cluster.migrate_slot(slot, 0, added);
        let masters = |number| sidecar.metric("sidecache_nodes{role=\"master\"}") == number;
        eventually("it is known", || masters(3.0));
        (0..6).for_each(|_| use_it());
        cluster.migrate_slot(slot, added, 0);
        cluster.forget(added);
        cluster.node(added).kill();
        cluster.settle();
        eventually("it has left", || masters(2.0));
        eventually("so have the lanes of both workers", || closed() >= 2 * (turn + 1));
        (0..6).for_each(|_| use_it());
        // The first makes what stays: the slot map's connections, the pools' first tasks.
        if turn == 1 {
            before = Some((lanes(), sidecar.metrics().len(), descriptors(&sidecar)));
        }
    }
    let (lanes_before, series, open) = before.unwrap();
    eventually("nothing is left of them", || {
        (lanes(), sidecar.metrics().len()) == (lanes_before, series) && descriptors(&sidecar) <= open
    });
    let metrics = sidecar.metrics();
    let named: Vec<&String> = metrics.keys().filter(|name| name.contains("127.0.0.1:")).collect();
    assert!(named.is_empty(), "{named:?}");
}
