//! ConfigMaps and Secrets of the files as folders, as the kubelet would mount them: each replaced whole, by swapping a link.
//! Only the user who runs this can enter the folders.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

use super::desired::Contents;

/// A folder with one subfolder per ConfigMap or Secret.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    written: Contents,
    generation: u64,
}

impl Folder {
    /// Begins with an empty folder, whatever was there.
    pub(crate) fn new(root: PathBuf) -> io::Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root, written: Contents::new(), generation: 0 })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// Makes the folder hold these.
    pub(crate) fn write(&mut self, maps: &Contents) -> io::Result<()> {
        for (name, keys) in maps {
            if self.written.get(name) != Some(keys) {
                self.write_one(name, keys)?;
            }
        }
        for name in self.written.keys().filter(|name| !maps.contains_key(*name)) {
            fs::remove_file(self.root.join(name))?;
        }
        self.written.clone_from(maps);
        Ok(())
    }

    /// Takes the folder away.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            tracing::warn!(%error, folder = %self.root.display(), "cannot be removed");
        }
    }

    fn write_one(&mut self, name: &str, keys: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
        let link = self.root.join(name);
        let old = fs::read_link(&link).ok();
        self.generation += 1;
        let data = format!("..{name}.{}", self.generation);
        fs::create_dir(self.root.join(&data))?;
        for (key, content) in keys {
            fs::write(self.root.join(&data).join(key), content)?;
        }
        let temporary = self.root.join("..new");
        symlink(&data, &temporary)?;
        fs::rename(temporary, link)?;
        match old {
            Some(old) => fs::remove_dir_all(self.root.join(old)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_appear_change_and_go() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(root.path().join("maps")).unwrap();
        let map = |text: &str| Contents::from([("tiny".into(), BTreeMap::from([("model.py".into(), text.into())]))]);
        let file = folder.path().join("tiny/model.py");
        folder.write(&map("one")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        folder.write(&map("two")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the old data is gone");
        folder.write(&Contents::new()).unwrap();
        assert!(!file.exists());
    }
}
