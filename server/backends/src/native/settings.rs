//! Settings of the server and parameters of models, read in Triton's words.

use std::thread;

use server_core::{
    backend::Settings,
    config::ModelConfig,
    error::{Error, Result},
};

/// Most threads of one instance: a mistyped number must not exhaust the machine.
pub(crate) const MOST_THREADS: usize = 1024;

/// Threads this process may use: what the affinity mask and the control group leave of the machine.
pub(crate) fn usable_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A setting that is a number, `None` if it is not set. One below zero is zero, as in Triton.
///
/// Errors: `InvalidArgument` if it is not a number.
pub(crate) fn number(settings: &Settings, key: &str) -> Result<Option<usize>> {
    let Some(value) = settings.get(key) else { return Ok(None) };
    let number: i64 = value.trim().parse().map_err(|_| not_a_number(key, value))?;
    Ok(Some(usize::try_from(number).unwrap_or(0)))
}

/// A setting that switches something; off if it is not set.
///
/// Errors: `InvalidArgument` if it is no switch.
pub(crate) fn flag(settings: &Settings, key: &str) -> Result<bool> {
    settings.get(key).map_or(Ok(false), |value| switch(value.trim()).ok_or_else(|| not_a_switch(key, value)))
}

/// Whether a setting says yes.
pub(crate) fn is_on(value: &str) -> bool {
    switch(value).unwrap_or(false)
}

/// What a value that switches something says: Triton takes several words for it. `None` for any other text.
pub(crate) fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" => Some(true),
        "0" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// The error for a text that is no switch, in Triton's words and with what would be right.
pub(crate) fn not_a_switch(key: &str, value: &str) -> Error {
    Error::invalid_argument(format!("failed to convert '{value}' to boolean for '{key}', expected '0' or '1'"))
}

pub(crate) fn not_a_number(key: &str, value: &str) -> Error {
    Error::invalid_argument(format!("failed to convert '{value}' to integral number for '{key}'"))
}

/// A whole number among a model's parameters, `None` if it is not given.
///
/// Errors: `InvalidArgument` in Triton's words, with the name of the parameter.
pub(crate) fn integer(config: &ModelConfig, key: &str) -> Result<Option<i64>> {
    let Some(parameter) = config.parameters.get(key) else { return Ok(None) };
    let value = parameter.string_value.trim();
    value.parse().map(Some).map_err(|_| not_a_number(key, value))
}

/// Threads of one instance if all instances of the model run at once: more would only take turns.
pub(crate) fn share(threads: usize, config: &ModelConfig) -> usize {
    let instances: usize = config
        .instance_group
        .iter()
        .map(|group| usize::try_from(group.count).unwrap_or(1).max(1) * group.gpus.len().max(1))
        .sum();
    (threads / instances.max(1)).max(1)
}

/// The error for a value that is none of those expected.
pub(crate) fn wrong(key: &str, value: &str, expected: &str) -> Error {
    Error::invalid_argument(format!("unexpected value '{value}' of '{key}', expected {expected}"))
}

#[cfg(test)]
mod tests {
    use server_proto::inference::ModelInstanceGroup;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn instances_share_the_usable_threads() {
        let group = |count| ModelInstanceGroup { count, ..ModelInstanceGroup::default() };
        let config = ModelConfig { instance_group: vec![group(2), group(1)], ..ModelConfig::default() };
        assert_eq!((share(16, &config), share(2, &config)), (5, 1));
    }

    #[test]
    fn settings_of_the_server_are_read_in_the_same_words() {
        let flag = |value: &str| flag(&settings(&[("enable-global-threadpool", value)]), "enable-global-threadpool");
        assert_eq!((flag("1"), flag("True"), flag("off")), (Ok(true), Ok(true), Ok(false)));
        let text = "failed to convert 'yes' to boolean for 'enable-global-threadpool', expected '0' or '1'";
        assert_eq!(flag("yes"), Err(Error::invalid_argument(text)));
        assert_eq!(super::flag(&settings(&[]), "enable-global-threadpool"), Ok(false));
        let text = "failed to convert 'four' to integral number for 'default-max-batch-size'";
        let number = number(&settings(&[("default-max-batch-size", "four")]), "default-max-batch-size");
        assert_eq!(number, Err(Error::invalid_argument(text)));
    }
}
