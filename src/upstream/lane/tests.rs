//! How a driver comes back after a loss, on sockets whose other end is here.

use std::os::unix::net::UnixStream;

use super::driver::STEADY;
use super::*;
use crate::net::boottime;
use crate::protocol::Value;
use crate::upstream::handshake::{ServerVersion, Tracking};

/// The other ends of the connections made.
type Ends = Rc<RefCell<Vec<UnixStream>>>;

fn ready() -> Ready {
    Ready {
        proto: 3,
        connection_id: 1,
        tracking: Tracking::On,
        server: ServerVersion::default(),
        mode: String::new(),
        role: String::new(),
        modules: Value::Null,
    }
}

/// A lane that connects at once, hardly pauses, and is unused after `idle_timeout`.
fn lane(idle_timeout: Duration) -> (Rc<Lane<()>>, Driver<()>, Ends) {
    let ends = Ends::default();
    let kept = Rc::clone(&ends);
    let connect: Connect = Box::new(move || {
        let kept = Rc::clone(&kept);
        Box::pin(async move {
            let (near, far) = UnixStream::pair()?;
            kept.borrow_mut().push(far);
            Ok((Stream::from_std_unix(near)?, ready(), BytesMut::new()))
        })
    });
    let patience = Duration::from_secs(60);
    let limits = Limits {
        commands: 10,
        bytes: 1000,
        command_timeout: patience,
        connect_timeout: patience,
        idle_timeout,
        piece: LARGE_REPLY,
        keeps: false,
    };
    let instant = Duration::from_nanos(1);
    let (lane, driver) = Lane::new(limits, connect, Backoff::new(instant, instant, 7), Rc::new(Cell::new(1)));
    (lane, driver, ends)
}

async fn comes_up(lane: &Lane<()>, driver: &mut Driver<()>) {
    lane.want();
    assert!(matches!(driver.next().await, Event::Up(_)));
}

async fn is_dropped(driver: &mut Driver<()>, ends: &Ends) {
    ends.borrow_mut().clear();
    assert!(matches!(driver.next().await, Event::Lost(Loss::Io(_))));
}

#[tokio::test]
async fn pauses_grow_while_connections_break_at_once_and_begin_anew_after_a_steady_one() {
    let (lane, mut driver, ends) = lane(Duration::from_secs(60));
    for failures in 1..=5 {
        comes_up(&lane, &mut driver).await;
        is_dropped(&mut driver, &ends).await;
        assert_eq!((lane.state(), driver.backoff.failures()), (State::Pausing, failures));
    }
    comes_up(&lane, &mut driver).await;
    assert_eq!(driver.backoff.failures(), 5, "to be up is not yet to be steady");
    driver.up_since = boottime() - STEADY;
    is_dropped(&mut driver, &ends).await;
    assert_eq!((lane.state(), driver.backoff.failures()), (State::Idle, 0));
}

#[tokio::test]
async fn a_node_that_is_left_is_waited_for_no_longer() {
    let (lane, mut driver, ends) = lane(Duration::from_secs(60));
    for _ in 0..3 {
        comes_up(&lane, &mut driver).await;
        is_dropped(&mut driver, &ends).await;
    }
    driver.backoff = Backoff::new(Duration::from_secs(3600), Duration::from_secs(3600), 7);
    comes_up(&lane, &mut driver).await;
    is_dropped(&mut driver, &ends).await;
    assert_eq!(lane.state(), State::Pausing);
    lane.leave();
    assert!(matches!(driver.next().await, Event::Rerouted));
    // The next attempt is another address's.
    assert_eq!((lane.state(), driver.backoff.failures()), (State::Idle, 0));
    comes_up(&lane, &mut driver).await;
    lane.leave();
    assert!(matches!(driver.next().await, Event::Lost(Loss::Left)));
    assert_eq!((lane.state(), driver.backoff.failures()), (State::Idle, 0));
}

/// A command that was turned away elsewhere stands behind those that have come here before it, and has waited for longer.
#[tokio::test]
async fn the_patience_of_who_has_been_elsewhere_ends_when_it_would_have_there() {
    let (lane, mut driver, _ends) = lane(Duration::from_secs(60));
    comes_up(&lane, &mut driver).await;
    let (now, patience) = (boottime(), 60_000_000_000);
    lane.add(0, now, b"PING", ());
    lane.add_again(4, now, now - patience, b"PING", ());
    let in_time = tokio::time::timeout(Duration::from_secs(30), driver.next()).await;
    assert!(matches!(in_time, Ok(Event::Overdue)));
    let late = Cell::new(0);
    assert!(!driver.overdue(boottime(), |()| late.set(late.get() + 1)));
    assert_eq!(late.get(), 1);
}

#[tokio::test]
async fn a_lane_is_not_silent_towards_who_has_waited_elsewhere() {
    let (lane, mut driver, _ends) = lane(Duration::from_secs(60));
    comes_up(&lane, &mut driver).await;
    let (begun, patience) = (boottime(), 60_000_000_000);
    // Nothing was read for so long because nothing was asked.
    let now = begun + 2 * patience;
    lane.add_again(0, now - 1, now - patience, b"PING", ());
    let late = Cell::new(0);
    assert!(!driver.overdue(now, |()| late.set(late.get() + 1)));
    assert_eq!(late.get(), 1);
    assert!(driver.overdue(now + patience, |()| ()), "now it is");
}

#[tokio::test]
async fn a_connection_closed_for_want_of_use_is_no_failure() {
    let (lane, mut driver, _ends) = lane(Duration::from_millis(1));
    for _ in 0..3 {
        comes_up(&lane, &mut driver).await;
        assert!(matches!(driver.next().await, Event::Lost(Loss::Idle)));
        assert_eq!((lane.state(), driver.backoff.failures()), (State::Idle, 0));
    }
}
