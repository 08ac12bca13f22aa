//! Opens libraries and finds their functions.

use std::{ffi::CStr, path::Path};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use server_core::error::{Error, Result};

use crate::exports;

/// Opens a library, which is never closed: its code outlives every handle of it.
///
/// Errors: what it needs is not there, or the loader refuses it.
#[allow(unsafe_code)]
pub(crate) fn open(path: &Path) -> Result<&'static Library> {
    exports::provide(path)
        .map_err(|error| Error::invalid_argument(format!("unable to load shared library: {error}")))?;
    // SAFETY: dlopen runs the library's initialisers; naming it is the user's statement that they may run.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let opened = opened.map_err(|error| {
        let words = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let shown = path.display().to_string();
        let words = if words.contains(&shown) { words } else { format!("{shown}: {words}") };
        Error::not_found(format!("unable to load shared library: {words}"))
    })?;
    Ok(Box::leak(Box::new(opened)))
}

/// A function of a library, if it has it.
#[allow(unsafe_code)]
pub(crate) fn function<F: Copy + 'static>(library: &'static Library, name: &CStr) -> Option<F> {
    // SAFETY: the names are those of the headers, and so are the types at each call; the library is never closed.
    unsafe { library.get::<F>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
}

/// The same for one that must be there.
///
/// Errors: it is not.
pub(crate) fn required<F: Copy + 'static>(library: &'static Library, name: &CStr, path: &Path) -> Result<F> {
    function(library, name).ok_or_else(|| {
        Error::invalid_argument(format!(
            "unable to find required entrypoint '{}' in shared library '{}'",
            name.to_string_lossy(),
            path.display()
        ))
    })
}
