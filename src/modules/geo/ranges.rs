//! The ranges of a `geo` block while it is read. As in nginx they are kept in pieces by the upper
//! half of the address, and what overlaps is judged by piece.

use super::Value;
use super::intervals::Intervals;
use crate::conf::cidr::ipv4;
use crate::conf::{ConfError, ConfResult};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Ranges.
#[derive(Default)]
pub struct Ranges {
    /// `default`
    pub default: Option<Value>,
    /// By the upper half of the address, in order of the lower.
    pieces: BTreeMap<u16, Vec<Piece>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    first: u16,
    last: u16,
    value: Value,
}

/// Reads `first-last`.
pub fn read(text: &str) -> ConfResult<(u32, u32)> {
    let range = text.split_once('-').and_then(|(first, last)| Some((ipv4(first)?, ipv4(last)?)));
    range
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| ConfError::new(format!("invalid range \"{text}\"")))
}

/// A range in pieces: the upper half of the addresses, the lower half of the first and of the last.
fn pieces((first, last): (u32, u32)) -> impl Iterator<Item = (u16, u16, u16)> {
    let halves = |n: u32| ((n >> 16) as u16, n as u16);
    let ((first_high, first_low), (last_high, last_low)) = (halves(first), halves(last));
    (first_high..=last_high).map(move |high| {
        let from = if high == first_high { first_low } else { 0 };
        let to = if high == last_high { last_low } else { u16::MAX };
        (high, from, to)
    })
}

impl Ranges {
    /// Adds a range, which may lie within another one, but not across its end; returns the values
    /// of those it replaces.
    pub fn insert(&mut self, range: (u32, u32), value: Value, text: &str) -> ConfResult<Vec<Value>> {
        let mut replaced = Vec::new();
        for (high, first, last) in pieces(range) {
            let list = self.pieces.entry(high).or_default();
            match add(list, Piece { first, last, value }) {
                Ok(old) => replaced.extend(old),
                Err(other) => {
                    let address = |low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
                    let (first, last) = (address(other.first), address(other.last));
                    return Err(ConfError::new(format!("range \"{text}\" overlaps \"{first}-{last}\"")));
                }
            }
        }
        Ok(replaced)
    }

    /// Removes a range; false when a piece of it is not there as it is.
    pub fn remove(&mut self, range: (u32, u32)) -> bool {
        let mut whole = true;
        for (high, first, last) in pieces(range) {
            let list = self.pieces.entry(high).or_default();
            match list.iter().position(|p| (p.first, p.last) == (first, last)) {
                Some(at) => {
                    list.remove(at);
                }
                None => whole = false,
            }
        }
        whole
    }

    /// The values of all addresses.
    pub fn finish(self) -> Intervals<u32> {
        let address = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
        let all = self.pieces.into_iter().flat_map(|(high, list)| {
            list.into_iter().map(move |p| (address(high, p.first), address(high, p.last), p.value))
        });
        Intervals::nested(all.collect(), self.default.unwrap_or(0))
    }
}

/// Adds a piece to a list in order; the value of an equal one it replaces, or the piece it overlaps.
fn add(list: &mut Vec<Piece>, new: Piece) -> Result<Option<Value>, Piece> {
    // Behind it are those that end before the new one begins.
    let at = list.partition_point(|p| p.last < new.first);
    let Some(other) = list.get(at).copied().filter(|p| p.first <= new.last) else {
        list.insert(at, new);
        return Ok(None);
    };
    if new.first < other.first || new.last > other.last {
        // nginx looks from the end, and names the last of several.
        let last = list.iter().rev().find(|p| p.first <= new.last);
        return Err(last.copied().unwrap_or(other));
    }
    if (new.first, new.last) == (other.first, other.last) {
        list[at] = new;
        return Ok(Some(other.value));
    }
    let before = (new.first > other.first).then(|| Piece { last: new.first - 1, ..other });
    let after = (new.last < other.last).then(|| Piece { first: new.last + 1, ..other });
    let parts = before.into_iter().chain([new]).chain(after);
    list.splice(at..=at, parts);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(list: &[(&str, Value)]) -> ConfResult<Ranges> {
        let mut ranges = Ranges::default();
        for (text, value) in list {
            ranges.insert(read(text)?, *value, text)?;
        }
        Ok(ranges)
    }

    fn ask(intervals: &Intervals<u32>, address: &str) -> Value {
        intervals.find(address.parse::<Ipv4Addr>().unwrap().into())
    }

    #[test]
    fn a_range_within_another_wins() {
        let intervals =
            ranges(&[("10.0.0.0-10.3.0.9", 1), ("10.1.0.5-10.1.0.7", 2), ("10.1.0.0-10.1.0.0", 3)])
                .unwrap()
                .finish();
        let found =
            ["9.9.9.9", "10.0.0.0", "10.1.0.0", "10.1.0.4", "10.1.0.5", "10.1.0.8", "10.3.0.9", "10.3.0.10"]
                .map(|a| ask(&intervals, a));
        assert_eq!(found, [0, 1, 3, 1, 2, 1, 1, 0]);
    }

    #[test]
    fn mistakes_in_nginxs_words() {
        for bad in ["10.0.0.1", "10.0.0.2-10.0.0.1", "10.0.0.1-x", "0.0.0.0-255.255.255.255"] {
            let error = ranges(&[(bad, 1)]).err().unwrap();
            assert_eq!(error.message, format!("invalid range \"{bad}\""));
        }
        let error = ranges(&[("1.2.0.10-1.2.0.20", 1), ("1.2.0.15-1.2.0.25", 2)]).err().unwrap();
        assert_eq!(error.message, "range \"1.2.0.15-1.2.0.25\" overlaps \"1.2.0.10-1.2.0.20\"");
    }

    #[test]
    fn only_what_is_there_as_it_is_can_be_removed() {
        let mut ranges = ranges(&[("1.0.0.0-1.1.0.9", 1)]).unwrap();
        assert!(!ranges.remove((0x0100_0000, 0x0100_0009)));
        assert!(ranges.remove((0x0100_0000, 0x0101_0009)));
        assert_eq!(ask(&ranges.finish(), "1.0.0.5"), 0);
    }

    proptest! {
        /// Against a plain array of values.
        #[test]
        fn as_an_array_would(list in proptest::collection::vec((0u16..60, 0u16..60, 1u32..9), 0..20)) {
            let mut array = [0; 60];
            let mut pieces = Vec::new();
            for (a, b, value) in list {
                let (first, last) = (a.min(b), a.max(b));
                if add(&mut pieces, Piece { first, last, value }).is_ok() {
                    array[usize::from(first)..=usize::from(last)].fill(value);
                }
                for (n, value) in array.iter().enumerate() {
                    let at = pieces.iter().filter(|p| (usize::from(p.first)..=usize::from(p.last)).contains(&n));
                    prop_assert_eq!(at.map(|p| p.value).collect::<Vec<_>>(), Vec::from_iter((*value > 0).then_some(*value)));
                }
                prop_assert!(pieces.is_sorted_by_key(|p| p.first));
            }
        }
    }
}
