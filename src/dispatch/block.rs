//! MULTI … EXEC that arrived whole: contiguous bytes on one connection are atomic, so the block rides the lane.
//!
//! *Invariant:* a block rides only if it ends in EXEC without arguments and every command in it is lane-safe:
//! SELECT, AUTH, HELLO, RESET, SUBSCRIBE or a DISCARD that fails would change the lane for everybody.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;

use super::fence::Hold;
use super::lane::{After, BlockEnd, Rewrite, Ticket, TrackedLane, Waiter};
use super::redirect::Next;
use super::session::Session;
use super::worker::Worker;
use crate::cache::Slot;
use crate::coherence::Keys;
use crate::command::{Row, look_up};
use crate::error::Error;
use crate::limits::RequestLimits;
use crate::protocol::downgrade::Shape;
use crate::protocol::{Args, Parsed, RequestParser};
use crate::switch::{Rule, on};
use crate::telemetry::labels::{Class, Outcome};
use crate::upstream::slots::key_slot;

/// A larger block takes a connection of its own, so that it does not delay everyone.
const BLOCK_MAX_BYTES: usize = 64 * 1024;

/// A longer one, too.
const BLOCK_MAX_COMMANDS: usize = 1024;

/// A block as it may have to be sent again.
pub struct Whole {
    /// Its bytes.
    request: Bytes,
    /// Each command's end.
    ends: Vec<usize>,
    /// Its first key; `None`: it has none.
    first_key: Option<Bytes>,
}

/// A node has turned a command of a block away.
pub struct TurnedAway {
    /// Where the block goes next.
    pub next: Next,
    /// What the node said.
    pub error: Bytes,
}

/// A whole block, MULTI and EXEC included.
pub struct Block {
    /// Its length in bytes.
    pub len: usize,
    /// Each command's end.
    ends: Vec<usize>,
    /// Each queued command's shape.
    shapes: Vec<Shape>,
    /// The keys of its writes.
    keys: Keys,
    /// Whether it may write keys that it does not name.
    unknown_keys: bool,
    /// Whether every entry of the node rests on what it changes.
    sweeps: bool,
    /// Its first key.
    first_key: Option<Bytes>,
    /// Whether its keys lie in several slots.
    crosses_slots: bool,
}

// === impl Block ===

impl Block {
    /// The block at the front of `bytes`, which begin with MULTI, if it is whole and may ride.
    pub fn find(worker: &Worker, bytes: &[u8], limits: &RequestLimits) -> Option<Block> {
        let bytes = bytes.get(..bytes.len().min(BLOCK_MAX_BYTES))?;
        let mut parser = RequestParser::default();
        let mut block = Block {
            len: 0,
            ends: Vec::new(),
            shapes: Vec::new(),
            keys: Keys::None,
            unknown_keys: false,
            sweeps: false,
            first_key: None,
            crosses_slots: false,
        };
        let mut keys = Vec::new();
        while block.ends.len() < BLOCK_MAX_COMMANDS {
            let rest = bytes.get(block.len..)?;
            let Ok(Parsed::Request { len }) = parser.parse(rest, limits) else { return None };
            let raw = rest.get(..len)?;
            let args = parser.args(raw);
            let row = look_up(&args)?;
            let first = block.ends.is_empty();
            block.len += len;
            block.ends.push(block.len);
            match row.name {
                "multi" if first => {
                    if args.len() != 1 {
                        return None;
                    }
                    continue;
                }
                "exec" if args.len() == 1 => {
                    block.keys = Keys::of_slots(keys);
                    return Some(block);
                }
                _ => block.take(worker, row, &args, &mut keys)?,
            }
        }
        None
    }

    fn take(&mut self, worker: &Worker, row: &Row, args: &Args<'_>, keys: &mut Vec<Slot>) -> Option<()> {
        let generations = &worker.coherence.shared.generations;
        let held = on(Rule::PausedWritesLeaveTheLane) && row.is_held_by_pause() && worker.peers.pause.is_on();
        let safe = !on(Rule::BlocksAreLaneSafe) || row.lane_safe_in_multi(args);
        let shows = worker.is_cluster() && row.tells_of_nodes();
        if held || !safe || shows || worker.policy.refusal(row, args).is_some() {
            return None;
        }
        if worker.is_cluster() {
            row.each_key(args, |key| match &self.first_key {
                None => self.first_key = Some(Bytes::copy_from_slice(key)),
                Some(first) => self.crosses_slots |= key_slot(first) != key_slot(key),
            });
        }
        self.shapes.push(match row.shape_of(args) {
            Shape::NullArrayOnTimeout => Shape::Same,
            shape => shape,
        });
        match row.class(args) {
            Class::Script => self.unknown_keys = true,
            Class::Sweep => self.sweeps = true,
            _ if row.is_write() => self.unknown_keys |= !row.each_key(args, |key| keys.push(generations.slot(key))),
            _ => {}
        }
        Some(())
    }
}

// === impl Worker ===

