//! What opens a registry: `.dockerconfigjson` as `docker login` and `kubectl create secret docker-registry` write it, or a user
//! name and a password. Pure but for reading the mounted Secret.

use std::{collections::BTreeMap, fs, io};

use base64::{Engine as _, engine::general_purpose};
use operator_core::reference::Reference;
use serde::Deserialize;

use crate::{
    fault::{Fault, Reason},
    source::places::Mounts,
};

/// Longest `.dockerconfigjson`: no Secret is longer.
const LONGEST: u64 = 1 << 20;

/// What a user of a registry has.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// User name and password.
    Password(String, String),
    /// A token that is exchanged for others.
    Identity(String),
}

impl Login {
    /// What the mounted Secret has for the registry of `reference`.
    ///
    /// Errors: `CredentialsMissing`, saying what the Secret lacks.
    pub(super) fn read(secrets: &Mounts, name: &str, reference: &Reference) -> Result<Self, Fault> {
        let missing = |what: String| Fault::new(Reason::CredentialsMissing, format!("Secret '{name}' {what}"));
        let folder = secrets.find(name).ok_or_else(|| missing(format!("is not mounted: {}", secrets.places(name))))?;
        let config = folder.join(".dockerconfigjson");
        if fs::metadata(&config).is_ok_and(|metadata| metadata.len() > LONGEST) {
            return Err(missing(format!("has a .dockerconfigjson of more than {LONGEST} bytes")));
        }
        match fs::read(&config) {
            Ok(text) => Self::of_docker_config(&text, reference).map_err(missing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = |key: &str| fs::read_to_string(folder.join(key)).ok().map(|text| text.trim().to_owned());
                match (key("username"), key("password")) {
                    (Some(user), Some(password)) => Ok(Self::Password(user, password)),
                    _ => {
                        Err(missing("is absent, or has neither .dockerconfigjson nor username and password".to_owned()))
                    }
                }
            }
            Err(error) => Err(missing(format!("cannot be read: {error}"))),
        }
    }

    /// What a `.dockerconfigjson` has for the registry of `reference`; of several entries, the one about most of its path. Errors:
    /// a sentence about the Secret.
    fn of_docker_config(text: &[u8], reference: &Reference) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(default)]
            auths: BTreeMap<String, Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            auth: String,
            #[serde(default)]
            username: String,
            #[serde(default)]
            password: String,
            #[serde(default)]
            identitytoken: String,
        }
        // the text is secret: an error names its place and not what stands there
        let config: Config = serde_json::from_slice(text).map_err(|error| {
            format!(
                "has a .dockerconfigjson that is not as docker writes it (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let best = config
            .auths
            .iter()
            .filter_map(|(place, entry)| Some((matching(place, reference)?, entry)))
            .max_by_key(|(length, _)| *length);
        let Some((_, entry)) = best else {
            let known: Vec<&str> = config.auths.keys().map(String::as_str).collect();
            return Err(format!("has no entry for {} (it has {})", reference.registry, list(&known)));
        };
        if !entry.identitytoken.is_empty() {
            return Ok(Self::Identity(entry.identitytoken.clone()));
        }
        if !entry.username.is_empty() {
            return Ok(Self::Password(entry.username.clone(), entry.password.clone()));
        }
        let decoded =
            general_purpose::STANDARD.decode(&entry.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':')) {
            Some((user, password)) if !user.is_empty() => Ok(Self::Password(user.to_owned(), password.to_owned())),
            _ => Err(format!("has an entry for {} without username and password", reference.registry)),
        }
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
}

/// How much of the reference an entry is about, in bytes; `None` if it is about something else. Entries are hosts or addresses,
/// with or without a path; `*` stands for one part of a host's name.
fn matching(place: &str, reference: &Reference) -> Option<usize> {
    let place = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path }; // the API's own, as docker login writes it
    let is_docker_hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let is_host = host.eq_ignore_ascii_case(&reference.registry)
        || (is_docker_hub(host) && is_docker_hub(&reference.registry))
        || matches_parts(host, &reference.registry);
    let rest = reference.repository.strip_prefix(path)?;
    (is_host && (path.is_empty() || rest.is_empty() || rest.starts_with('/'))).then_some(path.len())
}

fn matches_parts(pattern: &str, host: &str) -> bool {
    let (pattern, host): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len() && pattern.iter().zip(&host).all(|(pattern, part)| *pattern == "*" || pattern == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[track_caller]
    fn check(config: &str, image: &str, user: &str) {
        match Login::of_docker_config(config.as_bytes(), &reference(image)) {
            Ok(Login::Password(found, password)) => assert_eq!((found.as_str(), password.as_str()), (user, "pw")),
            Ok(Login::Identity(token)) => assert_eq!(token, user),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_entry_of_the_registry_is_taken() {
        let encoded = general_purpose::STANDARD.encode("me:pw");
        let config = format!(
            r#"{{"auths":{{
                "r.example":{{"username":"all","password":"pw"}},
                "r.example/team":{{"auth":"{encoded}"}},
                "https://index.docker.io/v1/":{{"username":"hub","password":"pw","auth":"ignored"}},
                "*.dkr.example":{{"username":"star","password":"pw"}},
                "localhost:5000":{{"identitytoken":"refresh"}}}},
              "credsStore":"other"}}"#
        );
        check(&config, "r.example/net", "all");
        check(&config, "r.example/teams/net", "all");
        check(&config, "r.example/team/net", "me");
        check(&config, "busybox", "hub");
        check(&config, "a.dkr.example/net", "star");
        check(&config, "localhost:5000/net", "refresh");
        for other in ["other.example/net", "a.b.dkr.example/net", "localhost:5001/net", "xr.example/net"] {
            let Err(error) = Login::of_docker_config(config.as_bytes(), &reference(other)) else { panic!("{other}") };
            assert!(error.contains("has no entry for") && error.contains("r.example/team"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_what_is_in_it() {
        let secret = "c2VjcmV0";
        for (config, saying) in [
            (format!(r#"{{"auths":{{"r.example":{{"auth":"{secret}"}}}}}}"#), "without username and password"),
            (format!(r#"{{"auths":{{"r.example":{{"auth":7}}}},"x":"{secret}"}}"#), "not as docker writes it"),
            (secret.to_owned(), "not as docker writes it"),
            ("{}".to_owned(), "it has none at all"),
        ] {
            let Err(error) = Login::of_docker_config(config.as_bytes(), &reference("r.example/net")) else { panic!() };
            assert!(error.contains(saying) && !error.contains(secret) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_mounted_secret_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, keys: &[(&str, &str)]| {
            fs::create_dir(root.path().join(name)).unwrap();
            keys.iter().for_each(|(key, value)| fs::write(root.path().join(name).join(key), value).unwrap());
        };
        write("config", &[(".dockerconfigjson", r#"{"auths":{"r.example":{"username":"u","password":"pw"}}}"#)]);
        write("basic", &[("username", "u\n"), ("password", "pw\n")]);
        write("half", &[("username", "u")]);
        let secrets = Mounts { below: vec![root.path().to_owned()], ..Mounts::default() };
        let read = |name: &str| Login::read(&secrets, name, &reference("r.example/net"));
        for name in ["config", "basic"] {
            assert!(read(name).unwrap() == Login::Password("u".into(), "pw".into()), "{name}");
        }
        for (name, saying) in [("half", "neither .dockerconfigjson"), ("absent", "is not mounted")] {
            let Err(fault) = read(name) else { panic!("{name}") };
            assert!(fault.reason == Reason::CredentialsMissing && fault.message.contains(saying), "{fault}");
        }
    }
}
