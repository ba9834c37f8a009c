//! Own writes behind slow connections: what others have filled while a write was on its way is gone before anybody is
//! told of the write, however it ends.

use std::sync::Arc;

use crate::coherence::stage::Stage;
use crate::support::link::Connection;
use crate::support::resp::{encode, words};
use crate::support::{Conn, Dir, Kind, V, eventually};

/// A lease that outlasts the test, and patience that no busy machine uses up.
const PATIENT: &str = "cache.max_staleness = '1m'\nupstream.command_timeout = '60s'\nupstream.connect_timeout = '20s'";

/// A way to write `k` in one command: what is said before it, the command, and by what its connection is known.
struct Way {
    before: &'static str,
    command: &'static str,
    connection: &'static str,
}

/// By the lane, by a connection of the client's own, and to all keys at once.
const WAYS: [Way; 3] = [
    Way { before: "PING", command: "SET k new", connection: "TRACKING" },
    Way { before: "WATCH other", command: "SET k new", connection: "WATCH" },
    Way { before: "PING", command: "SWAPDB 0 1", connection: "TRACKING" },
];

fn ok() -> V {
    V::Simple("OK".into())
}

fn old() -> V {
    V::bulk("old")
}

fn new() -> V {
    V::bulk("new")
}

/// One worker; `k` is old, and new in the next database. The reader's lane is its own.
fn stage() -> (Stage, [Conn; 1], Arc<Connection>) {
    let stage = Stage::new(Kind::Redis, 1, PATIENT);
    stage.server.conn().pipeline(&["SET k old", "SELECT 1", "SET k new"]);
    let reader = [stage.readers().pop().unwrap()];
    let lanes = stage.lanes();
    let lane = lanes.iter().find(|lane| lane.said(Dir::ToServer, "secret")).unwrap();
    let lane = Arc::clone(lane);
    (stage, reader, lane)
}

/// The writer's connection, when it has said what stands before the write.
fn begin(stage: &Stage, way: &Way) -> (Conn, Arc<Connection>) {
    let mut writer = stage.sidecar.conn();
    assert!(!matches!(writer.line(way.before), V::Error(_)));
    let is = |c: &Connection| c.said(Dir::ToServer, way.connection) && !c.said(Dir::ToServer, "secret");
    let mut connections = stage.link.those(is);
    assert_eq!(connections.len(), 1);
    (writer, connections.pop().unwrap())
}

/// Sends the write, which gets no further than the link; meanwhile the reader keeps what it finds. Pushes do not reach
/// the reader's lane from here on.
fn overtaken(
    stage: &Stage,
    way: &Way,
    writer: &mut Conn,
    connection: &Connection,
    reader: &mut [Conn; 1],
    lane: &Connection,
) {
    connection.hold(Dir::ToServer);
    let before = connection.bytes(Dir::ToServer);
    writer.send(&words(way.command));
    eventually("it is on its way", || connection.bytes(Dir::ToServer) >= before + way.command.len() as u64);
    stage.warm(reader, "GET k", &old());
    stage.server.reset_calls();
    lane.hold(Dir::ToClient);
}

/// The reader's next read is answered by upstream.
fn is_fetched(stage: &Stage, reader: &mut [Conn; 1], lane: &Connection) {
    reader[0].send(&["GET", "k"]);
    eventually("it is fetched anew", || stage.server.calls("get") == 1);
    lane.resume(Dir::ToClient);
    assert_eq!(reader[0].value(), new());
}

#[test]
fn a_read_behind_a_write_of_its_key_goes_out_with_it() {
    for (write, value) in [("SET k new", new()), ("FLUSHDB", V::Nil), ("SWAPDB 0 1", new())] {
        let (stage, mut reader, lane) = stage();
        stage.warm(&mut reader, "GET k", &old());
        stage.server.reset_calls();
        lane.hold(Dir::ToClient);
        reader[0].send_raw(&[encode(&words(write)), encode(&["GET", "k"])].concat());
        eventually("the read waits for no reply", || stage.server.calls("get") == 1);
        lane.resume(Dir::ToClient);
        assert_eq!((reader[0].value(), reader[0].value()), (ok(), value), "{write}");
    }
}

#[test]
fn nobody_joins_a_fetch_from_before_an_own_write() {
    for way in WAYS {
        let (stage, mut reader, lane) = stage();
        let mut other = stage.readers().pop().unwrap();
        let (mut writer, _) = begin(&stage, &way);
        stage.server.reset_calls();
        lane.hold(Dir::ToClient);
        reader[0].send(&["GET", "k"]);
        eventually("it is executed", || stage.server.calls("get") == 1);
        assert_eq!(writer.line(way.command), ok());
        other.send(&["GET", "k"]);
        eventually("another fetch is", || stage.server.calls("get") == 2);
        lane.resume(Dir::ToClient);
        assert_eq!((reader[0].value(), other.value()), (old(), new()));
    }
}

#[test]
fn what_was_filled_while_a_write_was_on_its_way_is_gone_at_its_reply() {
    for way in WAYS {
        let (stage, mut reader, lane) = stage();
        let (mut writer, connection) = begin(&stage, &way);
        overtaken(&stage, &way, &mut writer, &connection, &mut reader, &lane);
        connection.resume(Dir::ToServer);
        assert_eq!(writer.value(), ok());
        is_fetched(&stage, &mut reader, &lane);
    }
}

#[test]
fn what_was_filled_while_a_write_was_on_its_way_is_gone_when_that_fails() {
    for way in WAYS {
        let (stage, mut reader, lane) = stage();
        stage.sidecar.allow_log("lane lost");
        let (mut writer, connection) = begin(&stage, &way);
        overtaken(&stage, &way, &mut writer, &connection, &mut reader, &lane);
        connection.hold(Dir::ToClient);
        connection.resume(Dir::ToServer);
        eventually("it is executed", || stage.server.calls(&words(way.command)[0].to_lowercase()) == 1);
        connection.cut();
        assert!(matches!(writer.value(), V::Error(text) if text.contains("may have been executed")));
        is_fetched(&stage, &mut reader, &lane);
    }
}

#[test]
fn what_was_filled_between_queueing_and_execution_is_gone_at_exec() {
    // No push tells of it.
    let stage = Stage::new(Kind::Redis, 1, "cache.mode = 'ttl'\ncache.ttl_mode_age = '1m'");
    stage.server.outside("SET k old");
    let (mut writer, mut reader) = (stage.sidecar.conn(), [stage.sidecar.conn()]);
    assert_eq!(writer.line("MULTI"), ok());
    assert_eq!(writer.line("SET k new"), V::Simple("QUEUED".into()));
    stage.warm(&mut reader, "GET k", &old());
    assert_eq!(writer.line("EXEC"), V::Array(vec![ok()]));
    assert_eq!(reader[0].line("GET k"), new());
}
