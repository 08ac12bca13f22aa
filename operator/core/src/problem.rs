//! A mistake in a resource: where it stands, one word for programs, one sentence for people. Steps return all the problems
//! they find, never the first only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the objects a user writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `TritonServer` or `TritonModel`.
    pub kind: String,
    /// Namespace; `default` where a document names none.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A mistake in a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The resource that has to be changed.
    pub object: ObjectRef,
    /// One word, as it stands in the reason of a condition.
    pub reason: Reason,
    /// The field, from the root of the resource: `spec.config.dynamicBatching.preferredBatchSize[1]`.
    pub path: String,
    /// What is wrong, the limit and the cure, in one sentence.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Why a model is not (yet) what was asked for: the reasons of its conditions, in the words in which the agent reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "each word is its own sentence; where it arises is written at the place that returns it"
)]
pub enum Reason {
    ServerNotFound,
    ServerNotReady,
    Pending,
    Downloading,
    Loading,
    Loaded,
    LoadFailed,
    LoadTimedOut,
    ServerCrashed,
    ChecksumMismatch,
    SourceNotFound,
    CredentialsMissing,
    AccessDenied,
    NotMounted,
    AddressRefused,
    DownloadFailed,
    StoreFailed,
    StoreFull,
    InvalidSource,
    InvalidConfig,
    InvalidSpec,
    NameConflict,
    InsufficientGPUMemory,
    ManifestTooLarge,
    UnsupportedBackend,
}

impl Reason {
    /// Whether another attempt cannot help: only a change of a resource or of its source can.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::ServerCrashed
                | Self::ChecksumMismatch
                | Self::InvalidSource
                | Self::InvalidConfig
                | Self::InvalidSpec
                | Self::NameConflict
                | Self::ManifestTooLarge
                | Self::AccessDenied
                | Self::NotMounted
                | Self::UnsupportedBackend
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the variants are the words
        fmt::Debug::fmt(self, f)
    }
}
