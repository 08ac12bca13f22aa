//! ONNX Runtime itself: found and opened when the first model needs it, once for the process. A library that is not
//! there fails the models that need it and nothing else, and is looked for again at the next load.

use std::{path::PathBuf, sync::Arc};

use once_cell::sync::OnceCell;
use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    logging::LogLevel,
};
use server_core::{
    backend::Settings,
    error::{Error, Result},
};

use super::{
    arena::Arenas,
    newer::Newer,
    plugins::Plugins,
    raw::{self, Failure},
};
use crate::{
    dylib::{self, Library, LoadError, Wanted},
    native::{
        loading,
        settings::{MOST_THREADS, flag, number, usable_threads},
    },
};

const TARGET: &str = "onnxruntime";

/// The open library and the environment that all sessions share.
pub(super) struct Runtime {
    /// Home of all sessions.
    pub(super) environment: Environment,
    /// Where the library lies.
    pub(super) path: PathBuf,
    /// Sessions share one pool of threads.
    pub(super) has_global_threads: bool,
    /// Sessions share one arena of host memory.
    pub(super) has_shared_arena: bool,
    /// How sessions are asked what they hold, if the library can tell.
    pub(super) arenas: Option<Arenas>,
    /// Libraries with further execution providers.
    pub(super) plugins: Plugins,
}

/// The library, opened at the first call. `settings` of later calls change nothing.
///
/// Errors: `InvalidArgument` if it is not found, `Internal` if it is found and of no use.
pub(super) fn runtime(settings: &Settings) -> Result<&'static Runtime> {
    static OPENED: OnceCell<Runtime> = OnceCell::new();
    OPENED.get_or_try_init(|| open(settings))
}

fn open(settings: &Settings) -> Result<Runtime> {
    let has_global_threads = flag(settings, "enable-global-threadpool")?;
    let library = library(settings.get("library").map(String::as_str)).map_err(describe)?;
    let version = raw::version(&library).map_err(describe)?;
    let path = library.path().to_path_buf();
    let builder = ort::init_from(&path).map_err(|error| describe(library.unsuitable(error.to_string())))?;
    let builder = if has_global_threads {
        builder.with_global_thread_pool(global_threads(settings).map_err(Failure::from)?)
    } else {
        builder
    };
    let builder = builder.with_name("tritonserver").with_telemetry(false).with_logger(Arc::new(log));
    let environment = builder.build().map_err(Failure::from)?;
    environment.set_log_level(log_level());
    tracing::info!(path = %path.display(), %version, "opened ONNX Runtime");
    let has_shared_arena = flag(settings, "enable-shared-arena")?;
    if has_shared_arena {
        raw::share_arena(&environment).map_err(Error::from)?;
    }
    let newer = Newer::of(&library, &version);
    let arenas = newer.and_then(Arenas::of);
    let plugins = Plugins::of(settings, newer);
    Ok(Runtime { environment, path, has_global_threads, has_shared_arena, arenas, plugins })
}

fn library(setting: Option<&str>) -> Result<Library, LoadError> {
    Library::open(&dylib::find(&Wanted {
        file_name: "libonnxruntime.so",
        setting,
        variable: "ORT_DYLIB_PATH",
        known: &["/opt/onnxruntime/lib", "/usr/lib", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu"],
        cure: "install ONNX Runtime into one of these places, or name its file with \
               --backend-config=onnxruntime,library=PATH or ORT_DYLIB_PATH",
    })?)
}

fn describe(error: LoadError) -> Error {
    loading::without_library("onnxruntime", &error)
}

fn global_threads(settings: &Settings) -> std::result::Result<GlobalThreadPoolOptions, ort::Error> {
    let threads = |key| {
        number(settings, key).ok().flatten().filter(|count| *count > 0).unwrap_or_else(usable_threads).min(MOST_THREADS)
    };
    GlobalThreadPoolOptions::default()
        .with_intra_threads(threads("intra_op_thread_count"))?
        .with_inter_threads(threads("inter_op_thread_count"))?
        .with_spin_control(false)
}

fn log_level() -> LogLevel {
    if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
        LogLevel::Verbose
    } else if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        LogLevel::Info
    } else {
        LogLevel::Warning
    }
}

/// ONNX Runtime's messages in the server's log. Its errors also come back to whoever called, so they are warnings here.
fn log(level: LogLevel, _category: &str, _id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Verbose => tracing::trace!(target: TARGET, place, "{message}"),
        LogLevel::Info => tracing::debug!(target: TARGET, place, "{message}"),
        LogLevel::Warning | LogLevel::Error => tracing::warn!(target: TARGET, place, "{message}"),
        LogLevel::Fatal => tracing::error!(target: TARGET, place, "{message}"),
    }
}
