//! OpenVINO itself: found and opened when the first model needs it, once for the process. A library that is not there fails the
//! models that need it and nothing else, and is looked for again at the next load.

use once_cell::sync::OnceCell;
use server_core::{
    backend::Settings,
    error::{Error, Result},
};

use super::{
    element::Elements,
    raw::{Api, Core, Failure},
    settings::Threads,
};
use crate::{
    dylib::{self, Library, LoadError, Wanted},
    native::{loading, settings::usable_threads},
};

/// The open library, and what models share of it.
pub(super) struct Runtime {
    /// Its functions.
    pub(super) api: &'static Api,
    /// Reads and compiles models without extensions of their own.
    pub(super) core: Core,
    /// Its types.
    pub(super) elements: Elements,
}

/// The library, opened at the first call. `settings` of later calls change nothing.
///
/// Errors: `InvalidArgument` if it is not found, `Internal` if it is found and of no use.
pub(super) fn runtime(settings: &Settings) -> Result<&'static Runtime> {
    static OPENED: OnceCell<Runtime> = OnceCell::new();
    OPENED.get_or_try_init(|| open(settings))
}

pub(super) fn open(settings: &Settings) -> Result<Runtime> {
    let library = library(settings.get("library").map(String::as_str)).map_err(describe)?;
    let api: &'static Api = Box::leak(Box::new(Api::of(&library).map_err(describe)?));
    let unusable = |failure: Failure| describe(library.unsuitable(failure.to_string()));
    let version = api.version().map_err(unusable)?;
    let core = core(api, threads()).map_err(unusable)?;
    let elements = Elements::of(&core).map_err(unusable)?;
    let devices = core.devices().map_err(unusable)?.join(", ");
    api.send_logs();
    tracing::info!(path = %library.path().display(), %version, %devices, "opened OpenVINO");
    Ok(Runtime { api, core, elements })
}

/// What reads and compiles models: on no more threads of the CPU than are granted, of which OpenVINO does not know, where a model
/// does not say how many. This also holds for devices that stand for the CPU among others.
pub(super) fn core(api: &'static Api, threads: Threads) -> Result<Core, Failure> {
    let core = Core::new(api)?;
    if threads.granted < threads.on_processors && core.devices()?.iter().any(|device| device == "CPU") {
        core.set("CPU", "INFERENCE_NUM_THREADS", &threads.granted.to_string())?;
    }
    Ok(core)
}

/// Threads that this process may use.
pub(super) fn threads() -> Threads {
    let granted = usable_threads();
    let on_processors = rustix::thread::sched_getaffinity(None).map_or(granted, |set| set.count() as usize);
    Threads { on_processors, granted }
}

fn library(setting: Option<&str>) -> Result<Library, LoadError> {
    Library::open(&dylib::find(&Wanted {
        file_name: "libopenvino_c.so",
        setting,
        variable: "OPENVINO_DYLIB_PATH",
        known: &[
            "/opt/openvino/lib",
            "/opt/openvino/libs",
            "/opt/intel/openvino/runtime/lib/intel64",
            "/usr/lib",
            "/usr/local/lib",
            "/usr/lib/x86_64-linux-gnu",
        ],
        cure: "install OpenVINO 2023.1 or newer into one of these places, or name its libopenvino_c.so with \
               --backend-config=openvino,library=PATH or OPENVINO_DYLIB_PATH",
    })?)
}

fn describe(error: LoadError) -> Error {
    loading::without_library("openvino", &error)
}
