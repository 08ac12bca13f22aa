//! One object becomes a file: what has come is kept when the connection breaks, goes on from there only while the object is
//! the same, and counts when it is as long as it should be and has the checksum that the store tells.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use http::HeaderMap;
use md5::{Digest, Md5};
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};
use tokio::time::{sleep, timeout};

use crate::{
    client::Headers,
    error::{AtPath, LocalError, Meaning, detail, meaning, silence},
    limits::Limits,
    listing::RemoteFile,
};

/// How often a file that arrives damaged is fetched anew.
const DAMAGED_ATTEMPTS: u32 = 3;

/// Why an object did not become a file.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// It is another one, or gone.
    Changed,
    Denied(String),
    Damaged {
        attempts: u32,
        detail: String,
    },
    Broken {
        detail: String,
        got: u64,
    },
    Local(LocalError),
    Closed,
}

impl From<LocalError> for FetchError {
    fn from(error: LocalError) -> Self {
        Self::Local(error)
    }
}

/// Fetches the object into `part`, going on behind what is there already.
///
/// Blocks while it writes: it belongs on a thread of its own. `came` is told the length of each piece before it is written, and 0
/// before an attempt; it ends the work by `false`.
pub(crate) async fn fetch(
    store: &dyn ObjectStore,
    file: &RemoteFile,
    part: &Path,
    limits: &Limits,
    came: &(dyn Fn(u64) -> bool + Sync),
) -> Result<(), FetchError> {
    let mut target = Target::open(part, file.size)?;
    let (mut failed, mut damaged) = (0, 0);
    loop {
        let before = target.length;
        let detail = match attempt(store, file, &mut target, limits, came).await? {
            Attempt::Complete(checksums) => match target.mismatch(&checksums) {
                None => {
                    target.file.sync_data().at(part)?;
                    return Ok(());
                }
                Some(mismatch) => {
                    damaged += 1;
                    tracing::warn!("'{}' arrived damaged: {mismatch}", file.key);
                    target.clear()?;
                    if damaged == DAMAGED_ATTEMPTS {
                        return Err(FetchError::Damaged { attempts: damaged, detail: mismatch });
                    }
                    continue;
                }
            },
            Attempt::Broken(detail) => detail,
        };
        failed = if target.length > before { 1 } else { failed + 1 };
        if failed >= limits.attempts {
            return Err(FetchError::Broken { detail, got: target.length });
        }
        tracing::info!("'{}' stopped after {} of {} bytes: {detail}", file.key, target.length, file.size);
        sleep(limits.pause * 2u32.pow(failed.min(5))).await;
    }
}

enum Attempt {
    Complete(Checksums),
    Broken(String),
}

async fn attempt(
    store: &dyn ObjectStore,
    file: &RemoteFile,
    target: &mut Target<'_>,
    limits: &Limits,
    came: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Attempt, FetchError> {
    if !came(0) {
        return Err(FetchError::Closed);
    }
    if target.length > 0 && target.length == file.size {
        // All is here: only the checksum is missing, and any byte's answer has it.
        target.rewind(file.size - 1)?;
    }
    let options = GetOptions {
        if_match: file.identity.condition(),
        range: (target.length > 0).then_some(GetRange::Offset(target.length)),
        ..GetOptions::default()
    };
    let answer = match timeout(limits.answer * 2, store.get_opts(&file.key, options)).await {
        Err(_) => return Ok(Attempt::Broken(silence(limits.answer * 2))),
        Ok(Err(error)) => return ended(&error),
        Ok(Ok(answer)) => answer,
    };
    let is_other = file.identity.is_denied_by(answer.meta.e_tag.as_deref());
    if is_other || answer.meta.size != file.size || answer.range.start != target.length {
        return Err(FetchError::Changed);
    }
    let checksums = Checksums::of(&answer);
    let mut pieces = answer.into_stream();
    loop {
        match timeout(limits.silence, pieces.next()).await {
            Err(_) => return Ok(Attempt::Broken(silence(limits.silence))),
            Ok(Some(Err(error))) => return ended(&error),
            Ok(Some(Ok(piece))) if came(piece.len() as u64) => target.append(&piece)?,
            Ok(Some(Ok(_))) => return Err(FetchError::Closed),
            Ok(None) if target.length == file.size => return Ok(Attempt::Complete(checksums)),
            Ok(None) => return Ok(Attempt::Broken("the connection ended early".into())),
        }
        if target.length > file.size {
            return Ok(Attempt::Complete(Checksums { too_long: true, ..Checksums::default() }));
        }
    }
}

/// What an error of the store makes of an attempt.
fn ended(error: &object_store::Error) -> Result<Attempt, FetchError> {
    match meaning(error) {
        Meaning::Missing | Meaning::Changed => Err(FetchError::Changed),
        Meaning::Denied => Err(FetchError::Denied(detail(error))),
        Meaning::InvalidKey | Meaning::Other => Ok(Attempt::Broken(detail(error))),
    }
}

/// A file that grows, and the sums over what it holds.
struct Target<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    md5: Md5,
    crc32c: crc_fast::Digest,
}

