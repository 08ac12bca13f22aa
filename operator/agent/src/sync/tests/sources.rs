//! Sources that are broken, change, or need what is not there.

use super::*;
use crate::source::unpack::tests::tar_of;

#[tokio::test]
async fn one_broken_source_does_not_hold_up_the_others() {
    let missing = model("lost", ManifestSource::Pvc { claim: "none".into(), path: String::new() });
    let mut wrong = inline("wrong", "x");
    wrong.checksum = Some("0".repeat(64));
    let mut unreadable = inline("unreadable", "x");
    unreadable.source = ManifestSource::Inline {
        files: BTreeMap::from([("config.pbtxt".into(), "nmae: 1".into()), ("1/model.py".into(), "x".into())]),
    };
    let harness = Harness::new(vec![missing, wrong, unreadable, inline("fine", "x")]).await;
    let state = harness.settled().await;
    let reasons: BTreeMap<_, _> = state.models.iter().map(|(name, model)| (name.as_str(), reason(model))).collect();
    assert_eq!(
        reasons,
        BTreeMap::from([
            ("fine", None),
            ("lost", Some(Reason::SourceNotFound)),
            ("unreadable", Some(Reason::InvalidConfig)),
            ("wrong", Some(Reason::ChecksumMismatch)),
        ])
    );
    assert_eq!(state.models["wrong"].failure().unwrap().attempts, 1, "a wrong checksum is not tried again");
}

#[tokio::test]
async fn a_changed_config_map_is_taken_up_without_a_new_manifest() {
    let source = ManifestSource::ConfigMap { name: "tiny".into(), items: Vec::new(), keys: None };
    let harness = Harness::new(vec![model("a", source)]).await;
    harness.until("missing", |state| reason(&state.models["a"]) == Some(Reason::SourceNotFound)).await;
    let key = harness.root.path().join("maps/tiny/model.py");
    write(&key, "one");
    harness.until("ready", State::is_ready).await;
    let first = harness.settled().await.models["a"].serving.clone();
    write(&key, "two, and longer");
    let state = harness.until("replaced", |state| state.is_ready() && state.models["a"].serving != first).await;
    assert_eq!(harness.server.loaded("a").as_deref(), Some("two, and longer"));
    assert_eq!(state.models.len(), 1);
}

#[tokio::test]
async fn a_secret_that_comes_or_changes_after_all_attempts_gives_new_ones() {
    let mut harness = Harness::new(Vec::new()).await;
    let uri = format!("http://{}/files/private/model.py", harness.address);
    harness.want(vec![model("a", ManifestSource::Http { uri, secret: Some("token".into()) })]);
    let is_given_up = |state: &State| {
        let failure = state.models["a"].failure().filter(|failure| !failure.will_retry);
        failure.is_some_and(|failure| failure.reason == Reason::CredentialsMissing)
    };
    let given_up = harness.until("given up without a Secret", is_given_up).await;
    let said = |state: &State| state.models["a"].failure().map(|failure| failure.message.clone());
    let token = harness.root.path().join("secrets/token/token");
    write(&token, "wrong");
    harness.until("given up with a wrong one", |state| is_given_up(state) && said(state) != said(&given_up)).await;
    write(&token, "right");
    harness.until("ready", State::is_ready).await;
    fs::remove_dir_all(harness.root.path().join("secrets")).unwrap();
    harness.kill_agent().await;
    harness.start_agent();
    harness.until("ready without it, for the content is here", State::is_ready).await;
}

