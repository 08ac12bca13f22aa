//! Libraries with operations (`model_operations`) that register themselves with their runtime when they are opened. To register an operation
//! a second time is an error, with which libtorch ends the process: so each library is opened once, whatever copies of it models bring.

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use server_core::{
    config::ModelConfig,
    error::{Error, Result},
};
use sha2::{Digest, Sha256};

/// Files that a configuration names: of the model's folder, or any where such are not there.
pub(crate) fn libraries(config: &ModelConfig, model_dir: &Path) -> Vec<PathBuf> {
    let names = config.model_operations.iter().flat_map(|operations| &operations.op_library_filename);
    let path = |name: &String| Some(model_dir.join(name)).filter(|own| own.exists()).unwrap_or_else(|| name.into());
    names.map(path).collect()
}

/// The libraries that a runtime was given.
#[derive(Debug, Default)]
pub(crate) struct Operations(Mutex<Vec<Opened>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Opened {
    /// Without its folder.
    name: OsString,
    digest: [u8; 32],
}

/// What is to be done with a file.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Open,
    /// The same library was opened.
    Skip,
    /// Another one of that name was.
    Refuse,
}

impl Operations {
    /// Opens those libraries that were not opened before.
    ///
    /// Errors: `Unavailable` if one cannot be read; `Internal` in the words of `open`, or if another library of that name was opened.
    pub(crate) fn open_all<E: fmt::Display>(
        &self,
        files: &[PathBuf],
        open: impl Fn(&Path) -> Result<(), E>,
    ) -> Result<()> {
        files.iter().try_for_each(|file| self.open(file, &open))
    }

    fn open<E: fmt::Display>(&self, file: &Path, open: impl Fn(&Path) -> Result<(), E>) -> Result<()> {
        let shown = file.display();
        let unusable = |text: String| Error::internal(format!("operator library '{shown}' cannot be used: {text}"));
        let name = file.file_name().unwrap_or_default().to_owned();
        let content = match fs::read(file) {
            Ok(content) => content,
            Err(_) if file.as_os_str() == name => name.as_encoded_bytes().to_vec(), // the loader looks for it in places of its own
            Err(error) => {
                return Err(Error::unavailable(format!("operator library '{shown}' cannot be read: {error}")));
            }
        };
        let wanted = Opened { name, digest: Sha256::digest(&content).into() };
        let mut opened = self.0.lock(); // others wait until its operations are there
        match decide(&opened, &wanted) {
            Decision::Skip => {}
            Decision::Open => {
                open(file).map_err(|error| unusable(error.to_string()))?;
                opened.push(wanted);
            }
            Decision::Refuse => {
                let text = "another one of this name was opened before, and operations are registered once in a process; restart the \
                            server, or give libraries with different operations different names";
                return Err(unusable(text.into()));
            }
        }
        Ok(())
    }
}

fn decide(opened: &[Opened], wanted: &Opened) -> Decision {
    if opened.iter().any(|one| one.digest == wanted.digest) {
        Decision::Skip
    } else if opened.iter().any(|one| one.name == wanted.name) {
        Decision::Refuse
    } else {
        Decision::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dylib::Library;

    #[test]
    fn a_library_is_opened_once_and_no_other_of_its_name() {
        let one = |name: &str, content: u8| Opened { name: name.into(), digest: [content; 32] };
        let opened = [one("liba.so", 1)];
        assert_eq!(decide(&opened, &one("liba.so", 1)), Decision::Skip);
        assert_eq!(decide(&opened, &one("libb.so", 1)), Decision::Skip);
        assert_eq!(decide(&opened, &one("liba.so", 2)), Decision::Refuse);
        assert_eq!(decide(&opened, &one("libb.so", 2)), Decision::Open);
    }

    #[test]
    fn what_cannot_be_opened_is_named_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libops.so");
        let operations = Operations::default();
        let open = |file: &Path| Library::open(file).map(drop);
        let refusal = || operations.open(&file, open).unwrap_err().message.into_owned();
        assert!(refusal().starts_with(&format!("operator library '{}' cannot be read: ", file.display())));
        fs::write(&file, "text").unwrap();
        for _ in 0..2 {
            assert!(refusal().contains("cannot be used: library ") && refusal().contains("file too short"));
        }
    }
}
