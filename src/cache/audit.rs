//! The audit's pure part: which hits are compared with upstream, and when two replies are the same.

use std::cell::Cell;

/// Cuts a reply into its elements; `None` if it has none.
pub type Elements = fn(&[u8]) -> Option<Vec<&[u8]>>;

/// Draws one hit in so many.
pub struct Sampling {
    every: u64,
    left: Cell<u64>,
}

impl Sampling {
    /// One in `every`; 0: none.
    pub fn new(every: u64) -> Self {
        Sampling { every, left: Cell::new(every) }
    }

    /// Whether this hit is drawn.
    pub fn draw(&self) -> bool {
        if self.every == 0 {
            return false;
        }
        let left = self.left.get() - 1;
        self.left.set(if left == 0 { self.every } else { left });
        left == 0
    }
}

/// Whether two replies say the same. Where the order of elements is free (SMEMBERS, HGETALL) they are
/// compared as multisets: Redis may answer the same set in another order with no write between.
/// `elements` cuts a reply into the parts whose order is free.
pub fn same(a: &[u8], b: &[u8], elements: Option<Elements>) -> bool {
    if a == b {
        return true;
    }
    let Some(elements) = elements else { return false };
    let (Some(mut a), Some(mut b)) = (elements(a), elements(b)) else { return false };
    a.sort_unstable();
    b.sort_unstable();
    a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(reply: &[u8]) -> Option<Vec<&[u8]>> {
        Some(reply.chunks(1).collect())
    }

    #[test]
    fn one_hit_in_so_many_is_drawn() {
        let sampling = Sampling::new(3);
        let drawn: Vec<bool> = (0..6).map(|_| sampling.draw()).collect();
        assert_eq!(drawn, [false, false, true, false, false, true]);
        assert!(!Sampling::new(0).draw());
    }

    #[test]
    fn replies_of_free_order_are_compared_as_multisets() {
        assert!(same(b"abc", b"cab", Some(bytes)));
        assert!(!same(b"abc", b"cab", None));
        assert!(!same(b"aab", b"abb", Some(bytes)));
    }
}
