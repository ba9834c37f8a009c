//! What is refused, and why.
//!
//! *Invariant:* a command of class Refused reaches upstream only if `client.allow` names it, and then on
//! a connection of its own; any command that `client.refuse` names is refused. A reason is a sentence
//! for the operator who reads the error; the error's text itself is made in `error`.

use crate::command::index::{named, rows};
use crate::command::row::Row;
use crate::protocol::Args;
use crate::telemetry::labels::Class;

/// What allows a command that is refused by default.
pub const ALLOW: &str = "add it to client.allow";
/// What allows a command that the configuration refuses.
pub const NOT_REFUSE: &str = "take it out of client.refuse";

/// The commands refused by default, each with its reason; `cluster` and `module` stand for their subcommands that are refused.
const REASONS: [(&str, &str); 13] = [
    ("shutdown", "it would stop upstream for everybody"),
    ("debug", "it may stop, crash or change upstream unseen by the cache"),
    ("replicaof", "it would change upstream's role and drop its data"),
    ("slaveof", "it would change upstream's role and drop its data"),
    ("psync", "it would turn the connection into a replication stream"),
    ("sync", "it would turn the connection into a replication stream"),
    ("replconf", "it would turn the connection into a replication stream"),
    ("failover", "it would change upstream's role"),
    ("restore-asking", "it belongs to the migration of slots"),
    ("asking", "redirects are followed by the sidecar"),
    ("cluster", "it would change the cluster"),
    ("module", "it would change what upstream's commands are"),
    ("script|debug", "it would turn the connection into a debugger's"),
];

/// What is refused, allowed and known to be plain, as configured.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Refused by default, yet allowed.
    allow: Vec<String>,
    /// Refused beyond the default.
    refuse: Vec<String>,
    /// Names the table lacks that may ride a lane.
    plain: Vec<String>,
}

/// Why a command is refused, and what in the configuration would allow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The reason, as the end of a sentence: "it would stop upstream for everybody".
    pub reason: &'static str,
    /// What would allow it, as an order: [`ALLOW`] or [`NOT_REFUSE`].
    pub remedy: &'static str,
}

// === impl Policy ===

impl Policy {
    /// The policy of `client.allow`, `client.refuse` and `client.plain`. Names in any case; a container's name stands for
    /// all its subcommands.
    pub fn new(allow: &[String], refuse: &[String], plain: &[String]) -> Policy {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Policy { allow: lower(allow), refuse: lower(refuse), plain: lower(plain) }
    }

    /// The way that the command goes, or why it is refused.
    ///
    /// # Errors
    /// As [`Policy::refusal`] says.
    #[inline]
    pub fn judge(&self, row: &Row, args: &Args<'_>) -> Result<Class, Refusal> {
        let class = row.class(args);
        if class != Class::Refused && self.refuse.is_empty() {
            return Ok(class);
        }
        match self.refusal(row, args) {
            Some(refusal) => Err(refusal),
            None => Ok(self.class(row, args)),
        }
    }

    /// Why this command is refused; none if it is not. Costs nothing for the usual command while `client.refuse` is empty.
    pub fn refusal(&self, row: &Row, args: &Args<'_>) -> Option<Refusal> {
        if !self.refuse.is_empty() && names(&self.refuse, row) {
            return Some(Refusal { reason: "the configuration refuses it", remedy: NOT_REFUSE });
        }
        if row.class(args) != Class::Refused || names(&self.allow, row) {
            return None;
        }
        Some(Refusal { reason: reason(row), remedy: ALLOW })
    }

    /// The way that the command goes: its class, save that a refused one that is allowed has a connection of its own.
    /// To be asked after [`Policy::refusal`].
    pub fn class(&self, row: &Row, args: &Args<'_>) -> Class {
        match row.class(args) {
            Class::Refused if names(&self.allow, row) => Class::Dedicated,
            class => class,
        }
    }

    /// Why a command that the table lacks is refused: the configuration names it.
    pub fn refusal_of_unknown(&self, name: &[u8]) -> Option<Refusal> {
        let refused = self.refuse.iter().any(|refused| refused.as_bytes().eq_ignore_ascii_case(name));
        refused.then_some(Refusal { reason: "the configuration refuses it", remedy: NOT_REFUSE })
    }

    /// Whether the configuration says that a command which the table lacks may ride a lane.
    pub fn is_plain(&self, name: &[u8]) -> bool {
        self.plain.iter().any(|plain| plain.as_bytes().eq_ignore_ascii_case(name))
    }
}

/// Faults in `client.allow`, a sentence each: names that are refused by nobody, which are likely misspelt.
pub fn faults(allow: &[String]) -> Vec<String> {
    let refused = |name: &str| {
        let name = name.to_ascii_lowercase();
        named(&name).is_some_and(|row| rows().any(|r| (r.name == row.name || r.family() == row.name) && is_refused(r)))
    };
    let unknown = allow.iter().filter(|name| !refused(name));
    unknown.map(|name| format!("client.allow: \"{name}\" is not a command that is refused")).collect()
}

/// Whether the table refuses it whatever the arguments.
fn is_refused(row: &Row) -> bool {
    row.class(&Args { raw: b"", ranges: &[] }) == Class::Refused
}

/// Whether `list` names the row or its family.
fn names(list: &[String], row: &Row) -> bool {
    list.iter().any(|name| name == row.name || name == row.family())
}

fn reason(row: &Row) -> &'static str {
    let known = REASONS.iter().find(|(name, _)| *name == row.name || *name == row.family());
    known.map_or("it would change upstream for everybody", |&(_, reason)| reason)
}
