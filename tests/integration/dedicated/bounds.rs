//! How long is waited, how much is read, and what becomes of what was given up.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{in_use, ok, send_all};
use crate::support::link::Dir;
use crate::support::resp::{encode, words};
use crate::support::sidecar::Upstream;
use crate::support::wait::PATIENCE;
use crate::support::{Link, Server, Sidecar, V, eventually};

/// Patience that a test can outwait, and that no standstill of a busy machine uses up.
const SHORT: &str = "upstream.command_timeout = '4s'";

fn short(upstream: &(impl Upstream + ?Sized)) -> Sidecar {
    let sidecar = Sidecar::start(upstream, SHORT);
    sidecar.allow_log("lane lost");
    sidecar.allow_log("no connection to upstream");
    sidecar
}

#[test]
fn requests_of_megabytes_pass_inside_a_conversation() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "");
    let large = "x".repeat(3 << 20);
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH k"), ok());
    assert_eq!(conn.ask(&["SET", "other", &large]), ok());
    let block = [encode(&["MULTI"]), encode(&["SET", "k", &large]), encode(&["EXEC"]), encode(&words("STRLEN k"))];
    conn.send_raw(&block.concat());
    let replies: Vec<V> = (0..4).map(|_| conn.value()).collect();
    let wanted = [ok(), V::Simple("QUEUED".into()), V::Array(vec![ok()]), V::Int(3 << 20)];
    assert!(replies == wanted);
    let mut reader = sidecar.conn3();
    reader.line("SUBSCRIBE c");
    assert_eq!(reader.ask(&["SET", "k", &large]), ok());
}

#[test]
fn what_waits_for_others_may_wait_in_a_conversation_and_all_else_may_not() {
    let server = Server::redis();
    let sidecar = short(&server);
    let mut waiting = sidecar.conn();
    assert_eq!(waiting.line("WATCH k"), ok());
    send_all(&mut waiting, &["BLPOP q 5", "GET k"]);
    assert_eq!(waiting.value(), V::Nil);
    assert_eq!(waiting.value(), V::Nil);
    let mut subscriber = sidecar.conn3();
    subscriber.line("SUBSCRIBE c");
    server.stop();
    subscriber.send(&["GET", "k"]);
    let text = subscriber.value().text();
    assert!(text.starts_with("ERR sidecache: "), "{text}");
    server.cont();
    // The subscription has nothing to do with it.
    eventually("upstream answers again", || sidecar.conn().line("SET k v") == ok());
    server.outside("PUBLISH c m");
    assert_eq!(subscriber.value().items()[2], V::bulk("m"));
}

#[test]
fn a_silent_client_in_a_conversation_is_idle_and_one_that_waits_to_be_told_is_not() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "client.idle_timeout = '5s'");
    let mut told = [sidecar.conn(), sidecar.conn(), sidecar.conn()];
    for (conn, line) in told.iter_mut().zip(["SUBSCRIBE c", "MONITOR", "BLPOP q 0"]) {
        conn.send(&words(line));
    }
    assert_eq!(told[0].value().items()[0], V::bulk("subscribe"));
    assert_eq!(told[1].value(), ok());
    let mut silent = [sidecar.conn(), sidecar.conn()];
    assert_eq!((silent[0].line("WATCH k"), silent[1].line("MULTI")), (ok(), ok()));
    silent.iter_mut().for_each(|conn| conn.expect_closed());
    assert_eq!(sidecar.metric("sidecache_clients_closed_total{reason=\"idle\"}"), 2.0);
    eventually("their connections are closed", || in_use(&sidecar, "transaction") == 0.0);
    server.outside("PUBLISH c m");
    assert_eq!(told[0].value().items()[2], V::bulk("m"));
    server.outside("RPUSH q 1");
    assert_eq!(told[2].value(), V::Array(vec![V::bulk("q"), V::bulk("1")]));
    assert!(matches!(told[1].value(), V::Simple(_)));
}

