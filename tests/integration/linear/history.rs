//! Whether a history of one key could have been told by clients that take turns: linearizability.
//!
//! The search is Wing and Gong's with Lowe's memory: operations are put in a row one by one, each only while none that
//! had ended before it began is left out, and no pair of (those put, value) is looked at twice. An operation without an
//! answer may take its place at any time after its call, or never.

use std::collections::HashSet;
use std::fmt;

/// So many states are looked at before the search is given up: beyond, a history with many unanswered writes takes
/// minutes.
const STATES: usize = 200_000;

/// What is done to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Get,
    Set(String),
    SetNx(String),
    GetSet(String),
    GetDel,
    Del,
    Incr,
    Append(String),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ok,
    /// A value, or none.
    Value(Option<String>),
    Number(i64),
    /// The value is no number that can be counted up.
    Refused,
}

/// A call and its answer, with the times between which it took effect.
#[derive(Clone, Debug)]
pub struct Operation {
    pub call: Call,
    /// None if nobody knows whether it was done; then it may be done even later.
    pub answer: Option<Answer>,
    pub called: u64,
    /// When the answer was there.
    pub answered: u64,
    /// Who called: their operations are done in the order in which they stand.
    pub client: usize,
    /// How it was told, for the reader.
    pub told: &'static str,
}

/// What the search has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// The longest row that was found, and what then could not follow.
    Violated(String),
    /// There were too many rows to try.
    Undecided,
}

/// The search.
struct Search<'a> {
    operations: &'a [Operation],
    /// For each, which one must stand before it.
    after: Vec<Option<usize>>,
    put: Vec<bool>,
    row: Vec<usize>,
    seen: HashSet<(Vec<bool>, Option<String>)>,
    longest: Vec<usize>,
}

// === impl Call ===

impl Call {
    /// Does it: the value after it, and the answer.
    pub fn apply(&self, value: &Option<String>) -> (Option<String>, Answer) {
        let unchanged = value.clone();
        match self {
            Call::Get => (unchanged, Answer::Value(value.clone())),
            Call::Set(new) => (Some(new.clone()), Answer::Ok),
            Call::SetNx(_) if value.is_some() => (unchanged, Answer::Number(0)),
            Call::SetNx(new) => (Some(new.clone()), Answer::Number(1)),
            Call::GetSet(new) => (Some(new.clone()), Answer::Value(value.clone())),
            Call::GetDel => (None, Answer::Value(value.clone())),
            Call::Del => (None, Answer::Number(i64::from(value.is_some()))),
            Call::Incr => match value.as_deref().map_or(Some(0), number).and_then(|number| number.checked_add(1)) {
                Some(number) => (Some(number.to_string()), Answer::Number(number)),
                None => (unchanged, Answer::Refused),
            },
            Call::Append(more) => {
                let new = format!("{}{more}", value.as_deref().unwrap_or_default());
                let length = i64::try_from(new.len()).unwrap();
                (Some(new), Answer::Number(length))
            }
        }
    }

    /// Whether it changes nothing, whatever the value.
    pub fn only_reads(&self) -> bool {
        *self == Call::Get
    }
}

