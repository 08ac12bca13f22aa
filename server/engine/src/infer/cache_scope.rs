//! What the response to a request depends on besides the request.

use server_core::{config::SchedulingChoice, request::VersionChoice, response_cache::Scope};

use crate::{model::LoadedModel, registry::Registry, runner::Runner};

/// Ensembles within ensembles: more are not looked through, and their responses are not kept.
const MAX_DEPTH: usize = 32;

impl LoadedModel {
    /// What answers a request to it now: itself, and the models that it is made of, as they are loaded. `None` if that depends
    /// on more than the inputs: on sequences, or on how requests are split between versions.
    pub(crate) fn cache_scope(&self, registry: &Registry) -> Option<Scope> {
        self.cache_scope_within(registry, MAX_DEPTH)
    }

    fn cache_scope_within(&self, registry: &Registry, depth: usize) -> Option<Scope> {
        let own = self.caching.as_ref()?.own();
        let Runner::Ensemble(ensemble) = self.runner() else { return Some(own) };
        let depth = depth.checked_sub(1)?;
        let graph = ensemble.graph();
        let of_step = |step: usize| {
            let (name, version) = graph.step_model(step);
            let model = registry.find_key(name, version).ok()?;
            let is_split = version == VersionChoice::Latest && model.routing.is_some();
            let has_sequences = matches!(model.config.scheduling_choice, Some(SchedulingChoice::SequenceBatching(_)));
            if is_split || has_sequences { None } else { model.cache_scope_within(registry, depth) }
        };
        let steps: Option<Vec<Scope>> = (0..graph.step_count()).map(of_step).collect();
        Some(Scope::of_ensemble(own, steps?))
    }
}
