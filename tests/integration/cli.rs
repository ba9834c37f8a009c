//! The command line: what the binary prints and how it ends.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::redis::signal;
use crate::support::wait::{eventually, steadily};

/// The binary with nothing of this process's environment that it would read.
fn sidecache(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecache"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SIDECACHE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    sidecache(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file in a folder that lasts as long as the first half of what is returned.
fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    std::fs::write(&path, content).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

#[test]
fn help_and_version_are_no_errors() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--upstream <URL>"), "{}", text(&help.stdout));
    let version = run(&["--version"]);
    assert_eq!(text(&version.stdout), format!("sidecache {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_meant() {
    let wrong = run(&["--upstrem", "redis://a"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("--upstream"), "{}", text(&wrong.stderr));
}

#[test]
fn an_address_that_is_taken_ends_with_its_name_and_the_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [["--listen", &address, "--metrics", "off"], ["--listen", "127.0.0.1:0", "--metrics", &address]] {
        let ended = run(&arguments);
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("cannot start: cannot listen on {address}")), "{said}");
        assert!(said.contains("in use") && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn check_says_ok_and_what_the_file_does() {
    let (_folder, path) = file("[upstream]\nurl = \"redis://u:hunter2@h:1\"\n");
    let checked = run(&["check", &path]);
    assert_eq!(checked.status.code(), Some(0));
    let shown = text(&checked.stdout);
    assert!(shown.starts_with("ok\n") && shown.contains("redis://h:1\n") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn check_tells_all_faults_and_ends_with_1() {
    let (_folder, path) = file("threads = 0\n[upstream]\npassword = 7\nurl = \"http://:hunter2@a\"\n");
    let checked = run(&["check", &path]);
    assert_eq!((checked.status.code(), text(&checked.stdout)), (Some(1), String::new()));
    let faults = text(&checked.stderr);
    let lines: Vec<_> =
        faults.lines().map(|line| line.strip_prefix(&path).unwrap().split(": ").next().unwrap()).collect();
    assert_eq!(lines, [":1", ":3", ":4"], "{faults}");
    assert!(!faults.contains("hunter2"), "{faults}");
}

#[test]
fn a_start_with_faults_tells_them_all_and_ends_with_1() {
    let (_folder, path) = file("max_clients = 1\n");
    let started =
        sidecache(&["--config", &path, "--threads", "x"]).env("SIDECACHE_UPSTREAM", "http://a").output().unwrap();
    assert_eq!(started.status.code(), Some(1));
    let faults = text(&started.stderr);
    for origin in [&format!("{path}:1: "), "SIDECACHE_UPSTREAM: ", "--threads: "] {
        assert!(faults.lines().any(|line| line.starts_with(origin)), "no {origin} in\n{faults}");
    }
}

#[test]
fn both_signals_drain_and_end_with_0() {
    for name in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}", folder.path().join("s").display());
        let arguments =
            ["--listen", &listen, "--upstream", "unix:///nowhere", "--metrics", "off", "--log-format", "json"];
        let mut child = sidecache(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(log.any(|line| line.contains("\"message\":\"started\"")));
        signal(child.id(), name);
        assert!(log.any(|line| line.contains("\"message\":\"drained\"")));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{name:?}");
    }
}

#[test]
fn a_quiet_log_is_no_reason_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listen = format!("unix:{}", socket.display());
    let arguments =
        ["--listen", &listen, "--metrics", "off", "--log-level", "error", "--upstream", "redis://127.0.0.1:1"];
    let mut child = sidecache(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    // It hears signals before it listens.
    eventually("it listens", || UnixStream::connect(&socket).is_ok());
    steadily("it goes on", Duration::from_millis(300), || child.try_wait().unwrap().is_none());
    signal(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
