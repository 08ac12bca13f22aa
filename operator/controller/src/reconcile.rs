//! One reconcile of one server: the cluster is brought to what the resources say, and statuses say what was found. Each
//! begins from nothing; it may be broken off anywhere and begun again.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use crds::{
    TritonModel, TritonModelSpec, TritonModelStatus, TritonServer, TritonServerStatus,
    parts::{Condition, ConditionStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use operator_core::{
    Reason, build, compile, decide, events, names, rollout,
    status::{self, Activity, Outcome, Seen, Statuses},
    text::one_line,
};

use crate::{
    apply::apply,
    context::{Context, now},
    dereference::{Surroundings, dereference},
    failure::{self, Error},
    observer::FIRST_ANSWERS,
    pods,
    queue::{Reconciled, ServerKey},
    scale::set_replicas,
    traces::Steps,
    write_status::{Change, Written, became_ready, before, write_models, write_status},
    zero,
};

/// Until the next reconcile, if nothing happens: routes to pods are on their way to the nodes.
const PROPAGATING: Duration = Duration::from_secs(2);
/// Cluster or pods are at work. They send events; this is for what none comes of, such as a claim that was not there.
const WAITING: Duration = Duration::from_secs(10);
/// Nothing is under way, but something matters that is not watched.
const SETTLED: Duration = Duration::from_secs(60);
/// Nothing is under way, and whatever matters is watched. Servers at rest must cost next to nothing: there may be thousands.
const AT_REST: Duration = Duration::from_secs(600);

/// Reconciles a server, and says when to queue it again.
pub(crate) async fn reconcile(context: Arc<Context>, key: ServerKey, failing_for: Option<Duration>) -> Reconciled {
    let timer = context.metrics.reconcile();
    context.metrics.queued(context.queue.waiting());
    let _at_work = context.written.at_work(&key);
    let lasts = failure::is_lasting(failing_for);
    let (error, mut is_told) = match Box::pin(run_steps(&context, &key, lasts)).await {
        Ok(End::Done(next)) => {
            let elapsed = timer.ended("done");
            tracing::debug!(server = %key, elapsed_ms = elapsed.as_millis(), next_s = next.map(|next| next.as_secs()), "reconciled");
            return next.map_or(Reconciled::Done, Reconciled::RequeueAfter);
        }
        Ok(End::Failed(error)) => (error, true),
        Err(error) => (error, false),
    };
    timer.ended("failed");
    tracing::warn!(server = %key, %error, "a reconcile did not come to its end");
    if lasts && !is_told {
        is_told = failure::tell(&context, &key, &error).await;
    }
    if is_told { Reconciled::FailedAndTold } else { Reconciled::Failed }
}

/// How the steps ended.
enum End {
    /// When to reconcile again; nothing if nothing is left.
    Done(Option<Duration>),
    /// Something failed, and the statuses say it.
    Failed(Error),
}

/// The six steps. `lasts`: those before have failed for a while, so that statuses tell of what fails.
async fn run_steps(context: &Context, key: &ServerKey, lasts: bool) -> Result<End, Error> {
    let Some(found) = context.watches.server(key) else { return without_server(context, key).await };
    let server = match &found.0 {
        Ok(server) => server,
        Err(invalid) => return unreadable(context, key, &invalid.metadata, &invalid.error).await,
    };
    if server.metadata.deletion_timestamp.is_some() {
        context.observer.forget(key);
        context.activators.forget(key);
        return Ok(End::Done(None)); // its objects go with it; models are reconciled by their own delete event
    }

    let mut steps = context.traces.reconcile(&server.metadata);
    let ended = Box::pin(steps_of(context, key, server, lasts, &mut steps)).await;
    if let Ok(End::Failed(error)) | Err(error) = &ended {
        steps.failed(error);
    }
    ended
}

/// The steps, of a server that can be read and stays.
async fn steps_of(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    lasts: bool,
    steps: &mut Steps,
) -> Result<End, Error> {
    // 1. dereference: what the spec points at
    steps.step("dereference");
    let mut around =
        dereference(context, key, server).await.map_err(|error| Error::new("fetching what surrounds it", error))?;
    let published = around.observed.manifest.iter().flat_map(|manifest| &manifest.models);
    let names = around.models.iter().map(names::wire_name).chain(published.map(|model| model.name.as_str()));
    let Some(mut replicas) = context.observer.replicas(key, &around.pods, names) else {
        return Ok(End::Done(Some(FIRST_ANSWERS))); // or as soon as all pods have answered
    };
    let mut compiled = compile(server, &around.models, &around.observed);
    compiled.manifest = compiled.manifest.with_trace(context.traces.of(&server.metadata));
    let crashes = events::of_replicas(&replicas);
    context.events.record(&server.object_ref(&()), "Observe", &crashes);
    // which pods may adopt what is new: pure, from what is published and what they report
    let (compiled, adopt) = rollout::advance(
        compiled,
        &rollout::Around {
            last: around.observed.manifest.as_ref(),
            replicas: &replicas,
            at_once: rollout::at_once(&server.spec),
            now: &now(),
        },
    );
    // whether it rests: the number of replicas between zero and one, and where requests go meanwhile
    let now_has = around.deployment.as_ref().and_then(|it| it.spec.as_ref()?.replicas);
    let zero = zero::decide(context, key, server, now_has, &replicas)
        .await
        .map_err(|error| Error::new("reading the way to activators", error))?;
    if let (Some(from), Some(to)) = (now_has, zero.decision.replicas) {
        set_replicas(context, key, from, to).await.map_err(|error| Error::new("setting the replicas", error))?;
    }
    (around.observed.activators, around.observed.rests_not) = (zero.way, zero.rests_not);
    steps.step("validate");
    // 2. validate: everything decided, or every problem
    let validated = decide::decide(server, &compiled, &around.observed, &context.settings);
    let brought = match &validated {
        Ok(validated) => {
            steps.step("build");
            // 3. build: every object, in the same bytes each time
            let prepared = build::build(validated);
            steps.step("apply");
            // 4. apply: only what is not there already
            Some(Box::pin(apply(context, key, server, prepared)).await?)
        }
        Err(_) => None, // a wrong spec is reported on the status; what runs is left alone
    };
    let (applied, passing) = brought.map(|brought| (brought.resources, brought.passing)).unzip();
    let failed = passing.flatten().map(Error::of_object);
    if let Some(error) = failed.as_ref().filter(|_| !lasts) {
        return Err(error.clone());
    }
    let outcome = match (&validated, &applied) {
        (Err(problems), _) => Outcome::Refused(problems),
        (Ok(_), Some(Ok(resources))) => Outcome::Applied(resources),
        (Ok(_), Some(Err(refused))) => {
            Outcome::Failed { reason: refused.reason, message: &refused.message, is_final: refused.is_final }
        }
        (Ok(_), None) => return Ok(End::Done(None)), // what is valid was applied above
    };
    let published = if matches!(outcome, Outcome::Applied(_)) {
        Some(&compiled.manifest)
    } else {
        around.observed.manifest.as_ref()
    };
    let mut annotated = Ok(());
    if let Some(manifest) = published {
        let parts = (&context.client, context.watches.as_ref(), context.metrics.as_ref());
        let adopt = matches!(outcome, Outcome::Applied(_)).then_some(&adopt);
        annotated = pods::annotate_pods(parts, key, &around.pods, &replicas, manifest, adopt).await;
        // their status is to name those that were just chosen
        for (name, words) in adopt.into_iter().flatten() {
            replicas
                .iter_mut()
                .filter(|replica| replica.name == *name)
                .for_each(|replica| replica.may_adopt.clone_from(words));
        }
    }
    steps.step("status");
    // 5. status: what was found, in the words of conditions
    let unreadable: Vec<TritonModel> = around.unreadable.iter().map(without_spec).collect();
    let models: Vec<(&TritonModel, TritonModelStatus)> = around
        .models
        .iter()
        .chain(&unreadable)
        .map(|model| (model, before(context, key, model, model.status.as_ref())))
        .collect();
    let server_before: TritonServerStatus = before(context, key, server, server.status.as_ref());
    let mut statuses = status::statuses(&Seen {
        server,
        models: &models,
        before: &server_before,
        compiled: &compiled,
        outcome,
        manifest_before: around.observed.manifest.as_ref(),
        deployment_before: around.deployment.as_ref(),
        autoscaler: around.autoscaler.as_ref(),
        replicas: &replicas,
        now: &now(),
    });
    steps.step("write status");
    // 6. write status: only if it says something new
    let (of_models, became_ready) = write_of_models(context, key, &around, &models, &statuses).await;
    let unwritten = of_models.as_ref().err().cloned();
    let late = annotated.map_err(|error| Error::new("annotating a pod", error)).err().or(unwritten);
    if let Some(error) = late.as_ref().filter(|_| lasts) {
        statuses.server = status::with_failure(server, &server_before, &statuses.server, &error.to_string(), &now());
    }
    let of_server = write_of_server(context, key, server, &server_before, &statuses).await?;
    count_ready(context, key, server, (&server_before, &statuses), &became_ready);
    if let Some(error) = failed.or(late) {
        return if lasts { Ok(End::Failed(error)) } else { Err(error) };
    }
    let written = of_models.map_or(of_server, |of_models| of_models.max(of_server));
    let is_refused = match &applied {
        Some(Ok(resources)) => resources.refusal.is_some(),
        Some(Err(_)) => true,
        None => false,
    };
    // labels of Secrets are not watched
    let awaits_label = compiled.problems.iter().any(|problem| problem.reason == Reason::CredentialsMissing);
    // neither is the load
    let has_unwatched = around.has_unwatched || server.spec.autoscaling.is_some();
    let next = match statuses.activity {
        Activity::Propagating => PROPAGATING,
        Activity::Waiting => WAITING,
        Activity::Settled if is_refused || awaits_label => WAITING, // whoever is in the way may leave
        Activity::Settled if has_unwatched || written == Written::Later => SETTLED,
        Activity::Settled => AT_REST,
    };
    let progress = match written {
        Written::Soon(Reverse(left)) => Some(left),
        Written::Now | Written::Later => None,
    };
    Ok(End::Done([zero.decision.look_again, progress].into_iter().flatten().chain([next]).min()))
}

/// Models that became ready, each with its status before.
type BecameReady<'a> = Vec<(&'a TritonModel, &'a TritonModelStatus)>;

/// Writes the statuses of the models that say something new.
async fn write_of_models<'a>(
    context: &Context,
    key: &ServerKey,
    around: &Surroundings,
    models: &'a [(&'a TritonModel, TritonModelStatus)],
    statuses: &Statuses,
) -> (Result<Written, Error>, BecameReady<'a>) {
    let after: BTreeMap<_, _> = statuses.models.iter().map(|(object, status)| (object, status)).collect();
    let mut changes = vec![];
    let mut ready = vec![];
    for (model, before) in models {
        let Some(after) = after.get(&names::object(*model)).filter(|after| **after != before) else { continue };
        let is_unreadable = around.unreadable.iter().any(|unreadable| unreadable.uid == model.metadata.uid);
        let change = Change { model, before, after, is_unreadable };
        if change.became_ready().is_some() {
            ready.push((*model, before));
        }
        changes.push(change);
    }
    let written = write_models(context, key, changes).await;
    (written.map_err(|error| Error::new("writing the status of a model", error)), ready)
}

