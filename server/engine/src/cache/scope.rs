//! What one loaded version has of the server's response cache.

use server_core::{
    config::{ModelConfig, SchedulingChoice},
    interface::Interface,
    request::VersionChoice,
    response_cache::Scope,
};

use super::{Content, ResponseCache};
use crate::{model::LoadedModel, registry::Registry, runner::Runner};

/// Ensembles within ensembles: more are not looked through, and their responses are not kept.
const MAX_DEPTH: usize = 32;

/// A version's share in the response cache. Every version has one where the server has a cache, for an ensemble that is made
/// of it may be cached.
#[derive(Clone)]
pub(crate) struct Caching {
    cache: ResponseCache,
    /// Without the models that an ensemble is made of.
    own: Scope,
    /// Whether requests to it are looked for.
    is_enabled: bool,
}

impl Caching {
    /// The share of a version that was loaded from `content`.
    pub(crate) fn new(cache: &ResponseCache, interface: &Interface, config: &ModelConfig, content: &Content) -> Self {
        let own = Scope::new(&interface.model_name, interface.version, &content.digest);
        Self { cache: cache.clone(), own, is_enabled: is_enabled(config) }
    }

    /// The same under another configuration, that needs no other model.
    pub(crate) fn refresh(&self, config: &ModelConfig) -> Self {
        Self { is_enabled: is_enabled(config), ..self.clone() }
    }
}

/// Whether the configuration asks for it. That it is of a kind that can have it was verified.
pub(crate) fn is_enabled(config: &ModelConfig) -> bool {
    config.response_cache.is_some_and(|cache| cache.enable)
}

impl LoadedModel {
    /// The cache that answers its requests, if any does.
    pub(crate) fn response_cache(&self) -> Option<&ResponseCache> {
        self.caching.as_ref().filter(|caching| caching.is_enabled).map(|caching| &caching.cache)
    }

    /// What answers a request to it now: itself, and the models that it is made of, as they are loaded. `None` if that depends
    /// on more than the inputs: on sequences, or on how requests are split between versions.
    pub(crate) fn cache_scope(&self, registry: &Registry) -> Option<Scope> {
        self.cache_scope_within(registry, MAX_DEPTH)
    }

    fn cache_scope_within(&self, registry: &Registry, depth: usize) -> Option<Scope> {
        let own = self.caching.as_ref()?.own;
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
