//! Checks a normalised configuration: every mistake, each with its path, in the order in which Triton would meet them.
//! One file per theme; each only adds to the findings.

mod batch_io;
mod cache;
mod ensemble;
mod files;
mod findings;
mod general;
mod instances;
mod io;
mod metrics;
mod queueing;
mod sequence;
mod versions;

pub use files::verify_override;
use server_proto::inference::model_config::SchedulingChoice;

use self::findings::Findings;
use super::{Machine, ModelConfig, Problem};

/// Everything that is wrong with a configuration; nothing if it can be loaded.
///
/// `config` is completed and normalised; `directory_name` is the name of its folder.
/// Source: Triton model configuration; the sentences are Triton's where it makes the same check.
pub fn verify(config: &ModelConfig, directory_name: &str, machine: &Machine) -> Vec<Problem> {
    check(config, directory_name, Some(machine))
}

/// What is wrong with a configuration whatever its model file says: inputs, outputs and instance groups are left for
/// [`verify`], and so is what depends on the batch size while that is open, for a backend may still complete them.
/// `config` is completed from its folder and normalised.
///
/// Source: what Triton checks when it polls a repository, before it loads any version.
pub fn verify_before_opening(config: &ModelConfig, directory_name: &str) -> Vec<Problem> {
    check(config, directory_name, None)
}

/// `machine` is there once the model was opened.
fn check(config: &ModelConfig, directory_name: &str, machine: Option<&Machine>) -> Vec<Problem> {
    let mut findings = Findings { model: &config.name, problems: Vec::new() };
    general::check(config, directory_name, &mut findings);
    let is_ensemble = matches!(config.scheduling_choice, Some(SchedulingChoice::EnsembleScheduling(_)));
    if machine.is_some() || config.max_batch_size > 0 || is_ensemble {
        check_scheduling(config, &mut findings);
    }
    cache::check(config, &mut findings);
    metrics::check(config, &mut findings);
    versions::check(config, &mut findings);
    if let Some(machine) = machine {
        io::check(config, &mut findings);
        batch_io::check(config, &mut findings);
        instances::check(config, *machine, &mut findings);
    }
    files::check(config, &mut findings);
    findings.problems
}

/// Schedulers are checked against the batch size.
fn check_scheduling(config: &ModelConfig, findings: &mut Findings<'_>) {
    match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(batching)) => {
            queueing::check(batching, config.max_batch_size, findings);
        }
        Some(SchedulingChoice::SequenceBatching(batching)) => {
            sequence::check(batching, config.max_batch_size, findings);
        }
        Some(SchedulingChoice::EnsembleScheduling(graph)) => ensemble::check(config, graph, findings),
        None => {}
    }
}
