//! Which policy schedules a model, as its configuration says.

use server_core::{
    batch::Pending,
    batching::policy::{Batcher, Policy, Settings},
    config::ModelConfig,
};

/// What a pool needs to know of its model's scheduling.
pub(crate) struct Scheduling {
    /// What waits, and who runs what when.
    pub(crate) policy: Box<dyn Policy<Pending>>,
    /// Responses leave in the order of the requests; so many of them are held at most.
    pub(crate) preserved_order: Option<usize>,
    /// Priority and timeout of requests are heeded: without any scheduling choice they say nothing.
    pub(crate) has_queue_policy: bool,
}

impl Scheduling {
    /// Reads a normalised configuration.
    pub(crate) fn of(config: &ModelConfig) -> Self {
        let settings = Settings::of(config);
        Self {
            policy: Box::new(Batcher::new(&settings)),
            preserved_order: settings.preserve_ordering.then(|| settings.max_queued()),
            has_queue_policy: config.scheduling_choice.is_some(),
        }
    }
}
