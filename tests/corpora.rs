//! What fuzzing has taught: its checks hold for the corpora, and for every input that once broke one.
//!
//! The checks are those of `fuzz/`; here they run without an engine, on any compiler. An input that breaks a check goes
//! into `fuzz/regressions/<target>/`, named after what was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::path::Path;

#[path = "../fuzz/checks/mod.rs"]
mod checks;

/// Runs a check with each input there is for it.
fn run(target: &str, check: fn(&[u8])) {
    let mut count = 0;
    for folder in ["corpus", "regressions"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(target);
        let Ok(inputs) = std::fs::read_dir(&folder) else { continue };
        for input in inputs {
            let path = input.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            // Named before it runs: a check that aborts says nothing any more.
            println!("{}", path.display());
            check(&data);
            count += 1;
        }
    }
    assert!(count > 0, "no inputs for {target}");
}

#[test]
fn requests_are_parsed_alike_however_they_are_cut() {
    run("request", checks::request::check);
}

#[test]
fn replies_are_framed_alike_however_they_are_cut() {
    run("reply", checks::reply::check);
}

#[test]
fn rewritten_replies_are_resp2() {
    run("downgrade", checks::downgrade::check);
}

#[test]
fn keys_are_arguments() {
    run("keys", checks::keys::check);
}

#[test]
fn any_text_is_a_configuration_or_refused() {
    run("config", checks::config::check);
}

#[test]
fn a_session_with_anybody_leaves_the_sidecache_alive() {
    run("session", checks::session::check);
}
