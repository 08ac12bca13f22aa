//! Files written in the resource itself.

use std::{collections::BTreeMap, path::Path};

use super::progress::{Fetched, Progress};
use crate::{
    fault::{Fault, Reason},
    verify::{self, Files},
};

/// Writes the files out. Errors: a path leads out of the folder, or two are the same; the disk would not take them.
pub fn fetch(contents: &BTreeMap<String, String>, into: &Path, progress: &Progress) -> Result<Fetched, Fault> {
    let mut files = Files::new();
    for (path, content) in contents {
        let path = verify::clean_path(path).map_err(|wrong| Fault::new(Reason::InvalidSource, wrong))?;
        let hash =
            verify::write_file(&into.join(&path), &mut content.as_bytes(), false, Reason::DownloadFailed, |bytes| {
                progress.add(bytes)
            })?;
        files.insert(path, hash);
    }
    Ok(Fetched { hash: verify::hash_of_folder(&files), files, is_bare: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::progress::Limits;

    #[test]
    fn files_are_written_where_they_say_and_never_outside() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("in");
        let progress = Progress::new(Limits::default(), |_| {});
        let fetched = fetch(&BTreeMap::from([("1/model.py".into(), "pass\n".into())]), &into, &progress).unwrap();
        assert_eq!(std::fs::read_to_string(into.join("1/model.py")).unwrap(), "pass\n");
        assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["1/model.py"]);

        let fault = fetch(&BTreeMap::from([("../model.py".into(), String::new())]), &into, &progress).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidSource);
        assert!(!folder.path().join("model.py").exists());
    }
}
