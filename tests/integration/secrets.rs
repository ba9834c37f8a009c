//! Passwords appear nowhere: not in logs, INFO, metrics, CLIENT LIST, errors, nor in what `check` prints.

use crate::support::redis::{Kind, Server};
use crate::support::sidecar::Sidecar;

const UPSTREAM: &str = "s3cret-of-upstream";
const CLIENT: &str = "s3cret-of-a-client";

#[test]
fn no_password_is_ever_shown() {
    let server = Server::with(Kind::Redis, &["--requirepass", UPSTREAM]);
    server.outside(&format!("ACL SETUSER app on >{CLIENT} ~* +@all"));
    let url = format!("redis://:{UPSTREAM}@{}", server.addr());
    let sidecar = Sidecar::start(url.as_str(), "[log]\nlevel = \"trace\"\nformat = \"json\"");
    sidecar.allow_log("no connection to upstream");
    sidecar.allow_log("lane lost");
    let mut seen = Vec::new();
    let mut conn = sidecar.conn();
    seen.push(conn.call(&["SET", "k", "v"]));
    seen.push(conn.call(&["AUTH", "app", CLIENT]));
    seen.push(conn.call(&["AUTH", "app", "wrong-but-s3cret"]));
    seen.push(conn.call(&["HELLO", "3", "AUTH", "nobody", "wrong-but-s3cret"]));
    seen.push(conn.call(&["CLIENT", "LIST"]));
    seen.push(conn.call(&["INFO"]));
    server.kill();
    seen.push(conn.call(&["GET", "k"]));
    seen.push(sidecar.http("/metrics").1.into_bytes());
    let logs = format!("{:?}", sidecar.logs());
    let shown: String =
        seen.iter().map(|reply| String::from_utf8_lossy(reply).into_owned()).collect::<String>() + &logs;
    assert!(shown.contains("+OK") && shown.contains("WRONGPASS"), "the commands did their work: {shown}");
    assert!(!shown.contains("s3cret"), "a password is shown: {shown}");
}
