//! References to images and artifacts in registries, as `docker pull` and `oras pull` take them. Pure text.
//!
//! Source: the grammar of the reference package of github.com/distribution/reference; what is left out means `docker.io`,
//! `library/` and `latest`, as everywhere.

use std::fmt;

/// Registry of references that name none.
const DOCKER_HUB: &str = "docker.io";
/// Where that one answers.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// An image or artifact: `[oci://][REGISTRY/]NAME[:TAG][@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Registry as the user knows it: host and port.
    pub registry: String,
    /// Name of the repository within the registry, such as `library/busybox`.
    pub repository: String,
    /// Tag, where there is one; `latest` where there is neither tag nor digest.
    pub tag: Option<String>,
    /// Digest, such as `sha256:` and 64 hexadecimal digits. It wins over the tag.
    pub digest: Option<String>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no reference to an image: {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// Reads a reference. `oci://` before it, as other tools want it, is taken and means nothing.
    ///
    /// Errors: says which part is not as registries take it.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |why| ReferenceError { text: text.escape_debug().to_string(), why };
        let rest = text.strip_prefix("oci://").unwrap_or(text);
        if rest.contains("://") {
            return Err(wrong("write it without a scheme, as registry.example/name:tag"));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(wrong("a digest is sha256: and 64 lower-case hexadecimal digits")),
            None => (rest, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if names_a_host(first) => (Some(first), rest),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if is_tag(tag) => (repository, Some(tag.to_owned())),
            Some(_) => return Err(wrong("a tag has up to 128 letters, digits, '_', '.' and '-'")),
            None => (rest, None),
        };
        if registry.is_some_and(|registry| !is_host(registry)) {
            return Err(wrong("its registry is no host"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(wrong(
                "names have lower-case letters and digits, separated by '.', '_', '-' or '/', and up to 255 characters",
            ));
        }
        let registry = registry.unwrap_or(DOCKER_HUB);
        let is_official = registry == DOCKER_HUB && !repository.contains('/');
        let repository = if is_official { format!("library/{repository}") } else { repository.to_owned() };
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Host and port that answer for the registry.
    pub fn host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_HOST } else { &self.registry }
    }

    /// What the registry is asked for: the digest, else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether it is a SHA-256 digest: the one algorithm registries use.
pub fn is_digest(text: &str) -> bool {
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(is_hex))
}

/// The first part of a reference is a host if it cannot be the first part of a name.
fn names_a_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

/// `host`, `host:port`, or `[IPv6]:port`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            let is_v6 = v6.parse::<std::net::Ipv6Addr>().is_ok();
            (if is_v6 { "v6" } else { "" }, rest.strip_prefix(':').or((!rest.is_empty()).then_some("")))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    host.len() <= 253 && host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    matches!(tag.as_bytes(), [first, ..] if word(*first))
        && tag.len() <= 128
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Lower-case letters and digits; between them one '.', one or two '_', or any number of '-'.
fn is_component(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator =
        |separator: &str| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
    part.starts_with(is_plain) && part.ends_with(is_plain) && part.split(is_plain).all(is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(text: &str, host: &str, repository: &str, version: &str, shown: &str) {
        let reference = Reference::parse(text).unwrap();
        let found = (reference.host(), reference.repository.as_str(), reference.version(), reference.to_string());
        assert_eq!(found, (host, repository, version, shown.to_owned()));
        assert_eq!(Reference::parse(&reference.to_string()), Ok(reference), "it reads its own text");
    }

    #[test]
    fn references_are_read_as_other_tools_read_them() {
        check("busybox", "registry-1.docker.io", "library/busybox", "latest", "docker.io/library/busybox:latest");
        check("a/b:v1", "registry-1.docker.io", "a/b", "v1", "docker.io/a/b:v1");
        check("localhost/net", "localhost", "net", "latest", "localhost/net:latest");
        check("localhost:5000/m/net:1.0_x", "localhost:5000", "m/net", "1.0_x", "localhost:5000/m/net:1.0_x");
        check("[::1]:5000/net", "[::1]:5000", "net", "latest", "[::1]:5000/net:latest");
        check("oci://r.example/a--b/c__d.e:T", "r.example", "a--b/c__d.e", "T", "r.example/a--b/c__d.e:T");
        let both = format!("r.example/net:v1@{DIGEST}");
        check(&both, "r.example", "net", DIGEST, &both);
        let digest = format!("r.example/net@{DIGEST}");
        check(&digest, "r.example", "net", DIGEST, &digest);
    }

    #[test]
    fn what_no_registry_takes_is_refused_with_what_is_wrong() {
        for (text, why) in [
            ("", "names have"),
            ("https://r.example/net", "without a scheme"),
            ("oci://https://r.example/net", "without a scheme"),
            ("r.example/", "names have"),
            ("r.example/Net", "names have"),
            ("r.example/a//b", "names have"),
            ("r.example/../etc", "names have"),
            ("r.example/a___b", "names have"),
            ("r.example/net:", "a tag has"),
            ("r.example/net:v 1", "a tag has"),
            ("r.example/net:-v", "a tag has"),
            ("r.example:port/net", "no host"),
            ("r.example:0/net", "no host"),
            ("-r.example/net", "no host"),
            ("user@r.example/net", "a digest is"),
            ("r.example/net@sha256:abc", "a digest is"),
            ("r.example/net@md5:0123456789abcdef0123456789abcdef", "a digest is"),
            ("net\n", "names have"),
            ("[::zz]:5000/net", "no host"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
