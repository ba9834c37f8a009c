//! What a lane has queued: its commands' bytes, and who is owed which reply.
//!
//! *Invariant:* the owed stand in the order of their bytes, and so of when they were queued here, but not of when their
//! patience began; a group is taken back or kept whole. Where commands may have to be sent again elsewhere, their bytes are
//! kept until they are answered.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::Owed;
use crate::switch::{Rule, on};

/// The queue of one lane.
pub(super) struct Queue<T> {
    /// Bytes not yet written and, if they are kept, of what is not yet answered.
    pub out: BytesMut,
    /// How many of `out` have been written; all zero unless they are kept.
    pub kept: usize,
    /// Whether bytes are kept until they are answered.
    pub keeps: bool,
    /// Bytes ever queued, and ever written or taken back.
    pub queued: u64,
    pub written: u64,
    /// Bytes written and not yet counted.
    pub sent: u64,
    /// Who is owed a reply.
    pub owed: VecDeque<Owed<T>>,
    /// Of those who came from elsewhere, order and beginning of all that no later one is older than: ascending.
    again: VecDeque<(u64, u64)>,
}

// === impl Queue ===

impl<T> Queue<T> {
    /// Nothing queued yet.
    pub fn new(keeps: bool) -> Queue<T> {
        let (owed, again) = (VecDeque::new(), VecDeque::new());
        Queue { out: BytesMut::new(), kept: 0, keeps, queued: 0, written: 0, sent: 0, owed, again }
    }

    /// Appends one command of a group.
    pub fn add(&mut self, request: &[u8], owed: Owed<T>) {
        self.out.extend_from_slice(request);
        self.queued += request.len() as u64;
        if owed.since < owed.sent {
            self.note_again(owed.order, owed.since);
        }
        self.owed.push_back(owed);
    }

    fn note_again(&mut self, order: u64, since: u64) {
        while self.again.back().is_some_and(|(_, younger)| *younger >= since) {
            self.again.pop_back();
        }
        self.again.push_back((order, since));
    }

    /// When the patience began that ends first; `None`: nobody is owed anything.
    pub fn oldest(&self) -> Option<u64> {
        let first = self.owed.front()?;
        let again = self.again.iter().find(|(order, _)| *order >= first.order);
        Some(again.map_or(first.since, |(_, since)| first.since.min(*since)))
    }

    /// Bytes not yet written.
    pub fn unwritten(&self) -> &[u8] {
        self.out.get(self.kept..).unwrap_or_default()
    }

    /// So many bytes have been written.
    pub fn wrote(&mut self, bytes: usize) {
        if self.keeps {
            self.kept += bytes;
        } else {
            self.out.advance(bytes);
        }
        self.written += bytes as u64;
        self.sent += bytes as u64;
    }

    /// Lets go of the bytes of what has been answered.
    pub fn trim(&mut self) {
        let first = self.owed.front().map_or(u64::MAX, |owed| owed.order);
        while self.again.front().is_some_and(|(answered, _)| *answered < first) {
            self.again.pop_front();
        }
        if self.kept == 0 {
            return;
        }
        let first = self.owed.front().map_or(self.queued, |owed| owed.at);
        let answered = usize::try_from(first.saturating_sub(self.written - self.kept as u64)).unwrap_or(0);
        let answered = answered.min(self.kept);
        self.out.advance(answered);
        self.kept -= answered;
    }

    /// The request of a command that has just been taken off the queue's front, if bytes are kept.
    pub fn request(&self, at: u64) -> Option<Bytes> {
        let end = self.owed.front().map_or(self.queued, |owed| owed.at);
        let begin = self.written - self.kept as u64;
        let place = |offset: u64| offset.checked_sub(begin).and_then(|place| usize::try_from(place).ok());
        self.out.get(place(at)?..place(end)?).filter(|_| self.keeps).map(Bytes::copy_from_slice)
    }

    /// Takes the owed whose group has been written, in whole or in part, off the queue and drops what is left
    /// of their bytes.
    pub fn split_written(&mut self) -> Vec<Owed<T>> {
        let unwritten = self.owed.iter().position(|owed| owed.group >= self.written).unwrap_or(self.owed.len());
        let kept_from = self.owed.get(unwritten).map_or(self.queued, |owed| owed.group);
        let written: Vec<Owed<T>> = self.owed.drain(..unwritten).collect();
        if on(Rule::PartlyWrittenIsDropped) {
            self.drop_until(kept_from);
        }
        written
    }

