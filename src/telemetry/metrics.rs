//! The metrics, declared once as data: families (name, kind, unit, help, labels) and the series
//! that each enum names.
//!
//! Invariant: every series belongs to a family of its kind and carries exactly that family's
//! labels; names follow Prometheus (`_total`, base units). Not here: the values (`cells`), their
//! sums and their rendering (`registry`).

use super::labels::{Bypass, Class, EpochBump, ErrorKind, FillRefused, LaneState, Outcome, Pool};

/// How a family's values behave, and how the workers' values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the workers' values are added.
    Counter,
    /// Goes up and down; the workers' values are added.
    Gauge,
    /// A state that the workers share; the largest of their values stands for all.
    Highest,
    /// Counts by bucket of seconds; the workers' counts are added.
    Histogram,
}

/// What a family's values count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// One metric as operators know it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name in `/metrics`.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What its values count.
    pub unit: Unit,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence for operators.
    pub help: &'static str,
}

/// One line of a family: its name and the values of its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Series {
    /// The family's name.
    pub family: &'static str,
    /// Names and values of its labels, in the family's order.
    pub labels: &'static [(&'static str, &'static str)],
}

/// Commands by class and outcome.
pub const COMMANDS: &str = "sidecache_commands_total";
/// Cacheable reads not answered from the cache, by reason.
pub const BYPASS: &str = "sidecache_cache_bypass_total";
/// Replies not put in, by reason.
pub const FILLS_REFUSED: &str = "sidecache_cache_fills_refused_total";
/// Errors of our own, by kind.
pub const ERRORS: &str = "sidecache_errors_total";
/// The build, as a label.
pub const BUILD_INFO: &str = "sidecache_build_info";
/// Upstream's version, as a label.
pub const UPSTREAM_INFO: &str = "sidecache_upstream_info";

/// Declares an enum whose variants are series: its `ALL` and `series` come from one list.
macro_rules! series {
    ($(#[$doc:meta])* $name:ident {
        $($variant:ident = $family:literal $({ $label:ident = $value:literal })?,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = concat!("`", $family, $("{", stringify!($label), "=\"", $value, "\"}",)? "`")] $variant,)+
        }

        impl $name {
            /// Every variant, in order of declaration: a variant's number is its place here.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The line of `/metrics` that shows it.
            pub const fn series(self) -> Series {
                match self {
                    $($name::$variant => Series {
                        family: $family,
                        labels: &[$((stringify!($label), $value))?],
                    },)+
                }
            }
        }
    };
}

series! {
    /// Counters without labels, or with fixed ones.
    Counter {
        ClientBytesIn = "sidecache_client_bytes_total" { direction = "in" },
        ClientBytesOut = "sidecache_client_bytes_total" { direction = "out" },
        UpstreamBytesIn = "sidecache_upstream_bytes_total" { direction = "in" },
        UpstreamBytesOut = "sidecache_upstream_bytes_total" { direction = "out" },
        ClientsAccepted = "sidecache_clients_accepted_total",
        ClientsRejected = "sidecache_clients_rejected_total",
        ClientsClosedOutputLimit = "sidecache_clients_closed_total" { reason = "output_limit" },
        ClientsClosedIdle = "sidecache_clients_closed_total" { reason = "idle" },
        AcceptErrors = "sidecache_accept_errors_total",
        Fills = "sidecache_cache_fills_total",
        Evictions = "sidecache_cache_evictions_total",
        InvalidationPushes = "sidecache_invalidation_pushes_total",
        InvalidatedKeys = "sidecache_invalidated_keys_total",
        NullPushes = "sidecache_null_pushes_total",
        GenerationBumps = "sidecache_generation_bumps_total",
        EpochBumpsLaneLost = "sidecache_epoch_bumps_total" { reason = "lane_lost" },
        EpochBumpsNullPush = "sidecache_epoch_bumps_total" { reason = "null_push" },
        EpochBumpsFence = "sidecache_epoch_bumps_total" { reason = "fence" },
        EpochBumpsDenied = "sidecache_epoch_bumps_total" { reason = "denied" },
        EpochBumpsSweep = "sidecache_epoch_bumps_total" { reason = "sweep" },
        EpochBumpsReplicaFit = "sidecache_epoch_bumps_total" { reason = "replica_fit" },
        LaneConnects = "sidecache_lane_connects_total",
        LaneLosses = "sidecache_lane_losses_total",
        LanesClosedSilent = "sidecache_lanes_closed_silent_total",
        ReconnectAttempts = "sidecache_reconnect_attempts_total",
        Heartbeats = "sidecache_heartbeats_total",
        FencesSent = "sidecache_fences_sent_total",
        FencesTimedOut = "sidecache_fences_timed_out_total",
        Retries = "sidecache_retries_total",
        ParkedReads = "sidecache_parked_reads_total",
        ParkedReadsRefetched = "sidecache_parked_reads_refetched_total",
        MovedRedirects = "sidecache_redirects_total" { kind = "moved" },
        AskRedirects = "sidecache_redirects_total" { kind = "ask" },
        TriedAgain = "sidecache_redirects_total" { kind = "try_again" },
        MapRefreshes = "sidecache_slot_map_refreshes_total",
        TopologyChanges = "sidecache_topology_changes_total",
        Tombstones = "sidecache_tombstones_total",
        LateReplies = "sidecache_late_replies_total",
        AuditChecks = "sidecache_audit_checks_total",
        AuditExplained = "sidecache_audit_differences_explained_total",
        AuditViolations = "sidecache_audit_violations_total",
        Messages = "sidecache_messages_total",
        PoolTimeoutsTransaction = "sidecache_pool_timeouts_total" { pool = "transaction" },
        PoolTimeoutsWaiting = "sidecache_pool_timeouts_total" { pool = "waiting" },
        PoolTimeoutsControl = "sidecache_pool_timeouts_total" { pool = "control" },
        PoolCreatedTransaction = "sidecache_pool_connections_created_total" { pool = "transaction" },
        PoolCreatedWaiting = "sidecache_pool_connections_created_total" { pool = "waiting" },
        PoolCreatedControl = "sidecache_pool_connections_created_total" { pool = "control" },
    }
}

