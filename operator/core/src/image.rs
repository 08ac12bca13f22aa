//! Which image a server runs: what its spec says, completed from the operator's default image.

use crds::parts::image::Image;

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
    let names_neither = image.tag.is_none() && image.digest.is_none();
    let is_same_repository = image.repository.as_deref().is_none_or(|repository| repository == default.repository);
    join(Parts {
        repository: image.repository.as_deref().unwrap_or(default.repository),
        tag: image.tag.as_deref().or(default.tag.filter(|_| names_neither)),
        // a digest means one image of one repository
        digest: image.digest.as_deref().or(default.digest.filter(|_| names_neither && is_same_repository)),
    })
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

    #[test]
    fn a_default_digest_is_not_carried_to_another_tag_or_repository() {
        let default = "triton:1.0@sha256:11";
        check(None, Some("2.0"), None, default, "triton:2.0");
        check(Some("mirror/triton"), None, None, default, "mirror/triton:1.0");
        check(None, None, None, default, default);
    }
}
