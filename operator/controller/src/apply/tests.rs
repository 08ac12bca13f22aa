//! What is brought into a cluster, and what is said of it, before an API server that keeps what is applied and refuses what a test says.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::{Client, client::Body};
use operator_core::status::RECONCILE_FAILED;

use super::*;
use crate::{queue::Reconciled, reconcile::reconcile};

const SERVER: &str = "/apis/triton-operator.dev/v1alpha1/namespaces/ml/tritonservers/vision";
const MODEL: &str = "/apis/triton-operator.dev/v1alpha1/namespaces/ml/tritonmodels/digits";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ml/deployments/vision";
const MANIFEST: &str = "/api/v1/namespaces/ml/configmaps/vision-models";
const ACCOUNT: &str = "/api/v1/namespaces/ml/serviceaccounts/vision";
const SERVICE: &str = "/api/v1/namespaces/ml/services/vision";
/// The event that was written last.
const EVENT: &str = "/apis/events.k8s.io/v1/namespaces/ml/events";
const BUDGET: &str = "/apis/policy/v1/namespaces/ml/poddisruptionbudgets/vision";

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    /// Status and message for whoever asks for such a path by such a method.
    refused: BTreeMap<(&'static str, String), (u16, &'static str)>,
    /// Writes, each as method and path.
    writes: Vec<String>,
    version: u64,
}

#[derive(Clone, Debug, Default)]
struct ApiServer(Arc<Mutex<Kept>>);

impl ApiServer {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, method: &'static str, path: &str, code: u16, message: &'static str) {
        self.kept().refused.insert((method, path.to_owned()), (code, message));
    }

    fn allow(&self) {
        self.kept().refused.clear();
    }

    fn get(&self, path: &str) -> Value {
        self.kept().objects.get(path).cloned().unwrap_or_default()
    }

    fn put(&self, path: &str, object: Value) {
        self.kept().objects.insert(path.to_owned(), object);
    }

    fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.kept().writes)
    }

    /// A condition as it was written last.
    fn condition(&self, path: &str, type_: &str) -> Value {
        let status = self.get(&format!("{path}/status"));
        let conditions = status["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
    }

    fn answer(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let failure = |code: u16, message: &str| {
            (
                code,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code }),
            )
        };
        let mut kept = self.kept();
        if method != "GET" {
            kept.writes.push(format!("{method} {path}"));
        }
        let refused = kept.refused.iter().find(|((of, at), _)| *of == method && at == path);
        if let Some((code, message)) = refused.map(|(_, refused)| *refused) {
            return failure(code, message);
        }
        match method {
            "GET" if !path.contains("/namespaces/") => {
                let plural = path.rsplit('/').next().unwrap_or_default();
                let is_listed = plural.starts_with("triton");
                let of_kind = |at: &&String| is_listed && at.rsplit('/').nth(1) == Some(plural);
                let items: Vec<_> =
                    kept.objects.iter().filter(|(at, _)| of_kind(at)).map(|(_, it)| it.clone()).collect();
                (
                    200,
                    json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items }),
                )
            }
            "GET" => kept.objects.get(path).map_or_else(|| failure(404, "not found"), |object| (200, object.clone())),
            "PATCH" => {
                kept.version += 1;
                let mut object = body.clone();
                object["metadata"]["resourceVersion"] = json!((100 + kept.version).to_string());
                kept.objects.insert(path.to_owned(), object.clone());
                (200, object)
            }
            _ => {
                kept.objects.insert(path.to_owned(), body.clone());
                (201, body.clone())
            }
        }
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                if parts.uri.query().unwrap_or_default().contains("watch=true") {
                    std::future::pending::<()>().await; // nothing comes of it
                }
                let body = body.collect_bytes().await.expect("a body in memory");
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let (code, answer) = server.answer(parts.method.as_str(), parts.uri.path(), &body);
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(hyper::Response::builder().status(code).body(body).expect("a status that there is"))
            }
        });
        Client::new(service, "default")
    }
}

/// A server and its operator.
struct Setup {
    api: ApiServer,
    context: Arc<Context>,
}

impl Setup {
    async fn new(prepare: impl FnOnce(&ApiServer)) -> Self {
        let api = ApiServer::default();
        api.put(
            SERVER,
            json!({
                "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer",
                "metadata": { "name": "vision", "namespace": "ml", "uid": "1", "generation": 3, "resourceVersion": "5" },
                "spec": { "replicas": 2 },
            }),
        );
        prepare(&api);
        let context = Arc::new(Context::for_tests(api.client()).await);
        Self { api, context }
    }

