//! What the hub says, read: the commit of a revision, the files of a commit, why it refuses. Pure: bytes in, facts out.
//!
//! Source: the Hub API endpoints (`/api/models/{repo}/revision/{revision}`, `/api/models/{repo}/tree/{revision}`) and its error
//! headers, `X-Error-Code` and `X-Error-Message`.

use serde::Deserialize;

use super::super::digest::Digest;
use crate::{
    fault::{Fault, Reason},
    verify,
};

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepoFile {
    /// Path below the repository's root.
    pub(super) path: String,
    /// Length in bytes.
    pub(super) length: u64,
    /// What the commit says its content is.
    pub(super) digest: Digest,
}

/// Whether a revision names a commit in full: nothing need be asked to know what it means.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The commit that a revision means, out of what the hub says about it.
pub(super) fn commit(answer: &[u8]) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Info {
        sha: String,
    }
    let info: Info = parse(answer)?;
    if is_commit(&info.sha) {
        Ok(info.sha)
    } else {
        Err(unreadable(format!("'{}' is no commit", info.sha.escape_debug())))
    }
}

/// The files on one page of a listing.
///
/// Errors: the listing is none, or names a file that no model's folder can have.
pub(super) fn files(answer: &[u8]) -> Result<Vec<RepoFile>, Fault> {
    #[derive(Deserialize)]
    struct Entry {
        r#type: String,
        path: String,
        #[serde(default)]
        size: u64,
        #[serde(default)]
        oid: String,
        lfs: Option<Lfs>,
    }
    #[derive(Deserialize)]
    struct Lfs {
        oid: String,
        size: u64,
    }
    let entries: Vec<Entry> = parse(answer)?;
    entries
        .into_iter()
        .filter(|entry| entry.r#type == "file")
        .map(|entry| {
            let path = verify::clean_path(&entry.path).map_err(unreadable)?;
            let (digest, length) = match &entry.lfs {
                Some(lfs) => (Digest::sha256(lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid)), lfs.size),
                None => (Digest::git_blob(&entry.oid, entry.size), entry.size),
            };
            let digest = digest.ok_or_else(|| unreadable(format!("'{path}' has no digest")))?;
            Ok(RepoFile { path, length, digest })
        })
        .collect()
}

/// The address of the next page, out of a `Link` header.
pub(super) fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|one| {
        let (address, parameters) = one.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
        parameters.split(';').any(is_next).then_some(address)
    })
}

/// An answer that is no success.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    /// Address of the hub.
    pub(super) endpoint: &'a str,
    /// Name of the repository.
    pub(super) repo: &'a str,
    /// What was asked for.
    pub(super) revision: &'a str,
    /// The Secret whose token was sent, if there was one.
    pub(super) secret: Option<&'a str>,
    /// HTTP status.
    pub(super) status: u16,
    /// `X-Error-Code`.
    pub(super) code: Option<&'a str>,
}

impl Refusal<'_> {
    /// What it means, and what helps.
    pub(super) fn fault(&self) -> Fault {
        let Self { endpoint, repo, revision, status, .. } = self;
        let (reason, message) = match (self.status, self.code, self.secret) {
            (_, Some("GatedRepo"), None) => (
                Reason::CredentialsMissing,
                format!(
                    "'{repo}' is gated: accept its terms at {endpoint}/{repo}, and name a Secret with a token of that account in \
                     secretRef"
                ),
            ),
            (_, Some("GatedRepo"), Some(secret)) => (
                Reason::CredentialsMissing,
                format!(
                    "'{repo}' is gated, and the account of the token in Secret '{secret}' may not read it: accept its terms at \
                     {endpoint}/{repo} with that account"
                ),
            ),
            (404, Some("RevisionNotFound"), _) => (
                Reason::SourceNotFound,
                format!(
                    "'{repo}' at {endpoint} has no revision '{revision}': name a commit, a tag or a branch that it has"
                ),
            ),
            (404, Some("EntryNotFound"), _) => {
                (Reason::SourceNotFound, format!("a file of '{repo}' at {endpoint} is gone from revision '{revision}'"))
            }
            (401, _, None) => (
                Reason::CredentialsMissing,
                format!(
                    "{endpoint} has no public repository '{repo}': check its name; if it is private, name a Secret with a token \
                     in secretRef"
                ),
            ),
            (401, _, Some(secret)) => (
                Reason::CredentialsMissing,
                format!("{endpoint} does not take the token in Secret '{secret}': put a valid one there"),
            ),
            (403, _, None) => (
                Reason::CredentialsMissing,
                format!("{endpoint} forbids reading '{repo}': name a Secret with a token that may in secretRef"),
            ),
            (403, _, Some(secret)) => (
                Reason::CredentialsMissing,
                format!("the token in Secret '{secret}' may not read '{repo}' at {endpoint}: give it that right"),
            ),
            (404, _, None) => (
                Reason::SourceNotFound,
                format!(
                    "{endpoint} has no repository '{repo}': check its name; if it is private, name a Secret with a token in \
                     secretRef"
                ),
            ),
            (404, _, Some(secret)) => (
                Reason::SourceNotFound,
                format!(
                    "{endpoint} has no repository '{repo}' that the token in Secret '{secret}' may see: check both"
                ),
            ),
            _ => (Reason::DownloadFailed, format!("{endpoint} answered {status} about '{repo}'")),
        };
        Fault::new(reason, message)
    }
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(answer).map_err(|error| unreadable(error.to_string()))
}

