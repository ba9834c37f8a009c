//! News never overtakes: whoever hears of an outside write by a message, an event, a popped element, a
//! transaction's result, and then reads through any connection of the sidecar, sees that write.
//!
//! The lanes are slow here and nothing else is, so that every kind of news comes long before the push does.

use std::time::Duration;

use crate::coherence::stage::{Stage, with_workers};
use crate::support::link::Connection;
use crate::support::{Conn, Dir, Server, V, eventually};

/// How late lanes are, in milliseconds.
const LATE: [u64; 3] = [20, 400, 100];

/// A way to hear of a write: what it is called, how to listen for it, what to do from outside behind the write, and
/// how to wait for the news.
struct Way {
    name: &'static str,
    /// Whether the hearer is blocked upstream.
    waits: bool,
    /// Prepares the server and the hearer; may leave a command waiting.
    listen: fn(&Server, &mut Conn),
    /// Sent by the outside writer, behind its SET on the same connection.
    tell: &'static str,
    /// Returns when the hearer knows.
    hear: fn(&mut Conn),
}

/// What dedicated connections bring.
const BY_DEDICATED: [Way; 8] = [
    Way {
        name: "a message",
        waits: false,
        listen: |_, c| subscribe(c, "SUBSCRIBE ch"),
        tell: "PUBLISH ch x",
        hear: message,
    },
    Way {
        name: "a pattern's message",
        waits: false,
        listen: |_, c| subscribe(c, "PSUBSCRIBE c*"),
        tell: "PUBLISH ch x",
        hear: message,
    },
    Way {
        name: "a keyspace event",
        waits: false,
        listen: |server, c| {
            server.outside("CONFIG SET notify-keyspace-events KEA");
            subscribe(c, "SUBSCRIBE __keyspace@0__:k");
        },
        tell: "PING",
        hear: message,
    },
    Way {
        name: "an element by BLPOP",
        waits: true,
        listen: |_, c| c.send(&["BLPOP", "queue", "0"]),
        tell: "RPUSH queue x",
        hear: popped,
    },
    Way {
        name: "an entry by XREAD BLOCK",
        waits: true,
        listen: |_, c| c.send(&["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"]),
        tell: "XADD stream * f x",
        hear: popped,
    },
    Way {
        name: "a transaction's result, line by line",
        waits: false,
        listen: |_, c| {
            c.line("MULTI");
            c.line("GET token");
        },
        tell: "SET token x",
        hear: |c| {
            c.send(&["EXEC"]);
            assert_eq!(c.value(), V::Array(vec![V::bulk("x")]));
        },
    },
    Way {
        name: "a read while watching",
        waits: false,
        listen: |_, c| {
            c.line("WATCH w");
        },
        tell: "SET token x",
        hear: |c| assert_eq!(c.line("GET token"), V::bulk("x")),
    },
    Way {
        name: "a watched key's change",
        waits: false,
        listen: |_, c| {
            c.line("WATCH token");
            c.line("MULTI");
        },
        tell: "SET token y",
        hear: |c| assert_eq!(c.line("EXEC"), V::Nil),
    },
];

/// What lanes bring that others may not yet have read.
const BY_LANE: [Way; 5] = [
    Way {
        name: "an element by LPOP",
        waits: false,
        listen: |_, _| {},
        tell: "RPUSH queue x",
        hear: |c| assert_eq!(c.line("LPOP queue"), V::bulk("x")),
    },
    Way {
        name: "a transaction's result",
        waits: false,
        listen: |_, _| {},
        tell: "SET token x",
        hear: |c| {
            let replies = c.pipeline(&["MULTI", "GET token", "EXEC"]);
            assert_eq!(replies[2], V::Array(vec![V::bulk("x")]));
        },
    },
    Way {
        name: "a script's result",
        waits: false,
        listen: |_, _| {},
        tell: "SET token x",
        hear: |c| assert_eq!(c.ask(&["EVAL", "return redis.call('get','token')", "0"]), V::bulk("x")),
    },
    // Too large to be passed on as a whole.
    Way {
        name: "a large value by GETDEL",
        waits: false,
        listen: |_, _| {},
        tell: "EVAL redis.call('set','token',string.rep('x',600000)) 0",
        hear: |c| assert_eq!(c.line("GETDEL token").text().len(), 600_000),
    },
    Way {
        name: "a script's large result",
        waits: false,
        listen: |_, _| {},
        tell: "EVAL redis.call('set','token',string.rep('x',600000)) 0",
        hear: |c| assert_eq!(c.ask(&["EVAL", "return redis.call('get','token')", "0"]).text().len(), 600_000),
    },
];

fn subscribe(client: &mut Conn, line: &str) {
    client.line(line);
}

fn message(client: &mut Conn) {
    assert!(client.value().items()[0].text().ends_with("message"));
}

fn popped(client: &mut Conn) {
    assert!(matches!(client.value(), V::Array(_)));
}

/// Clients on every worker as two users in database 0, and in database 1.
fn everywhere(stage: &Stage) -> (Vec<Conn>, Vec<Conn>) {
    (stage.readers(), (0..stage.threads).map(|_| stage.client_in(1)).collect())
}

fn heard_of(stage: &Stage, way: &Way, late: u64, hearer_db: u32) {
    let why = format!("{} at {late} ms", way.name);
    let mut writer = stage.server.conn();
    writer.pipeline(&["FLUSHALL", "SET k old", "SELECT 1", "SET k old", "SELECT 0"]);
    let (mut here, mut there) = everywhere(stage);
    stage.warm(&mut here, "GET k", &V::bulk("old"));
    stage.warm(&mut there, "GET k", &V::bulk("old"));
    let mut hearer = stage.client_in(hearer_db);
    (way.listen)(&stage.server, &mut hearer);
    if way.waits {
        eventually("the hearer waits", || stage.server.info("clients")["blocked_clients"] == "1");
    }
    stage.slow_lanes(Duration::from_millis(late));
    if hearer_db > 0 {
        let theirs = |lane: &Connection| lane.said(Dir::ToServer, &format!("SELECT\r\n$1\r\n{hearer_db}"));
        stage.link.those(theirs).iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::ZERO));
    }
    let back = format!("SELECT {hearer_db}");
    writer.pipeline(&["SELECT 1", "SET k new", "SELECT 0", "SET k new", &back, way.tell]);
    (way.hear)(&mut hearer);
    stage.all_see(&mut here, "GET k", &V::bulk("new"), &why);
    stage.all_see(&mut there, "GET k", &V::bulk("new"), &why);
    stage.quick();
}

#[test]
fn who_hears_of_a_write_by_a_dedicated_connection_sees_it_through_any_connection() {
    with_workers("", |stage| {
        for (way, late) in BY_DEDICATED.iter().zip(LATE.into_iter().cycle()) {
            heard_of(stage, way, late, 0);
        }
    });
}

#[test]
fn who_hears_of_a_write_by_a_lane_sees_it_through_any_other() {
    with_workers("", |stage| {
        for (way, late) in BY_LANE.iter().zip(LATE.into_iter().cycle()) {
            // Nobody reads k in database 2: no push there bumps what all workers share.
            heard_of(stage, way, late, 2);
        }
    });
}
