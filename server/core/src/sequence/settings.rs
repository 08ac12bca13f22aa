//! Sequence scheduling of one model, read from its normalised configuration.

use std::time::Duration;

use server_proto::inference::{
    ModelConfig, ModelSequenceBatching, model_config::SchedulingChoice, model_sequence_batching::StrategyChoice,
};

use super::{
    controls::Controls,
    state::{StateSpecs, States},
};
use crate::{
    batching::{
        levels::Levels,
        policy::{BatchPolicy, Settings as BatchSettings},
        shapes::SharedShapes,
    },
    error::Result,
    tensor::{Name, Tensor},
};

/// What the model reads beside what a request brings.
pub struct ExtraInputs {
    /// Where in its sequence the request stands.
    pub controls: Controls,
    /// What was kept of its sequence.
    pub states: StateSpecs,
}

impl ExtraInputs {
    /// What a new sequence starts with, if the model keeps anything.
    pub fn initial_states(&self) -> Option<States> {
        (!self.states.is_empty()).then(|| self.states.initial())
    }

    /// The states as inputs.
    pub(super) fn state_inputs(states: Option<&States>) -> impl Iterator<Item = Tensor> {
        states.into_iter().flat_map(States::inputs)
    }
}

/// How the requests of sequences are put together.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// A sequence keeps one row of the batch of one instance.
    Direct {
        /// Longest wait for more rows.
        max_queue_delay: Duration,
        /// Part of the rows that is enough, 0 to 1.
        minimum_slot_utilization: f32,
    },
    /// The sequences of an instance are batched by the age of their requests.
    Oldest {
        /// The batching among them.
        batching: BatchSettings,
    },
}

/// Nothing runs before so many requests wait: a switch for tests of schedulers.
///
/// Source: `TRITONSERVER_DELAY_SCHEDULER` and `TRITONSERVER_BACKLOG_DELAY_SCHEDULER` of Triton.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hold {
    /// In slots.
    pub queued: usize,
    /// In the backlog.
    pub backlog: usize,
}

/// Sequence scheduling of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its name, for messages.
    pub model_name: Name,
    /// How requests are put together.
    pub strategy: Strategy,
    /// Slots of each instance, at least 1.
    pub slots: u32,
    /// How long a sequence may be silent before its slot is given away.
    pub max_idle: Duration,
    /// Every request is a sequence of its own, run again and again until its model lets go of it. One that names its
    /// sequence has to start it, as with other models.
    pub is_iterative: bool,
    /// Tensors have a batch dimension.
    pub has_rows: bool,
    /// What the requests of a batch must have in common.
    pub shapes: SharedShapes,
    /// What has to wait before anything runs.
    pub hold: Hold,
}

impl Settings {
    /// Reads a normalised configuration; `None` if it does not schedule sequences.
    pub fn of(config: &ModelConfig, hold: Hold) -> Option<Self> {
        let Some(SchedulingChoice::SequenceBatching(batching)) = &config.scheduling_choice else { return None };
        let rows = u32::try_from(config.max_batch_size).unwrap_or(0).max(1);
        let shapes = shapes(config, batching);
        let (strategy, slots) = match &batching.strategy_choice {
            Some(StrategyChoice::Oldest(oldest)) => {
                let mut preferred: Vec<u32> =
                    oldest.preferred_batch_size.iter().filter_map(|&size| u32::try_from(size).ok()).collect();
                if preferred.is_empty() {
                    preferred.push(rows);
                }
                preferred.sort_unstable();
                preferred.dedup();
                let max_queue_delay = Duration::from_micros(oldest.max_queue_delay_microseconds);
                let batching = BatchSettings {
                    batching: BatchPolicy::Dynamic {
                        preferred,
                        max_batch_size: rows,
                        max_queue_delay,
                        shapes: shapes.clone(),
                    },
                    levels: Levels::default(),
                    preserve_ordering: oldest.preserve_ordering,
                };
                let candidates = u32::try_from(oldest.max_candidate_sequences).unwrap_or(0);
                (Strategy::Oldest { batching }, if candidates == 0 { rows } else { candidates })
            }
            Some(StrategyChoice::Direct(direct)) => {
                let max_queue_delay = Duration::from_micros(direct.max_queue_delay_microseconds);
                let minimum_slot_utilization = direct.minimum_slot_utilization;
                (Strategy::Direct { max_queue_delay, minimum_slot_utilization }, rows)
            }
            None => (Strategy::Direct { max_queue_delay: Duration::ZERO, minimum_slot_utilization: 0.0 }, rows),
        };
        Some(Self {
            model_name: config.name.as_str().into(),
            strategy,
            slots,
            max_idle: Duration::from_micros(batching.max_sequence_idle_microseconds),
            is_iterative: batching.iterative_sequence,
            has_rows: config.max_batch_size > 0,
            shapes,
            hold,
        })
    }

    /// Whether responses leave in the order of the requests.
    pub fn preserves_ordering(&self) -> bool {
        matches!(&self.strategy, Strategy::Oldest { batching } if batching.preserve_ordering)
    }
}

/// States of open extents make shapes differ although all inputs of requests are alike.
fn shapes(config: &ModelConfig, batching: &ModelSequenceBatching) -> SharedShapes {
    let is_variable = batching.state.iter().any(|state| state.dims.contains(&-1));
    match SharedShapes::of(config) {
        SharedShapes::Fixed if is_variable => SharedShapes::same(config),
        shapes => shapes,
    }
}

/// Reads the controls and the states of a verified configuration.
///
/// Errors: those of [`StateSpecs::of`].
pub fn extra_inputs(config: &ModelConfig, read: impl Fn(&str) -> Result<Vec<u8>>) -> Result<ExtraInputs> {
    Ok(ExtraInputs { controls: Controls::of(config), states: StateSpecs::of(config, read)? })
}
