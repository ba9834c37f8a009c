//! The checks can fail: made-up histories with one broken promise each, and such that only look broken.

use std::sync::Arc;
use std::time::Duration;

use super::checks::check;
use super::client::{Client, Field, KeyRef, Log};
use super::history::{
    Effect, Event, Fate, Harm, History, Key, MS, News, Path, Read, Seen, Time, Upset, Via, Wipe, Write,
};
use super::readers::{note, same};
use super::values::{Kind, readings, text, words};
use crate::support::{Scripted, V};

/// A history of two keys, `a` and `b`, in database 0, in milliseconds.
struct Tale {
    history: History,
}

/// The connections of a tale.
const VIAS: [(Path, bool); 5] =
    [(Path::A, false), (Path::A, false), (Path::B, false), (Path::Direct, false), (Path::A, true)];
/// Two of A, one of B, one to the server, one of A as another user.
const A1: usize = 0;
const A2: usize = 1;
const B: usize = 2;
const DIRECT: usize = 3;
const APP: usize = 4;

impl Tale {
    /// With one worker in each sidecar and a bound of 100 ms.
    fn new() -> Tale {
        let keys = ["a", "b"].map(|name| Key::new(name, 0)).to_vec();
        let conns = VIAS.map(|(path, app)| Via { path, db: 0, app }).to_vec();
        let logs = vec![Log::new()];
        let (max_staleness, upsets) = (100 * MS, Vec::new());
        Tale {
            history: History { keys, conns, logs, threads: [1, 1], max_staleness, lag: 0, moving: Vec::new(), upsets },
        }
    }

    fn event(mut self, event: Event) -> Tale {
        self.history.logs[0].push(event);
        self
    }

    fn change(self, key: usize, version: u64, path: Path, sent: Time, fate: Fate, of: (Effect, Option<Time>)) -> Tale {
        let (effect, expires) = of;
        let conn = VIAS.iter().position(|(of, _)| *of == path).unwrap();
        let sent = sent * MS;
        self.event(Event::Write(Write { key, version, effect, expires, path, conn, how: "SET", sent, fate }))
    }

    /// A write that took effect between two times.
    fn write(self, key: usize, version: u64, path: Path, sent: Time, done: Time) -> Tale {
        self.change(key, version, path, sent, Fate::Done(done * MS), (Effect::Value(60), None))
    }

    fn read_as(
        self,
        key: usize,
        seen: Seen,
        conn: usize,
        (sent, done): (Time, Time),
        own: Option<u64>,
        news: bool,
    ) -> Tale {
        let (sent, done) = (sent * MS, done * MS);
        self.event(Event::Read(Read { key, seen, conn, own, news, how: "GET", sent, done }))
    }

    /// A read of a version.
    fn read(self, key: usize, version: u64, conn: usize, sent: Time, done: Time) -> Tale {
        self.read_as(key, Seen::Version(version), conn, (sent, done), None, false)
    }

    /// A read of no key.
    fn none(self, key: usize, conn: usize, sent: Time, done: Time) -> Tale {
        self.read_as(key, Seen::Absent, conn, (sent, done), None, false)
    }

    fn wipe(self, path: Path, sent: Time, done: Time, whole: bool) -> Tale {
        self.event(Event::Wipe(Wipe { db: None, path, sent: sent * MS, done: Some(done * MS), whole }))
    }

    fn news(self, path: Path, key: usize, version: u64, heard: Time) -> Tale {
        self.event(Event::News(News { path, key, version, heard: heard * MS, how: "a message" }))
    }

    fn threads(mut self, threads: usize) -> Tale {
        self.history.threads[0] = threads;
        self
    }

    #[track_caller]
    fn breaks(self, promise: &str) {
        let violations = check(&self.history).violations;
        let broken: Vec<&str> = violations.iter().map(|violation| violation.promise).collect();
        assert_eq!(broken, [promise], "{violations:?}");
    }

    #[track_caller]
    fn holds(self) {
        let violations = check(&self.history).violations;
        assert!(violations.is_empty(), "{violations:?}");
    }
}

/// Version 1 long ago, version 2 from outside at 1000.
fn overwritten() -> Tale {
    Tale::new().write(0, 1, Path::Direct, 1, 2).write(0, 2, Path::Direct, 1000, 1001)
}

