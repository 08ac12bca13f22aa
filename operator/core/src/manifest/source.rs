//! Where the files of a model come from, as a manifest says it.

use std::collections::{BTreeMap, BTreeSet};

use crds::parts::source::KeyPath;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

/// Where the files of a model come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ManifestSource {
    /// Files carried by the manifest itself.
    Inline {
        /// Content by path below the model's folder; paths are relative and stay inside.
        files: BTreeMap<String, String>,
    },
    /// A ConfigMap.
    ConfigMap {
        /// Its name.
        name: String,
        /// Keys taken and the paths they get; none: every key, under its own name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        items: Vec<KeyPath>,
        /// The keys themselves, so that no pod is replaced to mount them. Absent where they would take too much space: the
        /// agent then sees the ConfigMap as a folder with one file per key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keys: Option<Keys>,
    },
    /// A PersistentVolumeClaim, seen by the agent as a mounted folder.
    Pvc {
        /// Name of the claim.
        claim: String,
        /// Folder or file within it, relative and inside; empty for its root.
        path: String,
    },
    /// An archive or a plain file behind an address.
    Http {
        /// `http://` or `https://` address.
        uri: String,
        /// Name of the Secret with `token`, or `username` and `password`; seen by the agent as a folder of that name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    },
    /// Objects of S3, or of a server with its interface.
    S3 {
        /// `s3://BUCKET/PATH`.
        uri: String,
        /// `http://` or `https://` address of the server; absent: AWS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// Region of the bucket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<String>,
        /// The bucket is part of the host's name, not of the path.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        bucket_in_host: bool,
        /// Name of the Secret with keys named like the variables of AWS; seen by the agent as a folder of that name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    },
    /// Objects of Google Cloud Storage.
    Gcs {
        /// `gs://BUCKET/PATH`.
        uri: String,
        /// `http://` or `https://` address of a stand-in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// Name of the Secret with `service-account.json`; seen by the agent as a folder of that name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    },
    /// Blobs of Azure.
    Azure {
        /// `as://ACCOUNT/CONTAINER/PATH`.
        uri: String,
        /// `http://` or `https://` address of a stand-in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// Name of the Secret with `AZURE_STORAGE_KEY`; seen by the agent as a folder of that name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    },
    /// A repository of the Hugging Face Hub.
    HuggingFace {
        /// Its name, with or without an organisation before the slash.
        repo: String,
        /// Commit, tag or branch.
        revision: String,
        /// Patterns of the files taken; none: all that belong to the model.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        include: Vec<String>,
        /// `http://` or `https://` address of the hub.
        endpoint: String,
        /// Name of the Secret with `token`; seen by the agent as a folder of that name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    },
    /// An image or an artifact in a registry.
    Oci {
        /// What is pulled, as [`crate::reference::Reference`] reads it.
        reference: String,
        /// Name of the Secret with `.dockerconfigjson`, or `username` and `password`; seen by the agent as a folder of that name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
        /// The registry is asked without encryption.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        plain_http: bool,
    },
}

impl ManifestSource {
    /// Name of the Secret that opens it.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::Http { secret, .. }
            | Self::S3 { secret, .. }
            | Self::Gcs { secret, .. }
            | Self::Azure { secret, .. }
            | Self::HuggingFace { secret, .. }
            | Self::Oci { secret, .. } => secret.as_deref(),
            Self::Inline { .. } | Self::ConfigMap { .. } | Self::Pvc { .. } => None,
        }
    }

    /// Name of the claim its files lie on.
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::Pvc { claim, .. } => Some(claim),
            Self::Inline { .. }
            | Self::ConfigMap { .. }
            | Self::Http { .. }
            | Self::S3 { .. }
            | Self::Gcs { .. }
            | Self::Azure { .. }
            | Self::HuggingFace { .. }
            | Self::Oci { .. } => None,
        }
    }

    /// Host its files are fetched from where its address says so.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Http { uri, .. } => Some(host_of(uri)),
            Self::S3 { endpoint, bucket_in_host: false, .. }
            | Self::Gcs { endpoint, .. }
            | Self::Azure { endpoint, .. } => endpoint.as_deref().map(host_of),
            Self::Inline { .. }
            | Self::ConfigMap { .. }
            | Self::Pvc { .. }
            | Self::S3 { .. }
            | Self::HuggingFace { .. }
            | Self::Oci { .. } => None,
        }
    }
}

/// The host of `SCHEME://[USER@]HOST[:PORT][/…]`.
pub(super) fn host_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.find(']') {
        Some(end) if host.starts_with('[') => &host[..=end],
        _ => host.split(':').next().unwrap_or(host),
    }
}

/// Keys of a ConfigMap with what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// Those that hold text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Those that hold bytes, in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, ByteString>,
}

impl Keys {
    /// What a key holds.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let text = self.data.get(key).map(String::as_bytes);
        text.or_else(|| self.binary_data.get(key).map(|bytes| bytes.0.as_slice()))
    }

    /// Every key, in order.
    pub fn names(&self) -> BTreeSet<&str> {
        self.data.keys().chain(self.binary_data.keys()).map(String::as_str).collect()
    }

    /// Bytes it holds.
    pub fn size(&self) -> usize {
        self.data.values().map(String::len).chain(self.binary_data.values().map(|bytes| bytes.0.len())).sum()
    }

    /// Those that `items` take; all of them if there are no items.
    pub fn taken_by(&self, items: &[KeyPath]) -> Self {
        let is_taken = |key: &str| items.is_empty() || items.iter().any(|item| item.key == key);
        let mut taken = self.clone();
        taken.data.retain(|key, _| is_taken(key));
        taken.binary_data.retain(|key, _| is_taken(key));
        taken
    }
}
