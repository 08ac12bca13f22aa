//! Sources in object stores: what their addresses must be.

use crds::parts::source::{AZURE_URI_PATTERN, GCS_URI_PATTERN, ModelSource, S3_URI_PATTERN};
use regex_lite::Regex;

use super::{findings::Findings, forms::is_http_uri};
use crate::path::FieldPath;

/// Checks those of the source that are given.
pub(super) fn check(source: &ModelSource, at: &FieldPath, findings: &mut Findings) {
    if let Some(s3) = &source.s3 {
        let form = ("s3://BUCKET/PATH", S3_URI_PATTERN);
        location(&s3.uri, form, s3.endpoint.as_deref(), &at.field("s3"), findings);
    }
    if let Some(gcs) = &source.gcs {
        let form = ("gs://BUCKET/PATH", GCS_URI_PATTERN);
        location(&gcs.uri, form, gcs.endpoint.as_deref(), &at.field("gcs"), findings);
    }
    if let Some(azure) = &source.azure {
        let form = ("as://ACCOUNT/CONTAINER/PATH", AZURE_URI_PATTERN);
        location(&azure.uri, form, azure.endpoint.as_deref(), &at.field("azure"), findings);
    }
}

fn location(uri: &str, (form, pattern): (&str, &str), endpoint: Option<&str>, at: &FieldPath, findings: &mut Findings) {
    let is_path = |part: &str| !matches!(part, "." | "..") && !part.contains(char::is_control);
    if !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(uri)) || !uri.split('/').all(is_path) {
        let message = format!("'{}' names no objects: write {form}", uri.escape_debug());
        findings.add(at.field("uri"), message);
    }
    if let Some(endpoint) = endpoint
        && (!is_http_uri(endpoint) || endpoint.contains('?'))
    {
        let message = format!("'{endpoint}' is no address of a server: it begins with http:// or https:// and a host");
        findings.add(at.field("endpoint"), message);
    }
}
