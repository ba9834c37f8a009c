//! What a cluster's upsets leave to be judged by.

use super::super::history::{Harm, History, KeyId, Path, Read, Seen, Time, Write};
use super::{Check, Violation};

/// How a read may be judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Footing {
    /// By everything.
    Firm,
    /// Its key begins anew, and what was before may still be shown, unless this client's sidecar knows better.
    New,
    /// Its key is being lost: by nothing but what there ever was.
    Lost,
}

impl<'a> Check<'a> {
    /// How this read may be judged.
    pub(super) fn footing(&self, read: &Read) -> Footing {
        if self.may_be_elsewhere(read) {
            return Footing::Lost;
        }
        if self.successor(read.key).is_some_and(|next| self.history.keys[next].born <= read.done) {
            // The read's name was looked up before, and may be the next one's by now.
            return Footing::Lost;
        }
        let key = &self.history.keys[read.key];
        let mut losses =
            self.history.upsets.iter().filter(|upset| upset.group == key.group && upset.harm == Harm::Loses);
        if losses.any(|loss| loss.from <= read.done && key.born <= loss.until) {
            return Footing::Lost;
        }
        let is_new = key.holds.is_some() && read.sent < key.born + self.oldest();
        if is_new { Footing::New } else { Footing::Firm }
    }

    /// The next key of this one's name. It may follow one that was itself taken into use when the loss was over.
    fn successor(&self, key: KeyId) -> Option<KeyId> {
        let namesakes = &self.names[self.history.keys[key].name.as_str()];
        namesakes.get(namesakes.partition_point(|&id| id <= key)).copied()
    }

    /// A replica whose master gives a slot away key by key says of what has gone already that it is not there, and does not
    /// send anybody to where it is.
    pub(super) fn may_be_elsewhere(&self, read: &Read) -> bool {
        let History { lag, moving, keys, conns, .. } = self.history;
        let group = keys[read.key].group;
        let by_replica = *lag > 0 && conns[read.conn].path != Path::Direct;
        by_replica && read.seen == Seen::Absent && moving.contains(&group) && !self.is_calm(group, read.sent, read.done)
    }

    /// Whether nothing has happened to a group between two times.
    pub(super) fn is_calm(&self, group: usize, from: Time, to: Time) -> bool {
        let after = self.oldest();
        let mut upsets = self.history.upsets.iter().filter(|upset| upset.group == group);
        upsets.all(|upset| to < upset.from || upset.until + after < from)
    }

    /// The write of this version of any key of this key's name.
    pub(super) fn had(&self, key: KeyId, version: u64) -> Option<&'a Write> {
        let namesakes = &self.names[self.history.keys[key].name.as_str()];
        namesakes.iter().find_map(|&key| {
            let states = &self.states[key];
            let at = states.writes.binary_search_by_key(&version, |write| write.version).ok()?;
            Some(states.writes[at])
        })
    }

    /// A key that follows another of its name begins with what that has left.
    pub(super) fn succeed(&mut self) {
        for (id, key) in self.history.keys.iter().enumerate() {
            let Some(Seen::Version(version)) = key.holds else { continue };
            if let Some(left) = self.had(id, version) {
                self.states[id].writes.insert(0, left);
                continue;
            }
            let text = format!("{} was {version} when a loss was over, which it never was", key.name);
            self.findings.violations.push(Violation { promise: "harness", at: None, text, context: String::new() });
        }
    }
}
