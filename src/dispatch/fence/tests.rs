//! What a worker is owed by the others' fences, and what it does without.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::worker::{Parts, Peers, Settings};
use super::super::{ClientLimits, Worker};
use super::*;
use crate::command::policy::Policy;
use crate::dispatch::pubsub::audience::Audience;
use crate::net::Address;
use crate::telemetry::Registry;
use crate::upstream::Config;
use crate::upstream::identity::Credentials;
use crate::upstream::slots::AddressMap;
use crate::upstream::topology::Topology;

/// The first of three workers, of which the third has nothing that news could overtake; and what those are told.
fn first_of_three(command_timeout: Duration) -> (Rc<Worker>, [UnboundedReceiver<Message>; 3]) {
    let upstream = Config { command_timeout, ..Config::default() };
    let address = Address::Tcp { host: "127.0.0.1".into(), port: 1 };
    let settings = Settings {
        client: ClientLimits {
            output_pause_bytes: 1,
            output_limit_bytes: 1,
            max_pipeline: 1,
            require_auth: false,
            idle_timeout: Duration::ZERO,
        },
        cache: crate::cache::Config::default(),
        credentials: Credentials::new(&upstream, &crate::upstream::identity::Identity::default()),
        upstream,
        topology: Topology::Standalone { address },
        address_map: AddressMap::default(),
        replicas: Default::default(),
        db: 0,
        held_max_bytes: 1,
    };
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| unbounded_channel()).unzip();
    let registry = Arc::new(Registry::new());
    let parts = Parts {
        index: 0,
        settings: Arc::new(settings),
        cells: registry.cells(),
        shared: Arc::default(),
        peers: Arc::new(Peers {
            senders,
            busy: [true, true, false].map(AtomicBool::new).into(),
            audience: Audience::default(),
            pause: Default::default(),
            scripts: Default::default(),
        }),
        policy: Policy::new(&[], &[], &[]),
        registry,
    };
    (Worker::new(parts), inboxes.try_into().expect("three"))
}

/// Something held for the others' fences.
fn held(worker: &Worker) -> Rc<Hold> {
    let hold = Hold::new();
    worker.fence_lanes(&hold, None);
    worker.release(&hold);
    hold
}

fn asked(inbox: &mut UnboundedReceiver<Message>) -> Option<u64> {
    match inbox.try_recv() {
        Ok(Message::Fence { from: 0, id, all: false }) => Some(id),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_held_for_other_workers_ends_with_their_answers() {
    let (worker, [mut own, mut busy, mut quiet]) = first_of_three(Duration::from_secs(60));
    let hold = held(&worker);
    let id = asked(&mut busy).expect("the busy one is asked");
    assert!(asked(&mut own).is_none() && asked(&mut quiet).is_none() && asked(&mut busy).is_none());
    worker.publish();
    assert_eq!(hold.pending.get(), 1, "there is time left");
    worker.fenced_by(id);
    assert_eq!(hold.pending.get(), 0);
    hold.returned().await;
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_waited_for_no_longer_than_two_command_timeouts() {
    let (worker, [_own, mut busy, _quiet]) = first_of_three(Duration::ZERO);
    let hold = held(&worker);
    let late = asked(&mut busy).expect("the busy one is asked");
    assert_eq!(hold.pending.get(), 1);
    // The worker's publisher does so all the while.
    while boottime() <= hold.begun {}
    worker.publish();
    assert_eq!(hold.pending.get(), 0);
    hold.returned().await;
    assert!(worker.remote.borrow().is_empty());
    // A late answer ends nothing else.
    let next = held(&worker);
    worker.fenced_by(late);
    assert_eq!(next.pending.get(), 1);
}

#[tokio::test]
async fn a_worker_that_has_ended_is_not_waited_for() {
    let (worker, [_own, busy, _quiet]) = first_of_three(Duration::from_secs(60));
    drop(busy);
    assert_eq!(held(&worker).pending.get(), 0);
    assert!(worker.remote.borrow().is_empty());
}
