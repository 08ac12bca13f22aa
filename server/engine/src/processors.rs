//! Which processors a thread may run on.

use rustix::thread::{CpuSet, sched_setaffinity};
use server_core::error::{Error, Result};

/// Binds the calling thread, and all threads and processes that it starts from here on.
///
/// Errors: `Internal` in Triton's words if none of the processors is there or may be used.
pub(crate) fn bind_this_thread(processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    processors.iter().filter(|&&processor| processor < CpuSet::MAX_CPU).for_each(|&processor| set.set(processor));
    sched_setaffinity(None, &set).map_err(|error| {
        Error::internal(format!(
            "Unable to set NUMA thread affinity: {}: the processors of the host policy are {processors:?}, and this process may \
             use none of them",
            std::io::Error::from(error)
        ))
    })
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::*;

    #[test]
    fn a_thread_is_bound_to_those_that_are_there() {
        std::thread::spawn(|| {
            let all = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|&processor| all.is_set(processor)).unwrap();
            bind_this_thread(&[first, CpuSet::MAX_CPU - 1, usize::MAX]).unwrap();
            let bound = sched_getaffinity(None).unwrap();
            assert!(bound.is_set(first) && bound.count() == 1);
            let error = bind_this_thread(&[]).unwrap_err();
            assert!(error.message.starts_with("Unable to set NUMA thread affinity: Invalid argument"), "{error}");
        })
        .join()
        .unwrap();
    }
}
