//! MULTI … EXEC that arrived whole: contiguous bytes on one connection are atomic, so the block rides the lane.
//!
//! *Invariant:* a block rides only if it ends in EXEC without arguments and every command in it is lane-safe:
//! SELECT, AUTH, HELLO, RESET, SUBSCRIBE or a DISCARD that fails would change the lane for everybody.

use std::rc::Rc;

use super::fence::Hold;
use super::lane::{After, BlockEnd, Rewrite, Ticket, Waiter};
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

/// A larger block takes a connection of its own, so that it does not delay everyone.
const BLOCK_MAX_BYTES: usize = 64 * 1024;

/// A longer one, too.
const BLOCK_MAX_COMMANDS: usize = 1024;

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
        if held || !safe || worker.policy.refusal(row, args).is_some() {
            return None;
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
    /// Sends a whole block on the session's lane: one place in the client's replies per command.
    pub fn send_block(&self, session: &Rc<Session>, block: Block, bytes: &[u8]) {
        let lane = self.route(session, None);
        self.unpark(session);
        let hold = Hold::new();
        let commands = block.ends.len();
        let ticket = |number| Ticket { session: Rc::clone(session), number, attempt: 0 };
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
        for (i, &end) in block.ends.iter().enumerate() {
            self.cells.command(Class::Transaction, Outcome::Forwarded);
            let number = session.replies.borrow_mut().expect_other(session.mute());
            session.spoken();
            let Ok(group) = group else {
                self.fail_ticket(&ticket(number), &Error::LaneFull { upstream: self.upstream_name() });
                continue;
            };
            let last = i + 1 == commands;
            let rewrite = match (resp2, last) {
                (false, _) => Rewrite::No,
                (true, false) => Rewrite::Resp2(Shape::Same),
                (true, true) => Rewrite::Exec(block.shapes.clone().into()),
            };
            let after = match last {
                false => After::Nothing,
                true => After::Exec(Rc::new(BlockEnd {
                    hold: Rc::clone(&hold),
                    keys: block.keys.clone(),
                    own_fence: block.unknown_keys,
                    sweeps: block.sweeps,
                })),
            };
            let raw = bytes.get(start..end).unwrap_or_default();
            let order = lane.queue.add(group, self.now(), raw, Waiter::Reply(ticket(number), rewrite, after));
            session.rests_on(order);
            start = end;
        }
        if let Ok(group) = group
            && block.unknown_keys
        {
            self.send_own_fence(&lane, group, hold);
        }
    }
}
