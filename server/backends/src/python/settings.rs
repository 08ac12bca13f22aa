//! Settings of `--backend-config=python,KEY=VALUE`.

use server_core::{
    backend::Settings,
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
}

/// `shm-region-prefix-name`, `shm-default-byte-size`, `shm-growth-byte-size`.
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
        smallest: bytes(settings, "shm-default-byte-size")?,
        step: bytes(settings, "shm-growth-byte-size")?,
    })
}

fn bytes(settings: &Settings, key: &str) -> Result<usize> {
    let Some(value) = settings.get(key) else { return Ok(1 << 20) };
    value.trim().parse().ok().filter(|bytes| *bytes > 0).ok_or_else(|| {
        Error::invalid_argument(format!("--backend-config=python,{key} must be a number of bytes, not '{value}'"))
    })
}
