//! What all fuzz targets share: a bound on the memory that one input may take.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Memory that any input may take, bytes.
const BASE: usize = 4 << 20;
/// And that much more for each of its bytes.
const FACTOR: usize = 256;

/// Counts the bytes that are allocated, and the most that were at a time.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the allocator of the system as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Calls the target, and checks that it took no more memory than its input may.
pub fn run(target: fn(&[u8]), data: &[u8]) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| target(&[0; 64])); // what is made once for all inputs
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    target(data);
    let taken = MOST.load(Relaxed).saturating_sub(before);
    assert!(taken <= BASE + FACTOR * data.len(), "{taken} bytes of memory for an input of {} bytes", data.len());
}
