//! What sidecache holds and for how long: pools, queues, memory, file descriptors; and how it ends.

mod caps;
mod drain;
mod leaks;
mod metrics;
mod pools;
mod workers;

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::support::wait::pass;
use crate::support::{Server, Sidecar, V, eventually};

/// Bytes of memory that the process occupies.
pub fn rss(sidecar: &Sidecar) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Open file descriptors.
pub fn descriptors(sidecar: &Sidecar) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count()
}

/// Processor time used so far, in clock ticks of 10 ms.
fn ticks(sidecar: &Sidecar) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", sidecar.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_idle_process_is_small_and_costs_nothing() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let (memory, before, begun) = (rss(&sidecar), ticks(&sidecar), Instant::now());
    pass(Duration::from_secs(3));
    let used = ticks(&sidecar) - before;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} KiB, {used} ticks in {seconds:.1} s", memory / 1024);
    // Generous: a debug build on a busy machine. The budgets proper are the benchmark's.
    assert!(memory < 32 << 20 && used as f64 <= 2.0 * seconds, "{memory} {used}");
}

#[test]
fn a_thousand_idle_clients_cost_little_memory_each() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let ask = |conn: &mut crate::support::Conn| assert_eq!(conn.line("SET k 1"), V::Simple("OK".into()));
    (0..50).for_each(|_| ask(&mut sidecar.conn()));
    let before = rss(&sidecar);
    let mut conns: Vec<_> = (0..1000).map(|_| sidecar.conn()).collect();
    conns.iter_mut().for_each(ask);
    let each = rss(&sidecar).saturating_sub(before) / 1000;
    println!("{each} bytes a client");
    assert!(each < 12 * 1024, "{each} bytes a client");
}

#[test]
fn one_hot_key_read_for_long_leaves_memory_as_it_is() {
    let server = Server::redis();
    server.outside("SET hot value");
    let sidecar = Sidecar::start(&server, "cache.audit_every = 0");
    let mut conn = sidecar.conn();
    let batch = "*2\r\n$3\r\nGET\r\n$3\r\nhot\r\n".repeat(1000);
    let reply = "$5\r\nvalue\r\n".len();
    let mut read = |times: usize| {
        for _ in 0..times {
            conn.send_raw(batch.as_bytes());
            (0..1000).for_each(|_| assert_eq!(conn.read_frame().len(), reply));
        }
    };
    read(10);
    let before = rss(&sidecar);
    read(150);
    let grown = rss(&sidecar).saturating_sub(before);
    assert!(grown < 1 << 20, "grown by {grown} bytes");
    assert!(sidecar.metric(r#"sidecache_commands_total{class="read",outcome="hit"}"#) > 100_000.0);
}

#[test]
fn exhausted_file_descriptors_pause_the_acceptor_and_do_no_lasting_harm() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    sidecar.allow_log("cannot accept a client");
    sidecar.allow_log("no connection to upstream");
    let mut first = sidecar.conn();
    let limit = u64::try_from(descriptors(&sidecar) + 20).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(sidecar.pid()).unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap();
    let mut conns: Vec<_> = (0..40).map(|_| sidecar.conn()).collect();
    // The admin server has no descriptor left either: the log must tell.
    let complaints = || sidecar.logs().iter().filter(|line| line.contains("cannot accept a client")).count();
    eventually("the acceptor complains", || complaints() >= 3);
    let (before, said, begun) = (ticks(&sidecar), complaints(), Instant::now());
    pass(Duration::from_secs(1));
    let (used, more) = (ticks(&sidecar) - before, complaints() - said);
    // Of what the pass has really taken.
    let seconds = begun.elapsed().as_secs_f64();
    assert!((used as f64) < 30.0 * seconds, "it spins: {used} ticks in {seconds:.1} s");
    assert!((more as f64) < 10.0 * seconds, "it floods the log: {more} lines in {seconds:.1} s");
    assert_eq!(first.line("SET k 1"), V::Simple("OK".into()));
    conns.truncate(5);
    eventually("new clients are served", || {
        let mut conn = sidecar.conn();
        conn.try_send_raw(b"GET k\r\n") && conn.try_read_frame().is_ok_and(|reply| reply == b"$1\r\n1\r\n")
    });
    assert!(sidecar.metric("sidecache_accept_errors_total") >= 3.0);
}
