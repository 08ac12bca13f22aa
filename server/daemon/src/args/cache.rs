//! Flags of the response cache, the older one and the newer.

use std::collections::BTreeMap;

use super::{error::ArgsError, setting::CacheSetting};

/// The response cache.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CacheArgs {
    /// `--cache-config`, in the order given.
    pub(crate) settings: Vec<CacheSetting>,
    /// `--response-cache-byte-size`, its older name.
    pub(crate) byte_size: Option<u64>,
    /// `--cache-directory`.
    pub(crate) directory: String,
}

impl CacheArgs {
    /// The caches that are asked for, each with its settings, by name. Several are one too many, which is not the line's to
    /// say.
    pub(crate) fn configs(&self) -> Result<BTreeMap<String, Vec<(String, String)>>, ArgsError> {
        let mut configs: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for CacheSetting(text) in &self.settings {
            let named = text.split_once(',').filter(|(name, _)| !name.is_empty());
            let (name, setting) = named.ok_or_else(|| ArgsError::NoCacheNamed(text.clone()))?;
            let pair = setting.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty());
            let (key, value) = pair.ok_or_else(|| ArgsError::CacheSetting(text.clone()))?;
            configs.entry(name.to_owned()).or_default().push((key.to_owned(), value.to_owned()));
        }
        match self.byte_size {
            Some(_) if !configs.is_empty() => return Err(ArgsError::TwoCacheFlags),
            None | Some(0) => {}
            Some(bytes) => {
                configs.insert("local".into(), vec![("size".into(), bytes.to_string())]);
            }
        }
        Ok(configs)
    }
}
