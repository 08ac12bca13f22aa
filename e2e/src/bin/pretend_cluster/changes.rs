//! How long a change of a model takes to be in the manifest of its server, under whatever else goes on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use crds::TritonModel;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher::{Event, watcher},
};
use operator_core::names;
use serde_json::json;

use crate::{
    fill::{Shape, model_name, server_name},
    made_by_operator,
};

/// What is changed, and how often.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChangesArgs {
    #[command(flatten)]
    shape: Shape,
    /// Seconds during which changes are made
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Milliseconds between changes
    #[arg(long, default_value_t = 100)]
    every: u64,
    /// Change a model of the first server each second besides, and leave that server out of what is measured
    #[arg(long)]
    busy: bool,
}

/// What is under way: by namespace and name of the ConfigMap, what is looked for in it, and since when.
type Waiting = Arc<Mutex<HashMap<(String, String), Vec<(String, Instant)>>>>;

pub(crate) async fn run(client: Client, args: ChangesArgs) -> anyhow::Result<()> {
    let (waiting, taken) = (Waiting::default(), Arc::<Mutex<Vec<f64>>>::default());
    let (filled, mut is_filled) = tokio::sync::watch::channel(false);
    let watch = follow(client.clone(), Arc::clone(&waiting), Arc::clone(&taken), filled);
    let watching = tokio::spawn(watch);
    is_filled.wait_for(|filled| *filled).await?;
    let busy = args.busy.then(|| tokio::spawn(keep_busy(client.clone(), args.shape.clone())));

    let first = usize::from(args.busy);
    let count = (args.seconds * 1000 / args.every).try_into().unwrap_or(usize::MAX);
    let mut ticks = tokio::time::interval(Duration::from_millis(args.every));
    let mut asked = vec![];
    for number in 0..count {
        ticks.tick().await;
        // a stride that shares no factor with the number of servers reaches all of them
        let server = first + number * 7919 % args.shape.servers.saturating_sub(first).max(1);
        let model = number * 31 % args.shape.models_of(server).max(1);
        let mark = format!("mark-{}-{number}-", std::process::id());
        let id = (args.shape.namespace(server), names::manifest_config_map(&server_name(server)));
        let begun = Instant::now();
        lock(&waiting).entry(id).or_default().push((mark.clone(), begun));
        change(&client, &args.shape, (server, model), &mark).await?;
        asked.push(begun.elapsed().as_secs_f64());
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while lock(&taken).len() < count && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    watching.abort();
    if let Some(busy) = busy {
        busy.abort();
    }
    let mut taken = lock(&taken).clone();
    let lost = count - taken.len();
    crate::print(
        &json!({ "changes": count, "lost": lost, "manifest": spread(&mut taken), "request": spread(&mut asked) }),
    )?;
    Ok(())
}

async fn change(client: &Client, shape: &Shape, (server, model): (usize, usize), mark: &str) -> anyhow::Result<()> {
    let api: Api<TritonModel> = Api::namespaced(client.clone(), &shape.namespace(server));
    let patch = json!({ "spec": { "config": { "parameters": { "mark": mark } } } });
    let name = model_name(server, model);
    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .with_context(|| format!("changing {name}"))?;
    Ok(())
}

/// Changes one model of the first server each second.
async fn keep_busy(client: Client, shape: Shape) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for number in 0.. {
        ticks.tick().await;
        change(&client, &shape, (0, number % shape.models_of(0).max(1)), &format!("busy-{number}-")).await?;
    }
    Ok(())
}

async fn follow(
    client: Client,
    waiting: Waiting,
    taken: Arc<Mutex<Vec<f64>>>,
    filled: tokio::sync::watch::Sender<bool>,
) {
    let mut events = std::pin::pin!(watcher(Api::<ConfigMap>::all(client), made_by_operator()));
    while let Some(event) = events.next().await {
        let config_map = match event {
            Ok(Event::InitDone) => {
                filled.send_replace(true);
                continue;
            }
            Ok(Event::Apply(config_map)) => config_map,
            _ => continue,
        };
        let metadata = config_map.metadata;
        let id = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
        let text = config_map.data.and_then(|mut data| data.remove(names::MANIFEST_KEY)).unwrap_or_default();
        if let Some(marks) = lock(&waiting).get_mut(&id) {
            marks.retain(|(mark, since)| {
                let is_there = text.contains(mark);
                if is_there {
                    lock(&taken).push(since.elapsed().as_secs_f64());
                }
                !is_there
            });
        }
    }
}

fn spread(seconds: &mut [f64]) -> serde_json::Value {
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds.get(((seconds.len() as f64 - 1.0) * share).round() as usize).copied();
    json!({ "p50": at(0.5), "p99": at(0.99), "most": at(1.0) })
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
