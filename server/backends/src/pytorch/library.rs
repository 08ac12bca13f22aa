//! The shim, and libtorch behind it: found and opened when the first model needs them, once for the process. A library that is
//! not there fails the models that need it and nothing else, and is looked for again at the next load.

use std::path::PathBuf;

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use server_core::{backend::Settings, error::Result};

use super::{
    options::Options,
    raw::{self, INTERFACE, Shim},
};
use crate::{
    dylib::{self, Library, LoadError, Wanted},
    native::{loading::without_library, operations::Operations, settings::usable_threads},
};

/// Name of the backend.
pub(super) const NAME: &str = "pytorch";

const AGAIN: &str = "build it again with deploy/shims/build torch";

/// The open shim.
pub(super) struct Runtime {
    /// Its functions.
    pub(super) shim: Shim,
    /// The version of libtorch: its own words, and the first two numbers.
    pub(super) version: String,
    /// See `version`.
    pub(super) numbers: (u32, u32),
    /// How many GPUs libtorch can use.
    pub(super) gpus: u32,
    /// What models have opened besides.
    operations: Operations,
    threads: Mutex<Threads>,
}

/// Which numbers of threads a model has decided.
#[derive(Default)]
struct Threads {
    intra_op: Option<i32>,
    inter_op: Option<i32>,
}

/// The library, opened at the first call. `settings` of later calls change nothing.
///
/// Errors: `InvalidArgument` if it is not found, `Internal` if it is found and of no use.
pub(super) fn runtime(settings: &Settings) -> Result<&'static Runtime> {
    static OPENED: OnceCell<Runtime> = OnceCell::new();
    let open = || open(settings.get("library").map(String::as_str)).map_err(|error| without_library(NAME, &error));
    OPENED.get_or_try_init(open)
}

fn open(setting: Option<&str>) -> std::result::Result<Runtime, LoadError> {
    let path = dylib::find(&Wanted {
        file_name: "libtriton_torch_shim.so",
        setting,
        variable: "TORCH_SHIM_PATH",
        known: &["/opt/pytorch/lib", "/usr/lib", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu"],
        cure: "compile it for the libtorch of this machine with deploy/shims/build torch, or name its file with \
               --backend-config=pytorch,library=PATH or TORCH_SHIM_PATH",
    })?;
    let library = Library::open(&path).map_err(with_cure)?;
    let interface = raw::interface(&library)?;
    if interface != INTERFACE {
        let text = format!("its interface has version {interface}, and this server needs {INTERFACE}: {AGAIN}");
        return Err(library.unsuitable(text));
    }
    let shim = Shim::of(&library)?;
    let (compiled_for, found) = (shim.compiled_for(), shim.found());
    if numbers(&compiled_for) != numbers(&found) {
        return Err(library.unsuitable(format!(
            "it was compiled for libtorch {compiled_for}, and the loader has found {found}: {AGAIN}"
        )));
    }
    // Containers have less than the machine; a smaller number that was asked for by OMP_NUM_THREADS stands.
    let usable = i32::try_from(usable_threads()).unwrap_or(i32::MAX);
    if usable < shim.intra_op_threads() {
        shim.set_intra_op_threads(usable).map_err(|error| library.unsuitable(error.0))?;
    }
    let gpus = shim.gpu_count();
    tracing::info!(path = %library.path().display(), version = %found, gpus, "opened libtorch");
    Ok(Runtime {
        shim,
        numbers: numbers(&found),
        version: found,
        gpus,
        operations: Operations::default(),
        threads: Mutex::default(),
    })
}

/// What helps where the loader refuses the shim: mostly libtorch itself is missing, or another version.
fn with_cure(error: LoadError) -> LoadError {
    match error {
        LoadError::Refused { path, reason } => {
            let reason = format!("{reason}; install the libtorch that it was compiled for, or {AGAIN}");
            LoadError::Refused { path, reason }
        }
        other => other,
    }
}

/// The first two numbers of a version.
fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Runtime {
    /// Opens libraries with further operations.
    ///
    /// Errors: one cannot be opened, or should not.
    pub(super) fn load_operations(&self, files: &[PathBuf]) -> Result<()> {
        self.operations.open_all(files, |file| Library::open(file).map(drop))
    }

    /// Sets numbers of threads, which all models have together: the first model that names one decides, as in Triton.
    pub(super) fn decide_threads(&self, model: &str, options: &Options) {
        let mut threads = self.threads.lock();
        let Threads { intra_op, inter_op } = &mut *threads;
        decide(model, "Intra op", intra_op, options.intra_op_threads, |count| self.shim.set_intra_op_threads(count));
        decide(model, "Inter op", inter_op, options.inter_op_threads, |count| self.shim.set_inter_op_threads(count));
    }

    /// Whether an operation has no threads but that which calls it.
    pub(super) fn has_one_thread(&self) -> bool {
        self.shim.intra_op_threads() == 1
    }
}

fn decide(
    model: &str,
    which: &str,
    decided: &mut Option<i32>,
    asked: Option<i32>,
    set: impl FnOnce(i32) -> std::result::Result<(), raw::Failure>,
) {
    let Some(asked) = asked else { return };
    if decided.is_none() {
        match set(asked) {
            Ok(()) => *decided = Some(asked),
            Err(error) => return tracing::warn!("{which} thread count of model '{model}' cannot be set: {error}"),
        }
    }
    match *decided {
        Some(count) if count != asked => tracing::warn!(
            "{which} thread count is {count} for all models, because a model before said so; model '{model}' asks for {asked}"
        ),
        _ => tracing::info!("{which} thread count is set to {asked} for model instance '{model}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_two_numbers() {
        assert_eq!(numbers("1.13.0a0"), (1, 13));
        assert_eq!(numbers("2.12.1+cu130"), numbers("2.12.0"));
        assert_ne!(numbers("2.12.1"), numbers("2.11.1"));
    }

    #[test]
    fn the_first_model_decides_how_many_threads_there_are() {
        let mut decided = None;
        decide("a", "Intra op", &mut decided, None, |_| panic!("nobody asked"));
        decide("b", "Intra op", &mut decided, Some(2), |_| Err(raw::Failure("too late".into())));
        assert_eq!(decided, None);
        decide("c", "Intra op", &mut decided, Some(3), |count| (count == 3).then_some(()).ok_or_else(|| panic!("3")));
        decide("d", "Intra op", &mut decided, Some(4), |_| panic!("decided already"));
        assert_eq!(decided, Some(3));
    }
}
