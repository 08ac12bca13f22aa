//! Waits until every server and model says of its present generation that it is ready.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Args;
use crds::{
    TritonModel, TritonServer,
    parts::{Condition, ConditionStatus, condition},
};
use futures_util::{StreamExt, stream::select};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    runtime::watcher::{Config, Event, watcher},
};
use serde_json::json;

/// What to wait for.
#[derive(Clone, Debug, Args)]
pub(crate) struct SettledArgs {
    /// Servers and models there are
    #[arg(long)]
    resources: usize,
    /// Of these, those that can never be ready: they are settled once they have any status of ours
    #[arg(long, default_value_t = 0)]
    orphans: usize,
    /// Seconds to wait at most
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

#[derive(Default)]
struct Tally {
    all: HashSet<String>,
    settled: HashMap<String, bool>,
}

impl Tally {
    fn note(&mut self, kind: &str, metadata: &ObjectMeta, observed: Option<i64>, conditions: &[Condition]) {
        let id = format!(
            "{kind}/{}/{}",
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default()
        );
        let is_current = observed == metadata.generation;
        let ready = condition::find(conditions, "Ready").filter(|_| is_current);
        let is_orphan = metadata.name.as_deref().is_some_and(|name| name.starts_with("orphan"));
        let is_settled = ready.is_some_and(|ready| is_orphan || ready.status == ConditionStatus::True);
        self.all.insert(id.clone());
        self.settled.insert(id, is_settled);
    }

    fn count(&self) -> usize {
        self.settled.values().filter(|is_settled| **is_settled).count()
    }
}

pub(crate) async fn run(client: Client, args: SettledArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    let page = || Config::default();
    let servers = watcher(Api::<TritonServer>::all(client.clone()), page()).map(|event| event.map(Touched::of_server));
    let models = watcher(Api::<TritonModel>::all(client), page()).map(|event| event.map(Touched::of_model));
    let mut events = std::pin::pin!(select(servers, models));
    let wanted = args.resources + args.orphans;
    let wait = async {
        while let Some(event) = events.next().await {
            if let Ok(Touched::Put(kind, metadata, observed, conditions)) = event {
                tally.note(kind, &metadata, observed, &conditions);
                if tally.all.len() >= wanted && tally.count() >= wanted {
                    return;
                }
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(args.limit), wait).await.is_err() {
        let open: Vec<_> =
            tally.settled.iter().filter(|(_, is_settled)| !**is_settled).map(|(id, _)| id).take(5).collect();
        bail!("{} of {wanted} are settled after {} s; not: {open:?}", tally.count(), args.limit);
    }
    crate::print(&json!({ "seconds": begun.elapsed().as_secs_f64() }))?;
    Ok(())
}

enum Touched {
    Put(&'static str, Box<ObjectMeta>, Option<i64>, Vec<Condition>),
    Other,
}

impl Touched {
    fn of_server(event: Event<TritonServer>) -> Self {
        match event {
            Event::Apply(it) | Event::InitApply(it) => {
                let status = it.status.unwrap_or_default();
                Self::Put("server", Box::new(it.metadata), status.observed_generation, status.conditions)
            }
            _ => Self::Other,
        }
    }

    fn of_model(event: Event<TritonModel>) -> Self {
        match event {
            Event::Apply(it) | Event::InitApply(it) => {
                let status = it.status.unwrap_or_default();
                Self::Put("model", Box::new(it.metadata), status.observed_generation, status.conditions)
            }
            _ => Self::Other,
        }
    }
}
