//! What CLUSTER SLOTS, SHARDS, NODES, MYID, INFO and KEYSLOT say in front of a cluster: this sidecache is one master that
//! owns all slots, so that clients made for clusters send everything here.
//!
//! *Invariant:* the shapes are those of Redis 7.0 for a cluster of one node, in RESP2 and RESP3. Pure: bytes out. Not here:
//! who asks, and which address a client is told.

use std::net::IpAddr;

use bytes::BytesMut;

use crate::protocol::{Value, encode};
use crate::upstream::slots::{SLOTS, key_slot};

/// From a node's port to that of its cluster bus, which nobody connects to here.
const BUS: u16 = 10_000;

/// The node that we are to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneNode {
    host: String,
    port: u16,
    id: String,
}

// === impl OneNode ===

impl OneNode {
    /// The node at this address, which must be one that the client can reach: an IPv6 address without brackets. Its id is
    /// made up of the address, the same in every process.
    pub fn new(host: &str, port: u16) -> OneNode {
        OneNode { host: host.to_owned(), port, id: made_up_id(host, port) }
    }

    /// CLUSTER MYID.
    pub fn my_id(&self, out: &mut BytesMut) {
        encode::bulk(out, self.id.as_bytes());
    }

    /// CLUSTER SLOTS.
    pub fn slots(&self, out: &mut BytesMut, resp3: bool) {
        let more = Value::Map(Vec::new());
        let node = Value::Array(vec![bulk(&self.host), Value::Integer(self.port.into()), bulk(&self.id), more]);
        let [first, last] = range();
        encode::value(out, &Value::Array(vec![Value::Array(vec![first, last, node])]), resp3);
    }

    /// CLUSTER SHARDS.
    pub fn shards(&self, out: &mut BytesMut, resp3: bool) {
        let mut node = vec![
            ("id", bulk(&self.id)),
            ("port", Value::Integer(self.port.into())),
            ("ip", bulk(self.ip())),
            ("endpoint", bulk(&self.host)),
        ];
        node.extend(self.hostname().map(|name| ("hostname", bulk(name))));
        node.extend([("role", bulk("master")), ("replication-offset", Value::Integer(0)), ("health", bulk("online"))]);
        let nodes = Value::Array(vec![map(node)]);
        let shard = map(vec![("slots", Value::Array(range().into())), ("nodes", nodes)]);
        encode::value(out, &Value::Array(vec![shard]), resp3);
    }

    /// CLUSTER NODES.
    pub fn nodes(&self, out: &mut BytesMut, resp3: bool) {
        let OneNode { port, id, .. } = self;
        let bus = port.checked_add(BUS).unwrap_or_default();
        let name = self.hostname().map(|name| format!(",{name}")).unwrap_or_default();
        let ip = self.ip();
        let last = SLOTS - 1;
        let line = format!("{id} {ip}:{port}@{bus}{name} myself,master - 0 0 0 connected 0-{last}\n");
        encode::verbatim(out, line.as_bytes(), resp3);
    }

    fn ip(&self) -> &str {
        if self.hostname().is_none() { &self.host } else { "" }
    }

    fn hostname(&self) -> Option<&str> {
        self.host.parse::<IpAddr>().is_err().then_some(&self.host)
    }
}

/// CLUSTER INFO.
pub fn info(out: &mut BytesMut, resp3: bool) {
    let text = format!(
        "cluster_state:ok\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:0\r\n\
         cluster_my_epoch:0\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n"
    );
    encode::verbatim(out, text.as_bytes(), resp3);
}

/// CLUSTER KEYSLOT.
pub fn slot_of(key: &[u8], out: &mut BytesMut) {
    encode::integer(out, key_slot(key).into());
}

fn range() -> [Value; 2] {
    [Value::Integer(0), Value::Integer((SLOTS - 1).into())]
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.into())
}

fn map(fields: Vec<(&str, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (bulk(name), value)).collect())
}

