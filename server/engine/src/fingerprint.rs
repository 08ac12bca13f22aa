//! What a model version was made from, so that a later load can tell what has changed of it and what has not.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use server_core::{
    config::{self, ModelConfig},
    repository::{layout, plan::Change},
};

use crate::{
    repository::ModelFolder,
    stamp::{Stamp, is_ignored},
};

/// What one version was made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fingerprint {
    /// The configuration as its author wrote it.
    written: ModelConfig,
    /// It came with a load request, and is not that of the folder.
    is_config_given: bool,
    files: Option<Files>,
}

/// What of a model came with a load request and stands in for what its folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// The configuration.
    Config,
    /// The configuration and the files.
    Files,
}

/// Files that one version was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    /// What the place of the model is called.
    origin: String,
    version: Stamp,
    labels: Stamp,
    /// Beside the version folders: initial states, warm-up data, libraries.
    shared: Stamp,
}

impl Fingerprint {
    /// What of it came with a load request, if anything did.
    pub(crate) const fn given(&self) -> Option<Override> {
        match (&self.files, self.is_config_given) {
            (None, _) => Some(Override::Files),
            (Some(_), true) => Some(Override::Config),
            (Some(_), false) => None,
        }
    }

    /// What has changed since, where `self` serves and `now` lies in the folder. Files that came with a load request
    /// compare with nothing: they are always new.
    pub(crate) fn change_to(&self, now: &Self) -> Change {
        let (Some(files), Some(files_now)) = (&self.files, &now.files) else { return Change::Model };
        if files.origin != files_now.origin
            || files.version != files_now.version
            || files.shared != files_now.shared
            || config::without_settings(&self.written) != config::without_settings(&now.written)
        {
            return Change::Model;
        }
        let is_same = files.labels == files_now.labels && self.written == now.written && self.given() == now.given();
        if is_same { Change::Nothing } else { Change::Settings }
    }
}

/// The files of a model's folder, sorted by whom they concern.
#[derive(Debug, Default)]
pub(crate) struct FolderFiles {
    origin: String,
    versions: BTreeMap<u64, Stamp>,
    labels: Stamp,
    shared: Stamp,
}

impl FolderFiles {
    /// Looks at every file of the folder. The configuration's own files are left out: their content is compared.
    pub(crate) fn of(folder: &ModelFolder, config: &ModelConfig) -> Self {
        let model_dir = folder.path();
        let labels: BTreeSet<PathBuf> =
            config.output.iter().map(|output| output.label_filename.clone().into()).collect();
        let mut files = Self { origin: folder.origin().to_owned(), ..Self::default() };
        for (path, entry) in Stamp::of(model_dir).into_entries() {
            let Ok(inside) = path.strip_prefix(model_dir) else { continue };
            let top = inside.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
            if inside == Path::new("config.pbtxt") || top == "configs" || is_ignored(inside) {
                continue;
            }
            let part = match layout::classify([top]).versions.first() {
                Some(&version) => files.versions.entry(version).or_default(),
                None if labels.contains(inside) => &mut files.labels,
                None => &mut files.shared,
            };
            part.insert(inside.to_owned(), entry);
        }
        files
    }

    /// The fingerprint of one version; `is_config_given`: its configuration came with a load request.
    pub(crate) fn fingerprint(&self, version: u64, written: &ModelConfig, is_config_given: bool) -> Fingerprint {
        Fingerprint {
            written: written.clone(),
            is_config_given,
            files: Some(Files {
                origin: self.origin.clone(),
                version: self.versions.get(&version).cloned().unwrap_or_default(),
                labels: self.labels.clone(),
                shared: self.shared.clone(),
            }),
        }
    }
}

/// The fingerprint of a version whose files came with the load request.
pub(crate) fn of_given_files(written: &ModelConfig) -> Fingerprint {
    Fingerprint { written: written.clone(), is_config_given: true, files: None }
}
