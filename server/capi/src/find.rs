//! Which file is a backend: those that are built in come first, then the library of that name beside the model, then in the backend
//! directory. A setting may choose the library over what is built in.
//!
//! | order | place |
//! |---|---|
//! | 1 | `--backend-config=NAME,library=libtriton_NAME.so`: the library instead of what is built in; a path is that file |
//! | 2 | what is built in |
//! | 3 | `MODEL/VERSION/libtriton_NAME.so`, `MODEL/libtriton_NAME.so` |
//! | 4 | `--backend-directory/NAME/libtriton_NAME.so` |
//!
//! `runtime` of a configuration names another file than `libtriton_NAME.so`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use server_core::{
    backend::{Backend, Backends, ModelSource, Settings},
    error::{Error, Result},
};

use crate::backend::adapter::LibraryBackend;

/// No backend, for all its name: what the PyTorch backend that is built in calls LibTorch through. The same setting says where it lies.
const TORCH_SHIM: &str = "libtriton_torch_shim.so";

/// Backends that are built in, and libraries that lie somewhere on disk.
pub struct Libraries {
    built_in: Arc<dyn Backends>,
    settings: BTreeMap<String, Settings>,
    directory: PathBuf,
    /// Whether backends complete configurations: libraries want to know before there is a model.
    auto_complete: bool,
    /// Those that are open, or are being opened. A library is never closed.
    open: Mutex<HashMap<Opened, Arc<OpenOnce>>>,
}

/// A backend by its name and its file, by what tells that from another of the same path.
type Opened = (String, PathBuf, (u64, u64, i64));

/// A library, once it is open. Whoever opens it holds the lock.
type OpenOnce = Mutex<Option<Arc<LibraryBackend>>>;

impl Libraries {
    /// What is built in, and libraries in that backend directory. `settings` are those of each backend, with those for all
    /// under the empty name.
    pub fn new(
        built_in: Arc<dyn Backends>,
        settings: BTreeMap<String, Settings>,
        directory: PathBuf,
        auto_complete: bool,
    ) -> Self {
        Self { built_in, settings, directory, auto_complete, open: Mutex::default() }
    }

    /// The settings that a library reads: those of the command line, and those that Triton adds.
    fn settings_of(&self, name: &str) -> Settings {
        let mut settings = self.settings.get(name).or_else(|| self.settings.get("")).cloned().unwrap_or_default();
        for (key, value) in [
            ("auto-complete-config", self.auto_complete.to_string().as_str()),
            ("backend-directory", &self.directory.to_string_lossy()),
            ("default-max-batch-size", "4"),
            ("min-compute-capability", "6.000000"),
        ] {
            settings.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        settings
    }

    /// The library that a setting chooses.
    fn chosen(&self, name: &str) -> Option<&str> {
        let library = self.settings.get(name)?.get("library")?;
        let file = Path::new(library).file_name()?.to_str()?;
        (file.starts_with("libtriton_") && file != TORCH_SHIM).then_some(library)
    }

    /// Where a file of that name may lie, in order.
    fn places(&self, name: &str, source: &ModelSource) -> Vec<PathBuf> {
        let mut places = vec![source.version_dir.clone(), source.model_dir.clone()];
        places.extend(is_one_component(name).then(|| self.directory.join(name)));
        places
    }

    fn open(&self, name: &str, path: &Path) -> Result<Arc<dyn Backend>> {
        // as the command line says it, links included: libraries compare it with the backend directory that they are told
        let file = fs::metadata(path).map(|file| (file.dev(), file.ino(), file.mtime())).unwrap_or_default();
        let of_file = self.open.lock().entry((name.to_owned(), path.to_owned(), file)).or_default().clone();
        let mut open = of_file.lock(); // its other models wait, those of other libraries do not
        if let Some(backend) = &*open {
            return Ok(backend.clone());
        }
        let backend = Arc::new(LibraryBackend::open(name, path, &self.settings_of(name))?);
        *open = Some(backend.clone());
        Ok(backend)
    }
}

impl Backends for Libraries {
    fn find(&self, name: &str, runtime: &str, source: &ModelSource) -> Result<Arc<dyn Backend>> {
        let places = self.places(name, source);
        let in_places = |file: &str| {
            let is_name = is_one_component(file);
            places.iter().filter(|_| is_name).map(|place| place.join(file)).find(|path| path.is_file())
        };
        if let Some(chosen) = self.chosen(name) {
            let path = if is_one_component(chosen) { in_places(chosen) } else { Some(PathBuf::from(chosen)) };
            let path = path.ok_or_else(|| not_found(chosen, source, &places))?;
            return self.open(name, &path);
        }
        let built_in = self.built_in.find(name, runtime, source);
        if let Ok(backend) = &built_in
            && (runtime.is_empty() || runtime == backend.library())
        {
            return built_in;
        }
        if leaves(runtime) {
            return Err(Error::invalid_argument(format!(
                "backend library name '{runtime}' escapes backend directory '{}', for model '{}', check model config runtime field",
                self.directory.join(name).display(),
                source.name
            )));
        }
        let usual = format!("libtriton_{name}.so");
        let file = if runtime.is_empty() { &usual } else { runtime };
        match in_places(file).filter(|_| file.ends_with(".so")) {
            Some(path) => self.open(name, &path),
            None if built_in.is_err() && !runtime.is_empty() => Err(not_found(runtime, source, &places)),
            None => built_in,
        }
    }
}

fn not_found(file: &str, source: &ModelSource, places: &[PathBuf]) -> Error {
    let searched: Vec<String> = places.iter().map(|place| format!("'{}'", place.display())).collect();
    Error::invalid_argument(format!(
        "unable to find backend library '{file}' for model '{}', searched: {}",
        source.name,
        searched.join(" ")
    ))
}

/// Whether a path leads out of the folder that it starts from.
fn leaves(path: &str) -> bool {
    let mut depth = 0_i32;
    Path::new(path).components().any(|component| {
        depth += match component {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => 0,
        };
        depth < 0
    })
}

fn is_one_component(name: &str) -> bool {
    Path::new(name).components().eq([Component::Normal(name.as_ref())])
}
