//! Waiting for a condition. The one place of the tests where a pause stands.

use std::time::{Duration, Instant};

/// How long a condition may take; far beyond what any of them needs, since the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The same for what hangs on the servers' own time-outs: after a standstill of the machine a Sentinel trusts no clock for
/// half a minute.
pub const LONG_PATIENCE: Duration = Duration::from_secs(240);

/// Waits until `condition` holds; fails the test, naming `what`, if it does not within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, condition), "not within {PATIENCE:?}: {what}");
}

/// As `eventually`, with [`LONG_PATIENCE`].
#[track_caller]
pub fn in_the_end(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(LONG_PATIENCE, condition), "not within {LONG_PATIENCE:?}: {what}");
}

/// Waits until `attempt` gives something, and gives that.
#[track_caller]
pub fn eventually_some<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = attempt();
        found.is_some()
    });
    found.unwrap()
}

/// Whether `condition` comes true within `time`.
pub fn holds_within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= time {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Fails as soon as `condition` no longer holds, and ends after `time`: for what must *not* happen.
#[track_caller]
pub fn steadily(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    assert!(!holds_within(time, || !condition()), "no longer true: {what}");
}

/// Lets `time` pass, where passing time is what the test is about (an expiry, a lease that must run out).
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}
