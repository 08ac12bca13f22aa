//! The objects of one model as files and folders. Pure: what a store lists comes in, and everything that cannot be a file of
//! this machine is refused by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use object_store::{ObjectMeta, path::Path as Key};

/// Bytes of one name in a path, and of a whole path below the model's folder.
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 2048;

/// The files of one model.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Listing {
    pub(crate) files: BTreeMap<PathBuf, RemoteFile>,
    /// Names of the folders directly in it, also of those without files.
    pub(crate) folders: BTreeSet<String>,
}

/// One file as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    pub(crate) key: Key,
    pub(crate) size: u64,
    pub(crate) identity: Identity,
}

/// What tells one content of an object from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) size: u64,
    /// Without quotes: some stores list it so and some do not.
    e_tag: Option<String>,
    /// When it was written last: counts where the store gives no tag.
    modified: SystemTime,
}

/// An object that cannot be a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadKey {
    pub(crate) key: String,
    pub(crate) reason: String,
}

// === impl Listing ===

impl Listing {
    /// Sorts the objects below `folder`, the key of the model.
    ///
    /// Errors: a name is too long, or a file lies where others need a folder.
    pub(crate) fn of(folder: &str, objects: impl IntoIterator<Item = ObjectMeta>) -> Result<Self, BadKey> {
        let mut listing = Self::default();
        let mut empty = Vec::new();
        for object in objects {
            let key = object.location.as_ref();
            let below = match folder {
                "" => Some(key),
                folder => key.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(below) = below else { continue };
            let refused = |reason: String| BadKey { key: key.to_owned(), reason };
            if let Some(name) = below.split('/').find(|name| name.len() > LONGEST_NAME) {
                return Err(refused(format!(
                    "of which one name has {} bytes; a file's has at most {LONGEST_NAME}",
                    name.len()
                )));
            }
            if below.len() > LONGEST_PATH {
                return Err(refused(format!(
                    "whose path has {} bytes; a file's has at most {LONGEST_PATH}",
                    below.len()
                )));
            }
            if below.split('/').any(|name| matches!(name, "" | "." | "..")) || below.contains('\0') {
                return Err(refused("which is no path below its model".into()));
            }
            if let Some((top, _)) = below.split_once('/') {
                listing.folders.insert(top.to_owned());
            }
            let path = PathBuf::from(below);
            if object.size == 0 {
                empty.push(path.clone());
            }
            listing.files.insert(path, RemoteFile::of(object));
        }
        listing.drop_folder_markers(empty);
        listing.refuse_files_that_are_folders()?;
        Ok(listing)
    }

    /// Consoles and copying tools write an empty object for each folder.
    fn drop_folder_markers(&mut self, empty: Vec<PathBuf>) {
        for path in empty {
            let is_version = path.to_str().is_some_and(is_version);
            if is_version || self.has_files_below(&path) {
                if let Some(name) = path.to_str().filter(|name| !name.contains('/')) {
                    self.folders.insert(name.to_owned());
                }
                self.files.remove(&path);
            }
        }
    }

    fn refuse_files_that_are_folders(&self) -> Result<(), BadKey> {
        match self.files.iter().find(|(path, _)| self.has_files_below(path)) {
            None => Ok(()),
            Some((_, file)) => {
                Err(BadKey { key: file.key.to_string(), reason: "which is a file and has others below it".into() })
            }
        }
    }

    fn has_files_below(&self, path: &Path) -> bool {
        let below = (std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded);
        self.files.range::<Path, _>(below).next().is_some_and(|(next, _)| next.starts_with(path))
    }

    /// A number for all files and folders: it differs when one is added, removed or has another content.
    pub(crate) fn digest(&self, is_ignored: impl Fn(&Path) -> bool) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, file) in self.files.iter().filter(|(path, _)| !is_ignored(path)) {
            (path, file.identity.time(), file.size).hash(&mut hasher);
        }
        // a folder counts if files in it would
        let folders = self.folders.iter().filter(|name| !is_ignored(&Path::new(name).join("any")));
        folders.for_each(|name| name.hash(&mut hasher));
        hasher.finish()
    }

    /// Whether nothing is there at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.folders.is_empty()
    }
}

// === impl RemoteFile ===

impl RemoteFile {
    pub(crate) fn of(object: ObjectMeta) -> Self {
        let ObjectMeta { location, last_modified, size, e_tag, .. } = object;
        let e_tag = e_tag.map(|tag| bare(&tag).to_owned());
        Self { key: location, size, identity: Identity { size, e_tag, modified: last_modified.into() } }
    }
}

// === impl Identity ===

