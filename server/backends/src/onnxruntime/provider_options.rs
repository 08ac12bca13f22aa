//! Options of execution providers: from the words of a model's configuration to those of ONNX Runtime, checked as far as
//! Triton checks them. What a provider itself thinks of a value it says when a session is made.
//!
//! Source: ONNX Runtime backend of Triton, "ONNX Runtime with TensorRT optimization", "ONNX Runtime with CUDA Execution
//! Provider optimization", "Deprecated Parameters".

use std::collections::BTreeMap;

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
};

use crate::native::settings::{integer, switch};

/// Options of a provider, by its own names.
pub(super) type Options = BTreeMap<String, String>;

/// What the value of an option is.
#[derive(Clone, Copy)]
enum Value {
    Switch,
    Number,
    Text,
}

/// Options of TensorRT, without the `trt_` before their names.
const TENSORRT_OPTIONS: [(&str, Value); 34] = [
    ("max_workspace_size", Value::Number),
    ("int8_calibration_table_name", Value::Text),
    ("int8_use_native_calibration_table", Value::Switch),
    ("max_partition_iterations", Value::Number),
    ("min_subgraph_size", Value::Number),
    ("dla_enable", Value::Switch),
    ("dla_core", Value::Number),
    ("engine_cache_enable", Value::Switch),
    ("engine_cache_path", Value::Text),
    ("engine_cache_prefix", Value::Text),
    ("dump_subgraphs", Value::Switch),
    ("force_sequential_engine_build", Value::Switch),
    ("context_memory_sharing_enable", Value::Switch),
    ("layer_norm_fp32_fallback", Value::Switch),
    ("timing_cache_enable", Value::Switch),
    ("timing_cache_path", Value::Text),
    ("force_timing_cache", Value::Switch),
    ("detailed_build_log", Value::Switch),
    ("build_heuristics_enable", Value::Switch),
    ("sparsity_enable", Value::Switch),
    ("builder_optimization_level", Value::Number),
    ("auxiliary_streams", Value::Number),
    ("tactic_sources", Value::Text),
    ("extra_plugin_lib_paths", Value::Text),
    ("profile_min_shapes", Value::Text),
    ("profile_max_shapes", Value::Text),
    ("profile_opt_shapes", Value::Text),
    ("cuda_graph_enable", Value::Switch),
    ("dump_ep_context_model", Value::Switch),
    ("ep_context_file_path", Value::Text),
    ("ep_context_embed_mode", Value::Number),
    ("fp16_enable", Value::Switch),
    ("bf16_enable", Value::Switch),
    ("int8_enable", Value::Switch),
];

/// Options of TensorRT: Triton's own names, and those it hands on under ONNX Runtime's.
///
/// Errors: `InvalidArgument` for a name or a precision nobody knows, and for a value that is no switch or number.
pub(super) fn tensorrt_options(parameters: &BTreeMap<String, String>) -> Result<Options> {
    let mut options = Options::new();
    for (key, value) in parameters {
        let name = match key.as_str() {
            "precision_mode" => {
                let switch = match value.as_str() {
                    "FP32" => continue,
                    "FP16" => "trt_fp16_enable",
                    "BF16" => "trt_bf16_enable",
                    "INT8" => "trt_int8_enable",
                    _ => {
                        let text = format!("unsupported precision mode '{value}' is requested");
                        return Err(Error::invalid_argument(text));
                    }
                };
                options.insert(switch.to_owned(), "1".to_owned());
                continue;
            }
            "max_workspace_size_bytes" => "max_workspace_size",
            other => other.strip_prefix("trt_").unwrap_or(other),
        };
        let known = TENSORRT_OPTIONS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let text = format!("unknown parameter '{key}' is provided for TensorRT Execution Accelerator");
            Error::invalid_argument(text)
        })?;
        options.insert(format!("trt_{name}"), known.1.checked(key, value)?);
    }
    Ok(options)
}

/// Options of CUDA, by ONNX Runtime's names.
///
/// Errors: `InvalidArgument` for a value that is no switch, of those that Triton reads itself.
pub(super) fn cuda_options(parameters: &BTreeMap<String, String>) -> Result<Options> {
    let checked = |(key, value): (&String, &String)| {
        let kind = match key.as_str() {
            "do_copy_in_default_stream" | "use_ep_level_unified_stream" => Value::Switch,
            _ => Value::Text,
        };
        Ok((key.clone(), kind.checked(key, value)?))
    };
    parameters.iter().filter(|(_, value)| !value.is_empty()).map(checked).collect()
}

