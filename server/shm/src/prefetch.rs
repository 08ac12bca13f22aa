//! Has the processor fetch memory that is about to be used.

/// Asks for the lines of the caches at those addresses, for all of them at once, and waits for none. What lies there does not matter.
pub fn prefetch(lines: impl Iterator<Item = usize>) {
    lines.for_each(fetch);
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn fetch(line: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint to the processor, which reads nothing for the program: any address will do.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(line)) };
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_line: usize) {} // the compiler has no such hint for it

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_does_no_harm() {
        let value = [1_u8; 64];
        prefetch([value.as_ptr().addr(), 0, usize::MAX, 1 << 40].into_iter());
        assert_eq!(value, [1; 64]);
    }
}
