//! The cluster that cluster clients see through here: of one node, this sidecar, which owns every slot.
//!
//! *Invariant:* nothing told here names another address than the one that the client has connected to, so that it
//! stays. The node's name is made of that address: the same after a restart, another for another sidecar. Not here:
//! what is told of the real cluster (CLUSTER INFO), which is forwarded.

use std::net::SocketAddr;

use bytes::BytesMut;

use crate::command::Row;
use crate::error::Error;
use crate::protocol::{Args, Value, encode};
use crate::upstream::slots::{SLOTS, key_slot};

/// From a node's port to that of its cluster bus, on which nobody is here.
const BUS: u16 = 10_000;

/// This sidecar, as one of its clients reaches it.
pub struct OneNode {
    /// `None` for a client of a Unix socket: it is to stay where it is, as with Redis's unknown endpoints.
    address: Option<SocketAddr>,
    id: String,
    shard: String,
}

// === impl OneNode ===

impl OneNode {
    /// The node at the address that a client has connected to, as CLIENT LIST has it.
    pub fn at(address: &str) -> OneNode {
        OneNode { address: address.parse().ok(), id: name("node", address), shard: name("shard", address) }
    }

    /// The answer to a command of the cluster's, whose number of arguments is right.
    pub fn answer(&self, row: &Row, args: &Args<'_>, resp3: bool, reply: &mut BytesMut) {
        match row.name {
            "cluster|keyslot" => encode::integer(reply, key_slot(args.get(2).unwrap_or_default()).into()),
            "cluster|myid" => encode::bulk(reply, self.id.as_bytes()),
            "cluster|myshardid" => encode::bulk(reply, self.shard.as_bytes()),
            "cluster|nodes" => encode::verbatim(reply, self.nodes().as_bytes(), resp3),
            "cluster|slots" => encode::value(reply, &self.slots(), resp3),
            "cluster|shards" => encode::value(reply, &self.shards(), resp3),
            // It has no replicas, and nobody to report a failure.
            "cluster|replicas" | "cluster|slaves" if self.is_named(args) => encode::array_header(reply, 0),
            "cluster|count-failure-reports" if self.is_named(args) => encode::integer(reply, 0),
            "readonly" | "readwrite" => encode::simple(reply, "OK"),
            _ => {
                let name = String::from_utf8_lossy(args.get(2).unwrap_or_default()).into_owned();
                encode::error(reply, &Error::UnknownNode(name).to_string());
            }
        }
    }

    fn is_named(&self, args: &Args<'_>) -> bool {
        args.get(2).is_some_and(|name| name == self.id.as_bytes())
    }

    fn host(&self) -> String {
        // A client that speaks IPv4 to a socket of both kinds knows its own kind.
        self.address.map_or_else(String::new, |address| address.ip().to_canonical().to_string())
    }

    fn port(&self) -> u16 {
        self.address.map_or(0, |address| address.port())
    }

    /// Where clients are sent: null sends them where they are.
    fn endpoint(&self) -> Value {
        self.address.map_or(Value::Null, |_| bulk(self.host()))
    }

    fn nodes(&self) -> String {
        let (host, port) = (self.host(), self.port());
        let bus = port.checked_add(BUS).filter(|_| port > 0).unwrap_or_default();
        format!("{} {host}:{port}@{bus} myself,master - 0 0 0 connected 0-{}\n", self.id, SLOTS - 1)
    }

    fn slots(&self) -> Value {
        let known = if self.address.is_some() { Vec::new() } else { vec![(bulk("ip"), bulk(""))] };
        let node = Value::Array(vec![self.endpoint(), integer(self.port()), bulk(self.id.as_str()), Value::Map(known)]);
        Value::Array(vec![Value::Array(vec![integer(0), integer(SLOTS - 1), node])])
    }

    fn shards(&self) -> Value {
        let node = Value::Map(vec![
            (bulk("id"), bulk(self.id.as_str())),
            (bulk("port"), integer(self.port())),
            (bulk("ip"), bulk(self.host())),
            (bulk("endpoint"), self.endpoint()),
            (bulk("role"), bulk("master")),
            (bulk("replication-offset"), integer(0)),
            (bulk("health"), bulk("online")),
        ]);
        let shard = Value::Map(vec![
            (bulk("slots"), Value::Array(vec![integer(0), integer(SLOTS - 1)])),
            (bulk("nodes"), Value::Array(vec![node])),
            (bulk("id"), bulk(self.shard.as_str())),
        ]);
        Value::Array(vec![shard])
    }
}

fn bulk(text: impl Into<String>) -> Value {
    Value::Bulk(text.into().into_bytes())
}

fn integer(number: u16) -> Value {
    Value::Integer(number.into())
}