series! {
    /// Gauges that the workers keep.
    Gauge {
        Clients = "sidecache_clients",
        ClientsPaused = "sidecache_clients_paused",
        LanesConnecting = "sidecache_lanes" { state = "connecting" },
        LanesTracking = "sidecache_lanes" { state = "tracking" },
        LanesUntracked = "sidecache_lanes" { state = "untracked" },
        LanesBackoff = "sidecache_lanes" { state = "backoff" },
        LanesLeased = "sidecache_lanes_leased",
        Sentinels = "sidecache_sentinels",
        LaneFifoDepth = "sidecache_lane_fifo_commands",
        LaneOutputBytes = "sidecache_lane_output_bytes",
        ParkedReadsNow = "sidecache_parked_reads",
        HeldReplies = "sidecache_held_replies",
        HeldBytes = "sidecache_held_bytes",
        Flights = "sidecache_flights",
        Entries = "sidecache_cache_entries",
        CacheBytes = "sidecache_cache_bytes",
        PoolInUseTransaction = "sidecache_pool_in_use" { pool = "transaction" },
        PoolInUseWaiting = "sidecache_pool_in_use" { pool = "waiting" },
        PoolInUseControl = "sidecache_pool_in_use" { pool = "control" },
        PoolIdleTransaction = "sidecache_pool_idle" { pool = "transaction" },
        PoolIdleWaiting = "sidecache_pool_idle" { pool = "waiting" },
        PoolIdleControl = "sidecache_pool_idle" { pool = "control" },
        PoolWaitingTransaction = "sidecache_pool_waiting" { pool = "transaction" },
        PoolWaitingWaiting = "sidecache_pool_waiting" { pool = "waiting" },
        PoolWaitingControl = "sidecache_pool_waiting" { pool = "control" },
        Subscriptions = "sidecache_subscriptions" { side = "client" },
        SubscriptionsUpstream = "sidecache_subscriptions" { side = "upstream" },
        NodeEpoch = "sidecache_node_epoch",
        Masters = "sidecache_nodes" { role = "master" },
        Replicas = "sidecache_nodes" { role = "replica" },
        SlotsUnowned = "sidecache_slots_unowned",
        ModeTracking = "sidecache_cache_mode" { mode = "tracking" },
        ModeTtl = "sidecache_cache_mode" { mode = "ttl" },
        ModeOff = "sidecache_cache_mode" { mode = "off" },
        AuditBypass = "sidecache_audit_bypass",
    }
}

series! {
    /// Histograms of durations, in our own buckets.
    Histogram {
        HitLatency = "sidecache_hit_latency_seconds",
        UpstreamLatency = "sidecache_upstream_latency_seconds",
        HeldReply = "sidecache_held_reply_seconds",
        PoolWait = "sidecache_pool_wait_seconds",
        Staleness = "sidecache_staleness_seconds",
    }
}

