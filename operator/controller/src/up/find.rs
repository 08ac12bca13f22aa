//! Where the server program is: the place given, beside this program, on PATH; the first that can be run.

use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::bail;

const NAME: &str = "tritonserver";

/// The server program.
///
/// Errors: it is nowhere; the sentence names the places searched and the cure.
pub(crate) fn server_program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().ok();
    search(given, own.as_deref(), std::env::var_os("PATH").as_deref())
}

fn search(given: Option<&Path>, own: Option<&Path>, path: Option<&OsStr>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        if is_program(given) {
            return Ok(given.to_owned());
        }
        bail!("{} is no program that can be run (given with --tritonserver or TRITONSERVER)", given.display());
    }
    let beside = own.and_then(Path::parent).map(Path::to_owned);
    let on_path = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    let folders: Vec<PathBuf> =
        beside.into_iter().chain(on_path).filter(|folder| !folder.as_os_str().is_empty()).collect();
    match folders.iter().map(|folder| folder.join(NAME)).find(|program| is_program(program)) {
        Some(program) => Ok(program),
        None => {
            let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            bail!(
                "the server program {NAME} was not found; searched: {}. Name it with --tritonserver PATH or TRITONSERVER, or \
                 build it with: cargo build -p tritonserver",
                folders.join(", ")
            )
        }
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_place_given_comes_before_beside_us_before_path() {
        let root = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (given, on_path) = (program("elsewhere/server"), program("path/tritonserver"));
        let own = root.path().join("own/triton-operator");
        let path = root.path().join("path");
        let found = |given: Option<&Path>| search(given, Some(&own), Some(path.as_os_str()));
        assert_eq!(found(None).unwrap(), on_path);
        let beside = program("own/tritonserver");
        assert_eq!(found(None).unwrap(), beside);
        assert_eq!(found(Some(&given)).unwrap(), given);
        assert!(found(Some(root.path())).unwrap_err().to_string().contains("--tritonserver"));
    }

    #[test]
    fn the_places_searched_are_named() {
        let error =
            search(None, Some(Path::new("/opt/none/triton-operator")), Some(OsStr::new("/opt/nil"))).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("/opt/none, /opt/nil") && error.contains("--tritonserver"), "{error}");
    }
}
