//! Where sources are: folders of this machine and addresses, and which of them may be used.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use operator_core::{labels::MODEL_ACCESS, manifest::ManifestSource, names::is_of_object, source_rules::SourceRules};

use super::{folder, guard::AddressRule};
use crate::fault::{Fault, Reason};

/// Folders by name: those named one by one, then those below common parents.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// A folder of its own.
    pub named: BTreeMap<String, PathBuf>,
    /// Parents whose subfolders bear the names, searched in order.
    pub below: Vec<PathBuf>,
    /// What gives it a further folder, with NAME in the place of its name: a flag of whoever runs the agent.
    pub given_by: Option<&'static str>,
}

/// Where sources are: folders of this machine, and addresses.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// ConfigMaps: one file per key.
    pub config_maps: Mounts,
    /// Volumes by the name of their claim.
    pub volumes: Mounts,
    /// Secrets: one file per key.
    pub secrets: Mounts,
    /// Which addresses they may have, as far as this machine goes.
    pub addresses: Arc<AddressRule>,
    /// What the manifest rules besides; [`Self::follow`] fills it in.
    pub ruled: Option<Ruled>,
}

/// What a manifest rules, together with what holds on this machine.
#[derive(Debug, Clone)]
pub struct Ruled {
    rules: SourceRules,
    addresses: Arc<AddressRule>,
}

impl Places {
    /// From now on, sources are held to what a manifest rules.
    pub fn follow(&mut self, rules: &SourceRules) {
        if self.ruled.as_ref().is_none_or(|ruled| ruled.rules != *rules) {
            self.ruled = Some(Ruled { rules: rules.clone(), addresses: Arc::new(self.addresses.with(rules)) });
        }
    }

    /// Which addresses sources may have.
    pub fn address_rule(&self) -> &Arc<AddressRule> {
        self.ruled.as_ref().map_or(&self.addresses, |ruled| &ruled.addresses)
    }

    /// Errors: the model's source is opened with a Secret, or lies on a claim, that is not allowed any more.
    pub(super) fn check_access(&self, source: &ManifestSource) -> Result<(), Fault> {
        let refused = |what, name| {
            let message = format!(
                "{what} '{name}' may not be used any more: the TritonServer does not list it, or it lacks the label {MODEL_ACCESS}"
            );
            Err(Fault::new(Reason::AccessDenied, message))
        };
        let Some(Ruled { rules, .. }) = &self.ruled else { return Ok(()) };
        match (source.secret(), source.claim()) {
            (Some(secret), _) if !rules.allows_secret(secret) => refused("Secret", secret),
            (_, Some(claim)) if !rules.allows_claim(claim) => refused("claim", claim),
            _ => Ok(()),
        }
    }
}

impl Mounts {
    /// The folder of that name, if it exists. What no object can be called leads nowhere: it could lead out of the parents.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let named = self.named.get(name).cloned().into_iter();
        let below = self.below.iter().filter(|_| is_of_object(name)).map(|parent| parent.join(name));
        named.chain(below).find(|path| path.is_dir())
    }

    /// What the folder of that name is now, as a text that differs when it changes; `None` while it is not there.
    pub fn revision(&self, name: &str) -> Option<String> {
        self.find(name).and_then(|mounted| folder::revision(&mounted).ok())
    }

    /// The places where `name` would be looked for, as a sentence tells them.
    pub fn places(&self, name: &str) -> String {
        let named = self.named.get(name).cloned().into_iter();
        let all: Vec<_> =
            named.chain(self.below.iter().map(|parent| parent.join(name))).map(|p| p.display().to_string()).collect();
        let looked = if all.is_empty() {
            "no place is set up for it".to_owned()
        } else {
            format!("looked for {}", all.join(", "))
        };
        match self.given_by {
            Some(flag) => format!("{looked}; give its folder with {}", flag.replace("NAME", name)),
            None => looked,
        }
    }
}
