//! Which of a model's versions are served.

use server_proto::inference::model_version_policy::PolicyChoice;

use crate::config::ModelConfig;

/// The versions the model's policy picks from `available`, ascending. Empty if it picks none.
///
/// `latest { n }` takes the `n` highest, `all` every one, `specific` those named that are there. Without a policy, the
/// highest.
/// Source: Triton model configuration, "Version Policy".
pub fn select(config: &ModelConfig, available: &[u64]) -> Vec<u64> {
    let mut versions = available.to_vec();
    versions.sort_unstable();
    versions.dedup();
    let latest = |versions: &mut Vec<u64>, wanted: u32| {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).max(1);
        versions.drain(..versions.len().saturating_sub(wanted));
    };
    match config.version_policy.as_ref().map(|policy| &policy.policy_choice) {
        None => latest(&mut versions, 1),
        Some(Some(PolicyChoice::Latest(policy))) => latest(&mut versions, policy.num_versions),
        Some(Some(PolicyChoice::Specific(policy))) => {
            versions.retain(|version| i64::try_from(*version).is_ok_and(|version| policy.versions.contains(&version)));
        }
        Some(Some(PolicyChoice::All(_)) | None) => {} // a policy without a choice restricts nothing
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::select;
    use crate::config::from_text;

    #[track_caller]
    fn check(policy: &str, expected: &[u64]) {
        assert_eq!(select(&from_text(policy).unwrap(), &[3, 1, 7]), expected);
    }

    #[test]
    fn policies_pick_their_versions() {
        check("", &[7]);
        check("version_policy { latest { } }", &[7]);
        check("version_policy { latest { num_versions: 2 } }", &[3, 7]);
        check("version_policy { latest { num_versions: 9 } }", &[1, 3, 7]);
        check("version_policy { all { } }", &[1, 3, 7]);
        check("version_policy { }", &[1, 3, 7]);
        check("version_policy { specific { versions: [ 7, 1, 5, -3 ] } }", &[1, 7]);
        check("version_policy { specific { versions: [ 2 ] } }", &[]);
    }
}
