//! CLIENT LIST, INFO and KILL over the clients of all workers.
//!
//! The lines have Redis's fields as far as they mean something here; upstream's own list shows lanes instead.

use std::fmt::Write;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::BytesMut;

use super::connection::Connection;
use super::registry::{BLOCKED, IN_MULTI, MONITORS, SUBSCRIBED, kill};
use crate::dispatch::session::Card;
use crate::error::Error;
use crate::net::boottime;
use crate::protocol::{Args, encode};

/// CLIENT KILL's and CLIENT LIST's filters.
#[derive(Default)]
struct Filter {
    ids: Vec<u64>,
    address: Option<String>,
    local_address: Option<String>,
    user: Option<String>,
    kind: Option<String>,
    skip_me: bool,
}

// === impl Connection ===

impl Connection {
    /// CLIENT INFO or LIST; false: upstream knows better what is wrong with it.
    pub(super) fn client_registry(&self, name: &str, args: &Args<'_>, reply: &mut BytesMut) -> bool {
        let resp3 = self.session.resp3();
        match name {
            "client|info" => encode::verbatim(reply, line(&self.session.card).as_bytes(), resp3),
            _ => {
                // Servers differ in what they take and in how they refuse it.
                let Ok(filter) = Filter::parse(args, 2, false) else { return false };
                let cards = self.registry.all();
                let lines: String = cards.iter().filter(|card| filter.matches(card)).map(|card| line(card)).collect();
                encode::verbatim(reply, lines.as_bytes(), resp3);
            }
        }
        true
    }

    /// CLIENT KILL: the ids of those who now leave; `None`: upstream knows better what is wrong with it. Nothing that could
    /// match is ever told to upstream: its clients are our lanes.
    pub(super) fn client_kill(&self, args: &Args<'_>, reply: &mut BytesMut) -> Option<Vec<u64>> {
        let own = self.session.card.id;
        if args.len() == 3 {
            let address = String::from_utf8_lossy(args.get(2).unwrap_or_default()).into_owned();
            match self.registry.all().into_iter().find(|card| card.address == address) {
                Some(card) => {
                    encode::simple(reply, "OK");
                    return Some(self.end(&card).into_iter().collect());
                }
                None => encode::error(reply, &Error::NoSuchClient.to_string()),
            }
            return Some(Vec::new());
        }
        match Filter::parse(args, 2, true) {
            Ok(filter) => {
                let cards = self.registry.all();
                let killed = cards.iter().filter(|card| filter.matches(card) && !(filter.skip_me && card.id == own));
                let killed: Vec<Option<u64>> = killed.map(|card| self.end(card)).collect();
                encode::integer(reply, killed.len() as i64);
                Some(killed.into_iter().flatten().collect())
            }
            // Refused by every server, each in its own words.
            Err(Error::ClientId) => None,
            Err(error) => {
                encode::error(reply, &error.to_string());
                Some(Vec::new())
            }
        }
    }

    /// Another client is closed at once, and its id returned; this one when its reply is written.
    fn end(&self, card: &Card) -> Option<u64> {
        if card.id == self.session.card.id {
            self.session.closing.set(true);
            return None;
        }
        kill(card);
        Some(card.id)
    }
}

// === impl Filter ===

impl Filter {
    fn parse(args: &Args<'_>, from: usize, kill: bool) -> Result<Filter, Error> {
        let mut filter = Filter { skip_me: kill, ..Filter::default() };
        let text = |i: usize| args.get(i).map(|word| String::from_utf8_lossy(word).into_owned()).ok_or(Error::Syntax);
        let mut i = from;
        while i < args.len() {
            let word = text(i)?.to_ascii_lowercase();
            let value = text(i + 1)?;
            i += 2;
            match word.as_str() {
                "id" => {
                    filter.ids.push(id(&value)?);
                    while !kill && i < args.len() {
                        filter.ids.push(id(&text(i)?)?);
                        i += 1;
                    }
                }
                "addr" if kill => filter.address = Some(value),
                "laddr" if kill => filter.local_address = Some(value),
                "user" if kill => filter.user = Some(value),
                "type" => filter.kind = Some(kind(&value)?),
                "skipme" if kill => {
                    filter.skip_me = match value.to_ascii_lowercase().as_str() {
                        "yes" => true,
                        "no" => false,
                        _ => return Err(Error::Syntax),
                    }
                }
                _ => return Err(Error::Syntax),
            }
        }
        Ok(filter)
    }

    fn matches(&self, card: &Card) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        (self.ids.is_empty() || self.ids.contains(&card.id))
            && is(&self.address, &card.address)
            && is(&self.local_address, &card.local_address)
            && is(&self.user, &user(card))
            // Replicas and masters are no clients of ours.
            && is(&self.kind, if flags(card) & SUBSCRIBED != 0 { "pubsub" } else { "normal" })
    }
}

fn id(text: &str) -> Result<u64, Error> {
    text.parse().ok().filter(|&id| id > 0).ok_or(Error::ClientId)
}

fn kind(text: &str) -> Result<String, Error> {
    let kind = text.to_ascii_lowercase();
    match kind.as_str() {
        "normal" | "master" | "replica" | "slave" | "pubsub" => Ok(kind),
        _ => Err(Error::ClientType(text.into())),
    }
}

fn user(card: &Card) -> String {
    let user = card.words.lock().unwrap_or_else(PoisonError::into_inner).user.clone();
    if user.is_empty() { "default".into() } else { user }
}

/// What a client is about: on a connection of its own, and by subscriptions that it shares.
fn flags(card: &Card) -> u8 {
    let subscribed = card.subscriptions.iter().any(|count| count.load(Ordering::Relaxed) > 0);
    card.flags.load(Ordering::Relaxed) | if subscribed { SUBSCRIBED } else { 0 }
}

/// Redis's letters, in its order (networking.c, catClientInfoString).
fn letters(flags: u8) -> String {
    let known = [(MONITORS, 'O'), (SUBSCRIBED, 'P'), (IN_MULTI, 'x'), (BLOCKED, 'b')];
    let letters: String = known.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect();
    if letters.is_empty() { "N".into() } else { letters }
}

/// One client's line.
fn line(card: &Card) -> String {
    let now = boottime();
    let seconds = |then: u64| now.saturating_sub(then) / 1_000_000_000;
    let words = card.words.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let subscriptions = card.subscriptions.each_ref().map(|count| count.load(Ordering::Relaxed));
    let mut line = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(
        line,
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi=-1 user={} resp={} lib-name={} lib-ver={}",
        card.id,
        card.address,
        card.local_address,
        words.name,
        seconds(card.since),
        seconds(card.last.load(Ordering::Relaxed)),
        letters(flags(card)),
        card.db.load(Ordering::Relaxed),
        subscriptions[0],
        subscriptions[1],
        subscriptions[2],
        if words.user.is_empty() { "default" } else { &words.user },
        card.proto.load(Ordering::Relaxed),
        words.lib_name,
        words.lib_ver,
    );
    line
}
