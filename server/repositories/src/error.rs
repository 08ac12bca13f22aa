//! Why a remote repository cannot be read: the thing, what was tried, and the cure. No secret is ever part of it.

use std::{fmt, io, path::PathBuf, time::Duration};

use object_store::Error as StoreError;

/// Why a remote repository, or one of its models, cannot be read. `client` is Triton's sentence where a store cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs)] // the sentences say what the fields are
pub enum RepositoryError {
    /// Credentials are not there, or cannot be used.
    #[error("{client} Unable to read model repository '{url}': {reason}")]
    Credentials { client: &'static str, url: String, reason: String },
    /// The store says that it has no such bucket.
    #[error(
        "{client} Unable to read model repository '{url}': {bucket} does not exist ({tried}); check the URL and the endpoint"
    )]
    NoBucket { client: &'static str, url: String, bucket: String, tried: String },
    /// The store does not let us.
    #[error(
        "{client} Unable to read model repository '{url}': access denied: {detail} ({tried}); check the credentials and what \
         they may read"
    )]
    Denied { client: &'static str, url: String, detail: String, tried: String },
    /// Nobody answers, or not in time.
    #[error(
        "{client} Unable to read model repository '{url}': no usable answer: {detail} ({tried}); check the endpoint, the \
         region and the network"
    )]
    Unreachable { client: &'static str, url: String, detail: String, tried: String },
    /// Nobody has listed it yet.
    #[error("model repository '{url}' was not read yet")]
    NotRead { url: String },
    /// A key that cannot be a file.
    #[error("model repository '{url}' has the object '{key}', {reason}; rename or remove it")]
    Key { url: String, key: String, reason: String },
    /// More objects than a model may have.
    #[error("model repository '{url}' has more than {limit} objects below '{key}'; remove what is no model file")]
    TooMany { url: String, key: String, limit: usize },
    /// An object that is not the one which was listed.
    #[error("'{url}' changed while it was fetched; load the model again when it is complete")]
    Changed { url: String },
    /// What came is not what the store says it holds.
    #[error("'{url}' arrived damaged {attempts} times: {detail}")]
    Damaged { url: String, attempts: u32, detail: String },
    /// The connection broke, or nothing came, too often.
    #[error("unable to fetch '{url}': {detail}; {got} of {size} bytes are here and are kept for the next attempt")]
    Broken { url: String, detail: String, got: u64, size: u64 },
    /// No room for the files.
    #[error("model '{url}' needs {needed} bytes, and {free} are free in {folder} ({variable} names another folder)")]
    NoSpace { url: String, needed: u64, free: u64, folder: String, variable: &'static str },
    /// This machine's own folder.
    #[error("unable to keep files of model repository '{url}' in {path} ({variable} names another folder): {reason}")]
    Local { url: String, path: String, variable: &'static str, reason: String },
    /// The server is about to end.
    #[error("Server exiting")]
    Closed,
}

/// An error of the file system, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub(crate) struct LocalError {
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

/// Adds the path to what the file system says.
pub(crate) trait AtPath<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, LocalError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, LocalError> {
        self.map_err(|error| LocalError { path: path.into(), error })
    }
}

/// What a store's answer means, as far as the reaction to it differs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Missing,
    Denied,
    Changed,
    /// The key is in the text.
    InvalidKey,
    Other,
}

pub(crate) fn meaning(error: &StoreError) -> Meaning {
    match error {
        StoreError::NotFound { .. } => Meaning::Missing,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Meaning::Denied,
        StoreError::Precondition { .. } | StoreError::NotModified { .. } => Meaning::Changed,
        StoreError::InvalidPath { .. } => Meaning::InvalidKey,
        StoreError::Generic { source, .. } => match source.downcast_ref() {
            Some(inner) => meaning(inner), // what ended an answer that had begun
            None => meaning_of_status(&error.to_string()),
        },
        _ => Meaning::Other,
    }
}

/// Questions for lists have errors of their own, which tell the status in their text only.
fn meaning_of_status(text: &str) -> Meaning {
    match between(text, "status code: ", " ") {
        Some("404") => Meaning::Missing,
        Some("401" | "403") => Meaning::Denied,
        _ => Meaning::Other,
    }
}

/// What went wrong, in a sentence: the code and message of the store where its answer has them, else the innermost reason.
pub(crate) fn detail(error: &StoreError) -> String {
    let text = error.to_string();
    if let (Some(code), message) = (between(&text, "<Code>", "</Code>"), between(&text, "<Message>", "</Message>")) {
        return match message {
            Some(message) => shortened(&format!("{code}: {}", message.trim())),
            None => code.to_owned(),
        };
    }
    let mut source: &dyn std::error::Error = error;
    let mut innermost = String::new();
    while let Some(inner) = source.source() {
        innermost = inner.to_string();
        source = inner;
    }
    shortened(if innermost.is_empty() { &text } else { &innermost })
}

/// Nothing came for so long.
pub(crate) fn silence(limit: Duration) -> String {
    format!("nothing came for {limit:?}")
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inside, _)| inside)
}

/// One line, and no page of HTML.
fn shortened(text: &str) -> String {
    const LIMIT: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

/// Endpoint, region and where credentials come from: what was tried.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tried {
    pub(crate) endpoint: String,
    pub(crate) region: Option<String>,
    pub(crate) credentials: String,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {}", self.endpoint)?;
        if let Some(region) = &self.region {
            write!(f, ", region {region}")?;
        }
        write!(f, ", credentials from {}", self.credentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_s_own_words_are_told() {
        let body =
            "status 403: <?xml?><Error><Code>InvalidAccessKeyId</Code><Message>The key\n is unknown.</Message></Error>";
        let source: Box<dyn std::error::Error + Send + Sync> = body.into();
        let error = StoreError::PermissionDenied { path: "p".into(), source };
        assert_eq!(detail(&error), "InvalidAccessKeyId: The key is unknown.");
        assert_eq!(meaning(&error), Meaning::Denied);
        for (status, expect) in [("404 Not", Meaning::Missing), ("403 F", Meaning::Denied), ("500 I", Meaning::Other)] {
            let source = format!("Error performing GET http://h - Server returned non-2xx status code: {status}: <x/>");
            assert_eq!(meaning(&StoreError::Generic { store: "S3", source: source.into() }), expect);
        }
        let error = StoreError::Generic { store: "S3", source: "connection refused".into() };
        assert_eq!(detail(&error), "connection refused");
        let page: Box<dyn std::error::Error + Send + Sync> = "é".repeat(9000).into();
        assert_eq!(detail(&StoreError::Generic { store: "S3", source: page }).chars().count(), 304);
    }
}
