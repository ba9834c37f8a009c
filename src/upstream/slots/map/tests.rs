//! Maps from replies as servers send them, and from replies that no server should.

use proptest::prelude::*;

use super::*;
use crate::protocol::frame::decode;

/// RESP from a shorthand: words cut at blanks, of which those that begin with a RESP type that has no content of its own
/// stand for themselves and all others are bulk strings; `""` is an empty one.
fn value(shorthand: &str) -> Value {
    let mut frame = String::new();
    for word in shorthand.split_whitespace() {
        match word {
            "\"\"" => frame.push_str("$0\r\n\r\n"),
            _ if word.starts_with(['*', '%', ':', '_', '-']) && word != "::1" => frame.push_str(&format!("{word}\r\n")),
            _ => frame.push_str(&format!("${}\r\n{word}\r\n", word.len())),
        }
    }
    decode(frame.as_bytes()).unwrap()
}

fn member(id: &str, host: Option<&str>, port: u16) -> Member {
    Member { id: id.into(), host: host.map(str::to_owned), port, healthy: true }
}

/// A node of CLUSTER SHARDS, as Redis 7.0 writes it.
fn node(id: &str, port: u16, role: &str, health: &str) -> String {
    format!("%7 id {id} port :{port} ip 10.0.0.1 endpoint 10.0.0.1 role {role} replication-offset :7 health {health}")
}

fn shard(slots: &str, nodes: &[String]) -> String {
    format!("%2 slots {slots} nodes *{} {}", nodes.len(), nodes.join(" "))
}

fn shards(shards: &[String]) -> Result<SlotMap, MapFault> {
    SlotMap::from_shards(&value(&format!("*{} {}", shards.len(), shards.join(" "))))
}

/// Shards that own these ranges, each with a master and nothing else.
fn owned(ranges: &[(u16, u16)]) -> SlotMap {
    let shards = ranges.iter().enumerate();
    let shards = shards.map(|(n, &range)| Shard {
        master: member(&n.to_string(), None, 1),
        replicas: vec![],
        ranges: vec![range],
    });
    SlotMap { shards: shards.collect() }
}

#[test]
fn both_commands_in_both_protocols_give_one_map() {
    let slots2 = "*3 *4 :8000 :16383 *4 10.0.0.2 :7001 bb *2 hostname h *4 10.0.0.1 :7002 cc *0 \
                  *3 :101 :7999 *4 10.0.0.1 :7000 aa *0 \
                  *3 :0 :100 *4 10.0.0.1 :7000 aa *0";
    let slots3 = slots2.replace("*2 hostname h", "%1 hostname h").replace("*0", "%0");
    let a =
        "%8 id aa port :7000 tls-port :9 ip 10.0.0.1 endpoint 10.0.0.1 role master replication-offset :7 health online";
    let b =
        "%8 id bb port :7001 ip 10.0.0.2 endpoint 10.0.0.2 hostname h role master replication-offset :7 health online";
    let c = "%7 id cc port :7002 ip 10.0.0.1 endpoint 10.0.0.1 role replica replication-offset :7 health online";
    let shards3 = format!("*2 %2 slots *2 :0 :7999 nodes *1 {a} %3 slots *2 :8000 :16383 nodes *2 {c} {b} id 0123");
    let shards2 = shards3.replace("%8", "*16").replace("%7", "*14").replace("%2", "*4").replace("%3", "*6");
    let expected = SlotMap {
        shards: vec![
            Shard { master: member("aa", Some("10.0.0.1"), 7000), replicas: vec![], ranges: vec![(0, 7999)] },
            Shard {
                master: member("bb", Some("10.0.0.2"), 7001),
                replicas: vec![member("cc", Some("10.0.0.1"), 7002)],
                ranges: vec![(8000, 16383)],
            },
        ],
    };
    assert_eq!(expected.check(), Ok(()));
    for reply in [slots2, &slots3] {
        assert_eq!(SlotMap::from_slots(&value(reply)).as_ref(), Ok(&expected), "{reply}");
    }
    for reply in [&shards2, &shards3] {
        assert_eq!(SlotMap::from_shards(&value(reply)).as_ref(), Ok(&expected), "{reply}");
    }
}

