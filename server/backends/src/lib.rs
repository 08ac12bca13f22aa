//! What runs models: one folder per backend, each with the same files. A backend knows the contract in `server_core` and,
//! if it needs a library, how to find one; it does not know the other backends. What those over native graph runtimes have in
//! common is in `native`.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
// Unsafe code is allowed where it says so: `dylib` opens libraries, `raw` of a backend and of `nvml` calls into one, `cuda` into
// the driver, `heap` into the C library, `native::scratch` aligns memory, and `python` says what it shares with its workers, whose extension
// module (`python/extension`) is a library of its own.

mod cuda;
mod dylib;
mod expect;
mod heap;
mod native;
mod nvml;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_over_time;
mod timed;

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

pub use nvml::gpu_probe;
pub use tensorrt::{PlanOptions, PlanProfile, build_plan, read_shapes, write_plan};

use server_core::{
    backend::{Backend, Backends, ModelSource, Settings},
    error::{Error, Result},
};

/// The one list. A backend is a module of that name with a function `backend(settings)`.
macro_rules! backends {
    ($($name:ident),+ $(,)?) => {
        $(mod $name;)+

        /// The name of every backend.
        pub const NAMES: &[&str] = &[$(stringify!($name)),+];

        /// Every backend, with its settings of `--backend-config`, global ones already merged in.
        ///
        /// Nothing is opened here: a library that a backend needs is looked for when its first model is.
        pub fn all(settings: &BTreeMap<String, Settings>) -> Arc<BuiltIn> {
            let of = |name: &str| settings.get(name).cloned().unwrap_or_default();
            let directory = settings.values().find_map(|settings| settings.get("backend-directory")).map(PathBuf::from);
            Arc::new(BuiltIn { backends: vec![$($name::backend(of(stringify!($name)))),+], directory })
        }
    };
}

/// Kills what backends have started outside this process, with all that it has started: for a server that ends without
/// waiting for anything.
pub fn kill_processes() {
    python::kill_processes();
}

/// The backends of this crate, and those that are written for them and lie in the backend directory.
pub struct BuiltIn {
    backends: Vec<Arc<dyn Backend>>,
    directory: Option<PathBuf>,
}

impl Backends for BuiltIn {
    fn find(&self, name: &str, runtime: &str, _source: &ModelSource) -> Result<Arc<dyn Backend>> {
        let is_one_component = Path::new(name).components().eq([Component::Normal(name.as_ref())]);
        let folder = self.directory.as_ref().filter(|_| is_one_component).map(|directory| directory.join(name));
        let in_folder =
            || folder.as_deref().and_then(|at| self.backends.iter().find_map(|backend| backend.with_code(name, at)));
        let of_runtime = || self.backends.iter().find_map(|backend| backend.with_runtime(name, runtime));
        let built_in = || self.backends.iter().find(|backend| backend.name() == name).cloned();
        let found = match runtime {
            python::MODEL_FILE => in_folder().or_else(of_runtime).or_else(built_in),
            _ => built_in().or_else(in_folder),
        };
        found.ok_or_else(|| {
            let searched = folder.map_or_else(String::new, |at| format!(", and none in {}", at.display()));
            Error::invalid_argument(format!(
                "unable to find backend library for backend '{name}', try specifying runtime on the model configuration. \
                 This server has: {}{searched}.",
                NAMES.join(", ")
            ))
        })
    }
}

backends! { distributed_addsub, dyna_sequence, identity, iterative_sequence, onnxruntime, openvino, python, pytorch, repeat, sequence, square, tensorflow, tensorrt }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_chooses_between_a_backend_and_its_code_in_python() {
        let backends = all(&BTreeMap::new());
        let source = ModelSource { model_dir: "m".into(), version_dir: "m/1".into(), name: "m".into(), version: 1 };
        let library = |name: &str, runtime: &str| {
            backends.find(name, runtime, &source).map(|backend| (backend.name().to_owned(), backend.library()))
        };
        assert_eq!(library("pytorch", "model.py"), Ok(("pytorch".into(), "model.py".into())));
        assert_eq!(library("python", ""), Ok(("python".into(), "libtriton_python.so".into())));
        assert_eq!(library("python", "model.py"), library("python", ""));
        assert!(library("nobody", "model.py").is_err());
    }

    #[test]
    fn every_backend_goes_by_the_name_of_its_folder() {
        let backends = all(&BTreeMap::new());
        assert_eq!(backends.backends.iter().map(|backend| backend.name()).collect::<Vec<_>>(), NAMES);
    }
}
