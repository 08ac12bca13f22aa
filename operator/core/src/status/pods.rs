//! Replicas one by one, of a server and of a model: bounded, and those in trouble first, so that what is cut is what is well.

use crds::{
    model::{MeasuredMemory, ModelOnPod},
    parts::ByteCount,
    server::PodStatus,
};

use super::{unready, view::View};
use crate::{
    replica::{Memory, Phase, Replica, Report},
    text::cut,
};

/// Most replicas that a status lists.
const PODS_MAX: usize = 20;
/// Longest message of one, in bytes.
const MESSAGE_MAX: usize = 256;

/// The replicas of a server that are not on their way out.
pub(super) fn of_server(view: &View<'_>) -> Vec<PodStatus> {
    let stay = view.replicas.iter().filter(|replica| !replica.is_leaving);
    let is_well = |pod: &PodStatus| pod.ready && pod.models_failed == 0 && pod.message.is_none();
    troubled_first(stay.map(|replica| of_replica(replica, view)).collect(), is_well, |pod| &pod.name)
}

/// A model on the replicas. `pods`: as they are, in any order; `content`: what all of them serve.
pub(super) fn of_model(mut pods: Vec<ModelOnPod>, content: Option<&str>) -> Vec<ModelOnPod> {
    for pod in &mut pods {
        pod.content_hash.take_if(|hash| Some(hash.as_str()) == content);
    }
    troubled_first(pods, |pod| pod.state == "Loaded", |pod| &pod.name)
}

/// What a model holds where it holds most.
pub(super) fn memory(measured: impl Iterator<Item = Memory>) -> Option<MeasuredMemory> {
    let most = measured.reduce(|a, b| Memory { cpu: a.cpu.max(b.cpu), gpu: a.gpu.max(b.gpu) })?;
    let counted = |bytes| (bytes > 0).then_some(ByteCount(bytes));
    let measured = MeasuredMemory { cpu: counted(most.cpu), gpu: counted(most.gpu) };
    (measured != MeasuredMemory::default()).then_some(measured)
}

/// The most GPU memory that all models of a replica hold together, if any was measured.
pub(super) fn gpu_memory(replicas: &[Replica]) -> Option<ByteCount> {
    let of_replica = |replica: &Replica| -> u64 {
        let models = replica.report.iter().flat_map(|report| report.models.values());
        models.filter_map(|model| model.memory).map(|memory| memory.gpu).sum()
    };
    let stay = replicas.iter().filter(|replica| !replica.is_leaving);
    stay.map(of_replica).max().filter(|bytes| *bytes > 0).map(ByteCount)
}

/// The digest that every replica runs, of those whose container has been made.
pub(super) fn image_digest(replicas: &[Replica]) -> Option<String> {
    let stay = replicas.iter().filter(|replica| !replica.is_leaving);
    let mut digests = stay.filter_map(|replica| replica.image_digest.as_ref());
    let first = digests.next()?;
    digests.all(|other| other == first).then(|| first.clone())
}

/// What to say of a replica whose report was not read.
pub(super) fn unread(replica: &Replica) -> Option<String> {
    replica.unread.as_ref().map(|why| format!("{}: {why}", replica.name))
}

fn of_replica(replica: &Replica, view: &View<'_>) -> PodStatus {
    let count = |is: fn(&Phase) -> bool| {
        let models = replica.report.iter().flat_map(|report| current(report, view));
        i32::try_from(models.filter(|phase| is(phase)).count()).unwrap_or(i32::MAX)
    };
    let trouble = replica.trouble.as_ref().map(|trouble| format!("{}: {}", trouble.reason, trouble.message));
    let message = trouble
        .or_else(|| replica.unreachable.clone())
        .or_else(|| unready::of_replica(replica, view.now))
        .or_else(|| unread(replica));
    PodStatus {
        name: replica.name.clone(),
        node: replica.node.clone(),
        ready: replica.is_ready,
        image_digest: replica.image_digest.clone(),
        models_loaded: count(|phase| *phase == Phase::Ready),
        models_failed: count(|phase| matches!(phase, Phase::Failed { .. })),
        message: message.map(|message| cut(&message, MESSAGE_MAX)),
    }
}

/// How far a pod is with each model, where what it says is about the content that is wanted.
fn current<'a>(report: &'a Report, view: &'a View<'_>) -> impl Iterator<Item = &'a Phase> {
    let wanted = view.contents.iter();
    wanted.filter_map(|(name, content)| {
        let model = report.models.get(*name)?;
        model.is_about(&content.hash, report, Some(&view.manifest.hash)).then_some(&model.phase)
    })
}

fn troubled_first<T>(mut all: Vec<T>, is_well: impl Fn(&T) -> bool, name: impl Fn(&T) -> &str) -> Vec<T> {
    all.sort_by(|a, b| (is_well(a), name(a)).cmp(&(is_well(b), name(b))));
    all.truncate(PODS_MAX);
    all
}
