//! The replies that one client is owed, in the order of its commands.
//!
//! ```text
//!  [GET a: miss][GET k: would hit][GET b: miss][PING]
//!     Waiting        Parked           Waiting    Done      front ─► only a Done at the front leaves
//!        │ a's reply     │ judged at its turn: a hit then, or it and
//!        ▼               ▼ every later read are fetched anew
//!      Done ──► out    Done ──► out
//! ```
//!
//! *Invariant:* exactly one reply per command leaves, in order; a reply whose place is taken, answered or
//! counted anew (`attempt`) is swallowed. Behind a parked read stand only reads (rule 3).

use std::collections::VecDeque;

use bytes::Bytes;

use super::output::Output;
use super::read::Read;
use crate::cache::Entry;
use crate::switch::{Rule, on};

/// One client's owed replies and its output.
#[derive(Default)]
pub struct Replies {
    /// One place per unanswered command.
    places: VecDeque<Place>,
    /// The number of the first place.
    first: u64,
    /// Parked reads among the places.
    parked: usize,
    /// Bytes in places behind the front.
    early: usize,
    /// A reply of which a part has been passed on without a place.
    cut: bool,
    /// Messages that must not stand in the midst of a reply.
    late: Output,
    /// What may be written.
    pub out: Output,
}

struct Place {
    /// Replies of earlier attempts are swallowed.
    attempt: u32,
    /// Whether the client asked for silence (CLIENT REPLY).
    mute: bool,
    /// Whether the command changes nothing: a plain read, or answered here.
    harmless: bool,
    /// The read, if it is parked or stands behind a parked one and so may have to be fetched anew.
    read: Option<Box<Read>>,
    state: State,
}

enum State {
    /// Its reply is under way.
    Waiting,
    /// Would have been a hit; judged at its turn.
    Parked,
    /// Parts of its reply are here, more come.
    Coming(Output),
    /// Its whole reply is here.
    Done(Output),
}

// === impl Replies ===

impl Replies {
    /// Whether every command is answered.
    pub fn is_settled(&self) -> bool {
        self.places.is_empty()
    }

    /// Commands not yet answered.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Parked reads.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Bytes kept for this client.
    pub fn bytes(&self) -> usize {
        self.out.len() + self.early + self.late.len()
    }

    /// A place for a read that has been sent, or is about to be; the read is kept while others are parked.
    pub fn expect(&mut self, read: impl FnOnce() -> Box<Read>, mute: bool) -> u64 {
        let read = if self.parked > 0 { Some(read()) } else { None };
        self.take_place(State::Waiting, read, mute, true)
    }

    /// A place for a command that is not a plain read.
    pub fn expect_other(&mut self, mute: bool) -> u64 {
        self.take_place(State::Waiting, None, mute, false)
    }

    /// A place for a read that would hit.
    pub fn park(&mut self, read: Box<Read>, mute: bool) {
        self.parked += 1;
        self.take_place(State::Parked, Some(read), mute, true);
    }

    /// A reply that is known already.
    pub fn answer(&mut self, reply: &[u8], mute: bool) {
        if mute && self.places.is_empty() {
            return;
        }
        if self.places.is_empty() {
            return self.out.copy(reply);
        }
        let mut output = Output::default();
        output.copy(reply);
        self.early += reply.len();
        self.take_place(State::Done(output), None, mute, true);
    }

    /// A reply that has no place, because nothing else is owed, or a part of it.
    pub fn pass_on(&mut self, reply: &Bytes, last: bool) {
        self.out.share(reply);
        self.cut = !last;
        self.let_messages_in();
    }

    /// A message, which stands between any two replies.
    pub fn interject(&mut self, message: &Bytes) {
        self.late.share(message);
        self.let_messages_in();
    }

    fn let_messages_in(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let amid = self.places.front().is_some_and(|place| matches!(place.state, State::Coming(_)));
        if !amid && !self.cut {
            self.out.append(std::mem::take(&mut self.late));
        }
    }

    /// Puts a reply, or the `last` part of it, into its place; whether the place was still waiting for it.
    pub fn put(&mut self, number: u64, attempt: u32, reply: &Bytes, last: bool) -> bool {
        self.put_by(number, attempt, last, reply.len(), |output| output.share(reply))
    }

    /// As `put`, for bytes that must be copied anyway.
    pub fn put_copy(&mut self, number: u64, attempt: u32, reply: &[u8]) -> bool {
        self.put_by(number, attempt, true, reply.len(), |output| output.copy(reply))
    }

