//! What a model's folder looks like, as one number: it differs when a file was added, removed, resized or written again.

use std::{
    fs::{self, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use server_core::repository::watch::Sight;

use crate::stamp::{is_ignored, is_of_the_entry};

/// How deep folders are followed: a model's files lie a few deep, and nothing is lost but changes below.
const DEPTH: usize = 32;

/// Looks at every file of a model's folder that a load would look at. One `stat` for each, and no file is opened.
pub(crate) fn sight(folder: &Path) -> Sight {
    let mut walk = Walk { digest: 0, above: Vec::new() };
    // Where it lies is a part: a model that was moved is loaded from its new place.
    walk.add(folder, &0_u8);
    match fs::metadata(folder).and_then(|metadata| walk.folder(folder, Path::new(""), &metadata)) {
        Ok(()) => Sight::There(walk.digest),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Sight::Gone,
        Err(_) => Sight::Unknown,
    }
}

struct Walk {
    /// The sum over all files: the order in which a folder lists them says nothing.
    digest: u64,
    /// Device and number of the folders around the one being read: a link back to one of them is not followed.
    above: Vec<(u64, u64)>,
}

impl Walk {
    fn add(&mut self, path: &Path, what: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        what.hash(&mut hasher);
        self.digest = self.digest.wrapping_add(hasher.finish());
    }

    /// Errors: its storage does not answer now.
    fn folder(&mut self, path: &Path, inside: &Path, metadata: &Metadata) -> io::Result<()> {
        let identity = (metadata.dev(), metadata.ino());
        if self.above.len() == DEPTH || self.above.contains(&identity) {
            return Ok(());
        }
        let entries = match fs::read_dir(path) {
            // without a right to read it: as empty as for a load
            Err(error) if is_of_the_entry(&error) && !inside.as_os_str().is_empty() => return Ok(()),
            entries => entries?,
        };
        self.above.push(identity);
        for entry in entries {
            let name = entry?.file_name();
            let inside = inside.join(&name);
            if is_ignored(&inside) {
                continue;
            }
            let path = path.join(&name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    if is_ignored(&inside.join("any")) {
                        continue; // what lies in it concerns no version
                    }
                    self.add(&inside, &1_u8); // an ensemble's version is a folder without files
                    self.folder(&path, &inside, &metadata)?;
                }
                Ok(metadata) => self.add(&inside, &(metadata.len(), metadata.mtime(), metadata.mtime_nsec())),
                Err(error) if is_of_the_entry(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.above.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_load_would_see_changes_it_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("config.pbtxt", "name: 'm'");
        write("1/model.py", "pass");
        let mut last = sight(folder.path());
        assert_eq!(sight(folder.path()), last);
        for (path, text) in [
            ("1/__pycache__/model.cpython-312.pyc", "x"),
            (".config.pbtxt.swp", "x"),
            ("config.pbtxt~", "x"),
            ("1/.nfs0001", "x"),
            ("2.tmp/model.py", "pass"),
        ] {
            write(path, text);
            assert_eq!(sight(folder.path()), last, "{path}");
        }
        let mut check = |change: &str| {
            let now = sight(folder.path());
            assert!(matches!(now, Sight::There(_)), "{change}");
            assert_ne!(now, last, "{change}");
            last = now;
        };
        write("config.pbtxt", "name: 'm' ");
        check("longer");
        let file = fs::File::options().write(true).open(folder.path().join("1/model.py")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        check("another time");
        fs::create_dir(folder.path().join("2")).unwrap();
        check("a version without files");
        write("labels.txt", "a");
        check("a file more");
        fs::rename(folder.path().join("labels.txt"), folder.path().join("names.txt")).unwrap();
        check("another name");
        fs::remove_dir_all(folder.path().join("1")).unwrap();
        check("a version less");
        symlink(".", folder.path().join("1")).unwrap();
        check("a link back");
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(sight(folder.path()), Sight::Gone);
    }

    #[test]
    fn the_same_content_elsewhere_is_another() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_ne!(sight(one.path()), sight(other.path()));
    }
}
