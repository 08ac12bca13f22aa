//! A stand-in for S3 on the loopback; the real servers of each store are in `e2e`.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    disk::{Disk, DiskLimits},
    source::{
        unpack::tests::{gzip, tar_of},
        web::{Answers, serve, status, unwatched},
    },
};

/// A listing of the bucket.
fn list(objects: &[(&str, usize)]) -> Vec<u8> {
    let object = |(key, size): &(&str, usize)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;a-1&quot;</ETag>\
             <Size>{size}</Size></Contents>"
        )
    };
    let objects: String = objects.iter().map(object).collect();
    let text = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>");
    status("200 OK", "content-type: application/xml\r\n", text.as_bytes())
}

fn object(content: &[u8]) -> Vec<u8> {
    status("200 OK", "etag: \"a-1\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n", content)
}

struct Place {
    root: tempfile::TempDir,
    secrets: Mounts,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["into", "secrets/keys", "secrets/empty"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for key in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            fs::write(root.path().join("secrets/keys").join(key), "of-tests\n").unwrap();
        }
        let secrets = Mounts { below: vec![root.path().join("secrets")], ..Mounts::default() };
        Self { root, secrets }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.root.path().join("into").join(path)).unwrap()
    }

    async fn fetch(&self, source: &ManifestSource, checksum: Option<&str>) -> Result<Fetched, Fault> {
        self.fetch_by(&AddressRule::with_loopback(), source, checksum, &unwatched(Limits::default())).await
    }

    async fn fetch_by(
        &self,
        rule: &AddressRule,
        source: &ManifestSource,
        checksum: Option<&str>,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, Fault> {
        let (into, beside) = (self.root.path().join("into"), self.root.path().join("beside"));
        let form = (checksum, Layout::Auto);
        let source = ObjectSource::of(source).unwrap();
        source.fetch(&Arc::new(rule.clone()), &self.secrets, form, &into, &beside, progress).await
    }
}

fn s3(endpoint: &str, uri: &str, secret: &str) -> ManifestSource {
    ManifestSource::S3 {
        uri: uri.into(),
        endpoint: Some(endpoint.into()),
        region: Some("here-1".into()),
        bucket_in_host: false,
        secret: Some(secret.into()),
    }
}

#[tokio::test]
async fn a_folder_of_objects_is_fetched_with_the_keys_of_a_secret() {
    let (server, seen) = serve(Answers::from([
        ("/models", vec![list(&[("net/1/model.onnx", 7), ("net/config.pbtxt", 0), ("network/x", 1)])]),
        ("/models/net/1/model.onnx", vec![object(b"weights")]),
        ("/models/net/config.pbtxt", vec![object(b"")]),
    ]))
    .await;
    let place = Place::new();
    let fetched = place.fetch(&s3(&server, "s3://models/net/", "keys"), None).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["1/model.onnx", "config.pbtxt"]);
    assert!(!fetched.is_bare && fetched.hash == verify::hash_of_folder(&fetched.files));
    assert_eq!(place.read("1/model.onnx"), b"weights");
    assert!(seen.lock().unwrap().iter().all(|request| request.contains("Credential=of-tests/")), "each is signed");
    assert!(seen.lock().unwrap()[0].contains("/here-1/s3/"));
}