    /// One reconcile after others that have failed for so many seconds; returns what was written besides events, and whether it failed.
    async fn reconcile(&self, failing_for: Option<u64>) -> (Vec<String>, bool) {
        let key = ServerKey { namespace: "ml".into(), name: "vision".into() };
        let came = reconcile(Arc::clone(&self.context), key, failing_for.map(Duration::from_secs)).await;
        self.context.events.flush().await;
        let writes = self.api.take_writes().into_iter().filter(|write| !write.contains("/events"));
        (writes.collect(), matches!(came, Reconciled::Failed | Reconciled::FailedAndTold))
    }
}

fn wrote(writes: &[String], path: &str) -> bool {
    writes.contains(&format!("PATCH {path}"))
}

fn foreign(kind: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name, "namespace": "ml", "uid": "f", "resourceVersion": "7" } })
}

#[tokio::test(start_paused = true)]
async fn an_object_of_somebody_else_keeps_no_other_one_from_being_made_and_healed() {
    let setup = Setup::new(|api| api.put(SERVICE, foreign("Service", "vision"))).await;
    let (writes, failed) = setup.reconcile(None).await;
    assert!(!failed);
    for path in [ACCOUNT, MANIFEST, DEPLOYMENT, BUDGET] {
        assert!(wrote(&writes, path), "{path}: {writes:?}");
    }
    let ready = setup.api.condition(SERVER, "Ready");
    let message = "Service vision exists and is not of this server: rename the server, or remove that object";
    assert_eq!((&ready["reason"], &ready["message"]), (&json!("NameTaken"), &json!(message)));

    let mut deployment = setup.api.get(DEPLOYMENT);
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("somebody/else");
    deployment["metadata"]["resourceVersion"] = json!("900");
    setup.api.put(DEPLOYMENT, deployment);
    let (writes, _) = setup.reconcile(None).await;
    assert_eq!(writes, [format!("PATCH {DEPLOYMENT}")], "the Deployment is healed, the status says what it said");
    assert_ne!(setup.api.get(DEPLOYMENT)["spec"]["template"]["spec"]["containers"][0]["image"], "somebody/else");
    assert_eq!(setup.api.get(SERVICE), foreign("Service", "vision"), "what belongs to others is never touched");
}

#[tokio::test(start_paused = true)]
async fn what_relies_on_an_object_of_somebody_else_is_not_made_and_is_healed() {
    let setup = Setup::new(|api| api.put(ACCOUNT, foreign("ServiceAccount", "vision"))).await;
    let (writes, _) = setup.reconcile(None).await;
    assert!(wrote(&writes, MANIFEST) && wrote(&writes, SERVICE) && !wrote(&writes, DEPLOYMENT), "{writes:?}");
    assert_eq!(setup.api.condition(SERVER, "Ready")["reason"], "NameTaken");

    // one that was there before the name was taken
    setup.api.kept().objects.remove(ACCOUNT);
    setup.reconcile(None).await;
    setup.api.put(ACCOUNT, foreign("ServiceAccount", "vision"));
    let mut deployment = setup.api.get(DEPLOYMENT);
    deployment["spec"]["replicas"] = json!(7);
    deployment["metadata"]["resourceVersion"] = json!("900");
    setup.api.put(DEPLOYMENT, deployment);
    let (writes, _) = setup.reconcile(None).await;
    assert!(wrote(&writes, DEPLOYMENT), "{writes:?}");
    assert_eq!(setup.api.get(DEPLOYMENT)["spec"]["replicas"], 2);
}

#[tokio::test(start_paused = true)]
async fn every_object_of_somebody_else_is_named() {
    let setup = Setup::new(|api| {
        api.put(SERVICE, foreign("Service", "vision"));
        api.put(BUDGET, foreign("PodDisruptionBudget", "vision"));
    });
    let setup = setup.await;
    setup.reconcile(None).await;
    let ready = setup.api.condition(SERVER, "Ready");
    let message = ready["message"].as_str().unwrap();
    assert!(
        message.contains("Service vision exists") && message.contains("PodDisruptionBudget vision exists"),
        "{ready}"
    );
}