#[test]
fn a_read_behind_an_inside_write_must_see_it() {
    let tale = || Tale::new().write(0, 1, Path::Direct, 1, 2).write(0, 2, Path::A, 10, 11);
    tale().read(0, 1, A2, 12, 13).breaks("P2");
    tale().threads(4).read(0, 1, A2, 12, 13).breaks("P2");
    tale().none(0, A2, 12, 13).breaks("P2");
    // Through the other sidecar it is an outside write; and who asks before the reply may see either.
    tale().read(0, 1, B, 12, 13).holds();
    tale().read(0, 1, A2, 10, 13).read(0, 2, A1, 10, 13).holds();
}

#[test]
fn a_read_pipelined_behind_its_own_write_must_see_it() {
    let tale = || Tale::new().write(0, 1, Path::Direct, 1, 2).write(0, 2, Path::A, 10, 12);
    tale().read_as(0, Seen::Version(1), A1, (10, 13), Some(2), false).breaks("P2");
    tale().read_as(0, Seen::Version(2), A1, (10, 13), Some(2), false).holds();
}

#[test]
fn a_wipe_from_inside_must_be_seen() {
    let tale = || Tale::new().write(0, 1, Path::Direct, 1, 2).wipe(Path::A, 10, 11, true);
    tale().read(0, 1, A1, 12, 13).breaks("P2");
    tale().none(0, A1, 12, 13).read(0, 1, B, 12, 13).holds();
    // Written while the wipe was under way, it may have come behind it.
    tale().write(0, 2, Path::Direct, 10, 11).read(0, 2, A1, 12, 13).holds();
}

#[test]
fn a_connection_never_goes_back_in_time() {
    let tale = |conn| overwritten().read(0, 2, A1, 1010, 1011).read(0, 1, conn, 1012, 1013);
    tale(A1).breaks("P3");
    tale(A1).threads(4).breaks("P3");
    // With one worker nor does one client after the other, of the same user.
    tale(A2).breaks("P3");
    tale(A2).threads(4).holds();
    tale(APP).holds();
    // Pipelined: the order of a connection's commands counts, not the time of sending.
    overwritten().read(0, 2, A1, 1010, 1011).read(0, 1, A1, 1010, 1013).breaks("P3");
    overwritten().read(0, 2, A1, 1010, 1011).read(0, 1, A2, 1010, 1013).holds();
}

#[test]
fn what_is_gone_does_not_come_back() {
    let gone = (Effect::Gone, None);
    let tale = || overwritten().change(0, 3, Path::Direct, 1010, Fate::Done(1011 * MS), gone);
    tale().none(0, A1, 1012, 1013).read(0, 2, A1, 1014, 1015).breaks("P3");
    tale().read(0, 2, A1, 1012, 1013).none(0, A1, 1014, 1015).holds();
}

#[test]
fn who_has_seen_one_key_new_does_not_see_another_old() {
    // b is written before a; who has seen the new a must see the new b.
    let tale = || {
        let tale = Tale::new().write(0, 1, Path::Direct, 1, 2).write(1, 2, Path::Direct, 3, 4);
        tale.write(1, 3, Path::Direct, 1000, 1001).write(0, 4, Path::Direct, 1002, 1003)
    };
    tale().read(0, 4, A1, 1004, 1005).read(1, 2, A1, 1006, 1007).breaks("P3");
    tale().read(0, 4, A1, 1004, 1005).read(1, 3, A1, 1006, 1007).holds();
    tale().read(0, 1, A1, 1004, 1005).read(1, 2, A1, 1006, 1007).holds();
}

#[test]
fn news_does_not_overtake() {
    for conn in [A1, A2, APP] {
        overwritten().threads(4).news(Path::A, 0, 2, 1010).read(0, 1, conn, 1011, 1012).breaks("P3");
    }
    overwritten().news(Path::A, 0, 2, 1010).read(0, 1, B, 1011, 1012).holds();
    overwritten().news(Path::A, 0, 2, 1010).read(0, 1, A1, 1009, 1012).holds();
    // A transaction's result is news, a read's is not.
    let told = |news| overwritten().threads(4).read_as(0, Seen::Version(2), A1, (1005, 1006), None, news);
    told(true).read(0, 1, APP, 1007, 1008).breaks("P3");
    told(false).read(0, 1, APP, 1007, 1008).holds();
}

