//! Which entry of the manifest this pod follows for each model: the one the manifest has, or the one that was proven before it.
//! Pure. Its inputs are the manifest, the contents in rollout that the pod's annotation names, and what the pod has served.
//!
//! | phase of the content in rollout | the pod follows the content | else |
//! |---|---|---|
//! | none: it is proven | always | |
//! | `Trial`, `Stopped` | if it is named, and has served something of the model before, or can have nothing else | the former one |
//! | `Spreading` | if it is named, or has never served the former one | the former one |
//! | `Quarantined` | never | the former one |
//!
//! Where there is no former one, the pod serves nothing of the model. A pod that starts with a former one to serve does so first, even
//! if it is named: with its predecessor gone, it may be the only one that serves what was proven. Without an annotation to read,
//! every content is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use operator_core::manifest::{Manifest, ManifestModel, RolloutPhase};

/// What a pod has served of a model last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LastServed {
    /// Nothing.
    #[default]
    Nothing,
    /// The entry of that content hash.
    Entry(String),
    /// Something, noted by an agent that did not say which entry it was of.
    Unknown,
}

/// What the decision is made of, beside the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The contents in rollout that the pod may serve ([`ManifestModel::adopt_word`]); none: all of them.
    pub adopts: Option<BTreeSet<String>>,
    /// By name, for the models in rollout of which something was served.
    pub last_served: BTreeMap<String, LastServed>,
    /// Content hashes of former entries that could not be brought into service here.
    pub failed_formers: BTreeSet<String>,
}

/// What a pod follows of a manifest.
#[derive(Debug, Clone)]
pub struct Following {
    /// The manifest as it was published.
    pub published: Arc<Manifest>,
    /// The same with the entries that the pod follows.
    pub manifest: Arc<Manifest>,
    /// What is known of each of these, by the model's name.
    pub entries: BTreeMap<String, Entry>,
}

/// One entry that the pod follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its content hash.
    pub hash: String,
    /// It has served on some pod: the server is not ready without it if it is required.
    pub is_proven: bool,
    /// It is the one in rollout: the end of a server that has just loaded it is held against it.
    pub is_in_trial: bool,
    /// Content hash of the entry in rollout that the pod does not follow: what it has served of that is not loaded again.
    pub withheld: Option<String>,
    /// The model is in rollout: the former content may be needed again.
    pub is_in_rollout: bool,
}

/// What the pod follows of `published`.
pub fn follow(published: &Arc<Manifest>, facts: &PodFacts) -> Following {
    let mut entries = BTreeMap::new();
    let mut models = Vec::new();
    let is_in_rollout = published.models.iter().any(|model| model.rollout.is_some());
    for model in &published.models {
        let Some(followed) = entry_of(model, facts) else { continue };
        let is_the_new_one = std::ptr::eq(followed, model);
        let phase = model.rollout.as_ref().map(|rollout| rollout.phase);
        let entry = Entry {
            hash: followed.content_hash(),
            is_proven: !is_the_new_one || matches!(phase, None | Some(RolloutPhase::Spreading)),
            is_in_trial: is_the_new_one && phase.is_some(),
            withheld: (!is_the_new_one).then(|| model.content_hash()),
            is_in_rollout: phase.is_some(),
        };
        entries.insert(model.name.clone(), entry);
        if is_in_rollout {
            models.push(followed.clone());
        }
    }
    let manifest =
        if is_in_rollout { Arc::new(Manifest { models, ..Manifest::clone(published) }) } else { Arc::clone(published) };
    Following { published: Arc::clone(published), manifest, entries }
}

/// The entry that the pod follows for `model`; none if it serves nothing of it.
fn entry_of<'a>(model: &'a ManifestModel, facts: &PodFacts) -> Option<&'a ManifestModel> {
    let Some(rollout) = &model.rollout else { return Some(model) };
    let former = rollout.former.as_deref();
    let last_served = facts.last_served.get(&model.name).unwrap_or(&LastServed::Nothing);
    let is_named = facts.adopts.as_ref().is_none_or(|adopts| adopts.contains(&model.adopt_word()));
    let may_follow = match rollout.phase {
        RolloutPhase::Quarantined => false,
        RolloutPhase::Spreading => is_named || !has_served(former, last_served),
        RolloutPhase::Trial | RolloutPhase::Stopped => {
            is_named
                && (*last_served != LastServed::Nothing
                    || former.is_none_or(|former| facts.failed_formers.contains(&former.content_hash())))
        }
    };
    if may_follow { Some(model) } else { former }
}

/// Whether the pod serves the former entry, as far as it is known.
fn has_served(former: Option<&ManifestModel>, last_served: &LastServed) -> bool {
    former.is_some_and(|former| match last_served {
        LastServed::Nothing => false,
        LastServed::Entry(hash) => *hash == former.content_hash(),
        LastServed::Unknown => true,
    })
}

