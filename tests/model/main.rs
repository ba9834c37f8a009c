//! Every order of what can happen, for small cases, held to the promises P1 to P6.
//!
//! Driven are the product's own types: `Generations`, `Epoch`, `Standing`, `Lease`, `Flights`, `Coherence` with its
//! fills, hits, pushes and deadlines, and `Replies` with parked reads. Modelled are the server, the network, clients and
//! the clock (`upstream`, `world`). Where `dispatch` cannot be driven without sockets, the order in which it calls these
//! types is repeated (`driving`, `fences`): there a change of the product must be made again. Left out are the store,
//! MGET, scripts, `ttl` mode and commands whose patience ends.
//!
//! A rule is worth what breaks without it: each is turned off in turn, and the shortest schedule that breaks a promise
//! is found. `MODEL_TALES=1` prints these, `MODEL_CASE=part-of-a-name` explores these cases alone.
#![allow(missing_docs, reason = "nothing here is used by anybody else")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test says loudly what is wrong")]

mod cases;
mod driving;
mod explore;
mod fences;
mod key;
mod promises;
mod rules;
mod upstream;
mod world;

use std::sync::Arc;
use std::time::Instant;

use cases::Case;
use explore::{Explored, explore};
use rules::{Rule, Rules};
use sidecache::coherence::Shared;
use world::{Choice, World};

fn chosen() -> Vec<Case> {
    let part = std::env::var("MODEL_CASE").unwrap_or_default();
    cases::all().into_iter().filter(|case| case.name.contains(&part)).collect()
}

fn explore_case(case: &Case, off: Option<Rule>) -> Explored<Choice> {
    let shared: Arc<Shared> = Arc::default();
    explore(|| World::new(case, Rules { off }, &shared))
}

#[test]
fn every_promise_holds_in_every_order() {
    let (mut states, mut transitions) = (0, 0);
    for case in chosen() {
        let begun = Instant::now();
        let explored = explore_case(&case, None);
        println!(
            "{:34} {:7} states {:8} steps, up to {:2} deep, {:4} ms",
            case.name,
            explored.states,
            explored.transitions,
            explored.depth,
            begun.elapsed().as_millis()
        );
        assert!(explored.violation.is_none(), "{}:\n{}", case.name, explored.tale());
        (states, transitions) = (states + explored.states, transitions + explored.transitions);
    }
    println!("{states} states, {transitions} steps");
}
