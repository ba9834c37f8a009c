//! The master that Sentinels watch over: found, verified, followed when it changes.
//!
//! Every Sentinel that is known is asked, every second and at once when something speaks against what is known; the newest
//! word counts (`opinions`), if the server that it names says itself that it is a master (`role`). The present master is
//! asked for its role all along. *Invariant:* nobody is taken over who has not been verified, and a master that says it is
//! none any more is left at once, whether or not another is known.

mod opinions;
mod role;
mod seat;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use opinions::{Opinions, Word};
use role::{Role, role_of, until_demoted};
use seat::Seat;

use super::{Login, Parts};
use crate::coherence::Shared;
use crate::net::Address;
use crate::switch::{Rule, on};
use crate::telemetry::Registry;
use crate::telemetry::labels::ErrorKind;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::upstream::control::Unanswered;
use crate::upstream::topology::Sentinel;

/// Between two rounds of questions, however many doubts ring.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest and shortest time between two questions to the master what its role is.
const ROLE_MAX: Duration = Duration::from_secs(1);
/// See `ROLE_MAX`.
const ROLE_MIN: Duration = Duration::from_millis(100);

/// A master that no Sentinel that answers has named for so long has been forgotten by them: they were set up anew, and
/// their epochs with them.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Without doubts for so long: what fails from then on is another trouble's.
const CALM: Duration = Duration::from_secs(10);

/// After a change, until it is told: what it has cost is known by then.
const COUNTED_AFTER: Duration = Duration::from_millis(250);

/// What is needed beside the parts.
pub struct Watch {
    /// As for every kind of upstream.
    pub parts: Parts,
    /// What is kept right.
    pub sentinel: Arc<Sentinel>,
    /// How to log in at a Sentinel.
    pub login: Login,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// What has been counted.
    pub registry: Arc<Registry>,
    /// The bound on staleness.
    pub max_staleness: Duration,
}

/// What the tasks tell.
enum Heard {
    /// A Sentinel has spoken, or why not.
    Word(Address, Result<Word, Unanswered>),
    /// The first of some candidates that says it is the master, if any does.
    Verified(Option<(Address, u64)>),
    /// This one says that it is no master any more.
    Demoted(Address),
}

/// Who watches what.
struct Judge {
    watch: Watch,
    opinions: Opinions,
    /// Tasks that ask Sentinels.
    seats: Vec<(Address, Task)>,
    /// Sentinels that do not answer, and have been complained of.
    silent: Vec<Address>,
    /// Refusals that have been complained of.
    refusals: Vec<String>,
    /// The master and its epoch.
    master: Option<(Address, u64)>,
    /// Who was before, if nobody is.
    former: Option<Address>,
    /// When anybody last named the master.
    named: Instant,
    /// Asks the master for its role.
    guard: Option<Task>,
    /// Who is being verified.
    verifying: Option<(Vec<(Address, u64)>, Task)>,
    /// Moves when everybody is to be asked at once.
    doubts: watch::Sender<u64>,
    tell: UnboundedSender<Heard>,
    /// Commands that had failed when nothing spoke against the master yet.
    failed: u64,
    /// When something last did.
    doubted: Instant,
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps the master right for as long as the task lives.
pub async fn follow(watch: Watch) {
    let (tell, mut heard) = unbounded_channel();
    let mut judge = Judge::new(watch, tell);
    judge.ask_all_known();
    let sentinel = Arc::clone(&judge.watch.sentinel);
    let mut rested = Instant::now();
    loop {
        let doubted = async {
            sleep_until(rested).await;
            sentinel.wanted.notified().await;
        };
        tokio::select! {
            told = heard.recv() => match told {
                Some(told) => judge.hear(told),
                None => return,
            },
            () = doubted => {
                rested = Instant::now() + PAUSE;
                judge.doubt();
            }
        }
    }
}

// === impl Judge ===

impl Judge {
    fn new(watch: Watch, tell: UnboundedSender<Heard>) -> Judge {
        Judge {
            opinions: Opinions::new(&watch.sentinel.sentinels),
            watch,
            seats: Vec::new(),
            silent: Vec::new(),
            refusals: Vec::new(),
            master: None,
            former: None,
            named: Instant::now(),
            guard: None,
            verifying: None,
            doubts: watch::Sender::new(0),
            tell,
            failed: 0,
            doubted: Instant::now(),
        }
    }

