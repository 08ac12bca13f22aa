//! Finds and opens runtime libraries. Opened local, with all symbols resolved at once, and never closed: code and data
//! of a runtime outlive every handle to it.
//!
//! [`search`] has the order of places; what can go wrong has three names, see [`LoadError`].

mod search;

use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

pub(crate) use search::{Wanted, find};

/// Why a library is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    /// It is nowhere.
    #[error("library {name} not found, searched: {searched}; {cure}")]
    NotFound {
        /// File name looked for.
        name: &'static str,
        /// Places, in order.
        searched: String,
        /// What the user can do.
        cure: &'static str,
    },
    /// It is there, and the loader refuses it.
    #[error("library {} cannot be opened: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// It opens, and is not what is needed.
    #[error("library {} is not suitable: {reason}", path.display())]
    Unsuitable {
        /// The file.
        path: PathBuf,
        /// What is missing or too old.
        reason: String,
    },
}

/// An open library. Stays open for the rest of the process, used or not.
#[derive(Debug)]
pub(crate) struct Library {
    handle: &'static Handle,
    path: PathBuf,
}

impl Library {
    /// Opens the file.
    ///
    /// Errors: [`LoadError::Refused`] in the loader's words.
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        // SAFETY: dlopen runs the library's initialisers; naming a file as runtime library is the user's statement that
        // they may run.
        let opened = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let handle = opened.map_err(|error| LoadError::Refused { path: path.into(), reason: words(&error) })?;
        Ok(Self { handle: Box::leak(Box::new(handle)), path: path.into() })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Address of a function.
    ///
    /// Errors: [`LoadError::Unsuitable`] if the library does not export it.
    ///
    /// # Safety
    /// `F` must be the function pointer type the library's own header declares for that name.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn function<F: Copy + 'static>(&self, name: &'static str) -> Result<F, LoadError> {
        // SAFETY: the caller vouches for the type; the address stays valid because the library is never closed.
        let symbol = unsafe { self.handle.get::<F>(name) };
        symbol.map(|symbol| *symbol).map_err(|_| self.unsuitable(format!("it does not export {name}")))
    }

    /// The error for a library that opened and will not do.
    pub(crate) fn unsuitable(&self, reason: impl Into<String>) -> LoadError {
        LoadError::Unsuitable { path: self.path.clone(), reason: reason.into() }
    }
}

/// The loader's own sentence, without the wrapping of the crate that asked it.
fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_is_refused_in_the_loaders_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libthing.so");
        std::fs::write(&path, "text").unwrap();
        let error = Library::open(&path).unwrap_err();
        assert!(matches!(&error, LoadError::Refused { reason, .. } if reason.contains("file too short")), "{error}");
        assert!(error.to_string().contains("libthing.so cannot be opened: "), "{error}");
    }
}
