//! Values of intervals of numbers, found by bisection.

use super::Value;

/// A number of which intervals are made.
pub trait Number: Copy + Ord + Default {
    /// The next one.
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
}

/// All numbers in intervals: each begins at its number and ends where the next begins.
pub struct Intervals<N> {
    starts: Vec<N>,
    values: Vec<Value>,
}

impl<N: Number> Default for Intervals<N> {
    fn default() -> Self {
        Intervals { starts: vec![N::default()], values: vec![0] }
    }
}

impl<N: Number> Intervals<N> {
    /// From intervals (first, last, value) that are apart or one within the other: the inner wins.
    /// What is in none has the value `otherwise`.
    pub fn nested(mut all: Vec<(N, N, Value)>, otherwise: Value) -> Intervals<N> {
        all.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut flat = Intervals { starts: vec![N::default()], values: vec![otherwise] };
        let mut open: Vec<(N, Value)> = Vec::new();
        for (first, last, value) in all {
            flat.close(&mut open, Some(first), otherwise);
            flat.begin(first, value);
            open.push((last, value));
        }
        flat.close(&mut open, None, otherwise);
        flat
    }

    /// Ends what ends before `first`; everything when there is none.
    fn close(&mut self, open: &mut Vec<(N, Value)>, first: Option<N>, otherwise: Value) {
        while let Some((last, _)) = open.last().copied()
            && first.is_none_or(|first| last < first)
        {
            open.pop();
            if let Some(next) = last.next() {
                self.begin(next, open.last().map_or(otherwise, |(_, value)| *value));
            }
        }
    }

    fn begin(&mut self, at: N, value: Value) {
        if self.starts.last() == Some(&at) {
            self.starts.pop();
            self.values.pop();
        }
        // An interval that goes on with the same value is the same interval.
        if self.values.last() != Some(&value) {
            self.starts.push(at);
            self.values.push(value);
        }
    }

    /// The value of `number`.
    pub fn find(&self, number: N) -> Value {
        // The first interval begins at 0.
        self.values[self.starts.partition_point(|start| *start <= number) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_inner_wins_and_the_outer_goes_on_after_it() {
        let intervals = Intervals::nested(vec![(10u32, 99, 1), (20, 29, 2), (20, 24, 3), (90, 99, 4)], 0);
        let values: Vec<Value> =
            [0, 9, 10, 20, 24, 25, 29, 30, 89, 90, 99, 100].map(|n| intervals.find(n)).to_vec();
        assert_eq!(values, [0, 0, 1, 3, 3, 2, 2, 1, 1, 4, 4, 0]);
        let to_the_end = Intervals::nested(vec![(0u32, u32::MAX, 1), (5, u32::MAX, 2)], 0);
        assert_eq!((to_the_end.find(4), to_the_end.find(u32::MAX)), (1, 2));
    }

    proptest! {
        /// Against a search of all prefixes for the longest that fits.
        #[test]
        fn the_longest_prefix_wins(
            prefixes in proptest::collection::hash_map((any::<u32>(), 0u8..=32), 1u32..9, 0..40),
            probes in proptest::collection::vec(any::<u32>(), 0..40),
        ) {
            let mask = |bits: u8| u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            // Prefixes of few addresses, so that they nest.
            let distinct: std::collections::HashMap<(u32, u8), Value> =
                prefixes.into_iter().map(|((net, bits), v)| (((net % 64) << 26 & mask(bits), bits), v)).collect();
            let list = distinct.iter().map(|((net, bits), v)| (*net, net | !mask(*bits), *v)).collect();
            let intervals = Intervals::nested(list, 0);
            let edges = distinct.keys().flat_map(|(net, bits)| [*net, net | !mask(*bits), net.wrapping_sub(1)]);
            for probe in probes.into_iter().chain(edges) {
                let fits = distinct.iter().filter(|((net, bits), _)| probe & mask(*bits) == *net);
                let longest = fits.max_by_key(|((_, bits), _)| *bits).map_or(0, |(_, value)| *value);
                prop_assert_eq!(intervals.find(probe), longest);
            }
        }
    }
}
