//! The alternatives of a model's source, one of which is given: their names, and the objects that they name.

use crds::parts::source::ModelSource;

/// The kinds of sources, as a sentence names them.
pub(super) const SOURCES: &str = "inline, configMap, pvc, http, s3, gcs, azure, huggingFace or oci";

/// How many of the alternatives of a source are given, by name.
pub(super) fn alternatives(source: &ModelSource) -> Vec<&'static str> {
    [
        ("inline", source.inline.is_some()),
        ("configMap", source.config_map.is_some()),
        ("pvc", source.pvc.is_some()),
        ("http", source.http.is_some()),
        ("s3", source.s3.is_some()),
        ("gcs", source.gcs.is_some()),
        ("azure", source.azure.is_some()),
        ("huggingFace", source.hugging_face.is_some()),
        ("oci", source.oci.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

/// The one alternative of a source that is given, by name.
pub(crate) fn kind_of(source: &ModelSource) -> &'static str {
    alternatives(source).first().copied().unwrap_or_default()
}

/// The objects of the namespace that a source names, each with the two fields that lead to its name.
pub(super) fn named_objects(source: &ModelSource) -> impl Iterator<Item = ([&'static str; 2], &str)> {
    let secrets = [
        ("http", source.http.as_ref().and_then(|it| it.secret_ref.as_ref())),
        ("s3", source.s3.as_ref().and_then(|it| it.secret_ref.as_ref())),
        ("gcs", source.gcs.as_ref().and_then(|it| it.secret_ref.as_ref())),
        ("azure", source.azure.as_ref().and_then(|it| it.secret_ref.as_ref())),
        ("huggingFace", source.hugging_face.as_ref().and_then(|it| it.secret_ref.as_ref())),
        ("oci", source.oci.as_ref().and_then(|it| it.secret_ref.as_ref())),
    ];
    let secrets = secrets.into_iter().filter_map(|(kind, secret)| Some(([kind, "secretRef"], secret?.name.as_str())));
    let config_map = source.config_map.as_ref().map(|source| (["configMap", "name"], source.name.as_str()));
    let claim = source.pvc.as_ref().map(|source| (["pvc", "claimName"], source.claim_name.as_str()));
    [config_map, claim].into_iter().flatten().chain(secrets)
}
