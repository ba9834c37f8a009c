//! The parts wired together, and taken apart in good order.
//!
//! Threads: one per worker, one that accepts clients and polls upstream in the background, one for the admin server.
//! *Invariant:* nothing here is global: two proxies may live in one process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::admin::scrape::Scraper;
use crate::admin::{Admin, Pages, Readiness, Ready, polls};
use crate::cache::Mode;
use crate::client::listener::{self, Doors, Inbox};
use crate::client::registry::Registry as Clients;
use crate::coherence::Shared;
use crate::command::Policy;
use crate::config::Config;
use crate::discovery;
use crate::dispatch::worker::{Message, Parts, Peers, Settings};
use crate::dispatch::{ClientLimits, Worker};
use crate::net::{Address, Listener};
use crate::telemetry::Registry;
use crate::upstream::cluster::Cluster;
use crate::upstream::config::ReadFrom;
use crate::upstream::control::Target;
use crate::upstream::identity::Credentials;
use crate::upstream::slots::AddressMap;
use crate::upstream::topology::{Sentinel, Topology};
use crate::upstream::url::{Place, UpstreamUrl, UrlError};

/// Between two publications of what is cheaper to look up than to count.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Longest time between two looks at the replicas that may be read from.
const REPLICAS_EVERY: Duration = Duration::from_millis(250);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// Where to listen cannot be understood.
    #[error("client.listen: \"{0}\" is neither host:port nor unix:/path")]
    Address(String),
    /// Where upstream is cannot be understood.
    #[error("upstream.url: {0}")]
    Url(#[from] UrlError),
    /// A thread or runtime could not be made.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running proxy.
pub struct Proxy {
    workers: Vec<(UnboundedSender<Message>, JoinHandle<()>)>,
    control: (oneshot::Sender<()>, JoinHandle<()>),
    admin: Option<(oneshot::Sender<()>, Admin)>,
    readiness: Arc<Readiness>,
    addresses: Vec<Address>,
}

// === impl Proxy ===

impl Proxy {
    /// Starts it: bound and serving when this returns, whether or not upstream is there.
    ///
    /// # Errors
    /// If an address cannot be bound, or the system gives no threads.
    pub fn start(config: Config, registry: Arc<Registry>) -> Result<Proxy, StartError> {
        let settings = Arc::new(settings(&config)?);
        let shared = Arc::new(Shared::default());
        // Until they have looked for the first time, the background polls know of no SWAPDB.
        shared.unwatched.store(settings.cache.mode != Mode::Off, Ordering::SeqCst);
        let readiness = Arc::new(Readiness::new());
        let clients = Arc::new(Clients::default());
        let loads: Arc<Vec<AtomicUsize>> = Arc::new((0..config.threads).map(|_| AtomicUsize::new(0)).collect());

        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listeners = {
            let _entered = runtime.enter();
            config.client.listen.iter().map(|text| bind(text)).collect::<Result<Vec<_>, _>>()?
        };
        let addresses = listeners.iter().filter_map(|listener| listener.local_address().ok()).collect();
        let admin = start_admin(&config, &settings, &registry, &readiness)?;

        let (doors, clients_in): (Vec<_>, Vec<_>) = (0..config.threads).map(|_| unbounded_channel()).unzip();
        let (senders, messages_in): (Vec<_>, Vec<_>) = (0..config.threads).map(|_| unbounded_channel()).unzip();
        let inboxes = clients_in.into_iter().zip(messages_in).map(|(clients, messages)| Inbox { clients, messages });
        let busy = senders.iter().map(|_| AtomicBool::new(false)).collect();
        let peers = Arc::new(Peers {
            senders: senders.clone(),
            busy,
            audience: Default::default(),
            pause: Default::default(),
            scripts: Default::default(),
        });
        let mut workers = Vec::new();
        for (index, (sender, inbox)) in senders.iter().zip(inboxes).enumerate() {
            let parts = Parts {
                index,
                settings: Arc::clone(&settings),
                cells: registry.cells(),
                shared: Arc::clone(&shared),
                peers: Arc::clone(&peers),
                policy: Policy::new(&config.client.allow, &config.client.refuse, &config.client.plain),
                registry: Arc::clone(&registry),
            };
            let (clients, loads) = (Arc::clone(&clients), Arc::clone(&loads));
            let drain_timeout = config.client.drain_timeout;
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            let thread = thread.spawn(move || run_worker(parts, inbox, clients, loads, drain_timeout))?;
            workers.push((sender.clone(), thread));
        }
        let doors = Arc::new(Doors {
            workers: doors,
            loads,
            registry: clients,
            max_clients: config.client.max_clients,
            cells: registry.cells(),
        });
        let control =
            start_control(runtime, listeners, doors, &settings, shared, Arc::clone(&readiness), senders, registry)?;
        Ok(Proxy { workers, control, admin, readiness, addresses })
    }

    /// Where clients connect.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the admin server listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(_, admin)| admin.address())
    }

    /// Stops accepting, finishes what is under way within the limit, ends.
    pub async fn drain(self) {
        self.readiness.set(Ready::Draining);
        // Whoever has ended already needs not be told.
        let _ = self.control.0.send(());
        for (sender, _) in &self.workers {
            let _ = sender.send(Message::Drain);
        }
        let workers = self.workers;
        let (control, admin) = (self.control.1, self.admin);
        let joined = tokio::task::spawn_blocking(move || {
            let _ = control.join();
            for (_, thread) in workers {
                let _ = thread.join();
            }
            if let Some((shutdown, admin)) = admin {
                let _ = shutdown.send(());
                admin.join();
            }
        });
        let _ = joined.await;
    }
}

