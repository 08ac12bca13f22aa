//! Name, backend, batch size, versions, and whether scheduler and platform agree on being an ensemble.

use server_proto::inference::model_config::SchedulingChoice;

use super::findings::Findings;
use crate::config::{
    ModelConfig,
    frameworks::{self, ENSEMBLE},
};

pub(super) fn check(config: &ModelConfig, directory_name: &str, findings: &mut Findings<'_>) {
    let name = &config.name;
    if name.is_empty() {
        findings.add("name", "model configuration must specify 'name'");
    } else if name != directory_name {
        findings.add(
            "name",
            format!(
                "unexpected directory name '{directory_name}' for model '{name}', directory name must equal model name"
            ),
        );
    }
    findings.problems.extend(frameworks::pair_problem(config));
    if config.max_batch_size < 0 {
        findings.add_for_model("max_batch_size", "'max_batch_size' must be non-negative value");
    }
    if config.version_policy.is_none() {
        findings.add_for_model("version_policy", "must specify 'version policy'");
    }
    let is_graph = matches!(config.scheduling_choice, Some(SchedulingChoice::EnsembleScheduling(_)));
    if is_graph && config.platform != ENSEMBLE {
        findings.add(
            "platform",
            format!("ensemble scheduling cannot be set for model '{name}' whose platform is not {ENSEMBLE}"),
        );
    }
    if !is_graph && config.platform == ENSEMBLE {
        findings.add(
            "ensemble_scheduling",
            format!("ensemble scheduling must be set for ensemble {name} whose platform is {ENSEMBLE}"),
        );
    }
}
