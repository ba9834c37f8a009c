//! Accepts clients and hands them to the least loaded worker; and a worker's side of that.
//!
//! *Invariant:* a failing accept(2) (file descriptors exhausted) backs off and goes on; it neither spins nor ends.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::connection::Connection;
use super::registry::{Place, Registry};
use crate::dispatch::worker::Message;
use crate::dispatch::{Session, Worker};
use crate::error::Error;
use crate::net::{Accepted, Listener};
use crate::telemetry::Cells;
use crate::telemetry::metrics::Counter;

/// First and longest pause after a failed accept(2).
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Through it a worker gets its clients.
pub type Door = UnboundedSender<(Accepted, Place)>;

/// Where accepted clients go.
pub struct Doors {
    /// The workers, by index.
    pub workers: Vec<Door>,
    /// Clients of each.
    pub loads: Arc<Vec<AtomicUsize>>,
    /// All clients.
    pub registry: Arc<Registry>,
    /// Most clients at once.
    pub max_clients: usize,
    /// What the acceptor counts.
    pub cells: Arc<Cells>,
}

/// Accepts until the task is dropped.
pub async fn accept(listener: Listener, doors: Arc<Doors>) {
    let mut pause = PAUSE.0;
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                pause = PAUSE.0;
                doors.admit(accepted);
            }
            Err(error) => {
                doors.cells.add(Counter::AcceptErrors, 1);
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept a client");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

// === impl Doors ===

impl Doors {
    fn admit(&self, accepted: Accepted) {
        let (address, local_address) = addresses(&accepted);
        let Some(place) = self.registry.admit(address, local_address, self.max_clients) else {
            self.cells.add(Counter::ClientsRejected, 1);
            return reject(accepted);
        };
        self.cells.add(Counter::ClientsAccepted, 1);
        let least = self.loads.iter().enumerate().min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        let index = least.map_or(0, |(index, _)| index);
        if let (Some(worker), Some(load)) = (self.workers.get(index), self.loads.get(index)) {
            load.fetch_add(1, Ordering::Relaxed);
            // A worker that has ended takes nobody: the socket is closed by dropping it.
            let _ = worker.send((accepted, place));
        }
    }
}

fn addresses(accepted: &Accepted) -> (String, String) {
    match accepted {
        Accepted::Tcp(socket, peer) => {
            (peer.to_string(), socket.local_addr().map(|address| address.to_string()).unwrap_or_default())
        }
        Accepted::Unix(socket) => {
            let path =
                socket.local_addr().ok().and_then(|address| address.as_pathname().map(|p| p.display().to_string()));
            let address = format!("{}:0", path.unwrap_or_default());
            (address.clone(), address)
        }
    }
}

/// Says why, as Redis does; a socket that does not take it at once is closed without.
fn reject(accepted: Accepted) {
    let reply = Error::MaxClients.reply();
    let _ = match accepted {
        Accepted::Tcp(mut socket, _) => socket.write(&reply),
        Accepted::Unix(mut socket) => socket.write(&reply),
    };
}

/// How a worker is reached.
pub struct Inbox {
    /// Its clients.
    pub clients: UnboundedReceiver<(Accepted, Place)>,
    /// Its peers and the process.
    pub messages: UnboundedReceiver<Message>,
}

/// A worker's clients.
#[derive(Default)]
struct Guests {
    /// How many there are.
    count: Cell<usize>,
    /// Those to wake when the process drains.
    sessions: RefCell<Vec<Weak<Session>>>,
    /// Rings when the last one has gone.
    gone: Notify,
}

/// A worker's life: takes clients and its peers' messages until it has drained.
pub async fn serve(
    worker: Rc<Worker>,
    mut inbox: Inbox,
    registry: Arc<Registry>,
    loads: Arc<Vec<AtomicUsize>>,
    drain_timeout: Duration,
) {
    let guests = Rc::new(Guests::default());
    loop {
        tokio::select! {
            Some((accepted, place)) = inbox.clients.recv() => {
                let (worker, registry, loads) = (Rc::clone(&worker), Arc::clone(&registry), Arc::clone(&loads));
                let guests = Rc::clone(&guests);
                guests.count.set(guests.count.get() + 1);
                tokio::task::spawn_local(async move {
                    let index = worker.index;
                    if let Some(connection) = connection(&worker, accepted, &registry, &place) {
                        guests.remember(connection.session());
                        connection.serve(place).await;
                    }
                    guests.one_has_gone();
                    loads.get(index).into_iter().for_each(|load| {
                        load.fetch_sub(1, Ordering::Relaxed);
                    });
                });
            }
            message = inbox.messages.recv() => match message {
                Some(Message::Drain) | None => break,
                Some(message) => told(&worker, &message),
            },
        }
    }
    worker.draining.set(true);
    guests.sessions.borrow().iter().filter_map(Weak::upgrade).for_each(|session| session.wake());
    // Peers' fences are still served.
    let drained = async {
        while guests.count.get() > 0 {
            tokio::select! {
                () = guests.gone.notified() => {}
                Some(message) = inbox.messages.recv() => told(&worker, &message),
            }
        }
    };
    let _ = tokio::time::timeout(drain_timeout, drained).await;
}

fn told(worker: &Worker, message: &Message) {
    worker.begin_batch();
    match *message {
        Message::Fence { from, id, all } => worker.fence_for(from, id, all),
        Message::Fenced { id } => worker.fenced_by(id),
        Message::Topology => worker.topology_changed(),
        Message::Slots => worker.slots_changed(),
        Message::Drain => {}
    }
    worker.flush();
}

// === impl Guests ===

impl Guests {
    /// Keeps track of a session for the drain, forgetting those that have gone now and then.
    fn remember(&self, session: &Rc<Session>) {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() == sessions.capacity() {
            sessions.retain(|session| session.strong_count() > 0);
        }
        sessions.push(Rc::downgrade(session));
    }

    fn one_has_gone(&self) {
        self.count.set(self.count.get() - 1);
        if self.count.get() == 0 {
            self.gone.notify_one();
        }
    }
}

fn connection(worker: &Rc<Worker>, accepted: Accepted, registry: &Arc<Registry>, place: &Place) -> Option<Connection> {
    let (read, write) = accepted.into_stream().ok()?.into_split();
    let settings = &worker.settings;
    let lane = worker.main_lane();
    let session = Session::new(Arc::clone(&place.card), write, lane, !settings.client.require_auth);
    Some(Connection::new(Rc::clone(worker), session, Arc::clone(registry), read))
}
