//! The whole agent on a real folder, before a stand-in that speaks the repository API: it reads the very repository the
//! agent lays out, refuses content that says `bad`, and notes the order of the calls. The real server is in `e2e`.

mod foreign;
mod rollout;
mod sources;
mod traced;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Mutex,
};

use bytes::Bytes;
use crds::parts::{
    load::{LoadOrder, Readiness},
    source::Layout,
};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use operator_core::manifest::{ManifestConfig, ManifestLoad, ManifestModel, ManifestSource, Precedence};
use tokio::net::TcpListener;

use super::*;
use crate::{
    fault::Reason,
    source,
    state::{ModelState, Phase},
};

/// A stand-in for the server.
#[derive(Default)]
struct StandIn {
    repository: Mutex<PathBuf>,
    loaded: Mutex<BTreeMap<String, String>>,
    /// What of them came with a load request.
    overrides: Mutex<BTreeMap<String, &'static str>>,
    calls: Mutex<Vec<String>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl StandIn {
    /// Starts a process with nothing loaded.
    async fn start(self: &Arc<Self>, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::clone(self);
        *self.accepting.lock().unwrap() = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&server);
                let service = service_fn(move |request| {
                    let response = server.answer(&request);
                    let hangs = server.hangs(&request);
                    async move {
                        if hangs {
                            std::future::pending::<()>().await;
                        }
                        response.ok_or("the process ended")
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }));
        address
    }

    /// Ends the process.
    async fn stop(&self) {
        let accepting = self.accepting.lock().unwrap().take().unwrap();
        accepting.abort();
        let _ = accepting.await; // the port is free once the task is gone
        self.loaded.lock().unwrap().clear();
    }