fn settings(config: &Config) -> Result<Settings, StartError> {
    let url = UpstreamUrl::parse(&config.upstream.url)?;
    let topology = match url.place {
        Place::Standalone(address) => Topology::Standalone { address },
        Place::Sentinel { sentinels, service } => Topology::Sentinel(Arc::new(Sentinel::new(sentinels, service))),
        Place::Cluster { seeds } => Topology::Cluster(Arc::new(Cluster::new(seeds))),
    };
    Ok(Settings {
        client: ClientLimits {
            output_pause_bytes: config.client.output_pause_bytes,
            output_limit_bytes: config.client.output_limit_bytes,
            max_pipeline: config.client.max_pipeline,
            require_auth: config.client.require_auth,
            idle_timeout: config.client.idle_timeout,
        },
        cache: config.cache.clone(),
        credentials: Credentials::new(&config.upstream, &url.identity),
        upstream: config.upstream.clone(),
        db: url.db,
        held_max_bytes: config.upstream.held_max_bytes,
        topology,
        replicas: Default::default(),
        // Faults in it have been told with the configuration's others.
        address_map: AddressMap::parse(&config.upstream.address_map).unwrap_or_default(),
    })
}

fn bind(text: &str) -> Result<Listener, StartError> {
    let address = Address::parse(text).ok_or_else(|| StartError::Address(text.into()))?;
    Listener::bind(&address).map_err(|error| StartError::Listen { address: text.into(), error })
}

fn target(settings: &Settings) -> Option<Target> {
    target_at(settings, settings.topology.address(*settings.topology.nodes().first()?)?)
}

/// All masters of a cluster.
fn targets(settings: &Settings) -> Vec<Target> {
    let addresses = settings.topology.nodes().into_iter().filter_map(|node| settings.topology.address(node));
    addresses.filter_map(|address| target_at(settings, address)).collect()
}

fn target_at(settings: &Settings, address: Address) -> Option<Target> {
    let identity = settings.credentials.identity().ok()?;
    Some(Target {
        address,
        user: identity.user,
        password: identity.password.reveal().into(),
        password_file: settings.upstream.password_file.clone(),
    })
}

fn start_admin(
    config: &Config,
    settings: &Arc<Settings>,
    registry: &Arc<Registry>,
    readiness: &Arc<Readiness>,
) -> Result<Option<(oneshot::Sender<()>, Admin)>, StartError> {
    let asked = Arc::clone(settings);
    let scraper = Arc::new(Scraper::new(Arc::clone(registry), move || target(&asked)));
    let pages = Pages { registry: Arc::clone(registry), readiness: Arc::clone(readiness), scraper };
    let (shutdown, ended) = oneshot::channel::<()>();
    let until = async {
        // A dropped sender ends it as well.
        let _ = ended.await;
    };
    let admin = Admin::start(&config.admin, pages, until)
        .map_err(|error| StartError::Listen { address: config.admin.listen.clone().unwrap_or_default(), error })?;
    Ok(admin.map(|admin| (shutdown, admin)))
}