    /// Takes back the owed, none of them written, of which this holds, wherever they stand; of a group all or none.
    pub fn take_back(&mut self, holds: impl Fn(&Owed<T>) -> bool) -> Vec<Owed<T>> {
        if !self.owed.iter().any(&holds) {
            return Vec::new();
        }
        let (mut taken, mut group) = (Vec::new(), Vec::new());
        let mut all = self.take_back_requests().into_iter().peekable();
        while let Some((owed, request)) = all.next() {
            let of = owed.group;
            group.push((owed, request));
            if all.peek().is_some_and(|(next, _)| next.group == of) {
                continue;
            }
            if group.iter().all(|(owed, _)| holds(owed)) {
                for (owed, request) in group.drain(..) {
                    if !on(Rule::UnsentIsTakenBack) {
                        self.out.extend_from_slice(&request);
                        self.queued += request.len() as u64;
                    }
                    taken.push(owed);
                }
                continue;
            }
            let begin = self.queued;
            for (owed, request) in group.drain(..) {
                let at = self.queued;
                self.add(&request, Owed { group: begin, at, ..owed });
            }
        }
        taken
    }

    /// Takes back the first of the owed, none of them written, of which this holds; of a group all or none.
    pub fn take_back_while(&mut self, holds: impl Fn(&Owed<T>) -> bool) -> Vec<Owed<T>> {
        let kept = self.owed.iter().position(|owed| !holds(owed));
        let kept_from = kept.and_then(|kept| self.owed.get(kept)).map_or(self.queued, |owed| owed.group);
        let taken = self.owed.partition_point(|owed| owed.group < kept_from);
        let taken: Vec<Owed<T>> = self.owed.drain(..taken).collect();
        if on(Rule::UnsentIsTakenBack) {
            self.drop_until(kept_from);
        }
        taken
    }

    /// Takes back all of the owed, none of them written, with their requests.
    pub fn take_back_requests(&mut self) -> Vec<(Owed<T>, Bytes)> {
        self.again.clear();
        let mut out = std::mem::take(&mut self.out).freeze();
        out.advance(std::mem::take(&mut self.kept));
        self.written = self.queued;
        let mut ends: Vec<u64> = self.owed.iter().skip(1).map(|owed| owed.at).collect();
        ends.push(self.queued);
        let owed = std::mem::take(&mut self.owed);
        let request = |(owed, end): (Owed<T>, u64)| {
            let len = usize::try_from(end.saturating_sub(owed.at)).unwrap_or(usize::MAX).min(out.len());
            let request = out.split_to(len);
            (owed, request)
        };
        owed.into_iter().zip(ends).map(request).collect()
    }

