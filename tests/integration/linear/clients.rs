//! Clients that do random things to a few keys all at once, and write down what they called, what was answered and when.

use std::time::Instant;

use super::history::{Answer, Call, Operation};
use crate::differential::dice::Dice;
use crate::support::resp::encode;
use crate::support::wait::eventually_some;
use crate::support::{Conn, V};

/// Keys of a round: few, so that everybody meets everybody.
pub const KEYS: usize = 2;

/// How a call is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As it is.
    Plain,
    /// By a script that does not name the key.
    Script,
    /// In a transaction in one write, which shares a connection.
    Block,
    /// In a transaction line by line, which has a connection of its own.
    Lines,
}

/// A client's connection for all rounds.
pub struct Client {
    /// Its number.
    pub number: usize,
    /// What tells it from clients on other lanes.
    pub lane: usize,
    conn: Conn,
    /// The connection was lost: it does nothing more.
    gone: bool,
}

/// An operation on one of the keys.
pub struct Recorded {
    /// Which.
    pub key: usize,
    /// Whether it was told as it is: other ways are held until every lane has read what was before.
    pub plain: bool,
    /// The client's lane.
    pub lane: usize,
    /// The rest.
    pub operation: Operation,
}

/// What a round is about.
pub struct Round<'a> {
    /// Its seed, which all its keys carry.
    pub seed: u64,
    /// When it began: all times count from here.
    pub begun: Instant,
    /// Operations of each client.
    pub operations: usize,
    /// How many of a hundred are plain reads: with more there are more hits, with fewer more to get wrong.
    pub reads: usize,
    /// What a client does between two operations to make it harder.
    pub trouble: &'a (dyn Fn(&mut Dice) + Sync),
}

/// A call, not yet sent.
struct Planned {
    key: usize,
    call: Call,
    way: Way,
}

// === impl Way ===

impl Way {
    fn label(self) -> &'static str {
        match self {
            Way::Plain => "plain",
            Way::Script => "script",
            Way::Block => "transaction in one write",
            Way::Lines => "transaction line by line",
        }
    }
}

// === impl Client ===

impl Client {
    /// A client that has told its lane: `lane_of` finds it by a key that only this client names.
    pub fn new(number: usize, mut conn: Conn, lane_of: impl Fn(&str) -> Option<usize>) -> Client {
        let name = format!("client:{number}:");
        let lane = eventually_some("the client has a lane", || {
            let answered = conn.ask(&["GET", &name]) == V::Nil;
            lane_of(&name).filter(|_| answered)
        });
        Client { number, lane, conn, gone: false }
    }

    /// Does a round's operations, and reads every key at the end.
    pub fn run(&mut self, round: &Round<'_>) -> Vec<Recorded> {
        let mut dice = Dice::new(round.seed.wrapping_mul(1000) + self.number as u64);
        let mut recorded = Vec::new();
        let mut count = 0;
        while count < round.operations && !self.gone {
            (round.trouble)(&mut dice);
            let many = if dice.percent(25) { 2 + dice.below(3) } else { 1 };
            let planned: Vec<Planned> =
                (0..many).map(|at| plan(&mut dice, round.reads, self.number * 1000 + count + at, many == 1)).collect();
            count += many;
            self.tell(round, &planned, &mut recorded);
        }
        for key in 0..KEYS {
            self.tell(round, &[Planned { key, call: Call::Get, way: Way::Plain }], &mut recorded);
        }
        recorded
    }

    /// Tells all in one write, but a transaction line by line, and writes down what came of it.
    fn tell(&mut self, round: &Round<'_>, planned: &[Planned], recorded: &mut Vec<Recorded>) {
        let now = || u64::try_from(round.begun.elapsed().as_nanos()).unwrap();
        let requests = planned.iter().map(|planned| planned.requests(round.seed));
        let requests: Vec<Vec<Vec<u8>>> = requests.collect();
        let called = now();
        if planned[0].way != Way::Lines {
            self.gone |= !self.conn.try_send_raw(&requests.concat().concat());
        }
        for (planned, requests) in planned.iter().zip(requests) {
            let mut replies = Vec::new();
            for request in &requests {
                if planned.way == Way::Lines {
                    self.gone |= !self.conn.try_send_raw(request);
                }
                replies.extend(self.reply());
            }
            let answer = if replies.len() == requests.len() { planned.answer(&replies) } else { None };
            let answered = if answer.is_some() { now() } else { u64::MAX };
            let Planned { key, call, way } = planned;
            let (client, told) = (self.number, way.label());
            let operation = Operation { call: call.clone(), answer, called, answered, client, told };
            // What only reads and has no answer says nothing.
            if operation.answer.is_some() || !call.only_reads() {
                recorded.push(Recorded { key: *key, plain: *way == Way::Plain, lane: self.lane, operation });
            }
        }
    }

