//! How a registry wants to be asked: the `WWW-Authenticate` header. Pure.
//!
//! Source: RFC 9110, section 11.6.1, and the token authentication of the distribution registry.

use std::collections::BTreeMap;

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of another server.
    Bearer {
        /// Address of that server.
        realm: String,
        /// What it calls the registry.
        service: Option<String>,
        /// What the token is to be for, where the registry says so.
        scope: Option<String>,
    },
    /// User name and password.
    Basic,
}

/// What a registry wants, out of the values of its headers; tokens before passwords. `None` if it is nothing known here.
pub(super) fn read<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.into_iter().flat_map(challenges).filter_map(known).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or_else(|| all.first()).cloned()
}

type Parameters = BTreeMap<String, String>;

fn known((scheme, mut parameters): (String, Parameters)) -> Option<Challenge> {
    match scheme.as_str() {
        "bearer" => Some(Challenge::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
            scope: parameters.remove("scope"),
        }),
        "basic" => Some(Challenge::Basic),
        _ => None,
    }
}

/// Schemes and parameters of one header, names in lower case. What cannot be read ends the list.
fn challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut all: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = word(rest);
        if word.is_empty() {
            return all;
        }
        let after_space = after.trim_start_matches([' ', '\t']);
        let Some(value) = after_space.strip_prefix('=') else {
            all.push((word.to_ascii_lowercase(), Parameters::new()));
            rest = after_space;
            continue;
        };
        let (Some((value, after)), Some((_, parameters))) = (value_of(value.trim_start()), all.last_mut()) else {
            return all;
        };
        parameters.insert(word.to_ascii_lowercase(), value);
        rest = after;
    }
}

/// The token that a text begins with.
fn word(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A value, in quotes or not; `None` if the quotes are never closed.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn what_registries_say_is_understood() {
        let docker = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#;
        let expect =
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/busybox:pull"));
        assert_eq!(read([docker]), Some(expect));
        assert_eq!(read([r#"Basic realm="Registry Realm""#]), Some(Challenge::Basic));
        assert_eq!(read(["basic"]), Some(Challenge::Basic));
        let both = r#"Basic realm="a, b=c", BEARER realm="https://r/\"t\"" , service=plain"#;
        assert_eq!(read([both]), Some(bearer("https://r/\"t\"", Some("plain"), None)));
        assert_eq!(read(["Basic realm=x", r#"Bearer realm="https://r/t""#]), Some(bearer("https://r/t", None, None)));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for junk in
            ["", ",,,", "Bearer", "Bearer service=x", "Negotiate abc", "=x", "Bearer realm=\"open", "é\"", "\"\\"]
        {
            assert_eq!(read([junk]), None, "{junk}");
        }
        assert_eq!(read([]), None);
    }
}
