//! The judge itself is judged: by histories whose verdict is known, and by trying every row of small ones.

use proptest::prelude::*;

use super::history::{Answer, Call, Operation, Verdict, judge};

/// `client call answer from-to`, times in any unit.
fn operation(client: usize, call: Call, answer: Option<Answer>, called: u64, answered: u64) -> Operation {
    let answered = if answer.is_some() { answered } else { u64::MAX };
    Operation { call, answer, called, answered, client, told: "" }
}

fn set(client: usize, value: &str, called: u64, answered: u64) -> Operation {
    operation(client, Call::Set(value.into()), Some(Answer::Ok), called, answered)
}

fn lost(client: usize, value: &str, called: u64) -> Operation {
    operation(client, Call::Set(value.into()), None, called, 0)
}

fn get(client: usize, value: &str, called: u64, answered: u64) -> Operation {
    let value = (!value.is_empty()).then(|| value.to_string());
    operation(client, Call::Get, Some(Answer::Value(value)), called, answered)
}

fn incr(client: usize, number: i64, called: u64, answered: u64) -> Operation {
    operation(client, Call::Incr, Some(Answer::Number(number)), called, answered)
}

#[test]
fn what_clients_that_take_turns_could_see_is_linearizable() {
    let histories: [Vec<Operation>; 8] = [
        vec![],
        vec![get(0, "", 0, 1), set(0, "a", 2, 3), get(1, "a", 4, 5)],
        // A read beside a write sees it or does not.
        vec![set(0, "a", 0, 9), get(1, "", 1, 2), get(2, "a", 3, 4)],
        vec![set(0, "a", 0, 9), set(1, "b", 0, 9), get(2, "b", 1, 2), get(2, "a", 3, 4), get(2, "a", 10, 11)],
        // A lost write is done late, or never.
        vec![lost(0, "a", 0), get(1, "", 1, 2), set(1, "b", 3, 4), get(1, "b", 5, 6), get(2, "a", 7, 8)],
        vec![lost(0, "a", 0), get(1, "", 1, 2), get(1, "", 3, 4)],
        vec![incr(0, 2, 0, 9), incr(1, 1, 0, 9), get(2, "1", 3, 4), get(2, "2", 5, 6)],
        // Two ends of the same moment do not part operations.
        vec![set(0, "a", 0, 5), get(1, "", 5, 6)],
    ];
    for history in histories {
        assert_eq!(judge(&history), Verdict::Linearizable, "{history:?}");
    }
}

#[test]
fn what_no_clients_that_take_turns_could_see_is_a_violation() {
    let histories: [Vec<Operation>; 8] = [
        // Stale.
        vec![set(0, "a", 0, 1), set(0, "b", 2, 3), get(1, "a", 4, 5)],
        // Back in time, from one client to the next, while the write lasts.
        vec![set(0, "a", 0, 9), get(1, "a", 1, 2), get(2, "", 3, 4)],
        // Lost updates.
        vec![incr(0, 1, 0, 9), incr(1, 1, 0, 9)],
        // From nowhere, and from the future.
        vec![get(0, "x", 0, 1)],
        vec![get(0, "a", 0, 1), set(1, "a", 2, 3)],
        // A lost write that is done twice.
        vec![
            lost(0, "a", 0),
            get(1, "a", 1, 2),
            set(1, "b", 3, 4),
            get(1, "a", 5, 6),
            set(1, "c", 7, 8),
            get(1, "a", 9, 9),
        ],
        // One client's pipeline out of order: beside each other, yet in a row.
        vec![set(0, "a", 0, 9), get(0, "", 0, 9)],
        vec![get(0, "a", 0, 9), set(0, "a", 0, 9)],
    ];
    for history in histories {
        assert!(matches!(judge(&history), Verdict::Violated(_)), "{history:?}");
    }
}

