//! Memory back to the system. Native runtimes free into the C library's heap, which keeps what it has: after a large
//! model is gone its pages would stay with the process.

#![allow(unsafe_code)]

/// Gives the heap's free pages back when it is dropped. Stands last in what holds a model, behind all that frees.
#[derive(Debug, Default)]
pub(crate) struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            unsafe extern "C" {
                fn malloc_trim(pad: usize) -> i32;
            }
            // SAFETY: glibc's malloc_trim takes any number, may be called from any thread, and touches free memory only.
            unsafe { malloc_trim(0) };
        }
    }
}
