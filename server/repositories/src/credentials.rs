//! Which credentials a repository is read with. Decisions only: variables and the texts of files come in, a [`Credential`]
//! goes out. A file of Triton's (`TRITON_CLOUD_CREDENTIAL_PATH`) decides alone; without one, the variables of each cloud do.

use std::collections::HashMap;

use serde::Deserialize;

use crate::{
    aws_profile::{Profile, ProfileFiles},
    location::{Location, Store},
};

/// Looks up an environment variable. One that is empty is not set.
pub type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The variable that names the file with all credentials.
pub(crate) const FILE: &str = "TRITON_CLOUD_CREDENTIAL_PATH";

/// What a client is made with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Credential {
    pub(crate) of: Cloud,
    /// Where it comes from; for messages.
    pub(crate) source: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cloud {
    S3 {
        keys: S3Keys,
        region: Option<String>,
        endpoint: Option<String>,
    },
    /// A file of Google's, else the machine's own account.
    Gcs {
        file: Option<String>,
        endpoint: Option<String>,
    },
    Azure {
        account: Option<String>,
        how: AzureAccess,
        endpoint: Option<String>,
    },
}

#[derive(Clone, PartialEq)]
pub(crate) enum S3Keys {
    Given {
        key_id: String,
        secret: String,
        token: Option<String>,
    },
    /// A role that a token in a file may take.
    WebIdentity {
        token_file: String,
        role: String,
        session: Option<String>,
        sts_endpoint: Option<String>,
    },
    /// The path, or the URL and the file with its token, of a container's credentials.
    Container {
        relative: Option<String>,
        full: Option<String>,
        token_file: Option<String>,
    },
    /// The machine's own role, else requests that are not signed.
    Machine,
    Unsigned,
}

#[derive(Clone, PartialEq)]
pub(crate) enum AzureAccess {
    Key(String),
    /// The identity of the machine, or the one named.
    ManagedIdentity(Option<String>),
    /// The variables of Azure's own tools, else the identity of the machine.
    Default,
    /// Anybody may read.
    Unsigned,
}

/// The file that groups all credentials, by scheme and by what a URL begins with.
///
/// Source: Triton user guide, "Cloud Storage with Credential file".
#[derive(Debug, Default, Deserialize)]
pub(crate) struct CredentialFile {
    #[serde(default)]
    gs: HashMap<String, String>,
    #[serde(default)]
    s3: HashMap<String, S3Entry>,
    #[serde(default, rename = "as")]
    azure: HashMap<String, AzureEntry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct S3Entry {
    secret_key: String,
    key_id: String,
    region: String,
    session_token: String,
    profile: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct AzureEntry {
    account_str: String,
    account_key: String,
    auth_type: String,
    client_id: String,
}

/// Reads the text of the file. Errors: it is no such JSON; secrets are not part of the sentence.
pub(crate) fn parse_file(path: &str, text: &str) -> Result<CredentialFile, String> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let what = match error.classify() {
            serde_json::error::Category::Data => "is not as the user guide describes it",
            _ => "is no JSON",
        };
        format!("the credentials file '{path}' ({FILE}) {what} at line {line} column {column}")
    })
}

/// The credentials of a repository. `file` is the file with its path where [`FILE`] names one; `profiles` are AWS' own.
///
/// Errors: nothing in the file is for this URL, or what is there cannot be used; a sentence.
pub(crate) fn choose(
    location: &Location,
    variables: &Variables,
    file: Option<(&str, &CredentialFile)>,
    profiles: &ProfileFiles,
) -> Result<Credential, String> {
    let (entries, path) = match file {
        Some((path, file)) => (Some(file), path),
        None => (None, ""),
    };
    let url = location.to_string();
    let no_match =
        || format!("Cannot match credential for path {url} in '{path}' ({FILE}): add an entry for it or for \"\"");
    let entry_source = |name: &str| format!("the entry \"{name}\" of '{path}' ({FILE})");
    match (&location.store, entries) {
        (Store::S3 { .. }, Some(file)) => {
            let (name, entry) = longest(&file.s3, &url).ok_or_else(no_match)?;
            s3(entry, variables, profiles, entry_source(name))
        }
        (Store::S3 { .. }, None) => {
            let of = |name| variables(name).unwrap_or_default();
            let entry = S3Entry {
                secret_key: of("AWS_SECRET_ACCESS_KEY"),
                key_id: of("AWS_ACCESS_KEY_ID"),
                region: variables("AWS_DEFAULT_REGION").or_else(|| variables("AWS_REGION")).unwrap_or_default(),
                session_token: of("AWS_SESSION_TOKEN"),
                profile: of("AWS_PROFILE"),
            };
            s3(&entry, variables, profiles, "AWS_ACCESS_KEY_ID".into())
        }
        (Store::Gcs { .. }, Some(file)) => {
            let (name, entry) = longest(&file.gs, &url).ok_or_else(no_match)?;
            Ok(gcs(set(entry), variables, entry_source(name)))
        }
        (Store::Gcs { .. }, None) => {
            Ok(gcs(variables("GOOGLE_APPLICATION_CREDENTIALS"), variables, "GOOGLE_APPLICATION_CREDENTIALS".into()))
        }
        (Store::Azure { .. }, Some(file)) => {
            let (name, entry) = longest(&file.azure, &url).ok_or_else(no_match)?;
            azure(entry, variables, entry_source(name))
        }
        (Store::Azure { .. }, None) => {
            let of = |name| variables(name).unwrap_or_default();
            let entry = AzureEntry {
                account_str: of("AZURE_STORAGE_ACCOUNT"),
                account_key: of("AZURE_STORAGE_KEY"),
                auth_type: of("AZURE_STORAGE_AUTH_TYPE"),
                client_id: of("AZURE_STORAGE_CLIENT_ID"),
            };
            azure(&entry, variables, "AZURE_STORAGE_KEY".into())
        }
    }
}

