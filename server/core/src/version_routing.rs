//! Which version runs a request that names none: by weights, by a canary mark, by the sequence it belongs to; and which versions
//! get a copy. What a model says of it stands in its configuration's `parameters`, for `config.pbtxt` has no field for it. Pure:
//! which versions are ready, how many requests came before and what time it is are told.

mod sequences;
mod split;

use std::time::Duration;

use server_proto::inference::model_config::SchedulingChoice;

use crate::{
    config::{ModelConfig, Problem},
    request::{InferRequest, Parameter},
};

pub use self::{sequences::SequenceVersions, split::Split};

/// Parameter: `VERSION:WEIGHT,...`, the split of requests that name no version, e.g. `1:90,2:10`.
pub const VERSION_WEIGHTS: &str = "version_weights";
/// Parameter: `VERSION:PERCENT,...`, versions that get a copy of so many of the requests that name no version.
pub const SHADOW_VERSIONS: &str = "shadow_versions";
/// Parameter: the version that runs marked requests.
pub const CANARY_VERSION: &str = "canary_version";
/// Parameter: name of the HTTP header, gRPC metadata or request parameter that marks a request; [`DEFAULT_CANARY_KEY`] without it.
pub const CANARY_KEY: &str = "canary_key";
/// Parameter: the value that marks a request; [`DEFAULT_CANARY_VALUE`] without it.
pub const CANARY_VALUE: &str = "canary_value";

/// All of these parameters: a model that serves follows their change without being loaded again.
pub const PARAMETERS: [&str; 5] = [VERSION_WEIGHTS, SHADOW_VERSIONS, CANARY_VERSION, CANARY_KEY, CANARY_VALUE];

/// Where in a configuration a parameter stands, as problems name it.
pub fn path(parameter: &str) -> String {
    format!("parameters[{parameter:?}]")
}

/// See [`CANARY_KEY`].
pub const DEFAULT_CANARY_KEY: &str = "canary";
/// See [`CANARY_VALUE`].
pub const DEFAULT_CANARY_VALUE: &str = "true";

/// Most versions that one parameter names.
const MAX_VERSIONS: usize = 64;
/// Largest weight, and largest sum of weights without their common divisor: the split repeats after so many requests.
const MAX_WEIGHT: u32 = 10_000;
/// Longest key and value of the canary mark, bytes.
const MAX_MARK: usize = 128;
/// Parameters of requests that have a meaning of their own.
const TAKEN_KEYS: [&str; 6] =
    ["sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"];

/// What the parameters of a configuration say about requests that name no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRouting {
    /// Version and weight, ascending; empty without weights.
    pub weights: Vec<(u64, u32)>,
    /// Version and percent of the requests, ascending.
    pub shadows: Vec<(u64, u32)>,
    /// Where marked requests go.
    pub canary: Option<Canary>,
}

/// Where marked requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// The version that runs them.
    pub version: u64,
    /// Name of the mark, in lower case.
    pub key: String,
    /// Value of the mark.
    pub value: String,
}

