//! Registries on the loopback, well-behaved and not.

use std::sync::Mutex;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::*;
use crate::{
    disk::{Disk, DiskLimits},
    source::{
        progress::Limits,
        unpack::tests::{gzip, tar_of},
        web::{Answers, ok, serve, status, unwatched},
    },
};

const FILE: EntryType = EntryType::Regular;
const IMAGE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("into")).unwrap();
        Self { root }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.root.path().join("into").join(path)).unwrap()
    }

    fn secret(&self, keys: &[(&str, &str)]) {
        let folder = self.root.path().join("secrets/registry");
        fs::create_dir_all(&folder).unwrap();
        keys.iter().for_each(|(key, value)| fs::write(folder.join(key), value).unwrap());
    }

    async fn pull(&self, reference: &str, secret: Option<&str>, limits: Limits) -> Result<Fetched, Fault> {
        let oci = Oci { reference, secret, plain_http: true };
        let secrets = Mounts { below: vec![self.root.path().join("secrets")], ..Mounts::default() };
        let rule = Arc::new(AddressRule::with_loopback());
        let (into, beside) = (self.root.path().join("into"), self.root.path().join("download"));
        let pulled = oci.fetch(&rule, &secrets, &into, &beside, &unwatched(limits)).await;
        if pulled.is_ok() {
            assert!(!beside.exists(), "no layer is left behind");
        }
        pulled
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A path that lives as long as the test.
fn path(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// A manifest of layers: media type, annotations, content.
fn manifest(config: &str, layers: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let layer = |(media_type, annotations, content): &(&str, &str, &[u8])| {
        let (digest, length) = (digest(content), content.len());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{length},"annotations":{{{annotations}}}}}"#)
    };
    let layers: Vec<String> = layers.iter().map(layer).collect();
    let config = format!(r#"{{"mediaType":"{config}","digest":"{}","size":2}}"#, digest(b"{}"));
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(",")).into_bytes()
}

/// A registry that has this manifest as `m/net:v1`, and these blobs.
fn registry(manifest: &[u8], blobs: &[&[u8]]) -> Answers {
    let mut answers = Answers::from([("/v2/m/net/manifests/v1", vec![ok(manifest)])]);
    answers.insert(path(format!("/v2/m/net/manifests/{}", digest(manifest))), vec![ok(manifest)]);
    for blob in blobs {
        answers.insert(path(format!("/v2/m/net/blobs/{}", digest(blob))), vec![ok(blob)]);
    }
    answers
}

async fn start(answers: Answers) -> (String, Arc<Mutex<Vec<String>>>) {
    let (address, asked) = serve(answers).await;
    (address.strip_prefix("http://").unwrap().to_owned(), asked)
}

#[tokio::test]
async fn the_models_folder_of_an_image_is_unpacked_layer_upon_layer() {
    let base = gzip(&tar_of(&[
        ("bin/sh", FILE, b"#!"),
        ("models/1/model.onnx", FILE, b"old"),
        ("models/2/model.onnx", FILE, b"gone"),
        ("models/config.pbtxt", FILE, b"x"),
        ("dev/null", EntryType::Char, b""),
    ]));
    let upper = gzip(&tar_of(&[
        ("models/1/model.onnx", FILE, b"new"),
        ("models/.wh.2", FILE, b""),
        ("models/3/model.onnx", EntryType::Symlink, b"../1/model.onnx"),
    ]));
    let manifest = manifest(IMAGE, &[(LAYER, "", &base), (LAYER, "", &upper)]);
    let (host, _) = start(registry(&manifest, &[&base, &upper])).await;
    let place = Place::new();
    let fetched = place.pull(&format!("{host}/m/net:v1"), None, Limits::default()).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["1/model.onnx", "3/model.onnx", "config.pbtxt"]);
    assert!(
        place.read("1/model.onnx") == b"new"
            && place.read("3/model.onnx") == b"new"
            && place.read("config.pbtxt") == b"x"
    );
    assert_eq!(fetched.hash, verify::hash_of_folder(&fetched.files));
    assert!(!place.root.path().join("into/bin").exists());
}