impl Identity {
    /// Whether both tell of the same content.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let is_tagged = self.e_tag.is_some() && other.e_tag.is_some();
        self.size == other.size && self.e_tag == other.e_tag && (is_tagged || self.modified == other.modified)
    }

    /// The condition under which an answer is about this content.
    pub(crate) fn condition(&self) -> Option<String> {
        self.e_tag.as_ref().map(|tag| format!("\"{tag}\""))
    }

    /// Whether the tag of an answer says that it is about other content.
    pub(crate) fn is_denied_by(&self, e_tag: Option<&str>) -> bool {
        self.e_tag.as_deref().zip(e_tag).is_some_and(|(listed, now)| listed != bare(now))
    }

    /// A time for the file that differs whenever the content does: the second of the last change, and within it a number
    /// that follows from the tag, for stores tell seconds only.
    pub(crate) fn time(&self) -> SystemTime {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let tag = self.e_tag.as_deref().unwrap_or_default();
        let nanos = match tag {
            "" => since.subsec_nanos(),
            // FNV-1a
            tag => {
                (tag.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
                }) % 1_000_000_000) as u32
            }
        };
        SystemTime::UNIX_EPOCH + Duration::new(since.as_secs(), nanos)
    }
}

fn bare(e_tag: &str) -> &str {
    e_tag.trim_start_matches("W/").trim_matches('"')
}

/// Whether a folder of this name may be a model version.
pub(crate) fn is_version(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, size: u64, e_tag: Option<&str>, second: i64) -> ObjectMeta {
        let last_modified = (SystemTime::UNIX_EPOCH + Duration::from_secs(second.unsigned_abs())).into();
        let location = Key::parse(key).unwrap();
        ObjectMeta { location, last_modified, size, e_tag: e_tag.map(Into::into), version: None }
    }

    #[track_caller]
    fn check(keys: &[(&str, u64)], files: &[&str], folders: &[&str]) {
        let objects = keys.iter().map(|(key, size)| object(key, *size, None, 1));
        let listing = Listing::of("repo/m", objects).unwrap();
        let found: Vec<_> = listing.files.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(found, files);
        assert_eq!(listing.folders.iter().map(String::as_str).collect::<Vec<_>>(), folders);
    }

    #[test]
    fn objects_become_files_and_folders() {
        let keys = [("repo/m/config.pbtxt", 3), ("repo/m/1/model.onnx", 9), ("repo/m/1/a/b", 1), ("repo/m/x/y", 1)];
        check(&keys, &["1/a/b", "1/model.onnx", "config.pbtxt", "x/y"], &["1", "x"]);
        check(&[("repo/mm/1/a", 1), ("repo/m", 0), ("other", 1)], &[], &[]);
    }

    #[test]
    fn empty_objects_that_stand_for_folders_are_folders() {
        check(&[("repo/m/", 0), ("repo/m/1/", 0), ("repo/m/config.pbtxt", 1)], &["config.pbtxt"], &["1"]);
        check(&[("repo/m/x", 0), ("repo/m/x-y", 1), ("repo/m/x/a", 0), ("repo/m/x/a/b", 1)], &["x/a/b", "x-y"], &["x"]);
        check(&[("repo/m/empty.txt", 0)], &["empty.txt"], &[]);
    }

    #[test]
    fn what_cannot_be_a_file_is_refused_by_name() {
        let refused = |keys: &[&str]| {
            let objects = keys.iter().map(|key| object(key, 1, None, 1));
            Listing::of("m", objects).unwrap_err()
        };
        assert_eq!(refused(&["m/1", "m/1/a"]).key, "m/1");
        let long = format!("m/1/{}", "x".repeat(256));
        assert_eq!(refused(&[&long]).key, long);
        let deep = format!("m/{}", "deep/".repeat(500));
        assert!(refused(&[&deep]).reason.contains("2048"));
        for key in ["m/../x", "m//x", "m/./x", "m/\0"] {
            assert!(Key::parse(key).is_err(), "{key}: the store's client refuses it before");
        }
    }

    #[test]
    fn files_look_different_exactly_when_their_content_is() {
        let of = |size, tag, second| RemoteFile::of(object("k", size, tag, second)).identity;
        assert!(of(1, Some("a"), 1).is_same(&of(1, Some("a"), 2)), "uploaded again");
        assert!(!of(1, Some("a"), 1).is_same(&of(1, Some("b"), 1)));
        assert!(of(1, Some("a"), 1).is_same(&of(1, Some("\"a\""), 1)));
        assert_eq!(of(1, Some("a"), 1).condition().as_deref(), Some("\"a\""));
        assert!(!of(1, Some("a"), 1).is_denied_by(Some("\"a\"")) && of(1, Some("a"), 1).is_denied_by(Some("\"b\"")));
        assert_ne!(of(1, Some("a"), 1).time(), of(1, Some("b"), 1).time(), "within one second");
        assert!(!of(1, None, 1).is_same(&of(1, None, 2)) && of(1, None, 1).is_same(&of(1, None, 1)));
    }
}
