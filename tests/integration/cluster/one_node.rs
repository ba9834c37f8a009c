//! What cluster clients ask about the cluster: they are told of one node, the sidecar, that owns every slot.

use super::PATIENT;
use crate::support::{Cluster, Conn, Kind, Sidecar, V, eventually};

/// `reply` with a name, an address or another detail of the node put in place of the other node's.
fn with(reply: V, details: &[(V, V)]) -> V {
    if let Some((_, new)) = details.iter().find(|(old, _)| *old == reply) {
        return new.clone();
    }
    let all = |items: Vec<V>| items.into_iter().map(|item| with(item, details)).collect();
    match reply {
        V::Array(items) => V::Array(all(items)),
        V::Map(pairs) => {
            V::Map(pairs.into_iter().map(|(key, value)| (with(key, details), with(value, details))).collect())
        }
        other => other,
    }
}

fn is_told_as_by_one_node(kind: Kind) {
    let cluster = Cluster::with(kind, 1, 0, &["--cluster-announce-ip", "127.0.0.1"]);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let opens: [fn(std::net::SocketAddr) -> Conn; 2] = [|at| Conn::open(at), |at| Conn::open3(at)];
    for open in opens {
        let (mut direct, mut through) = (open(cluster.node(0).addr()), open(sidecar.addr()));
        let mut ask = |line: &str| (direct.line(line), through.line(line));
        let (id, ours) = ask("CLUSTER MYID");
        assert_eq!(ours.text().len(), 40);
        assert_ne!(id, ours);
        let ports = [cluster.node(0).port(), sidecar.addr().port()].map(|port| V::Int(port.into()));
        let mut details = vec![(id.clone(), ours.clone()), ports.into()];
        if kind == Kind::Valkey {
            details.push(ask("CLUSTER MYSHARDID"));
        }
        for line in ["CLUSTER SLOTS", "CLUSTER SHARDS", "CLUSTER KEYSLOT {a}b", "CLUSTER COUNTKEYSINSLOT 99999"] {
            let (theirs, mut ours) = ask(line);
            if kind == Kind::Redis {
                // It has no names for shards.
                drop_shard_names(&mut ours);
            }
            assert_eq!(ours, with(theirs, &details), "{line}");
        }
        let (theirs, told) = ask("CLUSTER NODES");
        let words = |text: &V, id: &V, port: u16| {
            let text = text.text().replace(&id.text(), "ID").replace(&port.to_string(), "PORT");
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            // The node's address, and after it the bus's port, which is anywhere; epochs; and what Valkey adds.
            let address = words[1].split('@').next().unwrap_or_default().to_owned();
            [vec![words[0].clone(), address], words[2..6].to_vec(), words[7..].to_vec()].concat()
        };
        let theirs = words(&theirs, &id, cluster.node(0).port());
        assert_eq!(words(&told, &ours, sidecar.addr().port()), theirs);
        for line in ["CLUSTER REPLICAS nosuch", "CLUSTER COUNT-FAILURE-REPORTS nosuch", "CLUSTER KEYSLOT", "READONLY"] {
            let (theirs, ours) = ask(line);
            assert_eq!(ours, theirs, "{line}");
        }
        assert_eq!(through.line(&format!("CLUSTER REPLICAS {}", ours.text())), V::Array(vec![]));
        assert!(matches!(through.line("ASKING"), V::Error(text) if text.starts_with("NOPERM")));
        assert!(matches!(through.line("CLUSTER RESET"), V::Error(text) if text.starts_with("NOPERM")));
        // What is told of the whole is told as it is.
        assert!(through.line("CLUSTER INFO").text().contains("cluster_state:ok"));
        assert!(through.line("INFO cluster").text().contains("cluster_enabled:1"));
    }
}

/// Takes the shard's name out of CLUSTER SHARDS.
fn drop_shard_names(reply: &mut V) {
    let V::Array(shards) = reply else { return };
    for shard in shards {
        match shard {
            V::Map(pairs) => pairs.retain(|(key, _)| *key != V::bulk("id")),
            V::Array(flat) if flat.first() == Some(&V::bulk("slots")) => flat.truncate(4),
            _ => {}
        }
    }
}

#[test]
fn before_redis_it_is_told_as_by_one_node() {
    is_told_as_by_one_node(Kind::Redis);
}

#[test]
fn before_valkey_it_is_told_as_by_one_node() {
    is_told_as_by_one_node(Kind::Valkey);
}

#[test]
fn keys_of_a_slot_are_asked_of_its_owner() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    for at in 0..3 {
        let key = cluster.key_on(at, "k");
        let slot = cluster.slot(&key);
        assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
        assert_eq!(client.line(&format!("CLUSTER COUNTKEYSINSLOT {slot}")), V::Int(1));
        assert_eq!(client.line(&format!("CLUSTER GETKEYSINSLOT {slot} 10")), V::Array(vec![V::bulk(&key)]));
        assert_eq!(client.line(&format!("CLUSTER KEYSLOT {key}")), V::Int(slot.into()));
    }
}

#[test]
fn a_client_on_a_connection_of_its_own_is_told_the_same() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    let slots = client.line("CLUSTER SLOTS");
    assert_eq!(slots.items().len(), 1);
    assert_eq!(client.line("WATCH k"), V::Simple("OK".into()));
    assert_eq!(client.line("CLUSTER SLOTS"), slots);
    assert_eq!(client.line("READONLY"), V::Simple("OK".into()));
    assert_eq!(client.line("UNWATCH"), V::Simple("OK".into()));
    let mut listener = sidecar.conn3();
    listener.line("SUBSCRIBE news");
    assert_eq!(listener.line("CLUSTER MYID"), client.line("CLUSTER MYID"));
}

