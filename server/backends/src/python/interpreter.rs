//! Which Python runs a model: the one of the model's own environment, else the setting `executable`, else `python3` of
//! the path. No process is started to find out whether it is of any use: the worker says so when it cannot start, see
//! [`start_failure`].

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use server_core::{
    backend::Settings,
    error::{Error, Result},
};

/// Setting that names the interpreter.
const SETTING: &str = "executable";
/// Oldest Python a worker runs on.
const OLDEST: &str = "3.8";
/// What can be done about an interpreter that does not fit.
const CURE: &str =
    "choose one with --backend-config=python,executable=PATH or the model's parameter EXECUTION_ENV_PATH";

/// A Python, and what its environment needs to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// The program.
    pub program: PathBuf,
    /// Environment variables of its workers, beyond the server's own; `None` removes one.
    pub variables: Vec<(OsString, Option<OsString>)>,
}

/// The interpreter that the settings name: `executable` as a path, or as a name in the folders of `PATH`; else `python3`.
///
/// Errors: `NotFound` with what was looked for, where, and the cure.
pub(crate) fn of_settings(settings: &Settings) -> Result<Interpreter> {
    find(settings.get(SETTING).map(String::as_str), env::var_os("PATH").as_deref())
}

fn find(wanted: Option<&str>, path: Option<&OsStr>) -> Result<Interpreter> {
    let found = |program: PathBuf| Interpreter { program, variables: Vec::new() };
    let name = wanted.unwrap_or("python3");
    if name.contains('/') {
        return if is_executable(Path::new(name)) {
            Ok(found(name.into()))
        } else {
            Err(Error::not_found(format!(
                "the Python interpreter '{name}' of --backend-config=python,executable is not an executable file; {CURE}"
            )))
        };
    }
    let path = path.unwrap_or_default();
    let program = env::split_paths(path).map(|folder| folder.join(name)).find(|file| is_executable(file));
    program.map(found).ok_or_else(|| {
        Error::not_found(format!(
            "no Python interpreter: '{name}' is in none of the folders of PATH ('{}'); install Python {OLDEST} or later \
             with numpy, or {CURE}",
            path.to_string_lossy()
        ))
    })
}

/// Whether it is a file, or a link to one, that this user may execute.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// What to tell about a worker that ended before it was ready: how it ended, what it said last on its standard error,
/// and the cure where one is known. `ended` is the words of [`super::process::Exit`].
pub(crate) fn start_failure(program: &Path, ended: &str, stderr: &str) -> String {
    let said = stderr.trim();
    let cure = if said.contains("No module named 'numpy'") || said.contains("No module named numpy") {
        format!(
            "; numpy is missing: install it for that interpreter ({} -m pip install numpy), or {CURE}",
            program.display()
        )
    } else if said.contains(TOO_OLD) {
        format!("; {CURE}")
    } else {
        String::new()
    };
    let said = if said.is_empty() { String::from("it said nothing") } else { format!("it said: {said}") };
    format!("the Python interpreter {} ended before it was ready ({ended}); {said}{cure}", program.display())
}

/// Words of `stub/worker.py` when the interpreter is older than [`OLDEST`].
const TOO_OLD: &str = "is too old: Triton Operator's Python backend needs 3.8 or later";

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn folder_with(name: &str, mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        folder
    }

    #[test]
    fn the_first_executable_python3_of_the_path() {
        let (plain, good) = (folder_with("python3", 0o644), folder_with("python3", 0o755));
        let path = env::join_paths([Path::new("/nowhere"), plain.path(), good.path()]).unwrap();
        assert_eq!(find(None, Some(&path)).unwrap().program, good.path().join("python3"));
    }

    #[test]
    fn the_setting_is_a_path_or_a_name() {
        let good = folder_with("python3.99", 0o755);
        let file = good.path().join("python3.99");
        assert_eq!(find(Some("python3.99"), Some(good.path().as_os_str())).unwrap().program, file);
        assert_eq!(find(file.to_str(), None).unwrap().program, file);
    }

    #[track_caller]
    fn check_missing(wanted: Option<&str>, path: Option<&str>, expect: &str) {
        let error = find(wanted, path.map(OsStr::new)).unwrap_err();
        assert_eq!(error.message, expect);
    }

    #[test]
    fn a_missing_one_is_named_with_the_places_and_the_cure() {
        check_missing(
            None,
            Some("/nowhere:/neither"),
            "no Python interpreter: 'python3' is in none of the folders of PATH ('/nowhere:/neither'); install Python 3.8 or \
             later with numpy, or choose one with --backend-config=python,executable=PATH or the model's parameter \
             EXECUTION_ENV_PATH",
        );
        check_missing(
            Some("/nowhere/python"),
            Some("/usr/bin"),
            "the Python interpreter '/nowhere/python' of --backend-config=python,executable is not an executable file; choose \
             one with --backend-config=python,executable=PATH or the model's parameter EXECUTION_ENV_PATH",
        );
        assert!(find(Some("/tmp/"), None).is_err(), "a folder is no interpreter");
    }

    #[test]
    fn a_failed_start_says_what_the_interpreter_said_and_the_cure() {
        let numpy = start_failure(
            Path::new("/usr/bin/python3"),
            "exit code 1",
            "Traceback (most recent call last):\nModuleNotFoundError: No module named 'numpy'\n",
        );
        assert!(numpy.contains("(exit code 1)") && numpy.contains("/usr/bin/python3 -m pip install numpy"), "{numpy}");
        let old = start_failure(Path::new("/p"), "exit code 1", &format!("Python 3.6 {TOO_OLD}"));
        assert!(old.contains("Python 3.6 is too old") && old.ends_with(CURE), "{old}");
        let killed = start_failure(Path::new("/p"), "killed by signal 9 (SIGKILL)", "");
        assert_eq!(
            killed,
            "the Python interpreter /p ended before it was ready (killed by signal 9 (SIGKILL)); it said nothing"
        );
    }
}