#[test]
fn an_endpoint_that_is_not_told_is_the_host_of_the_node_asked() {
    for (endpoint, more, expected) in [
        ("_", "%0", None),
        ("\"\"", "%0", None),
        ("_", "%2 ip 10.0.0.1 hostname h", None),
        ("?", "%0", None),
        ("?", "%1 ip \"\"", None),
        ("?", "%1 ip 10.0.0.1", Some("10.0.0.1")),
        ("h.example", "%1 ip 10.0.0.1", Some("h.example")),
        ("::1", "%0", Some("::1")),
    ] {
        let map = SlotMap::from_slots(&value(&format!("*1 *3 :0 :16383 *4 {endpoint} :7000 aa {more}"))).unwrap();
        assert_eq!(map.shards[0].master.host.as_deref(), expected, "{endpoint} {more}");
        let ip = more.strip_prefix("%1 ip ").unwrap_or("10.0.0.1");
        let node = format!("%6 id aa port :7000 ip {ip} endpoint {endpoint} role master health online");
        let expected = if endpoint == "?" && more == "%0" { Some("10.0.0.1") } else { expected };
        let map = shards(&[shard("*2 :0 :16383", &[node])]).unwrap();
        assert_eq!(map.shards[0].master.host.as_deref(), expected, "{endpoint} {more}");
    }
    // Redis before 7.0 tells nothing beyond the id.
    let map = SlotMap::from_slots(&value("*1 *3 :0 :16383 *3 10.0.0.1 :7000 aa")).unwrap();
    assert_eq!(map.shards[0].master, member("aa", Some("10.0.0.1"), 7000));
}

#[test]
fn after_a_failover_the_healthy_master_counts() {
    let [old, new] = [node("old", 7000, "master", "fail"), node("new", 7001, "master", "online")];
    for nodes in [[old.clone(), new.clone()], [new, old.clone()]] {
        let map = shards(&[shard("*2 :0 :16383", &nodes)]).unwrap();
        assert_eq!((&*map.shards[0].master.id, map.shards[0].replicas.len()), ("new", 0));
    }
    let replica = node("r", 7002, "replica", "loading");
    let map = shards(&[shard("*2 :0 :16383", &[replica, old])]).unwrap();
    assert_eq!((&*map.shards[0].master.id, map.shards[0].master.healthy), ("old", false));
    assert!(!map.shards[0].replicas[0].healthy);
    assert_eq!(map.check(), Err(MapFault::NoMasters));
}

#[test]
fn shards_without_slots_or_master_and_nodes_without_a_plain_port_are_left_out() {
    let tls = "%4 id t tls-port :7003 role master health online".to_owned();
    let map = shards(&[
        shard("*0", &[node("a", 1, "master", "online")]),
        shard("*2 :0 :99", &[node("b", 2, "replica", "online")]),
        shard("*4 :100 :199 :200 :16383", &[tls, node("c", 3, "master", "online")]),
    ])
    .unwrap();
    assert_eq!(map.shards.len(), 1);
    assert_eq!((&*map.shards[0].master.id, &*map.shards[0].ranges), ("c", &[(100, 16383)][..]));
    assert_eq!(map.check(), Err(MapFault::Partial(100)));
}

#[test]
fn a_map_that_cannot_be_used_says_why() {
    for (ranges, expected) in [
        (&[(0, 16383)][..], Ok(())),
        (&[(8000, 16383), (0, 7999)], Ok(())),
        (&[], Err(MapFault::Empty)),
        (&[(0, 8000), (8000, 16383)], Err(MapFault::Overlap(8000))),
        (&[(0, 16383), (5, 5)], Err(MapFault::Overlap(5))),
        (&[(0, 16382)], Err(MapFault::Partial(1))),
        (&[(1, 1)], Err(MapFault::Partial(16383))),
        (&[(9, 1)], Err(MapFault::Malformed("a range of what are no slots"))),
        (&[(0, 16384)], Err(MapFault::Malformed("a range of what are no slots"))),
    ] {
        assert_eq!(owned(ranges).check(), expected, "{ranges:?}");
    }
}

