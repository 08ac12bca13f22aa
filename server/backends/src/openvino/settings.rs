//! The parameters of a model. Pure: read and checked when the model is loaded.
//!
//! Source: OpenVINO backend of Triton, "Parameters"; `INFERENCE_PRECISION_HINT` is ours, and OpenVINO's name for it.

use std::path::PathBuf;

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
};
use server_proto::inference::model_instance_group::Kind;

/// Parameters of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ModelSettings {
    /// OpenVINO's name of the device.
    pub(super) device: String,
    /// A library with operations.
    pub(super) extension: Option<PathBuf>,
    /// Properties of the compiled model: names and values in OpenVINO's words.
    pub(super) properties: Vec<(&'static str, String)>,
    /// The model runs batches of `max_batch_size` alone.
    pub(super) has_fixed_batch: bool,
    /// Smaller batches are filled up with zeros where the model runs one size alone.
    pub(super) pads_batches: bool,
    /// Inputs of the model take the dims of the configuration.
    pub(super) reshapes_inputs: bool,
}

/// Threads that may be used: those that the process may run on, and those that its control group grants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Threads {
    pub(super) on_processors: usize,
    pub(super) granted: usize,
}

impl ModelSettings {
    /// Those of a configuration.
    ///
    /// Errors: `InvalidArgument` in Triton's words, with the name of the parameter.
    pub(super) fn read(config: &ModelConfig, threads: Threads) -> Result<Self> {
        let text = |key: &str| {
            let value = config.parameters.get(key).map(|parameter| parameter.string_value.trim());
            value.filter(|value| !value.is_empty())
        };
        let is_yes = |key: &str| text(key).is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        let mut settings = Self {
            device: text("TARGET_DEVICE").unwrap_or("CPU").to_ascii_uppercase(),
            extension: text("CPU_EXTENSION_PATH").map(PathBuf::from),
            properties: Vec::new(),
            has_fixed_batch: is_yes("SKIP_OV_DYNAMIC_BATCHSIZE"),
            pads_batches: is_yes("ENABLE_BATCH_PADDING"),
            reshapes_inputs: is_yes("RESHAPE_IO_LAYERS"),
        };
        for key in ["INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"] {
            if let Some(value) = text(key) {
                settings
                    .properties
                    .push((key, count(value).ok_or_else(|| wrong(key, "a non-negative number", value))?));
            }
        }
        let mut precision = None;
        if let Some(value) = text("HINT_BF16") {
            if !value.eq_ignore_ascii_case("yes") {
                return Err(wrong("HINT_BF16", "YES", value));
            }
            precision = Some("bf16".to_owned());
        }
        if let Some(value) = text("INFERENCE_PRECISION_HINT") {
            let word = value.to_ascii_lowercase();
            if !["f32", "f16", "bf16"].contains(&word.as_str()) {
                return Err(wrong("INFERENCE_PRECISION_HINT", "F32/F16/BF16", value));
            }
            precision = Some(word);
        }
        settings.properties.extend(precision.map(|precision| ("INFERENCE_PRECISION_HINT", precision)));
        if let Some(value) = text("NUM_STREAMS") {
            let word = value.to_ascii_uppercase();
            let streams = Some(word).filter(|word| word == "AUTO" || word == "NUMA").or_else(|| count(value));
            let streams = streams.ok_or_else(|| wrong("NUM_STREAMS", "either AUTO/NUMA/<int_value>", value))?;
            settings.properties.push(("NUM_STREAMS", streams));
        }
        if let Some(value) = text("PERFORMANCE_HINT") {
            let word = value.to_ascii_uppercase();
            if !["LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"].contains(&word.as_str()) {
                return Err(wrong("PERFORMANCE_HINT", "LATENCY/THROUGHPUT/CUMULATIVE_THROUGHPUT", value));
            }
            settings.properties.push(("PERFORMANCE_HINT", word));
        }
        settings.add_defaults(config, threads);
        Ok(settings)
    }

    /// As many streams as instances, for instances of one stream run in turn; and no more threads than are granted, of which
    /// OpenVINO does not know.
    fn add_defaults(&mut self, config: &ModelConfig, threads: Threads) {
        if self.device != "CPU" {
            return;
        }
        let has = |settings: &Self, key: &str| settings.properties.iter().any(|(name, _)| *name == key);
        let groups = config.instance_group.iter().filter(|group| group.kind() == Kind::Cpu);
        let instances: usize = groups.map(|group| usize::try_from(group.count).unwrap_or(1).max(1)).sum();
        let streams = instances.min(threads.granted);
        if streams > 1 && !has(self, "NUM_STREAMS") && !has(self, "PERFORMANCE_HINT") {
            self.properties.push(("NUM_STREAMS", streams.to_string()));
        }
        if threads.granted < threads.on_processors && !has(self, "INFERENCE_NUM_THREADS") {
            self.properties.push(("INFERENCE_NUM_THREADS", threads.granted.to_string()));
        }
    }
}

