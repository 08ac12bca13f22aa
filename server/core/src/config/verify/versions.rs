//! How requests are routed between versions. Whether the versions are loaded is known only where the folder is.

use super::findings::Findings;
use crate::{config::ModelConfig, version_routing::VersionRouting};

pub(super) fn check(config: &ModelConfig, findings: &mut Findings<'_>) {
    if let Err(problems) = VersionRouting::of(config) {
        findings.problems.extend(problems);
    }
}
