//! Repositories of a hub on the loopback, well-behaved and not.

use std::{fs, path::PathBuf};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::source::{
    progress::{Limits, Stage},
    web::{Answers, ok, serve, status, unwatched},
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Place {
    root: tempfile::TempDir,
    secrets: Mounts,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let secret = root.path().join("secrets/hub");
        fs::create_dir_all(&secret).unwrap();
        fs::write(secret.join("token"), "hf_secret\n").unwrap();
        fs::create_dir(root.path().join("into")).unwrap();
        let secrets = Mounts { below: vec![root.path().join("secrets")], ..Mounts::default() };
        Self { root, secrets }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("into")
    }

    async fn fetch(&self, source: &HuggingFace<'_>) -> Result<Fetched, Fault> {
        let rule = Arc::new(AddressRule::with_loopback());
        source.fetch(&rule, &self.secrets, &self.folder(), &unwatched(Limits::default())).await
    }
}

fn source<'a>(endpoint: &'a str, include: &'a [String]) -> HuggingFace<'a> {
    HuggingFace { endpoint, repo: "o/m", revision: "main", include, secret: None }
}

/// An entry of a listing, for a file that the repository holds itself, or that lies in the large file storage.
fn entry(path: &str, content: &[u8], is_large: bool) -> String {
    let git = hex::encode(Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat()));
    let length = content.len();
    let lfs =
        format!(r#","lfs":{{"oid":"{}","size":{length},"pointerSize":134}}"#, hex::encode(Sha256::digest(content)));
    let lfs = if is_large { lfs } else { String::new() };
    format!(r#"{{"type":"file","path":"{path}","size":{length},"oid":"{git}"{lfs}}}"#)
}

fn info() -> Vec<u8> {
    ok(format!(r#"{{"id":"o/m","sha":"{COMMIT}"}}"#).as_bytes())
}

/// Leaks a path of a request: the answers of the server want it to live as long as the test.
fn path(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn hub(pages: Vec<Vec<u8>>, files: &[(&str, Vec<Vec<u8>>)]) -> Answers {
    let mut answers = Answers::from([
        ("/api/models/o/m/revision/main", vec![info()]),
        (path(format!("/api/models/o/m/tree/{COMMIT}")), pages),
    ]);
    for (file, all) in files {
        answers.insert(path(format!("/o/m/resolve/{COMMIT}/{file}")), all.clone());
    }
    answers
}

fn page(entries: &[String]) -> Vec<u8> {
    ok(format!("[{}]", entries.join(",")).as_bytes())
}

#[tokio::test]
async fn the_files_of_one_commit_come_checked_from_every_page_and_from_where_the_hub_redirects() {
    let large: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let (storage, asked_storage) = serve(Answers::from([("/blob", vec![ok(&large)])])).await;
    let redirect = status("302 Found", &format!("location: {storage}/blob?signature=x\r\n"), b"");
    let next = format!("link: </api/models/o/m/tree/{COMMIT}?recursive=true&cursor=2>; rel=\"next\"\r\n");
    let first = [entry("README.md", b"words", false), entry("config.pbtxt", b"backend: \"x\"", false)];
    let pages = vec![
        status("200 OK", &next, format!("[{}]", first.join(",")).as_bytes()),
        page(&[entry("1/model.onnx", &large, true), r#"{"type":"directory","path":"1","oid":"x"}"#.to_owned()]),
    ];
    let files = [("config.pbtxt", vec![ok(b"backend: \"x\"")]), ("1/model.onnx", vec![redirect])];
    let (endpoint, asked) = serve(hub(pages, &files)).await;

    let place = Place::new();
    let source = HuggingFace { secret: Some("hub"), ..source(&endpoint, &[]) };
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let progress = Progress::new(Limits::default(), move |stage| told.lock().unwrap().push(stage));
    let rule = Arc::new(AddressRule::with_loopback());
    let fetched = source.fetch(&rule, &place.secrets, &place.folder(), &progress).await.unwrap();

    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["1/model.onnx", "config.pbtxt"]);
    assert!(!fetched.is_bare && fetched.hash == verify::hash_of_folder(&fetched.files));
    assert!(fs::read(place.folder().join("1/model.onnx")).unwrap() == large);
    let total = large.len() as u64 + 12;
    assert_eq!(
        seen.lock().unwrap().first(),
        Some(&Stage::Downloading(0, Some(total))),
        "the whole is known at the start"
    );
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|request| request.contains("authorization: Bearer hf_secret\r\n")), "{asked:#?}");
    assert!(asked[1].contains("?recursive=true") && asked[2].contains("cursor=2"), "{asked:#?}");
    let asked_storage = asked_storage.lock().unwrap();
    assert!(asked_storage.len() == 1 && !asked_storage[0].contains("authorization"), "{asked_storage:#?}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let content: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let cut = [b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n".as_slice(), &content[..150_000]].concat();
    let rest = status("206 Partial Content", "content-range: bytes 150000-199999/200000\r\n", &content[150_000..]);
    let pages = vec![page(&[entry("model.onnx", &content, true)])];
    let (endpoint, asked) = serve(hub(pages, &[("model.onnx", vec![cut, rest])])).await;
    tokio::time::pause();
    let place = Place::new();
    place.fetch(&source(&endpoint, &[])).await.unwrap();
    assert!(fs::read(place.folder().join("model.onnx")).unwrap() == content);
    assert!(asked.lock().unwrap().last().unwrap().contains("range: bytes=150000-\r\n"));
}

#[tokio::test]
async fn content_that_is_not_that_of_the_commit_is_refused() {
    let good = b"weights".as_slice();
    for (is_large, bad) in
        [(true, b"weighTs".as_slice()), (false, b"weighTs"), (true, b"weights and more"), (true, b"short")]
    {
        let pages = vec![page(&[entry("model.onnx", good, is_large)])];
        let (endpoint, _) = serve(hub(pages, &[("model.onnx", vec![ok(bad)])])).await;
        let place = Place::new();
        let fault = place.fetch(&source(&endpoint, &[])).await.unwrap_err();
        assert_eq!(fault.reason, Reason::DownloadFailed, "{fault}");
        assert!(fault.message.contains("should have"), "{fault}");
    }
}

#[tokio::test]
async fn a_commit_is_not_resolved_and_a_revision_with_a_slash_is_one_part_of_the_path() {
    let pages = vec![page(&[entry("a.onnx", b"a", false)])];
    let mut answers = hub(pages, &[("a.onnx", vec![ok(b"a")])]);
    answers.remove("/api/models/o/m/revision/main");
    answers.insert("/api/models/o/m/revision/refs%2Fpr%2F1", vec![info()]);
    let (endpoint, asked) = serve(answers).await;
    Place::new().fetch(&HuggingFace { revision: COMMIT, ..source(&endpoint, &[]) }).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 2, "the listing and the file");
    Place::new().fetch(&HuggingFace { revision: "refs/pr/1", ..source(&endpoint, &[]) }).await.unwrap();
}

#[tokio::test]
async fn only_what_is_included_is_fetched_and_nothing_at_all_is_told() {
    let pages = vec![page(&[entry("onnx/model.onnx", b"a", false), entry("model.bin", b"b", true)])];
    let (endpoint, _) = serve(hub(pages, &[("onnx/model.onnx", vec![ok(b"a")])])).await;
    let include = ["onnx/*".to_owned()];
    let fetched = Place::new().fetch(&source(&endpoint, &include)).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["onnx/model.onnx"]);
    let include = ["*.plan".to_owned()];
    let fault = Place::new().fetch(&source(&endpoint, &include)).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    assert!(
        fault.message.contains("matches *.plan") && fault.message.contains("onnx/model.onnx, model.bin"),
        "{fault}"
    );
}

#[tokio::test]
async fn what_the_hub_refuses_is_told_with_what_helps_whether_at_the_listing_or_at_the_file() {
    let gated = status("403 Forbidden", "x-error-code: GatedRepo\r\nx-error-message: Access is restricted\r\n", b"");
    let pages = vec![page(&[entry("model.onnx", b"a", true)])];
    let (endpoint, asked) = serve(hub(pages, &[("model.onnx", vec![gated])])).await;
    let place = Place::new();
    let fault = place.fetch(&HuggingFace { secret: Some("hub"), ..source(&endpoint, &[]) }).await.unwrap_err();
    assert!(fault.reason == Reason::CredentialsMissing && fault.message.contains("accept its terms"), "{fault}");
    assert!(!fault.message.contains("hf_secret"));
    assert_eq!(asked.lock().unwrap().len(), 3, "it is not asked again");
    let fault = place.fetch(&HuggingFace { repo: "o/absent", ..source(&endpoint, &[]) }).await.unwrap_err();
    assert!(fault.reason == Reason::SourceNotFound && fault.message.contains("no repository 'o/absent'"), "{fault}");
    let fault = place.fetch(&HuggingFace { secret: Some("other"), ..source(&endpoint, &[]) }).await.unwrap_err();
    assert!(fault.reason == Reason::CredentialsMissing && fault.message.contains("'other' is not mounted"), "{fault}");
}

#[tokio::test]
async fn a_busy_hub_is_asked_again_and_one_that_stays_so_is_told() {
    let busy = status("503 Service Unavailable", "", b"");
    let pages = vec![busy.clone(), page(&[entry("a.onnx", b"a", false)])];
    let (endpoint, _) = serve(hub(pages, &[("a.onnx", vec![ok(b"a")])])).await;
    tokio::time::pause();
    Place::new().fetch(&source(&endpoint, &[])).await.unwrap();
    let limited = status("429 Too Many Requests", "", b"");
    let (endpoint, asked) = serve(Answers::from([("/api/models/o/m/revision/main", vec![limited])])).await;
    let fault = Place::new().fetch(&source(&endpoint, &[])).await.unwrap_err();
    assert!(fault.reason == Reason::DownloadFailed && fault.message.contains("too many requests"), "{fault}");
    assert_eq!(asked.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_hub_that_leads_astray_is_refused() {
    let (other, asked_other) = serve(Answers::new()).await;
    let away = status("200 OK", &format!("link: <{other}/page>; rel=\"next\"\r\n"), b"[]");
    let twice = page(&[entry("a", b"a", false), entry("a", b"b", false)]);
    let inside = page(&[entry("a", b"a", false), entry("a/b", b"b", false)]);
    let huge = page(&[entry("a", b"a", false).replace(r#""size":1"#, r#""size":18446744073709551615"#)]);
    for (listing, saying) in [
        (away, "goes on at another server"),
        (twice, "'a' twice"),
        (inside, "'a' twice"),
        (huge, "over the limit"),
        (ok(b"<html>"), "cannot be used"),
    ] {
        let (endpoint, _) = serve(hub(vec![listing], &[])).await;
        let fault = Place::new().fetch(&source(&endpoint, &[])).await.unwrap_err();
        assert!(fault.reason == Reason::InvalidSource && fault.message.contains(saying), "{fault}");
    }
    assert!(asked_other.lock().unwrap().is_empty());
    let (endpoint, _) = serve(hub(vec![ok(b"[]")], &[])).await;
    let refused = source(&endpoint, &[])
        .fetch(&Arc::default(), &Mounts::default(), &Place::new().folder(), &unwatched(Limits::default()))
        .await;
    assert_eq!(refused.unwrap_err().reason, Reason::AddressRefused, "loopback is not allowed in a pod");
}