#[test]
fn a_pair_is_read_at_one_moment() {
    let pair = |a, b| {
        let tale = overwritten().write(1, 1, Path::Direct, 1, 2).write(1, 2, Path::Direct, 1000, 1001);
        tale.read_as(0, a, A1, (1002, 1003), None, false).read_as(1, b, A1, (1002, 1003), None, false)
    };
    let (old, new) = (Seen::Version(1), Seen::Version(2));
    assert!(check(&pair(old, new).event(Event::Pair).history).violations.iter().any(|v| v.promise == "P3"));
    pair(old, old).event(Event::Pair).holds();
    pair(new, Seen::Absent).wipe(Path::Direct, 900, 2000, false).event(Event::Pair).holds();
    let half = pair(new, Seen::Absent).wipe(Path::Direct, 999, 1002, true).event(Event::Pair);
    assert!(check(&half.history).violations.iter().any(|v| v.promise == "P3"));
}

#[test]
fn nothing_overwritten_longer_ago_than_the_bound_is_shown() {
    overwritten().read(0, 1, A1, 1102, 1103).breaks("P4");
    overwritten().read(0, 1, A1, 1100, 2000).holds();
    let stale = check(&overwritten().read(0, 1, A1, 1051, 1052).history).stale;
    assert_eq!(stale, [50 * MS]);
    // A key once absent must show within the bound, too; a write of which nobody knows need not.
    Tale::new().write(0, 1, Path::B, 1000, 1001).none(0, A1, 1102, 1103).breaks("P4");
    let maybe = Tale::new().change(0, 1, Path::B, 1000, Fate::Maybe, (Effect::Value(60), None));
    maybe.none(0, A1, 1102, 1103).read(0, 1, A1, 1104, 1105).holds();
}

#[test]
fn nothing_is_shown_after_it_has_expired() {
    let expires = (Effect::Value(60), Some(50 * MS));
    let tale = || Tale::new().change(0, 1, Path::Direct, 10, Fate::Done(20 * MS), expires);
    tale().read(0, 1, A1, 76, 77).breaks("P5");
    tale().read(0, 1, A1, 70, 90).none(0, A1, 91, 92).holds();
    tale().read(0, 1, A1, 21, 22).none(0, A1, 74, 75).read(0, 1, A1, 69, 76).breaks("P3");
}

#[test]
fn nothing_is_invented() {
    overwritten().read(0, 3, A1, 1010, 1011).breaks("P6");
    overwritten().read(0, 2, A1, 998, 999).breaks("P6");
    overwritten().read_as(0, Seen::Length(61), A1, (1010, 1011), None, false).breaks("P6");
    overwritten().read_as(0, Seen::Length(60), A1, (1010, 1011), None, false).holds();
}

#[test]
fn nothing_hides_what_nobody_has_removed() {
    Tale::new().write(0, 1, Path::Direct, 1, 2).read(0, 1, A1, 3, 4).none(0, A1, 10, 11).breaks("P3");
    // Eviction may have taken it; a wipe that was over before it may not.
    overwritten().wipe(Path::Direct, 900, 2000, false).none(0, A1, 1900, 1901).holds();
    overwritten().wipe(Path::Direct, 900, 901, true).none(0, A1, 1900, 1901).breaks("P4");
}

#[test]
fn what_was_not_executed_is_not_seen() {
    let tale = overwritten().change(0, 3, Path::A, 1010, Fate::Refused, (Effect::Value(60), None));
    tale.read(0, 3, A1, 1012, 1013).breaks("P8");
    let maybe = |tale: Tale| tale.change(0, 3, Path::A, 1010, Fate::Maybe, (Effect::Value(60), None));
    maybe(overwritten()).read(0, 3, A1, 1012, 1013).holds();
    maybe(overwritten()).read(0, 2, A1, 1012, 1013).read(0, 3, A1, 5000, 5001).holds();
    maybe(overwritten()).read(0, 3, A1, 1012, 1013).read(0, 2, A1, 1014, 1015).breaks("P3");
}

