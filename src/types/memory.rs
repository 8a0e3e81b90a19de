//! How much memory a thing takes, as the bounds count it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// What an allocation takes beside its bytes: the allocator's part, and the count of those who share them.
const BESIDE_BYTES: usize = 32;

/// About how much memory an allocation of so many bytes takes. There is none for no bytes.
pub fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes + BESIDE_BYTES }
}

/// Places that a table keeps, however little is in it.
const PLACES_KEPT: usize = 64;

/// Gives places of a table back once most are empty: it would else stay as large as it ever was.
pub fn give_places_back<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if table.capacity() > 4 * table.len() + PLACES_KEPT {
        table.shrink_to(2 * table.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_does_not_stay_as_large_as_it_was() {
        let mut table: HashMap<u32, u32> = (0..10_000).map(|number| (number, number)).collect();
        for number in 0..10_000 {
            table.remove(&number);
            give_places_back(&mut table);
            assert!(table.capacity() <= 4 * table.len() + PLACES_KEPT || table.len() > 1_000);
        }
        assert!(table.capacity() <= PLACES_KEPT, "{}", table.capacity());
    }
}