/// A number of threads or streams, as OpenVINO takes it; more than [`i32::MAX`] is none.
fn count(value: &str) -> Option<String> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse::<i32>().ok().filter(|_| is_number).map(|count| count.to_string())
}

fn wrong(key: &str, expected: &str, value: &str) -> Error {
    Error::invalid_argument(format!(
        "expected the parameter '{key}' to be {expected}, got {}",
        value.to_ascii_lowercase()
    ))
}

#[cfg(test)]
mod tests {
    use server_proto::inference::{ModelInstanceGroup, ModelParameter};

    use super::*;

    const ALL: Threads = Threads { on_processors: 8, granted: 8 };

    fn config(parameters: &[(&str, &str)]) -> ModelConfig {
        let parameter =
            |(key, value): &(&str, &str)| ((*key).to_owned(), ModelParameter { string_value: (*value).to_owned() });
        ModelConfig { parameters: parameters.iter().map(parameter).collect(), ..ModelConfig::default() }
    }

    #[test]
    fn parameters_are_read_in_tritons_words() {
        let settings = ModelSettings::read(
            &config(&[
                ("INFERENCE_NUM_THREADS", "3"),
                ("COMPILATION_NUM_THREADS", "2"),
                ("HINT_BF16", "yes"),
                ("NUM_STREAMS", "auto"),
                ("PERFORMANCE_HINT", "throughput"),
                ("SKIP_OV_DYNAMIC_BATCHSIZE", "YES"),
                ("ENABLE_BATCH_PADDING", "Yes"),
                ("RESHAPE_IO_LAYERS", "no"),
                ("CPU_EXTENSION_PATH", "/x/libx.so"),
            ]),
            ALL,
        );
        let properties = [
            ("INFERENCE_NUM_THREADS", "3"),
            ("COMPILATION_NUM_THREADS", "2"),
            ("INFERENCE_PRECISION_HINT", "bf16"),
            ("NUM_STREAMS", "AUTO"),
            ("PERFORMANCE_HINT", "THROUGHPUT"),
        ];
        let expect = ModelSettings {
            device: "CPU".into(),
            extension: Some("/x/libx.so".into()),
            properties: properties.map(|(key, value)| (key, value.to_owned())).into(),
            has_fixed_batch: true,
            pads_batches: true,
            reshapes_inputs: false,
        };
        assert_eq!(settings, Ok(expect));
    }

    #[test]
    fn the_precision_that_is_named_stands_before_the_hint() {
        let read = |parameters: &[(&str, &str)]| ModelSettings::read(&config(parameters), ALL).unwrap().properties;
        let expect = [("INFERENCE_PRECISION_HINT", "f32".to_owned())];
        assert_eq!(read(&[("INFERENCE_PRECISION_HINT", "F32")]), expect);
        assert_eq!(read(&[("INFERENCE_PRECISION_HINT", "f32"), ("HINT_BF16", "YES")]), expect);
    }

    #[test]
    fn what_is_no_value_of_a_parameter_is_refused_with_what_would_be() {
        for (key, value, expected) in [
            ("INFERENCE_NUM_THREADS", "-1", "a non-negative number, got -1"),
            ("COMPILATION_NUM_THREADS", "99999999999", "a non-negative number, got 99999999999"),
            ("HINT_BF16", "NO", "YES, got no"),
            ("NUM_STREAMS", "many", "either AUTO/NUMA/<int_value>, got many"),
            ("PERFORMANCE_HINT", "fast", "LATENCY/THROUGHPUT/CUMULATIVE_THROUGHPUT, got fast"),
            ("INFERENCE_PRECISION_HINT", "int8", "F32/F16/BF16, got int8"),
        ] {
            let text = format!("expected the parameter '{key}' to be {expected}");
            assert_eq!(ModelSettings::read(&config(&[(key, value)]), ALL), Err(Error::invalid_argument(text)));
        }
    }

    #[test]
    fn instances_have_a_stream_each_and_no_more_threads_than_granted() {
        let read = |count: i32, parameters: &[(&str, &str)], granted: usize| {
            let mut group = ModelInstanceGroup { count, ..ModelInstanceGroup::default() };
            group.set_kind(Kind::Cpu);
            let config = ModelConfig { instance_group: vec![group], ..config(parameters) };
            let threads = Threads { on_processors: 8, granted };
            ModelSettings::read(&config, threads).unwrap().properties
        };
        assert_eq!(read(1, &[], 8), []);
        assert_eq!(read(3, &[], 8), [("NUM_STREAMS", "3".to_owned())]);
        assert_eq!(read(30, &[], 8), [("NUM_STREAMS", "8".to_owned())]);
        assert_eq!(read(3, &[("NUM_STREAMS", "1")], 8), [("NUM_STREAMS", "1".to_owned())]);
        assert_eq!(read(3, &[("PERFORMANCE_HINT", "LATENCY")], 8), [("PERFORMANCE_HINT", "LATENCY".to_owned())]);
        assert_eq!(read(1, &[], 2), [("INFERENCE_NUM_THREADS", "2".to_owned())]);
    }
}
