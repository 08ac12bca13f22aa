//! What a registry's manifest says: which of several images is the one for this machine, and what each layer is to become. Pure.
//!
//! Source: the OCI image specification (manifest, index, annotations), the ModelPack specification (`application/vnd.cncf.model.*`)
//! and what ORAS writes.

use std::collections::BTreeMap;

use operator_core::reference;
use serde::Deserialize;

use super::super::digest::Digest;
use crate::verify;

/// Media types that are asked for, the newer ones first.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                                 application/vnd.docker.distribution.manifest.v2+json, \
                                 application/vnd.docker.distribution.manifest.list.v2+json";

/// Layers an image may have: container runtimes take 127.
const LAYERS_MAX: usize = 1024;

/// Path of the file that a layer is.
const PATHS: [&str; 3] = ["org.cncf.model.filepath", "org.cnai.model.filepath", "org.opencontainers.image.title"];
/// Beside a title: the layer is a folder as an archive.
const UNPACK: &str = "io.deis.oras.content.unpack";
/// What builders add to an image that is none.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manifest {
    /// What has layers.
    Image(Vec<Layer>),
    /// A list of manifests: the digest of the one for this machine.
    Index(String),
}

/// A blob and what it is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// `sha256:` and 64 hexadecimal digits.
    pub(super) digest: String,
    /// Length in bytes, as it is fetched.
    pub(super) length: u64,
    /// What it is.
    pub(super) content: Content,
}

/// What a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// One file, with its path.
    File(String),
    /// An archive of files: tar, plain or compressed. Markers in layers of images take away what is below them.
    Archive {
        /// It is a layer of an image.
        has_whiteouts: bool,
    },
}

