//! One file from an address to the disk: hashed on the way, gone on with where it broke off if the server can say that it is
//! still the same file. A connection that breaks is tried again a few times at once; patience beyond that is the caller's.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{self, HeaderMap, HeaderValue},
};
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, time::Instant};

use super::{
    client::{Answer, HttpClient, HttpError, LeastRate},
    progress::Progress,
};
use crate::{
    fault::{Fault, Reason},
    files::blocking,
    verify::{self, FileHash},
};

/// Pauses before a broken download is tried again.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// After an attempt that took so long and brought nothing, the next one is the caller's.
const LONG: Duration = Duration::from_secs(5);

/// Bytes that an attempt must bring for the ones after it to count anew.
const WORTHWHILE: u64 = 64 << 10;

/// A file to download.
pub struct Download<'a> {
    /// Asks for it.
    pub client: &'a HttpClient,
    /// Address.
    pub url: &'a str,
    /// Sent along; secret ones to the address' own server only.
    pub headers: HeaderMap,
    /// Part of a larger whole: its length is not what the progress is out of.
    pub is_part: bool,
    /// Its length in bytes, where somebody else has said so: more is not taken.
    pub length: Option<u64>,
    /// The address never has another content, and what comes is checked: an attempt goes on where the last one ended, whatever the
    /// server calls it.
    pub is_fixed: bool,
    /// What an answer without content means, for servers that say more than a status.
    pub explain: Option<&'a (dyn Fn(&Answer) -> Fault + Sync)>,
}

/// What was downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downloaded {
    /// SHA-256 of the bytes.
    pub hash: FileHash,
    /// How many they are.
    pub length: u64,
}

/// What has come so far, on disk.
struct Target {
    path: PathBuf,
    file: Option<File>,
    hasher: Sha256,
    length: u64,
    /// What the server calls this content; without it, an attempt begins at zero.
    validator: Option<HeaderValue>,
    /// Longest it may become.
    most: Option<u64>,
}

impl<'a> Download<'a> {
    /// A file of which nothing is known, all by itself.
    pub fn new(client: &'a HttpClient, url: &'a str, headers: HeaderMap) -> Self {
        Self { client, url, headers, is_part: false, length: None, is_fixed: false, explain: None }
    }

    /// Downloads to the free path `to`.
    ///
    /// Errors: `SourceNotFound`, `CredentialsMissing`, `AddressRefused`, `DownloadFailed`, `InvalidSource` if it is over a limit,
    /// `StoreFailed`.
    pub async fn fetch(&self, to: &Path, progress: &Arc<Progress>) -> Result<Downloaded, Fault> {
        let mut target = Target::new(to.to_owned(), self.length);
        let mut least = LeastRate::new(progress.limits(), Instant::now());
        let (mut pauses, mut furthest) = (PAUSES.into_iter(), 0);
        loop {
            progress.check()?;
            let began = Instant::now();
            let (back, result) = self.attempt(target, &mut least, progress).await;
            target = back;
            let error = match result {
                Ok(()) => return Ok(Downloaded { hash: target.hasher.finalize().into(), length: target.length }),
                Err(error) => error,
            };
            let brought = target.length.saturating_sub(furthest);
            if brought >= WORTHWHILE && (self.is_fixed || target.validator.is_some()) {
                (pauses, furthest) = (PAUSES.into_iter(), target.length);
            }
            let is_hopeless = !error.is_for_now || (brought == 0 && began.elapsed() >= LONG);
            let Some(pause) = pauses.next().filter(|_| !is_hopeless) else { return Err(error.fault) };
            tracing::warn!(error = %error.fault.message, got = target.length, ?pause, "download broke off");
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        mut target: Target,
        least: &mut LeastRate,
        progress: &Arc<Progress>,
    ) -> (Target, Result<(), HttpError>) {
        let mut headers = self.headers.clone();
        if target.length > 0 && (self.is_fixed || target.validator.is_some()) {
            headers.insert(header::RANGE, range(target.length));
            if let (Some(validator), false) = (&target.validator, self.is_fixed) {
                headers.insert(header::IF_RANGE, validator.clone());
            }
        }
        let mut answer = match self.client.get(self.url, &headers).await {
            Ok(answer) => answer,
            Err(error) => return (target, Err(error)),
        };
        let total = match begin(&answer, &mut target, progress, self.explain) {
            Ok(total) => total.or(self.length),
            Err(error) => return (target, Err(error)),
        };
        if let (Some(length), Some(total)) = (self.length, total)
            && length != total
        {
            let text = format!("{} has {total} bytes; it should have {length}", answer.shown());
            return (target, Err(HttpError { fault: Fault::new(Reason::DownloadFailed, text), is_for_now: false }));
        }
        if let (Some(total), false) = (total, self.is_part) {
            let progress = Arc::clone(progress);
            if let Err(fault) = blocking(move || progress.expect(total)).await {
                return (target, Err(HttpError { fault, is_for_now: false }));
            }
        }
        answer.count_from(least.clone());

        // the disk has a thread of its own; the queue between holds a few pieces
        let (sender, pieces) = mpsc::channel::<Bytes>(16);
        let counter = Arc::clone(progress);
        let path = target.path.clone();
        let writer = tokio::spawn(blocking(move || {
            let result = target.write(pieces, &counter);
            Ok((target, result))
        }));
        let received = async {
            while let Some(piece) = answer.piece().await? {
                if sender.send(piece).await.is_err() {
                    break; // the writer says why
                }
            }
            Ok(())
        }
        .await;
        drop(sender);
        *least = answer.least();
        let for_good = |fault| HttpError { fault, is_for_now: false };
        let written = match writer.await {
            Ok(Ok(written)) => written,
            Ok(Err(fault)) => return (Target::new(path, self.length), Err(for_good(fault))),
            Err(error) => {
                let fault = Fault::new(Reason::StoreFailed, format!("the download's writer broke off: {error}"));
                return (Target::new(path, self.length), Err(for_good(fault)));
            }
        };
        let (target, written) = written;
        let result = written.map_err(for_good).and(received).and_then(|()| match total {
            Some(total) if total != target.length => {
                let text = format!("{} ended after {} of {total} bytes", answer.shown(), target.length);
                Err(HttpError { fault: Fault::new(Reason::DownloadFailed, text), is_for_now: true })
            }
            _ => Ok(()),
        });
        (target, result)
    }
}

impl Target {
    fn new(path: PathBuf, most: Option<u64>) -> Self {
        Self { path, file: None, hasher: Sha256::new(), length: 0, validator: None, most }
    }