#[tokio::test]
async fn a_change_of_settings_fetches_nothing_and_keeps_the_files_as_they_are() {
    let harness = Harness::new(Vec::new()).await;
    let uri = format!("http://{}/files/private/model.py", harness.address);
    let with = |config: &str| {
        let mut model = model("a", ManifestSource::Http { uri: uri.clone(), secret: Some("token".into()) });
        model.config.text = format!("name: \"a\"\n{config}");
        model.config.fields = ["max_batch_size", "version_policy"].map(str::to_owned).into();
        model.config.fields.extend(server_core::version_routing::PARAMETERS.map(server_core::version_routing::path));
        model
    };
    let weights = |weights: &str| {
        format!(
            "parameters {{ key: 'version_weights' value {{ string_value: '{weights}' }} }} version_policy {{ all {{ }} }}"
        )
    };
    write(&harness.root.path().join("secrets/token/token"), "right");
    harness.want(vec![with("")]);
    harness.until("ready", State::is_ready).await;
    // from here on nothing can be fetched
    fs::remove_dir_all(harness.root.path().join("secrets")).unwrap();
    let folder = harness.agent.as_ref().unwrap().repository().join("a");
    let time = || fs::metadata(folder.join("1/model.py")).unwrap().modified().unwrap();
    let (before, calls) = (time(), harness.server.calls().len());
    for (number, text) in ["1:9,2:1", "1:1,2:1", "1:9,2:1"].into_iter().enumerate() {
        harness.want(vec![with(&weights(text))]);
        assert!(harness.settled().await.is_ready());
        let config = fs::read_to_string(folder.join("config.pbtxt")).unwrap();
        assert!(config.contains(&format!("\"{text}\"")), "{config}");
        assert_eq!((time(), harness.server.calls().len()), (before, calls + number + 1), "one load each");
    }
    // any other change is of another model
    harness.want(vec![with("max_batch_size: 4")]);
    let fails = |state: &State| reason(&state.models["a"]) == Some(Reason::CredentialsMissing);
    harness.until("fetched again", fails).await;
}

#[tokio::test]
async fn a_volume_is_read_again_by_a_new_agent_but_not_copied_again_unchanged() {
    let source = ManifestSource::Pvc { claim: "models".into(), path: "net".into() };
    let mut harness = Harness::without_agent(vec![model("a", source)]).await;
    let file = harness.root.path().join("volumes/models/net/1/model.py");
    write(&file, "one");
    harness.start_agent();
    assert!(harness.settled().await.is_ready());
    harness.kill_agent().await;
    harness.start_agent();
    assert!(harness.settled().await.is_ready());
    assert_eq!(harness.server.calls(), ["load a"]);

    harness.kill_agent().await;
    write(&file, "two, and longer");
    harness.start_agent();
    let state = harness.until("replaced", |_| harness.server.loaded("a").as_deref() == Some("two, and longer")).await;
    assert_eq!(state.models.len(), 1);
}

/// An agent that is to fetch an archive of many files, which takes it longer than a tenth of a second.
async fn unpacking(fetch_timeout: Option<Duration>) -> Harness {
    let names: Vec<_> = (0..30_000).map(|number| format!("1/{number}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), tar::EntryType::file(), &b""[..])).collect();
    let harness = Harness::new(Vec::new()).await;
    let archive = harness.root.path().join("volumes/claim/many.tar");
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    fs::write(archive, tar_of(&entries)).unwrap();
    let mut model = model("many", ManifestSource::Pvc { claim: "claim".into(), path: "many.tar".into() });
    (model.load.fetch_timeout, model.load.retries) = (fetch_timeout.map(Into::into), 0);
    harness.want(vec![model]);
    harness
}

async fn leaves_nothing(harness: &Harness) {
    let count = |folder: &str| fs::read_dir(harness.root.path().join("agent").join(folder)).unwrap().count();
    poll("cleared", || count("partial") == 0).await;
    assert_eq!(count("store"), 0, "given up before its end");
}

#[tokio::test]
async fn a_model_that_is_deleted_while_it_is_unpacked_leaves_nothing_behind() {
    let harness = unpacking(None).await;
    let partial = harness.root.path().join("agent/partial");
    let is_unpacking = || {
        let mut folders = fs::read_dir(&partial).unwrap().map(|folder| folder.unwrap().path().join("fetched/1"));
        folders.any(|folder| folder.join("9").exists())
    };
    poll("unpacking", is_unpacking).await;
    harness.want(Vec::new());
    leaves_nothing(&harness).await;
}

#[tokio::test]
async fn a_fetch_that_takes_too_long_leaves_nothing_behind() {
    let harness = unpacking(Some(Duration::from_millis(100))).await;
    let state = harness.until("late", |state| reason(&state.models["many"]) == Some(Reason::DownloadFailed)).await;
    let failure = state.models["many"].failure().unwrap();
    assert!(failure.message.contains("not fetched within 100ms"), "{}", failure.message);
    leaves_nothing(&harness).await;
}

async fn poll(what: &str, is_so: impl Fn() -> bool) {
    let polled = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), polled).await.unwrap_or_else(|_| panic!("never {what}"));
}