impl Layer {
    /// What its content must be.
    pub(super) fn expected(&self) -> Option<Digest> {
        Digest::sha256(self.digest.strip_prefix("sha256:")?)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    artifact_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// Reads a manifest for a machine of that architecture, as Go names it.
///
/// Errors: a sentence that says what cannot be used.
pub(super) fn read(text: &[u8], architecture: &str) -> Result<Manifest, String> {
    let document: Document =
        serde_json::from_slice(text).map_err(|error| format!("its manifest cannot be read: {error}"))?;
    if document.schema_version != 2 {
        return Err(format!("its manifest has version {}; known is 2", document.schema_version));
    }
    match (document.manifests, document.layers) {
        (Some(manifests), None) => choose(&manifests, architecture).map(Manifest::Index),
        (None, Some(layers)) => {
            let is_image = document.artifact_type.is_empty()
                && document.config.is_some_and(|config| {
                    matches!(
                        config.media_type.as_str(),
                        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
                    )
                });
            content(&layers, is_image).map(Manifest::Image)
        }
        _ => Err("its manifest has neither layers nor manifests".to_owned()),
    }
}

/// What this machine's architecture is called in an index.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The one for this machine; else one that is for every machine, which is what models are.
fn choose(manifests: &[Descriptor], architecture: &str) -> Result<String, String> {
    let is_attestation = |one: &&Descriptor| one.annotations.as_ref().is_some_and(|all| all.contains_key(ATTESTATION));
    let candidates: Vec<&Descriptor> = manifests.iter().filter(|one| !is_attestation(one)).collect();
    let is_ours = |one: &&&Descriptor| {
        one.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
    };
    let is_for_all = |one: &&&Descriptor| {
        one.platform.as_ref().is_none_or(|platform| matches!(platform.architecture.as_str(), "" | "unknown"))
    };
    let found = candidates.iter().find(is_ours).or_else(|| candidates.iter().find(is_for_all));
    match found {
        Some(one) if reference::is_digest(&one.digest) => Ok(one.digest.clone()),
        Some(one) => Err(format!("it names '{}', which is no SHA-256 digest", one.digest.escape_debug())),
        None => {
            let platform = |one: &&Descriptor| {
                one.platform.as_ref().map(|it| format!("{}/{}", it.os.escape_debug(), it.architecture.escape_debug()))
            };
            let mut has: Vec<String> = candidates.iter().filter_map(platform).take(16).collect();
            has.dedup();
            Err(format!(
                "it is not for linux/{architecture} but for {}",
                if has.is_empty() { "nothing".into() } else { has.join(", ") }
            ))
        }
    }
}

/// What each layer is; those that are no part of a model are left out.
fn content(layers: &[Descriptor], is_image: bool) -> Result<Vec<Layer>, String> {
    if layers.len() > LAYERS_MAX {
        return Err(format!("it has {} layers, the most is {LAYERS_MAX}", layers.len()));
    }
    let mut all = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let wrong = |what: String| format!("its layer {number} {what}");
        if !reference::is_digest(&layer.digest) {
            return Err(wrong(format!("is called '{}', which is no SHA-256 digest", layer.digest.escape_debug())));
        }
        if let Some(content) = content_of(layer, is_image).map_err(wrong)? {
            all.push(Layer { digest: layer.digest.clone(), length: layer.size, content });
        }
    }
    match all.is_empty() {
        true => Err("it has no layer with files of a model".to_owned()),
        false => Ok(all),
    }
}

fn content_of(layer: &Descriptor, is_image: bool) -> Result<Option<Content>, String> {
    let annotation = |key: &str| layer.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let media_type = layer.media_type.as_str();
    let archive = Ok(Some(Content::Archive { has_whiteouts: false }));
    let file = || match PATHS.into_iter().find_map(annotation) {
        Some(path) => {
            Ok(Some(Content::File(verify::clean_path(path).map_err(|wrong| format!("is a file, but {wrong}"))?)))
        }
        None => Err(format!(
            "of type {} is a file without a name: it lacks the annotation {}",
            media_type.escape_debug(),
            PATHS[2]
        )),
    };
    let of_model = media_type
        .strip_prefix("application/vnd.cncf.model.")
        .or_else(|| media_type.strip_prefix("application/vnd.cnai.model."));
    if let Some(kind) = of_model {
        return match kind {
            _ if kind.starts_with("doc.") || kind.starts_with("dataset.") => Ok(None),
            _ if kind.contains(".tar") => archive,
            _ => file(),
        };
    }
    let is_archive = media_type.contains(".tar") || media_type.ends_with("+tar") || media_type.ends_with(".tgz");
    let has_name = PATHS.into_iter().any(|key| annotation(key).is_some());
    match () {
        () if media_type == "application/vnd.oci.empty.v1+json" => Ok(None),
        () if annotation(UNPACK) == Some("true") => archive,
        () if is_image => Ok(Some(Content::Archive { has_whiteouts: true })),
        () if has_name => file(), // whatever its type: ORAS gives files that of an image's layer
        () if is_archive => archive,
        () => file(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn layer(media_type: &str, annotations: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":3,"annotations":{{{annotations}}}}}"#, digest('a'))
    }

    fn document(config: &str, layers: &[String]) -> String {
        let config = format!(r#"{{"mediaType":"{config}","digest":"{}","size":2}}"#, digest('c'));
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","))
    }

    #[track_caller]
    fn check(config: &str, layers: &[String], expect: &[Content]) {
        let Manifest::Image(found) = read(document(config, layers).as_bytes(), "amd64").unwrap() else { panic!() };
        assert_eq!(found.into_iter().map(|layer| layer.content).collect::<Vec<_>>(), expect);
    }

    const IMAGE: &str = "application/vnd.oci.image.config.v1+json";
    const MODEL: &str = "application/vnd.cncf.model.config.v1+json";

    #[test]
    fn the_layers_of_an_image_are_archives_one_upon_the_other() {
        let layers = [
            layer("application/vnd.oci.image.layer.v1.tar+gzip", ""),
            layer("application/vnd.docker.image.rootfs.diff.tar.gzip", r#""org.opencontainers.image.title":"x""#),
        ];
        let archive = Content::Archive { has_whiteouts: true };
        check(IMAGE, &layers, &[archive.clone(), archive.clone()]);
        check("application/vnd.docker.container.image.v1+json", &layers[..1], &[archive]);
    }

    #[test]
    fn the_layers_of_a_model_pack_are_files_or_archives_and_its_documents_stay_away() {
        let path = r#""org.cncf.model.filepath":"1/model.onnx""#;
        let layers = [
            layer("application/vnd.cncf.model.weight.v1.raw", path),
            layer("application/vnd.cncf.model.weight.v1.tar", path),
            layer("application/vnd.cncf.model.weight.config.v1.tar+zstd", ""),
            layer("application/vnd.cncf.model.code.v1.raw", r#""org.cncf.model.filepath":"1/model.py""#),
            layer("application/vnd.cncf.model.doc.v1.raw", r#""org.cncf.model.filepath":"README.md""#),
            layer("application/vnd.cncf.model.dataset.v1.tar", ""),
        ];
        let archive = Content::Archive { has_whiteouts: false };
        let expect =
            [Content::File("1/model.onnx".into()), archive.clone(), archive, Content::File("1/model.py".into())];
        check(MODEL, &layers, &expect);
    }

    #[test]
    fn what_oras_pushes_are_files_by_their_titles_and_folders_to_unpack() {
        let title = |title: &str| format!(r#""org.opencontainers.image.title":"{title}""#);
        let layers = [
            layer("application/vnd.oci.image.layer.v1.tar", &title("model.onnx")),
            layer("application/octet-stream", &title("config.pbtxt")),
            layer("application/vnd.oci.image.layer.v1.tar+gzip", &format!(r#"{},"{UNPACK}":"true""#, title("1"))),
            layer("application/vnd.kitops.modelkit.model.v1.tar+gzip", ""),
            layer("application/vnd.oci.empty.v1+json", ""),
        ];
        let archive = Content::Archive { has_whiteouts: false };
        let expect =
            [Content::File("model.onnx".into()), Content::File("config.pbtxt".into()), archive.clone(), archive];
        check("application/vnd.oci.empty.v1+json", &layers, &expect);
    }

    #[test]
    fn of_several_images_the_one_for_this_machine_is_taken() {
        let one = |digit, os: &str, architecture: &str, annotations: &str| {
            format!(
                r#"{{"mediaType":"m","digest":"{}","size":1,"annotations":{{{annotations}}},
                    "platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#,
                digest(digit)
            )
        };
        let index = |all: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, all.join(","));
        let attestation = one('d', "unknown", "unknown", r#""vnd.docker.reference.type":"attestation-manifest""#);
        let (amd64, arm64) = (one('a', "linux", "amd64", ""), one('b', "linux", "arm64", ""));
        let both = index(&[attestation.clone(), one('e', "windows", "amd64", ""), arm64.clone(), amd64]);
        assert_eq!(read(both.as_bytes(), "amd64"), Ok(Manifest::Index(digest('a'))));
        assert_eq!(read(both.as_bytes(), "arm64"), Ok(Manifest::Index(digest('b'))));
        let error = read(index(&[attestation, arm64]).as_bytes(), "amd64").unwrap_err();
        assert_eq!(error, "it is not for linux/amd64 but for linux/arm64");
        let plain = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#, digest('f'));
        assert_eq!(read(plain.as_bytes(), "amd64"), Ok(Manifest::Index(digest('f'))));
        assert!(read(index(&[]).as_bytes(), "amd64").unwrap_err().contains("for nothing"));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let title = |title: &str| format!(r#""org.opencontainers.image.title":"{title}""#);
        for (text, saying) in [
            (document(MODEL, &[]), "no layer with files"),
            (document(MODEL, &[layer("application/octet-stream", "")]), "a file without a name"),
            (document(MODEL, &[layer("application/octet-stream", &title("../x"))]), "leads out"),
            (document(MODEL, &[layer("application/octet-stream", &title("/x"))]), "absolute"),
            (document(MODEL, &vec![layer("x.tar", ""); 1025]), "has 1025 layers"),
            (document(IMAGE, &[layer("x", "").replace(&digest('a'), "md5:00")]), "no SHA-256 digest"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "has version 1"),
            (r#"{"schemaVersion":2}"#.to_owned(), "neither layers nor manifests"),
            (r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../..","size":1}]}"#.to_owned(), "no SHA-256 digest"),
            ("<html>".to_owned(), "cannot be read"),
            (String::new(), "cannot be read"),
            (r#"{"schemaVersion":2,"layers":[{"digest":"x","size":-1}]}"#.to_owned(), "cannot be read"),
        ] {
            let error = read(text.as_bytes(), "amd64").unwrap_err();
            assert!(error.contains(saying), "{text}: {error}");
        }
    }
}