impl Worker {
    /// Sends a whole block on the session's lane: one place in the client's replies per command. With `again` all but EXEC
    /// have been answered, and it says whether the client wants no reply to that.
    pub fn send_block(&self, session: &Rc<Session>, block: Block, bytes: &[u8], again: Option<bool>) {
        self.unpark(session);
        if block.crosses_slots {
            return self.refuse_block(session, &block);
        }
        let lane = self.route(session, block.first_key.as_deref());
        self.note_write(session, lane.node);
        let whole = self.settings.topology.has_alternatives().then(|| {
            let request = Bytes::copy_from_slice(bytes.get(..block.len).unwrap_or_default());
            Rc::new(Whole { request, ends: block.ends.clone(), first_key: block.first_key.clone() })
        });
        let end = Rc::new(BlockEnd {
            hold: Hold::new(),
            keys: block.keys.clone(),
            own_fence: block.unknown_keys,
            sweeps: block.sweeps,
            block: whole,
            turned_away: RefCell::default(),
            since: Cell::new(self.now()),
        });
        let commands = block.ends.len();
        let ticket = |number| Ticket::new(session, number);
        let group = lane.queue.group(commands + 1, block.len);
        if block.sweeps {
            self.sweeping();
        }
        self.coherence.sending(&block.keys);
        if block.unknown_keys {
            self.unknown_written();
        }
        let resp2 = !session.resp3() && !lane.speaks_resp2();
        let mut start = 0;
        for (i, &stop) in block.ends.iter().enumerate() {
            self.cells.command(Class::Transaction, Outcome::Forwarded);
            let last = i + 1 == commands;
            let number = session.replies.borrow_mut().expect_other(again.map_or(session.mute(), |mute| mute || !last));
            if again.is_none() {
                session.spoken();
            }
            let Ok(group) = group else {
                self.fail_ticket(&ticket(number), &Error::LaneFull { upstream: self.upstream_name() });
                continue;
            };
            let rewrite = match (resp2, last) {
                (false, _) => Rewrite::No,
                (true, false) => Rewrite::Resp2(Shape::Same),
                (true, true) => Rewrite::Exec(block.shapes.clone().into()),
            };
            let after = match last {
                false if end.block.is_some() => After::Queued(Rc::clone(&end)),
                false => After::Nothing,
                true => After::Exec(Rc::clone(&end)),
            };
            let raw = bytes.get(start..stop).unwrap_or_default();
            let order = lane.queue.add(group, self.now(), raw, Waiter::Reply(ticket(number), rewrite, after));
            session.rests_on(order);
            start = stop;
        }
        if let Ok(group) = group
            && block.unknown_keys
        {
            self.send_own_fence(&lane, group, Rc::clone(&end.hold));
        }
    }

    /// As a node answers a transaction whose keys it may not touch together: it knows that only at the end.
    fn refuse_block(&self, session: &Rc<Session>, block: &Block) {
        let commands = block.ends.len();
        for i in 0..commands {
            self.cells.command(Class::Transaction, Outcome::Failed);
            let reply = match i {
                0 => b"+OK\r\n".to_vec(),
                _ if i + 1 < commands => b"+QUEUED\r\n".to_vec(),
                _ => {
                    self.cells.error(Error::CrossSlot.kind());
                    Error::CrossSlot.reply()
                }
            };
            session.replies.borrow_mut().answer(&reply, session.mute());
            session.spoken();
        }
    }

    /// A block has failed: if only because a node has turned it away, it is sent again.
    pub(super) fn block_goes_again(
        &self,
        lane: &Rc<TrackedLane>,
        ticket: &Ticket,
        rewrite: &Rewrite,
        end: &Rc<BlockEnd>,
    ) -> bool {
        let Some(TurnedAway { next, error }) = end.turned_away.take() else { return false };
        let Some(whole) = &end.block else { return false };
        // What a slot's importer has been given so far it serves one command at a time: a block waits for the whole.
        let next = if matches!(next, Next::Node(_, true)) { Next::Later } else { next };
        let waiter = Waiter::Reply(ticket.clone(), rewrite.clone(), After::Exec(Rc::clone(end)));
        self.take_detour(lane, waiter, whole.request.clone(), next, end.since.get(), error);
        true
    }

    /// Sends a block that was turned away; all but EXEC have been answered.
    pub(super) fn resend_block(
        &self,
        lane: &Rc<TrackedLane>,
        since: u64,
        ticket: &Ticket,
        rewrite: Rewrite,
        end: &BlockEnd,
        whole: &Rc<Whole>,
    ) -> Option<()> {
        let commands = whole.ends.len();
        let group = lane.queue.group(commands + 1, whole.request.len()).ok()?;
        let hold = Hold::new();
        let again = Rc::new(BlockEnd {
            hold: Rc::clone(&hold),
            keys: end.keys.clone(),
            own_fence: end.own_fence,
            sweeps: end.sweeps,
            block: Some(Rc::clone(whole)),
            turned_away: RefCell::default(),
            since: end.since.clone(),
        });
        let mut start = 0;
        for (i, &stop) in whole.ends.iter().enumerate() {
            let last = i + 1 == commands;
            let number = (ticket.number + 1 + i as u64).saturating_sub(commands as u64);
            let (rewrite, after) = match last {
                true => (rewrite.clone(), After::Exec(Rc::clone(&again))),
                false => (Rewrite::No, After::Queued(Rc::clone(&again))),
            };
            let raw = whole.request.get(start..stop).unwrap_or_default();
            let waiter = Waiter::Reply(Ticket { number, ..ticket.clone() }, rewrite, after);
            let order = lane.queue.add_again(group, self.now(), since, raw, waiter);
            ticket.session.rests_on(order);
            start = stop;
        }
        if end.own_fence {
            self.send_own_fence(lane, group, hold);
        }
        Some(())
    }
}

// === impl Whole ===

impl Whole {
    /// Its bytes.
    pub fn request(&self) -> Bytes {
        self.request.clone()
    }

    /// How many commands it has, MULTI and EXEC included.
    pub fn commands(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Its first key; `None`: it has none.
    pub fn first_key(&self) -> Option<&[u8]> {
        self.first_key.as_deref()
    }
}