/// CUDA options that may stand among a model's `parameters`.
///
/// Errors: `InvalidArgument` for a number that stands for nothing.
pub(super) fn cuda_parameters(config: &ModelConfig) -> Result<Options> {
    let mut options = Options::new();
    for (key, words) in [
        ("cudnn_conv_algo_search", ["EXHAUSTIVE", "HEURISTIC", "DEFAULT"].as_slice()),
        ("arena_extend_strategy", &["kNextPowerOfTwo", "kSameAsRequested"]),
    ] {
        let Some(number) = integer(config, key)? else { continue };
        let unsupported = || Error::invalid_argument(format!("unsupported {key} value '{number}' is requested"));
        let word = usize::try_from(number).ok().and_then(|number| words.get(number)).ok_or_else(unsupported)?;
        options.insert(key.to_owned(), (*word).to_owned());
    }
    for (key, kind) in [("do_copy_in_default_stream", Value::Switch), ("gpu_mem_limit", Value::Number)] {
        let Some(parameter) = config.parameters.get(key) else { continue };
        options.insert(key.to_owned(), kind.checked(key, parameter.string_value.trim())?);
    }
    Ok(options)
}

impl Value {
    /// The value as every version of ONNX Runtime reads it.
    fn checked(self, key: &str, value: &str) -> Result<String> {
        let failed = |what: &str| Error::invalid_argument(format!("failed to convert '{value}' to {what} for '{key}'"));
        match self {
            Self::Text => Ok(value.to_owned()),
            Self::Switch => {
                let is_on = switch(value).ok_or_else(|| failed("boolean"))?;
                Ok(if is_on { "1" } else { "0" }.to_owned())
            }
            Self::Number => {
                value.parse::<i128>().map_err(|_| failed("integral number"))?;
                Ok(value.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[track_caller]
    fn check(result: Result<Options>, expect: std::result::Result<&[(&str, &str)], &str>) {
        let expect = expect.map(|pairs| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
        assert_eq!(result.map_err(|error| error.message.into_owned()), expect.map_err(str::to_owned));
    }

    #[test]
    fn every_option_of_tensorrt_has_the_name_that_onnx_runtime_reads() {
        for (name, kind) in TENSORRT_OPTIONS {
            let value = match kind {
                Value::Switch | Value::Number => "1",
                Value::Text => "text",
            };
            let full = format!("trt_{name}");
            check(tensorrt_options(&parameters(&[(&full, value)])), Ok(&[(&full, value)]));
        }
        let own = [("max_workspace_size_bytes", "1073741824"), ("int8_calibration_table_name", "table")];
        let expect = [("trt_int8_calibration_table_name", "table"), ("trt_max_workspace_size", "1073741824")];
        check(tensorrt_options(&parameters(&own)), Ok(&expect));
    }

    #[test]
    fn a_precision_is_a_switch() {
        let of = |mode: &str| tensorrt_options(&parameters(&[("precision_mode", mode)]));
        check(of("FP32"), Ok(&[]));
        check(of("FP16"), Ok(&[("trt_fp16_enable", "1")]));
        check(of("BF16"), Ok(&[("trt_bf16_enable", "1")]));
        check(of("INT8"), Ok(&[("trt_int8_enable", "1")]));
        check(of("FP8"), Err("unsupported precision mode 'FP8' is requested"));
    }

    #[test]
    fn switches_and_numbers_are_checked() {
        let of = |key: &str, value: &str| tensorrt_options(&parameters(&[(key, value)]));
        check(of("trt_engine_cache_enable", "true"), Ok(&[("trt_engine_cache_enable", "1")]));
        check(of("trt_engine_cache_enable", "Off"), Ok(&[("trt_engine_cache_enable", "0")]));
        let text = "failed to convert 'maybe' to boolean for 'trt_engine_cache_enable'";
        check(of("trt_engine_cache_enable", "maybe"), Err(text));
        let text = "failed to convert '1GB' to integral number for 'max_workspace_size_bytes'";
        check(of("max_workspace_size_bytes", "1GB"), Err(text));
        let of = |key: &str, value: &str| cuda_options(&parameters(&[(key, value)]));
        check(of("do_copy_in_default_stream", "true"), Ok(&[("do_copy_in_default_stream", "1")]));
        check(of("use_ep_level_unified_stream", ""), Ok(&[]));
        let text = "failed to convert 'yes' to boolean for 'use_ep_level_unified_stream'";
        check(of("use_ep_level_unified_stream", "yes"), Err(text));
        check(of("an_option_of_tomorrow", "7"), Ok(&[("an_option_of_tomorrow", "7")]));
    }
}
