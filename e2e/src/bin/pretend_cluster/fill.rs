//! Servers and models by the thousand.

use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use crds::{TritonModel, TritonServer};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

/// Requests under way at the same time.
const AT_ONCE: usize = 16;

/// How many of what.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shape {
    /// Servers
    #[arg(long, default_value_t = 0)]
    pub(crate) servers: usize,
    /// Models of each server
    #[arg(long, default_value_t = 0)]
    pub(crate) models: usize,
    /// Models of the first server, if it has another number of them
    #[arg(long)]
    first: Option<usize>,
    /// Replicas of each server
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Models of servers that do not exist, ten for each
    #[arg(long, default_value_t = 0)]
    orphans: usize,
    /// Namespaces over which the servers are spread
    #[arg(long, default_value_t = 20)]
    pub(crate) namespaces: usize,
}

impl Shape {
    pub(crate) fn models_of(&self, server: usize) -> usize {
        self.first.filter(|_| server == 0).unwrap_or(self.models)
    }

    pub(crate) fn namespace(&self, server: usize) -> String {
        format!("scale-{:02}", server % self.namespaces.max(1))
    }
}

pub(crate) fn server_name(number: usize) -> String {
    format!("s{number:04}")
}

pub(crate) fn model_name(server: usize, number: usize) -> String {
    format!("s{server:04}-m{number:04}")
}

pub(crate) async fn run(client: Client, shape: Shape) -> anyhow::Result<()> {
    let begun = Instant::now();
    for number in 0..shape.namespaces.max(1) {
        let api: Api<Namespace> = Api::all(client.clone());
        made(
            api.create(&PostParams::default(), &read(json!({ "metadata": { "name": shape.namespace(number) } }))?)
                .await,
        )?;
    }
    let servers = (0..shape.servers).map(|number| (shape.namespace(number), server(number, shape.replicas)));
    create_all::<TritonServer>(&client, servers).await?;
    let models = (0..shape.servers)
        .flat_map(|server| (0..shape.models_of(server)).map(move |number| (server, number)))
        .map(|(server, number)| (shape.namespace(server), model(&server_name(server), &model_name(server, number))));
    create_all::<TritonModel>(&client, models).await?;
    let orphans = (0..shape.orphans).map(|number| {
        (shape.namespace(number / 10), model(&format!("nobody{:04}", number / 10), &format!("orphan{number:05}")))
    });
    create_all::<TritonModel>(&client, orphans).await?;
    crate::print(&json!({ "seconds": begun.elapsed().as_secs_f64() }))?;
    Ok(())
}

async fn create_all<K>(client: &Client, all: impl Iterator<Item = (String, Value)>) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let create = |(namespace, value): (String, Value)| async move {
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        made(api.create(&PostParams::default(), &read(value)?).await)
    };
    stream::iter(all).map(create).buffer_unordered(AT_ONCE).try_collect().await
}

fn read<K: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<K> {
    serde_json::from_value(value).context("a resource of this program is not read")
}

/// What is there already need not be made.
fn made<K>(answer: kube::Result<K>) -> anyhow::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        answer => answer.map(drop).map_err(Into::into),
    }
}

fn server(number: usize, replicas: usize) -> Value {
    json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer", "metadata": { "name": server_name(number) },
        "spec": { "replicas": replicas, "resources": { "requests": { "cpu": "100m", "memory": "256Mi" } } },
    })
}

fn model(server: &str, name: &str) -> Value {
    let tensor = |name: &str| json!([{ "name": name, "dataType": "TYPE_FP32", "dims": [-1] }]);
    json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel", "metadata": { "name": name },
        "spec": {
            "serverRef": { "name": server },
            "config": { "backend": "identity", "inputs": tensor("INPUT0"), "outputs": tensor("OUTPUT0") },
            "source": { "inline": { "files": { "1/about.txt": "gives back what it gets" } } },
        },
    })
}
