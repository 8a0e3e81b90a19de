//! How much memory a thing takes: what the bounds of waiting appends count.

/// What an allocation takes beside its bytes: the allocator's part, and the count of those who share them.
const BESIDE_BYTES: usize = 32;

/// About how much memory an allocation of so many bytes takes. There is none for no bytes.
pub fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes + BESIDE_BYTES }
}