#[test]
fn the_server_itself_is_held_to_more() {
    overwritten().read(0, 1, DIRECT, 1002, 1003).breaks("harness");
    overwritten().read(0, 2, DIRECT, 1002, 1003).holds();
}

/// As `overwritten`; the third key follows the first under its name, and holds this since 2000. The fourth is of another
/// group.
fn lost(from: Time, until: Time, holds: Seen) -> Tale {
    let mut tale = overwritten();
    let keys = &mut tale.history.keys;
    keys.push(Key { born: 2000 * MS, holds: Some(holds), ..keys[0].clone() });
    keys.push(Key { group: 1, ..Key::new("c", 0) });
    tale.history.upsets.push(Upset { group: 0, harm: Harm::Loses, from: from * MS, until: until * MS });
    tale
}

#[test]
fn what_a_loss_may_take_is_excused_and_nothing_else() {
    let old = Seen::Version(1);
    let tale = || lost(1500, 1900, old);
    // Before it and where nothing was lost it is judged as ever; from its beginning on it is not.
    tale().read(0, 1, A1, 1400, 1401).breaks("P4");
    tale().read(0, 1, A1, 1400, 1501).read(0, 2, A1, 1502, 1503).read(0, 1, A1, 1504, 1505).holds();
    let other = |tale: Tale| tale.write(3, 5, Path::Direct, 1, 2).write(3, 6, Path::Direct, 1000, 1001);
    other(tale()).read(3, 5, A1, 1600, 1601).breaks("P4");
    tale().read(0, 9, A1, 1600, 1601).breaks("P6");
    // What was lost may be shown for as long as P4 allows, and never again.
    tale().read(2, 2, A1, 2099, 2101).read(2, 1, A1, 2100, 2101).holds();
    tale().read(2, 2, A1, 2100, 2101).breaks("P6");
    tale().none(2, A1, 2100, 2101).breaks("P4");
    lost(1500, 1900, Seen::Absent).none(2, A1, 2100, 2101).holds();
    lost(1500, 1900, Seen::Absent).read(2, 1, A1, 2100, 2101).breaks("P6");
    // Own writes are seen at once all the same.
    tale().write(2, 7, Path::A, 2010, 2011).read(2, 1, A1, 2012, 2013).breaks("P2");
    tale().write(2, 7, Path::A, 2010, 2011).read(2, 1, B, 2012, 2013).holds();
    // Who asks for a name while the next key takes it over may be shown either, even if the first was taken into use after the loss.
    let renewed = || {
        let mut tale = lost(1500, 1900, old);
        tale.history.keys[0].born = 1950 * MS;
        tale.write(2, 7, Path::Direct, 2010, 2011)
    };
    renewed().read(0, 7, A1, 1990, 2011).holds();
    renewed().read(0, 7, A1, 1990, 1999).breaks("P6");
    // The harness must have looked right.
    lost(1500, 1900, Seen::Version(9)).breaks("harness");
}

#[test]
fn what_moves_is_excused_from_one_node_to_the_other_and_nothing_else() {
    let tale = |from, until| {
        let mut tale = Tale::new().write(0, 1, Path::Direct, 1, 2).write(1, 2, Path::Direct, 3, 4);
        tale.history.upsets.push(Upset { group: 0, harm: Harm::Moves, from: from * MS, until: until * MS });
        tale.write(1, 3, Path::Direct, 1000, 1001).write(0, 4, Path::Direct, 1002, 1003)
    };
    let across = |tale: Tale| tale.read(0, 4, A1, 1004, 1005).read(1, 2, A1, 1006, 1007);
    across(tale(2000, 2001)).breaks("P3");
    across(tale(1000, 2001)).holds();
    across(tale(1005, 2001)).holds();
    across(tale(800, 903)).breaks("P3");
    across(tale(800, 904)).holds();
    // On one key, and beyond the bound, it is not.
    tale(1000, 2001).read(0, 4, A1, 1004, 1005).read(0, 1, A1, 1006, 1007).breaks("P3");
    tale(1000, 2001).read(1, 2, A1, 1102, 1103).breaks("P4");
}

