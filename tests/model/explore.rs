//! An exhaustive search: every order of the choices that a model offers, shortest schedules first.
//!
//! A state is reached again by replaying its schedule on a fresh model, so that the model may hold the product's own
//! types, which cannot be copied: nothing is ever put into a state that the product could not reach. States that have
//! the same key are explored once. Not here: what the choices are.

use std::collections::HashSet;
use std::fmt::Debug;

/// Something that goes on in steps, of which several may be possible at a time.
pub trait Model {
    /// A step.
    type Choice: Copy + Debug;

    /// The steps that are possible now.
    fn choices(&self) -> Vec<Self::Choice>;

    /// Takes one; `Err` says which promise it has broken.
    fn step(&mut self, choice: Self::Choice) -> Result<(), String>;

    /// Equal for states from which the same can follow.
    fn key(&self) -> u64;
}

/// What a search has come to.
pub struct Explored<C> {
    /// Different states met.
    pub states: usize,
    /// Steps taken from them.
    pub transitions: usize,
    /// The length of the longest schedule.
    pub depth: usize,
    /// The shortest schedule that breaks a promise, and which.
    pub violation: Option<(Vec<C>, String)>,
}

/// How a state was first reached: from which one, by which step, in how many.
struct Reached<C> {
    from: usize,
    by: Option<C>,
    depth: usize,
}

// === impl Explored ===

impl<C: Debug> Explored<C> {
    /// The schedule that breaks a promise, a step a line.
    pub fn tale(&self) -> String {
        let Some((schedule, broken)) = &self.violation else { return "no violation".into() };
        let steps = schedule.iter().enumerate().map(|(at, choice)| format!("{:3}. {choice:?}\n", at + 1));
        steps.collect::<String>() + "     " + broken
    }
}

/// Explores a model until every state has been met or a promise is broken.
pub fn explore<M: Model>(fresh: impl Fn() -> M) -> Explored<M::Choice> {
    let mut reached = vec![Reached { from: 0, by: None, depth: 0 }];
    let mut met = HashSet::from([fresh().key()]);
    let mut explored = Explored { states: 1, transitions: 0, depth: 0, violation: None };
    let mut at = 0;
    while at < reached.len() {
        let schedule = schedule(&reached, at);
        let mut model = Some(replay(&fresh, &schedule));
        let choices = model.iter().flat_map(Model::choices).collect::<Vec<_>>();
        for choice in choices {
            let mut next = model.take().unwrap_or_else(|| replay(&fresh, &schedule));
            explored.transitions += 1;
            if let Err(broken) = next.step(choice) {
                let mut schedule = schedule;
                schedule.push(choice);
                explored.violation = Some((schedule, broken));
                return explored;
            }
            if met.insert(next.key()) {
                let depth = reached[at].depth + 1;
                reached.push(Reached { from: at, by: Some(choice), depth });
                explored.states += 1;
                explored.depth = depth;
            }
        }
        at += 1;
    }
    explored
}

fn schedule<C: Copy>(reached: &[Reached<C>], mut at: usize) -> Vec<C> {
    let mut schedule = Vec::with_capacity(reached[at].depth);
    while let Some(choice) = reached[at].by {
        schedule.push(choice);
        at = reached[at].from;
    }
    schedule.reverse();
    schedule
}

fn replay<M: Model>(fresh: &impl Fn() -> M, schedule: &[M::Choice]) -> M {
    let mut model = fresh();
    for &choice in schedule {
        model.step(choice).expect("a schedule that was taken before");
    }
    model
}
