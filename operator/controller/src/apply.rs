//! Step 4 of a reconcile: everything built goes into the cluster by server-side apply, and what is not built any more goes
//! out. What is in the cluster already is not written; what was changed by hand is healed; what others added stays; what
//! belongs to others is never touched.

mod progress;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crds::TritonServer;
use futures_util::future::join_all;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ObjectReference};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use operator_core::{
    build::{APPLIED_HASH, Applied, Object, Prepared, Refusal, Resources},
    drift,
    events::Event,
    kind::Kind,
    labels, route_status,
};
use serde_json::{Value, json};

use self::progress::{Hindrance, May, Progress, hindrance};
use crate::{
    context::Context,
    dereference::{api, current},
    failure::Error,
    queue::ServerKey,
};

/// Field manager of a number of replicas that the spec set once and does not any more. Whoever scales takes it over.
pub(crate) const SCALE_MANAGER: &str = "triton-operator-scale";

/// What came of the objects of a server.
pub(crate) struct Brought {
    /// Manifest and pods are as they should be, and all else but what was refused; or why they are not.
    pub(crate) resources: Result<Resources<Applied>, Refusal>,
    /// What kept an object back for a reason that may be gone in a moment. It is among the refusals, too.
    pub(crate) passing: Option<Refusal>,
}

/// What was done to the objects of a server in one reconcile.
#[derive(Debug, Default)]
struct Done {
    created: Vec<String>,
    updated: Vec<String>,
    healed: Vec<String>,
    removed: Vec<String>,
}

/// Brings `prepared` into the cluster. What keeps one object back holds no other up, but for those that are nothing without it.
///
/// Errors: the API server could not be asked.
pub(crate) async fn apply(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    prepared: Resources<Prepared>,
) -> Result<Brought, Error> {
    let mut done = Done::default();
    let brought = Box::pin(apply_all(context, key, server, prepared, &mut done)).await;
    let events = done.events();
    if !events.is_empty() {
        let object: ObjectReference = server.object_ref(&());
        context.events.record(&object, "Apply", &events);
    }
    brought
}

async fn apply_all(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    prepared: Resources<Prepared>,
    done: &mut Done,
) -> Result<Brought, Error> {
    let uid = server.uid().unwrap_or_default();
    let objects = prepared.objects();
    // of a new server the stores have none, and each is a question of its own
    let read = join_all(objects.iter().map(|object| current(context, key, object.kind, &object.name))).await;
    let mut progress = Progress::default();
    let mut deployment: Option<Deployment> = None;
    let mut complaints = vec![];
    let mut wanted = BTreeSet::new();
    for (object, live) in objects.into_iter().zip(read) {
        let title = title(object.kind, &object.name);
        let may = progress.may(object.kind);
        let (is_there, applied) = match live.map_err(|error| hindrance("reading", &title, error)) {
            Ok(live) => match live.as_ref().map_or(Ok(()), |live| is_ours(live, &uid, &title)) {
                Ok(()) => (live.is_some(), apply_one(context, key, &object, live, may, done).await),
                Err(refusal) => (false, Err(Hindrance::Refused(refusal))),
            },
            Err(hindrance) => (false, Err(hindrance)),
        };
        let applied = progress.note(&object, key, is_there, applied)?;
        if let Some(route) = applied.as_ref().filter(|_| matches!(object.kind, Kind::HttpRoute | Kind::GrpcRoute)) {
            let route = serde_json::to_value(route).unwrap_or_default();
            complaints.extend(route_status::complaints(&title, &route));
        }
        if object.kind == Kind::Deployment && may == May::Apply {
            deployment = applied.and_then(|applied| applied.try_parse().ok());
        }
        wanted.insert((object.kind, object.name));
    }
    if progress.has_pods() {
        prune(context, key, &uid, &wanted, &mut progress, done).await?;
    }
    let Progress { refusal, passing, .. } = progress;
    let resources = match (deployment, refusal) {
        (Some(deployment), refusal) => {
            let mut applied = prepared.applied(deployment, refusal);
            applied.remarks.extend(complaints);
            Ok(applied)
        }
        (None, Some(refusal)) => Err(refusal),
        (None, None) => {
            let message = "the API server answered with a Deployment that cannot be read".into();
            Err(Refusal { reason: "ApplyRefused", message, is_final: false })
        }
    };
    Ok(Brought { resources, passing })
}

