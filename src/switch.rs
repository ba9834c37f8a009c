//! The rules that the promises rest on, by name, each with a switch that turns it off in test builds.
//!
//! A promise is only tried by a test that goes red when the rule behind it is missing. `scripts/mutants.py` builds with
//! the feature `mutants`, turns the rules off one at a time (the environment variable `RULE_OFF` names one) and demands
//! a red test for each; `docs/mutants.md` is what it found. Without the feature all rules hold and `on` is the constant
//! `true`: nothing of this is left in the binary. Not here: what a rule does; that stands where it is asked for.
//!
//! The place of a rule reads `on(Rule::X) && it is needed` or `!on(Rule::X) || it is allowed`.

/// Declares the rules and lists them.
macro_rules! rules {
    ($($(#[$meaning:meta])+ $name:ident,)+) => {
        /// A rule that a promise rests on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule {
            $($(#[$meaning])+ $name,)+
        }

        /// All of them.
        pub const RULES: &[Rule] = &[$(Rule::$name,)+];
    };
}

rules! {
    // What a change does to the cache.
    /// P2: a write's keys are bumped when it is sent, so that a read pipelined behind it goes out with it.
    BumpAtSend,
    /// P2: a write's keys are bumped before its reply is released by a lane.
    BumpAtReply,
    /// P2: a write's keys are bumped before its reply is released by a dedicated connection.
    BumpAtDedicatedReply,
    /// P2: what a write may have done is applied when it fails: time-out, loss.
    EffectOfFailure,
    /// P2: what a write may have done is applied when a dedicated connection is given up.
    EffectOfDedicatedFailure,
    /// P2: what a command that has been given up has done is applied when its reply comes.
    EffectOfLateReply,
    /// P2: EXEC on a dedicated connection applies what was queued.
    QueuedEffects,
    /// P3: a push that names keys bumps them.
    PushBumps,
    /// P3: a push that names all drops what its lane has filled.
    NullPushBumps,
    /// P2: FLUSHALL, SWAPDB, ACL drop the node's entries when they are sent, so that reads behind them go out too.
    SweepAtSend,
    /// P2: FLUSHALL, SWAPDB, ACL drop the node's entries before their reply is released.
    SweepAtReply,
    /// P2: without pushes, a write to keys that it does not name drops the node's entries.
    UnnamedWriteSweeps,
    /// P6: a read that is denied drops what its lane has filled: a right was taken away.
    DeniedReadBumps,
    /// P3: a SWAPDB that a poll sees drops the node's entries.
    SwapSeen,
    /// P3: no hits while the background polls rest.
    HitsAreWatched,

    // What may be kept.
    /// P3: a reply is kept only if its key's generation is what it was when the read was sent.
    FillChecksGeneration,
    /// P3: a reply is kept only if its lane's epoch is what it was when the read was sent.
    FillChecksLaneEpoch,
    /// P3: a reply is kept only if its node's epoch is what it was when the read was sent.
    FillChecksNodeEpoch,
    /// P3: a reply is kept only if CACHING was answered +OK.
    FillChecksCaching,
    /// P5: a reply is kept only if PTTL was answered by an integer.
    FillChecksPttl,
    /// P5: what is about to expire is not kept.
    ExpiringIsNotKept,
    /// P6: errors are not kept.
    ErrorsAreNotKept,
    /// P4: entries are kept by pushes only where upstream tracks.
    TrackingIsConfirmed,

    // What may be served.
    /// P3: a hit has its key's present generation.
    HitChecksGeneration,
    /// P3: a hit has its lane's present epoch.
    HitChecksLaneEpoch,
    /// P3: a hit has its node's present epoch.
    HitChecksNodeEpoch,
    /// P5: a hit comes before its deadline.
    HitChecksDeadline,
    /// P5: the deadline counts from when the read was sent.
    DeadlineFromSending,
    /// P5: PTTL rounds: the deadline is a millisecond earlier.
    DeadlineRoundsDown,
    /// P5: clocks drift: the deadline is a 1024th of the TTL earlier.
    DeadlineAllowsForDrift,
    /// P4: no entry lives longer than `max_age`.
    MaxAgeCaps,
    /// P4: without pushes, no entry lives longer than `ttl_mode_age`.
    TtlModeAgeCaps,
    /// P4: what is capped by the bound on staleness is not jittered beyond it.
    JitterStaysWithinStaleness,
    /// P4: in a cluster, what is kept of a missing key ages with the bound on staleness: no push tells of its slot's move.
    MissingAreCapped,
    /// P4: in a cluster below Redis 7.2 everything does: no push tells of the keys of a slot lost by force.
    LostSlotsAreCapped,
    /// P4: a replica that is fit to be read from again shows nothing of what was kept before.
    FitAgainBumps,
    /// P2: who has written is shown what a replica's lane has kept only when the pushes of these writes have been read.
    OwnWritesAreTold,
    /// P3: what was filled under a slot's former owner is not found any more.
    SlotEpochsAreApart,
    /// P4: a cluster's node proves itself fresh only by answering for keys: cut off from the others it still says PONG.
    LeaseNeedsKeys,
    /// P1: a client with commands on their way by an older map sends no more until they are answered.
    MapChangeSettles,
    /// P1: a command that is turned away waits behind those of its client that wait already.
    DetoursQueue,
    /// P1: what waits is tried in its client's order, whatever was turned away first.
    DetoursKeepOrder,
    /// P1: what waits is tried only when its client is owed nothing else.
    DetoursWaitForOthers,
    /// P1: who waits is given up when a later command of its client takes effect in the same slot.
    OvertakenAreGivenUp,
    /// P3: a key that is asked for at its slot's importer is not known to be missing any more.
    AskBumps,
    /// P4: while hash fields with TTLs are held, replies that rest on them live no longer than the bound.
    HashTtlsCap,
    /// P4: when the first hash field with a TTL is seen, the node's entries are dropped.
    HashTtlsSeenDrop,
    /// P4: while nobody can say whether hash fields have TTLs, some may.
    HashTtlsMayBe,
    /// P6: lanes (databases, users) have entries of their own.
    LanesAreApart,
    /// P6: RESP versions have entries of their own.
    VersionsAreApart,
    /// P6: a cache key is the whole request, its hash is not enough.
    RequestsAreCompared,
    /// P7: an MGET of which a part is missing is fetched whole.
    MgetIsOneSnapshot,
    /// P7: parts kept by age alone are not joined.
    MgetNeedsPushes,

    // The lease.
    /// P4: hits only while the lease holds.
    HitsNeedTheLease,
    /// P4: the lease counts from when the answered command was sent.
    LeaseFromSending,
    /// P4: errors do not renew the lease.
    ErrorsRenewNoLease,
    /// P4: the lease ends with its lane.
    LeaseEndsWithLane,
    /// P7: a PONG of ours needs the lease: it means that upstream was alive a moment ago.
    PongNeedsTheLease,
    /// P4: hits bring a heartbeat along: what is hot stays served, and an upstream that is gone is noticed.
    Heartbeat,
    /// P8: a lane that owes replies and is silent is closed.
    SilenceClosesLane,
    /// P4: a lost lane takes its entries with it.
    LossBumps,
    /// P4: the clock is read after the read(2) that brought a command.
    ClockAfterRead,

    // News never overtakes.
    /// P3: what dedicated connections deliver is held for fences.
    DedicatedDataIsHeld,
    /// P3: statuses of commands that do not name their keys are held by dedicated connections too.
    DedicatedStatusIsHeld,
    /// P3: the messages of shared subscriptions are held for fences.
    MessagesAreHeld,
    /// P3: what a lane pops or reads in a write is held for the other lanes' fences.
    LaneNewsIsHeld,
    /// P3: a transaction's result is held for the other lanes' fences.
    ExecIsHeld,
    /// P3: large replies that tell what others wrote are held whole.
    LargeNewsIsHeld,
    /// P2: a script's reply is held for the other lanes' fences.
    ScriptsAreHeld,
    /// P2: a script's reply is held for the PING behind it on its own lane.
    OwnFence,
    /// P3: fences go to the other lanes of the worker.
    FencesOnLanes,
    /// P3: fences go to the lanes of other users.
    FencesOnUsers,
    /// P3: fences go to the lanes of other databases.
    FencesOnDatabases,
    /// P3: fences go to the lanes of other workers.
    FencesOnWorkers,
    /// P3: lanes that have flights and no entries need fences too.
    FencesForFlights,
    /// P3: what comes while a fence is under way waits for the next.
    FenceIsSentAfter,
    /// P3: a lane that does not answer its fence loses its entries instead.
    UnansweredFenceBumps,

    // A client's order.
    /// P1, rule 1: a read is no hit while earlier commands are unanswered.
    HitsWaitTheirTurn,
    /// P1, rule 1: an MGET is no hit while earlier commands are unanswered.
    MgetWaitsItsTurn,
    /// P3, rule 1: a parked read is judged at its turn.
    ParkedAreJudged,
    /// P3, rule 2: later reads are fetched anew with a parked one.
    LaterReadsGoAnew,
    /// P1: the reply of an earlier attempt is swallowed.
    EarlierAttemptIsSwallowed,
    /// P3, rule 3: parked reads go out before what is no read.
    ParkedGoOutFirst,
    /// P3, rule 4: a joined flight is no older than what the client rests on.
    JoinChecksOrder,
    /// P2, rule 4: a joined flight's generation is the present one.
    JoinChecksGeneration,
    /// P3, rule 4: a joined flight's lane epoch is the present one.
    JoinChecksLaneEpoch,
    /// P2, rule 4: a joined flight's node epoch is the present one.
    JoinChecksNodeEpoch,
    /// P4, rule 4: a joined flight was sent less than `max_staleness` ago.
    JoinChecksAge,
    /// P1, rule 5: what changes the connection waits for earlier replies.
    ChangesWait,

    // The state of shared connections.
    /// P7: in a MULTI block only what is lane-safe rides the lane.
    BlocksAreLaneSafe,
    /// P7: a block's last reply ends the transaction, or the lane is dropped.
    BlockEndIsChecked,
    /// P6: a dedicated connection is used again only if it is clean.
    PoolKeepsTheClean,
    /// P6: a dedicated connection that has spoken or died at rest is not used again.
    PoolKeepsTheSilent,
    /// P6: a dedicated connection whose state is still its client's is tainted.
    ClientStateTaints,
    /// P6: what cannot be followed taints a connection.
    UnfollowedTaints,
    /// P6: a dedicated connection is brought to its client's database and RESP version.
    DedicatedIsAligned,
    /// P7: nothing is done for who must authenticate first.
    NothingBeforeAuth,
    /// P7: a password is upstream's to judge each time.
    PasswordIsVerified,
    /// P7: who could log in and cannot any more is let go.
    ExpelledAreLetGo,
    /// P7: a refused command spoils the transaction that it stands in.
    RefusalSpoils,
    /// P1: while a confirmation of a subscription is under way, no further command is taken.
    ConfirmationsFirst,
    /// P7: WAIT stands behind a PUBLISH that brings its connection up to date.
    WaitPublishes,
    /// P7: what must overtake has a connection of its own.
    ControlOvertakes,
    /// P8: writes that a pause would hold do not ride the lane.
    PausedWritesLeaveTheLane,

    // Failure.
    /// P8: of a group that was partly written nothing more is sent.
    PartlyWrittenIsDropped,
    /// P8: a command that is said to be unsent is taken back.
    UnsentIsTakenBack,
    /// P8: a lost read is sent again only if nothing but reads stand behind it.
    RetryNeedsHarmless,
    /// P8: a lost read is sent again only once.
    RetryIsOnce,
    /// P3: a lost read is not sent again behind a later one that is still queued.
    RetryKeepsOrder,
    /// P1: the place of a command that was given up stays, and swallows the late reply.
    TombstonesStay,
    /// P8: a lane's command is told in time that it takes too long.
    CommandTimeout,
    /// P8: a dedicated connection's command is told in time that it takes too long.
    DedicatedTimeout,
    /// P8: a lane that is given up is reset, so that nothing on its way follows later commands.
    AbandonedIsReset,
    /// P8: a dedicated connection that is given up is reset.
    AbandonedDedicatedIsReset,
    /// P8: the successor of a lane that was given up kills it at the server.
    PredecessorIsKilled,
    /// P8: a lane that the server has closed is not killed: its id may be a stranger's.
    StrangersAreSpared,
    /// P8: a lane's queue is bounded.
    QueueIsBounded,
    /// P8: what waits for a client to be read is bounded.
    OutputIsBounded,
    /// P8: a client that does not read is paused.
    SlowClientsArePaused,
    /// P8: what is held for fences is bounded.
    HeldIsBounded,
    /// P8: nobody is taken for the master who does not say so.
    MasterIsVerified,
    /// P8: a master that says that it is none any more is left.
    DemotedIsLeft,
    /// P3: the lanes to an address that is not the master's any more are left.
    MovedLanesAreLeft,
    /// P8: so are dedicated connections, whatever clients wait for there.
    LeftPoolsEnd,
    /// P3: a violation that the audit finds ends the use of the cache.
    ViolationEndsHits,
}

/// Whether a rule holds: always.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn on(_: Rule) -> bool {
    true
}

/// Whether a rule holds: all but the one that the environment names.
#[cfg(feature = "mutants")]
pub fn on(rule: Rule) -> bool {
    static OFF: std::sync::OnceLock<Option<Rule>> = std::sync::OnceLock::new();
    let named = || {
        let name = std::env::var("RULE_OFF").ok()?;
        RULES.iter().copied().find(|rule| format!("{rule:?}") == name)
    };
    *OFF.get_or_init(named) != Some(rule)
}
