//! Every order of what can happen, for small cases, held to the promises P1 to P6.
//!
//! Driven are the product's own types: `Generations`, `Epoch`, `Standing`, `Lease`, `Flights`, `Coherence` with its
//! fills, hits, pushes and deadlines, and `Replies` with parked reads. Modelled are the server, the network, clients and
//! the clock (`upstream`, `world`). Where `dispatch` cannot be driven without sockets, the order in which it calls these
//! types is repeated (`sending`, `arriving`, `fences`): there a change of the product must be made again. Left out are the store,
//! MGET, scripts, rules per key and commands whose patience ends.
//!
//! A rule is worth what breaks without it: each is turned off in turn, and the shortest schedule that breaks a promise
//! is found. `MODEL_TALES=1` prints these.
#![allow(missing_docs, reason = "nothing here is used by anybody else")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test says loudly what is wrong")]

mod arriving;
mod cases;
mod explore;
mod fences;
mod key;
mod parts;
mod promises;
mod rules;
mod sending;
mod upstream;
mod world;

use std::sync::Arc;

use explore::{Explored, explore};
use rules::{Rule, Rules};
use sidecache::coherence::Shared;
use world::{Choice, World};

fn explore_case(name: &str, off: Option<Rule>) -> Explored<Choice> {
    let case = cases::all().into_iter().find(|case| case.name == name).expect("a case of this name");
    let shared: Arc<Shared> = Arc::default();
    explore(|| World::new(&case, Rules { off }, &shared))
}

fn assert_kept(name: &str, off: Option<Rule>) {
    let explored = explore_case(name, off);
    let Explored { states, transitions, depth, .. } = explored;
    println!("{name}: {states} states, {transitions} steps, up to {depth} in a schedule");
    assert!(explored.violation.is_none(), "{name}:\n{}", explored.tale());
}

/// A test for each case, so that each is short wherever processors are busy.
macro_rules! promises_hold_in {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            assert_kept($name, None);
        })*

        const TESTED: &[&str] = &[$($name),*];
    };
}

promises_hold_in! {
    own_writes: "own writes, two workers",
    own_writes_and_outside: "own and outside writes, two workers",
    fills: "fills beside writes, two workers",
    three_clients: "three clients, two workers",
    lost_parked_reads: "a parked read is lost",
    pipelines: "hits in a pipeline",
    writes_behind_hits: "a write behind a hit",
    joined_flights: "joined flights",
    joined_first_reads: "first reads joined",
    old_flights: "joined flights grow old",
    leases: "leases",
    a_busy_server: "a busy server",
    expiry: "expiry",
    lost_writes: "a lost write, two workers",
    lost_reads: "reads sent again",
    lost_lanes: "a lost lane",
    own_writes_by_age: "own writes by age, two workers",
    age: "age",
    inside_flushes: "an inside flush, two workers",
    outside_flushes: "an outside flush",
    news_and_the_own_lane: "news and the own lane",
    news_and_other_lanes: "news and another worker's lane",
    news_on_lanes: "news on a lane",
}

#[test]
fn no_case_is_forgotten() {
    let names: Vec<&str> = cases::all().iter().map(|case| case.name).collect();
    assert_eq!(names, TESTED);
}

/// What breaks first, and in which case, if a rule is off.
fn assert_needed(rule: Rule, name: &str, promise: &str) {
    let explored = explore_case(name, Some(rule));
    let (schedule, broken) = explored.violation.as_ref().unwrap_or_else(|| panic!("{name} does without {rule:?}"));
    println!("{rule:?}: {name}: {} states, then in {} steps {broken}", explored.states, schedule.len());
    assert!(broken.starts_with(promise), "{rule:?}, {name}:\n{}", explored.tale());
    if std::env::var("MODEL_TALES").is_ok() {
        println!("{}", explored.tale());
    }
}

/// A test for each row: a rule, a case, and the promise that breaks in it without that rule.
macro_rules! rules_are_needed {
    ($($test:ident: $rule:ident, $name:literal, $promise:literal;)*) => {
        $(#[test]
        fn $test() {
            assert_needed(Rule::$rule, $name, $promise);
        })*

        const NEEDED: &[Rule] = &[$(Rule::$rule),*];
    };
}

rules_are_needed! {
    needs_bump_at_reply: BumpAtReply, "fills beside writes, two workers", "P2";
    needs_bump_at_reply_by_age: BumpAtReply, "own writes by age, two workers", "P2";
    needs_bump_at_loss: BumpAtLoss, "a lost write, two workers", "P2";
    needs_key_push: KeyPush, "hits in a pipeline", "P3";
    needs_key_push_in_time: KeyPush, "leases", "P6";
    needs_null_push: NullPush, "an outside flush", "P6";
    needs_noted_at_send: NotedAtSend, "fills beside writes, two workers", "P2";
    needs_lane_epoch: LaneEpoch, "a lost lane", "P6";
    needs_node_epoch: NodeEpochAtReply, "an inside flush, two workers", "P2";
    needs_lease: Lease, "leases", "P6";
    needs_lease_by_replies: LeaseByReplies, "leases", "P6";
    needs_deadline: Deadline, "expiry", "P5";
    needs_age: Age, "age", "P6";
    needs_caching: Caching, "a busy server", "P6";
    needs_join_age: JoinAge, "joined flights grow old", "P4";
    needs_join_age_by_age: JoinAge, "age", "P4";
    needs_join_order: JoinOrder, "joined flights", "P3";
    needs_join_generation: JoinGeneration, "fills beside writes, two workers", "P2";
    needs_join_epoch: JoinEpoch, "an inside flush, two workers", "P2";
    needs_park: Park, "hits in a pipeline", "P3";
    needs_judge_at_turn: JudgeAtTurn, "hits in a pipeline", "P3";
    needs_unpark: Unpark, "a write behind a hit", "P1";
    needs_fence_here: FenceHere, "news and the own lane", "P3";
    needs_fence_there: FenceThere, "news and another worker's lane", "P3";
    needs_fence_for_lane_news: FenceForLaneNews, "news on a lane", "P3";
    needs_failed_fence: FailedFence, "news and the own lane", "P3";
}

#[test]
fn no_rule_is_forgotten() {
    for rule in Rule::ALL {
        let kept_twice = KEPT_TWICE.iter().any(|(other, _)| *other == rule);
        assert!(NEEDED.contains(&rule) != kept_twice, "{rule:?}: needed, or not?");
    }
}

/// Rules without which the promises still hold in all orders of these cases, since another rule keeps them too: what is
/// done before a reply is released would be enough. They spare a fill, or a parked read its second judgement.
const KEPT_TWICE: [(Rule, &str); 5] = [
    (Rule::BumpAtSend, "fills beside writes, two workers"),
    (Rule::BumpAtSend, "own writes by age, two workers"),
    (Rule::BumpAtSend, "a write behind a hit"),
    (Rule::BumpAtSend, "a lost write, two workers"),
    (Rule::NodeEpochAtSend, "an inside flush, two workers"),
];

#[test]
fn what_is_bumped_at_the_reply_need_not_have_been_at_the_send() {
    for (rule, name) in KEPT_TWICE {
        assert_kept(name, Some(rule));
    }
}
