use std::os::unix::fs::MetadataExt;

use object_store::{ObjectMeta, ObjectStoreExt, memory::InMemory, path::Path as Key};

use super::*;
use crate::{error::Tried, limits::Limits, location::Location, repository::RemoteRepository};

struct Bucket {
    store: Arc<InMemory>,
    repository: Arc<RemoteRepository>,
    folder: TempDir,
}

impl Bucket {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let variables = move |name: &str| (name == "TRITON_AWS_MOUNT_DIRECTORY").then(|| path.clone());
        let store = Arc::new(InMemory::new());
        let location = Location::parse("s3://bucket/repo").unwrap();
        let client = Client { store: store.clone(), tried: Tried::default() };
        let repository = RemoteRepository::new(location, Arc::new(variables), limits).with_client(client);
        Self { store, repository: Arc::new(repository), folder }
    }

    async fn put(&self, key: &str, content: &str) {
        self.store.put(&Key::parse(key).unwrap(), content.to_owned().into()).await.unwrap();
    }

    async fn delete(&self, key: &str) {
        self.store.delete(&Key::parse(key).unwrap()).await.unwrap();
    }

    async fn open(&self, versions: &[u64]) -> Snapshot {
        let model = self.repository.find("m").await.unwrap().unwrap();
        let mut snapshot = model.open().await.unwrap();
        snapshot.fetch_versions(versions).await.unwrap();
        snapshot
    }

    /// Names below the folder where copies lie.
    fn kept(&self) -> Vec<String> {
        files(self.folder.path())
    }
}

