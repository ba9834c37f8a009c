//! redis-py beside its sessions: passwords, and a restart of upstream.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use super::Pair;
use super::programs::{Program, program, run};
use crate::support::{Server, Sidecar, eventually};

/// The library's default, which is RESP3, and RESP2.
const PROTOCOLS: [&str; 2] = ["", "2"];

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
                run("redis_py_login.py", sidecar.addr().port(), server.port(), protocol);
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
            let Program { mut command, .. } = program("redis_py_restart.py");
            command.args([sidecar.addr().port().to_string(), server.port().to_string()]);
            command.args(Some(protocol).filter(|protocol| !protocol.is_empty()));
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
