//! A file or an archive behind an http or https address: downloaded whole, checked before anything is unpacked.

use std::{path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use crds::parts::source::Layout;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::{
    client::HttpClient,
    download::{Download, Downloaded},
    guard::AddressRule,
    places::Mounts,
    progress::{Fetched, Progress},
    unpack::Archive,
};
use crate::{
    fault::{Fault, Reason},
    files::blocking,
    verify::{self, Files},
};

/// What opens a protected address.
pub enum Credentials {
    /// Sent as a bearer token.
    Token(String),
    /// Sent as basic authentication.
    Password(String, String),
}

impl Credentials {
    /// Reads the mounted Secret: `token`, or `username` and `password`.
    pub fn read(secrets: &Mounts, name: &str) -> Result<Self, Fault> {
        let missing = |what: String| Fault::new(Reason::CredentialsMissing, what);
        let folder = secrets
            .find(name)
            .ok_or_else(|| missing(format!("Secret '{name}' is not mounted: {}", secrets.places(name))))?;
        let key = |key: &str| std::fs::read_to_string(folder.join(key)).ok().map(|text| text.trim().to_owned());
        match (key("token"), key("username"), key("password")) {
            (Some(token), _, _) => Ok(Self::Token(token)),
            (None, Some(user), Some(password)) => Ok(Self::Password(user, password)),
            _ => Err(missing(format!("Secret '{name}' is absent, or has neither token nor username and password"))),
        }
    }

    /// As a header; never shown in a log.
    pub fn header(&self) -> Result<HeaderValue, Fault> {
        let text = match self {
            Self::Token(token) => format!("Bearer {token}"),
            Self::Password(user, password) => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        };
        let unfit =
            |_| Fault::new(Reason::CredentialsMissing, "the Secret's token has characters that no header may have");
        let mut value = HeaderValue::from_str(&text).map_err(unfit)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// An address to fetch from.
pub struct HttpSource<'a> {
    /// The address.
    pub uri: &'a str,
    /// What opens it.
    pub credentials: Option<Credentials>,
    /// SHA-256 the downloaded bytes must have.
    pub checksum: Option<&'a str>,
    /// `File` keeps an archive packed.
    pub layout: Layout,
}

impl HttpSource<'_> {
    /// Downloads to `beside`, checks, and moves or unpacks into the folder `into`.
    pub async fn fetch(
        &self,
        rule: &Arc<AddressRule>,
        into: &Path,
        beside: &Path,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, Fault> {
        let client = HttpClient::new(rule, progress.limits())?;
        let mut headers = HeaderMap::new();
        if let Some(credentials) = &self.credentials {
            headers.insert(AUTHORIZATION, credentials.header()?);
        }
        let download = Download::new(&client, self.uri, headers);
        let Downloaded { hash, .. } = download.fetch(beside, progress).await?;
        progress.verifying();
        if let Some(expected) = self.checksum {
            verify::check(expected, &hash)?;
        }
        let name = file_name(self.uri);
        let archive = Archive::of(&name).filter(|_| self.layout != Layout::File);
        let (into, beside, progress) = (into.to_owned(), beside.to_owned(), Arc::clone(progress));
        blocking(move || {
            let moved = |error| Fault::store("cannot move the download", &error);
            let Some(archive) = archive else {
                std::fs::rename(&beside, into.join(&name)).map_err(moved)?;
                return Ok(Fetched { files: Files::from([(name, hash)]), is_bare: true, hash });
            };
            let files = archive.unpack(&beside, &into, &progress)?;
            std::fs::remove_file(&beside).map_err(moved)?;
            if files.is_empty() {
                return Err(Fault::new(Reason::InvalidSource, "the archive is empty"));
            }
            Ok(Fetched { files, is_bare: false, hash })
        })
        .await
    }
}

/// The name of the file behind an address.
pub(super) fn file_name(uri: &str) -> String {
    let address = uri.split(['?', '#']).next().unwrap_or(uri);
    let path = address.split_once("://").map_or(address, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("model");
    verify::clean_path(name).unwrap_or_else(|_| "model".to_owned())
}

#[cfg(test)]
mod tests;