#[tokio::test]
async fn one_object_is_a_file_or_an_archive() {
    let archive = gzip(&tar_of(&[("1/model.onnx", tar::EntryType::Regular, b"weights")]));
    let (server, _) = serve(Answers::from([
        ("/models", vec![list(&[])]),
        ("/models/net.tar.gz", vec![object(&archive)]),
        ("/models/net.onnx", vec![object(b"weights")]),
    ]))
    .await;
    let place = Place::new();
    let source = s3(&server, "s3://models/net.tar.gz", "keys");
    let fault = place.fetch(&source, Some(&"0".repeat(64))).await.unwrap_err();
    assert_eq!(fault.reason, Reason::ChecksumMismatch);
    let place = Place::new();
    let fetched = place.fetch(&source, Some(&hex::encode(Sha256::digest(&archive)))).await.unwrap();
    assert!(!fetched.is_bare && place.read("1/model.onnx") == b"weights" && !place.root.path().join("beside").exists());
    let place = Place::new();
    let fetched = place.fetch(&s3(&server, "s3://models/net.onnx", "keys"), None).await.unwrap();
    assert!(fetched.is_bare && fetched.hash == <[u8; 32]>::from(Sha256::digest(b"weights")));
    let fault = Place::new().fetch(&s3(&server, "s3://models/nothing", "keys"), None).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound, "{fault}");
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let denied = "<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>";
    let (server, seen) = serve(Answers::from([
        ("/models", vec![list(&[("net/model.onnx", 4_000_000)])]),
        ("/private", vec![status("403 Forbidden", "", denied.as_bytes())]),
        ("/odd", vec![list(&[("net/a\\b", 1)])]),
    ]))
    .await;
    let check = async |uri: &str, secret: &str, reason: Reason, text: &str| {
        let fault = Place::new().fetch(&s3(&server, uri, secret), None).await.unwrap_err();
        assert!(fault.reason == reason && fault.message.contains(text), "{uri}: {fault}");
    };
    check("s3://models/net", "none", Reason::CredentialsMissing, "'none' is not mounted").await;
    check("s3://models/net", "empty", Reason::CredentialsMissing, "'empty' is absent, or has no AWS_ACCESS_KEY_ID")
        .await;
    check("s3://private/net", "keys", Reason::CredentialsMissing, "AccessDenied: not yours").await;
    check("s3://odd/net", "keys", Reason::InvalidSource, "no file name should have").await;

    // as for every source: addresses, bytes, room
    let place = Place::new();
    let before = seen.lock().unwrap().len();
    let (source, strict) = (s3(&server, "s3://models/net", "keys"), AddressRule::default());
    let fault = place.fetch_by(&strict, &source, None, &unwatched(Limits::default())).await.unwrap_err();
    assert_eq!((fault.reason, seen.lock().unwrap().len()), (Reason::AddressRefused, before), "{fault}");
    let small = unwatched(Limits { bytes: 1000, ..Limits::default() });
    let fault = place.fetch_by(&AddressRule::with_loopback(), &source, None, &small).await.unwrap_err();
    assert_eq!(fault.reason, Reason::InvalidSource, "{fault}");
    let limits = DiskLimits { limit: Some(2 << 20), is_of_node: false };
    let disk = Disk::new(place.root.path().to_owned(), limits, || {});
    let full = Progress::on_disk(Limits::default(), disk.reservation(), |_| {});
    let fault = place.fetch_by(&AddressRule::with_loopback(), &source, None, &full).await.unwrap_err();
    assert_eq!(fault.reason, Reason::StoreFull, "{fault}");
}

#[test]
fn the_identity_of_the_pod_goes_to_no_server_that_the_source_names() {
    let named = |endpoint: Option<&str>| {
        let (uri, endpoint) = ("gs://models/net".to_owned(), endpoint.map(str::to_owned));
        let source = ManifestSource::Gcs { uri, endpoint, secret: None };
        let (variables, _) = ObjectSource::of(&source).unwrap().variables(&Mounts::default()).unwrap();
        variables("PATH")
    };
    assert!(named(None).is_some(), "the environment is asked");
    assert_eq!(named(Some("http://stand-in:1")), None);
}

#[tokio::test]
async fn a_listing_without_end_is_not_read_to_its_end() {
    let place = Place::new();
    let key = "a".repeat(1000);
    let objects: Vec<(&str, usize)> = (0..20_000).map(|_| (key.as_str(), 1)).collect();
    let answers = Answers::from([("/models", vec![list(&objects)])]);
    let (address, _) = serve(answers).await;
    let fault = place.fetch(&s3(&address, "s3://models/net/", "keys"), None).await.unwrap_err();
    assert_eq!(fault.reason, Reason::InvalidSource);
    assert!(fault.message.contains("more than 16777216 bytes"), "{}", fault.message);
}

/// Secrets made for KServe are taken as they are.
#[test]
fn the_key_of_an_azure_account_has_two_names() {
    let source =
        ManifestSource::Azure { uri: "as://account/models/net".into(), endpoint: None, secret: Some("keys".into()) };
    let key_of = |names: &[&str]| {
        let place = Place::new();
        for name in names {
            fs::write(place.root.path().join("secrets/keys").join(name), format!("{name}\n")).unwrap();
        }
        let (variables, _) =
            ObjectSource::of(&source).unwrap().variables(&place.secrets).map_err(|fault| fault.message)?;
        Ok::<_, String>(variables("AZURE_STORAGE_KEY").unwrap_or_default())
    };
    assert_eq!(key_of(&["AZURE_STORAGE_ACCESS_KEY"]), Ok("AZURE_STORAGE_ACCESS_KEY".to_owned()));
    assert_eq!(key_of(&["AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"]), Ok("AZURE_STORAGE_KEY".to_owned()));
    assert_eq!(key_of(&[]), Err("Secret 'keys' is absent, or has no AZURE_STORAGE_KEY".to_owned()));
}
