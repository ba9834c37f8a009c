//! Finding a command's row by name.
//!
//! One open-addressed table over all rows, built at first use: a look-up hashes the name's first and
//! last eight bytes, case folded, and compares names in whole. No allocation, no lower-cased copy.
//! Not here: what is done with names that it lacks (`learned`).

use std::sync::LazyLock;

use crate::command::row::Row;
use crate::command::table::GROUPS;
use crate::protocol::Args;

/// Four to five times the number of rows, so that chains stay short.
const SLOTS: usize = 2048;

/// Odd, without pattern (the golden ratio's bits): spreads the folded names over the table.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

static INDEX: LazyLock<Box<[Option<&'static Row>]>> = LazyLock::new(build);

/// The row of the command in `args`. The subcommand's row where there is one; a container whose
/// subcommand is missing or unknown gives the container's row. Letters in any case.
pub fn look_up(args: &Args<'_>) -> Option<&'static Row> {
    let name = args.get(0)?;
    let hash = hash_of(name);
    let row = find(hash, |row| row.subcommand().is_none() && same(row.name, name))?;
    if !row.is_container() {
        return Some(row);
    }
    let Some(word) = args.get(1) else { return Some(row) };
    let sub = find(hash_of_sub(hash, word), |sub| {
        sub.subcommand().is_some_and(|own| same(own, word)) && sub.family() == row.name
    });
    Some(sub.unwrap_or(row))
}

/// The row named as in the table and in the configuration: `get`, `config|set`.
pub fn named(name: &str) -> Option<&'static Row> {
    rows().find(|row| row.name.eq_ignore_ascii_case(name))
}

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().flat_map(|group| group.iter())
}

fn find(hash: u64, is_it: impl Fn(&Row) -> bool) -> Option<&'static Row> {
    let index = &**INDEX;
    let mut slot = place(hash);
    // The table is never full, so an empty slot ends every chain.
    while let Some(&Some(row)) = index.get(slot) {
        if is_it(row) {
            return Some(row);
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}

fn build() -> Box<[Option<&'static Row>]> {
    let mut index = vec![None; SLOTS].into_boxed_slice();
    for row in rows() {
        let name = hash_of(row.family().as_bytes());
        let hash = row.subcommand().map_or(name, |sub| hash_of_sub(name, sub.as_bytes()));
        let mut slot = place(hash);
        while index.get(slot).is_some_and(Option::is_some) {
            slot = (slot + 1) % SLOTS;
        }
        if let Some(free) = index.get_mut(slot) {
            *free = Some(row);
        }
    }
    index
}

fn place(hash: u64) -> usize {
    (hash >> 53) as usize % SLOTS
}

/// Bit 5 set in every byte makes letters equal in both cases; it also equals a few other bytes, so names are compared.
fn hash_of(name: &[u8]) -> u64 {
    let (first, last) = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            (Some(first), Some(last)) => (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last))),
            // Up to three bytes: first, middle and last are all of them.
            _ => {
                let at = |i: usize| name.get(i).map_or(0, |&byte| u64::from(byte));
                (at(0) | at(name.len() / 2) << 8 | at(name.len().wrapping_sub(1)) << 16, 0)
            }
        },
    };
    const FOLD: u64 = 0x2020_2020_2020_2020;
    let word = (first | FOLD) ^ (last | FOLD).rotate_left(29) ^ name.len() as u64;
    word.wrapping_mul(SPREAD)
}

fn hash_of_sub(name: u64, word: &[u8]) -> u64 {
    (name.rotate_left(21) ^ hash_of(word)).wrapping_mul(SPREAD)
}

fn same(name: &str, word: &[u8]) -> bool {
    // Names in the table are lower case already.
    name.len() == word.len() && name.bytes().zip(word).all(|(own, byte)| own == byte.to_ascii_lowercase())
}
