//! Parts that many objects have: metadata, and fields that are left out rather than empty.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{labels, validated::Validated};

/// Metadata of an object named `name`, with the labels and the owner all of them have.
pub(super) fn metadata(server: &Validated<'_>, name: impl Into<String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(server.namespace.to_owned()),
        labels: Some(labels::common(server.name)),
        owner_references: Some(vec![server.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// Metadata with a user's labels; ours win.
pub(super) fn with_labels(mut metadata: ObjectMeta, labels: &BTreeMap<String, String>) -> ObjectMeta {
    let mut all = labels.clone();
    all.extend(metadata.labels.take().unwrap_or_default());
    metadata.labels = Some(all);
    metadata
}

/// Metadata with a user's annotations.
pub(super) fn with_annotations(mut metadata: ObjectMeta, annotations: &BTreeMap<String, String>) -> ObjectMeta {
    metadata.annotations = filled(annotations);
    metadata
}

/// `None` in place of an empty map, so that we own no field we do not fill.
pub(super) fn filled(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

/// A list that is not empty.
pub(super) fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Whole seconds; a part of one rounds up.
pub(super) fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}
