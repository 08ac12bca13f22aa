//! What the annotations of the pods say: the contents in rollout that each may serve.

use std::collections::{BTreeMap, BTreeSet};

use super::step::{Around, Step};
use crate::{Manifest, ManifestModel, replica::Replica};

/// By pod: the contents in rollout it may serve, as [`ManifestModel::adopt_word`]s. Pods that leave are not in it.
pub type Adopt = BTreeMap<String, BTreeSet<String>>;

/// By pod what it may adopt of all models.
pub(super) fn decide(steps: &[Step], around: &Around<'_>) -> Adopt {
    let pods = around.replicas.iter().filter(|replica| !replica.is_leaving);
    let mut adopt: Adopt = pods.map(|replica| (replica.name.clone(), BTreeSet::new())).collect();
    for step in steps.iter().filter(|step| step.entry.rollout.is_some()) {
        for pod in &step.pods {
            if let Some(words) = adopt.get_mut(pod) {
                words.insert(step.word.clone());
            }
        }
    }
    adopt
}

/// The same with contents that are in no rollout of `manifest` any more, for pods that have not read it yet: annotation and
/// manifest reach a pod one after the other, and a content that is proven must not be put down in between.
pub(super) fn with_unread(mut adopt: Adopt, manifest: &Manifest, replicas: &[Replica]) -> Adopt {
    let in_rollout: BTreeSet<String> =
        manifest.models.iter().filter(|model| model.rollout.is_some()).map(ManifestModel::adopt_word).collect();
    for replica in replicas {
        let has_read = replica.report.as_ref().and_then(|report| report.manifest_hash.as_ref()) == Some(&manifest.hash);
        if let Some(words) = adopt.get_mut(&replica.name).filter(|_| !has_read) {
            let contents = replica.may_adopt.difference(&in_rollout).filter(|word| !word.contains('/'));
            words.extend(contents.cloned());
        }
    }
    adopt
}
