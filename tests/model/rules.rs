//! The rules, each of which can be turned off in the driving code.

/// A rule of coherence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A write's keys are bumped when it is sent.
    BumpAtSend,
    /// They are bumped before its reply is released.
    BumpAtReply,
    /// They are bumped before an error takes the place of a lost reply.
    BumpAtLoss,
    /// A push bumps the keys that it names.
    KeyPush,
    /// A push that names no key bumps the lane's epoch.
    NullPush,
    /// What a reply rests on is noted when its read is sent, not when it comes.
    NotedAtSend,
    /// A new connection is a new epoch of its lane.
    LaneEpoch,
    /// FLUSHALL bumps the node's epoch when it is sent.
    NodeEpochAtSend,
    /// And before its reply is released.
    NodeEpochAtReply,
    /// Hits need a lease.
    Lease,
    /// Only what is answered renews it: not what is merely sent.
    LeaseByReplies,
    /// Entries end before their keys do.
    Deadline,
    /// Without tracking, entries end by age.
    Age,
    /// A fill needs CACHING's +OK.
    Caching,
    /// No flight is joined that was sent too long ago.
    JoinAge,
    /// No flight is joined that is older than what the reader rests on.
    JoinOrder,
    /// No flight is joined if its key has changed since it was sent.
    JoinGeneration,
    /// No flight is joined if its lane's or its node's epoch has changed.
    JoinEpoch,
    /// A hit behind unanswered commands is parked.
    Park,
    /// A parked read is judged when its turn comes.
    JudgeAtTurn,
    /// Reads are fetched before what is not a read goes out behind them.
    Unpark,
    /// News from a dedicated connection is held for the fences of this worker's lanes.
    FenceHere,
    /// And of other workers' lanes.
    FenceThere,
    /// News on a lane is held for the fences of the others.
    FenceForLaneNews,
    /// A fence that does not return bumps the lane's epoch.
    FailedFence,
}

/// All rules but at most one.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub off: Option<Rule>,
}

// === impl Rules ===

impl Rules {
    /// Whether a rule holds.
    pub fn hold(self, rule: Rule) -> bool {
        self.off != Some(rule)
    }
}

// === impl Rule ===

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 25] = [
        Rule::BumpAtSend,
        Rule::BumpAtReply,
        Rule::BumpAtLoss,
        Rule::KeyPush,
        Rule::NullPush,
        Rule::NotedAtSend,
        Rule::LaneEpoch,
        Rule::NodeEpochAtSend,
        Rule::NodeEpochAtReply,
        Rule::Lease,
        Rule::LeaseByReplies,
        Rule::Deadline,
        Rule::Age,
        Rule::Caching,
        Rule::JoinAge,
        Rule::JoinOrder,
        Rule::JoinGeneration,
        Rule::JoinEpoch,
        Rule::Park,
        Rule::JudgeAtTurn,
        Rule::Unpark,
        Rule::FenceHere,
        Rule::FenceThere,
        Rule::FenceForLaneNews,
        Rule::FailedFence,
    ];
}
