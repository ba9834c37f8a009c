//! Which nodes of a cluster a command goes to, and what makes one reply of theirs.
//!
//! *Invariant:* data about commands, as in the table; in front of one server none of it matters. Not here: which node owns
//! a key (`upstream`), the joining itself (`join`), the cursors of SCAN (`cursor`).

/// Where a command goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// To one node: the owner of its keys, or, without keys, any (but always the same, so that SLOWLOG RESET empties what
    /// SLOWLOG GET shows). Keys of several slots: upstream says CROSSSLOT.
    One,
    /// Keys of several slots: cut by slot, each part to the slot's owner. All its arguments are keys, or keys and values.
    Split(Split),
    /// To all masters.
    All(Join),
    /// SCAN: to one master after the other.
    Scan,
}

/// How the replies to the parts of a split command become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// An element for each key, in the order of the keys: [`elements`](super::join::elements).
    Elements,
    /// As those of a command that went to all.
    Joined(Join),
}

/// How the replies of several nodes become one. An error of any node is the reply to the whole, unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    /// They are all alike; the first one's.
    Agree,
    /// Numbers, added.
    Sum,
    /// The smallest number, or of each of several numbers the smallest. Of zeros and ones: whether all have it.
    Min,
    /// Names and numbers in turn: the numbers added for each name.
    SumPairs,
    /// Elements, one node's behind the other's.
    Concat,
    /// The same without repetitions.
    Union,
    /// The first that is neither null nor an error: what one node has, or does, is enough.
    Any,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::command::index::{named, rows};
    use crate::command::keys::Keys;
    use crate::protocol::Args;
    use crate::telemetry::labels::Class;

    #[test]
    fn every_command_without_keys_says_where_it_goes() {
        let nothing = Args { raw: b"", ranges: &[] };
        let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for row in rows() {
            let is_forwarded = !matches!(row.class(&nothing), Class::Refused) && !row.is_container();
            if row.keys == Keys::None && is_forwarded && !row.name.ends_with("|help") {
                found.entry(format!("{:?}", row.spread())).or_default().push(row.name);
            }
        }
        found.values_mut().for_each(|names| names.sort_unstable());
        let found: Vec<String> = found.iter().map(|(spread, names)| format!("{spread}: {}", names.join(" "))).collect();
        let expected: Vec<String> =
            EXPECTED.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(found, expected, "\n{}\n", found.join("\n"));
    }

    #[test]
    fn what_is_split_consists_of_keys_or_of_keys_and_values() {
        let split: Vec<&str> =
            rows().filter(|row| matches!(row.spread(), Spread::Split(_))).map(|row| row.name).collect();
        assert_eq!(split, ["mget", "mset", "del", "exists", "touch", "unlink"]);
        for name in split {
            let Keys::Range { first: 1, last: -1, step } = named(name).unwrap().keys else { panic!("{name}") };
            assert_eq!(step, if name == "mset" { 2 } else { 1 });
        }
    }

    #[test]
    fn what_is_not_split_and_has_keys_goes_to_their_owner() {
        for row in rows().filter(|row| row.keys != Keys::None && !matches!(row.spread(), Spread::Split(_))) {
            assert_eq!(row.spread(), Spread::One, "{}", row.name);
        }
    }

    /// By spread, every command without keys that is not refused.
    const EXPECTED: &[&str] = &[
        "All(Agree): acl|deluser acl|load acl|save acl|setuser bgrewriteaof bgsave client|pause client|unpause \
         config|resetstat config|rewrite config|set flushall flushdb function|delete function|flush function|load \
         function|restore memory|purge save script|flush script|load",
        "All(Any): function|kill randomkey script|kill",
        "All(Concat): keys",
        "All(Min): lastsave script|exists wait waitaof",
        "All(Sum): dbsize pubsub|numpat",
        "All(SumPairs): pubsub|numsub pubsub|shardnumsub",
        "All(Union): pubsub|channels pubsub|shardchannels",
        "One: acl|cat acl|dryrun acl|genpass acl|getuser acl|list acl|log acl|users acl|whoami auth \
         client|caching client|capa client|getname client|getredir client|id client|import-source client|info \
         client|kill client|list client|no-evict client|no-touch client|reply client|setinfo client|setname \
         client|tracking client|trackinginfo client|unblock cluster|count-failure-reports cluster|countkeysinslot \
         cluster|getkeysinslot cluster|getslotmigrations cluster|info cluster|keyslot cluster|links cluster|myid \
         cluster|myshardid cluster|nodes cluster|replicas cluster|shards cluster|slaves cluster|slot-stats \
         cluster|slots commandlog|get commandlog|len commandlog|reset command|count command|docs command|getkeys \
         command|getkeysandflags command|info command|list config|get discard echo exec function|dump \
         function|list function|stats hello info latency|doctor latency|graph latency|histogram latency|history \
         latency|latest latency|reset lolwut memory|doctor memory|malloc-stats memory|stats module|list monitor \
         multi pfselftest ping psubscribe publish punsubscribe quit readonly readwrite reset role script|show \
         select slowlog|get slowlog|len slowlog|reset subscribe swapdb time unsubscribe unwatch",
        "Scan: scan",
    ];
}