#[test]
fn each_slot_has_the_owner_that_the_ranges_say() {
    let owners = owned(&[(0, 99), (101, 16383)]).owner_of_each_slot();
    assert_eq!(owners.len(), 16384);
    assert_eq!(
        [owners[0], owners[99], owners[100], owners[101], owners[16383]],
        [Some(0), Some(0), None, Some(1), Some(1)]
    );
}

#[test]
fn the_digest_tells_changes_and_nothing_else() {
    let shard = |master: &Member, replicas: &[&Member], ranges: &[(u16, u16)]| Shard {
        master: master.clone(),
        replicas: replicas.iter().copied().cloned().collect(),
        ranges: ranges.to_vec(),
    };
    let digest = |shards: &[Shard]| SlotMap { shards: shards.to_vec() }.digest();
    let [a, b, c] = ["a", "b", "c"].map(|id| member(id, Some("h"), 1));
    let sick = Member { healthy: false, ..b.clone() };
    let moved = Member { port: 2, ..b.clone() };
    let first = digest(&[shard(&a, &[&b, &c], &[(0, 9), (20, 29)])]);
    assert_eq!(first, digest(&[shard(&a, &[&c, &b], &[(20, 29), (0, 4), (5, 9)])]));
    for other in [
        shard(&b, &[&a, &c], &[(0, 9), (20, 29)]),
        shard(&a, &[&b], &[(0, 9), (20, 29)]),
        shard(&a, &[&sick, &c], &[(0, 9), (20, 29)]),
        shard(&a, &[&moved, &c], &[(0, 9), (20, 29)]),
        shard(&a, &[&b, &c], &[(0, 9), (20, 28)]),
    ] {
        assert_ne!(first, digest(std::slice::from_ref(&other)), "{other:?}");
    }
    let [one, two] = [shard(&a, &[], &[(0, 9)]), shard(&b, &[], &[(10, 19)])];
    assert_eq!(digest(&[one.clone(), two.clone()]), digest(&[two, one]));
}

#[test]
fn what_no_server_should_say_is_refused() {
    for reply in [
        ":1",
        "_",
        "*1 :1",
        "*1 *0",
        "*1 *3 :0 x *3 h :1 a",
        "*1 *3 :0 :16384 *3 h :1 a",
        "*1 *3 :-1 :5 *3 h :1 a",
        "*1 *3 :9 :5 *3 h :1 a",
        "*1 *3 :0 :5 *3 h :0 a",
        "*1 *3 :0 :5 *3 h :65536 a",
        "*1 *3 :0 :5 *2 h :1",
        "*1 *3 :0 :5 :5",
    ] {
        assert!(matches!(SlotMap::from_slots(&value(reply)), Err(MapFault::Malformed(_))), "{reply}");
    }
    for reply in [
        ":1",
        "*1 :1",
        "*1 %0",
        "*1 %1 slots *0",
        "*1 %2 slots *1 :0 nodes *0",
        "*1 %2 slots *2 :0 :16384 nodes *0",
        "*1 %2 slots *0 nodes *1 %1 port :1",
        "*1 %2 slots *0 nodes *1 %2 id a port x",
    ] {
        assert!(matches!(SlotMap::from_shards(&value(reply)), Err(MapFault::Malformed(_))), "{reply}");
    }
    let error = Value::Error(b"ERR This instance has cluster support disabled".to_vec());
    let refused = Err(MapFault::Refused(b"ERR This instance has cluster support disabled".to_vec()));
    assert_eq!(SlotMap::from_slots(&error), refused);
    assert_eq!(SlotMap::from_shards(&error), refused);
    // A row without nodes is no owner.
    assert_eq!(SlotMap::from_slots(&value("*1 *2 :0 :5")), Ok(SlotMap::default()));
}

proptest! {
    #[test]
    fn no_map_panics(ranges in prop::collection::vec((any::<u16>(), any::<u16>()), 0..6)) {
        let map = owned(&ranges);
        let _ = (map.check(), map.owner_of_each_slot(), map.digest());
    }
}
