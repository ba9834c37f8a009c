//! What is refused by default: every such row, in every way it can be told, and what the error says.
//!
//! That each of them is upstream's own once the configuration allows it, the matrix itself shows.

use sidecache::command::index;

use super::ways::{NO_ARGS, PATIENT, refused_by_default};
use crate::support::redis::Kind;
use crate::support::resp::{decode, encode};
use crate::support::{Server, Sidecar, V};

#[test]
fn what_is_refused_by_default_is_refused_in_every_way() {
    let server = Server::with(Kind::Valkey, &[]);
    let sidecar = Sidecar::start(&server, PATIENT);
    server.reset_calls();
    for mut conn in [sidecar.conn(), sidecar.conn3()] {
        for name in refused_by_default() {
            let words: Vec<&str> = name.split('|').chain(["x", "x"]).collect();
            let shown = name.replace('|', " ");
            let is_refusal = |reply: &V| {
                let text = reply.text();
                let begin = format!("NOPERM sidecache: '{shown}' is refused: ");
                assert!(text.starts_with(&begin) && text.ends_with("; to allow it, add it to client.allow"), "{text}");
            };
            is_refusal(&conn.ask(&words));
            let block = [encode(&["MULTI"]), encode(&words), encode(&["EXEC"])];
            conn.send_raw(&block.concat());
            let whole = [conn.value(), conn.value(), conn.value()];
            let pieces = block.map(|bytes| {
                conn.send_raw(&bytes);
                decode(&conn.read_frame()).unwrap().0
            });
            for [multi, refused, exec] in [whole, pieces] {
                assert_eq!(multi, V::Simple("OK".into()), "{name}");
                is_refusal(&refused);
                assert!(exec.text().starts_with("EXECABORT "), "{name}: {exec:?}");
            }
        }
    }
    for name in refused_by_default() {
        assert_eq!(server.calls(name), 0, "{name} has reached upstream");
    }
}

#[test]
fn nothing_is_refused_by_default_for_its_arguments() {
    // Else the two lists of what is refused would not be all of it.
    for row in index::rows() {
        let by_name = refused_by_default().contains(&row.name);
        assert_eq!(row.class(&NO_ARGS) == sidecache::telemetry::labels::Class::Refused, by_name, "{}", row.name);
    }
}