#[tokio::test]
async fn a_model_pack_is_files_and_archives() {
    let (weights, readme) = (vec![7; 100_000], b"words".to_vec());
    let config = tar_of(&[("config.pbtxt", FILE, b"x"), ("1/labels.txt", FILE, b"a\n")]);
    let path = |path: &str| format!(r#""org.cncf.model.filepath":"{path}""#);
    let manifest = manifest(
        "application/vnd.cncf.model.config.v1+json",
        &[
            ("application/vnd.cncf.model.weight.v1.raw", &path("1/model.onnx"), &weights),
            ("application/vnd.cncf.model.weight.config.v1.tar", &path("config.pbtxt"), &config),
            ("application/vnd.cncf.model.doc.v1.raw", &path("README.md"), &readme),
        ],
    );
    let (host, asked) = start(registry(&manifest, &[&weights, &config])).await;
    let place = Place::new();
    let reference = format!("{host}/m/net@{}", digest(&manifest));
    let fetched = place.pull(&reference, None, Limits::default()).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["1/labels.txt", "1/model.onnx", "config.pbtxt"]);
    assert!(place.read("1/model.onnx") == weights && place.read("1/labels.txt") == b"a\n");
    assert!(!asked.lock().unwrap().iter().any(|request| request.contains(&digest(&readme))), "documents stay away");
}