    fn put_by(&mut self, number: u64, attempt: u32, last: bool, len: usize, append: impl FnOnce(&mut Output)) -> bool {
        let Some(index) = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
            return false;
        };
        let front = index == 0;
        let is_this = |place: &&mut Place| !on(Rule::EarlierAttemptIsSwallowed) || place.attempt == attempt;
        let Some(place) = self.places.get_mut(index).filter(is_this) else { return false };
        if matches!(place.state, State::Done(_) | State::Parked) {
            return false;
        }
        if front {
            if !place.mute {
                append(&mut self.out);
            }
            if last {
                self.leave();
                self.advance();
                self.let_messages_in();
            } else if !matches!(place.state, State::Coming(_)) {
                place.state = State::Coming(Output::default());
            }
            return true;
        }
        let mut output = match std::mem::replace(&mut place.state, State::Waiting) {
            State::Coming(output) => output,
            _ => Output::default(),
        };
        if !place.mute {
            append(&mut output);
            self.early += len;
        }
        place.state = if last { State::Done(output) } else { State::Coming(output) };
        true
    }

    /// Whether parts of a reply have come, and may have left, while more are on their way.
    pub fn is_coming(&self, number: u64, attempt: u32) -> bool {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let place = index.and_then(|index| self.places.get(index));
        place.is_some_and(|place| place.attempt == attempt && matches!(place.state, State::Coming(_)))
    }

    /// Whether a place still waits for the reply of this attempt.
    pub fn is_owed(&self, number: u64, attempt: u32) -> bool {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let place = index.and_then(|index| self.places.get(index));
        let waits = |place: &Place| matches!(place.state, State::Waiting | State::Coming(_));
        place.is_some_and(|place| place.attempt == attempt && waits(place))
    }

    /// The places that wait for their replies, or for the rest of them.
    pub fn owed(&self) -> impl Iterator<Item = u64> + '_ {
        let is_owed = |place: &Place| matches!(place.state, State::Waiting | State::Coming(_));
        let owed = self.places.iter().enumerate().filter(move |(_, place)| is_owed(place));
        owed.map(|(index, _)| self.first + index as u64)
    }

    /// The parked read whose turn it is, if one is at the front.
    pub fn parked_front(&self) -> Option<&Read> {
        let front = self.places.front()?;
        if matches!(front.state, State::Parked) { front.read.as_deref() } else { None }
    }

    /// Answers the parked read at the front.
    pub fn answer_parked(&mut self, entry: &Entry) {
        let mute = self.places.front().is_some_and(|place| place.mute);
        if !mute {
            self.out.entry(entry);
        }
        self.parked = self.parked.saturating_sub(1);
        self.leave();
        self.advance();
    }

    /// Takes the parked reads out to be fetched, in order, and every read behind the first of them that has
    /// already been sent, as a further attempt. Returns number, attempt and read of each.
    pub fn fetch_parked(&mut self) -> Vec<(u64, u32, Box<Read>)> {
        let mut fetched = Vec::new();
        let mut met = false;
        for (index, place) in self.places.iter_mut().enumerate() {
            let number = self.first + index as u64;
            if matches!(place.state, State::Parked) {
                met = true;
            } else if !(on(Rule::LaterReadsGoAnew) && met && place.read.is_some()) {
                continue;
            } else {
                place.attempt += 1;
                if let State::Coming(output) | State::Done(output) = &place.state {
                    self.early = self.early.saturating_sub(output.len());
                }
            }
            place.state = State::Waiting;
            fetched.extend(place.read.take().map(|read| (number, place.attempt, read)));
        }
        self.parked = 0;
        fetched
    }

    /// A further attempt for a read lost with its connection, if it is the second and nothing but reads stand
    /// behind it.
    pub fn try_again(&mut self, number: u64, attempt: u32) -> Option<u32> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        if on(Rule::RetryNeedsHarmless) && !self.places.iter().skip(index).all(|place| place.harmless) {
            return None;
        }
        let first = !on(Rule::RetryIsOnce) || attempt == 0;
        let place = self.places.get_mut(index).filter(|place| place.attempt == attempt && first)?;
        if !matches!(place.state, State::Waiting) {
            return None;
        }
        place.attempt += 1;
        Some(place.attempt)
    }

    fn take_place(&mut self, state: State, read: Option<Box<Read>>, mute: bool, harmless: bool) -> u64 {
        self.places.push_back(Place { attempt: 0, mute, harmless, read, state });
        self.first + self.places.len() as u64 - 1
    }

    fn leave(&mut self) {
        self.places.pop_front();
        self.first += 1;
    }

    /// Moves what is complete at the front to the output, and what has come of the next.
    fn advance(&mut self) {
        while let Some(front) = self.places.front_mut() {
            let mute = front.mute;
            match &mut front.state {
                State::Done(output) | State::Coming(output) => {
                    let output = std::mem::take(output);
                    self.early = self.early.saturating_sub(output.len());
                    if !mute {
                        self.out.append(output);
                    }
                }
                State::Waiting | State::Parked => return,
            }
            if matches!(self.places.front().map(|place| &place.state), Some(State::Coming(_))) {
                return;
            }
            self.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read() -> Box<Read> {
        Box::new(Read {
            row: crate::command::index::named("get").expect("GET"),
            key: crate::cache::Lookup { hash: 1, namespace: crate::cache::entry::Namespace(0), request: b"r" }.to_key(),
            redis_key: (0, 1),
            shape: None,
            entry: None,
            plain: false,
        })
    }

    fn written(replies: &mut Replies) -> Vec<u8> {
        replies.out.tail().split().to_vec()
    }

    #[test]
    fn replies_leave_in_the_order_of_their_commands_whatever_order_they_come_in() {
        let mut replies = Replies::default();
        let (a, b) = (replies.expect_other(false), replies.expect_other(false));
        assert!(replies.put_copy(b, 0, b"2"));
        assert_eq!(written(&mut replies), b"");
        replies.answer(b"3", false);
        assert!(replies.put_copy(a, 0, b"1"));
        assert_eq!(written(&mut replies), b"123");
        assert!(replies.is_settled() && !replies.put_copy(a, 0, b"late"));
    }

    #[test]
    fn a_read_fetched_anew_swallows_the_reply_of_its_first_attempt() {
        let mut replies = Replies::default();
        let a = replies.expect_other(false);
        replies.park(read(), false);
        let c = replies.expect(read, false);
        assert!(replies.put_copy(c, 0, b"old"));
        assert!(replies.put_copy(a, 0, b"1"));
        assert!(replies.parked_front().is_some());
        let fetched: Vec<(u64, u32)> = replies.fetch_parked().iter().map(|(n, attempt, _)| (*n, *attempt)).collect();
        assert_eq!(fetched, [(1, 0), (2, 1)]);
        assert!(!replies.is_owed(c, 0) && replies.is_owed(c, 1));
        assert!(!replies.put_copy(c, 0, b"swallowed"));
        assert!(replies.put_copy(1, 0, b"2") && replies.put_copy(c, 1, b"3"));
        assert_eq!(written(&mut replies), b"123");
        assert_eq!(replies.bytes(), 0);
    }

    #[test]
    fn parts_of_a_reply_pass_at_the_front_and_wait_behind_it() {
        let mut replies = Replies::default();
        let (a, b) = (replies.expect_other(false), replies.expect_other(false));
        let part = |text: &'static [u8]| Bytes::from_static(text);
        assert!(replies.put(b, 0, &part(b"b1"), false));
        assert!(replies.put(a, 0, &part(b"a1"), false) && replies.is_coming(a, 0));
        assert_eq!(written(&mut replies), b"a1");
        assert!(replies.put(a, 0, &part(b"a2"), true));
        assert_eq!(written(&mut replies), b"a2b1");
        assert!(replies.put(b, 0, &part(b"b2"), true));
        assert_eq!(written(&mut replies), b"b2");
        assert!(replies.is_empty());
    }

    #[test]
    fn a_read_with_a_write_behind_it_is_not_tried_again() {
        let mut replies = Replies::default();
        let lock = replies.expect(read, false);
        replies.expect_other(false);
        let last = replies.expect(read, false);
        assert_eq!(replies.try_again(lock, 0), None);
        assert_eq!(replies.try_again(last, 0), Some(1));
        assert_eq!(replies.try_again(last, 1), None, "once only");
    }

    #[test]
    fn a_muted_command_takes_its_place_and_says_nothing() {
        let mut replies = Replies::default();
        let a = replies.expect_other(true);
        replies.answer(b"2", false);
        assert!(replies.put_copy(a, 0, b"1"));
        assert_eq!(written(&mut replies), b"2");
    }
}
