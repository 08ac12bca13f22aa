//! Where a runtime library may lie, in order. The order is data: [`places`] lists it, [`find`] walks it, and the error
//! for a missing library prints it.
//!
//! | order | place | |
//! |---|---|---|
//! | 1 | `--backend-config=BACKEND,library=PATH` | a file, or a folder; nothing else is tried then |
//! | 2 | the library's environment variable, e.g. `ORT_DYLIB_PATH` | the same |
//! | 3 | the folder of the executable, then `lib` in it | |
//! | 4 | the known places of the library, e.g. `/opt/onnxruntime/lib`, `/usr/lib` | |
//!
//! In a folder: `libNAME.so`, then those with a version: the highest first number, and of these the one without further numbers,
//! else the newest: `libNAME.so.2`, `libNAME.so.1`, `libNAME.so.1.23`, `libNAME.so.1.22`. Whether a version will do is for the
//! backend to say.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::LoadError;

/// A library somebody needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// File name without versions, e.g. `libonnxruntime.so`.
    pub(crate) file_name: &'static str,
    /// `--backend-config=BACKEND,library=` of the backend.
    pub(crate) setting: Option<&'a str>,
    /// Environment variable with its path.
    pub(crate) variable: &'static str,
    /// Folders it is usually installed into.
    pub(crate) known: &'static [&'static str],
    /// What the user can do if it is missing; the end of a sentence.
    pub(crate) cure: &'static str,
}

/// The file to open, by its absolute path: the loader looks for names without a folder elsewhere.
///
/// Errors: [`LoadError::NotFound`] with every place searched.
pub(crate) fn find(wanted: &Wanted<'_>) -> Result<PathBuf, LoadError> {
    let variable = env::var_os(wanted.variable).filter(|path| !path.is_empty());
    let executable = env::current_exe().ok();
    let places = places(wanted, variable, executable.as_deref().and_then(Path::parent));
    let found = places.iter().find_map(|place| find_in(place, wanted.file_name));
    let found = found.map(|path| std::path::absolute(&path).unwrap_or(path));
    found.ok_or_else(|| LoadError::NotFound {
        name: wanted.file_name,
        searched: places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", "),
        cure: wanted.cure,
    })
}

/// Files and folders to search, in order.
fn places(wanted: &Wanted<'_>, variable: Option<OsString>, executable_folder: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = wanted.setting {
        return vec![path.into()];
    }
    if let Some(path) = variable {
        return vec![path.into()];
    }
    let beside = executable_folder.into_iter().flat_map(|folder| [folder.to_path_buf(), folder.join("lib")]);
    beside.chain(wanted.known.iter().map(PathBuf::from)).collect()
}

fn find_in(place: &Path, file_name: &str) -> Option<PathBuf> {
    if !place.is_dir() {
        return place.exists().then(|| place.to_path_buf());
    }
    let plain = place.join(file_name);
    if plain.exists() { Some(plain) } else { best_version(place, &format!("{file_name}.")) }
}

/// The file with that beginning and the best numbers after it.
fn best_version(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let names = folder.read_dir().ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let versions = names.filter_map(|name| {
        let numbers = name.strip_prefix(prefix)?.split('.').map(|part| part.parse::<u32>().ok());
        let numbers = numbers.collect::<Option<Vec<u32>>>()?;
        Some((numbers.first().copied(), numbers.len() == 1, numbers, name))
    });
    versions.max().map(|(.., name)| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'static> = Wanted {
        file_name: "libthing.so",
        setting: None,
        variable: "THING_PATH_OF_NO_TEST",
        known: &["/opt/thing/lib", "/usr/lib"],
        cure: "install it",
    };

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        folder
    }

    #[track_caller]
    fn check(files: &[&str], expect: Option<&str>) {
        let folder = folder(files);
        let found = find_in(folder.path(), "libthing.so");
        assert_eq!(found, expect.map(|name| folder.path().join(name)));
    }

    #[test]
    fn a_setting_is_the_only_place() {
        let wanted = Wanted { setting: Some("/there/libthing.so"), ..WANTED };
        assert_eq!(places(&wanted, Some("/env".into()), Some(Path::new("/exe"))), [Path::new("/there/libthing.so")]);
    }

    #[test]
    fn then_the_environment_then_beside_the_executable_then_known_places() {
        assert_eq!(places(&WANTED, Some("/env".into()), Some(Path::new("/exe"))), [Path::new("/env")]);
        let expect = ["/exe", "/exe/lib", "/opt/thing/lib", "/usr/lib"].map(Path::new);
        assert_eq!(places(&WANTED, None, Some(Path::new("/exe"))), expect);
    }

    #[test]
    fn in_a_folder_plain_names_come_before_versions_and_the_highest_of_these_first() {
        check(&["libthing.so", "libthing.so.1", "libthing.so.1.2"], Some("libthing.so"));
        check(&["libthing.so.1", "libthing.so.1.2"], Some("libthing.so.1"));
        check(&["libthing.so.1.9.3", "libthing.so.1.23.2", "libthing.so.1.23.10"], Some("libthing.so.1.23.10"));
        check(&["libthing.so.1.bak", "libother.so"], None);
        check(&["libthing.so.2530", "libthing.so.2640"], Some("libthing.so.2640"));
        check(&["libthing.so.10", "libthing.so.10.15.1", "libthing.so.9"], Some("libthing.so.10"));
    }

    #[test]
    fn a_missing_library_names_places_and_cure() {
        let folder = folder(&[]);
        let path = folder.path().join("gone.so");
        let wanted = Wanted { setting: path.to_str(), ..WANTED };
        let message = find(&wanted).unwrap_err().to_string();
        assert_eq!(message, format!("library libthing.so not found, searched: {}; install it", path.display()));
    }
}