/// What fails once is tried again in silence; what goes on failing is told once, and not any more once it succeeds.
async fn check_told(method: &'static str, path: &str, words: &str) {
    let setup = Setup::new(|_| {}).await;
    setup.reconcile(None).await;
    setup.api.refuse(method, path, 500, "failed calling webhook \"policy.example\"");
    // something to do
    let mut manifest = setup.api.get(MANIFEST);
    manifest["data"] = json!({});
    manifest["metadata"]["resourceVersion"] = json!("900");
    setup.api.put(MANIFEST, manifest);
    let status = format!("{SERVER}/status");

    let (writes, failed) = setup.reconcile(None).await;
    assert!(failed && !wrote(&writes, &status), "{writes:?}");
    let (writes, failed) = setup.reconcile(Some(1)).await;
    assert!(failed && wrote(&writes, &status), "{writes:?}");
    for type_ in ["Ready", "Reconciling"] {
        let condition = setup.api.condition(SERVER, type_);
        assert_eq!(condition["reason"], RECONCILE_FAILED, "{condition}");
        let message = format!("{words}: failed calling webhook \"policy.example\"");
        assert_eq!(condition["message"], message);
        assert_eq!(
            (&setup.api.get(EVENT)["reason"], &setup.api.get(EVENT)["note"]),
            (&json!(RECONCILE_FAILED), &json!(message))
        );
    }
    let (writes, failed) = setup.reconcile(Some(3)).await;
    assert!(failed && !wrote(&writes, &status), "the same failure is written once: {writes:?}");
    setup.api.allow();
    let (writes, failed) = setup.reconcile(Some(7)).await;
    assert!(!failed && wrote(&writes, &status), "{writes:?}");
    assert_ne!(setup.api.condition(SERVER, "Ready")["reason"], RECONCILE_FAILED);
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_cannot_be_applied_is_told_of() {
    check_told("PATCH", MANIFEST, "applying ConfigMap vision-models").await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_told_of() {
    check_told("GET", DEPLOYMENT, "fetching what surrounds it").await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_of_an_object_beside_the_pods_is_told_of() {
    check_told("GET", SERVICE, "reading Service vision").await;
}

#[tokio::test(start_paused = true)]
async fn an_event_tells_of_a_status_that_cannot_be_written() {
    let status = format!("{SERVER}/status");
    let setup = Setup::new(|api| api.refuse("PATCH", &status, 422, "status.pods: Invalid value")).await;
    setup.reconcile(None).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(setup.reconcile(None).await.1);
    assert_ne!(setup.api.get(EVENT)["reason"], RECONCILE_FAILED, "the first failure may be over soon");
    assert!(setup.reconcile(Some(1)).await.1);
    assert_eq!(setup.api.get(EVENT)["reason"], RECONCILE_FAILED);
    assert_eq!(setup.api.get(EVENT)["note"], "writing the status: status.pods: Invalid value");
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_status_cannot_be_written_is_told_of_and_does_not_keep_the_server_from_its_own() {
    let model = json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
        "metadata": { "name": "digits", "namespace": "ml", "uid": "2", "generation": 1, "resourceVersion": "6" },
        "spec": { "serverRef": { "name": "vision" }, "source": { "http": { "uri": "http://x/m.zip" } } },
    });
    let status = format!("{MODEL}/status");
    let setup = Setup::new(|api| {
        api.put(MODEL, model);
        api.refuse("PATCH", &status, 500, "no");
    });
    let setup = setup.await;
    setup.reconcile(None).await;
    tokio::time::advance(Duration::from_secs(5)).await; // progress waits so long for more of it
    let (writes, failed) = setup.reconcile(None).await;
    assert!(failed, "{writes:?}");
    assert_eq!(writes, [format!("PATCH {status}"), format!("PATCH {SERVER}/status")]);
    setup.reconcile(Some(1)).await;
    let ready = setup.api.condition(SERVER, "Ready");
    assert_eq!(ready["message"], "writing the status of a model: no");
    let (writes, _) = setup.reconcile(Some(3)).await;
    assert_eq!(writes, [format!("PATCH {status}")]);
}

#[track_caller]
fn check(metadata: Value, expect: Result<(), &str>) {
    let mut live: DynamicObject =
        serde_json::from_value(json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata })).unwrap();
    live.metadata.name = Some("vision".into());
    assert_eq!(is_ours(&live, "mine", "Service vision").map_err(|refused| refused.reason), expect);
}

#[test]
fn a_number_of_replicas_that_is_put_back_is_told_with_who_else_may_set_it() {
    let told = |kind, path: &str| healed(kind, "Deployment vision", &[path.to_owned()]);
    assert!(told(Kind::Deployment, "spec.replicas").contains("use spec.autoscaling"));
    assert_eq!(told(Kind::Deployment, "spec.paused"), "Deployment vision (spec.paused)");
}

#[test]
fn only_what_is_ours_is_written_to() {
    let owner = |uid: &str, kind: &str| json!([{ "apiVersion": "x", "kind": kind, "name": "n", "uid": uid, "controller": true }]);
    check(json!({ "ownerReferences": owner("mine", "TritonServer") }), Ok(()));
    check(json!({ "ownerReferences": owner("old", "TritonServer") }), Err("WaitingForRemoval"));
    check(json!({ "ownerReferences": owner("theirs", "Other") }), Err("NameTaken"));
    check(json!({}), Err("NameTaken"));
    let labels = json!({ "app.kubernetes.io/managed-by": "triton-operator" });
    check(json!({ "labels": labels }), Err("NameTaken"));
    check(json!({ "labels": labels, "annotations": { APPLIED_HASH: "x" } }), Ok(()));
}
