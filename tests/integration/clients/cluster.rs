//! Clients that speak cluster take the sidecar for a cluster of one node, and stay with it whatever moves behind it.
//!
//! A program is called as the others are; it says `ready`, then `round` after each round of commands, and ends when it is
//! told a line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::programs::{Program, program};
use crate::support::wait::{PATIENCE, holds_within};
use crate::support::{Cluster, Kind, Sidecar};

/// For a round of several hundred commands on a machine that is busy with something else.
const A_ROUND: Duration = Duration::from_secs(60);

/// In CLIENT LIST: the sidecar, who is asking, replication, and a node that gives slots away.
const KNOWN: [&str; 5] = ["name=sidecache ", "cmd=client|list ", "flags=S ", "flags=M ", "cmd=restore-asking "];

/// By a client that knows nothing of clusters: to it, no real one is like this.
const PLAIN: &str = "--plain";

/// Waits until the program has begun and ended a round since.
#[track_caller]
fn a_whole_round(lines: &Receiver<String>) -> bool {
    while lines.try_recv().is_ok() {}
    (0..2).all(|_| lines.recv_timeout(A_ROUND).is_ok())
}

/// Nobody is connected to a node but the sidecar, other nodes and the asking test.
#[track_caller]
fn nobody_passes_the_sidecar(cluster: &Cluster) {
    for at in cluster.running() {
        let mut conn = cluster.node(at).conn();
        let mut strangers = Vec::new();
        let alone = holds_within(PATIENCE, || {
            let clients = conn.line("CLIENT LIST").text();
            let known = |line: &str| KNOWN.iter().any(|part| line.contains(part));
            strangers = clients.lines().filter(|line| !known(line)).map(str::to_owned).collect();
            strangers.is_empty()
        });
        assert!(alone, "not only the sidecar is connected to node {at}: {strangers:#?}");
        assert_eq!(cluster.node(at).calls("cluster|slots"), 0, "a cluster client has asked node {at} itself");
    }
}

/// What it expects of a cluster of one node a real one does.
#[track_caller]
fn is_right_about_a_real_one(name: &str, kind: Kind, way: &str) {
    let cluster = Cluster::with(kind, 1, 0, &["--cluster-announce-ip", "127.0.0.1"]);
    let port = cluster.node(0).port().to_string();
    let Program { mut command, .. } = program(name);
    command.args([&port, &port]).args(Some(way).filter(|way| !way.is_empty()));
    // Nothing more to read is as good as a line.
    let ended = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{name}: {e}; run `make deps`"));
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{name} {way} {kind:?}, without a sidecache:\n{out}{err}");
}

#[track_caller]
fn stays(name: &str, kind: Kind, threads: usize, way: &str) {
    let cluster = Cluster::start(kind, 3, 1);
    let sidecar = Sidecar::start(&cluster, &format!("threads = {threads}\nupstream.command_timeout = '60s'"));
    // By the failover.
    ["lane lost", "no connection to upstream"].iter().for_each(|text| sidecar.allow_log(text));
    let Program { mut command, .. } = program(name);
    command.args([sidecar.addr().port(), cluster.node(0).port()].map(|port| port.to_string()));
    command.args(Some(way).filter(|way| !way.is_empty()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}; run `make deps`"));
    let (tell, lines) = channel();
    let out = BufReader::new(client.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut last = String::new();
        for line in out.lines().map_while(Result::ok) {
            let _ = tell.send(line.clone());
            last = line;
        }
        last
    });

    // One that fails closes its output: what it says is shown below.
    if lines.recv_timeout(A_ROUND).is_ok_and(|line| line == "ready") {
        nobody_passes_the_sidecar(&cluster);
        let slot = cluster.slot("k:7");
        let from = cluster.owner(slot);
        let to = (from + 1) % 3;
        let moving = cluster.begin_move(slot, from, to);
        let mut goes_on = a_whole_round(&lines);
        while moving.keys(1) > 0 {}
        goes_on = goes_on && a_whole_round(&lines);
        moving.finish();
        goes_on = goes_on && a_whole_round(&lines);
        if goes_on {
            cluster.fail_over(cluster.replicas_of(to)[0], "");
            a_whole_round(&lines);
            nobody_passes_the_sidecar(&cluster);
        }
    }
    let _ = client.stdin.take().unwrap().write_all(b"end\n");
    let ended = client.wait_with_output().unwrap();
    let last = reader.join().unwrap();
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && last.starts_with("OK "), "{name} {way} {kind:?}: {last}\n{err}");
}

#[track_caller]
fn redis_cli(port: u16, args: &[&str], input: &str) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string()]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = command.spawn().unwrap_or_else(|e| panic!("redis-cli: {e}; run `make deps`"));
    client.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn redis_cli_takes_it_for_one_server_and_for_a_cluster_of_one_node() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, "");
    let port = sidecar.addr().port();
    for args in [&[][..], &["-c"], &["-3"]] {
        let sets: String = (0..100).map(|i| format!("SET k:{i} {i}\n")).collect();
        assert_eq!(redis_cli(port, args, &sets), "OK\n".repeat(100));
        let gets: String = (0..100).map(|i| format!("GET k:{i}\n")).collect();
        let numbers: String = (0..100).map(|i| format!("{i}\n")).collect();
        assert_eq!(redis_cli(port, args, &gets), numbers);
    }
    assert_eq!(redis_cli(port, &["--scan"], "").lines().count(), 100);
    let checked = redis_cli(port, &["--cluster", "check", &sidecar.addr().to_string()], "");
    assert!(checked.contains("[OK] All 16384 slots covered."), "{checked}");
    assert!(checked.contains("100 keys in 1 masters"), "{checked}");
    nobody_passes_the_sidecar(&cluster);
}

/// A row makes a test with each kind of server.
macro_rules! clients {
    ($($row:ident: $program:literal, $ways:expr;)+) => {
        /// All of them.
        pub const PROGRAMS: &[&str] = &[$($program),+];

        $(mod $row {
            #[test]
            fn before_redis() {
                for way in $ways {
                    if way != super::PLAIN {
                        super::is_right_about_a_real_one($program, crate::support::Kind::Redis, way);
                    }
                    super::stays($program, crate::support::Kind::Redis, 1, way);
                }
            }

            #[test]
            fn before_valkey_with_four_workers() {
                for way in $ways {
                    super::stays($program, crate::support::Kind::Valkey, 4, way);
                }
            }
        })+
    };
}

clients! {
    redis_pys_cluster_client_stays: "redis_py_cluster.py", ["", "2", "--plain"];
    ioredis_cluster_client_stays: "ioredis_cluster.js", ["", "2", "--plain"];
    node_redis_cluster_client_stays: "node-redis_cluster.js", ["", "2", "--plain"];
}
