//! Which policy schedules a model, as its configuration says.

use std::{env, path::Path, sync::Arc};

use server_core::{
    batch::Pending,
    batching::{
        levels::DEFAULT_LIMIT,
        policy::{BatchPolicy, Batcher, Policy, Settings},
        strategy::BatchStrategy,
    },
    config::ModelConfig,
    error::Result,
    sequence::{
        direct::Direct,
        oldest::Oldest,
        settings::{self as sequences, Hold, Strategy},
    },
};

use crate::model_files;

/// What a pool needs to know of its model's scheduling.
pub(crate) struct Scheduling {
    /// What waits, and who runs what when.
    pub(crate) policy: Box<dyn Policy<Pending>>,
    /// Responses leave in the order of the requests; so many of them are held at most.
    pub(crate) preserved_order: Option<usize>,
    /// Priority and timeout of requests are heeded: without any scheduling choice they say nothing.
    pub(crate) has_queue_policy: bool,
    /// Requests are bound to sequence slots: none runs but where its sequence is.
    pub(crate) has_sequences: bool,
    /// Its model may want another turn for a request.
    pub(crate) is_iterative: bool,
    /// Each instance is held until so many requests of sequences wait.
    pub(crate) held_until: usize,
}

impl Scheduling {
    /// Reads a normalised configuration, and the initial states it names from the model's folder.
    ///
    /// Errors: an initial state does not fit, or its file cannot be read.
    pub(crate) fn of(
        config: &ModelConfig,
        model_dir: &Path,
        strategy: Option<Arc<dyn BatchStrategy<Pending>>>,
    ) -> Result<Self> {
        let has_queue_policy = config.scheduling_choice.is_some();
        if let Some(settings) = sequences::Settings::of(config, hold()) {
            let extra = sequences::extra_inputs(config, |name| initial_state(model_dir, name))?;
            let is_iterative = settings.is_iterative;
            let preserved_order = settings.preserves_ordering().then_some(DEFAULT_LIMIT);
            let policy: Box<dyn Policy<Pending>> = match settings.strategy.clone() {
                Strategy::Direct { .. } => Box::new(Direct::new(settings, extra)),
                Strategy::Oldest { batching } => Box::new(Oldest::new(settings, batching, extra)),
            };
            return Ok(Self {
                policy,
                preserved_order,
                has_queue_policy,
                has_sequences: true,
                is_iterative,
                held_until: hold().queued,
            });
        }
        let settings = Settings::of(config);
        Ok(Self {
            policy: Box::new(batcher(config, &settings).with_strategy(strategy)),
            preserved_order: settings.preserve_ordering.then(|| settings.max_queued()),
            has_queue_policy,
            has_sequences: false,
            is_iterative: false,
            held_until: 0,
        })
    }
}

fn batcher(config: &ModelConfig, settings: &Settings) -> Batcher<Pending> {
    let held_until = hold().queued;
    if held_until > 0 && matches!(settings.batching, BatchPolicy::Dynamic { .. }) {
        log_hold(&config.name, held_until);
    }
    Batcher::new(settings).held_until(held_until)
}

/// Says that nothing runs before so many requests wait.
pub(crate) fn log_hold(name: &str, held_until: usize) {
    tracing::info!("Delaying scheduler thread {name} until {held_until} queued requests, current total = 0");
}

/// The switches with which Triton's own tests make its schedulers wait for requests.
fn hold() -> Hold {
    let number = |name| env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(0);
    Hold { queued: number("TRITONSERVER_DELAY_SCHEDULER"), backlog: number("TRITONSERVER_BACKLOG_DELAY_SCHEDULER") }
}

/// The content of a file in the model's folder `initial_state`.
pub(crate) fn initial_state(model_dir: &Path, name: &str) -> Result<Vec<u8>> {
    model_files::read(&model_dir.join("initial_state").join(name))
}
