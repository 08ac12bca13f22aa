//! Which image a server runs: what its spec says, completed from the operator's default image.

use std::borrow::Cow;

use crds::parts::image::{Image, ImageVariant};

/// An image reference in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts<'a> {
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// The reference of the image that `image` asks for. What it leaves open is as in `default`; a digest or tag of the default
/// is taken along only where the spec names neither.
pub fn resolve(image: Option<&Image>, default: &str) -> String {
    let default = split(default);
    let Some(image) = image else { return join(default) };
    let repository = repository(image, default.repository);
    let names_neither = image.tag.is_none() && image.digest.is_none();
    let is_same_repository = repository == default.repository;
    join(Parts {
        repository: &repository,
        tag: image.tag.as_deref().or(default.tag.filter(|_| names_neither)),
        // a digest means one image of one repository
        digest: image.digest.as_deref().or(default.digest.filter(|_| names_neither && is_same_repository)),
    })
}

/// The repository of the variant asked for. One that the spec names is that of all variants; the default may be one of them.
fn repository<'a>(image: &'a Image, default: &'a str) -> Cow<'a, str> {
    let named = image.repository.as_deref();
    let Some(variant) = image.variant else { return named.unwrap_or(default).into() };
    let of_all = named.unwrap_or_else(|| without_variant(default));
    format!("{of_all}{}", variant.suffix()).into()
}

/// The repository whose variants a repository is one of; itself without such an ending.
fn without_variant(repository: &str) -> &str {
    let suffixes = ImageVariant::ALL.map(ImageVariant::suffix).into_iter().filter(|suffix| !suffix.is_empty());
    // the longest: -pytorch-cuda is not the -cuda of a -pytorch
    let found = suffixes.filter_map(|suffix| repository.strip_suffix(suffix)).min_by_key(|rest| rest.len());
    found.filter(|rest| !rest.is_empty() && !rest.ends_with('/')).unwrap_or(repository)
}

fn split(reference: &str) -> Parts<'_> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    // a colon before the last slash belongs to the port of a registry
    let tag_at = name.rfind(':').filter(|colon| !name[*colon..].contains('/'));
    match tag_at {
        Some(colon) => Parts { repository: &name[..colon], tag: Some(&name[colon + 1..]), digest },
        None => Parts { repository: name, tag: None, digest },
    }
}

fn join(Parts { repository, tag, digest }: Parts<'_>) -> String {
    let mut reference = repository.to_owned();
    for (sign, part) in [(':', tag), ('@', digest)] {
        if let Some(part) = part {
            reference.push(sign);
            reference.push_str(part);
        }
    }
    reference
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:00";

    #[track_caller]
    fn check(repository: Option<&str>, tag: Option<&str>, digest: Option<&str>, default: &str, expect: &str) {
        let owned = |part: Option<&str>| part.map(str::to_owned);
        let image = Image { repository: owned(repository), tag: owned(tag), digest: owned(digest), ..Image::default() };
        assert_eq!(resolve(Some(&image), default), expect);
    }

    #[test]
    fn what_the_spec_leaves_open_comes_from_the_operator() {
        let default = "registry:5000/triton:1.0";
        assert_eq!(resolve(None, default), default);
        check(None, None, None, default, default);
        check(None, Some("2.0"), None, default, "registry:5000/triton:2.0");
        check(Some("mirror/triton"), None, None, default, "mirror/triton:1.0");
        check(Some("mirror/triton"), Some("2"), Some(DIGEST), default, "mirror/triton:2@sha256:00");
        check(None, None, Some(DIGEST), "registry:5000/triton", "registry:5000/triton@sha256:00");
    }

    #[track_caller]
    fn check_variant(variant: ImageVariant, repository: Option<&str>, default: &str, expect: &str) {
        let image = Image { variant: Some(variant), repository: repository.map(str::to_owned), ..Image::default() };
        assert_eq!(resolve(Some(&image), default), expect);
    }

    #[test]
    fn a_variant_stands_behind_the_name_of_the_repository() {
        let default = "registry:5000/triton:1.0@sha256:11";
        check_variant(ImageVariant::Pytorch, None, default, "registry:5000/triton-pytorch:1.0");
        check_variant(ImageVariant::Onnx, None, default, default);
        check_variant(ImageVariant::Full, Some("mirror/triton"), default, "mirror/triton-full:1.0");
        check_variant(ImageVariant::PytorchCuda, None, "triton", "triton-pytorch-cuda");
    }

    #[test]
    fn a_default_that_is_a_variant_gives_way_to_the_one_asked_for() {
        check_variant(ImageVariant::Onnx, None, "tritonserver-python:1", "tritonserver:1");
        check_variant(ImageVariant::Openvino, None, "tritonserver-pytorch-cuda:1", "tritonserver-openvino:1");
        check_variant(ImageVariant::Python, None, "tritonserver-python:1@sha256:11", "tritonserver-python:1@sha256:11");
        check_variant(ImageVariant::Python, None, "registry/-full:1", "registry/-full-python:1");
    }

    #[test]
    fn a_default_digest_is_not_carried_to_another_tag_or_repository() {
        let default = "triton:1.0@sha256:11";
        check(None, Some("2.0"), None, default, "triton:2.0");
        check(Some("mirror/triton"), None, None, default, "mirror/triton:1.0");
        check(None, None, None, default, default);
    }
}