    fn reply(&mut self) -> Option<V> {
        if self.gone {
            return None;
        }
        let frame = self.conn.try_read_frame().ok();
        self.gone = frame.is_none();
        frame.and_then(|frame| crate::support::resp::decode(&frame)).map(|(value, _)| value)
    }
}

// === impl Planned ===

impl Planned {
    fn requests(&self, seed: u64) -> Vec<Vec<u8>> {
        let key = format!("{seed}:{}", self.key);
        let words = words(&self.call, &key);
        let own = match self.way {
            Way::Script => encode(&script(&words)),
            _ => encode(&words),
        };
        match self.way {
            Way::Plain | Way::Script => vec![own],
            Way::Block | Way::Lines => vec![encode(&["MULTI"]), own, encode(&["EXEC"])],
        }
    }

    fn answer(&self, replies: &[V]) -> Option<Answer> {
        match (self.way, replies) {
            (Way::Plain | Way::Script, [reply]) => answer(&self.call, reply),
            (Way::Block | Way::Lines, [V::Simple(_), V::Simple(_), V::Array(replies)]) => {
                answer(&self.call, &replies[0])
            }
            _ => None,
        }
    }
}

fn plan(dice: &mut Dice, reads: usize, unique: usize, alone: bool) -> Planned {
    if dice.percent(reads) {
        return Planned { key: dice.below(KEYS), call: Call::Get, way: Way::Plain };
    }
    // A number, so that it can be counted up; and far from the next one.
    let value = ((unique + 1) * 100_000).to_string();
    let call = match dice.below(12) {
        0 | 1 => Call::Get,
        2..5 => Call::Set(value),
        5 => Call::SetNx(value),
        6 | 7 => Call::GetSet(value),
        8 => Call::GetDel,
        9 => Call::Del,
        10 => Call::Incr,
        _ => Call::Append((unique % 10).to_string()),
    };
    let way = match dice.below(20) {
        0..9 => Way::Plain,
        9..14 => Way::Script,
        14..18 => Way::Block,
        _ if alone => Way::Lines,
        _ => Way::Plain,
    };
    Planned { key: dice.below(KEYS), call, way }
}

/// A call as a client tells it.
pub fn words(call: &Call, key: &str) -> Vec<String> {
    let (name, argument) = match call {
        Call::Get => ("GET", None),
        Call::Set(value) => ("SET", Some(value)),
        Call::SetNx(value) => ("SETNX", Some(value)),
        Call::GetSet(value) => ("GETSET", Some(value)),
        Call::GetDel => ("GETDEL", None),
        Call::Del => ("DEL", None),
        Call::Incr => ("INCR", None),
        Call::Append(more) => ("APPEND", Some(more)),
    };
    [name, key].into_iter().map(str::to_string).chain(argument.cloned()).collect()
}

/// The same by a script, to which the key is an argument like others.
fn script(words: &[String]) -> Vec<String> {
    let start = ["EVAL", "return redis.call(unpack(ARGV))", "0"];
    start.into_iter().map(str::to_string).chain(words.iter().cloned()).collect()
}

/// What a reply says; nothing if it says that something else went wrong.
pub fn answer(call: &Call, reply: &V) -> Option<Answer> {
    match (call, reply) {
        (Call::Set(_), V::Simple(ok)) if ok == "OK" => Some(Answer::Ok),
        (Call::Get | Call::GetSet(_) | Call::GetDel, V::Nil) => Some(Answer::Value(None)),
        (Call::Get | Call::GetSet(_) | Call::GetDel, V::Bulk(_)) => Some(Answer::Value(Some(reply.text()))),
        (Call::SetNx(_) | Call::Del | Call::Incr | Call::Append(_), V::Int(number)) => Some(Answer::Number(*number)),
        (Call::Incr, V::Error(text)) if text.contains("not an integer") || text.contains("would overflow") => {
            Some(Answer::Refused)
        }
        _ => None,
    }
}
