//! The URL of a repository, as Triton spells it. Pure: nothing is asked here.

use std::fmt;

/// Where a remote repository lies.
///
/// Source: Triton user guide, "Model Repository Locations"; the filesystem implementations of its core.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The URL as given, without slashes at its end.
    url: String,
    pub(crate) store: Store,
    /// What the keys of all its objects begin with, without slashes at either end; empty for all of the bucket.
    pub(crate) prefix: String,
}

/// The kinds of object store, and what names one of their buckets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Store {
    /// `s3://BUCKET/PATH`, or `s3://[http://|https://]HOST:PORT/BUCKET/PATH`.
    S3 {
        /// `http://HOST:PORT` where the URL names one.
        endpoint: Option<String>,
        bucket: String,
    },
    /// `gs://BUCKET/PATH`.
    Gcs { bucket: String },
    /// `as://ACCOUNT/CONTAINER/PATH`; the account may be written as its host, `ACCOUNT.blob.core.windows.net`.
    Azure { account: String, container: String },
}

/// Why a URL names no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the sentences say what the fields are
pub enum LocationError {
    /// Another scheme, or a misspelt one.
    #[error("'{0}' is no repository that this server reads: expected a folder, s3://, gs:// or as://")]
    Scheme(String),
    /// A part is missing or empty.
    #[error("'{url}' names no {what}: {triton}: expected {form}")]
    Missing { url: String, what: &'static str, triton: String, form: &'static str },
    /// The path leaves the bucket, or means nothing there.
    #[error("'{url}' has the part '{part}' in its path, which no object store knows")]
    Part { url: String, part: String },
}

const S3: &str = "s3://";
const GCS: &str = "gs://";
const AZURE: &str = "as://";
const AZURE_HOST: &str = ".blob.core.windows.net";
const S3_FORM: &str = "s3://BUCKET/PATH or s3://HOST:PORT/BUCKET/PATH";
const GCS_FORM: &str = "gs://BUCKET/PATH";
const AZURE_FORM: &str = "as://ACCOUNT/CONTAINER/PATH";

// === impl Location ===

impl Location {
    /// Whether the text is a URL at all, known scheme or not: else it is a folder.
    pub fn is_url(text: &str) -> bool {
        text.contains("://")
    }

