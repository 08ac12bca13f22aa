//! The parameters of a model: how long its responses take, and which of them come to nothing.

use std::time::Duration;

use server_core::config::ModelConfig;

/// The parameters of a model.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Custom {
    pub(super) infer_delay: Duration,
    pub(super) output_delay: Duration,
    pub(super) cancel_delay: Duration,
    fail_count: u64,
    empty_count: u64,
}

/// What becomes of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Fail,
    Empty,
}

impl Custom {
    pub(super) fn of(config: &ModelConfig) -> Self {
        let number = |key: &str| {
            let parameter = config.parameters.get(key);
            parameter.and_then(|parameter| parameter.string_value.parse().ok()).unwrap_or(0)
        };
        Self {
            infer_delay: Duration::from_nanos(number("CUSTOM_INFER_DELAY_NS")),
            output_delay: Duration::from_nanos(number("CUSTOM_OUTPUT_DELAY_NS")),
            cancel_delay: Duration::from_nanos(number("CUSTOM_CANCEL_DELAY_NS")),
            fail_count: number("CUSTOM_FAIL_COUNT"),
            empty_count: number("CUSTOM_EMPTY_COUNT"),
        }
    }

    /// What becomes of response `index` of `count`, from 0.
    pub(super) fn outcome(&self, index: u64, count: u64) -> Outcome {
        let left = count - index;
        if left <= self.empty_count {
            Outcome::Empty
        } else if left <= self.empty_count.saturating_add(self.fail_count) {
            Outcome::Fail
        } else {
            Outcome::Success
        }
    }
}