/// A number as Redis takes it: without a sign but a minus, without zeros before it.
fn number(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

// === impl Operation ===

impl Operation {
    /// Whether its answer says that it has changed nothing.
    fn did_nothing(&self) -> bool {
        match (&self.call, &self.answer) {
            (_, None) => false,
            (Call::Get, _) | (_, Some(Answer::Refused)) | (Call::GetDel, Some(Answer::Value(None))) => true,
            (Call::SetNx(_) | Call::Del, Some(answer)) => *answer == Answer::Number(0),
            _ => false,
        }
    }

    /// The value after it, if it may be done at this value.
    fn done_at(&self, value: &Option<String>) -> Option<Option<String>> {
        let (after, answer) = self.call.apply(value);
        self.answer.as_ref().is_none_or(|own| *own == answer).then_some(after)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { call, answer, called, answered, client, told } = self;
        let until = if answer.is_some() { format!("{answered:>12}") } else { " ".repeat(12) };
        write!(f, "{called:>12} {until}  client {client:>2}  {call:?} ({told}): ")?;
        match answer {
            Some(answer) => write!(f, "{answer:?}"),
            None => write!(f, "no answer"),
        }
    }
}

// === impl Search ===

/// Whether clients that take turns could have seen this; the key is missing at first.
pub fn judge(operations: &[Operation]) -> Verdict {
    let previous = |at: usize| {
        let own =
            |other: &usize| operations[*other].client == operations[at].client && operations[*other].answer.is_some();
        (0..at).rev().find(own)
    };
    let mut search = Search {
        operations,
        after: (0..operations.len()).map(previous).collect(),
        put: vec![false; operations.len()],
        row: Vec::new(),
        seen: HashSet::new(),
        longest: Vec::new(),
    };
    match search.finish(&None) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Violated(search.told()),
        None => Verdict::Undecided,
    }
}

impl Search<'_> {
    /// Whether the row can be finished from this value on; nothing if that would take too long to tell.
    fn finish(&mut self, value: &Option<String>) -> Option<bool> {
        let length = self.row.len();
        // What changes nothing may be put as soon as it fits: no other row is lost by that.
        while let Some(at) = self.reading(value) {
            self.put(at);
        }
        if self.row.len() > self.longest.len() {
            self.longest.clone_from(&self.row);
        }
        if (0..self.put.len()).all(|at| self.put[at] || self.operations[at].answer.is_none()) {
            return Some(true);
        }
        if self.seen.len() >= STATES {
            return None;
        }
        if self.seen.insert((self.put.clone(), value.clone())) {
            let mut next: Vec<usize> = self.next().filter(|&at| !self.operations[at].did_nothing()).collect();
            // The unanswered come last: mostly they were done at once or never.
            next.sort_by_key(|&at| self.operations[at].answered);
            for at in next {
                let Some(after) = self.operations[at].done_at(value) else { continue };
                self.put(at);
                let finished = self.finish(&after);
                if finished != Some(false) {
                    return finished;
                }
                self.take_back(self.row.len() - 1);
            }
        }
        self.take_back(length);
        Some(false)
    }

    /// What may stand next: nothing that is left out had ended before it began.
    fn next(&self) -> impl Iterator<Item = usize> {
        let left = || (0..self.put.len()).filter(|&at| !self.put[at]);
        let first_end = left().map(|at| self.operations[at].answered).min().unwrap_or(u64::MAX);
        left().filter(move |&at| {
            self.operations[at].called <= first_end && self.after[at].is_none_or(|before| self.put[before])
        })
    }

    /// What may stand next, fits this value, and has changed nothing.
    fn reading(&self, value: &Option<String>) -> Option<usize> {
        let reads = |at: &usize| self.operations[*at].did_nothing() && self.operations[*at].done_at(value).is_some();
        self.next().find(reads)
    }

    fn put(&mut self, at: usize) {
        self.put[at] = true;
        self.row.push(at);
    }

    fn take_back(&mut self, length: usize) {
        for at in self.row.drain(length..) {
            self.put[at] = false;
        }
    }

    /// The longest row's end, and what is left.
    fn told(&self) -> String {
        let mut value = None;
        let mut lines = vec!["the longest row:".to_string()];
        for &at in &self.longest {
            value = self.operations[at].call.apply(&value).0;
            lines.push(format!("{} -> {value:?}", self.operations[at]));
        }
        lines.drain(1..lines.len().saturating_sub(15).max(1));
        lines.push("cannot be followed by any of:".into());
        let mut left: Vec<usize> = (0..self.put.len()).filter(|at| !self.longest.contains(at)).collect();
        left.sort_by_key(|&at| self.operations[at].called);
        lines.extend(left.iter().take(15).map(|&at| self.operations[at].to_string()));
        lines.join("\n  ")
    }
}