impl<'a> Target<'a> {
    /// Takes over what an earlier attempt has left, unless that is longer than the whole.
    fn open(path: &'a Path, size: u64) -> Result<Self, LocalError> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).at(path)?;
        let length = file.metadata().at(path)?.len();
        let mut target = Self { path, file, length: 0, md5: Md5::new(), crc32c: crc32c() };
        if length > size {
            target.clear()?;
        } else {
            target.sum(length)?;
        }
        Ok(target)
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), LocalError> {
        self.file.write_all(piece).at(self.path)?;
        self.add(piece);
        Ok(())
    }

    fn add(&mut self, piece: &[u8]) {
        self.md5.update(piece);
        self.crc32c.update(piece);
        self.length += piece.len() as u64;
    }

    fn clear(&mut self) -> Result<(), LocalError> {
        self.file.set_len(0).at(self.path)?;
        self.sum(0)
    }

    fn rewind(&mut self, length: u64) -> Result<(), LocalError> {
        self.file.set_len(length).at(self.path)?;
        self.sum(length)
    }

    /// Reads what is there.
    fn sum(&mut self, length: u64) -> Result<(), LocalError> {
        (self.length, self.md5, self.crc32c) = (0, Md5::new(), crc32c());
        let mut reader = File::open(self.path).at(self.path)?;
        let mut piece = vec![0; 1 << 16];
        while self.length < length {
            match reader.read(&mut piece).at(self.path)? {
                0 => break,
                count => self.add(&piece[..count]),
            }
        }
        Ok(())
    }

    /// What differs from what the store says, if anything does.
    fn mismatch(&self, checksums: &Checksums) -> Option<String> {
        if checksums.too_long {
            return Some("more bytes came than it has".into());
        }
        let md5: [u8; 16] = self.md5.clone().finalize().into();
        if let Some(expected) = checksums.md5.filter(|expected| *expected != md5) {
            return Some(format!("MD5 is {}, the store says {}", hex(&md5), hex(&expected)));
        }
        let crc32c = (self.crc32c.finalize() as u32).to_be_bytes();
        if let Some(expected) = checksums.crc32c.filter(|expected| *expected != crc32c) {
            return Some(format!("CRC32C is {}, the store says {}", hex(&crc32c), hex(&expected)));
        }
        None
    }
}

fn crc32c() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a store tells of an object's content.
#[derive(Debug, Default, PartialEq)]
struct Checksums {
    md5: Option<[u8; 16]>,
    crc32c: Option<[u8; 4]>,
    too_long: bool,
}

impl Checksums {
    /// Source: S3 "Checking object integrity" (the tag of an object that was put in one piece and is not encrypted with a key
    /// of KMS or the client is its MD5), Google's `x-goog-hash`, RFC 1864 (`Content-MD5`, of the whole object only: with a
    /// range it may be that of the range), Azure's `x-ms-blob-content-md5`.
    fn of(answer: &GetResult) -> Self {
        let Some(Headers(headers)) = answer.extensions.get::<Headers>() else { return Self::default() };
        let is_whole = answer.range == (0..answer.meta.size);
        let e_tag = answer.meta.e_tag.as_deref();
        Self {
            md5: google(headers, "md5=")
                .or_else(|| base64(text(headers, "x-ms-blob-content-md5")?))
                .or_else(|| base64(text(headers, "content-md5").filter(|_| is_whole)?))
                .or_else(|| tag_md5(headers, e_tag?)),
            crc32c: google(headers, "crc32c="),
            too_long: false,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `x-goog-hash: crc32c=...,md5=...`, in one header or several. Objects that are stored compressed and come otherwise have
/// sums of what is stored.
fn google<const N: usize>(headers: &HeaderMap, name: &str) -> Option<[u8; N]> {
    if text(headers, "x-goog-stored-content-encoding").is_some_and(|encoding| encoding != "identity") {
        return None;
    }
    let values = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
    let mut sums = values.flat_map(|value| value.split(','));
    sums.find_map(|sum| base64(sum.trim().strip_prefix(name)?))
}

/// The tag of S3, where it is an MD5.
fn tag_md5(headers: &HeaderMap, e_tag: &str) -> Option<[u8; 16]> {
    let is_s3 = headers.keys().any(|name| name.as_str().starts_with("x-amz-"));
    let is_encrypted = text(headers, "x-amz-server-side-encryption").is_some_and(|how| how != "AES256")
        || headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
    let digits = e_tag.trim_matches('"');
    if !is_s3 || is_encrypted || digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut md5 = [0; 16];
    for (byte, pair) in md5.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(md5)
}

fn base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// Whether two files have the same bytes.
pub(crate) fn is_same_content(one: &Path, other: &Path) -> bool {
    let same_length = |(a, b): (fs::Metadata, fs::Metadata)| a.len() == b.len();
    if !fs::metadata(one).ok().zip(fs::metadata(other).ok()).is_some_and(same_length) {
        return false;
    }
    let (Ok(mut one), Ok(mut other)) = (File::open(one), File::open(other)) else { return false };
    let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        match one.read(&mut a) {
            Ok(0) => return true,
            Ok(count) if other.read_exact(&mut b[..count]).is_ok() && a[..count] == b[..count] => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests;
