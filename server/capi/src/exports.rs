//! What libraries written for Triton ask of the server they run in, and how they find it: they name `libtritonserver.so`, which
//! is made in memory ([`image`]) and opened before them.

mod image;
mod imports;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::abi::Export;

/// The name by which libraries ask for the server.
const SONAME: &str = "libtritonserver.so";

/// How that name begins where somebody packed libraries with names of their own, as wheels of Python do:
/// `libtritonserver-717102f0.so`.
const SONAME_BEGIN: &str = "libtritonserver";

/// Why a library cannot find what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error("library {} cannot be opened: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It asks for functions that there are not.
    #[error(
        "library {} needs functions of Triton's C interface that this server does not have: {}; it may be written for a newer \
         Triton", path.display(), functions.join(", ")
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// Their names, sorted.
        functions: Vec<String>,
    },
    /// The system takes no library from memory.
    #[error("cannot open {soname} from memory, which library {} needs: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        soname: String,
        /// The system's words.
        reason: String,
    },
}

/// The libraries that are open under names of the server, each with its file: the loader takes a path that it knows for the
/// library that it has of it, so the number of a file must not come back for another.
static OPEN: LazyLock<Mutex<HashMap<String, (Library, File)>>> = LazyLock::new(Mutex::default);

/// Makes sure that the library in that file, when it is opened, finds the server's functions: checks that they are all there, and
/// opens `libtritonserver.so` by every name that the library asks for it.
///
/// Errors: see [`ImportError`].
pub fn provide(path: &Path) -> Result<(), ImportError> {
    let imports = imports::read(path).map_err(|reason| ImportError::Unreadable { path: path.into(), reason })?;
    let exports = crate::EXPORTS;
    let is_there = |name: &String| exports.iter().flat_map(|list| list.iter()).any(|export| export.name == *name);
    let functions: Vec<String> = imports.functions.into_iter().filter(|name| !is_there(name)).collect();
    if !functions.is_empty() {
        return Err(ImportError::Missing { path: path.into(), functions });
    }
    let others = imports.libraries.iter().map(String::as_str).filter(|name| name.starts_with(SONAME_BEGIN));
    let mut open = OPEN.lock();
    for soname in [SONAME].into_iter().chain(others) {
        if !open.contains_key(soname) {
            let error = |reason: String| ImportError::Image { path: path.into(), soname: soname.into(), reason };
            let exports: Vec<Export> = exports.iter().flat_map(|list| list.iter()).copied().collect();
            let bytes = image::shared_library(soname, &exports).map_err(|reason| error(reason.to_string()))?;
            let library = open_from_memory(soname, &bytes).map_err(|reason| error(reason.to_string()))?;
            open.insert(soname.into(), library);
        }
    }
    Ok(())
}

/// Opens a library for all that are opened later.
#[allow(unsafe_code)]
fn open_from_memory(name: &str, bytes: &[u8]) -> io::Result<(Library, File)> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: dlopen runs initialisers of the library, and this one has no code.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(io::Error::other)?;
    Ok((library, file))
}