async fn write_of_server(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    before: &TritonServerStatus,
    statuses: &Statuses,
) -> Result<Written, Error> {
    let events = events::of_server(before, &statuses.server);
    let is_progress = status::is_progress_of_server(before, &statuses.server);
    let written = write_status(context, key, server, (before, &statuses.server), is_progress, &events).await;
    written.map_err(|error| Error::new("writing the status", error))
}

/// Counts what became ready. What is not written is said again: it counts once.
fn count_ready(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    (server_before, statuses): (&TritonServerStatus, &Statuses),
    models: &BecameReady<'_>,
) {
    let told = |kind, metadata: &ObjectMeta, was: &[Condition], is: &[Condition]| {
        if let Some(applied) = became_ready(metadata, (was, is)) {
            context.metrics.became_ready(kind, &applied, &now());
            context.traces.became_ready(&server.metadata, kind, metadata, &applied);
        }
    };
    for (model, was) in models {
        let is: TritonModelStatus = before(context, key, *model, model.status.as_ref());
        told("TritonModel", &model.metadata, &was.conditions, &is.conditions);
    }
    if became_ready(&server.metadata, (&server_before.conditions, &statuses.server.conditions)).is_some() {
        let is: TritonServerStatus = before(context, key, server, server.status.as_ref());
        told("TritonServer", &server.metadata, &server_before.conditions, &is.conditions);
    }
}

