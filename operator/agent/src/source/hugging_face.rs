//! A repository of the Hugging Face Hub, or of a server with the same interface. A revision is resolved to a commit once, all files
//! are of that commit, and each is checked against what the commit says it is. The token goes to the hub and not to where it
//! redirects.

mod api;
mod include;

use std::{path::Path, sync::Arc};

use reqwest::{
    StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK},
};

use self::api::{Refusal, RepoFile};
use super::{
    ask,
    client::{Answer, HttpClient, HttpError},
    download::Download,
    guard::AddressRule,
    http::Credentials,
    places::Mounts,
    progress::{Fetched, Progress},
};
use crate::{
    fault::{Fault, Reason},
    files::blocking,
    verify::{self, Files},
};

/// Longest answer about a repository, and longest page of a listing: the hub's pages have a thousand files.
const ANSWER_MAX: usize = 16 << 20;

/// Pages of a listing that are read.
const PAGES_MAX: usize = 1000;

/// Names of files that are told where none of them is wanted.
const TOLD: usize = 8;

/// A repository to fetch from.
pub struct HuggingFace<'a> {
    /// Address of the hub.
    pub endpoint: &'a str,
    /// Name of the repository.
    pub repo: &'a str,
    /// Commit, tag or branch.
    pub revision: &'a str,
    /// Patterns of the files taken.
    pub include: &'a [String],
    /// Name of the Secret with the token.
    pub secret: Option<&'a str>,
}

impl HuggingFace<'_> {
    /// Brings the files into the folder `into`.
    ///
    /// Errors: `CredentialsMissing`, `SourceNotFound`, `AddressRefused`, `DownloadFailed`, `InvalidSource`, `StoreFailed`.
    pub async fn fetch(
        &self,
        rule: &Arc<AddressRule>,
        secrets: &Mounts,
        into: &Path,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, Fault> {
        let mut headers = HeaderMap::new();
        if let Some(name) = self.secret {
            headers.insert(AUTHORIZATION, token(secrets, name)?);
        }
        let hub = Hub { source: self, client: HttpClient::new(rule, progress.limits())?, headers, progress };
        let commit = hub.commit().await?;
        let wanted = hub.files(&commit).await?;
        let total = wanted.iter().fold(0, |sum: u64, file| sum.saturating_add(file.length));
        ask::expect(progress, total).await?;
        let mut files = Files::new();
        for file in wanted {
            let hash = hub.download(&commit, &file, into).await?;
            files.insert(file.path, hash);
        }
        progress.verifying();
        Ok(Fetched { hash: verify::hash_of_folder(&files), files, is_bare: false })
    }
}

/// A repository while it is asked.
struct Hub<'a> {
    source: &'a HuggingFace<'a>,
    client: HttpClient,
    headers: HeaderMap,
    progress: &'a Arc<Progress>,
}

