//! Settings of `--backend-config=python,KEY=VALUE`.

use std::time::Duration;

use server_core::{
    backend::Settings,
    config::ModelConfig,
    error::{Error, Result},
};

/// What the settings say, read when the first model is opened.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// What segments are called in `/proc`.
    pub(super) prefix: String,
    /// Bytes of the smallest segment of a worker.
    pub(super) smallest: usize,
    /// Larger ones are multiples of so many bytes.
    pub(super) step: usize,
    /// Bytes of all segments that the server makes for inputs; 0 is no limit.
    pub(super) total: usize,
    /// How long segments that nobody uses are kept, by the server for inputs and by workers for outputs.
    pub(super) idle_for: Duration,
}

/// Which part of its memory the server may use for inputs of Python models, if no setting says.
const SHARE_OF_MEMORY: u64 = 2;

/// `shm-region-prefix-name`, `shm-default-byte-size`, `shm-growth-byte-size`; `shm-max-byte-size` and `shm-idle-seconds` are
/// additions.
///
/// Errors: a size that is no number of bytes, or a prefix that cannot be part of a name.
/// Source: Triton Python backend, "Shared Memory"; its defaults.
pub(super) fn memory(settings: &Settings) -> Result<Memory> {
    let prefix = settings.get("shm-region-prefix-name").map_or("triton_python_backend_shm_region_", String::as_str);
    if prefix.contains('\0') || prefix.len() > 200 {
        return Err(Error::invalid_argument("'shm-region-prefix-name' must have 200 bytes at most"));
    }
    Ok(Memory {
        prefix: prefix.to_owned(),
        smallest: bytes(settings, "shm-default-byte-size", || 1 << 20)?,
        step: bytes(settings, "shm-growth-byte-size", || 1 << 20)?,
        total: bytes(settings, "shm-max-byte-size", || {
            let share = server_shm::available_memory().unwrap_or(0) / SHARE_OF_MEMORY;
            usize::try_from(share).unwrap_or(usize::MAX)
        })?,
        idle_for: Duration::from_secs(number(settings, "shm-idle-seconds", "seconds", || 10)? as u64),
    })
}

/// `thread-pool-size`: how many calls to other models an instance may have under way.
///
/// Errors: it is no number from 1 to 256.
/// Source: Triton Python backend, "Python Backend Settings"; its default.
pub(super) fn calls(settings: &Settings) -> Result<u64> {
    let Some(value) = settings.get("thread-pool-size") else { return Ok(32) };
    value.trim().parse().ok().filter(|calls| (1..=256).contains(calls)).ok_or_else(|| {
        Error::invalid_argument(format!(
            "--backend-config=python,thread-pool-size must be a number from 1 to 256, not '{value}'"
        ))
    })
}

/// `extension`: whether workers load the extension module, and exchange messages with the server in shared memory.
///
/// Errors: it is neither `true` nor `false`.
pub(super) fn has_extension(settings: &Settings) -> Result<bool> {
    match settings.get("extension").map_or("true", String::as_str) {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Error::invalid_argument(format!(
            "--backend-config=python,extension must be 'true' or 'false', not '{other}'"
        ))),
    }
}

/// The parameter `FORCE_CPU_ONLY_INPUT_TENSORS` of a model. Inputs lie in host memory in any case, so it is only checked.
///
/// Errors: `Unsupported` for a value that Triton refuses, in its words.
pub(super) fn check_input_placement(config: &ModelConfig) -> Result<()> {
    match config.parameters.get("FORCE_CPU_ONLY_INPUT_TENSORS").map(|value| value.string_value.as_str()) {
        None | Some("yes" | "no") => Ok(()),
        Some(other) => Err(Error::unsupported(format!("Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: {other}'"))),
    }
}

/// Settings that the backend knows.
const KNOWN: &[&str] = &[
    "executable",
    "cache-directory",
    "requirements",
    "requirements-timeout-seconds",
    "thread-pool-size",
    "stub-timeout-seconds",
    "memory-limit-mb",
    "reload",
    "extension",
    "shm-region-prefix-name",
    "shm-default-byte-size",
    "shm-growth-byte-size",
    "shm-max-byte-size",
    "shm-idle-seconds",
];

/// Settings that are Triton's and have no meaning here, or are for all backends.
const WITHOUT_EFFECT: &[&str] = &[
    "shm_message_queue_size",
    "backend-directory",
    "default-max-batch-size",
    "min-compute-capability",
    "cmdline-version",
];

/// Settings that the backend does not know, such as misspelt ones.
pub(super) fn unknown(settings: &Settings) -> Vec<&str> {
    let is_known = |key: &&str| KNOWN.contains(key) || WITHOUT_EFFECT.contains(key);
    settings.keys().map(String::as_str).filter(|key| !is_known(key)).collect()
}

fn bytes(settings: &Settings, key: &str, default: impl FnOnce() -> usize) -> Result<usize> {
    number(settings, key, "bytes", default)
}

fn number(settings: &Settings, key: &str, unit: &str, default: impl FnOnce() -> usize) -> Result<usize> {
    let Some(value) = settings.get(key) else { return Ok(default()) };
    value.trim().parse().ok().filter(|bytes| *bytes > 0).ok_or_else(|| {
        Error::invalid_argument(format!("--backend-config=python,{key} must be a number of {unit}, not '{value}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_misspelt_is_noticed() {
        let settings = ["stub-timeout-seconds", "stub-timeout-second", "shm_message_queue_size", "reload"];
        let settings: Settings = settings.into_iter().map(|key| (key.into(), "1".into())).collect();
        assert_eq!(unknown(&settings), ["stub-timeout-second"]);
    }
}