series! {
    /// What upstream's INFO told last. Gauges all: upstream's own counters fall when it restarts.
    Upstream {
        Up = "sidecache_upstream_up",
        MemoryUsed = "sidecache_upstream_memory_used_bytes",
        MemoryMax = "sidecache_upstream_memory_max_bytes",
        Clients = "sidecache_upstream_clients",
        TrackingClients = "sidecache_upstream_tracking_clients",
        TrackedKeys = "sidecache_upstream_tracked_keys",
        BlockedClients = "sidecache_upstream_blocked_clients",
        OpsPerSecond = "sidecache_upstream_ops_per_second",
        KeyspaceHits = "sidecache_upstream_keyspace_hits",
        KeyspaceMisses = "sidecache_upstream_keyspace_misses",
        ExpiredKeys = "sidecache_upstream_expired_keys",
        EvictedKeys = "sidecache_upstream_evicted_keys",
        Keys = "sidecache_upstream_keys",
        Replicas = "sidecache_upstream_replicas",
        RoleMaster = "sidecache_upstream_role" { role = "master" },
        RoleReplica = "sidecache_upstream_role" { role = "replica" },
        Loading = "sidecache_upstream_loading",
        Uptime = "sidecache_upstream_uptime_seconds",
    }
}

const fn family(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { name, kind, unit, labels, help }
}

