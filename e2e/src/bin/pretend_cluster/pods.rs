//! The pods of every Deployment of the operator, as objects: made, counted in the Deployment's status, and answering for their agents on
//! addresses of the loopback network. A manifest reaches a pod as the kubelet brings it: at once when an annotation of the pod changes, else
//! after up to a minute.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher::{Event, watcher},
};
use operator_core::{Manifest, labels, names, pod};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::{agent::Agent, made_by_operator};

/// Deployments being brought to what they ask for at the same time.
const AT_ONCE: usize = 16;

/// How the pods behave.
#[derive(Clone, Debug, Args)]
pub(crate) struct PodsArgs {
    /// Milliseconds that a load takes
    #[arg(long, default_value_t = 200)]
    load: u64,
}

/// Namespace and name.
type Id = (String, String);

struct Cluster {
    client: Client,
    load: Duration,
    /// Manifests, by namespace and name of their server.
    manifests: Mutex<HashMap<Id, Arc<Manifest>>>,
    pods: Mutex<Pods>,
}

#[derive(Default)]
struct Pods {
    /// By address.
    agents: HashMap<Ipv4Addr, Arc<Mutex<Agent>>>,
    /// Address of each pod, by namespace and name.
    addresses: HashMap<Id, Ipv4Addr>,
    /// The pods of each server, and their annotation.
    of_server: HashMap<Id, BTreeMap<String, String>>,
    count: u32,
}

pub(crate) async fn run(client: Client, args: PodsArgs) -> anyhow::Result<()> {
    let cluster = Arc::new(Cluster {
        client: client.clone(),
        load: Duration::from_millis(args.load),
        manifests: Mutex::default(),
        pods: Mutex::default(),
    });
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, pod::AGENT_PORT)).await.context("the port of agents")?;
    tokio::spawn(serve(listener, Arc::clone(&cluster)));
    let manifests = {
        let cluster = Arc::clone(&cluster);
        watcher(Api::<ConfigMap>::all(client.clone()), made_by_operator()).for_each(move |event| {
            if let Ok(Event::Apply(it) | Event::InitApply(it)) = event {
                cluster.take_manifest(it);
            }
            std::future::ready(())
        })
    };
    let pods = {
        let cluster = Arc::clone(&cluster);
        watcher(Api::<Pod>::all(client.clone()), made_by_operator()).for_each(move |event| {
            match event {
                Ok(Event::Apply(it) | Event::InitApply(it)) => cluster.take_pod(&it),
                Ok(Event::Delete(it)) => cluster.forget_pod(&it),
                _ => {}
            }
            std::future::ready(())
        })
    };
    let deployments = watcher(Api::<Deployment>::all(client), made_by_operator())
        .filter_map(|event| async {
            match event {
                Ok(Event::Apply(it) | Event::InitApply(it)) => Some(Ok(it)),
                _ => None,
            }
        })
        .try_for_each_concurrent(AT_ONCE, |deployment| {
            let cluster = Arc::clone(&cluster);
            async move { cluster.follow(deployment).await }
        });
    tokio::select! {
        () = manifests => {}
        () = pods => {}
        ended = deployments => ended?,
    }
    anyhow::bail!("a watch has ended")
}