#[allow(clippy::too_many_arguments)]
/// The thread that accepts clients and polls upstream in the background.
fn start_control(
    runtime: tokio::runtime::Runtime,
    listeners: Vec<Listener>,
    doors: Arc<Doors>,
    settings: &Arc<Settings>,
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    workers: Vec<UnboundedSender<Message>>,
    registry: Arc<Registry>,
) -> Result<(oneshot::Sender<()>, JoinHandle<()>), StartError> {
    let (shutdown, ended) = oneshot::channel::<()>();
    let settings = Arc::clone(settings);
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(async move {
            for listener in listeners {
                tokio::spawn(listener::accept(listener, Arc::clone(&doors)));
            }
            discover(&settings, &shared, registry, workers);
            if settings.cache.mode != Mode::Off {
                let max_staleness = settings.cache.max_staleness;
                if settings.topology.cluster().is_some() {
                    tokio::spawn(polls::watch_cluster(move || targets(&settings), Arc::clone(&shared), max_staleness));
                } else {
                    tokio::spawn(polls::watch(move || target(&settings), Arc::clone(&shared), max_staleness));
                }
            }
            tokio::spawn(watch_reachable(shared, readiness));
            let _ = ended.await;
        });
    })?;
    Ok((shutdown, thread))
}

/// Follows the topology, where it may change.
fn discover(
    settings: &Arc<Settings>,
    shared: &Arc<Shared>,
    registry: Arc<Registry>,
    workers: Vec<UnboundedSender<Message>>,
) {
    let logs_in = Arc::clone(settings);
    let target: discovery::Login = Arc::new(move |address| target_at(&logs_in, address));
    let address_map = settings.address_map.clone();
    let parts = discovery::Parts { target, address_map, workers, cells: registry.cells() };
    let max_staleness = settings.cache.max_staleness;
    if settings.upstream.read_from != ReadFrom::Master {
        let period = (settings.upstream.replica_max_lag / 8).min(REPLICAS_EVERY);
        tokio::spawn(discovery::replicas::watch(parts.clone(), Arc::clone(settings), period));
    }
    match &settings.topology {
        Topology::Standalone { .. } => {}
        Topology::Cluster(cluster) => {
            tokio::spawn(discovery::cluster::watch(parts, Arc::clone(cluster), max_staleness));
        }
        Topology::Sentinel(sentinel) => {
            let upstream = settings.upstream.clone();
            let login: discovery::Login = Arc::new(move |address| Some(sentinel_target(&upstream, address)));
            let (sentinel, shared) = (Arc::clone(sentinel), Arc::clone(shared));
            let watch = discovery::sentinel::Watch { parts, sentinel, login, shared, registry, max_staleness };
            tokio::spawn(discovery::sentinel::follow(watch));
        }
    }
}

/// How to log in at a Sentinel.
fn sentinel_target(config: &crate::upstream::Config, address: Address) -> Target {
    Target {
        address,
        user: config.sentinel_user.clone(),
        password: config.sentinel_password.clone(),
        password_file: config.sentinel_password_file.clone(),
    }
}

async fn watch_reachable(shared: Arc<Shared>, readiness: Arc<Readiness>) {
    let mut reachable = shared.reachable.subscribe();
    // A worker may have been faster than this task: what it has said is news here.
    reachable.mark_changed();
    while reachable.changed().await.is_ok() {
        match *reachable.borrow_and_update() {
            Some(true) => readiness.set(Ready::Ready),
            Some(false) => readiness.set(Ready::Unreachable),
            None => {}
        }
    }
}

/// A worker's thread.
fn run_worker(
    parts: Parts,
    inbox: Inbox,
    clients: Arc<Clients>,
    loads: Arc<Vec<AtomicUsize>>,
    drain_timeout: Duration,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker cannot start"),
    };
    runtime.block_on(async move {
        let worker = Worker::new(parts);
        // Whether upstream is there is to be known before the first client asks.
        worker.main_lane().queue.want();
        let publisher = std::rc::Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            loop {
                publisher.publish();
                tokio::time::sleep(PUBLISH_EVERY).await;
            }
        });
        listener::serve(worker, inbox, clients, loads, drain_timeout).await;
    });
}