#[test]
fn calls_do_what_the_server_does() {
    let server = crate::support::Server::redis();
    let mut conn = server.conn();
    let values = [
        "",
        "0",
        "-1",
        "7",
        "07",
        "+7",
        " 7",
        "x",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
    ];
    for value in values.iter().map(|value| (!value.is_empty()).then(|| value.to_string())) {
        let text = |text: &str| text.to_string();
        let calls = [Call::Get, Call::Set(text("1")), Call::SetNx(text("1")), Call::GetSet(text("1")), Call::GetDel];
        for call in calls.into_iter().chain([Call::Del, Call::Incr, Call::Append(text("5"))]) {
            conn.call(&["DEL", "k"]);
            value.as_ref().inspect(|value| drop(conn.call(&["SET", "k", value])));
            let reply = conn.ask(&super::clients::words(&call, "k"));
            let after = super::clients::answer(&Call::Get, &conn.line("GET k"));
            let (expected, answer) = call.apply(&value);
            assert_eq!(super::clients::answer(&call, &reply), Some(answer), "{call:?} at {value:?}");
            assert_eq!(after, Some(Answer::Value(expected)), "{call:?} at {value:?}");
        }
    }
}

/// Every row of every choice among the unanswered.
fn is_linearizable_by_trying_all(operations: &[Operation]) -> bool {
    fn extend(operations: &[Operation], row: &mut Vec<usize>) -> bool {
        let is_whole = (0..operations.len()).all(|at| row.contains(&at) || operations[at].answer.is_none());
        if is_whole && is_told(operations, row) {
            return true;
        }
        (0..operations.len()).any(|at| {
            if row.contains(&at) {
                return false;
            }
            row.push(at);
            let found = extend(operations, row);
            row.pop();
            found
        })
    }
    extend(operations, &mut Vec::new())
}

/// Whether a row keeps to the times, to each client's order, and to the answers.
fn is_told(operations: &[Operation], row: &[usize]) -> bool {
    let mut value = None;
    row.iter().enumerate().all(|(place, &at)| {
        let later = row[place..].iter().all(|&other| operations[other].answered >= operations[at].called);
        let before = (0..at).filter(|&other| operations[other].client == operations[at].client);
        let own = before.filter(|&other| operations[other].answer.is_some()).all(|other| row[..place].contains(&other));
        let (after, answer) = operations[at].call.apply(&value);
        value = after;
        later && own && operations[at].answer.as_ref().is_none_or(|given| *given == answer)
    })
}

fn calls() -> impl Strategy<Value = Call> {
    let value = || prop_oneof![Just("1".to_string()), Just("x".to_string())];
    prop_oneof![
        4 => Just(Call::Get),
        2 => value().prop_map(Call::Set),
        1 => value().prop_map(Call::SetNx),
        1 => value().prop_map(Call::GetSet),
        1 => Just(Call::GetDel),
        1 => Just(Call::Del),
        1 => Just(Call::Incr),
        1 => Just(Call::Append("1".into())),
    ]
}

/// Calls at random times, done in some row, so that many are linearizable; some answers are another's, some are lost.
fn histories() -> impl Strategy<Value = Vec<Operation>> {
    let each = (calls(), 0_u64..20, 0_u64..8, 0_usize..3, 0_u8..10);
    (prop::collection::vec(each, 1..6), prop::collection::vec(any::<prop::sample::Index>(), 0..2)).prop_map(
        |(all, wrong)| {
            let mut value = None;
            let mut operations: Vec<Operation> = Vec::new();
            for (call, called, lasts, client, chance) in all {
                let (after, answer) = call.apply(&value);
                let is_lost = chance == 0;
                // A lost one is done half of the time.
                if !is_lost || called % 2 == 0 {
                    value = after;
                }
                operations.push(operation(client, call, (!is_lost).then_some(answer), called, called + lasts));
            }
            let answers: Vec<Option<Answer>> = operations.iter().map(|operation| operation.answer.clone()).collect();
            for index in wrong {
                let at = index.index(operations.len());
                let other = answers[(at + 1) % answers.len()].clone();
                if operations[at].answer.is_some() && other.is_some() {
                    operations[at].answer = other;
                }
            }
            operations
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_judge_agrees_with_trying_every_row(history in histories()) {
        let is_linearizable = is_linearizable_by_trying_all(&history);
        prop_assert_eq!(judge(&history) == Verdict::Linearizable, is_linearizable);
    }
}