#[tokio::test]
async fn of_an_index_the_image_for_this_machine_is_pulled() {
    let layer = tar_of(&[("models/1/model.onnx", FILE, b"w")]);
    let image = manifest(IMAGE, &[(LAYER, "", &layer)]);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[
            {{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}},
            {{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{}"}}}}]}}"#,
        digest(b"other"),
        digest(&image),
        manifest::architecture()
    );
    let mut answers = registry(&image, &[&layer]);
    answers.insert("/v2/m/net/manifests/all", vec![ok(index.as_bytes())]);
    let (host, _) = start(answers).await;
    let fetched = Place::new().pull(&format!("{host}/m/net:all"), None, Limits::default()).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["1/model.onnx"]);
}

#[tokio::test]
async fn a_registry_that_wants_a_token_gets_the_one_of_its_own_server() {
    let layer = tar_of(&[("1/model.onnx", FILE, b"w")]);
    let manifest = manifest(IMAGE, &[(LAYER, "", &layer)]);
    let (realm, asked_realm) = serve(Answers::from([("/token", vec![ok(br#"{"access_token":"fresh"}"#)])])).await;
    let challenge = format!("www-authenticate: Bearer realm=\"{realm}/token\",service=\"registry\"\r\n");
    let locked = status("401 Unauthorized", &challenge, b"");
    let mut answers = registry(&manifest, &[]);
    answers.insert("/v2/m/net/manifests/v1", vec![locked.clone(), ok(&manifest)]);
    // the token ends while layers are fetched
    let blob = path(format!("/v2/m/net/blobs/{}", digest(&layer)));
    answers.insert(blob, vec![locked.clone(), locked, ok(&layer)]);
    let (host, asked) = start(answers).await;
    let place = Place::new();
    let login = format!(r#"{{"auths":{{"{host}":{{"auth":"{}"}}}}}}"#, STANDARD.encode("me:pw"));
    place.secret(&[(".dockerconfigjson", &login)]);
    place.pull(&format!("{host}/m/net:v1"), Some("registry"), Limits::default()).await.unwrap();
    let asked = asked.lock().unwrap();
    let with_token: Vec<bool> =
        asked.iter().map(|request| request.contains("authorization: Bearer fresh\r\n")).collect();
    assert_eq!(with_token, [false, true, true, false, true], "{asked:#?}");
    assert!(!asked.iter().any(|request| request.contains("Basic")), "the password goes to the server of tokens");
    let asked_realm = asked_realm.lock().unwrap();
    assert_eq!(asked_realm.len(), 2);
    assert!(
        asked_realm[0].starts_with("GET /token?service=registry&scope=repository%3Am%2Fnet%3Apull "),
        "{asked_realm:#?}"
    );
    assert!(asked_realm[0].contains(&format!("authorization: Basic {}\r\n", STANDARD.encode("me:pw"))));
}

#[tokio::test]
async fn a_password_or_an_identity_opens_a_registry() {
    let layer = tar_of(&[("1/model.onnx", FILE, b"w")]);
    let manifest = manifest(IMAGE, &[(LAYER, "", &layer)]);
    let mut answers = registry(&manifest, &[&layer]);
    let locked = status("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", b"");
    answers.insert("/v2/m/net/manifests/v1", vec![locked, ok(&manifest)]);
    let (host, asked) = start(answers.clone()).await;
    let place = Place::new();
    place.secret(&[("username", "me"), ("password", "pw")]);
    place.pull(&format!("{host}/m/net:v1"), Some("registry"), Limits::default()).await.unwrap();
    let basic = format!("authorization: Basic {}\r\n", STANDARD.encode("me:pw"));
    assert!(asked.lock().unwrap()[1..].iter().all(|request| request.contains(&basic)));

    let (realm, asked_realm) = serve(Answers::from([("/token", vec![ok(br#"{"token":"t"}"#)])])).await;
    let challenge = format!("www-authenticate: Bearer realm=\"{realm}/token\"\r\n");
    answers.insert("/v2/m/net/manifests/v1", vec![status("401 Unauthorized", &challenge, b""), ok(&manifest)]);
    let (host, asked) = start(answers).await;
    let place = Place::new();
    place.secret(&[(".dockerconfigjson", &format!(r#"{{"auths":{{"{host}":{{"identitytoken":"refresh"}}}}}}"#))]);
    place.pull(&format!("{host}/m/net:v1"), Some("registry"), Limits::default()).await.unwrap();
    assert!(asked.lock().unwrap()[1].contains("authorization: Bearer t\r\n"));
    assert!(asked_realm.lock().unwrap()[0].starts_with("POST /token "));
}

#[tokio::test]
async fn what_the_registry_refuses_is_told_with_what_helps() {
    let challenge = "www-authenticate: Basic realm=\"r\"\r\n";
    let denied = br#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
    let answers = Answers::from([
        ("/v2/m/locked/manifests/v1", vec![status("401 Unauthorized", challenge, b"")]),
        ("/v2/m/denied/manifests/v1", vec![status("403 Forbidden", "", denied)]),
        ("/v2/m/odd/manifests/v1", vec![status("401 Unauthorized", "www-authenticate: Negotiate\r\n", b"")]),
    ]);
    let (host, _) = start(answers).await;
    let place = Place::new();
    place.secret(&[("username", "me"), ("password", "open sesame")]);
    let secret = Some("registry");
    for (name, secret, reason, saying) in [
        ("m/absent:v1", None, Reason::SourceNotFound, "check the name, and the tag or digest"),
        ("m/locked:v1", None, Reason::CredentialsMissing, "name a Secret of type kubernetes.io/dockerconfigjson"),
        ("m/locked:v1", secret, Reason::CredentialsMissing, "to the user in Secret 'registry'"),
        ("m/denied:v1", secret, Reason::CredentialsMissing, "(DENIED: requested access is denied)"),
        ("m/odd:v1", secret, Reason::CredentialsMissing, "check the name, the password"),
        ("m/net:v1", Some("absent"), Reason::CredentialsMissing, "'absent' is not mounted"),
        ("Bad/Name", None, Reason::InvalidSource, "is no reference"),
    ] {
        let fault = place.pull(&format!("{host}/{name}"), secret, Limits::default()).await.unwrap_err();
        assert!(fault.reason == reason && fault.message.contains(saying), "{name}: {fault}");
        assert!(!fault.message.contains("sesame"), "{fault}");
    }
}

#[tokio::test]
async fn content_that_is_not_that_of_its_digest_is_refused() {
    let layer = tar_of(&[("1/model.onnx", FILE, b"w")]);
    let good = manifest(IMAGE, &[(LAYER, "", &layer)]);
    let mut damaged = layer.clone();
    damaged[600] ^= 1;
    let mut answers = registry(&good, &[]);
    answers.insert(path(format!("/v2/m/net/blobs/{}", digest(&layer))), vec![ok(&damaged)]);
    let (host, _) = start(answers).await;
    let place = Place::new();
    let fault = place.pull(&format!("{host}/m/net:v1"), None, Limits::default()).await.unwrap_err();
    assert!(fault.reason == Reason::DownloadFailed && fault.message.contains("it should have sha256:"), "{fault}");
    assert_eq!(fs::read_dir(place.root.path().join("into")).unwrap().count(), 0, "nothing of it is unpacked");

    tokio::time::pause();
    let other = format!("/v2/m/net/manifests/{}", digest(b"other"));
    let mut answers = registry(&good, &[]);
    answers.insert(path(other), vec![ok(&good)]);
    let lie = status("200 OK", &format!("docker-content-digest: {}\r\n", digest(b"other")), &good);
    answers.insert("/v2/m/net/manifests/lie", vec![lie]);
    let (host, _) = start(answers).await;
    for reference in [format!("{host}/m/net@{}", digest(b"other")), format!("{host}/m/net:lie")] {
        let fault = Place::new().pull(&reference, None, Limits::default()).await.unwrap_err();
        assert!(fault.reason == Reason::DownloadFailed && fault.message.contains("it should have"), "{fault}");
    }
}

#[tokio::test]
async fn images_that_are_no_models_and_layers_that_are_too_much_are_refused() {
    let system = tar_of(&[("bin/sh", FILE, b"#!"), ("etc/passwd", FILE, b"root")]);
    let evil = tar_of(&[("models/../../evil", FILE, b"x")]);
    let link = tar_of(&[("etc/passwd", FILE, b"root"), ("models/a", EntryType::Symlink, b"/etc/passwd")]);
    let bomb = gzip(&tar_of(&[("models/a", FILE, &vec![0; 4 << 20])]));
    let junk = b"<html>".to_vec();
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    for (layer, saying) in [
        (system, "put the model's files into /models"),
        (evil, "leads out of it"),
        (link, "leads out of the model's folder"),
        (bomb, "limit of 1048576"),
        (junk, "cannot be unpacked"),
    ] {
        let manifest = manifest(IMAGE, &[(LAYER, "", &layer)]);
        let (host, _) = start(registry(&manifest, &[&layer])).await;
        let place = Place::new();
        let fault = place.pull(&format!("{host}/m/net:v1"), None, limits).await.unwrap_err();
        assert!(fault.reason == Reason::InvalidSource && fault.message.contains(saying), "{fault}");
        assert!(fault.message.starts_with(&format!("{host}/m/net:v1: ")), "{fault}");
        assert!(!place.root.path().join("evil").exists());
    }
    let manifest = String::from_utf8(manifest(IMAGE, &[(LAYER, "", b"x")])).unwrap();
    let endless = manifest.replace(r#""size":1,"#, r#""size":18446744073709551615,"#);
    let (host, _) = start(registry(endless.as_bytes(), &[])).await;
    let fault = Place::new().pull(&format!("{host}/m/net:v1"), None, limits).await.unwrap_err();
    assert!(fault.message.contains("over the limit of 1048576"), "{fault}");
    let nested = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#, digest(b"x"));
    let deeper =
        format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#, digest(nested.as_bytes()));
    let deepest =
        format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#, digest(deeper.as_bytes()));
    let mut answers = Answers::from([("/v2/m/net/manifests/v1", vec![ok(deepest.as_bytes())])]);
    for text in [&nested, &deeper] {
        answers.insert(path(format!("/v2/m/net/manifests/{}", digest(text.as_bytes()))), vec![ok(text.as_bytes())]);
    }
    let (host, _) = start(answers).await;
    let fault = Place::new().pull(&format!("{host}/m/net:v1"), None, limits).await.unwrap_err();
    assert!(fault.message.contains("go deeper than 2"), "{fault}");
}

#[tokio::test]
async fn a_layer_goes_on_where_it_broke_off_though_the_registry_calls_it_nothing() {
    let layer = tar_of(&[("1/model.onnx", FILE, &[7; 200_000])]);
    let manifest = manifest(IMAGE, &[(LAYER, "", &layer)]);
    let half = layer.len() / 2;
    let cut =
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", layer.len()).as_bytes(), &layer[..half]].concat();
    let range = format!("content-range: bytes {half}-{}/{}\r\n", layer.len() - 1, layer.len());
    let rest = status("206 Partial Content", &range, &layer[half..]);
    let mut answers = registry(&manifest, &[]);
    answers.insert(path(format!("/v2/m/net/blobs/{}", digest(&layer))), vec![cut, rest]);
    let (host, asked) = start(answers).await;
    tokio::time::pause();
    let place = Place::new();
    place.pull(&format!("{host}/m/net:v1"), None, Limits::default()).await.unwrap();
    assert!(place.read("1/model.onnx") == [7; 200_000]);
    assert!(asked.lock().unwrap().last().unwrap().contains(&format!("range: bytes={half}-\r\n")));
}

#[tokio::test]
async fn what_the_disk_has_no_room_for_is_refused_before_it_comes_or_while_it_is_unpacked() {
    let zeros = gzip(&tar_of(&[("models/a", FILE, &vec![0; 8 << 20])]));
    let noise: Vec<u8> = (0..4_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let large = tar_of(&[("models/a", FILE, &noise)]);
    for (layer, comes) in [(large, false), (zeros, true)] {
        let manifest = manifest(IMAGE, &[(LAYER, "", &layer)]);
        let (host, asked) = start(registry(&manifest, &[&layer])).await;
        let place = Place::new();
        let disk =
            Disk::new(place.root.path().to_owned(), DiskLimits { limit: Some(3 << 20), is_of_node: false }, || {});
        let progress = Progress::on_disk(Limits::default(), disk.reservation(), |_| {});
        let reference = format!("{host}/m/net:v1");
        let oci = Oci { reference: &reference, secret: None, plain_http: true };
        let (into, beside) = (place.root.path().join("into"), place.root.path().join("download"));
        let rule = Arc::new(AddressRule::with_loopback());
        let fault = oci.fetch(&rule, &Mounts::default(), &into, &beside, &progress).await.unwrap_err();
        assert_eq!(fault.reason, Reason::StoreFull, "{fault}");
        assert_eq!(asked.lock().unwrap().iter().any(|request| request.contains("/blobs/")), comes);
    }
}