/// Queued, they would be answered by a real node.
#[test]
fn what_tells_of_the_nodes_spoils_a_transaction() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    let is_refused = |reply: &V, name: &str| {
        let text = format!("ERR sidecache: '{name}' is not possible in a transaction");
        assert!(matches!(reply, V::Error(error) if error.starts_with(&text)), "{reply:?}");
    };
    let names = ["cluster slots", "cluster nodes", "cluster shards", "cluster myid", "readonly"];
    for (at, name) in names.into_iter().enumerate() {
        let line = name.to_uppercase();
        // In one write or line by line, with the node known already or not.
        let lines = if at % 2 == 0 { vec!["MULTI", &line, "EXEC"] } else { vec!["MULTI", "SET k 1", &line, "EXEC"] };
        let together = client.pipeline(&lines);
        let apart: Vec<V> = lines.iter().map(|line| client.line(line)).collect();
        for replies in [together, apart] {
            is_refused(&replies[lines.len() - 2], name);
            let end = &replies[lines.len() - 1];
            assert!(matches!(end, V::Error(error) if error.starts_with("EXECABORT ")), "{end:?}");
        }
    }
    assert_eq!(client.line("EXISTS k"), V::Int(0));
    let slot = client.line("CLUSTER KEYSLOT k");
    assert_eq!(client.pipeline(&["MULTI", "CLUSTER KEYSLOT k", "EXEC"])[2], V::Array(vec![slot]));
}

#[test]
fn the_client_of_a_unix_socket_is_sent_where_it_is() {
    let cluster = Cluster::start(Kind::Redis, 3, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let slots = Conn::open(sidecar.socket()).line("CLUSTER SLOTS");
    let node = slots.items()[0].items()[2].items();
    assert_eq!((&node[0], &node[1]), (&V::Nil, &V::Int(0)));
}

#[test]
fn info_and_metrics_tell_of_the_nodes_that_there_are() {
    let mut cluster = Cluster::start(Kind::Redis, 2, 1);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let mut client = sidecar.conn();
    let key = cluster.key_on(1, "k");
    client.line(&format!("GET {key}"));
    let told = |client: &mut Conn, wanted: &str| {
        eventually(wanted, || client.line("INFO sidecache").text().contains(wanted));
    };
    told(&mut client, "sidecache_nodes:4\r\nsidecache_masters:2\r\nsidecache_slots_unowned:0\r\n");
    let [master, replica] = [1, 3].map(|at| format!("address={},id={}", cluster.node(at).addr(), cluster.id(at)));
    told(&mut client, &format!("{master},role=master,slots=8192,lanes=1,leased="));
    told(&mut client, &format!("{replica},role=replica,master={},lanes=0", cluster.node(1).addr()));
    eventually("the metrics tell", || sidecar.metric("sidecache_nodes{role=\"replica\"}") == 2.0);
    assert_eq!(sidecar.metric("sidecache_nodes{role=\"master\"}"), 2.0);
    assert_eq!(sidecar.metric("sidecache_slots_unowned"), 0.0);

    // One comes with a slot, and leaves again.
    let slot = cluster.slot(&key);
    let guest = cluster.add();
    cluster.migrate_slot(slot, 1, guest);
    told(&mut client, &format!("address={},id={},role=master,slots=1", cluster.node(guest).addr(), cluster.id(guest)));
    cluster.migrate_slot(slot, guest, 1);
    cluster.forget(guest);
    told(&mut client, "sidecache_nodes:4\r\nsidecache_masters:2\r\n");
    eventually("the metrics tell", || sidecar.metric("sidecache_nodes{role=\"master\"}") == 2.0);
}

/// One node would tell of its own keys alone, and the others' could not be read on its connection.
#[test]
fn tracking_is_refused_and_what_is_read_then_is_no_less_right() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = Sidecar::start(&cluster, PATIENT);
    let keys = [0, 1].map(|at| cluster.key_on(at, "k"));
    let mut client = Conn::open3(sidecar.addr());
    let refused = |reply: V| {
        let text = "ERR sidecache: 'client tracking' is not possible in front of a cluster";
        assert!(matches!(&reply, V::Error(error) if error.starts_with(text)), "{reply:?}");
    };
    for (words, over) in [("", ""), (" BCAST PREFIX k", ""), ("", "WATCH"), ("", "MULTI")] {
        match over {
            "WATCH" => drop(client.line(&format!("WATCH {}", keys[0]))),
            "MULTI" => drop([client.line("MULTI"), client.line(&format!("GET {}", keys[0]))]),
            _ => {}
        }
        refused(client.line(&format!("CLIENT TRACKING on{words}")));
        match over {
            "WATCH" => assert_eq!(client.line("UNWATCH"), V::Simple("OK".into())),
            "MULTI" => assert!(matches!(client.line("EXEC"), V::Error(text) if text.starts_with("EXECABORT"))),
            _ => {}
        }
        for key in &keys {
            assert_eq!(client.line(&format!("SET {key} 1")), V::Simple("OK".into()));
            assert_eq!(client.line(&format!("GET {key}")), V::bulk("1"));
        }
    }
    assert_eq!(client.line("CLIENT TRACKING off"), V::Simple("OK".into()));
}