/// Every metric but those of the process itself, in the order of a command's way.
#[rustfmt::skip]
pub const FAMILIES: &[Family] = &[
    family(COMMANDS, Kind::Counter, Unit::Count, &["class", "outcome"], "Commands of clients, by what kind they are and what became of them."),
    family(BYPASS, Kind::Counter, Unit::Count, &["reason"], "Cacheable reads neither answered from the cache nor fetched for it."),
    family(ERRORS, Kind::Counter, Unit::Count, &["kind"], "Errors that sidecache itself answered with, by what stands behind them."),
    family("sidecache_hit_latency_seconds", Kind::Histogram, Unit::Seconds, &[], "Time from a command's arrival to its reply in the client's output buffer, hits only."),

    family("sidecache_clients", Kind::Gauge, Unit::Count, &[], "Clients connected."),
    family("sidecache_clients_paused", Kind::Gauge, Unit::Count, &[], "Clients whose commands are not taken because they do not read their replies."),
    family("sidecache_clients_accepted_total", Kind::Counter, Unit::Count, &[], "Clients accepted."),
    family("sidecache_clients_rejected_total", Kind::Counter, Unit::Count, &[], "Clients turned away because of max_clients."),
    family("sidecache_clients_closed_total", Kind::Counter, Unit::Count, &["reason"], "Clients closed by sidecache, by reason."),
    family("sidecache_accept_errors_total", Kind::Counter, Unit::Count, &[], "Failures to accept a client, such as too many open files."),
    family("sidecache_client_bytes_total", Kind::Counter, Unit::Bytes, &["direction"], "Bytes read from clients (in) and written to them (out)."),

    family("sidecache_cache_mode", Kind::Highest, Unit::Count, &["mode"], "1 for the mode in which the cache is kept right; ttl where upstream cannot track."),
    family("sidecache_cache_entries", Kind::Gauge, Unit::Count, &[], "Replies in the cache."),
    family("sidecache_cache_bytes", Kind::Gauge, Unit::Bytes, &[], "Memory that the cache's entries weigh, keys and overhead included."),
    family("sidecache_cache_fills_total", Kind::Counter, Unit::Count, &[], "Replies put into the cache."),
    family(FILLS_REFUSED, Kind::Counter, Unit::Count, &["reason"], "Fetched replies not put into the cache, by reason."),
    family("sidecache_cache_evictions_total", Kind::Counter, Unit::Count, &[], "Entries that had to leave for others."),
    family("sidecache_flights", Kind::Gauge, Unit::Count, &[], "Fetches in the air that further readers may join."),
    family("sidecache_staleness_seconds", Kind::Histogram, Unit::Seconds, &[], "Age of the lane's last sign of life at each hit: an upper bound of how stale the hit can be."),
    family("sidecache_parked_reads", Kind::Gauge, Unit::Count, &[], "Reads that wait for their turn behind their client's earlier commands."),
    family("sidecache_parked_reads_total", Kind::Counter, Unit::Count, &[], "Reads that had to wait for their turn."),
    family("sidecache_parked_reads_refetched_total", Kind::Counter, Unit::Count, &[], "Reads sent again because a parked read before them had lost its entry."),

    family("sidecache_invalidation_pushes_total", Kind::Counter, Unit::Count, &[], "Invalidation messages from upstream."),
    family("sidecache_invalidated_keys_total", Kind::Counter, Unit::Count, &[], "Keys named by invalidation messages."),
    family("sidecache_null_pushes_total", Kind::Counter, Unit::Count, &[], "Invalidation messages that named no key: everything is invalid."),
    family("sidecache_generation_bumps_total", Kind::Counter, Unit::Count, &[], "Generations moved by writes through this sidecar."),
    family("sidecache_epoch_bumps_total", Kind::Counter, Unit::Count, &["reason"], "Times that everything filled through a lane or from a node was dropped, by reason."),
    family("sidecache_nodes", Kind::Highest, Unit::Count, &["role"], "Nodes of upstream that are known: masters (in a cluster, those that own slots) and, in a cluster, their replicas."),
    family("sidecache_slots_unowned", Kind::Highest, Unit::Count, &[], "Slots of a cluster that nobody is known to own."),
    family("sidecache_node_epoch", Kind::Highest, Unit::Count, &[], "The node's epoch; it moves when every entry of the node is dropped."),

    family("sidecache_lanes", Kind::Gauge, Unit::Count, &["state"], "Lanes (shared connections to upstream) by state."),
    family("sidecache_lanes_leased", Kind::Gauge, Unit::Count, &[], "Lanes whose lease holds: their entries may be served."),
    family("sidecache_lane_fifo_commands", Kind::Gauge, Unit::Count, &[], "Commands whose replies the lanes owe."),
    family("sidecache_lane_output_bytes", Kind::Gauge, Unit::Bytes, &[], "Bytes that wait to be written to the lanes."),
    family("sidecache_lane_connects_total", Kind::Counter, Unit::Count, &[], "Lanes opened, handshake included."),
    family("sidecache_lane_losses_total", Kind::Counter, Unit::Count, &[], "Lanes lost, for whatever reason but idleness."),
    family("sidecache_lanes_closed_silent_total", Kind::Counter, Unit::Count, &[], "Lanes closed because they owed replies and were silent for command_timeout."),
    family("sidecache_reconnect_attempts_total", Kind::Counter, Unit::Count, &[], "Attempts to open a lane again."),
    family("sidecache_heartbeats_total", Kind::Counter, Unit::Count, &[], "Commands sent only to keep a lease."),
    family("sidecache_upstream_latency_seconds", Kind::Histogram, Unit::Seconds, &[], "Time from taking a command for a lane to its reply."),
    family("sidecache_upstream_bytes_total", Kind::Counter, Unit::Bytes, &["direction"], "Bytes read from upstream (in) and written to it (out)."),
    family("sidecache_retries_total", Kind::Counter, Unit::Count, &[], "Commands sent again: not sent before, or read-only."),
    family("sidecache_redirects_total", Kind::Counter, Unit::Count, &["kind"], "Commands that a node has turned away: sent on (moved, ask) or tried again (try_again: it cannot serve them yet)."),
    family("sidecache_slot_map_refreshes_total", Kind::Counter, Unit::Count, &[], "Slot maps that nodes of the cluster have told."),
    family("sidecache_sentinels", Kind::Gauge, Unit::Count, &[], "Sentinels that answer; the master is taken from the newest word of any of them."),
    family("sidecache_topology_changes_total", Kind::Counter, Unit::Count, &[], "Times that nodes or slots' owners were found to have changed."),
    family("sidecache_tombstones_total", Kind::Counter, Unit::Count, &[], "Commands given up whose place in a lane's order had to stay."),
    family("sidecache_late_replies_total", Kind::Counter, Unit::Count, &[], "Replies swallowed because nobody waited for them any more."),

    family("sidecache_fences_sent_total", Kind::Counter, Unit::Count, &[], "Fences sent, each proof that a lane has read all earlier invalidations."),
    family("sidecache_fences_timed_out_total", Kind::Counter, Unit::Count, &[], "Fences unanswered within command_timeout."),
    family("sidecache_held_replies", Kind::Gauge, Unit::Count, &[], "Replies of dedicated connections that wait for fences."),
    family("sidecache_held_bytes", Kind::Gauge, Unit::Bytes, &[], "Bytes of the replies that wait for fences."),
    family("sidecache_held_reply_seconds", Kind::Histogram, Unit::Seconds, &[], "How long replies of dedicated connections waited for fences."),

    family("sidecache_subscriptions", Kind::Highest, Unit::Count, &["side"], "Subscriptions of clients, and those that they share at upstream."),
    family("sidecache_messages_total", Kind::Counter, Unit::Count, &[], "Messages passed on to subscribers, one for each that gets it."),
    family("sidecache_pool_in_use", Kind::Gauge, Unit::Count, &["pool"], "Dedicated connections that serve a client."),
    family("sidecache_pool_idle", Kind::Gauge, Unit::Count, &["pool"], "Dedicated connections that wait for a client."),
    family("sidecache_pool_waiting", Kind::Gauge, Unit::Count, &["pool"], "Clients that wait for a dedicated connection."),
    family("sidecache_pool_connections_created_total", Kind::Counter, Unit::Count, &["pool"], "Dedicated connections opened."),
    family("sidecache_pool_timeouts_total", Kind::Counter, Unit::Count, &["pool"], "Clients that got no dedicated connection within wait_timeout."),
    family("sidecache_pool_wait_seconds", Kind::Histogram, Unit::Seconds, &[], "How long clients waited for a dedicated connection."),

    family("sidecache_audit_checks_total", Kind::Counter, Unit::Count, &[], "Hits compared with upstream."),
    family("sidecache_audit_differences_explained_total", Kind::Counter, Unit::Count, &[], "Compared hits that differed because the key had just changed, as an invalidation then proved."),
    family("sidecache_audit_violations_total", Kind::Counter, Unit::Count, &[], "Compared hits that were wrong. Anything but 0 is a bug: please report it."),
    family("sidecache_audit_bypass", Kind::Highest, Unit::Count, &[], "1 while the cache is bypassed because of an audit violation."),

    family(BUILD_INFO, Kind::Highest, Unit::Count, &["version"], "1, with the version of sidecache."),
    family(UPSTREAM_INFO, Kind::Highest, Unit::Count, &["version", "server"], "1, with the version and name of upstream's server, as its INFO told last."),
    family("sidecache_upstream_up", Kind::Highest, Unit::Count, &[], "1 if upstream answered the last INFO."),
    family("sidecache_upstream_role", Kind::Highest, Unit::Count, &["role"], "1 for upstream's role."),
    family("sidecache_upstream_loading", Kind::Highest, Unit::Count, &[], "1 while upstream loads its data set."),
    family("sidecache_upstream_uptime_seconds", Kind::Highest, Unit::Seconds, &[], "Upstream's uptime."),
    family("sidecache_upstream_memory_used_bytes", Kind::Highest, Unit::Bytes, &[], "Upstream's used_memory."),
    family("sidecache_upstream_memory_max_bytes", Kind::Highest, Unit::Bytes, &[], "Upstream's maxmemory; 0: no limit."),
    family("sidecache_upstream_clients", Kind::Highest, Unit::Count, &[], "Upstream's connected_clients."),
    family("sidecache_upstream_tracking_clients", Kind::Highest, Unit::Count, &[], "Upstream's tracking_clients."),
    family("sidecache_upstream_tracked_keys", Kind::Highest, Unit::Count, &[], "Upstream's tracking_total_keys; beyond tracking-table-max-keys upstream invalidates at random."),
    family("sidecache_upstream_blocked_clients", Kind::Highest, Unit::Count, &[], "Upstream's blocked_clients."),
    family("sidecache_upstream_ops_per_second", Kind::Highest, Unit::Count, &[], "Upstream's instantaneous_ops_per_sec."),
    family("sidecache_upstream_keyspace_hits", Kind::Highest, Unit::Count, &[], "Upstream's keyspace_hits since its start."),
    family("sidecache_upstream_keyspace_misses", Kind::Highest, Unit::Count, &[], "Upstream's keyspace_misses since its start."),
    family("sidecache_upstream_expired_keys", Kind::Highest, Unit::Count, &[], "Upstream's expired_keys since its start."),
    family("sidecache_upstream_evicted_keys", Kind::Highest, Unit::Count, &[], "Upstream's evicted_keys since its start."),
    family("sidecache_upstream_keys", Kind::Highest, Unit::Count, &[], "Keys in all of upstream's databases."),
    family("sidecache_upstream_replicas", Kind::Highest, Unit::Count, &[], "Upstream's connected_slaves."),
];

