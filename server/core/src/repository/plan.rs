//! What loading a model comes to: which versions to load, and which to take down once those are there.

/// Steps for one model, in order: all of `load`, then, if every one of them serves, all of `unload`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Ascending.
    pub load: Vec<u64>,
    /// Ascending.
    pub unload: Vec<u64>,
}

/// Plans from the versions the policy wants, the versions that serve, and whether anything changed on disk.
pub fn plan(wanted: &[u64], serving: &[u64], is_changed: bool) -> Plan {
    let load = wanted.iter().copied().filter(|version| is_changed || !serving.contains(version));
    let unload = serving.iter().copied().filter(|version| !wanted.contains(version));
    Plan { load: load.collect(), unload: unload.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_model_needs_nothing() {
        assert_eq!(plan(&[1], &[1], false), Plan::default());
    }

    #[test]
    fn a_changed_model_is_loaded_again() {
        assert_eq!(plan(&[1, 2], &[1], true), Plan { load: vec![1, 2], unload: vec![] });
    }

    #[test]
    fn a_newer_version_comes_before_the_older_goes() {
        assert_eq!(plan(&[2], &[1], false), Plan { load: vec![2], unload: vec![1] });
    }
}