fn unreadable(what: String) -> Fault {
    Fault::new(Reason::InvalidSource, format!("the hub's answer cannot be used: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_commit_is_read_and_nothing_else_is_taken_for_one() {
        let info = format!(r#"{{"id":"o/m","sha":"{COMMIT}","siblings":[{{"rfilename":"a"}}]}}"#);
        assert_eq!(commit(info.as_bytes()).unwrap(), COMMIT);
        for junk in
            [r#"{"sha":"main"}"#, r#"{"sha":"../../0123456789abcdef0123456789abcdef01"}"#, "{}", "[]", "<html>", ""]
        {
            let fault = commit(junk.as_bytes()).unwrap_err();
            assert_eq!(fault.reason, Reason::InvalidSource, "{junk}");
        }
        assert!(is_commit(COMMIT) && !is_commit("main") && !is_commit(&COMMIT[1..]));
    }

    #[test]
    fn a_listing_gives_files_with_what_they_must_be() {
        let sha256 = "ab".repeat(32);
        let page = format!(
            r#"[{{"type":"directory","path":"onnx","size":0,"oid":"{COMMIT}"}},
                {{"type":"file","path":"config.json","size":7,"oid":"{COMMIT}"}},
                {{"type":"file","path":"onnx/model.onnx","size":9,"oid":"{COMMIT}","xetHash":"x",
                  "lfs":{{"oid":"{sha256}","size":9,"pointerSize":134}}}}]"#
        );
        let found = files(page.as_bytes()).unwrap();
        let expect = [
            ("config.json", 7, Digest::git_blob(COMMIT, 7).unwrap()),
            ("onnx/model.onnx", 9, Digest::sha256(&sha256).unwrap()),
        ];
        let expect = expect.map(|(path, length, digest)| RepoFile { path: path.to_owned(), length, digest });
        assert_eq!(found, expect);
    }

    #[test]
    fn a_listing_that_leads_elsewhere_or_promises_nothing_is_refused() {
        for (entry, saying) in [
            (format!(r#"{{"type":"file","path":"../evil","size":1,"oid":"{COMMIT}"}}"#), "leads out"),
            (format!(r#"{{"type":"file","path":"/etc/passwd","size":1,"oid":"{COMMIT}"}}"#), "absolute"),
            (r#"{"type":"file","path":"a","size":1}"#.to_owned(), "no digest"),
            (r#"{"type":"file","path":"a","size":1,"oid":"xyz"}"#.to_owned(), "no digest"),
            (r#"{"type":"file","path":"a","size":-1,"oid":""}"#.to_owned(), "invalid value"),
            (r#"{"type":"file","path":"a","lfs":{"oid":"abc","size":1}}"#.to_owned(), "no digest"),
        ] {
            let fault = files(format!("[{entry}]").as_bytes()).unwrap_err();
            assert!(fault.reason == Reason::InvalidSource && fault.message.contains(saying), "{fault}");
        }
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next_page(r#"<https://h/a?cursor=x>; rel="next""#), Some("https://h/a?cursor=x"));
        assert_eq!(next_page(r#"<https://h/1>; rel="prev", <https://h/2>; title=x; rel=next"#), Some("https://h/2"));
        assert_eq!(next_page(r#"<https://h/1>; rel="prev""#), None);
        assert_eq!(next_page("junk"), None);
    }

    #[test]
    fn each_refusal_says_what_helps() {
        let with = Some("hub-token");
        for (status, code, secret, reason, saying) in [
            (401, None, None, Reason::CredentialsMissing, "if it is private, name a Secret"),
            (401, None, with, Reason::CredentialsMissing, "'hub-token': put a valid one"),
            (401, Some("RepoNotFound"), None, Reason::CredentialsMissing, "check its name"),
            (401, Some("GatedRepo"), None, Reason::CredentialsMissing, "accept its terms at https://hub/o/m, and name"),
            (403, Some("GatedRepo"), with, Reason::CredentialsMissing, "may not read it: accept its terms"),
            (403, None, with, Reason::CredentialsMissing, "give it that right"),
            (403, None, None, Reason::CredentialsMissing, "a token that may in secretRef"),
            (404, Some("RepoNotFound"), with, Reason::SourceNotFound, "that the token in Secret 'hub-token' may see"),
            (404, None, None, Reason::SourceNotFound, "check its name"),
            (404, Some("RevisionNotFound"), None, Reason::SourceNotFound, "has no revision 'v9'"),
            (404, Some("EntryNotFound"), None, Reason::SourceNotFound, "is gone from revision 'v9'"),
            (418, None, None, Reason::DownloadFailed, "answered 418"),
        ] {
            let refusal = Refusal { endpoint: "https://hub", repo: "o/m", revision: "v9", secret, status, code };
            let fault = refusal.fault();
            assert!(fault.reason == reason && fault.message.contains(saying), "{status} {code:?}: {fault}");
        }
    }
}