// === impl Family ===

impl Family {
    /// The values that `label` of this family takes, if they are known beforehand.
    pub fn values(&self, label: &str) -> Vec<&'static str> {
        match (self.name, label) {
            (COMMANDS, "class") => Class::ALL.iter().map(|v| v.label()).collect(),
            (COMMANDS, "outcome") => Outcome::ALL.iter().map(|v| v.label()).collect(),
            (BYPASS, "reason") => Bypass::ALL.iter().map(|v| v.label()).collect(),
            (FILLS_REFUSED, "reason") => FillRefused::ALL.iter().map(|v| v.label()).collect(),
            (ERRORS, "kind") => ErrorKind::ALL.iter().map(|v| v.label()).collect(),
            _ => fixed_series()
                .filter(|series| series.family == self.name)
                .flat_map(|series| series.labels)
                .filter(|(name, _)| *name == label)
                .map(|(_, value)| *value)
                .collect(),
        }
    }
}

// === impl Counter, Gauge: by a label of their own ===

impl Counter {
    /// `sidecache_epoch_bumps_total` by reason.
    pub const fn epoch_bumps(reason: EpochBump) -> Counter {
        match reason {
            EpochBump::LaneLost => Counter::EpochBumpsLaneLost,
            EpochBump::NullPush => Counter::EpochBumpsNullPush,
            EpochBump::Fence => Counter::EpochBumpsFence,
            EpochBump::Denied => Counter::EpochBumpsDenied,
            EpochBump::Sweep => Counter::EpochBumpsSweep,
            EpochBump::ReplicaFit => Counter::EpochBumpsReplicaFit,
        }
    }

