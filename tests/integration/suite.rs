//! Redis's own test suite, directly and through a sidecache: here the units that take seconds, by `make suite` all.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn what_passes_of_redis_own_suite_directly_passes_through_a_sidecache() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/run.py");
    let mut command = Command::new("python3");
    // Who hangs for so long hangs; on a loaded machine a test of the suite takes seconds.
    command.arg(script).args(["--quick", "--hang", "45", "--hangs", "1", "--bound", "80", "--jobs", "2"]);
    command.arg("--program").arg(env!("CARGO_BIN_EXE_sidecache")).stdin(Stdio::null());
    let output = command.output().unwrap();
    let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{said}{complained}");
    assert!(said.contains("0 tests differ"), "{said}{complained}");
}
