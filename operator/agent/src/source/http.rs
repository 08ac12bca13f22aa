//! A file or an archive behind an http or https address: streamed to disk, hashed on the way, checked before anything is
//! unpacked. A connection that breaks or falls silent is tried again a few times at once; patience beyond that is the
//! caller's.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use crds::parts::source::Layout;
use reqwest::{Client, StatusCode, header, redirect};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{Fetched, Limits, Mounts, Progress, blocking, unpack::Archive};
use crate::{
    fault::{Fault, Reason},
    verify::{self, FileHash, Files},
};

/// Pauses before a broken download is tried again.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// What opens a protected address.
pub enum Credentials {
    /// Sent as a bearer token.
    Token(String),
    /// Sent as basic authentication.
    Password(String, String),
}

/// A download to make.
pub struct Download<'a> {
    /// Address.
    pub uri: &'a str,
    /// What opens it.
    pub credentials: Option<Credentials>,
    /// SHA-256 the downloaded bytes must have.
    pub checksum: Option<&'a str>,
    /// `File` keeps an archive packed.
    pub layout: Layout,
}

/// One attempt that failed.
enum Broken {
    /// Trying again at once may help.
    ForNow(Fault),
    /// It will not.
    ForGood(Fault),
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
}

impl Download<'_> {
    /// Downloads to `beside`, checks, and moves or unpacks into the folder `into`.
    pub async fn fetch(&self, into: &Path, beside: &Path, progress: &Arc<Progress>) -> Result<Fetched, Fault> {
        let client = client(self.uri, progress.limits())?;
        let hash = self.download(&client, beside, progress).await?;
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

    async fn download(&self, client: &Client, to: &Path, progress: &Arc<Progress>) -> Result<FileHash, Fault> {
        let mut pauses = PAUSES.into_iter();
        loop {
            progress.check()?;
            progress.restart();
            match self.attempt(client, to, progress).await {
                Ok(hash) => return Ok(hash),
                Err(Broken::ForGood(fault)) => return Err(fault),
                Err(Broken::ForNow(fault)) => match pauses.next() {
                    Some(pause) => {
                        tracing::warn!(uri = %shown(self.uri), error = %fault.message, ?pause, "download broke off");
                        tokio::time::sleep(pause).await;
                    }
                    None => return Err(fault),
                },
            }
        }
    }

    async fn attempt(&self, client: &Client, to: &Path, progress: &Arc<Progress>) -> Result<FileHash, Broken> {
        let uri = shown(self.uri);
        let broken = |error: reqwest::Error| failed(&uri, &error);
        let mut request = client.get(self.uri);
        request = match &self.credentials {
            Some(Credentials::Token(token)) => request.bearer_auth(token),
            Some(Credentials::Password(user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let mut response = request.send().await.map_err(broken)?;
        refuse(&uri, response.status())?;
        let length =
            response.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if let Some(length) = length {
            progress.expect(length).map_err(Broken::ForGood)?;
        }

        // the disk has a thread of its own; the queue between holds a few pieces
        let (sender, pieces) = mpsc::channel::<Bytes>(16);
        let (path, counter) = (to.to_owned(), Arc::clone(progress));
        let writer = tokio::spawn(blocking(move || write(&path, pieces, &counter)));
        let received = async {
            while let Some(piece) = response.chunk().await? {
                if sender.send(piece).await.is_err() {
                    break; // the writer says why
                }
            }
            Ok(())
        }
        .await;
        drop(sender);
        let written = writer.await.unwrap_or_else(|error| Err(Fault::new(Reason::StoreFailed, error.to_string())));
        let (hash, bytes) = written.map_err(Broken::ForGood)?;
        received.map_err(broken)?;
        match length {
            Some(length) if length != bytes => Err(Broken::ForNow(Fault::new(
                Reason::DownloadFailed,
                format!("{uri} ended after {bytes} of {length} bytes"),
            ))),
            _ => Ok(hash),
        }
    }
}

/// Writes the pieces as they come. Returns hash and length.
fn write(path: &Path, mut pieces: mpsc::Receiver<Bytes>, progress: &Progress) -> Result<(FileHash, u64), Fault> {
    use std::io::Write;
    let fail = |error: std::io::Error| Fault::store("cannot write the download", &error);
    if path.exists() {
        std::fs::remove_file(path).map_err(fail)?; // of an attempt that broke off
    }
    let mut file = verify::create(path, false).map_err(fail)?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    while let Some(piece) = pieces.blocking_recv() {
        progress.add(piece.len() as u64)?;
        hasher.update(&piece);
        file.write_all(&piece).map_err(fail)?;
        bytes += piece.len() as u64;
    }
    file.sync_all().map_err(fail)?;
    Ok((hasher.finalize().into(), bytes))
}

/// A client with every wait bounded. Redirects may not leave https once they are there.
fn client(uri: &str, limits: &Limits) -> Result<Client, Fault> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("triton-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::custom(follow))
            .connect_timeout(limits.connect)
            .read_timeout(limits.silence)
    };
    let made = match builder().build() {
        // a machine without certificates can still reach what needs none
        Err(_) if uri.starts_with("http://") => builder().tls_certs_only([]).build(),
        made => made,
    };
    made.map_err(|error| Fault::new(Reason::DownloadFailed, format!("no HTTP client can be made: {}", chain(&error))))
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    if attempt.previous().len() > 5 {
        attempt.error("too many redirects")
    } else if was_secure && attempt.url().scheme() != "https" {
        attempt.error("redirected from https to an unprotected address")
    } else {
        attempt.follow()
    }
}

fn refuse(uri: &str, status: StatusCode) -> Result<(), Broken> {
    let say = |reason, what: &str| Fault::new(reason, format!("{uri} answered {status}{what}"));
    match status {
        status if status.is_success() && status != StatusCode::PARTIAL_CONTENT => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(Broken::ForGood(say(Reason::SourceNotFound, ""))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Broken::ForGood(say(Reason::CredentialsMissing, ": it wants other credentials")))
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Err(Broken::ForNow(say(Reason::DownloadFailed, "")))
        }
        status if status.is_server_error() => Err(Broken::ForNow(say(Reason::DownloadFailed, ""))),
        _ => Err(Broken::ForGood(say(Reason::DownloadFailed, ""))),
    }
}

fn failed(uri: &str, error: &reqwest::Error) -> Broken {
    let fault = Fault::new(Reason::DownloadFailed, format!("{uri}: {}", chain(error)));
    if error.is_redirect() || error.is_builder() { Broken::ForGood(fault) } else { Broken::ForNow(fault) }
}

/// The address without what may be secret in it.
fn shown(uri: &str) -> String {
    let uri = uri.split(['?', '#']).next().unwrap_or(uri);
    match uri.split_once("://").map(|(scheme, rest)| (scheme, rest, rest.split('/').next().and_then(|a| a.rfind('@'))))
    {
        Some((scheme, rest, Some(at))) => format!("{scheme}://{}", &rest[at + 1..]),
        _ => uri.to_owned(),
    }
}

/// The name of the file behind an address.
fn file_name(uri: &str) -> String {
    let address = uri.split(['?', '#']).next().unwrap_or(uri);
    let path = address.split_once("://").map_or(address, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("model");
    verify::clean_path(name).unwrap_or_else(|_| "model".to_owned())
}

/// An error with what lies under it, without the address (it may hold secrets) and without saying a thing twice.
fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    if error.is_timeout() && !parts.iter().any(|part| part.contains("timed out")) {
        parts.insert(0, "timed out".to_owned());
    }
    if parts.is_empty() { "the request failed".to_owned() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests;
