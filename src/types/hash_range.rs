use std::fmt;

use serde::{Deserialize, Serialize};

use super::PlacementHash;

/// A half-open range of placement hashes. `end` is absent where the range reaches to the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HashRange {
    /// The first hash inside.
    pub start: PlacementHash,
    /// The first hash above that is outside.
    pub end: Option<PlacementHash>,
}

impl HashRange {
    /// Every hash.
    pub const ALL: HashRange = HashRange { start: PlacementHash(0), end: None };

    /// Whether `hash` is inside.
    pub fn contains(&self, hash: PlacementHash) -> bool {
        self.start <= hash && self.end.is_none_or(|end| hash < end)
    }

    /// Whether the two ranges share a hash.
    pub fn overlaps(&self, other: &HashRange) -> bool {
        self.end.is_none_or(|end| other.start < end) && other.end.is_none_or(|end| self.start < end)
    }

    /// `count` ranges of nearly one size that together hold every hash, in order.
    pub fn divide(count: u32) -> Vec<HashRange> {
        assert!(count > 0, "a division into no ranges holds nothing");
        let width = (1u128 << 64) / u128::from(count);
        let start_of = |i: u32| PlacementHash((u128::from(i) * width) as u64);
        (0..count)
            .map(|i| HashRange {
                start: start_of(i),
                end: (i + 1 < count).then(|| start_of(i + 1)),
            })
            .collect()
    }
}

impl fmt::Display for HashRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "[{:016x}, {:016x})", self.start.0, end.0),
            None => write!(f, "[{:016x}, end)", self.start.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_division_is_gapless_and_disjoint() {
        for count in [1, 2, 3, 12, 1024] {
            let ranges = HashRange::divide(count);
            assert_eq!(ranges[0].start, PlacementHash(0));
            assert_eq!(ranges.last().unwrap().end, None);
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].end, Some(pair[1].start));
                assert!(!pair[0].overlaps(&pair[1]));
            }
        }
    }
}