impl VersionRouting {
    /// Reads the parameters of a configuration; `None` if it has none of them.
    ///
    /// Errors: every problem, with its path, e.g. `parameters["version_weights"]`.
    pub fn of(config: &ModelConfig) -> Result<Option<Self>, Vec<Problem>> {
        let parameter = |key: &str| config.parameters.get(key).map(|parameter| parameter.string_value.as_str());
        if PARAMETERS.iter().all(|key| parameter(key).is_none()) {
            return Ok(None);
        }
        let mut problems = Vec::new();
        let mut add = |key: &str, what: String| {
            problems.push(Problem::new(path(key), format!("parameter '{key}' of model '{}' {what}", config.name)));
        };
        let weights = parameter(VERSION_WEIGHTS).map_or_else(Vec::new, |text| {
            pairs(text, 0, MAX_WEIGHT, "1:90,2:10")
                .and_then(|weights| check_sum(&weights).map(|()| weights))
                .unwrap_or_else(|what| {
                    add(VERSION_WEIGHTS, what);
                    Vec::new()
                })
        });
        let shadows = parameter(SHADOW_VERSIONS).map_or_else(Vec::new, |text| {
            pairs(text, 1, 100, "3:100").unwrap_or_else(|what| {
                add(SHADOW_VERSIONS, what);
                Vec::new()
            })
        });
        let key = parameter(CANARY_KEY).unwrap_or(DEFAULT_CANARY_KEY);
        if let Err(what) = check_key(key) {
            add(CANARY_KEY, what);
        }
        let value = parameter(CANARY_VALUE).unwrap_or(DEFAULT_CANARY_VALUE);
        if value.is_empty() || value.len() > MAX_MARK || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            add(CANARY_VALUE, format!("is '{value}': write 1 to {MAX_MARK} printable ASCII characters"));
        }
        let canary = match parameter(CANARY_VERSION) {
            Some(text) => match version(text) {
                Some(version) => Some(Canary { version, key: key.to_owned(), value: value.to_owned() }),
                None => {
                    add(CANARY_VERSION, format!("is '{text}': write the number of one version, such as 2"));
                    None
                }
            },
            None => {
                for key in [CANARY_KEY, CANARY_VALUE].into_iter().filter(|key| parameter(key).is_some()) {
                    add(key, format!("has no effect without '{CANARY_VERSION}': set that, or remove it"));
                }
                None
            }
        };
        if problems.is_empty() { Ok(Some(Self { weights, shadows, canary })) } else { Err(problems) }
    }

    /// What is wrong where `wanted` are the versions that the version policy picks from `folders`.
    pub fn problems_with(&self, model: &str, wanted: &[u64], folders: &[u64]) -> Vec<Problem> {
        let named = |key: &'static str, pairs: &[(u64, u32)]| -> Vec<_> {
            pairs.iter().map(|(version, _)| (key, *version)).collect()
        };
        let canary = self.canary.iter().map(|canary| (CANARY_VERSION, canary.version));
        let all = [named(VERSION_WEIGHTS, &self.weights), named(SHADOW_VERSIONS, &self.shadows)].concat();
        let missing = all.into_iter().chain(canary).filter(|(_, version)| !wanted.contains(version));
        missing
            .map(|(key, version)| {
                let why = if folders.contains(&version) {
                    let mut all = [wanted, &[version]].concat();
                    all.sort_unstable();
                    let all: Vec<_> = all.iter().map(u64::to_string).collect();
                    format!(
                        "which the version policy does not load: set version_policy {{ specific {{ versions: [ {} ] }} }}",
                        all.join(", ")
                    )
                } else {
                    format!("which has no folder: add '{version}' to the model's folder, or remove it here")
                };
                let message = format!("parameter '{key}' of model '{model}' names version {version}, {why}");
                Problem::new(path(key), message)
            })
            .collect()
    }

    /// Whether the request carries the mark of the canary version.
    pub fn is_marked(&self, request: &InferRequest) -> bool {
        let Some(canary) = &self.canary else { return false };
        let mark = request.parameters.iter().find(|(key, _)| *key == canary.key);
        mark.is_some_and(|(_, value)| match value {
            Parameter::String(text) => *text == canary.value,
            Parameter::Bool(value) => value.to_string() == canary.value,
            Parameter::Int(number) => number.to_string() == canary.value,
            Parameter::Uint(number) => number.to_string() == canary.value,
            Parameter::Double(_) => false,
        })
    }

    /// Weights of the `ready` versions (ascending), each with its place in `ready`. Without weights, and where no version that has
    /// one is ready, all of it goes to the highest version that is neither canary nor shadow. Empty if there is none.
    pub fn shares(&self, ready: &[u64]) -> Vec<(usize, u32)> {
        let place = |version: u64| ready.iter().position(|&other| other == version);
        let weighted = self.weights.iter().filter(|(_, weight)| *weight > 0);
        let shares: Vec<_> = weighted.filter_map(|&(version, weight)| Some((place(version)?, weight))).collect();
        if !shares.is_empty() {
            return shares;
        }
        let has_other_use = |version: u64| {
            self.canary.as_ref().is_some_and(|canary| canary.version == version)
                || self.shadows.iter().any(|(shadow, _)| *shadow == version)
        };
        ready.iter().rposition(|&version| !has_other_use(version)).map(|place| (place, 1)).into_iter().collect()
    }
}

/// How long a sequence of the model may be idle before nobody remembers it.
///
/// Source: Triton model configuration, `max_sequence_idle_microseconds`; a minute for models that have no sequences.
pub fn sequence_idle(config: &ModelConfig) -> Duration {
    match &config.scheduling_choice {
        Some(SchedulingChoice::SequenceBatching(batching)) => {
            Duration::from_micros(batching.max_sequence_idle_microseconds)
        }
        _ => Duration::from_secs(60),
    }
}

/// `A:B` pairs by version, each version once.
///
/// Errors: what is wrong, as the end of a sentence.
fn pairs(text: &str, min: u32, max: u32, example: &str) -> Result<Vec<(u64, u32)>, String> {
    let form = || {
        format!(
            "is '{text}': write VERSION:NUMBER pairs separated by commas, such as {example}, with numbers from {min} to {max}"
        )
    };
    let mut pairs = Vec::new();
    for pair in text.split(',') {
        let (left, right) = pair.split_once(':').ok_or_else(form)?;
        let version = version(left.trim()).ok_or_else(form)?;
        let number = right.trim().parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(form)?;
        if pairs.iter().any(|(other, _)| *other == version) {
            return Err(format!("names version {version} twice: name each version once"));
        }
        pairs.push((version, number));
    }
    if pairs.len() > MAX_VERSIONS {
        return Err(format!("names {} versions: name at most {MAX_VERSIONS}", pairs.len()));
    }
    pairs.sort_unstable();
    Ok(pairs)
}

fn check_sum(weights: &[(u64, u32)]) -> Result<(), String> {
    let weights: Vec<u32> = weights.iter().map(|(_, weight)| *weight).collect();
    match split::period(&weights) {
        0 => Err("gives every version weight 0: give at least one more".into()),
        period if period > u64::from(MAX_WEIGHT) => Err(format!(
            "has weights that add up to {period} without their common divisor, the most is {MAX_WEIGHT}: round them"
        )),
        _ => Ok(()),
    }
}

fn version(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse::<i64>().ok().filter(|_| is_number).map(i64::cast_unsigned)
}

/// A key is a header, metadata and a parameter at once.
fn check_key(key: &str) -> Result<(), String> {
    let is_plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    if key.is_empty() || key.len() > MAX_MARK || !is_plain {
        return Err(format!("is '{key}': write 1 to {MAX_MARK} lower-case letters, digits, '-' and '_'"));
    }
    if TAKEN_KEYS.contains(&key) || key.starts_with("triton_") || key.starts_with("grpc-") || key.ends_with("-bin") {
        return Err(format!("is '{key}', which has a meaning of its own in requests: choose another"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
