//! Puts in the keys that a mix reads, over one connection, many at once.

use std::io::{Read, Write};
use std::net::SocketAddr;

use super::Failure;
use super::connection::connect;
use super::dice::Dice;
use super::mix::Mix;

/// Bytes of requests sent before their replies are read: little enough for the sockets' buffers.
const AT_ONCE: usize = 64 * 1024;

/// Sets every key of the mix once.
pub fn fill(to: SocketAddr, mix: &Mix, seed: u64) -> Result<(), Failure> {
    let mut stream = connect(to).map_err(Failure::of("connecting"))?;
    let (mut dice, mut out, mut key) = (Dice::new(seed), Vec::new(), 0);
    while key < mix.keys {
        let first = key;
        while key < mix.keys && out.len() < AT_ONCE {
            mix.append_set(key, &mut dice, &mut out);
            key += 1;
        }
        stream.write_all(&out).map_err(Failure::of("sending SETs"))?;
        out.clear();
        let expected = b"+OK\r\n".repeat((key - first) as usize);
        let mut replies = vec![0; expected.len()];
        // An error's text is longer than an OK, so that this much always comes.
        stream.read_exact(&mut replies).map_err(Failure::of("reading the replies of SETs"))?;
        if let Some(at) = replies.iter().zip(&expected).position(|(got, wanted)| got != wanted) {
            let line = replies[at - at % 5..].split(|&byte| byte == b'\r').next().unwrap_or_default();
            return Err(Failure::Reply(String::from_utf8_lossy(line).into_owned()));
        }
    }
    Ok(())
}
