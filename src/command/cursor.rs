//! One SCAN over all masters of a cluster: the node's number and the node's own cursor in the one cursor of the client.
//!
//! The node's number is in the upper 16 bits, of which it uses 15, since some clients read cursors as signed numbers; the
//! node's cursor in the lower 48. That is plenty: a server's cursor counts the places of its hash table, the bits reversed
//! within the table's size, and behind them, in newer servers, 14 bits of slot; 2⁴⁸ would be a table of 2³⁴ places for one
//! slot. A cursor that does not fit is refused rather than cut, for the scan would go on at another place.
//!
//! *Invariant:* the client's cursor is 0 at the start and at the very end, and at no other time.
//!
//! **When the nodes change** meanwhile, SCAN promises less than in front of one server. The numbers have to be the shards'
//! and to stay theirs: a shard keeps its number when its master changes, a new shard gets a number that no other has had.
//! Then a scan goes on where it was; a shard that is gone is passed over, one that has come is scanned when its number's
//! turn is there. Keys in slots that move are seen twice, or not at all if they move from a shard that is still to be
//! scanned to one that has been. A cursor of a master that was replaced means another place to the new one, whose table is
//! in another order: keys of that shard may be missed or repeated, as with Sentinel.

/// Where the node's number begins.
const NODE_SHIFT: u32 = 48;
/// The largest cursor of a node.
const MAX_CURSOR: u64 = (1 << NODE_SHIFT) - 1;
/// The largest number of a node.
const MAX_NODE: u16 = 0x7fff;

/// Where a scan goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The shard's number.
    pub node: u16,
    /// Its own cursor; 0: from the start.
    pub place: u64,
}

/// A node's number or its cursor is too large for the client's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("its cursor is larger than can be told to a client of the whole cluster")]
pub struct TooLarge;

// === impl Cursor ===

impl Cursor {
    /// What a client's cursor says; 0: from the start.
    pub fn of_client(cursor: u64) -> Cursor {
        Cursor { node: (cursor >> NODE_SHIFT) as u16, place: cursor & MAX_CURSOR }
    }

    /// Where to ask now, there being shards of these numbers, ascending; nothing: the scan is at its end, and an empty reply
    /// with cursor 0 says so.
    pub fn resume(self, nodes: &[u16]) -> Option<Cursor> {
        let node = nodes.iter().copied().find(|&node| node >= self.node)?;
        Some(if node == self.node { self } else { Cursor { node, place: 0 } })
    }

    /// The client's next cursor after the node that was asked has answered with this cursor of its own, there being shards
    /// of these numbers, ascending; 0: that was all.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn after(self, answered: u64, nodes: &[u16]) -> Result<u64, TooLarge> {
        if answered != 0 {
            return Cursor { place: answered, ..self }.for_client();
        }
        let next = nodes.iter().copied().find(|&node| node > self.node);
        next.map_or(Ok(0), |node| Cursor { node, place: 0 }.for_client())
    }

    fn for_client(self) -> Result<u64, TooLarge> {
        if self.node > MAX_NODE || self.place > MAX_CURSOR {
            return Err(TooLarge);
        }
        Ok(u64::from(self.node) << NODE_SHIFT | self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All places that a scan asks, of nodes that have so many places each.
    fn scan(nodes: &[u16], places: u64) -> Vec<(u16, u64)> {
        let mut asked = Vec::new();
        let mut cursor = 0;
        while let Some(at) = Cursor::of_client(cursor).resume(nodes) {
            asked.push((at.node, at.place));
            cursor = at.after((at.place + 1) % places, nodes).unwrap();
            if cursor == 0 {
                break;
            }
        }
        asked
    }

    #[test]
    fn a_scan_asks_every_place_of_every_node_once() {
        assert_eq!(scan(&[0, 1], 2), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(scan(&[3, 7, 8], 1), [(3, 0), (7, 0), (8, 0)]);
        assert_eq!(scan(&[0], 1), [(0, 0)]);
        assert_eq!(scan(&[], 1), []);
    }

    #[test]
    fn a_node_that_is_gone_is_passed_over_and_one_that_has_come_is_asked() {
        let at = Cursor { node: 2, place: 77 };
        assert_eq!(at.resume(&[0, 2, 5]), Some(at));
        assert_eq!(at.resume(&[0, 1, 5]), Some(Cursor { node: 5, place: 0 }));
        assert_eq!(at.resume(&[0, 1]), None);
        assert_eq!(at.after(0, &[0, 2, 4, 5]), Ok(4 << 48));
        assert_eq!(at.after(0, &[0, 1, 2]), Ok(0));
        assert_eq!(at.after(78, &[]), Ok(2 << 48 | 78));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let at = |node| Cursor { node, place: 0 };
        assert_eq!(at(0).after(MAX_CURSOR, &[0]), Ok(MAX_CURSOR));
        assert_eq!(at(0).after(MAX_CURSOR + 1, &[0]), Err(TooLarge));
        assert_eq!(at(0).after(u64::MAX, &[0]), Err(TooLarge));
        assert_eq!(at(MAX_NODE).after(MAX_CURSOR, &[]), Ok(i64::MAX as u64));
        assert_eq!(at(MAX_NODE).after(0, &[MAX_NODE + 1]), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn a_client_s_cursor_is_zero_at_the_end_alone(node in 0..=MAX_NODE, answered in 0..=MAX_CURSOR, next in 0..=MAX_NODE) {
            let cursor = Cursor { node, place: 5 }.after(answered, &[next]).unwrap();
            prop_assert_eq!(cursor == 0, answered == 0 && next <= node);
            let back = Cursor::of_client(cursor);
            if answered != 0 {
                prop_assert_eq!(back, Cursor { node, place: answered });
            } else if cursor != 0 {
                prop_assert_eq!(back, Cursor { node: next, place: 0 });
            }
        }

        #[test]
        fn no_cursor_of_a_client_panics(cursor: u64, answered: u64, nodes: Vec<u16>) {
            let at = Cursor::of_client(cursor);
            let _ = (at.resume(&nodes), at.after(answered, &nodes));
        }
    }
}
