//! Models of a multi-model endpoint. SageMaker says where it has put a model and under which name it is asked for; the model's folder
//! is linked under that name into a repository of the server, which loads it from there.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use server_core::{
    config,
    error::{Code, Error, Result},
};
use server_engine::{BlockingPool, Engine, LoadParameters, VersionState};
use tokio::time::{Instant, sleep};

use crate::{
    body::RequestBody,
    connection::Activity,
    json::value::{Value, text},
    limits::BodyLimit,
    server::Server,
    to_json::to_json,
};

/// How long an unload may take: SageMaker waits no longer.
const UNLOAD_TIME: Duration = Duration::from_secs(350);
/// How often it is looked whether a model is gone.
const UNLOAD_INTERVAL: Duration = Duration::from_millis(50);
/// What makes a folder that of a model.
const CONFIG: &str = "config.pbtxt";
/// Models that may be loaded at once.
const MAX_MODELS: usize = 10_000;

/// A model that SageMaker wants loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    name: String,
    url: String,
}

/// Where a model is from.
struct Origin {
    /// The folder that SageMaker has named.
    url: String,
    /// The folder around the model's, which is what is shown.
    shown_url: String,
}

/// Models that SageMaker has loaded, by name.
pub(crate) struct Models {
    engine: Arc<Engine>,
    repository: Option<PathBuf>,
    blocking_pool: BlockingPool,
    loaded: Mutex<BTreeMap<String, Origin>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    model_name: &'a str,
    model_url: &'a str,
}

impl<'a> Line<'a> {
    fn of(model_name: &'a str, origin: &'a Origin) -> Self {
        Self { model_name, model_url: &origin.shown_url }
    }
}

#[derive(Serialize)]
struct List<'a> {
    models: Vec<Line<'a>>,
}

/// Reads the body of a load. Errors: it is not `{"model_name": ..., "url": ...}`.
pub(super) async fn read(server: &Server, activity: &Activity, body: &mut RequestBody) -> Result<Wanted> {
    let limit = BodyLimit::Json(server.options.max_input_size);
    let body = body.read(limit, &server.options.byte_budget, activity, None).await?;
    wanted(&body.bytes)
}

fn wanted(body: &[u8]) -> Result<Wanted> {
    let body = Value::parse(body)?;
    let member = |name: &str| {
        let value = body.member(name).and_then(Value::as_bytes).map(text).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            Error::invalid_argument(format!(
                "Unable to parse '{name}' of a model to load: expected a string that is not empty"
            ))
        })
    };
    Ok(Wanted { name: member("model_name")?, url: member("url")? })
}

impl Models {
    pub(super) fn new(engine: Arc<Engine>, repository: Option<PathBuf>, blocking_pool: BlockingPool) -> Self {
        Self { engine, repository, blocking_pool, loaded: Mutex::default() }
    }

    /// Those that are ready, as JSON.
    pub(super) fn list(&self) -> Result<Vec<u8>> {
        let ready: HashSet<String> = self.engine.index(true)?.into_iter().map(|entry| entry.name).collect();
        let loaded = self.loaded.lock();
        let models =
            loaded.iter().filter(|(name, _)| ready.contains(*name)).map(|(name, origin)| Line::of(name, origin));
        to_json(&List { models: models.collect() })
    }

