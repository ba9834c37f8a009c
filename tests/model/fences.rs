//! Fences, as `dispatch/fence` has them: a hold there reads the clock and wakes tasks, so its counting is repeated.
//! Who needs a fence is the product's own to say (`Standing::needs_fence`).

use super::parts::{Dedicated, Hold, Message, Then};
use super::rules::Rule;
use super::upstream::{Arrival, Command, Ticket, What};
use super::world::World;

impl World {
    /// A dedicated connection has delivered: held until fences have returned from every lane of every worker.
    pub fn news_arrives(&mut self, client: usize) {
        let Dedicated::Executed { version } = self.clients[client].dedicated else { return };
        self.clients[client].dedicated = Dedicated::Held;
        let at = self.clients[client].worker;
        let hold = self.hold(Then::Release { client, version });
        self.fence_lanes(at, hold, false);
        self.release(hold);
    }

    /// A reply on the lane that tells what others wrote: held for the fences of the other lanes.
    pub fn lane_news(&mut self, at: usize, ticket: Ticket, made: u64) {
        let hold = self.hold(Then::Deliver { ticket, made });
        if self.rules.hold(Rule::FenceForLaneNews) {
            self.fence_lanes(at, hold, true);
        }
        self.release(hold);
    }

    fn hold(&mut self, then: Then) -> usize {
        self.holds.push(Hold { pending: 1, then });
        self.holds.len() - 1
    }

    fn fence_lanes(&mut self, at: usize, hold: usize, except_own: bool) {
        if !except_own && self.rules.hold(Rule::FenceHere) {
            self.fence_one(at, hold);
        }
        for peer in 0..self.workers.len() {
            if peer != at && self.workers[peer].busy && self.rules.hold(Rule::FenceThere) {
                self.holds[hold].pending += 1;
                self.workers[peer].inbox.push_back(Message::Fence { from: at, hold });
            }
        }
    }

    fn fence_one(&mut self, at: usize, hold: usize) {
        if !self.workers[at].standing.needs_fence() {
            return;
        }
        self.holds[hold].pending += 1;
        if self.workers[at].fencing {
            self.workers[at].next_fence.push(hold);
        } else {
            self.send_fence(at, vec![hold]);
        }
    }

    fn send_fence(&mut self, at: usize, holds: Vec<usize>) {
        let now = self.now;
        self.workers[at].fencing = true;
        self.workers[at].queue(now, What::Fence(holds));
    }

    /// A worker takes the next message of another.
    pub fn take_message(&mut self, at: usize) {
        match self.workers[at].inbox.pop_front() {
            Some(Message::Fence { from, hold }) => {
                let own = self.hold(Then::Tell { peer: from, hold });
                self.fence_one(at, own);
                self.release(own);
            }
            Some(Message::Fenced { hold }) => self.release(hold),
            None => {}
        }
    }

    /// A lane's fence has returned.
    pub fn fence_returned(&mut self, at: usize, holds: Vec<usize>) {
        // Its patience was over before: it stands as a tombstone.
        if holds.is_empty() {
            return;
        }
        self.workers[at].fencing = false;
        let next = std::mem::take(&mut self.workers[at].next_fence);
        if !next.is_empty() {
            self.send_fence(at, next);
        }
        holds.into_iter().for_each(|hold| self.release(hold));
    }

    /// The fence under way on a lane has taken too long.
    pub fn fence_fails(&mut self, at: usize) {
        let wire = &mut self.workers[at].wire;
        let back = wire.back.iter_mut().filter_map(|arrival| match arrival {
            Arrival::Reply(command, _) => Some(command),
            Arrival::Push(_) => None,
        });
        let fence = back.chain(wire.out.iter_mut()).find_map(|command| match command {
            Command { what: What::Fence(holds), .. } if !holds.is_empty() => Some(std::mem::take(holds)),
            _ => None,
        });
        self.fence_failed(at, fence.unwrap_or_default());
    }

    /// What the lane has filled must not be served any more instead.
    pub fn fence_failed(&mut self, at: usize, holds: Vec<usize>) {
        let worker = &mut self.workers[at];
        if self.rules.hold(Rule::FailedFence) {
            worker.standing.bump();
        }
        worker.fencing = false;
        let next = std::mem::take(&mut worker.next_fence);
        holds.into_iter().chain(next).for_each(|hold| self.release(hold));
    }

    /// One of what a hold waits for is over.
    pub fn release(&mut self, hold: usize) {
        self.holds[hold].pending -= 1;
        if self.holds[hold].pending > 0 {
            return;
        }
        match std::mem::replace(&mut self.holds[hold].then, Then::Nothing) {
            Then::Nothing => {}
            Then::Release { client, version } => {
                let of = &mut self.clients[client];
                of.dedicated = Dedicated::None;
                of.replies.pass_on(&format!(":{version}\r\n").into_bytes().into(), true);
            }
            Then::Deliver { ticket, made } => self.deliver(ticket, format!("+{made}\r\n").as_bytes()),
            Then::Tell { peer, hold } => self.workers[peer].inbox.push_back(Message::Fenced { hold }),
        }
    }
}
