//! The newest folder of a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Weak},
};

use tempfile::TempDir;

use crate::listing::Identity;

/// The newest folder of a model.
pub(crate) struct Latest {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) files: BTreeMap<PathBuf, Identity>,
    pub(crate) folders: BTreeSet<String>,
    /// The one before, as long as somebody has it open.
    pub(crate) before: Weak<TempDir>,
}
