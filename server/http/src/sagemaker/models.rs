//! Models of a multi-model endpoint. SageMaker says where it has put a model and under which name it is asked for; the model's folder
//! is linked under that name into a repository of the server, which loads it from there.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use server_core::error::{Code, Error, Result};
use server_engine::{BlockingPool, Engine, VersionState};
use tokio::time::{Instant, sleep};

use super::archive::{Links, Prepared, is_of_system, prepare};
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

/// Where a model is from.
struct Origin {
    /// The folder that SageMaker has named.
    url: String,
    /// The folder around the model's, which is what is shown.
    shown_url: String,
    /// What is linked for it, once it is.
    links: Links,
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
    let wanted = Wanted { name: member("model_name")?, url: member("url")? };
    if is_of_system(wanted.url.as_ref()) {
        let text = format!("Invalid URL: {}: it cannot start with /dev/, /proc/, or /sys/", wanted.url);
        return Err(Error::invalid_argument(text));
    }
    Ok(wanted)
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
        let prepared = self.blocking_pool.run({
            let (name, source, repository) = (name.clone(), PathBuf::from(&url), repository.clone());
            move || prepare(&name, &source, &repository)
        });
        let loaded = match prepared.await.and_then(|prepared| prepared) {
            Ok(Prepared { parameters, shown_url, links }) => {
                let models = links.names();
                if let Some(origin) = self.loaded.lock().get_mut(&name) {
                    (origin.shown_url, origin.links) = (shown_url, links);
                }
                let loaded = self.engine.load(&name, parameters).await;
                if loaded.is_err() {
                    for model in &models {
                        _ = self.engine.unload(model, true).await; // why it cannot be loaded is what counts
                    }
                }
                loaded
            }
            Err(error) => Err(error),
        };
        if loaded.is_err() {
            self.forget(&name);
        }
        loaded
    }

    /// Unloads a model, an ensemble with its parts; returns when its last request has ended. `false` if there is no such model.
    ///
    /// Errors: it cannot be unloaded.
    pub(super) async fn unload(self: Arc<Self>, name: String) -> Result<bool> {
        let name = name.as_str();
        let Some(models) = self.loaded.lock().get(name).map(|origin| origin.links.names()) else { return Ok(false) };
        self.engine.unload(name, true).await?;
        for part in models.iter().filter(|model| *model != name) {
            self.engine.unload(part, false).await?; // also one that somebody has asked for
        }
        let deadline = Instant::now() + UNLOAD_TIME;
        while self.engine.index(false)?.iter().any(|entry| models.contains(&entry.name) && is_there(entry.state)) {
            if Instant::now() > deadline {
                return Err(Error::unavailable(format!(
                    "model '{name}' has not ended its last request after {UNLOAD_TIME:?}"
                )));
            }
            sleep(UNLOAD_INTERVAL).await;
        }
        self.forget(name);
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
        let origin = Origin { url: url.to_owned(), shown_url: url.to_owned(), links: Links::default() };
        loaded.insert(name.to_owned(), origin);
        Ok(())
    }

    fn forget(&self, name: &str) {
        self.loaded.lock().remove(name);
    }
}

fn is_there(state: Option<VersionState>) -> bool {
    state.is_some_and(|state| !matches!(state.text(), "UNAVAILABLE" | "UNKNOWN"))
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
            r#"{"model_name":"m","url":"/proc/self/root"}"#,
            r#"{"model_name":"m","url":"/proc/"}"#,
            r#"{"model_name":"m","url":"/dev"}"#,
            r#"{"model_name":"m","url":"/tmp/../sys/./kernel/"}"#,
        ] {
            assert!(wanted(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