/// The entry whose name is the longest that the URL begins with.
fn longest<'a, T>(entries: &'a HashMap<String, T>, url: &str) -> Option<(&'a str, &'a T)> {
    let matching = entries.iter().filter(|(name, _)| url.starts_with(name.trim_end_matches('/')));
    matching.max_by_key(|(name, _)| name.len()).map(|(name, entry)| (name.as_str(), entry))
}

/// Keys that are given, else those of the profile, else what the environment of a container or machine offers.
fn s3(entry: &S3Entry, variables: &Variables, profiles: &ProfileFiles, given_by: String) -> Result<Credential, String> {
    let variable_endpoint = || variables("AWS_ENDPOINT_URL_S3").or_else(|| variables("AWS_ENDPOINT_URL"));
    let credential = |keys, region: Option<String>, endpoint: Option<String>, source| {
        let endpoint = variable_endpoint().or(endpoint);
        Credential { of: Cloud::S3 { keys, region: set(&entry.region).or(region), endpoint }, source }
    };
    match (set(&entry.key_id), set(&entry.secret_key)) {
        (Some(key_id), Some(secret)) => {
            let keys = S3Keys::Given { key_id, secret, token: set(&entry.session_token) };
            return Ok(credential(keys, None, None, given_by));
        }
        (Some(_), None) => return Err(format!("{given_by} gives a key's id without its secret")),
        (None, Some(_)) => return Err(format!("{given_by} gives a secret key without its id")),
        (None, None) => {}
    }
    let named = set(&entry.profile);
    let Profile { keys, region, endpoint, unsupported } = match &named {
        Some(name) => profiles.profile(name).ok_or_else(|| {
            format!(
                "the profile '{name}' is neither in '{}' nor in '{}'",
                profiles.credentials_path, profiles.config_path
            )
        })?,
        None => profiles.profile("default").unwrap_or_default(),
    };
    let name = named.as_deref().unwrap_or("default");
    if let Some((key_id, secret, token)) = keys {
        let source = format!("the profile '{name}' of '{}'", profiles.credentials_path);
        return Ok(credential(S3Keys::Given { key_id, secret, token }, region, endpoint, source));
    }
    if let (Some(_), Some(setting)) = (&named, unsupported) {
        return Err(format!(
            "the profile '{name}' gets its keys by {setting}, which this server does not do: give aws_access_key_id and \
             aws_secret_access_key"
        ));
    }
    let (keys, source) = from_surroundings(variables);
    Ok(credential(keys, region, endpoint, source.to_owned()))
}

fn from_surroundings(variables: &Variables) -> (S3Keys, &'static str) {
    if let (Some(token_file), Some(role)) = (variables("AWS_WEB_IDENTITY_TOKEN_FILE"), variables("AWS_ROLE_ARN")) {
        let session = variables("AWS_ROLE_SESSION_NAME");
        let sts_endpoint = variables("AWS_ENDPOINT_URL_STS");
        let keys = S3Keys::WebIdentity { token_file, role, session, sts_endpoint };
        return (keys, "AWS_WEB_IDENTITY_TOKEN_FILE");
    }
    let relative = variables("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let full = variables("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let token_file = variables("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    if relative.is_some() || (full.is_some() && token_file.is_some()) {
        return (S3Keys::Container { relative, full, token_file }, "the container's credentials");
    }
    if variables("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return (S3Keys::Unsigned, "nowhere: requests are not signed");
    }
    (S3Keys::Machine, "the machine's role")
}

fn gcs(file: Option<String>, variables: &Variables, given_by: String) -> Credential {
    let source = if file.is_some() { given_by } else { "the machine's account".into() };
    let endpoint = variables("CLOUD_STORAGE_EMULATOR_ENDPOINT").or_else(|| variables("STORAGE_EMULATOR_HOST"));
    Credential { of: Cloud::Gcs { file, endpoint }, source }
}

fn azure(entry: &AzureEntry, variables: &Variables, given_by: String) -> Result<Credential, String> {
    let (how, source) = match (entry.auth_type.as_str(), set(&entry.account_key)) {
        ("managed_identity", _) => {
            (AzureAccess::ManagedIdentity(set(&entry.client_id)), "the machine's managed identity".to_owned())
        }
        ("default", _) => (AzureAccess::Default, "Azure's default chain".to_owned()),
        ("" | "key", Some(key)) => (AzureAccess::Key(key), given_by),
        ("" | "key", None) => (AzureAccess::Unsigned, "nowhere: requests are not signed".to_owned()),
        (other, _) => {
            return Err(format!(
                "the authentication type '{other}' is unknown: expected key, managed_identity or default"
            ));
        }
    };
    let endpoint = variables("AZURE_STORAGE_ENDPOINT");
    Ok(Credential { of: Cloud::Azure { account: set(&entry.account_str), how, endpoint }, source })
}

fn set(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl std::fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given { .. } => "Given",
            Self::WebIdentity { .. } => "WebIdentity",
            Self::Container { .. } => "Container",
            Self::Machine => "Machine",
            Self::Unsigned => "Unsigned",
        })
    }
}

impl std::fmt::Debug for AzureAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key",
            Self::ManagedIdentity(_) => "ManagedIdentity",
            Self::Default => "Default",
            Self::Unsigned => "Unsigned",
        })
    }
}

#[cfg(test)]
mod tests;
