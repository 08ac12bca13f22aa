//! An image or an artifact in a registry, pulled without a container runtime: its layers are fetched, checked by their digests, and
//! laid one upon the other; of an image, only the model's folder is unpacked.
//!
//! ```text
//! image       /models of it, else its root               layers with markers for what they take away
//! ModelPack   the layers with weights, configuration, code   as files with a path, or as archives
//! ORAS        the files by their titles, folders unpacked
//! ```

mod challenge;
mod layers;
mod login;
mod manifest;
mod registry;
mod tree;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use operator_core::reference::Reference;

use self::{
    login::Login,
    manifest::{Content, Layer, Manifest},
    registry::Registry,
    tree::{Bounds, Place, Tree},
};
use super::{
    ask::expect,
    client::HttpClient,
    guard::AddressRule,
    places::Mounts,
    progress::{Fetched, Progress},
};
use crate::{
    fault::{Fault, Reason},
    files::blocking,
    verify::{self, Files},
};

/// How deep lists of manifests may be within one another.
const INDEXES_MAX: usize = 2;

/// What is pulled.
pub struct Oci<'a> {
    /// The image or artifact.
    pub reference: &'a str,
    /// Name of the Secret that opens the registry.
    pub secret: Option<&'a str>,
    /// The registry is asked without encryption.
    pub plain_http: bool,
}

/// A layer on disk.
struct Archive {
    number: usize,
    path: PathBuf,
    has_whiteouts: bool,
}

impl Oci<'_> {
    /// Brings the model's files into the folder `into`; `beside` is a free path on the same disk, for layers as they come.
    ///
    /// Errors: `CredentialsMissing`, `SourceNotFound`, `AddressRefused`, `DownloadFailed`, `InvalidSource`, `StoreFailed`.
    pub async fn fetch(
        &self,
        rule: &Arc<AddressRule>,
        secrets: &Mounts,
        into: &Path,
        beside: &Path,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, Fault> {
        let invalid = |what: String| Fault::new(Reason::InvalidSource, what);
        let reference = Reference::parse(self.reference).map_err(|error| invalid(error.to_string()))?;
        let secret =
            self.secret.map(|name| Login::read(secrets, name, &reference).map(|login| (name, login))).transpose()?;
        let client = HttpClient::new(rule, progress.limits())?;
        let registry = Registry::new(client, &reference, self.plain_http, secret, progress);

        // 1 what it is made of
        let layers = layers(&registry, &reference).await?;
        let total = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.length));
        expect(progress, total).await?;

        // 2 the archives, which say what is in them
        let mut archives = Vec::new();
        fs::create_dir_all(beside).map_err(|error| Fault::store("cannot make a folder for layers", &error))?;
        for (number, layer) in layers.iter().enumerate() {
            if let Content::Archive { has_whiteouts } = layer.content {
                let path = beside.join(number.to_string());
                registry.blob(layer, &path).await?;
                archives.push(Archive { number, path, has_whiteouts });
            }
        }

        // 3 which file of which layer is at which path in the end
        let shown = reference.to_string();
        let (wanted, archives) = {
            let (progress, layers) = (Arc::clone(progress), layers.clone());
            blocking(move || {
                let wanted = choose(&layers, &archives, &progress).map_err(|fault| naming(&shown, fault))?;
                Ok((wanted, archives))
            })
            .await?
        };

        // 4 those that are files of their own come where they belong
        let mut files = Files::new();
        for (number, layer) in layers.iter().enumerate().filter(|(_, layer)| matches!(layer.content, Content::File(_)))
        {
            let Some(path) = wanted.get(&number).and_then(|paths| paths.get(&0)).and_then(|paths| paths.first()) else {
                continue; // a later layer has the same path
            };
            let to = into.join(path);
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(|error| Fault::store("cannot make a folder", &error))?;
            }
            files.insert(path.clone(), registry.blob(layer, &to).await?.hash);
        }
        progress.verifying();

        // 5 the others are unpacked
        let (into, beside, progress) = (into.to_owned(), beside.to_owned(), Arc::clone(progress));
        let shown = reference.to_string();
        let unpacked = blocking(move || {
            let (mut files, mut bytes) = (Files::new(), 0);
            for Archive { number, path, .. } in &archives {
                if let Some(wanted) = wanted.get(number) {
                    let unpacked = layers::unpack(path, wanted, &into, &mut bytes, &progress);
                    files.extend(unpacked.map_err(|fault| naming(&shown, fault))?);
                }
                fs::remove_file(path).map_err(|error| Fault::store("cannot delete a layer", &error))?;
            }
            fs::remove_dir(&beside).map_err(|error| Fault::store("cannot delete the folder of layers", &error))?;
            Ok(files)
        });
        files.extend(unpacked.await?);
        Ok(Fetched { hash: verify::hash_of_folder(&files), files, is_bare: false })
    }
}

/// The layers of what the reference names, on this machine.
async fn layers(registry: &Registry<'_>, reference: &Reference) -> Result<Vec<Layer>, Fault> {
    let mut version = reference.version().to_owned();
    for _ in 0..=INDEXES_MAX {
        let text = registry.manifest(&version).await?;
        let manifest = manifest::read(&text, manifest::architecture());
        match manifest
            .map_err(|what| Fault::new(Reason::InvalidSource, format!("{reference} cannot be used: {what}")))?
        {
            Manifest::Image(layers) => return Ok(layers),
            Manifest::Index(digest) => version = digest,
        }
    }
    let message = format!("{reference} cannot be used: its lists of manifests go deeper than {INDEXES_MAX}");
    Err(Fault::new(Reason::InvalidSource, message))
}

/// By layer and by the number of the entry in it: the paths below the model's folder.
type Wanted = BTreeMap<usize, BTreeMap<usize, Vec<String>>>;

fn choose(layers: &[Layer], archives: &[Archive], progress: &Progress) -> Result<Wanted, Fault> {
    let invalid = |what: String| Fault::new(Reason::InvalidSource, what);
    let bounds = Bounds::default();
    let mut tree = Tree::default();
    let mut archives = archives.iter();
    for (number, layer) in layers.iter().enumerate() {
        match &layer.content {
            Content::File(path) => tree.add_file(number, path),
            Content::Archive { .. } => {
                let Some(archive) = archives.next() else { break };
                let entries = layers::list(&archive.path, &bounds, progress)?;
                tree.add(number, &entries, archive.has_whiteouts, &bounds).map_err(invalid)?;
            }
        }
    }
    let is_image = layers.iter().any(|layer| layer.content == Content::Archive { has_whiteouts: true });
    let mut wanted = Wanted::new();
    for (path, Place { layer, entry }) in tree.model(is_image, progress.limits().files).map_err(invalid)? {
        wanted.entry(layer).or_default().entry(entry).or_default().push(path);
    }
    Ok(wanted)
}

/// A fault about the content of an image, with the image's name.
fn naming(reference: &str, fault: Fault) -> Fault {
    match fault.reason {
        Reason::InvalidSource => Fault::new(Reason::InvalidSource, format!("{reference}: {}", fault.message)),
        _ => fault,
    }
}

#[cfg(test)]
mod tests;
