//! The torture of a master that Sentinels watch over: it is killed, falls silent, is replaced on demand, and Sentinels go one by one,
//! under constant load and with every promise checked on the whole history.
//!
//! A short form runs with all tests; the long one is part of `make torture-cluster`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::client::{Client, Field, Log};
use super::super::faults::{Phase, quiet_expiry};
use super::super::history::{Event, Harm, MS, Path, Time, now};
use super::super::values::words;
use super::play::{Play, Shown, sidecars};
use super::terrain::Terrain;
use super::{Deck, Ground, LAG, READ_FROM, WARM, errors_of, rounds};
use crate::differential::dice::Dice;
use crate::support::Sentinels;
use crate::support::redis::Kind as Brand;
use crate::support::wait::{in_the_end, pass};

/// In CI, for each server: it takes Sentinels some eight seconds until they try a second failover.
const SHORT: Duration = Duration::from_secs(15);

/// After this long the service must be back; see `cluster::faults`.
const BACK: Time = 60_000 * MS;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The master is killed.
    Killed,
    /// The master stands still; its sockets stay open. It goes on once another has taken its place.
    Silent,
    /// The Sentinels are told to replace the master, which is well.
    Commanded,
    /// All Sentinels are killed one by one, and come back. The master is no less one for that.
    SentinelsKilled,
}

/// All of them.
pub const FAULTS: [Fault; 4] = [Fault::Killed, Fault::SentinelsKilled, Fault::Silent, Fault::Commanded];

/// Makes things happen.
struct Storm<'a> {
    all: &'a Sentinels,
    ground: &'a Ground,
    field: &'a Arc<Field>,
    dice: Dice,
    log: Log,
    phases: Vec<Phase>,
}

impl Storm<'_> {
    fn strike(&mut self, fault: Fault) {
        let from = now();
        match fault {
            Fault::Killed => self.kill(),
            Fault::Silent => self.silence(),
            Fault::Commanded => self.command(),
            Fault::SentinelsKilled => self.kill_sentinels(),
        }
        let healed = now();
        self.probe(healed, fault);
        self.phases.push(Phase { faults: vec![format!("{fault:?}")], from, healed, back: now() });
        self.rest(300);
    }

    fn rest(&mut self, most_ms: usize) {
        pass(Duration::from_millis(u64::try_from(self.dice.below(most_ms + 1)).unwrap()));
    }

    fn master(&self) -> usize {
        let mut master = None;
        in_the_end("there is a master", || {
            master = self.all.master();
            master.is_some()
        });
        master.unwrap()
    }

    fn lose(&self) {
        let groups: Vec<usize> = (0..self.ground.tags.len()).collect();
        self.field.terrain.as_ref().unwrap().begin(&groups, Harm::Loses);
    }

    fn lost(&self) {
        self.field.terrain.as_ref().unwrap().end(|_| Harm::Loses);
    }

    fn kill(&mut self) {
        let old = self.master();
        self.lose();
        self.all.server(old).kill();
        let new = self.all.await_other_master(old);
        // The third, too, is the new one's.
        self.all.await_replicas_of(new);
        self.lost();
        self.rest(500);
        self.all.server(old).restart();
        quiet_expiry(self.all.server(old));
        self.all.await_replicas_of(new);
    }

    fn silence(&mut self) {
        let old = self.master();
        self.lose();
        self.all.server(old).stop();
        let new = self.all.await_other_master(old);
        self.rest(500);
        self.all.server(old).cont();
        self.all.await_replicas_of(new);
        self.lost();
    }

    fn command(&mut self) {
        self.lose();
        let new = self.all.fail_over();
        self.all.await_replicas_of(new);
        self.lost();
    }

    fn kill_sentinels(&mut self) {
        for at in 0..3 {
            self.all.sentinel(at).kill();
            self.rest(1000);
        }
        for at in 0..3 {
            self.all.sentinel(at).restart();
            self.rest(500);
        }
        self.master();
    }

    /// Asks both sidecars until each has answered everything asked of it.
    fn probe(&mut self, healed: Time, fault: Fault) {
        for path in [Path::A, Path::B] {
            let mut client = Client::plain(self.field, path);
            let lines = ["SET {t0}probe 1", "GET {t0}probe", "EVAL return(1) 1 {t0}probe"].map(words);
            loop {
                let mut log = Log::new();
                let answers = client.tagged(&mut log, &lines);
                let failed = log.iter().any(|event| matches!(event, Event::Failed { .. }));
                self.log.extend(log);
                if answers.is_some() && !failed {
                    break;
                }
                if now() - healed > BACK {
                    let text = format!("{path:?} not back {} s after {fault:?}", BACK / MS / 1000);
                    self.log.push(Event::Wrong("P8", text));
                    break;
                }
                pass(Duration::from_millis(1));
            }
        }
    }
}

fn round(brand: Brand, of: (Duration, &'static str), seed: u64, time: Duration, deck: &mut Deck<Fault>) -> Shown {
    let (bound, read_from) = of;
    let all = Sentinels::start(brand);
    (0..3).for_each(|at| quiet_expiry(all.server(at)));
    let ground = Ground::of_one();
    let sidecars = sidecars(&all, bound, read_from);
    let mut terrain = Terrain::default();
    terrain.sentinels = (0..3).map(|at| all.sentinel(at).addr()).collect();
    *terrain.seeds.lock().unwrap() = (0..3).map(|at| all.server(at).addr()).collect();
    let play = Play { ground: &ground, sidecars, direct: all.server(0).addr(), terrain, bound };
    let lag = if read_from == "master" { Duration::ZERO } else { LAG };
    let mut shown = play.run(lag, seed, |field, seed| {
        let (dice, log, phases) = (Dice::new(seed), Log::new(), Vec::new());
        let mut storm = Storm { all: &all, ground: &ground, field, dice, log, phases };
        pass(WARM);
        let begun = Instant::now();
        while begun.elapsed() < time {
            storm.strike(deck.next());
        }
        (storm.log, storm.phases)
    });
    let wrong = errors_of(&[Fault::SentinelsKilled], &shown.history.logs, &shown.phases);
    shown.history.logs.push(wrong);
    shown
}

/// The long form, for each server half of the time.
pub fn long(time: Duration, seed: u64, faults: &[Fault]) {
    for brand in [Brand::Redis, Brand::Valkey] {
        torture(brand, time / 2, seed, faults, &READ_FROM);
    }
}

fn torture(brand: Brand, time: Duration, seed: u64, faults: &[Fault], read_from: &[&'static str]) {
    let mut deck = Deck::new(seed, faults);
    rounds(&format!("Sentinels of {brand:?}"), time, seed, read_from, &mut |bound, read_from, seed, time| {
        round(brand, (bound, read_from), seed, time, &mut deck)
    });
}

#[test]
fn redis_and_sentinels_under_torture_break_no_promise() {
    torture(Brand::Redis, SHORT, 1, &[Fault::Killed, Fault::SentinelsKilled], &["master"]);
}

#[test]
fn valkey_and_sentinels_under_torture_break_no_promise() {
    torture(Brand::Valkey, SHORT, 2, &[Fault::Silent, Fault::Commanded], &["master"]);
}

#[test]
fn replicas_of_redis_and_sentinels_under_torture_break_no_promise() {
    torture(Brand::Redis, SHORT, 3, &[Fault::Commanded, Fault::Silent], &["prefer-replica"]);
}

#[test]
fn replicas_of_valkey_and_sentinels_under_torture_break_no_promise() {
    torture(Brand::Valkey, SHORT, 4, &[Fault::Killed, Fault::Commanded], &["nearest"]);
}
