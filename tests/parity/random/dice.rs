//! Numbers that look random and are the same for the same seed.

/// A generator of numbers (Steele, Lea and Flood's SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// Generators of neighbouring seeds, or of one seed and different streams, have nothing in common.
    pub fn new(seed: u64, stream: u64) -> Dice {
        let mut dice = Dice(seed);
        let start = dice.next();
        let mut dice = Dice(start ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`; `n` is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        // The remainder favours small numbers by less than one in 2^50 here.
        (self.next() % n as u64) as usize
    }

    /// True in `percent` of all throws.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of them, which are not none.
    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// An index, as often as its weight says.
    pub fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (n, weight) in weights.iter().enumerate() {
            if at < *weight {
                return n;
            }
            at -= weight;
        }
        unreachable!("the sum bounds the throw")
    }
}
