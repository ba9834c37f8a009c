//! What a lane has queued: bytes not yet written, and who is owed which reply.
//!
//! *Invariant:* the owed stand in the order of their bytes; a group is taken back or kept whole.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use super::Owed;
use crate::switch::{Rule, on};

/// The queue of one lane.
pub(super) struct Queue<T> {
    /// Bytes not yet written.
    pub out: BytesMut,
    /// Bytes ever queued, and ever written or taken back.
    pub queued: u64,
    pub written: u64,
    /// Bytes written and not yet counted.
    pub sent: u64,
    /// Who is owed a reply.
    pub owed: VecDeque<Owed<T>>,
}

// === impl Queue ===

impl<T> Queue<T> {
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

    /// Takes back the owed, none of them written, that have waited for `patience` at `now`.
    pub fn take_back(&mut self, now: u64, patience: u64) -> Vec<Owed<T>> {
        self.take_back_while(|owed| now.saturating_sub(owed.sent) >= patience)
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

    fn drop_until(&mut self, offset: u64) {
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
        let mut queue = Queue { out: BytesMut::new(), queued: 0, written: 0, sent: 0, owed: VecDeque::new() };
        let mut next = 0;
        for &commands in groups {
            let (group, sent) = (queue.queued, next);
            for _ in 0..commands {
                queue.out.extend_from_slice(format!("command {next:02}").as_bytes());
                queue.queued += 10;
                queue.owed.push_back(Owed { waiter: next, sent, group });
                next += 1;
            }
        }
        queue
    }

    fn write(queue: &mut Queue<u64>, bytes: usize) {
        queue.out.advance(bytes);
        queue.written += bytes as u64;
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
        assert_eq!(waiters(queue.take_back(10, 9)), [0, 1, 2, 3]);
        assert_eq!(queue.out, "command 04command 05");
        assert!(queue.take_back(10, 9).is_empty());
        assert_eq!(waiters(queue.take_back(u64::MAX, 0)), [4, 5]);
        assert!(queue.out.is_empty() && queue.written == queue.queued);
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