    /// Begins at zero.
    fn clear(&mut self, progress: &Progress) {
        progress.take_back(self.length);
        (self.file, self.hasher, self.length, self.validator) = (None, Sha256::new(), 0, None);
    }

    /// Writes the pieces as they come, behind what is there. Durable when it returns without an error.
    fn write(&mut self, mut pieces: mpsc::Receiver<Bytes>, progress: &Progress) -> Result<(), Fault> {
        let fail = |error: std::io::Error| Fault::store("cannot write the download", &error);
        if self.file.is_none() {
            match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
                _ => self.file = Some(verify::create(&self.path, false).map_err(fail)?),
            }
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        while let Some(piece) = pieces.blocking_recv() {
            progress.add(piece.len() as u64)?;
            if let Some(most) = self.most.filter(|most| self.length + piece.len() as u64 > *most) {
                return Err(Fault::new(
                    Reason::DownloadFailed,
                    format!("more came than the {most} bytes it should have"),
                ));
            }
            file.write_all(&piece).map_err(fail)?;
            self.hasher.update(&piece);
            self.length += piece.len() as u64;
        }
        progress.check()?; // the pieces end too when nobody wants them
        file.sync_all().map_err(fail)
    }
}

/// What an answer means for what is on disk: it goes on, or begins at zero. Returns the length of the whole, if it is told.
fn begin(
    answer: &Answer,
    target: &mut Target,
    progress: &Progress,
    explain: Option<&(dyn Fn(&Answer) -> Fault + Sync)>,
) -> Result<Option<u64>, HttpError> {
    let (status, headers) = (answer.status(), answer.headers());
    let number = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()?.parse::<u64>().ok());
    if status == StatusCode::PARTIAL_CONTENT && target.length > 0 {
        let range = headers.get(header::CONTENT_RANGE).and_then(|range| content_range(range.to_str().ok()?));
        return match range {
            Some((start, total)) if start == target.length => Ok(total),
            _ => {
                target.clear(progress);
                let text = format!("{} answered with another part than was asked for", answer.shown());
                Err(HttpError { fault: Fault::new(Reason::DownloadFailed, text), is_for_now: true })
            }
        };
    }
    if status == StatusCode::RANGE_NOT_SATISFIABLE && target.length > 0 {
        target.clear(progress);
        let text = format!("{} answered {status}: it is another file now", answer.shown());
        return Err(HttpError { fault: Fault::new(Reason::DownloadFailed, text), is_for_now: true });
    }
    refuse(answer).map_err(|error| match explain {
        Some(explain) => HttpError { fault: explain(answer), ..error },
        None => error,
    })?;
    target.clear(progress);
    target.validator = validator(headers);
    Ok(number(header::CONTENT_LENGTH))
}

/// What tells this content from another: a strong tag, else the time of the last change.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    tag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

fn range(from: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes={from}-")).expect("digits are fit for a header")
}

/// First byte and length of the whole.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((span.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// What a status means that brings no content.
///
/// Errors: `SourceNotFound`, `CredentialsMissing`, `DownloadFailed`.
pub fn refuse(answer: &Answer) -> Result<(), HttpError> {
    let status = answer.status();
    let error = |reason, what: &str, is_for_now| {
        let fault = Fault::new(reason, format!("{} answered {status}{what}", answer.shown()));
        Err(HttpError { fault, is_for_now })
    };
    match status {
        status if status.is_success() && status != StatusCode::PARTIAL_CONTENT => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => error(Reason::SourceNotFound, "", false),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            error(Reason::CredentialsMissing, ": it wants other credentials", false)
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => error(Reason::DownloadFailed, "", true),
        status => error(Reason::DownloadFailed, "", status.is_server_error()),
    }
}

#[cfg(test)]
mod tests;