    /// Its answer; none if it ended. Another process takes its place at once.
    fn answer(&self, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let mut loaded = self.loaded.lock().unwrap();
        let (status, body) = match path.as_slice() {
            ["v2", "health", "drain"] => {
                let ends = request.headers().get("content-length").is_some_and(|length| length == "14");
                let (call, state) =
                    if ends { ("ready", "") } else { ("drain", r#"{"lasts_ms":9,"requests":0,"silence_ms":9000}"#) };
                let mut calls = self.calls.lock().unwrap();
                if calls.last().is_none_or(|last| last != call) {
                    calls.push(call.to_owned());
                }
                (200, state.to_owned())
            }
            ["v2", "health", _] => (200, String::new()),
            ["v2", "repository", "index"] => {
                let overrides = self.overrides.lock().unwrap();
                let entries = loaded.keys().map(|name| {
                    let mut entry = serde_json::json!({"name": name, "version": "1", "state": "READY"});
                    if let Some(given) = overrides.get(name) {
                        entry["override"] = (*given).into();
                    }
                    entry
                });
                (200, serde_json::Value::from_iter(entries).to_string())
            }
            ["v2", "repository", "models", name, verb] => {
                self.calls.lock().unwrap().push(format!("{verb} {name}"));
                let folder = self.repository.lock().unwrap().join(name);
                let is_retry = folder.join(".retry").exists();
                match (*verb, fs::read_to_string(folder.join("1/model.py"))) {
                    ("load", Ok(text)) if text.contains("crash") && !is_retry => {
                        loaded.clear();
                        return None;
                    }
                    ("load", Ok(text)) if text.contains("bad") => (
                        400,
                        serde_json::json!({"error": format!("load failed for model '{name}': it is bad\n")})
                            .to_string(),
                    ),
                    ("load", Ok(text))
                        if text.strip_prefix("needs ").is_some_and(|other| !loaded.contains_key(other)) =>
                    {
                        let other = text.trim_start_matches("needs ");
                        let error = format!("ensemble '{name}' depends on '{other}' which has no loaded version.");
                        (400, serde_json::json!({ "error": error }).to_string())
                    }
                    ("load", Ok(_)) if text_stays(&self.overrides, name, request) => (200, String::new()),
                    ("load", Ok(text)) => {
                        loaded.insert((*name).to_owned(), text);
                        (200, String::new())
                    }
                    ("unload", _) => {
                        loaded.remove(*name);
                        loaded.retain(|_, text| text.strip_prefix("needs ") != Some(*name));
                        self.overrides.lock().unwrap().remove(*name);
                        (200, String::new())
                    }
                    _ => (400, serde_json::json!({"error": format!("'{name}' has no folder")}).to_string()),
                }
            }
            ["files", "private", _] => match request.headers().get("authorization") {
                Some(value) if value == "Bearer right" => (200, "print('private')".to_owned()),
                _ => (401, String::new()),
            },
            _ => (404, String::new()),
        };
        Some(Response::builder().status(status).body(Full::from(body)).unwrap())
    }

    /// Whether its answer does not come.
    fn hangs(&self, request: &Request<Incoming>) -> bool {
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let ["v2", "repository", "models", name, "load"] = path.as_slice() else { return false };
        let file = self.repository.lock().unwrap().join(name).join("1/model.py");
        fs::read_to_string(file).is_ok_and(|text| text.contains("hang"))
    }

    /// Loads something for somebody else.
    fn load_for_somebody(&self, name: &str, given: Option<&'static str>) {
        self.loaded.lock().unwrap().insert(name.to_owned(), "strange".to_owned());
        self.overrides.lock().unwrap().extend(given.map(|given| (name.to_owned(), given)));
    }

    fn loaded(&self, name: &str) -> Option<String> {
        self.loaded.lock().unwrap().get(name).cloned()
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

/// Whether a load leaves a configuration in place that came with one before: a load without one does.
fn text_stays(overrides: &Mutex<BTreeMap<String, &'static str>>, name: &str, request: &Request<Incoming>) -> bool {
    let mut overrides = overrides.lock().unwrap();
    let brings_config = hyper::body::Body::size_hint(request.body()).lower() > 0;
    let stays = overrides.get(name) == Some(&"config") && !brings_config;
    if !stays {
        overrides.remove(name);
    }
    stays
}

/// An agent with its stand-in.
struct Harness {
    root: tempfile::TempDir,
    server: Arc<StandIn>,
    address: SocketAddr,
    manifests: watch::Sender<Arc<Manifest>>,
    /// What the pod's annotation names, where it has one.
    adopts: Option<watch::Sender<BTreeSet<String>>>,
    /// Fetches from one place, and loads, at the same time.
    at_once: usize,
    /// How long it is waited for a word on how what serves is to be unloaded.
    word_within: Duration,
    agent: Option<Agent>,
}

impl Harness {
    async fn new(models: Vec<ManifestModel>) -> Self {
        let mut harness = Self::without_agent(models).await;
        harness.start_agent();
        harness
    }

    async fn without_agent(models: Vec<ManifestModel>) -> Self {
        let server = Arc::new(StandIn::default());
        let address = server.start(([127, 0, 0, 1], 0).into()).await;
        let (manifests, _) = watch::channel(Arc::new(manifest(models)));
        let root = tempfile::tempdir().unwrap();
        let word_within = Duration::from_millis(100);
        Self { root, server, address, manifests, adopts: None, at_once: 4, word_within, agent: None }
    }

    fn start_agent(&mut self) {
        let mut settings = Settings::new(self.root.path().join("agent"), self.address);
        settings.look_again = Duration::from_millis(50);
        settings.grace = Duration::ZERO;
        settings.word_within = self.word_within;
        (settings.fetches_at_once, settings.loads_at_once) = (self.at_once, self.at_once);
        settings.adopts = self.adopts.as_ref().map(watch::Sender::subscribe);
        settings.places.config_maps.below = vec![self.root.path().join("maps")];
        settings.places.volumes.below = vec![self.root.path().join("volumes")];
        settings.places.secrets.below = vec![self.root.path().join("secrets")];
        settings.places.addresses = Arc::new(source::AddressRule::with_loopback());
        let agent = Agent::start(settings, self.manifests.subscribe()).unwrap();
        *self.server.repository.lock().unwrap() = agent.repository();
        self.agent = Some(agent);
    }

    /// Ends the server's process; another one takes its place, as the launcher says.
    async fn replace_server(&self) {
        self.server.stop().await;
        self.agent.as_ref().unwrap().server_starting();
        self.server.start(self.address).await;
    }

    /// Ends the agent as a kill would: nothing is told to anybody.
    async fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.task.abort();
        let _ = (&mut agent.task).await;
    }

    fn want(&self, models: Vec<ManifestModel>) {
        self.manifests.send_replace(Arc::new(manifest(models)));
    }

    async fn until(&self, what: &str, is_so: impl Fn(&State) -> bool) -> State {
        let hash = self.manifests.borrow().hash.clone();
        let mut state = self.agent.as_ref().unwrap().state();
        let found = state.wait_for(|state| state.manifest_hash == hash && is_so(state));
        let found = tokio::time::timeout(Duration::from_secs(20), found).await.map(|state| state.unwrap().clone());
        found.unwrap_or_else(|_| panic!("never {what}: {:#?}", *self.agent.as_ref().unwrap().state().borrow()))
    }

    async fn settled(&self) -> State {
        self.until("settled", |state| state.is_settled && state.server_is_live).await
    }
}

fn manifest(models: Vec<ManifestModel>) -> Manifest {
    Manifest::new("ml", "vision", models)
}

fn model(name: &str, source: ManifestSource) -> ManifestModel {
    ManifestModel {
        name: name.into(),
        resource: name.into(),
        source,
        checksum: None,
        layout: Layout::Auto,
        format: None,
        config: ManifestConfig {
            text: format!("name: \"{name}\"\n"),
            precedence: Precedence::Fields,
            fields: Vec::new(),
            backend: Some("python".into()),
            platform: None,
        },
        readiness: Readiness::Required,
        load: ManifestLoad {
            timeout: crds::parts::Duration::from_secs(5),
            retries: 1,
            backoff: Duration::from_millis(20).into(),
            fetch_timeout: None,
            order: LoadOrder::default(),
            settle_time: None,
        },
        gpu_memory: None,
        retry: None,
        rollout: None,
    }
}

fn inline(name: &str, text: &str) -> ManifestModel {
    model(name, ManifestSource::Inline { files: BTreeMap::from([("1/model.py".into(), text.into())]) })
}

fn reason(model: &ModelState) -> Option<Reason> {
    model.failure().map(|failure| failure.reason)
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_manifest_becomes_loaded_models() {
    let harness = Harness::new(vec![inline("a", "one"), inline("b", "two")]).await;
    let state = harness.settled().await;
    assert!(state.is_ready());
    assert_eq!(state.models["a"].versions, [1]);
    assert_eq!(state.models["a"].serving, state.models["a"].wanted);
    assert_eq!(harness.server.loaded("b").as_deref(), Some("two"));
    let repository = harness.agent.as_ref().unwrap().repository();
    let config = fs::read_to_string(repository.join("a/config.pbtxt")).unwrap();
    assert!(config.contains("name: \"a\"") && config.contains("backend: \"python\""), "{config}");
}

#[tokio::test]
async fn a_bad_new_version_leaves_the_old_serving_and_says_why() {
    let harness = Harness::new(vec![inline("a", "good"), inline("b", "good")]).await;
    let before = harness.settled().await;
    harness.want(vec![inline("a", "bad"), inline("b", "better")]);
    let state = harness.settled().await;
    let failure = state.models["a"].failure().unwrap();
    assert_eq!((failure.reason, failure.attempts, failure.will_retry), (Reason::LoadFailed, 2, false));
    assert_eq!(failure.message, "load failed for model 'a': it is bad");
    assert_eq!(state.models["a"].serving, before.models["a"].serving);
    assert_eq!((state.models["a"].versions.as_slice(), &state.models["b"].phase), ([1].as_slice(), &Phase::Ready));
    let repository = harness.agent.as_ref().unwrap().repository();
    assert_eq!(
        fs::read_to_string(repository.join("a/1/model.py")).unwrap(),
        "good",
        "a restart must find the good one"
    );

    harness.want(vec![inline("a", "mended"), inline("b", "better")]);
    assert!(harness.settled().await.is_ready());
    assert_eq!(harness.server.loaded("a").as_deref(), Some("mended"));
}

#[tokio::test]
async fn an_ensemble_that_came_before_its_parts_is_loaded_as_soon_as_they_are() {
    let patient = |mut model: ManifestModel| {
        model.load.backoff = crds::parts::Duration::from_secs(3600);
        model
    };
    let chain = || patient(inline("chain", "needs part"));
    let harness = Harness::new(vec![chain(), patient(inline("bad", "bad"))]).await;
    harness.until("failed", |state| ["chain", "bad"].iter().all(|name| reason(&state.models[*name]).is_some())).await;
    harness.want(vec![chain(), patient(inline("bad", "bad")), inline("part", "there")]);
    harness
        .until("served", |state| ["chain", "part"].iter().all(|name| state.models[*name].phase == Phase::Ready))
        .await;
    let loads_of = |wanted: &str| harness.server.calls().iter().filter(|call| *call == wanted).count();
    assert_eq!(loads_of("load bad"), 1, "what failed for another reason waits");
}

#[tokio::test]
async fn an_ensemble_whose_parts_are_on_their_way_has_not_failed() {
    let endless = TcpListener::bind("127.0.0.1:0").await.unwrap(); // takes connections and says nothing
    let uri = format!("http://{}/m.zip", endless.local_addr().unwrap());
    let slow = model("part", ManifestSource::Http { uri, secret: None });
    let mut harness = Harness::new(vec![inline("chain", "needs part"), slow]).await;
    let loads = |harness: &Harness| harness.server.calls().iter().filter(|call| *call == "load chain").count();
    let tried = |state: &State| loads(&harness) > 1 && state.models["chain"].phase != Phase::Loading;
    let state = harness.until("tried", tried).await;
    assert_eq!(state.models["chain"].phase, Phase::Pending);
    harness.kill_agent().await;
    harness.want(vec![inline("chain", "needs part")]);
    harness.start_agent();
    harness.until("failed", |state| reason(&state.models["chain"]) == Some(Reason::LoadFailed)).await;
}

#[tokio::test]
async fn a_bad_first_version_leaves_no_folder_behind() {
    let harness = Harness::new(vec![inline("a", "bad")]).await;
    let state = harness.settled().await;
    assert_eq!((reason(&state.models["a"]), state.models["a"].serving.is_none()), (Some(Reason::LoadFailed), true));
    assert!(!harness.agent.as_ref().unwrap().repository().join("a").exists());
}

#[tokio::test]
async fn a_restarted_server_gets_everything_again_even_beside_a_failed_update() {
    let harness = Harness::new(vec![inline("a", "good"), inline("b", "good")]).await;
    harness.settled().await;
    harness.want(vec![inline("a", "bad"), inline("b", "good")]);
    harness.settled().await;
    harness.server.stop().await;
    harness.until("noticed", |state| !state.server_is_live).await;
    harness.server.start(harness.address).await;
    harness.agent.as_ref().unwrap().server_starting();
    let state = harness.settled().await;
    assert_eq!(harness.server.loaded("a").as_deref(), Some("good"));
    assert_eq!(reason(&state.models["a"]), Some(Reason::LoadFailed));
    assert_eq!(state.models["b"].phase, Phase::Ready);
}

#[tokio::test]
async fn a_model_that_ends_the_server_is_given_up_after_two_processes_and_others_are_not() {
    let mut crashing = inline("crashing", "crash");
    crashing.load.retries = 50;
    let with_it = || vec![inline("a", "x"), inline("b", "y"), inline("c", "z"), crashing.clone()];
    let mut harness = Harness::new(with_it()).await;
    let loads = |harness: &Harness| harness.server.calls().iter().filter(|call| *call == "load crashing").count();
    let state = harness.settled().await;
    let failure = state.models["crashing"].failure().unwrap();
    assert_eq!((failure.reason, failure.attempts, failure.will_retry), (Reason::ServerCrashed, 2, false));
    assert!(failure.message.contains("change the model"), "{}", failure.message);
    assert_eq!(loads(&harness), 2);
    assert_eq!(state.models["crashing"].crashes, 2);
    assert_eq!(state.models["crashing"].entry, Some(crashing.content_hash()));
    for name in ["a", "b", "c"] {
        assert_eq!(state.models[name].phase, Phase::Ready, "{name}");
    }

    // neither another server process nor another agent begins anew
    harness.server.stop().await;
    harness.kill_agent().await;
    harness.server.start(harness.address).await;
    harness.start_agent();
    harness.agent.as_ref().unwrap().server_starting();
    let state = harness.settled().await;
    assert_eq!((reason(&state.models["crashing"]), loads(&harness)), (Some(Reason::ServerCrashed), 2));
    assert_eq!(state.models["a"].phase, Phase::Ready);

    // but another content of the model does, and the same one if somebody asks for that
    let again = ManifestModel { retry: Some("more memory".into()), ..inline("crashing", "crash") };
    harness.want(vec![inline("a", "x"), inline("b", "y"), inline("c", "z"), again]);
    assert!(harness.settled().await.is_ready());
    harness.want(vec![inline("a", "x"), inline("b", "y"), inline("c", "z"), inline("crashing", "mended")]);
    assert!(harness.settled().await.is_ready());
}

#[tokio::test]
async fn a_killed_agent_goes_on_where_it_was() {
    let mut harness = Harness::new(vec![inline("a", "good")]).await;
    harness.settled().await;
    harness.kill_agent().await;
    let calls = harness.server.calls().len();
    harness.start_agent();
    assert!(harness.settled().await.is_ready());
    assert_eq!(harness.server.calls().len(), calls, "nothing is loaded twice");

    harness.kill_agent().await;
    harness.server.stop().await;
    harness.server.start(harness.address).await;
    harness.start_agent();
    assert!(harness.settled().await.is_ready());
    assert_eq!(harness.server.loaded("a").as_deref(), Some("good"));
}

#[tokio::test]
async fn what_left_the_manifest_is_unloaded_before_its_files_go() {
    let harness = Harness::new(vec![inline("old", "x")]).await;
    harness.settled().await;
    harness.want(vec![inline("new", "y")]);
    let state = harness.until("gone", |state| state.is_settled && state.models.len() == 1).await;
    assert!(state.is_ready());
    let mut calls = harness.server.calls();
    calls[1..].sort(); // neither waits for the other
    assert_eq!(calls, ["load old", "load new", "unload old"]);
    let repository = harness.agent.as_ref().unwrap().repository();
    assert!(!repository.join("old").exists() && harness.server.loaded("old").is_none());
    // its content is deleted as well, once nobody speaks of it
    let store = harness.root.path().join("agent/store");
    let gone = async {
        while fs::read_dir(&store).unwrap().count() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test]
async fn a_deleted_model_does_not_serve_until_somebody_elses_download_ends() {
    let endless = TcpListener::bind("127.0.0.1:0").await.unwrap(); // takes connections and says nothing
    let uri = format!("http://{}/m.zip", endless.local_addr().unwrap());
    let slow = || model("slow", ManifestSource::Http { uri: uri.clone(), secret: None });
    let harness = Harness::new(vec![inline("old", "x"), slow()]).await;
    harness.until("ready", |state| state.models["old"].phase == Phase::Ready).await;
    harness.want(vec![slow()]);
    harness.until("gone", |state| !state.models.contains_key("old")).await;
    assert!(harness.server.loaded("old").is_none());
}

#[tokio::test]
async fn before_the_server_is_up_everything_is_in_its_place() {
    let mut harness = Harness::new(vec![inline("a", "x"), inline("b", "bad")]).await;
    harness.server.stop().await;
    harness.kill_agent().await;
    harness.start_agent();
    let agent = harness.agent.as_ref().unwrap();
    let hash = harness.manifests.borrow().hash.clone();
    assert!(agent.fetched(&hash, Duration::from_secs(20)).await);
    assert!(agent.repository().join("a/1/model.py").exists());

    // and what left the manifest is out of the way of a server that loads all it finds
    harness.want(vec![inline("b", "x")]);
    let wanted = Arc::clone(&harness.manifests.borrow());
    agent.clear_removed(&wanted).unwrap();
    assert!(!agent.repository().join("a").exists());
    assert_eq!(agent.confirmed(), BTreeSet::new());
}