    fn drop_until(&mut self, offset: u64) {
        self.out.advance(self.kept);
        self.kept = 0;
        let rest = usize::try_from(offset.saturating_sub(self.written)).unwrap_or(usize::MAX).min(self.out.len());
        self.out.advance(rest);
        self.written += rest as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of commands, each command ten bytes long and named by its number, queued at the time of that number.
    fn queue(groups: &[usize]) -> Queue<u64> {
        let mut queue = Queue::new(false);
        let mut next = 0;
        for &commands in groups {
            let (group, sent, since) = (queue.queued, next, next);
            for _ in 0..commands {
                let at = queue.queued;
                queue.add(
                    format!("command {next:02}").as_bytes(),
                    Owed { waiter: next, sent, since, order: next, group, at },
                );
                next += 1;
            }
        }
        queue
    }

    fn write(queue: &mut Queue<u64>, bytes: usize) {
        queue.wrote(bytes);
    }

    fn waiters(owed: impl IntoIterator<Item = Owed<u64>>) -> Vec<u64> {
        owed.into_iter().map(|owed| owed.waiter).collect()
    }

    #[test]
    fn a_group_of_which_a_byte_was_written_is_owed_whole_and_its_rest_is_never_sent() {
        for (written, lost) in [(0, 0), (1, 1), (10, 1), (11, 4), (25, 4), (40, 4), (41, 6), (60, 6)] {
            let mut queue = queue(&[1, 3, 2]);
            write(&mut queue, written);
            assert_eq!(waiters(queue.split_written()), (0..lost).collect::<Vec<_>>(), "{written} bytes");
            let rest: String = (lost..6).map(|n| format!("command {n:02}")).collect();
            assert_eq!(queue.out, rest, "{written} bytes");
            assert_eq!(queue.written + queue.out.len() as u64, queue.queued);
            assert_eq!(waiters(queue.owed), (lost..6).collect::<Vec<_>>());
        }
    }

    #[test]
    fn those_who_have_waited_too_long_are_taken_back_with_their_bytes() {
        let mut queue = queue(&[1, 3, 2]);
        assert_eq!(waiters(queue.take_back(|owed| owed.sent <= 1)), [0, 1, 2, 3]);
        assert_eq!(queue.out, "command 04command 05");
        assert!(queue.take_back(|owed| owed.sent <= 1).is_empty());
        assert_eq!(waiters(queue.take_back(|_| true)), [4, 5]);
        assert!(queue.out.is_empty() && queue.written == queue.queued);
    }

    /// Whoever has come from elsewhere stands behind others whose patience began later.
    #[test]
    fn those_who_have_waited_too_long_are_taken_back_from_between_the_others() {
        let mut queue = queue(&[1, 2, 1, 2]);
        queue.owed.iter_mut().filter(|owed| matches!(owed.waiter, 1 | 2 | 5)).for_each(|owed| owed.since = 0);
        assert_eq!(waiters(queue.take_back(|owed| owed.since == 0 && owed.sent > 0)), [1, 2], "of a group all or none");
        assert_eq!(queue.out, "command 00command 03command 04command 05");
        assert!(queue.split_written().is_empty());
        write(&mut queue, 25);
        assert_eq!(waiters(queue.split_written()), [0, 3, 4, 5]);
        assert!(queue.out.is_empty() && queue.written == queue.queued);
    }

    #[test]
    fn the_patience_that_ends_first_is_that_of_who_has_waited_longest_here_and_elsewhere() {
        let mut queue = Queue::new(false);
        assert_eq!(queue.oldest(), None);
        let beginnings = [10, 11, 5, 13, 3, 4, 16, 9];
        for (order, since) in (0..).zip(beginnings) {
            let at = queue.queued;
            queue.add(b"PING", Owed { waiter: order, sent: 10 + order, since, order, group: at, at });
        }
        while !queue.owed.is_empty() {
            let least = queue.owed.iter().map(|owed| owed.since).min();
            assert_eq!(queue.oldest(), least);
            queue.owed.pop_front();
            queue.trim();
            assert!(queue.again.len() <= queue.owed.len());
        }
        assert_eq!((queue.oldest(), queue.again.len()), (None, 0));
    }

    #[test]
    fn all_can_be_taken_back_with_their_requests() {
        let mut queue = queue(&[1, 3]);
        let taken = queue.take_back_requests();
        let requests: Vec<(u64, Bytes)> = taken.into_iter().map(|(owed, request)| (owed.waiter, request)).collect();
        assert_eq!(requests, (0..4).map(|n| (n, Bytes::from(format!("command {n:02}")))).collect::<Vec<_>>());
        assert!(queue.owed.is_empty() && queue.out.is_empty() && queue.written == queue.queued);
    }

    #[test]
    fn requests_are_kept_until_they_are_answered() {
        let mut queue = queue(&[1, 3]);
        queue.keeps = true;
        write(&mut queue, 25);
        assert_eq!(queue.unwritten(), b"nd 02command 03");
        for n in 0..2 {
            let owed = queue.owed.pop_front().unwrap();
            assert_eq!(queue.request(owed.at), Some(Bytes::from(format!("command {n:02}"))));
            queue.trim();
            assert_eq!(queue.request(owed.at), None, "let go");
        }
        assert_eq!(queue.out, "command 02command 03");
        assert_eq!(queue.unwritten(), b"nd 02command 03");
        assert_eq!(waiters(queue.split_written()), [2, 3]);
        assert!(queue.out.is_empty() && queue.kept == 0);
    }

    #[test]
    fn of_a_group_all_are_taken_back_or_none() {
        let mut queue = queue(&[1, 3, 2]);
        assert_eq!(waiters(queue.take_back_while(|owed| owed.waiter < 3)), [0]);
        assert_eq!(queue.out, "command 01command 02command 03command 04command 05");
        assert_eq!(waiters(queue.take_back_while(|owed| owed.waiter < 4)), [1, 2, 3]);
        assert_eq!(queue.out, "command 04command 05");
        assert_eq!(queue.written + queue.out.len() as u64, queue.queued);
    }

    #[test]
    fn what_was_answered_stays_out_of_the_count() {
        let mut queue = queue(&[1, 1, 2]);
        write(&mut queue, 20);
        queue.owed.pop_front();
        assert_eq!(waiters(queue.split_written()), [1]);
        assert_eq!(queue.out, "command 02command 03");
    }
}