impl Cluster {
    fn take_manifest(self: &Arc<Self>, config_map: ConfigMap) {
        let Some(server) = config_map.labels().get(labels::SERVER).cloned() else { return };
        let id = (config_map.namespace().unwrap_or_default(), server);
        let text = config_map.data.and_then(|mut data| data.remove(names::MANIFEST_KEY)).unwrap_or_default();
        let Ok(manifest) = Manifest::from_json(&text) else { return };
        lock(&self.manifests).insert(id.clone(), Arc::new(manifest));
        // a pod that has none begins with it, the others read it when the kubelet comes by
        self.hand_over(&id, true);
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            cluster.hand_over(&id, false);
        });
    }

    fn take_pod(self: &Arc<Self>, pod: &Pod) {
        let id = (pod.namespace().unwrap_or_default(), pod.name_any());
        let Some(server) = pod.labels().get(labels::SERVER).cloned() else { return };
        let adopts = pod.annotations().get(labels::ADOPT).cloned().unwrap_or_default();
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        let Some(agent) = self.agent_of(&id, address) else { return };
        let server = (id.0, server);
        self.pods().of_server.entry(server.clone()).or_default().insert(id.1, adopts.clone());
        if let Some(manifest) = lock(&self.manifests).get(&server).cloned() {
            self.hand_to(&agent, &manifest, &adopts);
        }
    }

    /// The agent of a pod; one that this program has not made is taken over.
    fn agent_of(&self, id: &Id, address: Option<Ipv4Addr>) -> Option<Arc<Mutex<Agent>>> {
        let mut pods = self.pods();
        if let (None, Some(address)) = (pods.addresses.get(id), address) {
            pods.addresses.insert(id.clone(), address);
            pods.agents.insert(address, Arc::new(Mutex::new(Agent::new())));
        }
        let address = *pods.addresses.get(id)?;
        pods.agents.get(&address).cloned()
    }

    fn forget_pod(&self, pod: &Pod) {
        let id = (pod.namespace().unwrap_or_default(), pod.name_any());
        let mut pods = self.pods();
        if let Some(address) = pods.addresses.remove(&id) {
            pods.agents.remove(&address);
        }
        if let Some(server) = pod.labels().get(labels::SERVER)
            && let Some(of_server) = pods.of_server.get_mut(&(id.0, server.clone()))
        {
            of_server.remove(&id.1);
        }
    }

    /// Hands the manifest of a server to its pods; `to_new`: to those that have none.
    fn hand_over(self: &Arc<Self>, server: &Id, to_new: bool) {
        let Some(manifest) = lock(&self.manifests).get(server).cloned() else { return };
        let all: Vec<_> = self
            .pods()
            .of_server
            .get(server)
            .into_iter()
            .flatten()
            .map(|(name, adopts)| (name.clone(), adopts.clone()))
            .collect();
        for (name, adopts) in all {
            let Some(agent) = self.agent_of(&(server.0.clone(), name), None) else { continue };
            if !to_new || lock(&agent).listen().borrow().body.is_empty() {
                self.hand_to(&agent, &manifest, &adopts);
            }
        }
    }

    fn hand_to(&self, agent: &Arc<Mutex<Agent>>, manifest: &Arc<Manifest>, adopts: &str) {
        if lock(agent).take(manifest, adopts) {
            let (agent, load) = (Arc::clone(agent), self.load);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(load).await;
                    if !lock(&agent).load() {
                        break;
                    }
                }
            });
        }
    }

    /// Brings the pods of a Deployment to what it asks for, and its status to what there is.
    async fn follow(&self, deployment: Deployment) -> anyhow::Result<()> {
        let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
        let spec = deployment.spec.clone().context("a Deployment without a spec")?;
        let wanted = spec.replicas.unwrap_or(1);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        for number in 0..wanted {
            let id = (namespace.clone(), format!("{name}-{number}"));
            if !self.pods().addresses.contains_key(&id) {
                self.make(&api, &deployment, &id).await?;
            }
        }
        let beyond = |id: &&Id| {
            let number = id.1.strip_prefix(&format!("{name}-")).and_then(|number| number.parse::<i32>().ok());
            id.0 == namespace && number.is_some_and(|number| number >= wanted)
        };
        let too_many: Vec<Id> = self.pods().addresses.keys().filter(beyond).cloned().collect();
        for (_, pod) in too_many {
            drop(api.delete(&pod, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await);
        }
        let status = json!({
            "observedGeneration": deployment.metadata.generation,
            "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted,
        });
        let now = serde_json::to_value(&deployment.status)?;
        if status
            .as_object()
            .is_some_and(|fields| fields.iter().any(|(field, value)| now[field] != *value && *value != json!(0)))
        {
            let api: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
            let patched =
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await;
            gone_or(patched)?;
        }
        Ok(())
    }

    async fn make(&self, api: &Api<Pod>, deployment: &Deployment, id: &Id) -> anyhow::Result<()> {
        let address = {
            let mut pods = self.pods();
            pods.count += 1;
            // 127.1.0.0 onward: 127.0.0.1 is everybody's
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + pods.count);
            pods.addresses.insert(id.clone(), address);
            pods.agents.insert(address, Arc::new(Mutex::new(Agent::new())));
            address
        };
        let template = deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
        pod.metadata.name = Some(id.1.clone());
        if let Some(spec) = &mut pod.spec {
            spec.node_name = Some("pretend".into());
        }
        match api.create(&PostParams::default(), &pod).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => return Ok(()), // of an earlier run
            created => drop(created?),
        }
        let now = Time(Timestamp::from_second(Timestamp::now().as_second())?);
        let running = |name: &str| {
            json!([{ "name": name, "image": "x", "imageID": "", "ready": true, "started": true, "restartCount": 0,
                     "state": { "running": { "startedAt": now } } }])
        };
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
            .map(|type_| json!({ "type": type_, "status": "True", "lastTransitionTime": now }));
        let status = json!({
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": now,
            "conditions": conditions,
            "initContainerStatuses": running(pod::AGENT_CONTAINER), "containerStatuses": running(pod::SERVER_CONTAINER),
        });
        gone_or(api.patch_status(&id.1, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await)
    }

    fn pods(&self) -> MutexGuard<'_, Pods> {
        lock(&self.pods)
    }
}

/// What was deleted meanwhile needs no status.
fn gone_or<T>(answer: kube::Result<T>) -> anyhow::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        answer => answer.map(drop).map_err(Into::into),
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, cluster: Arc<Cluster>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            let Some(address) = address(&stream) else { return };
            let service = service_fn(|request| {
                let agent = cluster.pods().agents.get(&address).cloned();
                async move { Ok::<_, Infallible>(answer(agent, &request).await) }
            });
            // operators come and go
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn address(stream: &TcpStream) -> Option<Ipv4Addr> {
    match stream.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// The state of an agent: when it is another one than the caller knows, or after as long as he waits.
async fn answer(agent: Option<Arc<Mutex<Agent>>>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let response = |status, tag: &str, body| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        if let Ok(tag) = header::HeaderValue::try_from(tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    };
    let Some(mut said) = agent.map(|agent| lock(&agent).listen()) else {
        return response(StatusCode::NOT_FOUND, "", Bytes::new());
    };
    let text =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let known = text("if-none-match");
    let wait = text("prefer").strip_prefix("wait=").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    let other = said.wait_for(|said| said.body.is_empty() || said.tag != known);
    match tokio::time::timeout(Duration::from_secs(wait), other).await {
        Ok(Ok(said)) if said.body.is_empty() => response(StatusCode::SERVICE_UNAVAILABLE, "", Bytes::new()),
        Ok(Ok(said)) => response(StatusCode::OK, &said.tag, said.body.clone()),
        Ok(Err(_)) => response(StatusCode::NOT_FOUND, "", Bytes::new()),
        Err(_) => response(StatusCode::NOT_MODIFIED, &known, Bytes::new()),
    }
}
