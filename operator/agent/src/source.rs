//! Where the files of a model come from: one file per kind of source, all with the same result. What they share is in
//! `places.rs` (where mounted sources lie, and what may be used) and `progress.rs` (what a fetch may cost, and who gets its progress).

pub(crate) mod ask;
pub mod client;
pub mod configmap;
pub mod digest;
pub mod download;
pub mod folder;
pub mod guard;
pub mod http;
pub mod hugging_face;
pub mod inline;
pub(crate) mod objects;
pub mod oci;
pub(crate) mod places;
pub(crate) mod progress;
pub mod pvc;
pub(crate) mod tar_stream;
pub mod unpack;
#[cfg(test)]
pub(crate) mod web;

use std::{path::Path, sync::Arc};

use operator_core::manifest::{ManifestModel, ManifestSource};

pub use self::{
    guard::AddressRule,
    places::{Mounts, Places, Ruled},
    progress::{Fetched, Limits, Progress, Stage},
};
use crate::{fault::Fault, files::blocking};

/// Brings the files of a model into `into`, which exists and is empty; `beside` is a free path on the same disk.
///
/// Errors: `AccessDenied`, `SourceNotFound`, `CredentialsMissing`, `AddressRefused`, `DownloadFailed`, `ChecksumMismatch`, `InvalidSource`, `StoreFailed`.
pub async fn fetch(
    model: &ManifestModel,
    into: &Path,
    beside: &Path,
    places: &Places,
    progress: &Arc<Progress>,
) -> Result<Fetched, Fault> {
    places.check_access(&model.source)?;
    let checksum = model.checksum.as_deref();
    let fetched = match &model.source {
        // the checksum of a download is checked before anything is unpacked from it
        ManifestSource::Http { uri, secret } => {
            let credentials =
                secret.as_deref().map(|name| http::Credentials::read(&places.secrets, name)).transpose()?;
            let source = http::HttpSource { uri, credentials, checksum, layout: model.layout };
            return source.fetch(places.address_rule(), into, beside, progress).await;
        }
        ManifestSource::Inline { files } => {
            let (files, into, progress) = (files.clone(), into.to_owned(), Arc::clone(progress));
            blocking(move || inline::fetch(&files, &into, &progress)).await?
        }
        ManifestSource::ConfigMap { name, items, keys } => {
            let (name, items, keys, mounts) = (name.clone(), items.clone(), keys.clone(), places.config_maps.clone());
            let (into, progress) = (into.to_owned(), Arc::clone(progress));
            blocking(move || {
                let origin = match &keys {
                    Some(keys) => configmap::Origin::Carried(keys),
                    None => configmap::Origin::mounted(&mounts, &name)?,
                };
                configmap::fetch(&origin, &name, &items, &into, &progress)
            })
            .await?
        }
        ManifestSource::Pvc { claim, path } => {
            let (claim, path, mounts) = (claim.clone(), path.clone(), places.volumes.clone());
            let (into, progress) = (into.to_owned(), Arc::clone(progress));
            blocking(move || pvc::fetch(&mounts, &claim, &path, &into, &progress)).await?
        }
        ManifestSource::S3 { .. } | ManifestSource::Gcs { .. } | ManifestSource::Azure { .. } => {
            let Some(source) = objects::ObjectSource::of(&model.source) else { unreachable!("one of these") };
            let form = (checksum, model.layout);
            source.fetch(places.address_rule(), &places.secrets, form, into, beside, progress).await?
        }
        ManifestSource::HuggingFace { repo, revision, include, endpoint, secret } => {
            let hub = hugging_face::HuggingFace { endpoint, repo, revision, include, secret: secret.as_deref() };
            hub.fetch(places.address_rule(), &places.secrets, into, progress).await?
        }
        ManifestSource::Oci { reference, secret, plain_http } => {
            let oci = oci::Oci { reference, secret: secret.as_deref(), plain_http: *plain_http };
            oci.fetch(places.address_rule(), &places.secrets, into, beside, progress).await?
        }
    };
    progress.verifying();
    if let Some(expected) = checksum {
        crate::verify::check(expected, &fetched.hash)?;
    }
    Ok(fetched)
}

/// What the source is now, for those that may change without the manifest saying so and are large enough to be spared
/// another copy: a text that differs when they do.
pub async fn revision(model: &ManifestModel, places: &Places) -> Option<String> {
    let ManifestSource::Pvc { claim, path } = &model.source else { return None };
    let place = places.volumes.find(claim)?.join(path);
    blocking(move || folder::revision(&place)).await.ok()
}