/// Writes one object if it is not in the cluster as it should be. Returns it as the cluster has it; nothing where the
/// cluster does not know the kind.
async fn apply_one(
    context: &Context,
    key: &ServerKey,
    object: &Object,
    live: Option<DynamicObject>,
    may: May,
    done: &mut Done,
) -> Result<Option<DynamicObject>, Hindrance> {
    let Object { kind, name, value } = object;
    let title = title(*kind, name);
    let hash = &value["metadata"]["annotations"][APPLIED_HASH];
    let mut paths = vec![];
    let is_same_as_applied = match &live {
        None => false,
        Some(live) => {
            let found = serde_json::to_value(live).unwrap_or_default();
            paths = drift::drifted(value, &found);
            found["metadata"]["annotations"][APPLIED_HASH] == *hash
        }
    };
    if let Some(live) = &live
        && is_same_as_applied
        && (paths.is_empty() || context.written.are_dropped(key, *kind, name, hash, &paths))
    {
        return Ok(Some(live.clone()));
    }
    if may == May::Heal && !is_same_as_applied {
        return Ok(live);
    }
    if let Some(live) = live.as_ref().filter(|_| !paths.is_empty()) {
        remove_conflicting_items(context, key, object, live)
            .await
            .map_err(|error| hindrance("healing", &title, error))?;
    }
    if live.is_some() && *kind == Kind::Deployment && value.pointer("/spec/replicas").is_none() {
        keep_replicas(context, key, name).await.map_err(|error| hindrance("keeping the replicas of", &title, error))?;
    }
    let patch = PatchParams::apply(labels::MANAGER).force();
    let applied = match api(context, key, *kind).patch(name, &patch, &Patch::Apply(value)).await {
        Ok(applied) => applied,
        // 405: its definition is being deleted
        Err(kube::Error::Api(status)) if kind.is_optional() && matches!(status.code, 404 | 405) => {
            context.watches.set_known(*kind, false).await;
            return Ok(None);
        }
        Err(error) => return Err(hindrance("applying", &title, error)),
    };
    context.metrics.wrote(&kind.api_resource().kind, "apply");
    context.written.object(key, *kind, name, applied.metadata.resource_version.as_deref());
    let lost = drift::drifted(value, &serde_json::to_value(&applied).unwrap_or_default());
    if !lost.is_empty() {
        tracing::warn!(server = %key, object = title, fields = lost.join(", "), "the API server does not keep these fields");
        context.written.note_dropped(key, *kind, name, hash.clone(), lost.into_iter().collect());
    }
    match (live, is_same_as_applied) {
        (None, _) => {
            tracing::info!(server = %key, object = title, "created");
            done.created.push(title);
        }
        (Some(_), true) => {
            let fields = paths.join(", ");
            tracing::info!(server = %key, object = title, fields, "healed: it was changed by somebody else");
            done.healed.push(healed(*kind, &title, &paths));
        }
        (Some(_), false) => {
            tracing::info!(server = %key, object = title, "updated");
            done.updated.push(title);
        }
    }
    Ok(Some(applied))
}

/// Hands the number of replicas, which the spec does not set any more, to a field manager of its own: the API server would
/// take out a field that no manager applies, and one replica is what it puts in its place. None at all, as while a server
/// is suspended, is not kept.
async fn keep_replicas(context: &Context, key: &ServerKey, name: &str) -> Result<(), kube::Error> {
    let api = api(context, key, Kind::Deployment);
    let Some(live) = api.get_opt(name).await? else { return Ok(()) };
    let replicas = live.data.pointer("/spec/replicas").and_then(Value::as_i64).filter(|replicas| *replicas > 0);
    let fields = live.metadata.managed_fields.as_deref().unwrap_or_default();
    let Some(replicas) = replicas.filter(|_| drift::is_applied_by(labels::MANAGER, &["spec", "replicas"], fields))
    else {
        return Ok(());
    };
    let kept = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        // not over a number that somebody has written since
        "metadata": { "name": name, "resourceVersion": live.resource_version() },
        "spec": { "replicas": replicas },
    });
    api.patch(name, &PatchParams::apply(SCALE_MANAGER).force(), &Patch::Apply(&kept)).await?;
    context.metrics.wrote("Deployment", "apply");
    tracing::info!(server = %key, replicas, "the spec does not set replicas any more: the present number stays");
    Ok(())
}

