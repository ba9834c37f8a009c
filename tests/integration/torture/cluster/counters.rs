//! Counting: what is executed twice, not at all, or out of turn shows in the numbers that come back.

use std::sync::Arc;
use std::time::Duration;

use super::super::client::{Client, Field, Log};
use super::super::history::{Event, Path};
use super::super::values::{Words, words};
use crate::differential::dice::Dice;
use crate::support::V;
use crate::support::wait::pass;

/// A counter and a list of one group; nobody else writes them.
struct Count {
    group: usize,
    tag: String,
    turn: usize,
    /// What INCR, and RPUSH, have answered last.
    last: [i64; 2],
    /// How many losses had begun then.
    losses: usize,
}

impl Count {
    /// Goes on with others: it is not known what these are.
    fn renew(&mut self) {
        self.turn += 1;
        self.last = [0, 0];
    }
}

/// Counts in each of the groups, in pipelines, until the round ends.
pub fn count(field: &Arc<Field>, path: Path, tags: &[String], seed: u64) -> Log {
    let (mut log, mut dice) = (Log::new(), Dice::new(seed));
    let mut client = Client::plain(field, path);
    let count = |(group, tag): (usize, &String)| Count { group, tag: tag.clone(), turn: 0, last: [0, 0], losses: 0 };
    let mut counts: Vec<Count> = tags.iter().enumerate().map(count).collect();
    let Some(terrain) = &field.terrain else { return log };
    while field.goes_on() {
        let at = dice.below(counts.len());
        let count = &mut counts[at];
        let name = |what: &str| format!("{{{}}}{what}:{path:?}:{}", count.tag, count.turn);
        let which: Vec<usize> = (0..1 + dice.below(6)).map(|_| dice.below(2)).collect();
        let mut asked: Vec<Words> = Vec::new();
        for &which in &which {
            asked.push(words(&if which == 0 {
                format!("INCR {}", name("count"))
            } else {
                format!("RPUSH {} x", name("list"))
            }));
        }
        client.rest = dice.percent(50).then(|| Duration::from_micros(dice.below(3000) as u64));
        let answers = client.tagged(&mut log, &asked);
        let (losses, goes_on) = terrain.doubts(count.group);
        let mut unknown = goes_on || losses != count.losses;
        count.losses = losses;
        let Some(answers) = answers else { continue };
        let mut wrong = None;
        for (&which, reply) in which.iter().zip(&answers.replies) {
            match reply {
                Some((V::Int(number), _)) => {
                    if *number != count.last[which] + 1 {
                        wrong = Some(format!(
                            "{path:?}: {:?} behind {:?} was answered {:?}",
                            asked, count.last, answers.replies
                        ));
                    }
                    count.last[which] = *number;
                }
                Some((V::Error(text), _)) if is_unexecuted(text) => {}
                _ => unknown = true,
            }
        }
        if let Some(wrong) = wrong.filter(|_| !unknown) {
            log.push(Event::Wrong("P8", wrong));
            count.renew();
        }
        if unknown {
            count.renew();
        }
        log.push(Event::Ordered(u64::try_from(which.len()).unwrap()));
        pass(Duration::from_micros(dice.below(3000) as u64));
    }
    log
}

fn is_unexecuted(text: &str) -> bool {
    let upstream = ["CLUSTERDOWN ", "TRYAGAIN ", "MASTERDOWN ", "LOADING", "READONLY "];
    upstream.iter().any(|start| text.starts_with(start)) || text.contains("not executed") || text.contains("not sent")
}
