//! A reply that comes in pieces is rewritten for RESP2 as it is in whole; that the whole is right, the matrix shows by
//! its RESP2 clients.

use sidecache::protocol::downgrade::{Downgrade, Shape, rewrite_whole};

use super::ways::show;
use crate::samples::of_row;

/// Rewrites each of a connection's RESP3 replies in every cut; long ones in thousands.
pub fn judge_all(commands: &[Vec<String>], replies: &[&[u8]]) -> Result<(), String> {
    let mut queued: Option<Vec<Shape>> = None;
    for (words, reply) in commands.iter().zip(replies) {
        let (rides, shape) = of_row(words, |row, args| (row.lane_safe_in_multi(args), row.shape_of(args)));
        match words[0].as_str() {
            "MULTI" => queued = Some(Vec::new()),
            "EXEC" => judge(words, reply, &queued.take().unwrap_or_default(), true)?,
            _ if !rides => queued = None,
            _ if reply.starts_with(b"+QUEUED") => queued.iter_mut().for_each(|shapes| shapes.push(shape)),
            _ => judge(words, reply, &[shape], false)?,
        }
    }
    Ok(())
}

fn judge(words: &[String], reply: &[u8], shapes: &[Shape], exec: bool) -> Result<(), String> {
    let begin = if exec { Downgrade::exec(shapes.to_vec()) } else { Downgrade::new(shapes[0]) };
    let mut whole = Vec::new();
    let mut rewriting = begin.clone();
    if rewriting.rewrite(reply, &mut whole) != reply.len() || !rewriting.is_done() {
        return Err(format!("{}: {:?} is not taken in whole", words.join(" "), show(reply)));
    }
    let mut pieces = Vec::new();
    let mut rewriting = begin;
    let mut taken = 0;
    let step = reply.len() / 4096 * 3 + 1;
    for end in (1..reply.len()).step_by(step).chain([reply.len()]) {
        taken += rewriting.rewrite(&reply[taken..end], &mut pieces);
    }
    if pieces != whole {
        return Err(format!("{}: in pieces {:?}, whole {:?}", words.join(" "), show(&pieces), show(&whole)));
    }
    let mut plain = Vec::new();
    rewrite_whole(reply, Shape::Same, &mut plain);
    if plain == reply && whole != reply && !shapes.iter().any(|shape| shape.hides()) {
        return Err(format!("{}: no RESP3 type in {:?}, yet it is rewritten", words.join(" "), show(reply)));
    }
    Ok(())
}