impl Hub<'_> {
    /// The commit that the revision means now.
    async fn commit(&self) -> Result<String, Fault> {
        let revision = self.source.revision;
        if api::is_commit(revision) {
            return Ok(revision.to_owned());
        }
        let url = self.url(&["api", "models"], &["revision", revision])?;
        let answer = self.ask(&url).await?;
        api::commit(&answer.0)
    }

    /// The files of the commit that are wanted.
    async fn files(&self, commit: &str) -> Result<Vec<RepoFile>, Fault> {
        let first = self.url(&["api", "models"], &["tree", commit])?;
        let mut url = first.clone();
        url.set_query(Some("recursive=true"));
        let (mut wanted, mut others) = (Vec::new(), Vec::new());
        for _ in 0..PAGES_MAX {
            let (answer, next) = self.ask(&url).await?;
            for file in api::files(&answer)? {
                if include::is_taken(&file.path, self.source.include) {
                    wanted.push(file);
                } else if others.len() < TOLD {
                    others.push(file.path);
                }
            }
            let limit = self.progress.limits().files;
            if wanted.len() > limit {
                return Err(self.invalid(&format!("more than {limit} files: choose some of them by include")));
            }
            let Some(next) = next else { return self.chosen(commit, wanted, &others) };
            url = url.join(&next).map_err(|_| self.invalid("a listing whose next page has no address"))?;
            if url.origin() != first.origin() {
                return Err(self.invalid("a listing that goes on at another server"));
            }
        }
        Err(self.invalid(&format!("a listing of more than {PAGES_MAX} pages")))
    }

    /// What is fetched, which is at least one file and each file once.
    fn chosen(&self, commit: &str, mut wanted: Vec<RepoFile>, others: &[String]) -> Result<Vec<RepoFile>, Fault> {
        let HuggingFace { repo, include, .. } = self.source;
        if wanted.is_empty() {
            let has = if others.is_empty() { "no files at all".to_owned() } else { others.join(", ") };
            let asked =
                if include.is_empty() { String::new() } else { format!(" that matches {}", include.join(", ")) };
            let message = format!("'{repo}' has no file{asked} at commit {}; it has {has}", &commit[..12]);
            return Err(Fault::new(Reason::SourceNotFound, message));
        }
        wanted.sort_by(|a, b| a.path.cmp(&b.path));
        let is_inside = |folder: &str, path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        match wanted.windows(2).find(|pair| pair[0].path == pair[1].path || is_inside(&pair[0].path, &pair[1].path)) {
            Some(pair) => Err(self.invalid(&format!("'{}' twice", pair[0].path))),
            None => Ok(wanted),
        }
    }

    async fn download(&self, commit: &str, file: &RepoFile, into: &Path) -> Result<verify::FileHash, Fault> {
        let mut path = vec!["resolve", commit];
        path.extend(file.path.split('/'));
        let url = self.url(&[], &path)?;
        let explain = |answer: &Answer| self.refusal(answer);
        let mut download = Download::new(&self.client, url.as_str(), self.headers.clone());
        (download.is_part, download.is_fixed, download.length) = (true, true, Some(file.length));
        download.explain = Some(&explain);
        let to = into.join(&file.path);
        let downloaded = download.fetch(&to, self.progress).await?;
        let (name, digest) = (format!("'{}' of '{}'", file.path, self.source.repo), file.digest);
        let progress = Arc::clone(self.progress);
        blocking(move || digest.check(&name, &downloaded, &to, &progress).map(|()| downloaded.hash)).await
    }

    /// The body of an answer, and where the next page is.
    async fn ask(&self, url: &Url) -> Result<(Vec<u8>, Option<String>), Fault> {
        ask::patiently(self.progress, || async {
            let answer = self.client.get(url.as_str(), &self.headers).await?;
            if !answer.status().is_success() {
                return Err(self.refused(&answer));
            }
            let link = answer.headers().get(LINK).and_then(|link| api::next_page(link.to_str().ok()?));
            let next = link.map(str::to_owned);
            Ok((answer.bytes(ANSWER_MAX).await?.to_vec(), next))
        })
        .await
    }

    fn refused(&self, answer: &Answer) -> HttpError {
        HttpError { fault: self.refusal(answer), is_for_now: ask::is_for_now(answer.status()) }
    }

    fn refusal(&self, answer: &Answer) -> Fault {
        let HuggingFace { endpoint, repo, revision, secret, .. } = *self.source;
        let code = answer.headers().get("x-error-code").and_then(|code| code.to_str().ok());
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let more = if secret.is_some() { "" } else { "; with a token in secretRef it answers more of them" };
            return Fault::new(Reason::DownloadFailed, format!("{endpoint} has had too many requests from here{more}"));
        }
        Refusal { endpoint, repo, revision, secret, status: status.as_u16(), code }.fault()
    }

    /// The hub's address with these parts of a path before and behind the repository's name, each part written as it must be.
    fn url(&self, before: &[&str], behind: &[&str]) -> Result<Url, Fault> {
        let unfit = || Fault::new(Reason::InvalidSource, format!("'{}' is no address of a hub", self.source.endpoint));
        let mut url = Url::parse(self.source.endpoint).map_err(|_| unfit())?;
        url.path_segments_mut()
            .map_err(|()| unfit())?
            .pop_if_empty()
            .extend(before)
            .extend(self.source.repo.split('/'))
            .extend(behind);
        Ok(url)
    }

    fn invalid(&self, what: &str) -> Fault {
        Fault::new(Reason::InvalidSource, format!("'{}' at {} has {what}", self.source.repo, self.source.endpoint))
    }
}

/// The token of a mounted Secret, as the header it is sent in.
fn token(secrets: &Mounts, name: &str) -> Result<HeaderValue, Fault> {
    let missing = |what: &str| Fault::new(Reason::CredentialsMissing, format!("Secret '{name}' {what}"));
    let folder = secrets.find(name).ok_or_else(|| missing(&format!("is not mounted: {}", secrets.places(name))))?;
    let key = |key: &str| std::fs::read_to_string(folder.join(key)).ok().map(|text| text.trim().to_owned());
    let token = key("token").or_else(|| key("HF_TOKEN")).filter(|token| !token.is_empty());
    Credentials::Token(token.ok_or_else(|| missing("is absent, or has no token"))?).header()
}

#[cfg(test)]
mod tests;
