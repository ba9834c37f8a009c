//! A cluster's slots: which one a key is in, which node owns it, and what a redirect says.
//!
//! *Invariant:* a key's slot is the one that servers compute. What other servers say (maps, redirects) is read with care:
//! nothing in it can make us panic, and a map that contradicts itself is refused. Not here: asking for maps,
//! connections, what follows from a change.
//!
//! `map` reads CLUSTER SHARDS and CLUSTER SLOTS, `redirect` reads MOVED and ASK, `address_map` says where nodes are
//! reached if not at the addresses that they tell.

pub mod address_map;
pub mod map;
pub mod redirect;

pub use address_map::{AddressMap, AddressMapError};
pub use map::{MapFault, Member, Shard, SlotMap};
pub use redirect::{Redirect, RedirectKind, redirect};

/// How many slots a cluster has.
pub const SLOTS: u16 = 16384;

/// CRC16 (XMODEM: polynomial 0x1021, nothing reflected) of each byte.
static CRC16: [u16; 256] = crc16_table();

/// The slot that a key is in: of the part between the first `{` and the first `}` behind it, if there is anything
/// between them, else of the whole key.
pub fn key_slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

/// What stands in a key's first braces.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let behind = key.get(memchr::memchr(b'{', key)? + 1..)?;
    let tag = behind.get(..memchr::memchr(b'}', behind)?)?;
    (!tag.is_empty()).then_some(tag)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, &byte| {
        let at = crc.to_be_bytes()[0] ^ byte;
        crc << 8 ^ CRC16[usize::from(at)]
    })
}

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_redis_own() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn a_key_is_in_the_slot_that_servers_compute() {
        // As CLUSTER KEYSLOT of Redis 7.0 and Valkey 9 answers.
        for (key, slot) in [
            ("", 0),
            ("foo", 12182),
            ("bar", 5061),
            ("hello", 866),
            ("123456789", 12739),
            ("user1000", 3443),
            ("{user1000}.following", 3443),
            ("{user1000}.followers", 3443),
            ("foo{bar}{zap}", 5061),
            ("foo{hello}", 866),
            ("\u{ff}", 5427),
        ] {
            assert_eq!(key_slot(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn a_hash_tag_is_what_stands_in_the_first_braces_if_anything_does() {
        for (key, hashed) in [
            ("foo{bar}{zap}", "bar"),
            ("foo{{bar}}zap", "{bar"),
            ("}a{b}", "b"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{bar", "foo{bar"),
            ("foo}bar{", "foo}bar{"),
            ("{}", "{}"),
            ("{", "{"),
        ] {
            assert_eq!(key_slot(key.as_bytes()), crc16(hashed.as_bytes()) % SLOTS, "{key}");
        }
    }
}
