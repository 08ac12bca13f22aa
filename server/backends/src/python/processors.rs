//! Binds a worker that runs already to the processors of its instance's host policy.

use std::{fs, io};

use rustix::{
    io::Errno,
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};
use server_core::error::{Error, Result};

use super::process::Process;

/// Binds all threads of a process; those that they start from here on are bound, too.
///
/// Errors: `Internal` in Triton's words if none of the processors is there or may be used.
pub(super) fn bind(process: &Process, processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    processors.iter().filter(|&&processor| processor < CpuSet::MAX_CPU).for_each(|&processor| set.set(processor));
    for thread in threads(process.pid()).unwrap_or_default() {
        match sched_setaffinity(Some(thread), &set) {
            Ok(()) | Err(Errno::SRCH) => {} // a thread that has ended, or all of the process: then its start fails by itself
            Err(error) => {
                let error = io::Error::from(error);
                return Err(Error::internal(format!("Unable to set NUMA thread affinity: {error}")));
            }
        }
    }
    Ok(())
}

fn threads(process: u32) -> io::Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        threads.extend(task?.file_name().to_str().and_then(|id| Pid::from_raw(id.parse().ok()?)));
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::*;
    use crate::python::process::Spawn;

    #[test]
    fn a_process_is_bound_with_all_its_threads() {
        let mut spawn = Spawn::new("/bin/sleep");
        spawn.argument("60");
        let spawned = spawn.run().unwrap();
        let all = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&processor| all.is_set(processor)).unwrap();
        bind(&spawned.process, &[first]).unwrap();
        let bound = sched_getaffinity(threads(spawned.process.pid()).unwrap().first().copied()).unwrap();
        assert!(bound.is_set(first) && bound.count() == 1);
        let error = bind(&spawned.process, &[]).unwrap_err();
        assert_eq!(error.message, "Unable to set NUMA thread affinity: Invalid argument (os error 22)");
    }
}
