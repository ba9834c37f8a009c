//! Seeds for fuzzing: what is really said, by clients and by a server, written to `fuzz/corpus/`.
//!
//! `cargo test --test integration -- --ignored seeds::` writes them; a target run with `-merge=1` keeps what matters of them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::samples::{GROUPS, REFUSED, SESSION, commands};
use crate::support::resp::encode;
use crate::support::{Conn, Server};

/// Behind this many bytes an input teaches no more.
const LONG: usize = 4096;

#[test]
#[ignore = "writes to fuzz/corpus"]
fn what_is_said_becomes_a_corpus() {
    let server = Server::redis();
    let (mut requests, mut replies, mut sessions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for group in &GROUPS {
        for line in group.lines {
            let whole: Vec<u8> = commands(line).iter().flat_map(|words| encode(words)).collect();
            // What these say is not one reply for each command, or is never said.
            if [SESSION.lines, REFUSED.lines].iter().any(|lines| lines.contains(line)) {
                sessions.insert([&b"\0"[..], &whole].concat());
                requests.insert(whole);
                continue;
            }
            let mut conn = Conn::open3(server.addr());
            let setup = std::iter::once(&"FLUSHALL").chain(group.setup).flat_map(|line| commands(line));
            for words in setup {
                conn.send_raw(&encode(&words));
                conn.read_frame();
            }
            let mut said = Vec::new();
            for words in commands(line) {
                conn.send_raw(&encode(&words));
                let reply = conn.read_frame();
                said.push(reply.clone());
                replies.insert(reply);
            }
            sessions.insert([&b"\x01"[..], &whole, b"\0\0", &said.join(&0)].concat());
            requests.insert(whole);
        }
    }
    write("request", requests.iter().flat_map(|bytes| [0, 1, 2].map(|limits| [&[limits, 7][..], bytes].concat())));
    write("keys", requests.iter().map(|bytes| [&[0][..], bytes].concat()));
    write("reply", replies.iter().map(|bytes| [&[7][..], bytes].concat()));
    write("downgrade", replies.iter().enumerate().map(|(i, bytes)| [&[i as u8, 7][..], bytes].concat()));
    write("session", sessions.into_iter());
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = std::fs::read_dir(config).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
    let lines: BTreeSet<Vec<u8>> = files.flat_map(|text| sections(&text)).collect();
    write("config", lines.into_iter());
}

/// A file's sections, with the settings that are commented out.
fn sections(text: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let text: String =
        text.lines().map(|line| line.strip_prefix('#').map_or(line, str::trim_start).to_string() + "\n").collect();
    let settings: Vec<&str> = text.lines().filter(|line| line.starts_with('[') || line.contains(" = ")).collect();
    settings.join("\n").split("\n[").map(|section| format!("[{section}").into_bytes()).collect()
}

fn write(target: &str, inputs: impl Iterator<Item = Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).unwrap();
    for (i, input) in inputs.filter(|input| input.len() <= LONG).enumerate() {
        std::fs::write(folder.join(format!("said-{i}")), input).unwrap();
    }
}
