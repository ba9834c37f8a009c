//! WARN and ERROR lines, and which fault may cause which. Pure: lines and times in, findings out.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::support::sidecar::is_complaint;
use crate::torture::faults::Fault;

/// What a lane that was lost, and one that cannot be opened, are called.
const LOST: [&str; 2] = ["lane lost", "no connection to upstream"];

/// From when on which faults may be at work; until the next begins. Nothing is wrong in a window without faults.
#[derive(Clone, Debug)]
pub struct Window {
    /// Its beginning, by the wall clock.
    pub from: Duration,
    /// The faults that may still show.
    pub faults: Vec<Fault>,
}

impl Window {
    /// One that begins now.
    pub fn now(faults: &[Fault]) -> Window {
        let from = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Window { from, faults: faults.to_vec() }
    }
}

/// What may be complained of because of a fault.
fn allowed(fault: Fault) -> Vec<&'static str> {
    match fault {
        Fault::SmallTrackingTable | Fault::Eviction | Fault::VanishingClients => vec![],
        Fault::HugeReplies => vec!["does not read its replies"],
        Fault::NoDescriptors => [&LOST[..], &["cannot accept"]].concat(),
        Fault::ServerKilled | Fault::ServerStopped | Fault::ServerAsleep | Fault::ClientPause | Fault::ClientKill => {
            LOST.to_vec()
        }
        Fault::Delays | Fault::Silence | Fault::DeafLanes | Fault::Swallowed | Fault::CutInReply | Fault::Reset => {
            LOST.to_vec()
        }
        // It is stopped while upstream owes it replies, and finds them late.
        Fault::SidecarStopped => LOST.to_vec(),
    }
}

/// What was found in a log.
#[derive(Default, Debug)]
pub struct Complaints {
    /// How many lines of each allowed kind there were.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Lines that no fault has caused.
    pub unexplained: Vec<String>,
}

/// Judges all lines of a log. A line without a time (a panic's) is as old as the one before it.
pub fn judge(lines: &[String], windows: &[Window]) -> Complaints {
    let mut found = Complaints::default();
    let mut at = Duration::ZERO;
    for line in lines {
        at = time_of(line).unwrap_or(at);
        if !is_complaint(line) {
            continue;
        }
        let faults = windows.iter().rev().find(|window| window.from <= at).map_or(&[][..], |window| &window.faults);
        let cause = faults.iter().flat_map(|fault| allowed(*fault)).find(|text| line.contains(text));
        match cause {
            Some(text) => *found.kinds.entry(text).or_default() += 1,
            None => found.unexplained.push(format!("during {faults:?}: {line}")),
        }
    }
    found
}

/// When a line was logged, since 1970: `2026-11-21T08:00:00.123456Z  WARN …`.
fn time_of(line: &str) -> Option<Duration> {
    let (date, rest) = line.split_once('T')?;
    let (clock, _) = rest.split_once('Z')?;
    let date: Vec<u64> = date.split('-').filter_map(|part| part.parse().ok()).collect();
    let clock: Vec<f64> = clock.split(':').filter_map(|part| part.parse().ok()).collect();
    let (&[year, month, day], &[hours, minutes, seconds]) = (&date[..], &clock[..]) else { return None };
    // Years that begin in March end with the day that not all of them have.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // Day 719,468 of that count is the first of 1970.
    let whole = days.checked_sub(719_468)? * 86_400;
    Some(Duration::from_secs(whole) + Duration::try_from_secs_f64(hours * 3600.0 + minutes * 60.0 + seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u64, text: &str) -> String {
        format!("2026-11-21T08:00:{second:02}.500000Z {text}")
    }

    /// Calm from second 0, a reset from 10, calm from 20, a small table from 30.
    fn windows() -> Vec<Window> {
        let begin = time_of("2026-11-21T08:00:00Z ").unwrap();
        let window = |second: u64, faults: &[Fault]| Window {
            from: begin + Duration::from_secs(second),
            faults: faults.to_vec(),
        };
        vec![window(0, &[]), window(10, &[Fault::Reset]), window(20, &[]), window(30, &[Fault::SmallTrackingTable])]
    }

    #[test]
    fn times_are_read() {
        assert_eq!(time_of("1970-01-01T00:00:00.250000Z  INFO x"), Some(Duration::from_millis(250)));
        assert_eq!(time_of("2024-02-29T12:00:01Z  INFO x"), Some(Duration::from_secs(1_709_208_001)));
        assert_eq!(time_of("2026-11-21T08:00:00Z  INFO x"), Some(Duration::from_secs(1_795_248_000)));
        assert_eq!(time_of("thread 'The worker' panicked at src/x.rs"), None);
    }

    #[test]
    fn a_line_is_explained_by_a_fault_of_its_time_alone() {
        let lost = " WARN sidecache::dispatch::loss: lane lost db=0";
        let unexplained = |second: u64, text: &str| judge(&[line(second, text)], &windows()).unexplained.len();
        assert_eq!([9, 10, 19, 20, 35].map(|second| unexplained(second, lost)), [1, 0, 0, 1, 1]);
        assert_eq!(unexplained(15, " WARN sidecache: cannot accept a client"), 1);
        assert_eq!(unexplained(15, "ERROR sidecache: the audit found a cached reply that upstream contradicts"), 1);
        assert_eq!(unexplained(5, " INFO sidecache: lane lost"), 0);
        let before = judge(&[format!("2026-11-20T08:00:00Z {lost}")], &windows());
        assert_eq!(before.unexplained.len(), 1);
        assert_eq!(judge(&[line(12, lost), line(13, lost)], &windows()).kinds, BTreeMap::from([("lane lost", 2)]));
    }

    #[test]
    fn a_panic_is_never_explained() {
        let lines = [line(15, " INFO x"), "thread 'worker-0' panicked at src/x.rs:1:1:".to_string()];
        assert_eq!(judge(&lines, &windows()).unexplained.len(), 1);
    }
}