/// A model that cannot be read, as far as its status needs it.
fn without_spec(metadata: &ObjectMeta) -> TritonModel {
    let mut model = TritonModel::new(metadata.name.as_deref().unwrap_or_default(), TritonModelSpec::default());
    model.metadata = metadata.clone();
    model
}

/// The status of models whose server does not exist.
async fn without_server(context: &Context, key: &ServerKey) -> Result<End, Error> {
    context.observer.forget(key);
    context.activators.forget(key);
    let models = context.watches.models(key);
    let now = now();
    let statuses = models.iter().map(|model| {
        let before: TritonModelStatus = before(context, key, model, model.status.as_ref());
        let after = status::without_server(model, &before, &now);
        (model, before, after)
    });
    let statuses: Vec<_> = statuses.collect();
    let changes = statuses.iter().map(|(model, before, after)| Change { model, before, after, is_unreadable: false });
    write_models(context, key, changes.collect()).await.map_err(|error| Error::new("writing a status", error))?;
    if models.is_empty() {
        context.written.forget(key);
    }
    Ok(End::Done(None))
}

/// A server that does not fit its own type: reported on its status, as far as possible.
async fn unreadable(
    context: &Context,
    key: &ServerKey,
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    error: &str,
) -> Result<End, Error> {
    let mut server = TritonServer::new(&key.name, crds::TritonServerSpec::default());
    server.metadata = metadata.clone();
    let before: TritonServerStatus = before(context, key, &server, None);
    let mut after = before.clone();
    after.observed_generation = metadata.generation;
    let condition = |type_: &str, status| crds::parts::Condition {
        type_: type_.into(),
        status,
        reason: "InvalidSpec".into(),
        message: one_line(&format!("it cannot be read: {error}")).into_owned(),
        observed_generation: metadata.generation,
        last_transition_time: crds::parts::condition::find(&before.conditions, type_)
            .filter(|before| before.status == status)
            .map_or_else(now, |before| before.last_transition_time.clone()),
    };
    after.conditions = vec![condition("Ready", ConditionStatus::False), condition("Stalled", ConditionStatus::True)];
    let events = events::of_server(&before, &after);
    write_status(context, key, &server, (&before, &after), false, &events)
        .await
        .map_err(|error| Error::new("writing the status", error))?;
    Ok(End::Done(None))
}
