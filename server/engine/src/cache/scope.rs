//! What one loaded version has of the server's response cache.

use server_core::{config::ModelConfig, interface::Interface, response_cache::Scope};

use super::{Content, ResponseCache};

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

    /// The cache, if requests to it are looked for there.
    pub(crate) fn enabled(&self) -> Option<&ResponseCache> {
        self.is_enabled.then_some(&self.cache)
    }

    /// What tells its entries from those of other versions, without the models that an ensemble is made of.
    pub(crate) fn own(&self) -> Scope {
        self.own
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
