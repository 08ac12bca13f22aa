//! Sources that are named rather than addressed: repositories of a hub, images and artifacts of a registry.

use crds::parts::source::{HuggingFaceSource, OciSource};

use super::{findings::Findings, forms::is_http_uri};
use crate::{path::FieldPath, reference::Reference};

pub(super) fn hugging_face(hub: &HuggingFaceSource, at: &FieldPath, findings: &mut Findings) {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    if !hub.repo.split('/').all(is_part) || hub.repo.split('/').count() > 2 {
        let message = format!(
            "'{}' is no repository of the hub: write its name, such as organisation/model",
            hub.repo.escape_debug()
        );
        findings.add(at.field("repo"), message);
    }
    if let Some(revision) = hub.revision.as_deref()
        && (revision.is_empty() || revision.contains(|c: char| c.is_whitespace() || c.is_control()))
    {
        let message = format!("'{}' is no revision: write a commit, a tag or a branch", revision.escape_debug());
        findings.add(at.field("revision"), message);
    }
    for (number, pattern) in hub.include.iter().enumerate().filter(|(_, pattern)| pattern.is_empty()) {
        let message = format!("'{pattern}' matches no file: write a pattern such as onnx/*, or leave it out");
        findings.add(at.field("include").index(number), message);
    }
    if let Some(endpoint) = hub.endpoint.as_deref()
        && (!is_http_uri(endpoint) || endpoint.contains('?'))
    {
        let message = format!(
            "'{endpoint}' is no address of a hub: it begins with http:// or https:// and a host, and has no query"
        );
        findings.add(at.field("endpoint"), message);
    }
}

pub(super) fn oci(oci: &OciSource, at: &FieldPath, findings: &mut Findings) {
    if let Err(wrong) = Reference::parse(&oci.reference) {
        findings.add(at.field("reference"), wrong.to_string());
    }
}