/// The contents that the text of the annotation names.
pub fn parse(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use crds::parts::{
        Duration,
        load::{LoadOrder, Readiness},
        source::Layout,
    };
    use operator_core::manifest::{ManifestConfig, ManifestLoad, ManifestSource, ModelRollout, Precedence};

    use super::*;

    fn model(text: &str) -> ManifestModel {
        ManifestModel {
            name: "m".into(),
            resource: "m".into(),
            source: ManifestSource::Inline { files: BTreeMap::from([("1/model.py".into(), text.into())]) },
            checksum: None,
            layout: Layout::Auto,
            format: None,
            config: ManifestConfig {
                text: "name: \"m\"\n".into(),
                precedence: Precedence::Fields,
                fields: Vec::new(),
                backend: Some("python".into()),
                platform: None,
            },
            readiness: Readiness::Required,
            load: ManifestLoad {
                timeout: Duration::from_secs(5),
                retries: 1,
                backoff: Duration::from_secs(1),
                fetch_timeout: None,
                order: LoadOrder::default(),
                settle_time: None,
            },
            gpu_memory: None,
            retry: None,
            rollout: None,
        }
    }

    fn in_rollout(phase: RolloutPhase, former: Option<ManifestModel>) -> ManifestModel {
        let rollout = ModelRollout { phase, former: former.map(Box::new), crashes: BTreeMap::new(), failure: None };
        ManifestModel { rollout: Some(rollout), ..model("new") }
    }

    fn named() -> PodFacts {
        PodFacts { adopts: Some(BTreeSet::from([model("new").adopt_word()])), ..PodFacts::default() }
    }

    fn unnamed() -> PodFacts {
        PodFacts { adopts: Some(BTreeSet::new()), ..PodFacts::default() }
    }

    fn unread() -> PodFacts {
        PodFacts::default()
    }

    fn having_served(served: LastServed, facts: PodFacts) -> PodFacts {
        PodFacts { last_served: BTreeMap::from([("m".to_owned(), served)]), ..facts }
    }

    fn served(text: &str) -> LastServed {
        LastServed::Entry(model(text).content_hash())
    }

    /// `expect`: the text of the content followed; empty for none.
    #[track_caller]
    fn check(published: &ManifestModel, facts: &PodFacts, expect: &str) -> Option<Entry> {
        let manifest = Arc::new(Manifest::new("ml", "vision", vec![published.clone()]));
        let following = follow(&manifest, facts);
        assert_eq!(following.manifest.hash, manifest.hash);
        let text = |model: &ManifestModel| match &model.source {
            ManifestSource::Inline { files } => files["1/model.py"].clone(),
            _ => unreachable!("all are inline"),
        };
        let followed = following.manifest.model("m").map(text).unwrap_or_default();
        assert_eq!(followed, expect);
        let entry = following.entries.get("m").cloned();
        assert_eq!(
            entry.as_ref().map(|entry| entry.hash.clone()),
            following.manifest.model("m").map(|m| m.content_hash())
        );
        entry
    }

    use RolloutPhase::{Quarantined, Spreading, Stopped, Trial};

    #[test]
    fn what_is_proven_is_served_everywhere() {
        for facts in [named(), unnamed(), unread(), having_served(served("old"), unnamed())] {
            let entry = check(&model("new"), &facts, "new").unwrap();
            assert!(entry.is_proven && !entry.is_in_rollout && entry.withheld.is_none());
        }
    }

    #[test]
    fn a_content_on_trial_is_served_where_it_is_named_and_no_where_else() {
        for phase in [Trial, Stopped] {
            let first = in_rollout(phase, None);
            assert!(!check(&first, &named(), "new").unwrap().is_proven);
            assert!(
                !check(&first, &unread(), "new").unwrap().is_proven,
                "without an annotation every content is named"
            );
            check(&first, &unnamed(), "");

            let next = in_rollout(phase, Some(model("old")));
            let entry = check(&next, &having_served(served("old"), unnamed()), "old").unwrap();
            assert!(entry.is_proven && entry.is_in_rollout);
            assert_eq!(entry.withheld, Some(model("new").content_hash()));
            check(&next, &having_served(served("old"), named()), "new");
            check(&next, &having_served(served("new"), named()), "new");
            check(&next, &having_served(served("new"), unnamed()), "old");
        }
    }

    #[test]
    fn a_pod_that_starts_serves_what_was_proven_before_it_tries_anything() {
        let next = in_rollout(Trial, Some(model("old")));
        check(&next, &named(), "old");
        check(&next, &unread(), "old");
        let lost = BTreeSet::from([model("old").content_hash()]);
        check(&next, &PodFacts { failed_formers: lost.clone(), ..named() }, "new");
        check(&next, &PodFacts { failed_formers: lost, ..unnamed() }, "old");
    }

    #[test]
    fn a_content_that_spreads_is_served_by_new_pods_and_by_those_it_names() {
        let next = in_rollout(Spreading, Some(model("old")));
        assert!(check(&next, &unnamed(), "new").unwrap().is_proven);
        check(&next, &having_served(served("old"), unnamed()), "old");
        check(&next, &having_served(LastServed::Unknown, unnamed()), "old");
        check(&next, &having_served(served("old"), named()), "new");
        check(&next, &having_served(served("new"), unnamed()), "new");
        check(&in_rollout(Spreading, None), &unnamed(), "new");
    }

    #[test]
    fn a_content_in_quarantine_is_served_nowhere() {
        let next = in_rollout(Quarantined, Some(model("old")));
        for facts in [named(), unread(), having_served(served("new"), named())] {
            check(&next, &facts, "old");
            check(&in_rollout(Quarantined, None), &facts, "");
        }
    }

    #[test]
    fn the_annotation_is_a_list_with_commas() {
        assert_eq!(parse(""), BTreeSet::new());
        assert_eq!(parse(" ab12 ,cd34,\n"), BTreeSet::from(["ab12".to_owned(), "cd34".to_owned()]));
    }
}