    /// Whether there is one of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.loaded.lock().contains_key(name)
    }

    /// One of them, as JSON.
    pub(super) fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let loaded = self.loaded.lock();
        loaded.get(name).map(|origin| to_json(&Line::of(name, origin))).transpose()
    }

    /// Loads a model; returns when it serves.
    ///
    /// Errors: `AlreadyExists` for a name or a folder that is loaded; it cannot be loaded, and nothing is left of it then.
    pub(super) async fn load(self: Arc<Self>, wanted: Wanted) -> Result<()> {
        let Wanted { name, url } = wanted;
        let Some(repository) = &self.repository else {
            return Err(Error::unsupported(
                "repository registration is not allowed if model control mode is not EXPLICIT",
            ));
        };
        server_core::repository::check_model_name(&name)?;
        self.reserve(&name, &url)?;
        let (link, source) = (repository.join(&name), PathBuf::from(&url));
        let prepared = self.blocking_pool.run({
            let (name, link) = (name.clone(), link.clone());
            move || prepare(&name, &source, &link)
        });
        let loaded = match prepared.await.and_then(|prepared| prepared) {
            Ok(Prepared { parameters, shown_url }) => {
                if let Some(origin) = self.loaded.lock().get_mut(&name) {
                    origin.shown_url = shown_url;
                }
                self.engine.load(&name, parameters).await
            }
            Err(error) => Err(error),
        };
        if loaded.is_err() {
            self.forget(&name, &link);
        }
        loaded
    }

    /// Unloads a model; returns when its last request has ended. `false` if there is no such model.
    ///
    /// Errors: it cannot be unloaded.
    pub(super) async fn unload(self: Arc<Self>, name: String) -> Result<bool> {
        let name = name.as_str();
        let Some(repository) = self.repository.as_ref().filter(|_| self.loaded.lock().contains_key(name)) else {
            return Ok(false);
        };
        self.engine.unload(name, true).await?;
        let deadline = Instant::now() + UNLOAD_TIME;
        while self.engine.index(false)?.iter().any(|entry| entry.name == name && is_there(entry.state)) {
            if Instant::now() > deadline {
                return Err(Error::unavailable(format!(
                    "model '{name}' has not ended its last request after {UNLOAD_TIME:?}"
                )));
            }
            sleep(UNLOAD_INTERVAL).await;
        }
        self.forget(name, &repository.join(name));
        Ok(true)
    }

    /// Takes the name and the folder, so that nobody else loads either meanwhile.
    fn reserve(&self, name: &str, url: &str) -> Result<()> {
        let mut loaded = self.loaded.lock();
        if loaded.values().any(|other| other.url == url) {
            return Err(Error::new(
                Code::AlreadyExists,
                format!("model repository '{url}' has already been registered"),
            ));
        }
        if loaded.contains_key(name) {
            let text = format!("failed to register '{url}', there is a conflicting mapping for '{name}'");
            return Err(Error::new(Code::AlreadyExists, text));
        }
        if loaded.len() >= MAX_MODELS {
            return Err(Error::unavailable(format!(
                "failed to register '{url}', {MAX_MODELS} models are loaded, and no more are possible: unload others before"
            )));
        }
        loaded.insert(name.to_owned(), Origin { url: url.to_owned(), shown_url: url.to_owned() });
        Ok(())
    }

    fn forget(&self, name: &str, link: &Path) {
        if let Err(error) = fs::remove_file(link)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("the link '{}' cannot be removed: {error}", link.display());
        }
        self.loaded.lock().remove(name);
    }
}

fn is_there(state: Option<VersionState>) -> bool {
    state.is_some_and(|state| !matches!(state.text(), "UNAVAILABLE" | "UNKNOWN"))
}

/// A model whose folder is linked.
#[derive(Debug)]
struct Prepared {
    parameters: LoadParameters,
    /// The folder around it.
    shown_url: String,
}

/// Links the model's folder, and gives its configuration the name that it is asked for by.
fn prepare(name: &str, source: &Path, link: &Path) -> Result<Prepared> {
    let is_model = source.join(CONFIG).is_file();
    let folder = if is_model { canonical(source) } else { model_folder(source)? };
    let around = source.parent().filter(|_| is_model).unwrap_or(source);
    let shown_url = around.to_string_lossy().into_owned();
    let cannot = |error: io::Error| {
        Error::internal(format!(
            "failed to register '{}', '{}' cannot be made: {error}",
            source.display(),
            link.display()
        ))
    };
    std::os::unix::fs::symlink(&folder, link).map_err(cannot)?;
    let config = renamed(name, &folder.join(CONFIG));
    Ok(Prepared { parameters: LoadParameters { config, ..LoadParameters::default() }, shown_url })
}

