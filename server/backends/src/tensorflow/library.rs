//! TensorFlow itself: found and opened when the first model needs it, once for the process. A library that is not there fails the
//! models that need it and nothing else, and is looked for again at the next load.

use std::{
    ffi::{CString, c_char},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use once_cell::sync::OnceCell;
use server_core::{
    backend::Settings,
    error::{Error, Result},
};

use super::raw::{Functions, printed};
use crate::{
    dylib::{self, Library, LoadError, Wanted},
    native::{loading::without_library, operations::Operations},
};

/// Those of TensorFlow's Python package, and of its C package. Both have the C interface.
const FILE_NAMES: [&str; 2] = ["libtensorflow_cc.so", "libtensorflow.so"];

/// The open library.
pub(super) struct Runtime {
    /// Its functions.
    pub(super) functions: &'static Functions,
    /// What models have opened besides.
    operations: Operations,
}

/// The library, opened at the first call. `settings` of later calls change nothing.
///
/// Errors: `InvalidArgument` if it is not found, `Internal` if it is found and of no use.
pub(super) fn runtime(settings: &Settings) -> Result<&'static Runtime> {
    if let Some(version) = settings.get("version").filter(|version| version.trim() != "2") {
        let text = format!(
            "unexpected value '{version}' of 'version', expected 2: models of TensorFlow 1 run in TensorFlow 2"
        );
        return Err(Error::invalid_argument(text));
    }
    static OPENED: OnceCell<Runtime> = OnceCell::new();
    let open =
        || open(settings.get("library").map(String::as_str)).map_err(|error| without_library("tensorflow", &error));
    OPENED.get_or_try_init(open)
}

fn open(setting: Option<&str>) -> Result<Runtime, LoadError> {
    let library = Library::open(&find(setting)?)?;
    let functions = Functions::open(&library)?;
    functions.listen_to_prints(print);
    tracing::info!(path = %library.path().display(), version = %functions.version(), "opened TensorFlow");
    Ok(Runtime { functions, operations: Operations::default() })
}

/// The file of either name.
fn find(setting: Option<&str>) -> Result<PathBuf, LoadError> {
    let wanted = |file_name| Wanted {
        file_name,
        setting,
        variable: "TENSORFLOW_DYLIB_PATH",
        known: &["/opt/tensorflow/lib", "/usr/lib", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu"],
        cure: "install TensorFlow's C library (libtensorflow.so.2, or libtensorflow_cc.so.2 and libtensorflow_framework.so.2 of the \
               Python package tensorflow or tensorflow-cpu) into one of these places, or name its file with \
               --backend-config=tensorflow,library=PATH or TENSORFLOW_DYLIB_PATH",
    };
    let [first, second] = FILE_NAMES.map(|file_name| dylib::find(&wanted(file_name)));
    first.or_else(|missing| second.map_err(|_| missing))
}

impl Runtime {
    /// Opens libraries with further operations.
    ///
    /// Errors: one cannot be opened, or should not; in TensorFlow's words.
    pub(super) fn load_operations(&self, files: &[PathBuf]) -> Result<()> {
        let open = |file: &Path| match terminated(file) {
            Ok(path) => self.functions.load_operations(&path).map_err(|failure| failure.to_string()),
            Err(error) => Err(error.message.into_owned()),
        };
        self.operations.open_all(files, open)
    }
}

/// A path as calls take it.
///
/// Errors: `InvalidArgument` if it contains a zero byte.
pub(super) fn terminated(path: &Path) -> Result<CString> {
    let text = CString::new(path.as_os_str().as_bytes());
    text.map_err(|_| Error::invalid_argument(format!("path {} contains a zero byte", path.display())))
}

/// What a model prints, in the server's log.
#[allow(unsafe_code)]
unsafe extern "C" fn print(message: *const c_char) {
    // SAFETY: TensorFlow calls listeners with a terminated text.
    let message = unsafe { printed(message) };
    tracing::info!(runtime = "tensorflow", "{}", message.trim_end());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::testing::runtime_settings;

    #[test]
    fn what_is_not_there_or_not_tensorflow_is_named_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let refused =
            |path: &Path| open(path.to_str()).err().map(|error| without_library("tensorflow", &error).message).unwrap();
        let missing = refused(folder.path());
        let beginning = "unable to find backend library for backend 'tensorflow': library libtensorflow_cc.so not found, searched: ";
        assert!(missing.starts_with(beginning) && missing.contains("TENSORFLOW_DYLIB_PATH"), "{missing}");
        std::fs::write(folder.path().join("libtensorflow.so.2"), "text").unwrap();
        let damaged = refused(folder.path());
        assert!(damaged.contains("libtensorflow.so.2 cannot be opened: "), "{damaged}");
        let Some(settings) = runtime_settings("TENSORFLOW_DYLIB_PATH", "tensorflow/lib") else { return };
        let other = refused(&Path::new(&settings["library"]).join("libtensorflow_framework.so.2"));
        assert!(other.ends_with("is not suitable: it does not export TF_Version"), "{other}");
    }
}