    /// `sidecache_pool_timeouts_total` by pool.
    pub const fn pool_timeouts(pool: Pool) -> Counter {
        match pool {
            Pool::Transaction => Counter::PoolTimeoutsTransaction,
            Pool::Waiting => Counter::PoolTimeoutsWaiting,
            Pool::Control => Counter::PoolTimeoutsControl,
        }
    }

    /// `sidecache_pool_connections_created_total` by pool.
    pub const fn pool_created(pool: Pool) -> Counter {
        match pool {
            Pool::Transaction => Counter::PoolCreatedTransaction,
            Pool::Waiting => Counter::PoolCreatedWaiting,
            Pool::Control => Counter::PoolCreatedControl,
        }
    }
}

impl Gauge {
    /// `sidecache_lanes` by state.
    pub const fn lanes(state: LaneState) -> Gauge {
        match state {
            LaneState::Connecting => Gauge::LanesConnecting,
            LaneState::Tracking => Gauge::LanesTracking,
            LaneState::Untracked => Gauge::LanesUntracked,
            LaneState::Backoff => Gauge::LanesBackoff,
        }
    }

    /// `sidecache_pool_in_use` by pool.
    pub const fn pool_in_use(pool: Pool) -> Gauge {
        match pool {
            Pool::Transaction => Gauge::PoolInUseTransaction,
            Pool::Waiting => Gauge::PoolInUseWaiting,
            Pool::Control => Gauge::PoolInUseControl,
        }
    }

    /// `sidecache_pool_idle` by pool.
    pub const fn pool_idle(pool: Pool) -> Gauge {
        match pool {
            Pool::Transaction => Gauge::PoolIdleTransaction,
            Pool::Waiting => Gauge::PoolIdleWaiting,
            Pool::Control => Gauge::PoolIdleControl,
        }
    }

    /// `sidecache_pool_waiting` by pool.
    pub const fn pool_waiting(pool: Pool) -> Gauge {
        match pool {
            Pool::Transaction => Gauge::PoolWaitingTransaction,
            Pool::Waiting => Gauge::PoolWaitingWaiting,
            Pool::Control => Gauge::PoolWaitingControl,
        }
    }
}

/// The family named `name`.
pub fn family_of(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

/// Every series that is named by a variant of an enum above.
fn fixed_series() -> impl Iterator<Item = Series> {
    let counters = Counter::ALL.iter().map(|v| v.series());
    let gauges = Gauge::ALL.iter().map(|v| v.series());
    let histograms = Histogram::ALL.iter().map(|v| v.series());
    let upstream = Upstream::ALL.iter().map(|v| v.series());
    counters.chain(gauges).chain(histograms).chain(upstream)
}

#[cfg(test)]
mod tests;