/// A name as nodes have them: 40 hexadecimal digits, of what and where it is (FNV-1a, with its words stirred in turn).
fn name(what: &str, address: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let words = (0..3).map(|turn: u8| {
        for byte in [what.as_bytes(), address.as_bytes(), &[turn]].concat() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // The high bits hang together with all that has been read, the low ones do not.
        format!("{:016x}", hash ^ hash >> 32)
    });
    words.collect::<String>().chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::look_up;
    use crate::protocol::frame::decode;
    use crate::protocol::{Parsed, RequestParser};
    use crate::upstream::slots::SlotMap;

    fn answer(address: &str, words: &[&str], resp3: bool) -> String {
        let mut request = BytesMut::new();
        encode::request(&mut request, words);
        let mut parser = RequestParser::default();
        assert!(matches!(parser.parse(&request, &crate::limits::AUTHENTICATED), Ok(Parsed::Request { .. })));
        let args = parser.args(&request);
        let mut reply = BytesMut::new();
        OneNode::at(address).answer(look_up(&args).unwrap(), &args, resp3, &mut reply);
        assert!(decode(&reply).is_ok(), "{reply:?}");
        String::from_utf8(reply.to_vec()).unwrap()
    }

    const HERE: &str = "127.0.0.1:6380";

    #[test]
    fn it_owns_all_slots_at_the_address_that_the_client_knows() {
        let id = OneNode::at(HERE).id;
        let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:6380\r\n$40\r\n{id}\r\n");
        assert_eq!(answer(HERE, &["CLUSTER", "SLOTS"], false), format!("{slots}*0\r\n"));
        assert_eq!(answer(HERE, &["cluster", "slots"], true), format!("{slots}%0\r\n"));
        let line = format!("{id} 127.0.0.1:6380@16380 myself,master - 0 0 0 connected 0-16383\n");
        assert_eq!(answer(HERE, &["CLUSTER", "NODES"], false), format!("${}\r\n{line}\r\n", line.len()));
        assert_eq!(answer(HERE, &["CLUSTER", "NODES"], true), format!("={}\r\ntxt:{line}\r\n", line.len() + 4));
        assert_eq!(answer(HERE, &["CLUSTER", "MYID"], false), format!("$40\r\n{id}\r\n"));
        assert!(
            answer(HERE, &["CLUSTER", "SHARDS"], true).starts_with("*1\r\n%3\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n")
        );
        assert!(answer(HERE, &["CLUSTER", "SHARDS"], false).starts_with("*1\r\n*6\r\n$5\r\nslots\r\n"));
    }

    #[test]
    fn a_client_reads_a_map_of_one_node_that_owns_all() {
        for (address, host) in [(HERE, "127.0.0.1"), ("[::1]:6380", "::1")] {
            for resp3 in [false, true] {
                let map = |word| decode(answer(address, &["CLUSTER", word], resp3).as_bytes()).unwrap();
                let slots = SlotMap::from_slots(&map("SLOTS")).unwrap();
                assert_eq!((slots.check(), &slots), (Ok(()), &SlotMap::from_shards(&map("SHARDS")).unwrap()));
                let master = &slots.shards[0].master;
                assert_eq!((master.host.as_deref(), master.port), (Some(host), 6380));
            }
        }
    }

    #[test]
    fn an_address_of_version_6_is_told_as_redis_tells_it() {
        let slots = answer("[::1]:6380", &["CLUSTER", "SLOTS"], false);
        assert!(slots.contains("$3\r\n::1\r\n:6380\r\n"), "{slots}");
        let slots = answer("[::ffff:10.0.0.7]:6380", &["CLUSTER", "SLOTS"], false);
        assert!(slots.contains("$8\r\n10.0.0.7\r\n:6380\r\n"), "{slots}");
    }

    #[test]
    fn the_client_of_a_unix_socket_is_sent_where_it_is() {
        let unix = "/run/sidecache.sock:0";
        let slots = answer(unix, &["CLUSTER", "SLOTS"], false);
        assert!(slots.contains("*4\r\n$-1\r\n:0\r\n$40\r\n"), "{slots}");
        let slots = answer(unix, &["CLUSTER", "SLOTS"], true);
        assert!(
            slots.contains("*4\r\n_\r\n:0\r\n$40\r\n") && slots.ends_with("%1\r\n$2\r\nip\r\n$0\r\n\r\n"),
            "{slots}"
        );
        assert!(answer(unix, &["CLUSTER", "NODES"], false).contains(" :0@0 myself"));
    }

    #[test]
    fn its_name_is_that_of_its_address_whatever_the_process() {
        // Written down: a new version of this program is the same node.
        assert_eq!(OneNode::at(HERE).id, "c956fe965612a1db0983b9ad59e5934f2bc9b5ef");
        let names: std::collections::BTreeSet<String> =
            (0..1000).map(|port| OneNode::at(&format!("127.0.0.1:{port}")).id).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())));
        let node = OneNode::at(HERE);
        assert_ne!(node.id, node.shard);
    }

    #[test]
    fn it_knows_no_other_nodes() {
        let id = OneNode::at(HERE).id;
        assert_eq!(answer(HERE, &["CLUSTER", "REPLICAS", &id], false), "*0\r\n");
        assert_eq!(answer(HERE, &["CLUSTER", "SLAVES", "x"], false), "-ERR Unknown node x\r\n");
        assert_eq!(answer(HERE, &["CLUSTER", "COUNT-FAILURE-REPORTS", &id], false), ":0\r\n");
        assert_eq!(answer(HERE, &["CLUSTER", "COUNT-FAILURE-REPORTS", "x"], false), "-ERR Unknown node x\r\n");
        assert_eq!(answer(HERE, &["CLUSTER", "KEYSLOT", "foo{bar}"], false), ":5061\r\n");
        assert_eq!(answer(HERE, &["READONLY"], false), "+OK\r\n");
    }
}
