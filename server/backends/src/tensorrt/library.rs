//! TensorRT itself: found and opened when the first model needs it, once for the process, with the libraries of layers that plans use.

use std::path::Path;

use once_cell::sync::OnceCell;
use server_core::{backend::Settings, error::Result};

use super::raw::{self, Api, Major};
use crate::{
    dylib::{self, Library, LoadError, Wanted},
    native::loading::without_library,
};

/// The library's functions. `settings` of later calls change nothing.
///
/// Errors: `InvalidArgument` if it is not found, `Internal` if it is found and of no use.
pub(super) fn api(settings: &Settings) -> Result<&'static Api> {
    static OPENED: OnceCell<Api> = OnceCell::new();
    OPENED.get_or_try_init(|| Ok(open_for_builder(settings)?.0))
}

/// The same with the library itself, which has the builder, too.
///
/// Errors: as those of [`api`].
pub(super) fn open_for_builder(settings: &Settings) -> Result<(Api, Library)> {
    open(settings).map_err(|error| without_library("tensorrt", &error))
}

fn open(settings: &Settings) -> Result<(Api, Library), LoadError> {
    let path = dylib::find(&Wanted {
        file_name: "libnvinfer.so",
        setting: settings.get("library").map(String::as_str),
        variable: "TENSORRT_DYLIB_PATH",
        known: &[
            "/opt/tensorrt/lib",
            "/usr/lib",
            "/usr/local/lib",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
        ],
        cure: "install NVIDIA TensorRT 10 (or 8.6) into one of these places, or name its file with \
               --backend-config=tensorrt,library=PATH or TENSORRT_DYLIB_PATH",
    })?;
    let library = Library::open(&path)?;
    let api = Api::of(&library)?;
    tracing::info!(path = %library.path().display(), version = %api.version, "opened TensorRT");
    open_plugins(settings, &library, &api);
    Ok((api, library))
}

/// Opens the libraries of `plugins=A;B`, which register their layers when they are opened, and the one that comes with TensorRT. What
/// cannot be opened is told, and missed by the plans that need it.
fn open_plugins(settings: &Settings, library: &Library, api: &Api) {
    let major = match api.major {
        Major::Eight => 8,
        Major::Ten => 10,
    };
    let own = library.path().with_file_name(format!("libnvinfer_plugin.so.{major}"));
    if own.exists() {
        match Library::open(&own).and_then(|plugins| raw::register_plugins(&plugins)) {
            Ok(true) => tracing::debug!(path = %own.display(), "registered TensorRT's plugins"),
            Ok(false) => tracing::error!("Failed to register TensorRT Plugins"),
            Err(error) => tracing::error!("Failed to register TensorRT Plugins: {error}"),
        }
    } else {
        tracing::debug!(path = %own.display(), "TensorRT's plugin library is not beside it: plans that need its layers cannot be read");
    }
    let named = settings.get("plugins").map_or("", String::as_str);
    for plugin in named.split(';').map(str::trim).filter(|plugin| !plugin.is_empty()) {
        match Library::open(Path::new(plugin)) {
            Ok(_) => tracing::info!(plugin, "opened a TensorRT plugin library"),
            Err(error) => tracing::error!(plugin, "cannot open a TensorRT plugin library: {error}"),
        }
    }
}
