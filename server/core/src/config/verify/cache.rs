//! Response cache: which kinds of model it cannot serve.

use server_proto::inference::model_config::SchedulingChoice;

use super::findings::Findings;
use crate::config::ModelConfig;

pub(super) fn check(config: &ModelConfig, findings: &mut Findings<'_>) {
    if !config.response_cache.is_some_and(|cache| cache.enable) {
        return;
    }
    let model = &config.name;
    let mut refuse = |with: &str| {
        findings.add(
            "response_cache.enable",
            format!(
                "Response Cache does not currently support model {model} with {with}. Please disable the response cache."
            ),
        );
    };
    if matches!(config.scheduling_choice, Some(SchedulingChoice::SequenceBatching(_))) {
        refuse("sequence batching scheduler");
    }
    if config.model_transaction_policy.is_some_and(|policy| policy.decoupled) {
        refuse("'decoupled' transaction policy");
    }
}
