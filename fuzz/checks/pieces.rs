//! Bytes as reads deliver them: cut anywhere.

/// Where reads end: a number from the input, spread by a generator that needs nothing else.
pub struct Cuts(u64);

impl Cuts {
    /// The cuts that `seed` stands for.
    pub fn new(seed: u8) -> Cuts {
        Cuts(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The length of the next piece, from 1; mostly short, sometimes long.
    pub fn next_len(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let most = if self.0 & 7 == 0 { 4096 } else { 9 };
        1 + (self.0 >> 8) as usize % most
    }

    /// The ends of the pieces of `len` bytes; the last is `len`.
    pub fn ends(mut self, len: usize) -> Vec<usize> {
        let mut ends = Vec::new();
        let mut at = 0;
        while at < len {
            at = (at + self.next_len()).min(len);
            ends.push(at);
        }
        ends
    }
}