    /// Everybody is asked at once.
    fn doubt(&mut self) {
        self.doubted = Instant::now();
        self.doubts.send_modify(|doubts| *doubts += 1);
    }

    fn hear(&mut self, told: Heard) {
        match told {
            Heard::Word(from, Ok(word)) => {
                self.answers_again(&from);
                self.opinions.heard(&from, Some(word));
                self.note_epoch();
                if self.doubted.elapsed() > CALM {
                    self.failed = count_failed(&self.watch.registry);
                }
            }
            Heard::Word(from, Err(error)) => {
                self.opinions.heard(&from, None);
                self.complain(from, &error);
            }
            Heard::Verified(found) => {
                self.verifying = None;
                // It may have been overtaken by newer words.
                if let Some((master, epoch)) = found.filter(|found| self.candidates().contains(found)) {
                    self.take_over(master, epoch);
                }
                return;
            }
            Heard::Demoted(server) => {
                if self.master.as_ref().is_some_and(|(master, _)| *master == server) {
                    self.leave(&server);
                }
            }
        }
        self.ask_all_known();
        self.watch.parts.cells.set(Gauge::Sentinels, self.opinions.answering() as i64);
        self.verify();
    }

    /// A task for each Sentinel that is known, and for no other.
    fn ask_all_known(&mut self) {
        let known = self.opinions.addresses();
        self.seats.retain(|(address, _)| known.contains(address));
        self.silent.retain(|address| known.contains(address));
        for address in known {
            if self.seats.iter().any(|(seated, _)| *seated == address) {
                continue;
            }
            let seat = Seat {
                address: address.clone(),
                service: self.watch.sentinel.service.clone(),
                address_map: self.watch.parts.address_map.clone(),
                doubts: self.doubts.subscribe(),
            };
            let (login, tell) = (Arc::clone(&self.watch.login), self.tell.clone());
            let told = move |from: &Address, word| {
                // Nobody listens when all ends.
                let _ = tell.send(Heard::Word(from.clone(), word));
            };
            let task = tokio::spawn(seat.watch(move |address| login(address), told));
            self.seats.push((address, Task(task)));
        }
    }

    fn answers_again(&mut self, from: &Address) {
        self.refusals.clear();
        if let Some(at) = self.silent.iter().position(|silent| silent == from) {
            self.silent.remove(at);
            tracing::info!(sentinel = %from, "a Sentinel answers again");
        }
    }

    /// Told once: until it answers again, or, for what all of them say alike, until one does.
    fn complain(&mut self, from: Address, error: &Unanswered) {
        let service = &self.watch.sentinel.service;
        let cause = error.to_string();
        if self.silent.contains(&from) {
            return tracing::debug!(sentinel = %from, %cause, "a Sentinel does not answer");
        }
        self.silent.push(from.clone());
        if !error.is_answer() {
            return tracing::warn!(sentinel = %from, %cause, "a Sentinel does not answer");
        }
        if !self.refusals.contains(&cause) {
            tracing::warn!(sentinel = %from, %cause, "a Sentinel refuses to tell the master of {service}");
            self.refusals.push(cause);
        }
    }

    /// The present master is named anew, or has been forgotten by all.
    fn note_epoch(&mut self) {
        let Some((master, epoch)) = &mut self.master else { return };
        match self.opinions.epoch_of(master) {
            Some(newest) => {
                *epoch = newest.max(*epoch);
                self.named = Instant::now();
            }
            None if self.named.elapsed() > FORGOTTEN => *epoch = 0,
            None => {}
        }
    }

