//! Shard channels whose slot is nobody's for a while: two nodes name each other as its owner.

use std::time::Instant;

use super::PATIENT;
use crate::support::{Cluster, Conn, Kind, Sidecar, V, eventually};

/// Between two questions of a subscription that was refused, in milliseconds; as in the sidecar.
const PAUSE: u128 = 20;

/// Subscribers of a channel whose old owner has given its slot away; the new one does not know yet.
fn disputed(test: impl FnOnce(&Cluster, &Sidecar, [Conn; 2], &str)) {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let channel = cluster.key_on(0, "ch");
    let clients = std::array::from_fn(|_| {
        let mut client = sidecar.conn3();
        client.send(&["SSUBSCRIBE", &channel]);
        assert_eq!(client.value().items()[0], V::bulk("ssubscribe"));
        client
    });
    let give = format!("CLUSTER SETSLOT {} NODE {}", cluster.slot(&channel), cluster.id(1));
    assert_eq!(cluster.node(0).conn().line(&give), V::Simple("OK".into()));
    eventually("it is asked for in vain", || refusals(&cluster) > 1);
    test(&cluster, &sidecar, clients, &channel);
}

/// How often nodes have sent somebody on.
fn refusals(cluster: &Cluster) -> u128 {
    let at = |at: usize| {
        let stats = cluster.node(at).info("errorstats");
        stats.get("errorstat_MOVED").map_or(0, |line| line.strip_prefix("count=").unwrap().parse::<u128>().unwrap())
    };
    at(0) + at(1)
}

fn settle(cluster: &Cluster, channel: &str) {
    cluster.force_slot(cluster.slot(channel), 1);
}

fn subscriptions(cluster: &Cluster, channel: &str) -> V {
    cluster.node(1).conn().line(&format!("PUBSUB SHARDNUMSUB {channel}")).items()[1].clone()
}

#[test]
fn a_channel_that_no_node_will_have_is_asked_for_in_peace() {
    disputed(|cluster, _, mut clients, channel| {
        let (begun, before) = (Instant::now(), refusals(cluster));
        clients[0].nothing_for(std::time::Duration::from_millis(500));
        let asked = refusals(cluster) - before;
        let most = begun.elapsed().as_millis() / PAUSE + 1;
        assert!((1..=most).contains(&asked), "asked {asked} times, {most} at most");
        settle(cluster, channel);
        eventually("it is subscribed to", || subscriptions(cluster, channel) == V::Int(1));
        cluster.node(1).conn().line(&format!("SPUBLISH {channel} x"));
        let message = V::Push(["smessage", channel, "x"].map(V::bulk).to_vec());
        assert_eq!(clients.map(|mut client| client.value()), [message.clone(), message]);
    });
}

/// The channels of all nodes count together, as those of one server would.
#[test]
fn confirmations_count_the_channels_of_all_nodes() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let [a, b, c] = [(0, "a"), (1, "b"), (0, "c")].map(|(at, name)| cluster.key_on(at, name));
    for resp3 in [false, true] {
        let mut client = if resp3 { sidecar.conn3() } else { sidecar.conn() };
        let told = |client: &mut Conn, line: &str, confirmations: usize| -> Vec<(V, V, V)> {
            client.send(&line.split(' ').collect::<Vec<_>>());
            let each = (0..confirmations).map(|_| {
                let items = client.value().items().to_vec();
                (items[0].clone(), items[1].clone(), items[2].clone())
            });
            each.collect()
        };
        let said = |word: &str, channel: &str, count| (V::bulk(word), V::bulk(channel), V::Int(count));
        for (count, channel) in [(1, &a), (2, &b), (3, &c)] {
            let begun = told(&mut client, &format!("SSUBSCRIBE {channel}"), 1);
            assert_eq!(begun, [said("ssubscribe", channel, count)]);
        }
        assert_eq!(told(&mut client, &format!("SUNSUBSCRIBE {a}"), 1), [said("sunsubscribe", &a, 2)]);
        // Once more means nothing.
        assert_eq!(told(&mut client, &format!("SUNSUBSCRIBE {a}"), 1), [said("sunsubscribe", &a, 2)]);
        // All that are left, in whatever order.
        let ended = told(&mut client, "SUNSUBSCRIBE", 2);
        let counts: Vec<&V> = ended.iter().map(|(_, _, count)| count).collect();
        assert_eq!(counts, [&V::Int(1), &V::Int(0)]);
        assert!([&b, &c].iter().all(|left| ended.iter().any(|(_, channel, _)| *channel == V::bulk(left))), "{ended:?}");
        let nothing = (V::bulk("sunsubscribe"), V::Nil, V::Int(0));
        assert_eq!(told(&mut client, "SUNSUBSCRIBE", 1), [nothing]);
        for at in [0, 1] {
            eventually("nobody is subscribed", || {
                cluster.node(at).conn().line("PUBSUB SHARDCHANNELS").items().is_empty()
            });
        }
    }
}

#[test]
fn who_unsubscribes_meanwhile_is_not_taken_along() {
    disputed(|cluster, sidecar, [mut stays, mut leaves], channel| {
        leaves.send(&["SUNSUBSCRIBE", channel]);
        assert_eq!(leaves.value(), V::Push(vec![V::bulk("sunsubscribe"), V::bulk(channel), V::Int(0)]));
        settle(cluster, channel);
        eventually("it is subscribed to", || subscriptions(cluster, channel) == V::Int(1));
        assert_eq!(sidecar.conn().line(&format!("SPUBLISH {channel} x")), V::Int(1));
        assert_eq!(stays.value(), V::Push(["smessage", channel, "x"].map(V::bulk).to_vec()));
        assert_eq!(leaves.line("PING"), V::Simple("PONG".into()), "it has heard nothing");
        // The last one goes, too: nobody is left to be taken along.
        stays.send(&["SUNSUBSCRIBE", channel]);
        stays.value();
        eventually("nobody is subscribed", || subscriptions(cluster, channel) == V::Int(0));
    });
}
