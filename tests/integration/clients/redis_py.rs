//! redis-py: the programs in tests/clients, each run against sidecache and, to hold the programs themselves to
//! account, against the server alone.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Pair;
use crate::support::{Kind, Server, Sidecar, eventually};

/// The library's default, which is RESP3, and RESP2.
const PROTOCOLS: [&[&str]; 2] = [&[], &["--protocol", "2"]];

/// The interpreter that has the pinned redis-py.
#[track_caller]
fn python() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/venv/bin/python");
    assert!(path.exists(), "no redis-py at {}: run `make deps`", path.display());
    path
}

/// One of the programs, as a client of `port` and, past it, of `outside`.
#[track_caller]
fn program(name: &str, port: u16, outside: u16, more: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
    command.args(["--port", &port.to_string(), "--outside", &outside.to_string()]).args(more);
    command
}

/// Runs it to its end; fails the test with what it printed.
#[track_caller]
fn run(name: &str, port: u16, outside: u16, more: &[&str]) {
    let ended = program(name, port, outside, more).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{name} {more:?}: {}\n{out}{err}", ended.status);
    assert!(out.contains("steps passed"), "{name} {more:?} ran no step:\n{out}{err}");
}

/// The session in every protocol, on a cold cache and again on what the first left in it.
#[track_caller]
fn run_twice(name: &str, kind: Kind, threads: usize) {
    let Pair { server, sidecar } = Pair::start(kind, threads);
    for protocol in PROTOCOLS {
        for _ in ["cold", "warm"] {
            run(name, sidecar.addr().port(), server.port(), protocol);
        }
    }
    let hits = sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}");
    assert!(hits > 0.0, "the session was not served from the cache at all");
}

#[test]
fn redis_py_runs_its_session_before_redis() {
    run_twice("session.py", Kind::Redis, 1);
}

#[test]
fn redis_py_runs_its_session_before_redis_with_four_workers() {
    run_twice("session.py", Kind::Redis, 4);
}

#[test]
fn redis_py_runs_its_session_before_valkey() {
    run_twice("session.py", Kind::Valkey, 1);
}

#[test]
fn redis_py_runs_its_session_before_valkey_with_four_workers() {
    run_twice("session.py", Kind::Valkey, 4);
}

#[test]
fn asyncio_redis_py_runs_its_session_before_redis() {
    run_twice("session_async.py", Kind::Redis, 1);
}

#[test]
fn asyncio_redis_py_runs_its_session_before_redis_with_four_workers() {
    run_twice("session_async.py", Kind::Redis, 4);
}

#[test]
fn asyncio_redis_py_runs_its_session_before_valkey() {
    run_twice("session_async.py", Kind::Valkey, 1);
}

#[test]
fn asyncio_redis_py_runs_its_session_before_valkey_with_four_workers() {
    run_twice("session_async.py", Kind::Valkey, 4);
}

/// A step that fails here expects what Redis does not do.
#[test]
fn the_sessions_pass_without_sidecache_too() {
    for server in Server::both() {
        for name in ["session.py", "session_async.py", "own_cache.py"] {
            run(name, server.port(), server.port(), &[]);
        }
    }
}

#[test]
fn redis_pys_own_cache_works_on_top_of_ours() {
    for (kind, threads) in super::everywhere() {
        let Pair { server, sidecar } = Pair::start(kind, threads);
        for _ in ["cold", "warm"] {
            run("own_cache.py", sidecar.addr().port(), server.port(), &[]);
        }
    }
}

#[test]
fn redis_pys_password_is_judged_by_upstream() {
    for (kind, threads) in super::everywhere() {
        let server = Server::with(kind, &["--requirepass", "open sesame"]);
        let reader = ["ACL", "SETUSER", "reader", "on", ">secret", "%R~open:*", "+@all"];
        assert_eq!(server.conn().call(&reader), b"+OK\r\n");
        let sidecar = Sidecar::start(&server, &format!("threads = {threads}"));
        // sidecache has no password of its own here, and says so.
        sidecar.allow_log("NOAUTH");
        for protocol in PROTOCOLS {
            for _ in ["cold", "warm"] {
                run("login.py", sidecar.addr().port(), server.port(), protocol);
            }
        }
    }
}

#[test]
fn redis_py_gets_over_a_restart_of_upstream_by_its_own_retries() {
    for (kind, threads) in super::everywhere() {
        let Pair { server, sidecar } = Pair::start(kind, threads);
        sidecar.allow_log("upstream");
        for protocol in PROTOCOLS {
            let mut command = program("restart.py", sidecar.addr().port(), server.port(), protocol);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut client = command.spawn().unwrap();
            let mut ready = String::new();
            BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
            if ready == "ready\n" {
                let lost = || sidecar.metric("sidecache_lane_losses_total");
                let before = lost();
                server.restart();
                // While it pauses between its own attempts, what is asked may fail.
                let lanes = || sidecar.metric("sidecache_lanes{state=\"tracking\"}");
                let of_all = threads as f64;
                eventually("every worker is back", || lost() >= before + of_all && lanes() >= of_all);
                client.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
            }
            let ended = client.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{kind:?}, {threads} workers, {protocol:?}:\n{err}");
        }
    }
}
