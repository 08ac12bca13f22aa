//! AWS' own files with profiles: their text becomes keys, a region and an endpoint. Pure.

use std::collections::HashMap;

/// The two files, as read.
#[derive(Debug, Default)]
pub(crate) struct ProfileFiles {
    pub(crate) credentials_path: String,
    pub(crate) config_path: String,
    profiles: HashMap<String, HashMap<String, String>>,
}

/// What a profile says.
#[derive(Default)]
pub(crate) struct Profile {
    /// Id, secret, session token.
    pub(crate) keys: Option<(String, String, Option<String>)>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    /// A way to get keys that this server does not go.
    pub(crate) unsupported: Option<&'static str>,
}

/// Settings by which a profile gets keys from somewhere else.
const ELSEWHERE: [&str; 5] = ["role_arn", "credential_process", "sso_session", "sso_account_id", "source_profile"];

// === impl ProfileFiles ===

impl ProfileFiles {
    /// What the files say; a file that is not there says nothing. The credentials file counts more.
    pub(crate) fn of((credentials_path, credentials): (String, &str), (config_path, config): (String, &str)) -> Self {
        let mut profiles = HashMap::new();
        read(config, |section| section.strip_prefix("profile ").map(str::trim).or(default(section)), &mut profiles);
        read(credentials, Some, &mut profiles);
        Self { credentials_path, config_path, profiles }
    }

    /// The profile of a name, if a file has it.
    pub(crate) fn profile(&self, name: &str) -> Option<Profile> {
        let settings = self.profiles.get(name)?;
        let of = |key: &str| settings.get(key).filter(|value| !value.is_empty()).cloned();
        let keys = of("aws_access_key_id").zip(of("aws_secret_access_key"));
        Some(Profile {
            keys: keys.map(|(id, secret)| (id, secret, of("aws_session_token"))),
            region: of("region"),
            endpoint: of("endpoint_url"),
            unsupported: ELSEWHERE.into_iter().find(|setting| settings.contains_key(*setting)),
        })
    }
}

/// In the config file the default profile alone stands without the word.
fn default(section: &str) -> Option<&str> {
    (section == "default").then_some(section)
}

/// Adds the settings of each section that `name` knows as a profile. Lines that begin with a blank belong to a setting above.
fn read<'a>(
    text: &'a str,
    name: impl Fn(&'a str) -> Option<&'a str>,
    profiles: &mut HashMap<String, HashMap<String, String>>,
) {
    let mut profile = None;
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside) {
            profile = name(section.trim()).map(str::to_owned);
            if let Some(profile) = &profile {
                profiles.entry(profile.clone()).or_default();
            }
        } else if let (Some(profile), Some((key, value)), false) = (&profile, line.split_once('='), is_nested) {
            let settings = profiles.entry(profile.clone()).or_default();
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "
# keys
[default]
aws_access_key_id = AKIA1
aws_secret_access_key=s=e+c/r
[other]
aws_access_key_id = AKIA2
aws_secret_access_key = two
aws_session_token = tok
";
    const CONFIG: &str = "
[default]
region = eu-west-1
s3 =
  addressing_style = path
[profile other]
region = us-west-2
endpoint_url = http://minio:9000
[profile role]
role_arn = arn:aws:iam::1:role/x
[services x]
region = no
";

    #[test]
    fn profiles_of_both_files_are_one() {
        let files = ProfileFiles::of(("c".into(), CREDENTIALS), ("f".into(), CONFIG));
        let default = files.profile("default").unwrap();
        assert_eq!(default.keys, Some(("AKIA1".into(), "s=e+c/r".into(), None)));
        assert_eq!(default.region.as_deref(), Some("eu-west-1"));
        let other = files.profile("other").unwrap();
        assert_eq!(other.keys, Some(("AKIA2".into(), "two".into(), Some("tok".into()))));
        assert_eq!(other.endpoint.as_deref(), Some("http://minio:9000"));
        assert_eq!(files.profile("role").unwrap().unsupported, Some("role_arn"));
        assert!(files.profile("x").is_none() && files.profile("services x").is_none());
    }

    #[test]
    fn junk_is_no_profile() {
        let files = ProfileFiles::of(("c".into(), "[\n]\n[a\nb=c\n=\n[]\nx"), ("f".into(), "\0[default]\n= ="));
        assert!(files.profile("default").is_none());
        assert!(files.profile("a").is_none());
    }
}
