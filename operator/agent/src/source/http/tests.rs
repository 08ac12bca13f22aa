//! Downloads from a real server on the loopback: what is made of them.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::source::{
    progress::Limits,
    unpack::tests::{gzip, tar_of},
    web::{Answers, ok, serve, unwatched},
};

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("into")).unwrap();
        Self { root }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("into")
    }

    async fn fetch(&self, uri: &str, checksum: Option<&str>, progress: &Arc<Progress>) -> Result<Fetched, Fault> {
        self.fetch_with(uri, None, checksum, progress).await
    }

    async fn fetch_with(
        &self,
        uri: &str,
        credentials: Option<Credentials>,
        checksum: Option<&str>,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, Fault> {
        let source = HttpSource { uri, credentials, checksum, layout: Layout::Auto };
        let rule = Arc::new(AddressRule::with_loopback());
        source.fetch(&rule, &self.folder(), &self.root.path().join("download"), progress).await
    }
}

#[tokio::test]
async fn an_archive_is_unpacked_once_its_checksum_is_right() {
    let file = tar::EntryType::Regular;
    let good = gzip(&tar_of(&[("net/1/model.onnx", file, b"weights"), ("net/config.pbtxt", file, b"")]));
    let evil = gzip(&tar_of(&[("../evil", file, b"x")]));
    let (server, _) = serve(Answers::from([("/good.tar.gz", vec![ok(&good)]), ("/evil.tgz", vec![ok(&evil)])])).await;
    let (place, progress) = (Place::new(), unwatched(Limits::default()));
    let uri = format!("{server}/good.tar.gz");
    let fault = place.fetch(&uri, Some(&"0".repeat(64)), &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::ChecksumMismatch);
    assert_eq!(std::fs::read_dir(place.folder()).unwrap().count(), 0, "nothing is unpacked before it is checked");
    let fetched = place.fetch(&uri, Some(&hex::encode(Sha256::digest(&good))), &progress).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["net/1/model.onnx", "net/config.pbtxt"]);

    let place = Place::new();
    let fault = place.fetch(&format!("{server}/evil.tgz"), None, &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::InvalidSource, "{fault}");
    assert!(!place.root.path().join("evil").exists());
}

#[tokio::test]
async fn credentials_of_a_mounted_secret_are_sent() {
    let (server, seen) = serve(Answers::from([("/m.onnx", vec![ok(b"x")])])).await;
    let root = tempfile::tempdir().unwrap();
    let secret = |name: &str, keys: &[(&str, &str)]| {
        std::fs::create_dir(root.path().join(name)).unwrap();
        for (key, value) in keys {
            std::fs::write(root.path().join(name).join(key), value).unwrap();
        }
    };
    secret("token", &[("token", "abc\n")]);
    secret("basic", &[("username", "me"), ("password", "pw")]);
    secret("half", &[("username", "me")]);
    let secrets = Mounts { below: vec![root.path().to_owned()], ..Mounts::default() };
    for name in ["token", "basic"] {
        let credentials = Some(Credentials::read(&secrets, name).unwrap());
        let uri = format!("{server}/m.onnx");
        Place::new().fetch_with(&uri, credentials, None, &unwatched(Limits::default())).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert!(seen[0].contains("authorization: Bearer abc\r\n") && seen[1].contains("authorization: Basic bWU6cHc=\r\n"));
    for name in ["half", "none"] {
        let Err(fault) = Credentials::read(&secrets, name) else { panic!("{name} is no credential") };
        assert_eq!(fault.reason, Reason::CredentialsMissing);
    }
}

#[test]
fn a_file_has_the_last_name_of_its_address() {
    assert_eq!(file_name("https://host/a/net.tar.gz?x=/y"), "net.tar.gz");
    assert_eq!(file_name("https://host"), "model");
    assert_eq!(file_name("https://host/"), "model");
}
