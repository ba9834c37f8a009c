//! The map of a cluster: what moves, what stays, what copies see of it.

use super::super::slots::{Member, Shard};
use super::*;

fn at(port: u16) -> Address {
    Address::Tcp { host: "h".into(), port }
}

fn place(member: &Member) -> Option<Address> {
    Some(at(member.port))
}

fn member(port: u16) -> Member {
    Member { id: format!("{port:040}"), host: None, port, healthy: true }
}

/// Each master with its slots.
fn map(shards: &[(u16, (u16, u16))]) -> SlotMap {
    let shard =
        |&(port, range): &(u16, (u16, u16))| Shard { master: member(port), replicas: Vec::new(), ranges: vec![range] };
    SlotMap { shards: shards.iter().map(shard).collect() }
}

fn number(cluster: &Cluster, slot: u16) -> Option<NodeId> {
    let mut owners = Owners::default();
    cluster.catch_up(&mut owners, |_| ());
    owners.of(slot)
}

fn owner(cluster: &Cluster, slot: u16) -> Option<Address> {
    number(cluster, slot).and_then(|node| cluster.address(node))
}

#[test]
fn a_new_map_moves_the_epochs_of_what_has_moved_and_of_nothing_else() {
    let cluster = Cluster::new(vec![at(1)]);
    let change = cluster.apply(&map(&[(1, (0, 99)), (2, (100, 16383))]), place);
    assert_eq!((change.moved, change.come), (16384, vec![at(2)]));
    let before = [cluster.epoch(50), cluster.epoch(150)];
    assert!(cluster.apply(&map(&[(1, (0, 99)), (2, (100, 16383))]), place).is_empty());
    let change = cluster.apply(&map(&[(1, (0, 199)), (2, (200, 16383))]), place);
    assert_eq!((change.moved, owner(&cluster, 150)), (100, Some(at(1))));
    assert_eq!([cluster.epoch(50), cluster.epoch(150)], [before[0], before[1] + 1]);
}

#[test]
fn what_a_node_says_of_a_slot_holds_until_the_next_map() {
    let cluster = Cluster::new(vec![at(1)]);
    let whole = map(&[(1, (0, 99)), (2, (100, 16383))]);
    cluster.apply(&whole, place);
    let epoch = cluster.epoch(7);
    let (node, is_news) = cluster.moved(7, &at(2));
    assert!(is_news && cluster.epoch(7) == epoch + 1 && number(&cluster, 7) == Some(node));
    assert!(!cluster.moved(7, &at(2)).1);
    assert_eq!(cluster.take_hint(), Some(at(2)));
    // The same map as before, told by one who does not know yet, is news again.
    assert_eq!(cluster.apply(&whole, place).moved, 1);
    assert_eq!(owner(&cluster, 7), Some(at(1)));
}

/// However a slot has come to its owner, and however far behind a copy is, it ends up the same.
#[test]
fn a_copy_catches_up_slot_by_slot_or_whole() {
    let cluster = Cluster::new(vec![at(1)]);
    let [mut close, mut far] = [(); 2].map(|()| Owners::default());
    cluster.apply(&map(&[(1, (0, 99)), (2, (100, 16383))]), place);
    cluster.catch_up(&mut close, |_| ());
    let one = close.of(0).unwrap();
    for slot in 0..60 {
        assert!(cluster.moved(slot, &at(2)).1 && !cluster.is_known(&close));
        let mut lost = Vec::new();
        cluster.catch_up(&mut close, |node| lost.push(node));
        assert_eq!(lost, [one]);
    }
    for slot in 1000..=1000 + MOVED_MAX as u16 {
        cluster.moved(slot, &at(1));
    }
    cluster.apply(&map(&[(1, (0, 9)), (2, (10, 99)), (1, (100, 199)), (2, (200, 16383))]), place);
    cluster.moved(3, &at(2));
    cluster.catch_up(&mut close, |_| ());
    cluster.catch_up(&mut far, |_| ());
    assert!(close.iter().eq(far.iter()) && cluster.is_known(&close));
    let owned = |node: &NodeId| far.iter().filter(|owner| owner.as_ref() == Some(node)).count();
    let told: Vec<(NodeId, usize)> = cluster.nodes().iter().map(|(id, node)| (*id, node.slots.into())).collect();
    assert_eq!(told, cluster.masters().iter().map(|id| (*id, owned(id))).collect::<Vec<_>>());
    assert_eq!((told[0].1, cluster.unowned()), (109, 0));
}

#[test]
fn slots_that_a_map_lacks_stay_with_who_had_them() {
    let cluster = Cluster::new(vec![at(1)]);
    cluster.apply(&map(&[(1, (0, 99)), (2, (100, 16383))]), place);
    cluster.apply(&map(&[(1, (0, 49)), (2, (100, 16383))]), place);
    assert_eq!(owner(&cluster, 70), Some(at(1)));
}

#[test]
fn a_node_is_gone_when_maps_in_a_row_do_not_name_it() {
    let cluster = Cluster::new(vec![at(1), at(9)]);
    let (both, one) = (map(&[(1, (0, 99)), (2, (100, 16383))]), map(&[(1, (0, 16383))]));
    // A seed that is no node's address goes at once, untold.
    assert!(cluster.apply(&both, place).gone.is_empty() && cluster.nodes().len() == 2);
    let before = number(&cluster, 200);
    for _ in 1..MISSING_MAX {
        assert!(cluster.apply(&one, place).gone.is_empty());
    }
    cluster.apply(&both, place);
    assert_eq!(number(&cluster, 200), before, "it has its number again");
    for _ in 1..MISSING_MAX {
        assert!(cluster.apply(&one, place).gone.is_empty());
    }
    assert_eq!(cluster.apply(&one, place).gone, [at(2)]);
    // Who was named by a redirect alone, and by no map, goes at once.
    cluster.node_at(&at(5));
    assert!(cluster.apply(&one, place).gone.is_empty() && cluster.nodes().len() == 1);
}