/// 40 hex digits, as clusters have them, by FNV-1a with three starts.
fn made_up_id(host: &str, port: u16) -> String {
    let address = format!("{host}:{port}");
    let hash = |start: u64| {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        address.bytes().fold(0xcbf2_9ce4_8422_2325 ^ start, step)
    };
    let mut id = format!("{:016x}{:016x}{:016x}", hash(0), hash(1), hash(2));
    id.truncate(40);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::decode;
    use crate::upstream::slots::SlotMap;

    /// As Redis 7.0.15 answers when it is a cluster of one node, blanks for line ends; ADDR is the host, ID the id.
    const SLOTS2: &str = "*1 *3 :0 :16383 *4 $9 ADDR :17993 $40 ID *0 ";
    const SHARDS2: &str = "*1 *4 $5 slots *2 :0 :16383 $5 nodes *1 *14 $2 id $40 ID $4 port :17993 $2 ip $9 ADDR $8 endpoint $9 ADDR $4 role $6 master $18 replication-offset :0 $6 health $6 online ";
    const SHARDS_NAMED: &str = "*1 %2 $5 slots *2 :0 :16383 $5 nodes *1 %8 $2 id $40 ID $4 port :17993 $2 ip $0  $8 endpoint $9 h.example $8 hostname $9 h.example $4 role $6 master $18 replication-offset :0 $6 health $6 online ";

    fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    }

    fn expected(text: &str, node: &OneNode) -> String {
        text.replace("ADDR", "127.0.0.1").replace("ID", &node.id).replace(' ', "\r\n")
    }

    #[test]
    fn the_shapes_are_a_real_server_s() {
        let node = OneNode::new("127.0.0.1", 17993);
        let text = |write: &dyn Fn(&mut BytesMut)| String::from_utf8(written(write)).unwrap();
        assert_eq!(text(&|out| node.slots(out, false)), expected(SLOTS2, &node));
        assert_eq!(text(&|out| node.slots(out, true)), expected(&SLOTS2.replace("*0", "%0"), &node));
        assert_eq!(text(&|out| node.shards(out, false)), expected(SHARDS2, &node));
        let resp3 = SHARDS2.replace("*14", "%7").replace("*4", "%2");
        assert_eq!(text(&|out| node.shards(out, true)), expected(&resp3, &node));
        let named = OneNode::new("h.example", 17993);
        assert_eq!(text(&|out| named.shards(out, true)), expected(SHARDS_NAMED, &named));

        let line = format!("{} 127.0.0.1:17993@27993 myself,master - 0 0 0 connected 0-16383\n", node.id);
        assert_eq!(text(&|out| node.nodes(out, false)), format!("${}\r\n{line}\r\n", line.len()));
        assert_eq!(text(&|out| node.nodes(out, true)), format!("={}\r\ntxt:{line}\r\n", line.len() + 4));
        assert!(text(&|out| named.nodes(out, false)).contains(" :17993@27993,h.example myself"));
        assert_eq!(text(&|out| node.my_id(out)), format!("$40\r\n{}\r\n", node.id));
        assert_eq!(text(&|out| slot_of(b"foo", out)), ":12182\r\n");
        // As long as the server's own.
        assert!(text(&|out| info(out, false)).starts_with("$312\r\ncluster_state:ok\r\n"));
        assert!(text(&|out| info(out, true)).starts_with("=316\r\ntxt:cluster_state:ok\r\n"));
    }

    #[test]
    fn a_client_reads_a_map_of_one_node_that_owns_all() {
        for host in ["127.0.0.1", "::1", "h.example"] {
            let node = OneNode::new(host, 6380);
            for resp3 in [false, true] {
                let slots = SlotMap::from_slots(&decode(&written(|out| node.slots(out, resp3))).unwrap()).unwrap();
                let shards = SlotMap::from_shards(&decode(&written(|out| node.shards(out, resp3))).unwrap()).unwrap();
                assert_eq!((slots.check(), &slots), (Ok(()), &shards));
                let master = &slots.shards[0].master;
                assert_eq!((master.host.as_deref(), master.port), (Some(host), 6380));
            }
        }
    }

    #[test]
    fn an_id_is_the_address_s_own() {
        let id = |host, port| OneNode::new(host, port).id;
        assert_eq!(id("127.0.0.1", 6380), id("127.0.0.1", 6380));
        assert_ne!(id("127.0.0.1", 6380), id("127.0.0.1", 6381));
        assert_ne!(id("127.0.0.1", 6380), id("127.0.0.2", 6380));
        let digits = id("h", 1);
        assert!(digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
