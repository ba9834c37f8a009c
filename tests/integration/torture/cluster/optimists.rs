//! Transactions that are spoken line by line, guarded by WATCH: two of them must never succeed on the same state.
//!
//! Clients of both sidecars count up the same numbers: WATCH, GET, MULTI, SET to one more, EXEC. Each number may be reached once.
//! What a loss takes may be counted again: the numbers go by another name then.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::client::{Client, Field, Log};
use super::super::history::{Event, Path};
use super::super::values::words;
use crate::differential::dice::Dice;
use crate::support::V;
use crate::support::wait::pass;

/// What has been reached by whom.
#[derive(Default)]
pub struct Taken {
    numbers: Mutex<HashSet<(String, u64)>>,
    done: AtomicU64,
}

impl Taken {
    /// How many transactions have succeeded.
    pub fn done(&self) -> f64 {
        self.done.load(Ordering::SeqCst) as f64
    }
}

/// Counts up in each of the groups until the round ends.
pub fn hope(field: &Arc<Field>, path: Path, tags: &[String], taken: &Taken, seed: u64) -> Log {
    let (mut log, mut dice) = (Log::new(), Dice::new(seed));
    let mut client = Client::plain(field, path);
    let Some(terrain) = &field.terrain else { return log };
    while field.goes_on() {
        let group = dice.below(tags.len());
        let before = terrain.doubts(group);
        let name = format!("{{{}}}guarded:{}", tags[group], before.0);
        pass(Duration::from_micros(dice.below(20_000) as u64));
        let Some(number) = once(&mut client, &mut log, &name, &mut dice) else {
            // Whatever is left of it must not guard the next.
            client.leave();
            continue;
        };
        let after = terrain.doubts(group);
        if number == 0 || before.1 || before != after {
            continue;
        }
        taken.done.fetch_add(1, Ordering::SeqCst);
        if !taken.numbers.lock().unwrap().insert((name.clone(), number)) {
            log.push(Event::Wrong(
                "P7",
                format!("{path:?}: two transactions that watched {name} have made it {number}"),
            ));
        }
    }
    log
}

/// One attempt: the number that was reached, 0 if the key was changed meanwhile; `None`: it has failed.
fn once(client: &mut Client, log: &mut Log, name: &str, dice: &mut Dice) -> Option<u64> {
    let mut ask = |line: &str, log: &mut Log| {
        client.spoken(log, &[words(line)], false)?.replies.pop().flatten().map(|(reply, _)| reply)
    };
    if ask(&format!("WATCH {name}"), log)? != V::Simple("OK".into()) {
        return None;
    }
    let number = match ask(&format!("GET {name}"), log)? {
        V::Nil => 0,
        V::Bulk(text) => String::from_utf8(text).ok()?.parse::<u64>().ok()?,
        _ => return None,
    };
    pass(Duration::from_micros(dice.below(3000) as u64));
    if ask("MULTI", log)? != V::Simple("OK".into()) {
        return None;
    }
    let next = number + 1;
    if ask(&format!("SET {name} {next}"), log)? != V::Simple("QUEUED".into()) {
        return None;
    }
    match ask("EXEC", log)? {
        V::Array(items) if items == [V::Simple("OK".into())] => Some(next),
        V::Nil => Some(0),
        V::Error(_) => None,
        other => {
            log.push(Event::Wrong("P7", format!("EXEC was answered {other:?}")));
            None
        }
    }
}
