//! A registry that is asked: manifests and blobs of one repository, with the token or the password it wants.
//!
//! Source: the OCI distribution specification, and the token authentication of the distribution registry.

use std::{path::Path, sync::Arc};

use operator_core::reference::Reference;
use reqwest::{
    Method, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::{
    challenge::{self, Challenge},
    login::Login,
    manifest::{self, Layer},
};
use crate::{
    fault::{Fault, Reason},
    files::blocking,
    source::{
        ask,
        client::{Answer, HttpClient, HttpError, shown},
        download::{Download, Downloaded},
        http::Credentials,
        progress::Progress,
    },
};

/// Longest manifest: registries take no longer ones.
const MANIFEST_MAX: usize = 4 << 20;
/// Longest answer of a server of tokens, and longest list of errors.
const ANSWER_MAX: usize = 1 << 20;
/// Characters of a registry's own words that are told.
const WORDS_MAX: usize = 200;

/// One repository of a registry.
pub(super) struct Registry<'a> {
    client: HttpClient,
    reference: &'a Reference,
    scheme: &'static str,
    /// Name of the Secret, and what it has.
    secret: Option<(&'a str, Login)>,
    progress: &'a Arc<Progress>,
    /// The header that opens it, once it has said what it wants.
    authorization: Mutex<Option<HeaderValue>>,
}

impl<'a> Registry<'a> {
    pub(super) fn new(
        client: HttpClient,
        reference: &'a Reference,
        is_plain: bool,
        secret: Option<(&'a str, Login)>,
        progress: &'a Arc<Progress>,
    ) -> Self {
        let scheme = if is_plain { "http" } else { "https" };
        Self { client, reference, scheme, secret, progress, authorization: Mutex::default() }
    }

    /// The manifest of that tag or digest; what a digest names is what it says.
    pub(super) async fn manifest(&self, version: &str) -> Result<Vec<u8>, Fault> {
        let url = self.url("manifests", version);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPT));
        let text = ask::patiently(self.progress, || async {
            let answer = self.get(&url, &headers).await?;
            let told = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
            let told = told.map(str::to_owned);
            let text = answer.bytes(MANIFEST_MAX).await?.to_vec();
            let found = format!("sha256:{}", hex::encode(Sha256::digest(&text)));
            let wanted = if version.starts_with("sha256:") { Some(version.to_owned()) } else { told };
            match wanted.filter(|wanted| wanted.starts_with("sha256:") && *wanted != found) {
                Some(wanted) => {
                    let message =
                        format!("the manifest of {} came with {found}; it should have {wanted}", self.reference);
                    Err(HttpError { fault: Fault::new(Reason::DownloadFailed, message), is_for_now: true })
                }
                None => Ok(text),
            }
        });
        text.await
    }

    /// Brings a blob to the free path `to`, and checks it.
    pub(super) async fn blob(&self, layer: &Layer, to: &Path) -> Result<Downloaded, Fault> {
        let url = self.url("blobs", &layer.digest);
        let downloaded = match self.download(&url, layer, to).await {
            // a token may end before a long download does; the next one is asked for without
            Err(fault) if fault.reason == Reason::CredentialsMissing => {
                *self.authorization.lock().await = None;
                ask::patiently(self.progress, || self.authorize_for(&url)).await?;
                self.download(&url, layer, to).await?
            }
            result => result?,
        };
        let name = format!("the layer {} of {}", &layer.digest[..19.min(layer.digest.len())], self.reference);
        let (expected, to, progress) = (layer.expected(), to.to_owned(), Arc::clone(self.progress));
        let check = move || match expected {
            Some(expected) => expected.check(&name, &downloaded, &to, &progress),
            None => Err(Fault::new(Reason::InvalidSource, format!("{name} has no digest"))),
        };
        blocking(check).await.map(|()| downloaded)
    }

    async fn download(&self, url: &str, layer: &Layer, to: &Path) -> Result<Downloaded, Fault> {
        let explain = |answer: &Answer| self.refusal(answer.status(), None);
        let mut download = Download::new(&self.client, url, self.headers(&HeaderMap::new()).await);
        (download.is_part, download.is_fixed, download.length) = (true, true, Some(layer.length));
        download.explain = Some(&explain);
        download.fetch(to, self.progress).await
    }

    /// An answer with content. What the registry wants for it is asked for once.
    async fn get(&self, url: &str, headers: &HeaderMap) -> Result<Answer, HttpError> {
        let mut answer = self.client.get(url, &self.headers(headers).await).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.authorize(&answer).await?;
            answer = self.client.get(url, &self.headers(headers).await).await?;
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let words = words(&answer.bytes(ANSWER_MAX).await.unwrap_or_default());
        Err(HttpError { fault: self.refusal(status, words.as_deref()), is_for_now: ask::is_for_now(status) })
    }

    /// Asks for what opens a blob without fetching it.
    async fn authorize_for(&self, url: &str) -> Result<(), HttpError> {
        let answer = self.client.request(&Method::HEAD, url, &HeaderMap::new(), 0).await?;
        match answer.status() {
            StatusCode::UNAUTHORIZED => self.authorize(&answer).await,
            status if status.is_client_error() => {
                Err(HttpError { fault: self.refusal(status, None), is_for_now: ask::is_for_now(status) })
            }
            _ => Ok(()),
        }
    }

    async fn headers(&self, more: &HeaderMap) -> HeaderMap {
        let mut headers = more.clone();
        if let Some(value) = self.authorization.lock().await.clone() {
            headers.insert(AUTHORIZATION, value);
        }
        headers
    }

    /// Gets what the refusal asks for.
    async fn authorize(&self, refusal: &Answer) -> Result<(), HttpError> {
        let wanted = refusal.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let value = match (challenge::read(wanted), &self.secret) {
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                self.token(&realm, service.as_deref(), scope.as_deref()).await?
            }
            (Some(Challenge::Basic), Some((_, Login::Password(user, password)))) => {
                Credentials::Password(user.clone(), password.clone()).header().map_err(for_good)?
            }
            _ => return Err(for_good(self.refusal(StatusCode::UNAUTHORIZED, None))),
        };
        *self.authorization.lock().await = Some(value);
        Ok(())
    }

    /// A token for reading the repository.
    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<HeaderValue, HttpError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let failed = |what: &str| {
            let message = format!("{} wants a token of {}, {what}", self.reference.registry, shown(realm));
            for_good(Fault::new(Reason::DownloadFailed, message))
        };
        let mut url = Url::parse(realm).map_err(|_| failed("which is no address"))?;
        if self.scheme == "https" && url.scheme() != "https" {
            return Err(failed("which would get the credentials unprotected"));
        }
        let scope = scope.map_or_else(|| format!("repository:{}:pull", self.reference.repository), str::to_owned);
        let service = service.unwrap_or_default();
        let answer = match &self.secret {
            Some((_, Login::Identity(refresh))) => {
                let mut form = Url::parse("form:").map_err(|_| failed("and no form can be made"))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "triton-agent")
                    .append_pair("service", service)
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", refresh);
                let mut headers = HeaderMap::new();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                self.client.post(url.as_str(), &headers, form.query().unwrap_or_default().to_owned()).await?
            }
            secret => {
                url.query_pairs_mut().append_pair("service", service).append_pair("scope", &scope);
                let mut headers = HeaderMap::new();
                if let Some((_, Login::Password(user, password))) = secret {
                    let login = Credentials::Password(user.clone(), password.clone());
                    headers.insert(AUTHORIZATION, login.header().map_err(for_good)?);
                }
                self.client.get(url.as_str(), &headers).await?
            }
        };
        let status = answer.status();
        if !status.is_success() {
            return Err(HttpError { fault: self.refusal(status, None), is_for_now: ask::is_for_now(status) });
        }
        let token: Token = serde_json::from_slice(&answer.bytes(ANSWER_MAX).await?)
            .map_err(|_| failed("which answers with something else"))?;
        let token = token.token.or(token.access_token).ok_or_else(|| failed("which gives none"))?;
        Credentials::Token(token).header().map_err(for_good)
    }

    fn refusal(&self, status: StatusCode, words: Option<&str>) -> Fault {
        let (reference, registry) = (self.reference, &self.reference.registry);
        let words = words.map(|words| format!(" ({words})")).unwrap_or_default();
        let (reason, message) = match (status, &self.secret) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => (
                Reason::CredentialsMissing,
                format!(
                    "{registry} does not give {reference} to everybody{words}: check its name; if it is private, name a Secret of \
                     type kubernetes.io/dockerconfigjson in secretRef"
                ),
            ),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some((secret, _))) => (
                Reason::CredentialsMissing,
                format!(
                    "{registry} does not give {reference} to the user in Secret '{secret}'{words}: check the name, the password, \
                     and the user's rights"
                ),
            ),
            (StatusCode::NOT_FOUND, _) => (
                Reason::SourceNotFound,
                format!("{registry} has no {reference}{words}: check the name, and the tag or digest"),
            ),
            (StatusCode::TOO_MANY_REQUESTS, None) => (
                Reason::DownloadFailed,
                format!(
                    "{registry} has had too many requests from here{words}; with a Secret in secretRef it answers more of them"
                ),
            ),
            _ => (Reason::DownloadFailed, format!("{registry} answered {status} about {reference}{words}")),
        };
        Fault::new(reason, message)
    }

    fn url(&self, kind: &str, version: &str) -> String {
        let (host, repository) = (self.reference.host(), &self.reference.repository);
        format!("{}://{host}/v2/{repository}/{kind}/{version}", self.scheme)
    }
}

fn for_good(fault: Fault) -> HttpError {
    HttpError { fault, is_for_now: false }
}

/// A registry's own words about an error.
fn words(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let errors: Errors = serde_json::from_slice(body).ok()?;
    let first = errors.errors.first()?;
    let words = format!("{}: {}", first.code, first.message);
    Some(words.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect())
}