/// A server's address that reads what is large slowly until it may go on, and tells how much of it came.
fn slow_reader(server: &Server, may: Receiver<()>) -> (String, Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, target) = (format!("redis://{}", listener.local_addr().unwrap()), server.addr());
    let (tell, told) = channel();
    let may = Arc::new(Mutex::new(may));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut from, mut to) = (client.unwrap(), TcpStream::connect(target).unwrap());
            let (mut back, mut answers) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let (tell, may) = (tell.clone(), Arc::clone(&may));
            std::thread::spawn(move || {
                let (mut chunk, mut large, mut slow) = ([0; 16 * 1024], 0, true);
                while let Ok(length @ 1..) = from.read(&mut chunk) {
                    if large == 0 && length < chunk.len() {
                        to.write_all(&chunk[..length]).unwrap();
                    } else {
                        large += length;
                        // A megabyte takes thirteen seconds.
                        slow = slow && may.lock().unwrap().recv_timeout(Duration::from_millis(200)).is_err();
                    }
                }
                if large > 0 {
                    tell.send(large).unwrap();
                }
            });
        }
    });
    (url, told)
}

#[test]
fn a_large_write_that_was_given_up_is_not_delivered_any_more() {
    let server = Server::redis();
    let (let_it_read, may) = channel();
    let (url, told) = slow_reader(&server, may);
    let sidecar = short(url.as_str());
    let mut conn = sidecar.conn();
    // The kernel has taken all of it when patience ends, and would go on delivering it.
    let large = "x".repeat(1 << 20);
    let text = conn.ask(&["SET", "k", &large]).text();
    assert!(text.starts_with("ERR sidecache: "), "{text}");
    eventually("its connection is closed", || in_use(&sidecar, "transaction") == 0.0);
    let_it_read.send(()).unwrap();
    let delivered = told.recv_timeout(PATIENCE).unwrap();
    assert!(delivered < 1 << 20, "{delivered} bytes were delivered");
    assert_eq!([conn.line("SET k new"), conn.line("GET k")], [ok(), V::bulk("new")]);
}

#[test]
fn what_a_lane_that_was_given_up_still_carried_is_not_delivered_any_more() {
    let server = Server::redis();
    let (let_it_read, may) = channel();
    let (url, told) = slow_reader(&server, may);
    let sidecar = short(url.as_str());
    let mut conn = sidecar.conn();
    // Each small enough for the lane; the kernel has taken all of them.
    let writes = encode(&["APPEND", "k", &"x".repeat(60_000)]).repeat(17);
    conn.send_raw(&writes);
    (0..17).for_each(|_| assert!(matches!(conn.value(), V::Error(text) if text.starts_with("ERR sidecache: "))));
    eventually("the lane is given up", || sidecar.metric("sidecache_lane_losses_total") >= 1.0);
    let_it_read.send(()).unwrap();
    let delivered = told.recv_timeout(PATIENCE).unwrap();
    assert!(delivered < writes.len(), "{delivered} bytes of {} were delivered", writes.len());
}

#[test]
fn a_reply_under_way_is_delivered_before_the_process_ends() {
    let server = Server::redis();
    let large = "x".repeat(3 << 20);
    server.conn().call(&["SET", "k", &large]);
    let link = Link::to(server.addr());
    let mut sidecar = Sidecar::start(&link, "client.drain_timeout = '8s'");
    let mut conn = sidecar.conn();
    assert_eq!(conn.line("WATCH watched"), ok());
    let lines = link.those(|link| link.said(Dir::ToServer, "watched"));
    lines[0].hold(Dir::ToClient);
    let before = lines[0].bytes(Dir::ToClient);
    conn.send(&["GET", "k"]);
    eventually("the reply is under way", || lines[0].bytes(Dir::ToClient) > before + (3 << 20));
    sidecar.begin_end();
    eventually("it drains", || TcpStream::connect(sidecar.addr()).is_err() || sidecar.http("/readyz").0 == 503);
    lines[0].resume(Dir::ToClient);
    assert!(conn.value() == V::bulk(&large));
    conn.expect_closed();
    assert!(sidecar.wait_end().success());
}
