//! How much memory an input takes, counted where it is allocated. A decoder that believes a length which its input does
//! not bear out is found long before it exhausts a machine.

#![expect(unsafe_code, reason = "an allocator is unsafe by its contract")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What may be taken whatever the input: serde reserves up to 1 MiB for a sequence whose length it is told.
const BYTES_ANYWAY: usize = 16 * 1024 * 1024;
/// What may be taken for each byte of input: an empty message of two bytes becomes a struct of some hundred.
const BYTES_PER_INPUT_BYTE: usize = 1024;

/// The most bytes that an input of this length may take at one time.
pub fn allowed(input_bytes: usize) -> usize {
    BYTES_ANYWAY + BYTES_PER_INPUT_BYTE * input_bytes
}

/// The most bytes that `run` had allocated at one time, beyond what there was. For one thread.
pub fn most_while(run: impl FnOnce()) -> usize {
    let before = LIVE.load(Relaxed);
    MOST.store(before, Relaxed);
    run();
    MOST.load(Relaxed).saturating_sub(before)
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn taken(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    MOST.fetch_max(live, Relaxed);
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}