#[test]
fn replicas_may_be_behind_by_their_lag_and_show_two_moments() {
    let lagging = |tale: Tale| {
        let mut tale = tale;
        tale.history.lag = 50 * MS;
        tale
    };
    // The bound is 150 then, and a timeline may go back within it.
    overwritten().read(0, 1, A1, 1102, 1103).breaks("P4");
    lagging(overwritten()).read(0, 2, A1, 1110, 1111).read(0, 1, A1, 1150, 1151).holds();
    lagging(overwritten()).read(0, 1, A1, 1152, 1153).breaks("P4");
    // Who has written sees it at once; another client of the same sidecar need not.
    let written = || lagging(Tale::new().write(0, 1, Path::Direct, 1, 2).write(0, 2, Path::A, 1000, 1001));
    written().read(0, 1, A1, 1002, 1003).breaks("P2");
    written().read(0, 1, A2, 1002, 1003).holds();
    // What a slot's move has taken already may be missing, while it goes on and for as long as it may be remembered.
    let moves = |group: usize| {
        let mut tale = lagging(overwritten());
        tale.history.moving.push(group);
        tale.history.upsets.push(Upset { group: 0, harm: Harm::Moves, from: 2000 * MS, until: 2100 * MS });
        tale
    };
    moves(0).none(0, A1, 2040, 2041).none(0, A1, 2249, 2250).holds();
    moves(0).none(0, A1, 2251, 2252).breaks("P4");
    moves(0).read(0, 1, A1, 2040, 2041).breaks("P4");
    moves(1).none(0, A1, 2040, 2041).breaks("P4");
    // Of the masters themselves more is wanted.
    written().read(0, 1, DIRECT, 1002, 1003).breaks("harness");
}

#[test]
fn a_reply_that_is_another_keys_is_seen() {
    let key = KeyRef { id: 0, name: "a".into() };
    let wrong = |reply: V, kind: Kind| {
        let mut log = Log::new();
        note(&mut log, &key, &readings(kind)[0], &Some((reply, 1)), (0, 0), None, false);
        matches!(log[0], Event::Wrong("P1", _))
    };
    assert!(!wrong(V::bulk(text("a", 1, false)), Kind::Text));
    assert!(!wrong(V::Nil, Kind::Text));
    assert!(wrong(V::bulk(text("b", 1, false)), Kind::Text));
    assert!(wrong(V::bulk(&text("a", 1, false)[..50]), Kind::Text), "half a value");
    assert!(wrong(V::Int(1), Kind::Text));
    assert!(wrong(V::Simple("OK".into()), Kind::Hash));
    assert!(wrong(V::Array(vec![V::bulk(text("a", 1, false)), V::bulk(text("a", 2, false))]), Kind::List));
    assert!(wrong(V::Error("WRONGTYPE".into()), Kind::Text));
}

#[test]
fn a_reply_that_differs_from_what_the_server_said_before_and_after_is_seen() {
    let ask = [words("GET a")];
    let two = |value: &str| vec![vec![format!("${value}").into_bytes()]; 2];
    let differences = |before: &str, shown: &str, after: &str| {
        let mut log = Log::new();
        same(&mut log, &ask, 0, [&two(before), &two(shown), &two(after)]);
        log.iter().filter(|event| matches!(event, Event::Wrong("P6", _))).count()
    };
    assert_eq!((differences("1", "1", "1"), differences("1", "2", "1"), differences("1", "3", "2")), (0, 2, 0));
    assert_eq!(differences("-1", "*-1", "-1"), 2, "bytes, not meaning");
}

#[test]
fn a_tag_out_of_place_is_seen() {
    let upstream = Scripted::start(|turn| {
        while turn.next().is_some() {
            turn.reply("$5\r\ntag-x\r\n");
        }
    });
    let field = Arc::new(Field {
        addrs: [upstream.addr(); 3],
        slots: Vec::new(),
        keys: std::sync::Mutex::default(),
        conns: std::sync::Mutex::default(),
        ends: false.into(),
        max_staleness: Duration::ZERO,
        lags: false,
        terrain: None,
    });
    let mut log = Log::new();
    Client::plain(&field, Path::A).tagged(&mut log, &[words("GET a")]);
    assert!(matches!(log[..], [Event::Wrong("P1", _)]), "{log:?}");
}
