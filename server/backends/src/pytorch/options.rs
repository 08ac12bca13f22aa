//! How a model runs: its `parameters`, read and checked when it is loaded.
//!
//! Source: PyTorch backend of Triton, "Parameters".

use server_core::{config::ModelConfig, error::Result};

use super::raw::Modes;
use crate::native::settings::{MOST_THREADS, integer, not_a_switch, switch};

/// What a configuration says of a model's runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    /// Of each run.
    pub(super) modes: Modes,
    /// Instances on the same device have one module together.
    pub(super) shares_weights: bool,
    /// Threads within an operation; the first model that says so decides for all.
    pub(super) intra_op_threads: Option<i32>,
    /// Threads between operations; likewise.
    pub(super) inter_op_threads: Option<i32>,
}

impl Options {
    /// Those of a configuration.
    ///
    /// Errors: `InvalidArgument` if a parameter has a value that is no switch or no number.
    pub(super) fn read(config: &ModelConfig) -> Result<Self> {
        let is_on = |key: &str, default: bool| parameter(config, key).map(|written| written.unwrap_or(default));
        let modes = Modes {
            is_optimized: !is_on("DISABLE_OPTIMIZED_EXECUTION", false)?,
            has_inference_mode: is_on("INFERENCE_MODE", true)?,
            has_cudnn: !is_on("DISABLE_CUDNN", false)?,
            jit_profiling: parameter(config, "ENABLE_JIT_PROFILING")?,
            jit_executor: parameter(config, "ENABLE_JIT_EXECUTOR")?,
            tensor_fuser: match parameter(config, "ENABLE_TENSOR_FUSER")? {
                None => parameter(config, "ENABLE_TORCH_FUSION")?,
                written => written,
            },
            cleans_cache: is_on("ENABLE_CACHE_CLEANING", false)?,
        };
        Ok(Self {
            modes,
            shares_weights: is_on("ENABLE_WEIGHT_SHARING", false)?,
            intra_op_threads: threads(config, "INTRA_OP_THREAD_COUNT")?,
            inter_op_threads: threads(config, "INTER_OP_THREAD_COUNT")?,
        })
    }
}

/// A parameter that switches something; `None` if it is not given.
fn parameter(config: &ModelConfig, key: &str) -> Result<Option<bool>> {
    let Some(parameter) = config.parameters.get(key) else { return Ok(None) };
    let value = parameter.string_value.trim();
    switch(value).map(Some).ok_or_else(|| not_a_switch(key, value))
}

/// A number of threads. None above zero says nothing, as in Triton.
fn threads(config: &ModelConfig, key: &str) -> Result<Option<i32>> {
    let count = integer(config, key)?.filter(|count| *count > 0);
    Ok(count.map(|count| i32::try_from(count).map_or(i32::MAX, |count| count).min(MOST_THREADS as i32)))
}

#[cfg(test)]
mod tests {
    use server_core::error::Error;
    use server_proto::inference::ModelParameter;

    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Options> {
        let parameter = |(key, value): &(&str, &str)| ((*key).into(), ModelParameter { string_value: (*value).into() });
        let parameters = parameters.iter().map(parameter).collect();
        Options::read(&ModelConfig { parameters, ..ModelConfig::default() })
    }

    #[test]
    fn without_parameters_runs_are_optimized_and_in_inference_mode() {
        let options = read(&[]).unwrap();
        let Modes { is_optimized, has_inference_mode, has_cudnn, cleans_cache, .. } = options.modes;
        assert_eq!((is_optimized, has_inference_mode, has_cudnn, cleans_cache), (true, true, true, false));
        assert_eq!((options.modes.jit_profiling, options.modes.tensor_fuser), (None, None));
        assert_eq!((options.shares_weights, options.intra_op_threads), (false, None));
    }

    #[test]
    fn parameters_are_read_in_the_words_of_triton() {
        let options = read(&[
            ("DISABLE_OPTIMIZED_EXECUTION", "true"),
            ("INFERENCE_MODE", "0"),
            ("ENABLE_JIT_PROFILING", "false"),
            ("ENABLE_TORCH_FUSION", "1"),
            ("ENABLE_WEIGHT_SHARING", "True"),
            ("INTRA_OP_THREAD_COUNT", "3"),
            ("INTER_OP_THREAD_COUNT", "0"),
        ]);
        let options = options.unwrap();
        assert_eq!((options.modes.is_optimized, options.modes.has_inference_mode), (false, false));
        assert_eq!((options.modes.jit_profiling, options.modes.tensor_fuser), (Some(false), Some(true)));
        assert!(options.shares_weights);
        assert_eq!((options.intra_op_threads, options.inter_op_threads), (Some(3), None));
        assert_eq!(read(&[("INTRA_OP_THREAD_COUNT", "99999999999")]).unwrap().intra_op_threads, Some(1024));
    }

    #[test]
    fn other_values_are_refused_by_name() {
        let text = "failed to convert 'maybe' to boolean for 'INFERENCE_MODE', expected '0' or '1'";
        assert_eq!(read(&[("INFERENCE_MODE", "maybe")]), Err(Error::invalid_argument(text)));
        let text = "failed to convert 'two' to integral number for 'INTER_OP_THREAD_COUNT'";
        assert_eq!(read(&[("INTER_OP_THREAD_COUNT", "two")]), Err(Error::invalid_argument(text)));
    }
}