    fn candidates(&self) -> Vec<(Address, u64)> {
        self.opinions.candidates(self.master.as_ref().map(|(master, epoch)| (master, *epoch)))
    }

    /// Asks those who may be the master now, in the order of how new the word is, whether they are.
    fn verify(&mut self) {
        let candidates = self.candidates();
        if self.verifying.as_ref().is_some_and(|(those, _)| *those == candidates) {
            return;
        }
        self.verifying = None;
        if candidates.is_empty() {
            return;
        }
        let (login, tell) = (Arc::clone(&self.watch.parts.target), self.tell.clone());
        let asked = candidates.clone();
        let task = tokio::spawn(async move {
            let mut found = None;
            for (server, epoch) in asked {
                match role_of(login(server.clone())).await {
                    Ok(role) if role == Role::Master || !on(Rule::MasterIsVerified) => {
                        found = Some((server, epoch));
                        break;
                    }
                    Ok(_) => tracing::debug!(%server, "named as the master, but it is none"),
                    Err(error) => tracing::debug!(%server, cause = %error, "named as the master, but it is away"),
                }
            }
            let _ = tell.send(Heard::Verified(found));
        });
        self.verifying = Some((candidates, Task(task)));
    }

    /// It is the master from here on.
    fn take_over(&mut self, master: Address, epoch: u64) {
        let Watch { parts, sentinel, .. } = &self.watch;
        let service = sentinel.service.clone();
        let entries = self.watch.registry.gauge(Gauge::Entries);
        let before = sentinel.set_master(Some(master.clone())).or(self.former.take());
        self.changed();
        match before {
            None => tracing::info!("master of {service} is {master}"),
            Some(old) if old == master => tracing::info!("master of {service} is {master} again"),
            Some(old) => {
                parts.cells.add(Counter::TopologyChanges, 1);
                let (registry, failed, new) = (Arc::clone(&self.watch.registry), self.failed, master.clone());
                tokio::spawn(async move {
                    sleep(COUNTED_AFTER).await;
                    let failed = count_failed(&registry).saturating_sub(failed);
                    let (entries, failed) = (grouped(entries.unsigned_abs()), grouped(failed));
                    tracing::info!(
                        "master of {service} moved {old} → {new}; {entries} cached entries dropped; {failed} commands failed"
                    );
                });
            }
        }
        let period = self.watch.max_staleness.clamp(ROLE_MIN, ROLE_MAX);
        let (login, tell, doubts) = (Arc::clone(&self.watch.parts.target), self.tell.clone(), self.doubts.subscribe());
        let guarded = master.clone();
        self.guard = Some(Task(tokio::spawn(async move {
            until_demoted(&guarded, move |address| login(address), doubts, period).await;
            let _ = tell.send(Heard::Demoted(guarded));
        })));
        self.failed = count_failed(&self.watch.registry);
        self.master = Some((master, epoch));
        self.named = Instant::now();
    }

    /// It is the master no more, and nobody else is known to be.
    fn leave(&mut self, server: &Address) {
        let service = &self.watch.sentinel.service;
        tracing::info!("{server} is not the master of {service} any more; commands wait for the new one");
        self.former = self.watch.sentinel.set_master(None);
        self.master = None;
        self.guard = None;
        self.changed();
        self.doubt();
    }

    /// What was cached is another server's; the workers leave it.
    fn changed(&self) {
        self.watch.shared.node.bump();
        self.watch.parts.tell();
    }
}

/// Commands that have failed for want of a master.
fn count_failed(registry: &Registry) -> u64 {
    [ErrorKind::Unreachable, ErrorKind::Lost, ErrorKind::Timeout].into_iter().map(|kind| registry.errors(kind)).sum()
}

/// A number as people read it: 1,204.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts: Vec<String> = [0, 12, 123, 1204, 123_456, 1_234_567].into_iter().map(grouped).collect();
        assert_eq!(texts, ["0", "12", "123", "1,204", "123,456", "1,234,567"]);
    }
}