/// A configuration under another name than its own, as JSON. `None` if it has no other, or cannot be read: it is refused where it
/// is loaded then, with its reason.
fn renamed(name: &str, path: &Path) -> Option<String> {
    let mut config = config::from_text(&fs::read_to_string(path).ok()?).ok()?;
    if config.name.is_empty() || config.name == name {
        return None;
    }
    name.clone_into(&mut config.name);
    Some(config::to_json(&config).to_string())
}

fn canonical(folder: &Path) -> PathBuf {
    fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

/// The one folder in what SageMaker has unpacked.
fn model_folder(source: &Path) -> Result<PathBuf> {
    let shown = source.display();
    let entries = fs::read_dir(source)
        .map_err(|_| Error::invalid_argument(format!("failed to register '{shown}', repository not found")))?;
    let folders: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    match <[PathBuf; 1]>::try_from(folders) {
        Ok([folder]) => Ok(canonical(&folder)),
        Err(folders) => Err(Error::invalid_argument(format!(
            "failed to register '{shown}', it has {} folders of models: one is expected, as ensembles are not served by \
             multi-model endpoints",
            folders.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_to_load_has_a_name_and_a_folder() {
        let good = wanted(br#"{"model_name": "m", "url": "/opt/ml/models/1/model", "more": 1}"#);
        assert_eq!(good, Ok(Wanted { name: "m".into(), url: "/opt/ml/models/1/model".into() }));
        for bad in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"model_name":"m"}"#,
            r#"{"model_name":3,"url":[]}"#,
            r#"{"model_name":"","url":"u"}"#,
        ] {
            assert!(wanted(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_folder_of_a_model_is_linked_and_its_configuration_renamed() {
        let temp = tempfile::tempdir().unwrap();
        let source = temp.path().join("unpacked");
        fs::create_dir_all(source.join("resnet/1")).unwrap();
        fs::write(source.join("resnet/config.pbtxt"), "name: \"resnet\" max_batch_size: 4").unwrap();
        let Prepared { parameters, shown_url } = prepare("1234", &source, &temp.path().join("1234")).unwrap();
        assert_eq!(Path::new(&shown_url), source);
        assert!(temp.path().join("1234/1").is_dir());
        let config = config::from_json(&parameters.config.unwrap()).unwrap();
        assert_eq!((config.name.as_str(), config.max_batch_size), ("1234", 4));
        let same = prepare("resnet", &source, &temp.path().join("resnet")).unwrap();
        assert_eq!(same.parameters.config, None);
        let again = prepare("1234", &source, &temp.path().join("1234")).unwrap_err();
        assert!(again.message.contains("cannot be made"), "{again}");
    }

    #[test]
    fn what_is_unpacked_may_be_the_folder_of_the_model_itself() {
        let temp = tempfile::tempdir().unwrap();
        let source = temp.path().join("unpacked");
        for version in ["1", "2"] {
            fs::create_dir_all(source.join(version)).unwrap();
        }
        fs::write(source.join(CONFIG), "name: \"resnet\" max_batch_size: 4").unwrap();
        let Prepared { parameters, shown_url } = prepare("1234", &source, &temp.path().join("1234")).unwrap();
        assert!(temp.path().join("1234/2").is_dir());
        assert_eq!(config::from_json(&parameters.config.unwrap()).unwrap().name, "1234");
        assert_eq!(Path::new(&shown_url), temp.path());
    }

    #[test]
    fn what_is_no_folder_with_one_model_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let missing = temp.path().join("missing");
        let error = model_folder(&missing).unwrap_err().message;
        assert_eq!(error, format!("failed to register '{}', repository not found", missing.display()));
        assert!(model_folder(temp.path()).unwrap_err().message.contains("it has 0 folders"));
        for name in ["a", "b"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        assert!(model_folder(temp.path()).unwrap_err().message.contains("it has 2 folders"));
    }
}
