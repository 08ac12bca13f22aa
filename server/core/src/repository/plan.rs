//! What loading a model comes to: which versions to load, which to bring up to date as they serve, and which to take
//! down once those are there.

/// What has changed of a version since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that concerns it.
    Nothing,
    /// Only what a serving version can follow: labels, instance groups, the version policy, how requests are
    /// routed between versions.
    Settings,
    /// Its files or the rest of its configuration.
    Model,
}

/// Steps for one model, in order: all of `load` and `refresh`, then, if every one of them succeeds, all of `unload`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Ascending.
    pub load: Vec<u64>,
    /// Ascending.
    pub refresh: Vec<u64>,
    /// Ascending.
    pub unload: Vec<u64>,
}

/// Plans from the versions the policy wants and the versions that serve, each with what has changed of it.
///
/// Source: Triton model management, "Modifying the Model Repository": versions that have not changed are left alone.
pub fn plan(wanted: &[u64], serving: &[(u64, Change)]) -> Plan {
    let mut plan = Plan::default();
    for &version in wanted {
        match serving.iter().find(|(other, _)| *other == version) {
            None | Some((_, Change::Model)) => plan.load.push(version),
            Some((_, Change::Settings)) => plan.refresh.push(version),
            Some((_, Change::Nothing)) => {}
        }
    }
    plan.unload = serving.iter().map(|(version, _)| *version).filter(|version| !wanted.contains(version)).collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_model_needs_nothing() {
        assert_eq!(plan(&[1], &[(1, Change::Nothing)]), Plan::default());
    }

    #[test]
    fn only_what_changed_is_loaded_again() {
        let serving = [(1, Change::Nothing), (2, Change::Model), (3, Change::Settings)];
        let steps = Plan { load: vec![2, 4], refresh: vec![3], unload: vec![] };
        assert_eq!(plan(&[1, 2, 3, 4], &serving), steps);
    }

    #[test]
    fn a_newer_version_comes_before_the_older_goes() {
        let steps = Plan { load: vec![2], refresh: vec![], unload: vec![1] };
        assert_eq!(plan(&[2], &[(1, Change::Model)]), steps);
    }
}