/// Takes out items that somebody turned ours into, where ours beside them would be refused.
async fn remove_conflicting_items(
    context: &Context,
    key: &ServerKey,
    object: &Object,
    live: &DynamicObject,
) -> Result<(), kube::Error> {
    let found = serde_json::to_value(live).unwrap_or_default();
    let conflicts = drift::key_conflicts(&object.value, &found);
    if conflicts.is_empty() {
        return Ok(());
    }
    let list_of = |pointer: &str| pointer.rsplit_once('/').map(|(list, _)| list.to_owned()).unwrap_or_default();
    let mut operations =
        vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": live.resource_version() })];
    for (pointer, ours) in &conflicts {
        let list = list_of(pointer);
        let conflicts_in_list = conflicts.iter().filter(|(other, _)| list_of(other) == list).count();
        let is_all_of_it =
            found.pointer(&list).and_then(Value::as_array).is_some_and(|items| items.len() == conflicts_in_list);
        operations.push(match is_all_of_it {
            true => json!({ "op": "replace", "path": pointer, "value": ours }), // a Service has to have a port
            false => json!({ "op": "remove", "path": pointer }),
        });
    }
    let operations = serde_json::from_value(Value::Array(operations)).map_err(kube::Error::SerdeError)?;
    let params = PatchParams { field_manager: Some(labels::MANAGER.into()), ..PatchParams::default() };
    api(context, key, object.kind).patch(&object.name, &params, &Patch::Json::<()>(operations)).await?;
    context.metrics.wrote(&object.kind.api_resource().kind, "patch");
    Ok(())
}

/// Refuses to touch what belongs to others.
fn is_ours(live: &DynamicObject, uid: &str, title: &str) -> Result<(), Refusal> {
    let owners = live.owner_references();
    if owners.iter().any(|owner| owner.uid == uid) {
        return Ok(());
    }
    let managed_by = live.labels().get("app.kubernetes.io/managed-by").map(String::as_str);
    match owners.iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) if owner.kind == TritonServer::kind(&()) => Err(Refusal {
            reason: "WaitingForRemoval",
            message: format!("{title} belongs to an earlier TritonServer of this name and is being removed"),
            is_final: false,
        }),
        // somebody took our reference off, or restored the object from a copy
        None if managed_by == Some(labels::MANAGER) && live.annotations().contains_key(APPLIED_HASH) => Ok(()),
        _ => Err(Refusal {
            reason: "NameTaken",
            message: format!("{title} exists and is not of this server: rename the server, or remove that object"),
            is_final: true,
        }),
    }
}

/// Removes objects of the server that are not wanted any more.
async fn prune(
    context: &Context,
    key: &ServerKey,
    uid: &str,
    wanted: &BTreeSet<(Kind, String)>,
    progress: &mut Progress,
    done: &mut Done,
) -> Result<(), Error> {
    for kind in Kind::ALL {
        for name in context.watches.names_of(kind, &key.namespace, uid) {
            if wanted.contains(&(kind, name.clone())) {
                continue;
            }
            let Some(object) = context.watches.object(kind, &key.namespace, &name) else { continue };
            if object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let title = title(kind, &name);
            let delete =
                DeleteParams::background().preconditions(Preconditions { uid: object.uid(), resource_version: None });
            match api(context, key, kind).delete(&name, &delete).await {
                Ok(_) => {
                    context.metrics.wrote(&kind.api_resource().kind, "delete");
                    tracing::info!(server = %key, object = title, "removed: it is not asked for any more");
                    done.removed.push(title);
                }
                // gone already, or another one of that name
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => progress.add(hindrance("removing", &title, error))?,
            }
        }
    }
    Ok(())
}

fn title(kind: Kind, name: &str) -> String {
    format!("{} {name}", kind.api_resource().kind)
}

/// What is told of fields that were put back. A number of replicas is most likely written by something that will do so again.
fn healed(kind: Kind, title: &str, paths: &[String]) -> String {
    let fields = paths.join(", ");
    if kind == Kind::Deployment && paths.iter().any(|path| path == "spec.replicas") {
        return format!(
            "{title} ({fields}: the TritonServer's own spec.replicas stands; where something else is to scale it, leave that out and \
             aim at the TritonServer, or use spec.autoscaling)"
        );
    }
    format!("{title} ({fields})")
}

impl Done {
    fn events(self) -> Vec<Event> {
        let Self { created, updated, healed, removed } = self;
        [("Created", created), ("Updated", updated), ("Healed", healed), ("Removed", removed)]
            .into_iter()
            .filter(|(_, titles)| !titles.is_empty())
            .map(|(reason, titles)| Event { is_warning: false, reason: reason.into(), note: titles.join(", ") })
            .collect()
    }
}
