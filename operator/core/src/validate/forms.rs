//! What a text must be to name something: a path inside a folder, an address.

use crate::text;

/// Why a path that should name something below a folder does not.
pub(super) fn leaves_its_folder(path: &str) -> Option<&'static str> {
    if path.starts_with('/') {
        return Some("is absolute");
    }
    if path.contains(|c| c == '\\' || text::is_hidden(c)) {
        return Some("has a character that paths here cannot have");
    }
    path.split('/').find_map(|part| match part {
        ".." => Some("leaves its folder by '..'"),
        "" => Some("has an empty part"),
        "." => Some("has a part '.'"),
        _ => None,
    })
}

/// Whether `uri` is `http(s)://HOST[:PORT][/...]` without white space or a fragment.
pub(super) fn is_http_uri(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")) else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    !host.is_empty() && !rest[host.len()..].starts_with('#') && !uri.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::leaves_its_folder;

    #[test]
    fn only_paths_below_their_folder_are_taken() {
        for path in ["1/model.onnx", "a", "a..b/c", "..a", "1/.hidden"] {
            assert_eq!(leaves_its_folder(path), None, "{path}");
        }
        for path in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\0",
            "con\nfig",
            "\u{1b}[31m",
            "\u{202e}gpj.a",
        ] {
            assert!(leaves_its_folder(path).is_some(), "{path}");
        }
    }
}