/// All files below a folder with their content, and its empty folders, sorted.
fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, top: &Path, found: &mut Vec<String>) {
        let mut is_empty = true;
        for entry in fs::read_dir(folder).unwrap() {
            is_empty = false;
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            if path.is_dir() {
                walk(&path, top, found);
            } else {
                found.push(format!("{name}={}", fs::read_to_string(&path).unwrap()));
            }
        }
        if is_empty && folder != top {
            found.push(format!("{}/", folder.strip_prefix(top).unwrap().display()));
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

fn inode(snapshot: &Snapshot, path: &str) -> u64 {
    fs::metadata(snapshot.path().join(path)).unwrap().ino()
}

async fn two_versions() -> Bucket {
    let bucket = Bucket::new();
    for (key, content) in
        [("repo/m/config.pbtxt", "c"), ("repo/m/labels.txt", "l"), ("repo/m/1/model", "one"), ("repo/m/2/model", "two")]
    {
        bucket.put(key, content).await;
    }
    bucket
}

#[tokio::test]
async fn only_what_is_asked_for_is_fetched() {
    let bucket = two_versions().await;
    bucket.put("repo/other/1/x", "x").await;
    bucket.put("elsewhere/x/y", "x").await;
    bucket.repository.look().await.unwrap();
    assert_eq!(bucket.repository.names().unwrap().into_iter().collect::<Vec<_>>(), ["m", "other"]);
    assert!(bucket.repository.find("missing").await.unwrap().is_none());
    for name in ["", ".", "..", "m/1", "a\0b", "m/../other"] {
        assert!(bucket.repository.find(name).await.unwrap().is_none(), "{name:?}");
    }
    assert_eq!(bucket.kept(), Vec::<String>::new(), "nothing was fetched yet");

    let mut snapshot = bucket.repository.find("m").await.unwrap().unwrap().open().await.unwrap();
    assert_eq!(files(snapshot.path()), ["1/", "2/", "config.pbtxt=c", "labels.txt=l"]);
    assert_eq!(snapshot.version_files(2), ["model"]);
    snapshot.fetch_versions(&[2]).await.unwrap();
    assert_eq!(files(snapshot.path()), ["1/", "2/model=two", "config.pbtxt=c", "labels.txt=l"]);
}

#[tokio::test]
async fn what_is_the_same_is_the_very_same_file() {
    let bucket = two_versions().await;
    let before = bucket.open(&[1]).await;
    let again = bucket.open(&[1]).await;
    assert_eq!(before.path(), again.path(), "nothing has changed");
    drop(again);
    // one more: beside what is there
    let more = bucket.open(&[1, 2]).await;
    assert_eq!(before.path(), more.path());
    // another content: in another folder, for somebody may read the one that is there
    bucket.put("repo/m/labels.txt", "L").await;
    let after = bucket.open(&[1, 2]).await;
    assert_ne!(before.path(), after.path());
    assert_eq!(files(after.path()), ["1/model=one", "2/model=two", "config.pbtxt=c", "labels.txt=L"]);
    assert_eq!(files(before.path()), ["1/model=one", "2/model=two", "config.pbtxt=c", "labels.txt=l"]);
    assert_eq!(inode(&before, "1/model"), inode(&after, "1/model"));
    // uploaded again as it was
    bucket.put("repo/m/1/model", "one").await;
    let same = bucket.open(&[1, 2]).await;
    assert_ne!(same.path(), after.path());
    assert_eq!(inode(&same, "1/model"), inode(&after, "1/model"));
}

#[tokio::test]
async fn what_is_not_wanted_any_more_goes_with_its_last_user() {
    let bucket = two_versions().await;
    let one = bucket.open(&[1]).await;
    let holder = one.holder();
    let path = one.path().to_owned();
    drop(one);
    let two = bucket.open(&[2]).await;
    assert_eq!(files(two.path()), ["1/", "2/model=two", "config.pbtxt=c", "labels.txt=l"]);
    assert_eq!(files(&path), ["1/model=one", "2/", "config.pbtxt=c", "labels.txt=l"], "its user is not disturbed");
    drop(holder);
    assert!(!path.exists());

    bucket.delete("repo/m/1/model").await;
    bucket.delete("repo/m/labels.txt").await;
    let less = bucket.open(&[2]).await;
    assert_eq!(files(less.path()), ["2/model=two", "config.pbtxt=c"]);

    bucket.repository.forget("m");
    let (last, two_path) = (less.path().to_owned(), two.path().to_owned());
    drop((two, less));
    assert!(!last.exists() && !two_path.exists());
}

#[tokio::test]
async fn nothing_is_left_after_the_end() {
    let bucket = two_versions().await;
    let snapshot = bucket.open(&[1, 2]).await;
    let model = bucket.repository.find("m").await.unwrap().unwrap();
    bucket.repository.close();
    assert_eq!(bucket.kept(), Vec::<String>::new());
    assert!(matches!(model.open().await, Err(RepositoryError::Closed)));
    drop(snapshot);
}

#[tokio::test]
async fn an_object_that_changed_since_the_list_is_not_taken_for_the_listed_one() {
    let bucket = two_versions().await;
    let model = bucket.repository.find("m").await.unwrap().unwrap();
    bucket.put("repo/m/config.pbtxt", "d").await;
    let error = model.open().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "'s3://bucket/repo/m/config.pbtxt' changed while it was fetched; load the model again when it is complete"
    );
    assert_eq!(files(bucket.open(&[1]).await.path())[2], "config.pbtxt=d");
}

#[tokio::test]
async fn a_look_at_all_files_asks_once() {
    let bucket = two_versions().await;
    bucket.put("repo/n/1/x", "x").await;
    bucket.put("repo/top", "x").await;
    bucket.put("repo/.hidden/x", "x").await;
    bucket.put("repository/o/1/x", "x").await;
    let models = bucket.repository.look_at_files().await.unwrap();
    assert_eq!(models.iter().map(RemoteModel::name).collect::<Vec<_>>(), ["m", "n"]);
    bucket.put("repo/n/1/x", "y").await;
    let digest = async || models[1].digest(|_| false).await.unwrap();
    let then = digest().await;
    assert_ne!(then, digest().await, "the second time it asks");
}

#[tokio::test]
async fn what_came_before_a_failure_is_not_fetched_again() {
    let bucket = two_versions().await;
    let model = bucket.repository.find("m").await.unwrap().unwrap();
    let mut snapshot = model.open().await.unwrap();
    bucket.put("repo/m/2/model", "TWO").await;
    assert!(matches!(snapshot.fetch_versions(&[1, 2]).await, Err(RepositoryError::Changed { .. })));
    assert_eq!(files(snapshot.path()), ["1/model=one", "2/", "config.pbtxt=c", "labels.txt=l"]);
    let inode_before = inode(&snapshot, "1/model");
    let whole = bucket.open(&[1, 2]).await;
    assert_eq!(files(whole.path()), ["1/model=one", "2/model=TWO", "config.pbtxt=c", "labels.txt=l"]);
    assert_eq!(inode(&whole, "1/model"), inode_before);
}

#[tokio::test]
async fn files_need_room_before_they_are_fetched() {
    let bucket = two_versions().await;
    let huge = ObjectMeta {
        location: Key::parse("repo/m/1/model").unwrap(),
        last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
        size: 1 << 60,
        e_tag: None,
        version: None,
    };
    let listing = Arc::new(Listing::of("repo/m", [huge]).unwrap());
    let mut snapshot = Snapshot::open(bucket.repository.model("m"), listing).await.unwrap();
    let error = snapshot.fetch_versions(&[1]).await.unwrap_err().to_string();
    let folder = bucket.folder.path().display();
    assert!(error.starts_with("model 's3://bucket/repo/m' needs 1152921504606846976 bytes, and "), "{error}");
    assert!(
        error.ends_with(&format!(" are free in {folder} (TRITON_AWS_MOUNT_DIRECTORY names another folder)")),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let bucket = two_versions().await;
    let path = bucket.folder.path().to_owned();
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    let error = bucket.repository.find("m").await.unwrap().unwrap().open().await.unwrap_err().to_string();
    let start = format!(
        "unable to keep files of model repository 's3://bucket/repo' in {} (TRITON_AWS_MOUNT_DIRECTORY",
        path.display()
    );
    assert!(error.starts_with(&start), "{error}");
}

#[tokio::test]
async fn a_model_has_an_end() {
    let bucket = Bucket::with(Limits { objects: 3, ..Limits::default() });
    for number in 0..4 {
        bucket.put(&format!("repo/m/1/{number}"), "x").await;
    }
    let error = bucket.repository.find("m").await.unwrap_err();
    assert!(error.to_string().contains("more than 3 objects below 'repo/m'"), "{error}");
}

#[tokio::test]
async fn the_digest_tells_of_changes_without_fetching() {
    let bucket = two_versions().await;
    let digest = async |ignored: &'static str| {
        let model = bucket.repository.model("m");
        model.digest(|path| path.starts_with(ignored)).await.unwrap()
    };
    let before = digest("2").await.unwrap();
    bucket.put("repo/m/2/more", "x").await;
    assert_eq!(digest("2").await, Some(before));
    bucket.put("repo/m/1/more", "x").await;
    assert_ne!(digest("2").await, Some(before));
    assert_eq!(bucket.kept(), Vec::<String>::new());
    assert_eq!(bucket.repository.model("none").digest(|_| false).await.unwrap(), None);
}
