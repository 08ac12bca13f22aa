//! What the command line says of the response cache, read into what can be made of it. Pure.
//!
//! Source: Triton's caches `local` and `redis`, whose words these are where they have any.

use server_core::error::{Error, Result};

/// `--cache-config`: one cache and its settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// Which kind of cache.
    pub name: String,
    /// Its settings, in the order given; the last of two counts.
    pub settings: Vec<(String, String)>,
}

/// Settings of a cache that can be made.
#[derive(Debug, PartialEq)]
pub(super) enum Settings {
    /// In the server's own memory.
    Local {
        /// Most bytes of all entries together.
        size: usize,
    },
}

/// Fewer bytes hold no entry.
const LEAST_SIZE: usize = 128;

/// Reads the settings.
///
/// Errors: there is no such cache, a setting is missing or wrong.
pub(super) fn read(config: &CacheConfig) -> Result<Settings> {
    match config.name.as_str() {
        "local" => local(config),
        other => Err(Error::invalid_argument(format!(
            "unable to find 'libtritoncache_{other}.so' for cache: the caches of this server are built in, and there is \
             'local'"
        ))),
    }
}

fn setting<'a>(config: &'a CacheConfig, key: &str) -> Option<&'a str> {
    config.settings.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// Settings that nobody knows are ignored, as Triton ignores them, and named.
fn warn_of_unknown(config: &CacheConfig, known: &[&str]) {
    for (key, _) in config.settings.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        tracing::warn!("the response cache '{}' has no setting '{key}': it is ignored", config.name);
    }
}

fn local(config: &CacheConfig) -> Result<Settings> {
    let failed = |why: String| Error::internal(format!("Failed to initialize LocalCache: {why}"));
    warn_of_unknown(config, &["size"]);
    let size = setting(config, "size").ok_or_else(|| {
        Error::invalid_argument("Failed to initialize LocalCache: config didn't contain a valid 'size' field.")
    })?;
    let bytes: usize =
        size.trim().parse().map_err(|_| failed(format!("'size' must be a number of bytes, got '{size}'")))?;
    if bytes < LEAST_SIZE {
        return Err(failed(format!("a 'size' of {bytes} bytes holds nothing: at least {LEAST_SIZE} are needed")));
    }
    Ok(Settings::Local { size: bytes })
}

#[cfg(test)]
mod tests {
    use server_core::error::Code;

    use super::*;

    fn config(name: &str, settings: &[(&str, &str)]) -> CacheConfig {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        CacheConfig { name: name.into(), settings }
    }

    #[track_caller]
    fn refuses(name: &str, settings: &[(&str, &str)], code: Code, expect: &str) {
        let error = read(&config(name, settings)).unwrap_err();
        assert_eq!((error.code, error.message.contains(expect)), (code, true), "{error}");
    }

    #[test]
    fn a_local_cache_has_a_size() {
        let of = |size| read(&config("local", &[("size", "1"), ("size", size), ("other", "x")])).unwrap();
        assert_eq!(of("1048576"), Settings::Local { size: 1 << 20 });
        assert_eq!(of("128"), Settings::Local { size: 128 });
        let missing = "Failed to initialize LocalCache: config didn't contain a valid 'size' field.";
        refuses("local", &[("foo", "1")], Code::InvalidArgument, missing);
        for size in ["abc", "-1", "1e6", "99999999999999999999999", "1.5"] {
            refuses("local", &[("size", size)], Code::Internal, "Failed to initialize LocalCache: 'size' must be");
        }
        for size in ["0", "127"] {
            refuses("local", &[("size", size)], Code::Internal, "Failed to initialize LocalCache: a 'size' of");
        }
    }

    #[test]
    fn a_cache_that_does_not_exist_is_named() {
        refuses("nope", &[("a", "b")], Code::InvalidArgument, "unable to find 'libtritoncache_nope.so' for cache");
    }
}