    /// Reads a URL. Slashes that follow each other count as one.
    ///
    /// Errors: unknown scheme, no bucket, or a path that leaves it.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let url = text.trim_end_matches('/').to_owned();
        let missing = |what, form| {
            let triton = match form {
                S3_FORM => "Invalid bucket name: ''".to_owned(),
                GCS_FORM => format!("No bucket name found in path: {text}"),
                _ => format!("Invalid azure storage path: {text}"),
            };
            LocationError::Missing { url: text.to_owned(), what, triton, form }
        };
        let (store, path) = if let Some(rest) = text.strip_prefix(S3) {
            let (scheme, rest) = match rest.split_once("://") {
                Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
                Some(_) => return Err(LocationError::Scheme(text.to_owned())),
                None => (None, rest),
            };
            let (first, rest) = split(rest);
            if scheme.is_some() || has_port(first) {
                if first.is_empty() {
                    return Err(missing("host", S3_FORM));
                }
                let (bucket, path) = split(rest);
                let endpoint = Some(format!("{}://{first}", scheme.unwrap_or("http")));
                (Store::S3 { endpoint, bucket: named(bucket, || missing("bucket", S3_FORM))? }, path)
            } else {
                (Store::S3 { endpoint: None, bucket: named(first, || missing("bucket", S3_FORM))? }, rest)
            }
        } else if let Some(rest) = text.strip_prefix(GCS) {
            let (bucket, path) = split(rest);
            (Store::Gcs { bucket: named(bucket, || missing("bucket", GCS_FORM))? }, path)
        } else if let Some(rest) = text.strip_prefix(AZURE) {
            let form = AZURE_FORM;
            let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
            let (host, rest) = split(rest);
            let account = host.strip_suffix(AZURE_HOST).unwrap_or(host);
            let (container, path) = split(rest);
            let account = named(account, || missing("account", form))?;
            (Store::Azure { account, container: named(container, || missing("container", form))? }, path)
        } else {
            return Err(LocationError::Scheme(text.to_owned()));
        };
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        if let Some(part) = parts.iter().find(|part| matches!(**part, "." | "..") || part.contains(char::is_control)) {
            return Err(LocationError::Part { url: text.to_owned(), part: part.escape_debug().to_string() });
        }
        Ok(Self { url, store, prefix: parts.join("/") })
    }

    /// What holds the objects, in the words of its store.
    pub(crate) fn bucket(&self) -> String {
        match &self.store {
            Store::S3 { bucket, .. } | Store::Gcs { bucket } => format!("bucket '{bucket}'"),
            Store::Azure { account, container } => format!("container '{container}' of account '{account}'"),
        }
    }

    /// What Triton says where a store cannot be used.
    pub(crate) fn client_failed(&self) -> &'static str {
        match self.store {
            Store::S3 { .. } => "Unable to create S3 filesystem client. Check account credentials.",
            Store::Gcs { .. } => "Unable to create GCS client. Check account credentials.",
            Store::Azure { .. } => "Unable to create Azure filesystem client. Check account credentials.",
        }
    }

    /// The variable that says where copies lie on this machine.
    pub(crate) fn mount_variable(&self) -> &'static str {
        match self.store {
            Store::S3 { .. } => "TRITON_AWS_MOUNT_DIRECTORY",
            Store::Gcs { .. } => "TRITON_GCS_MOUNT_DIRECTORY",
            Store::Azure { .. } => "TRITON_AZURE_MOUNT_DIRECTORY",
        }
    }

    /// The key of something below the repository's path.
    pub(crate) fn key(&self, below: &str) -> String {
        if self.prefix.is_empty() { below.to_owned() } else { format!("{}/{below}", self.prefix) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// The first part of a path, and what follows it.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

/// `HOST:PORT`: bucket names have no colon.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn named(text: &str, missing: impl FnOnce() -> LocationError) -> Result<String, LocationError> {
    if text.is_empty() { Err(missing()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, store: Store, prefix: &str) {
        let location = Location::parse(url).unwrap();
        assert_eq!((&location.store, location.prefix.as_str()), (&store, prefix), "{url}");
        assert_eq!(Location::parse(&location.to_string()), Ok(location), "{url}");
    }

    fn s3(endpoint: Option<&str>, bucket: &str) -> Store {
        Store::S3 { endpoint: endpoint.map(Into::into), bucket: bucket.into() }
    }

    #[test]
    fn an_s3_url_may_name_its_server() {
        check("s3://bucket", s3(None, "bucket"), "");
        check("s3://bucket//a///b/", s3(None, "bucket"), "a/b");
        check("s3://minio:9000/bucket/models", s3(Some("http://minio:9000"), "bucket"), "models");
        check("s3://http://10.0.0.1:9000/bucket", s3(Some("http://10.0.0.1:9000"), "bucket"), "");
        check("s3://https://s3.example.com:443/b/p", s3(Some("https://s3.example.com:443"), "b"), "p");
        check("s3://https://s3.example.com/b/p", s3(Some("https://s3.example.com"), "b"), "p");
        check("s3://[::1]:9000/b", s3(Some("http://[::1]:9000"), "b"), "");
    }

    #[test]
    fn an_azure_account_may_be_written_as_its_host() {
        let store = || Store::Azure { account: "me".into(), container: "c".into() };
        check("as://me/c/models", store(), "models");
        check("as://me.blob.core.windows.net/c/models/", store(), "models");
        assert_eq!(Location::parse("as://me/c/models?x=y").unwrap().store, store());
    }

    #[test]
    fn a_google_bucket_has_a_path() {
        check("gs://b/p/q", Store::Gcs { bucket: "b".into() }, "p/q");
    }

    #[test]
    fn what_names_no_bucket_is_refused() {
        for url in ["s3://", "s3:///", "s3://host:9000", "s3://http:///b", "gs://", "as://", "as://me", "as://me/"] {
            assert!(matches!(Location::parse(url), Err(LocationError::Missing { .. })), "{url}");
        }
        for url in ["ftp://host/x", "S3://bucket", "s3://ftp://host/b", "/models", "", "://"] {
            assert!(matches!(Location::parse(url), Err(LocationError::Scheme(_))), "{url}");
        }
        for url in ["s3://b/../c", "s3://b/./c", "gs://b/a\nb", "as://a/c/x/\0"] {
            assert!(matches!(Location::parse(url), Err(LocationError::Part { .. })), "{url}");
        }
    }
}
