//! Names of POSIX shared memory that clients may give, and the parts of it that they may register.

use server_core::error::{Error, Result};

/// Triton's Python backend calls its own memory so.
const RESERVED: &str = "triton_python_backend_shm_region_";

/// Checks the name of a shared-memory object.
///
/// Errors: `InvalidArgument`, it begins as the server's own do, or there is nothing but slashes.
pub(super) fn check(region: &str, key: &str) -> Result<()> {
    let name = key.trim_start_matches('/');
    if name.is_empty() {
        return Err(Error::invalid_argument(format!(
            "cannot register shared memory region '{region}' - invalid shm key '{key}'"
        )));
    }
    if name.starts_with(RESERVED) {
        return Err(Error::invalid_argument(format!(
            "cannot register shared memory region '{region}' with key '{key}' as the key contains the reserved prefix \
             '{RESERVED}'"
        )));
    }
    Ok(())
}

/// The part of an object of `size` bytes that begins at `offset`, as numbers of this machine.
///
/// Errors: `InvalidArgument`, it is not inside, or has no bytes.
pub(super) fn part(region: &str, size: u64, offset: u64, byte_size: u64) -> Result<(usize, usize)> {
    let invalid =
        |reason: &str| Error::invalid_argument(format!("failed to register shared memory region '{region}': {reason}"));
    let is_inside = offset.checked_add(byte_size).is_some_and(|end| end <= size && isize::try_from(end).is_ok());
    if !is_inside {
        return Err(invalid("invalid args"));
    }
    if byte_size == 0 {
        // what mmap says of no bytes, in Triton's form
        return Err(invalid("unable to process address spaceInvalid argument"));
    }
    Ok((offset as usize, byte_size as usize)) // both are below `isize::MAX`
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_of_nothing_and_of_the_servers_own_are_refused() {
        for key in ["", "/", "///"] {
            let text = format!("cannot register shared memory region 'r' - invalid shm key '{key}'");
            assert_eq!(check("r", key), Err(Error::invalid_argument(text)));
        }
        for key in [
            "/triton_python_backend_shm_region_1",
            "triton_python_backend_shm_region_",
            "//triton_python_backend_shm_region_x",
        ] {
            let text = format!(
                "cannot register shared memory region 'r' with key '{key}' as the key contains the reserved prefix \
                 'triton_python_backend_shm_region_'"
            );
            assert_eq!(check("r", key), Err(Error::invalid_argument(text)));
        }
        for key in ["/a", "a", "//a", "/x_triton_python_backend_shm_region_"] {
            assert_eq!(check("r", key), Ok(()), "{key}");
        }
    }

    #[test]
    fn a_part_lies_inside_and_has_bytes() {
        assert_eq!(part("r", 10, 3, 7), Ok((3, 7)));
        let invalid = Error::invalid_argument("failed to register shared memory region 'r': invalid args");
        for (size, offset, byte_size) in
            [(10, 3, 8), (10, 11, 0), (0, 0, 1), (10, u64::MAX, 1), (10, 1, u64::MAX), (u64::MAX, 0, u64::MAX)]
        {
            assert_eq!(part("r", size, offset, byte_size), Err(invalid.clone()));
        }
        let text = "failed to register shared memory region 'r': unable to process address spaceInvalid argument";
        assert_eq!(part("r", 10, 10, 0), Err(Error::invalid_argument(text)));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_inside(size: u64, offset: u64, byte_size: u64) {
            if let Ok((start, length)) = part("r", size, offset, byte_size) {
                prop_assert!(length > 0 && start as u64 + length as u64 <= size);
                prop_assert_eq!((start as u64, length as u64), (offset, byte_size));
            }
        }
    }
}
