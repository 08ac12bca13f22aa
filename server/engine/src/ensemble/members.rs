//! The models that an ensemble is made of, as the registry has them.

use server_core::{
    config::ModelConfig,
    ensemble::{Member, Members, step_models},
};

use crate::registry::{Entry, Registry, UNLOADED, VersionState};

/// What is known now of the models that an ensemble's steps name.
pub(crate) fn members(registry: &Registry, config: &ModelConfig) -> Members {
    step_models(config)
        .into_iter()
        .map(|name| {
            let member = registry.entry(&name).map_or(Member::Missing, |entry| member(&entry));
            (name, member)
        })
        .collect()
}

fn member(entry: &Entry) -> Member {
    let ready: std::collections::BTreeMap<_, _> = entry
        .versions
        .iter()
        .filter_map(|(&number, version)| Some((number, version.model.as_ref()?.interface.clone())))
        .collect();
    if !ready.is_empty() {
        return Member::Ready(ready);
    }
    if let Some(reason) = &entry.lacking {
        return Member::Invalid { reason: reason.clone() };
    }
    let failed = entry.versions.iter().filter(|(_, version)| {
        version.state == VersionState::Unavailable && version.reason != UNLOADED && !version.reason.is_empty()
    });
    let reason: String = failed
        .map(|(number, version)| format!("version {number} is at UNAVAILABLE state: {};\n", version.reason))
        .collect();
    if reason.is_empty() { Member::Missing } else { Member::Failed { reason } }
}
