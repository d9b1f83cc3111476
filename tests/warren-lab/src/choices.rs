//! Bytes as decisions.

use warren_simnet::Dice;

/// A finite supply of decisions. What a byte means depends only on the bytes before it.
#[derive(Clone, Debug)]
pub struct Choices {
    bytes: Vec<u8>,
    next: usize,
}

impl Choices {
    pub fn new(bytes: &[u8]) -> Choices {
        Choices { bytes: bytes.to_vec(), next: 0 }
    }

    /// As many decisions as `count`, drawn from a seed.
    pub fn seeded(seed: u64, count: usize) -> Choices {
        let mut dice = Dice::new(seed);
        Choices { bytes: (0..count).map(|_| dice.roll().to_be_bytes()[0]).collect(), next: 0 }
    }

    pub fn is_over(&self) -> bool {
        self.next >= self.bytes.len()
    }

    /// In `0..bound`; 0 when `bound` is 0 or nothing is left.
    pub fn below(&mut self, bound: usize) -> usize {
        let byte = self.bytes.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        usize::from(byte).checked_rem(bound).unwrap_or(0)
    }

    /// One of them; `None` if there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = self.below(from.len());
        from.get(index).copied()
    }
}
