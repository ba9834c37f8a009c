//! A client of the cluster itself that follows MOVED and ASK, or of the master that Sentinels name: what a sidecar is measured by.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::client::Field;
use super::super::history::{MS, Time, now};
use super::super::values::{Words, words};
use crate::support::resp::{decode, encode};
use crate::support::sentinel::SERVICE;
use crate::support::wait::pass;
use crate::support::{Conn, V};

/// How long it tries; as long as sidecars do.
const TRIES: Time = 8_000 * MS;

/// How long it waits for a node, which may stand still.
const NODE: Duration = Duration::from_secs(3);

/// Such a client.
#[derive(Default)]
pub struct Follower {
    conns: HashMap<SocketAddr, Conn>,
    /// By hash tag.
    owners: HashMap<String, SocketAddr>,
    turn: usize,
}

impl Follower {
    /// Has a command executed, and gives the reply's bytes; `None`: it may have been executed or not.
    pub fn ask(&mut self, field: &Arc<Field>, command: &Words) -> Option<Vec<u8>> {
        let terrain = field.terrain.as_ref()?;
        let is_watched = !terrain.sentinels.is_empty();
        // There all keys are the master's.
        let tag = if is_watched { Some(String::new()) } else { tag(command) };
        let begun = now();
        let mut asking = None;
        loop {
            let seeds = terrain.seeds.lock().unwrap().clone();
            let known = tag.as_ref().and_then(|tag| self.owners.get(tag)).copied();
            let known = known.or_else(|| self.master(&terrain.sentinels));
            let late = now() - begun > TRIES;
            if is_watched && known.is_none() && !late {
                self.forget(&tag);
                continue;
            }
            let at = asking.or(known).unwrap_or(seeds[self.turn % seeds.len()]);
            let reply = match is_watched && known.is_none() {
                true => None,
                false => self.conn(at).map(|conn| exchange(conn, command, asking.is_some())),
            };
            let error = match reply {
                Some(Some(frame)) if frame.starts_with(b"-") => frame,
                Some(Some(frame)) => return Some(frame),
                Some(None) => {
                    self.conns.remove(&at);
                    self.forget(&tag);
                    return None;
                }
                None => b"-ERR not sent: no connection\r\n".to_vec(),
            };
            let text = String::from_utf8_lossy(&error).into_owned();
            let parts: Vec<&str> = text.split_whitespace().collect();
            asking = None;
            match (parts[0], parts.get(2).and_then(|addr| addr.parse::<SocketAddr>().ok())) {
                ("-MOVED", Some(addr)) => drop(tag.clone().map(|tag| self.owners.insert(tag, addr))),
                ("-ASK", Some(addr)) => asking = Some(addr),
                ("-TRYAGAIN" | "-CLUSTERDOWN" | "-LOADING" | "-MASTERDOWN" | "-READONLY", _) => self.forget(&tag),
                _ if text.starts_with("-ERR not sent") => self.forget(&tag),
                _ => return Some(error),
            }
            if late {
                let refused = ["-MOVED", "-ASK"].contains(&parts[0]);
                return Some(if refused { b"-ERR not sent: no end of redirects\r\n".to_vec() } else { error });
            }
            pass(Duration::from_millis(1));
        }
    }

    /// Whom one of the Sentinels names, if that says so itself.
    fn master(&mut self, sentinels: &[SocketAddr]) -> Option<SocketAddr> {
        let asked = *sentinels.get(self.turn % sentinels.len().max(1))?;
        let named = self.told(asked, &format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}"))?;
        let V::Array(words) = named else { return None };
        let [host, port] = &words[..] else { return None };
        let master = format!("{}:{}", host.text(), port.text()).parse().ok()?;
        let V::Array(role) = self.told(master, "ROLE")? else { return None };
        if *role.first()? != V::bulk("master") {
            // Its next connection may be to another server of that address.
            self.conns.remove(&master);
            return None;
        }
        self.owners.insert(String::new(), master);
        Some(master)
    }

    fn told(&mut self, by: SocketAddr, line: &str) -> Option<V> {
        let answer = self.conn(by).and_then(|conn| exchange(conn, &words(line), false));
        if answer.is_none() {
            self.conns.remove(&by);
        }
        Some(decode(&answer?)?.0)
    }

    fn forget(&mut self, tag: &Option<String>) {
        self.turn += 1;
        if let Some(tag) = tag {
            self.owners.remove(tag);
        }
        pass(Duration::from_millis(5));
    }

    fn conn(&mut self, at: SocketAddr) -> Option<&mut Conn> {
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.conns.entry(at) {
            let mut conn = Conn::try_open(at).ok()?;
            conn.set_patience(NODE);
            vacant.insert(conn);
        }
        self.conns.get_mut(&at)
    }
}

/// What stands in the braces of the first key.
fn tag(command: &Words) -> Option<String> {
    let of = |word: &String| Some(word.split_once('{')?.1.split_once('}')?.0.to_owned());
    command.iter().skip(1).find_map(of)
}

fn exchange(conn: &mut Conn, command: &Words, asking: bool) -> Option<Vec<u8>> {
    let mut bytes = if asking { encode(&words("ASKING")) } else { Vec::new() };
    bytes.extend(encode(command));
    if !conn.try_send_raw(&bytes) {
        return None;
    }
    if asking {
        conn.try_read_frame().ok()?;
    }
    let frame = conn.try_read_frame().ok()?;
    debug_assert!(!matches!(decode(&frame)?.0, V::Push(_)));
    Some(frame)
}
