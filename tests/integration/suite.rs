//! Redis's own test suite, directly and through a sidecache: here the units that take seconds, by `make suite` all. And what
//! docs/compatibility.md says of it, made of the last recorded run of all and of the skip list.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Most tests that may be left out.
const SKIPS_MAX: usize = 40;

/// results.toml, as the runner writes it.
#[derive(Deserialize)]
struct Results {
    server: String,
    unit: Vec<Unit>,
}

/// How many tests of a unit pass each way, without those that the skip list had when they were counted.
#[derive(Deserialize)]
struct Unit {
    name: String,
    direct: usize,
    through: usize,
    skipped: usize,
}

/// skips.toml.
#[derive(Deserialize)]
struct Skips {
    skip: Vec<Skip>,
}

#[derive(Deserialize)]
struct Skip {
    unit: String,
    test: String,
    reason: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite")
}

fn load<T: DeserializeOwned>(name: &str) -> T {
    toml::from_str(&std::fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

/// The section of docs/compatibility.md.
pub fn section() -> String {
    let (results, skips): (Results, Skips) = (load("results.toml"), load("skips.toml"));
    let mut text = format!(
        "\n## Redis's own test suite\n\n\
         {}'s suite runs before the server itself and, through sidecache, before another: `make suite`. How many tests\n\
         pass:\n\n| unit | directly | through sidecache | left out |\n|---|---|---|---|\n",
        results.server
    );
    let sum = |of: fn(&Unit) -> usize| results.unit.iter().map(of).sum();
    let all = Unit {
        name: "all".into(),
        direct: sum(|unit| unit.direct),
        through: sum(|unit| unit.through),
        skipped: sum(|unit| unit.skipped),
    };
    for Unit { name, direct, through, skipped } in results.unit.iter().chain([&all]) {
        let _ = writeln!(text, "| `{name}` | {direct} | {through} | {skipped} |");
    }
    text +=
        "\nLeft out are the tests that cannot pass through sidecache:\n\n| unit | test | because |\n|---|---|---|\n";
    let mut sorted: Vec<&Skip> = skips.skip.iter().collect();
    sorted.sort_by_key(|skip| (&skip.unit, &skip.test));
    for Skip { unit, test, reason } in sorted {
        let _ = writeln!(text, "| `{unit}` | {} | {reason} |", test.replace('|', "\\|"));
    }
    text
}

#[test]
fn what_is_recorded_of_the_suite_is_about_this_skip_list() {
    let (results, skips): (Results, Skips) = (load("results.toml"), load("skips.toml"));
    assert!(skips.skip.len() <= SKIPS_MAX, "{} tests are left out", skips.skip.len());
    let mut left_out: BTreeMap<&str, usize> = results.unit.iter().map(|unit| (&*unit.name, 0)).collect();
    for skip in &skips.skip {
        assert!(!skip.reason.is_empty(), "{}: no reason", skip.test);
        *left_out.entry(&skip.unit).or_default() += 1;
    }
    let recorded: BTreeMap<&str, usize> = results.unit.iter().map(|unit| (&*unit.name, unit.skipped)).collect();
    assert_eq!(left_out, recorded, "run tests/suite/run.py --record");
    for Unit { name, direct, through, .. } in &results.unit {
        assert!(through >= direct, "{name}: {direct} directly, {through} through");
    }
}

#[test]
fn what_passes_of_redis_own_suite_directly_passes_through_a_sidecache() {
    let mut command = Command::new("python3");
    // Who hangs for so long hangs; on a loaded machine a test of the suite takes seconds.
    command
        .arg(folder().join("run.py"))
        .args(["--quick", "--hang", "45", "--hangs", "1", "--bound", "80", "--jobs", "2"]);
    command.arg("--program").arg(env!("CARGO_BIN_EXE_sidecache")).stdin(Stdio::null());
    let output = command.output().unwrap();
    let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{said}{complained}");
    assert!(said.contains("0 tests differ"), "{said}{complained}");
}
