//! Models of a multi-model endpoint. SageMaker says where it has put a model and under which name it is asked for; the model's folder
//! is linked under that name into a repository of the server, which loads it from there.

use std::{
    collections::BTreeMap,
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
/// Models that may be loaded at once.
const MAX_MODELS: usize = 10_000;

/// A model that SageMaker wants loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    name: String,
    url: String,
}

/// Models that SageMaker has loaded, by name: where each is from.
pub(crate) struct Models {
    engine: Arc<Engine>,
    repository: Option<PathBuf>,
    blocking_pool: BlockingPool,
    loaded: Mutex<BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    model_name: &'a str,
    model_url: &'a str,
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

    /// All of them, as JSON.
    pub(super) fn list(&self) -> Result<Vec<u8>> {
        let loaded = self.loaded.lock();
        to_json(&List { models: loaded.iter().map(|(model_name, model_url)| Line { model_name, model_url }).collect() })
    }

    /// Whether there is one of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.loaded.lock().contains_key(name)
    }

    /// One of them, as JSON.
    pub(super) fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let loaded = self.loaded.lock();
        loaded.get_key_value(name).map(|(model_name, model_url)| to_json(&Line { model_name, model_url })).transpose()
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
            Ok(parameters) => self.engine.load(&name, parameters).await,
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
        if loaded.values().any(|other| other == url) {
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
        loaded.insert(name.to_owned(), url.to_owned());
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

/// Links the model's folder, and gives its configuration the name that it is asked for by.
fn prepare(name: &str, source: &Path, link: &Path) -> Result<LoadParameters> {
    let folder = model_folder(source)?;
    let cannot = |error: io::Error| {
        Error::internal(format!(
            "failed to register '{}', '{}' cannot be made: {error}",
            source.display(),
            link.display()
        ))
    };
    std::os::unix::fs::symlink(&folder, link).map_err(cannot)?;
    let Ok(text) = fs::read_to_string(folder.join("config.pbtxt")) else { return Ok(LoadParameters::default()) };
    // one that cannot be read is refused where it is loaded, with its reason
    let Ok(mut config) = config::from_text(&text) else { return Ok(LoadParameters::default()) };
    if config.name.is_empty() || config.name == name {
        return Ok(LoadParameters::default());
    }
    name.clone_into(&mut config.name);
    Ok(LoadParameters { config: Some(config::to_json(&config).to_string()), ..LoadParameters::default() })
}

/// The one folder in what SageMaker has unpacked.
fn model_folder(source: &Path) -> Result<PathBuf> {
    let shown = source.display();
    let entries = fs::read_dir(source)
        .map_err(|_| Error::invalid_argument(format!("failed to register '{shown}', repository not found")))?;
    let folders: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    match <[PathBuf; 1]>::try_from(folders) {
        Ok([folder]) => Ok(fs::canonicalize(&folder).unwrap_or(folder)),
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
        let parameters = prepare("1234", &source, &temp.path().join("1234")).unwrap();
        assert!(temp.path().join("1234/1").is_dir());
        let config = config::from_json(&parameters.config.unwrap()).unwrap();
        assert_eq!((config.name.as_str(), config.max_batch_size), ("1234", 4));
        let same = prepare("resnet", &source, &temp.path().join("resnet")).unwrap();
        assert_eq!(same.config, None);
        assert!(prepare("1234", &source, &temp.path().join("1234")).unwrap_err().message.contains("cannot be made"));
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
