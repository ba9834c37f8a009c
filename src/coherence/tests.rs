//! What entries rest on, and how long they live.

use proptest::prelude::*;

use super::*;

fn coherence() -> Coherence {
    Coherence::new(Arc::default(), &Config::default(), 7)
}

#[test]
fn a_deadline_comes_before_upstreams_own_expiry_and_is_capped_by_age() {
    let coherence = coherence();
    let (sent, age) = (1_000 * MILLISECOND, 60_000 * MILLISECOND);
    let deadline = |pttl, tracked| coherence.deadline(sent, pttl, age, tracked);
    assert_eq!(deadline(Some(1024), true), Ok(sent + 1022 * MILLISECOND));
    assert_eq!(deadline(Some(2), true).map(|at| at > sent && at < sent + 2 * MILLISECOND), Ok(true));
    for endless in [Some(-1), Some(-2), Some(i64::MAX)] {
        let at = deadline(endless, true).expect("a deadline") - sent;
        assert!((age - age / 10..=age + age / 10).contains(&at), "{endless:?}: {at}");
        assert!(deadline(endless, false).expect("a deadline") - sent <= coherence.ttl_mode_age);
    }
    assert_eq!(
        (deadline(Some(0), true), deadline(Some(1), true)),
        (Err(FillRefused::Expiring), Err(FillRefused::Expiring))
    );
    assert_eq!((deadline(None, true), deadline(Some(-3), true)), (Err(FillRefused::Pttl), Err(FillRefused::Pttl)));
}

#[test]
fn an_entry_is_valid_until_anything_that_it_rests_on_moves() {
    let coherence = coherence();
    let (standing, slot) = (Standing::new(0), coherence.shared.generations.slot(b"k"));
    standing.begin(Mode::Tracking);
    standing.lease.renew(100);
    let until = |deadline| {
        let generation = coherence.shared.generations.current(slot);
        let stamp = stamp(standing.epoch(), generation, coherence.shared.node.current());
        let lookup = crate::cache::Lookup { hash: 1, namespace: Namespace(0), request: b"r" };
        Entry::new(&lookup, b"", Basis { slot, stamp, sent: 100, deadline, tracked: true })
    };
    let entry = || until(u64::MAX);
    let valid = |entry: &Entry| coherence.valid(entry, &standing, 100);
    let moves: [&dyn Fn(); 5] = [
        &|| coherence.written(&Keys::One(slot)),
        &|| assert!(coherence.push(&standing, b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n") != Some(0)),
        &|| assert!(coherence.push(&standing, b">2\r\n$10\r\ninvalidate\r\n_\r\n") != Some(0)),
        &|| coherence.shared.node.bump(),
        &|| standing.bump(),
    ];
    for (i, move_it) in moves.into_iter().enumerate() {
        let entry = entry();
        assert!(valid(&entry));
        move_it();
        assert!(!valid(&entry), "move {i}");
    }
    assert!(valid(&until(100)) && !valid(&until(99)), "past its deadline");
    assert!(!coherence.valid(&entry(), &standing, 101 + coherence.max_staleness), "past the lease");
    standing.lease.revoke();
    assert!(!valid(&entry()), "without a lease");
}

proptest! {
    #[test]
    fn no_deadline_exceeds_its_caps(
        sent in 0..1u64 << 50,
        [age, staleness, ttl_age] in prop::array::uniform3(1..1u64 << 40),
        pttl in prop_oneof![Just(-1), 0..1i64 << 30],
        tracked: bool,
    ) {
        let nanos = std::time::Duration::from_nanos;
        let config = Config { max_staleness: nanos(staleness), ttl_mode_age: nanos(ttl_age), ..Config::default() };
        let coherence = Coherence::new(Arc::default(), &config, sent);
        for max_age in [age, staleness, staleness + 1, staleness.saturating_sub(1).max(1)] {
            let Ok(at) = coherence.deadline(sent, Some(pttl), max_age, tracked) else { continue };
            let lives = at - sent;
            if max_age <= staleness {
                prop_assert!(lives <= max_age, "{lives} of {max_age}: jittered beyond the bound on staleness");
            }
            prop_assert!(lives <= max_age + max_age / 10);
            prop_assert!(tracked || lives <= ttl_age);
            prop_assert!(pttl < 0 || lives < pttl as u64 * MILLISECOND);
        }
    }
}