/// Which state of a source the manifest's entry is about: changes are taken up as they come from a mounted ConfigMap, which is
/// replaced all at once, and only with a new entry or a new process from a volume, which may be half written.
pub fn key(model: &ManifestModel, places: &Places) -> String {
    with_mounted_revision(model, places, model.content_hash())
}

/// The same for the files alone, whatever the configuration in the manifest's entry says.
pub fn files_key(model: &ManifestModel, places: &Places) -> String {
    with_mounted_revision(model, places, model.files_hash())
}

/// `entry` with the state of the source behind it where that is seen as a folder that changes all at once.
pub(crate) fn with_mounted_revision(model: &ManifestModel, places: &Places, entry: String) -> String {
    match &model.source {
        ManifestSource::ConfigMap { name, keys: None, .. } => {
            let revision = places.config_maps.revision(name);
            format!("{entry}:{}", revision.as_deref().unwrap_or("absent"))
        }
        ManifestSource::ConfigMap { .. }
        | ManifestSource::Inline { .. }
        | ManifestSource::Pvc { .. }
        | ManifestSource::Http { .. }
        | ManifestSource::S3 { .. }
        | ManifestSource::Gcs { .. }
        | ManifestSource::Azure { .. }
        | ManifestSource::HuggingFace { .. }
        | ManifestSource::Oci { .. } => entry,
    }
}

/// What the source is opened with, as a text that differs when it changes: credentials, and the addresses that it may have.
/// Content that was fetched stays good without it; what could not be fetched may be had with other credentials.
pub fn credentials(model: &ManifestModel, places: &Places) -> Option<String> {
    if places.check_access(&model.source).is_err() {
        return Some("refused".to_owned());
    }
    match &model.source {
        ManifestSource::Http { .. }
        | ManifestSource::S3 { .. }
        | ManifestSource::Gcs { .. }
        | ManifestSource::Azure { .. }
        | ManifestSource::HuggingFace { .. }
        | ManifestSource::Oci { .. } => {
            let secret = model.source.secret().and_then(|name| places.secrets.revision(name));
            Some(format!("{} {}", secret.unwrap_or_default(), places.address_rule().revision()))
        }
        ManifestSource::ConfigMap { .. } | ManifestSource::Inline { .. } | ManifestSource::Pvc { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use operator_core::source_rules::SourceRules;

    use super::*;
    use crate::fault::Reason;

    fn model(source: &str) -> ManifestModel {
        let text = format!(
            r#"{{"name":"m","resource":"m","source":{source},"layout":"Auto","config":{{"text":"","precedence":"Fields"}},
                "readiness":"Required","load":{{"timeout":"1s","retries":0,"backoff":"1s"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn no_name_leads_out_of_the_folder_that_objects_are_mounted_in() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["config-maps/files", "config-maps/a.b", "secrets/marked"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let mounts = Mounts { below: vec![root.path().join("config-maps")], ..Mounts::default() };
        assert!(mounts.find("files").is_some() && mounts.find("a.b").is_some());
        let absolute = root.path().join("secrets/marked").display().to_string();
        for name in ["../secrets/marked", "..", ".", "", "files/../../secrets/marked", "files/", absolute.as_str()] {
            assert_eq!(mounts.find(name), None, "{name}");
            assert_eq!(mounts.revision(name), None, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_not_allowed_any_more_opens_nothing_and_is_tried_again_when_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let named =
            |name: &str| Mounts { named: [(name.to_owned(), folder.path().to_owned())].into(), ..Mounts::default() };
        let mut places = Places { secrets: named("token"), volumes: named("models"), ..Places::default() };
        let rules = |text: &str| serde_json::from_str::<SourceRules>(text).unwrap();
        for source in [r#"{"http":{"uri":"http://h/m","secret":"token"}}"#, r#"{"pvc":{"claim":"models","path":""}}"#] {
            let model = model(source);
            places.follow(&rules(r#"{"secrets":["token"],"claims":["models"]}"#));
            let allowed = credentials(&model, &places);
            places.follow(&rules(r#"{"secrets":["other"],"claims":[]}"#));
            let progress = Progress::new(Limits::default(), |_| ());
            let into = folder.path().join("into");
            let fault = fetch(&model, &into, &folder.path().join("beside"), &places, &progress).await.unwrap_err();
            assert_eq!(fault.reason, Reason::AccessDenied, "{fault}");
            assert_ne!(credentials(&model, &places), allowed, "so that it is tried again once it is allowed");
        }
    }
}
