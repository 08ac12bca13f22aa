//! Which Python runs a model: the one of the model's own environment, else the setting `executable`, else `python3` of
//! the path. No process is started to find out whether it is of any use: the worker's program says what it lacks, and
//! where not even that runs, see [`start_failure`].

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use server_core::{
    backend::{ModelSource, Settings},
    error::{Error, Result},
};

use server_proto::inference::ModelConfig;

use super::{cache, environment, process::Spawn, requirements};

/// Setting that names the interpreter.
const SETTING: &str = "executable";
/// Setting that names the folder for what is unpacked and built.
pub(crate) const CACHE_SETTING: &str = "cache-directory";
/// Oldest Python a worker runs on.
const OLDEST: &str = "3.8";
/// What can be done about an interpreter that does not fit.
const CURE: &str =
    "choose one with --backend-config=python,executable=PATH or the model's parameter EXECUTION_ENV_PATH";

/// A Python, and what its environment needs to be set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// The program.
    pub program: PathBuf,
    /// Environment variables of its processes, beyond the server's own; `None` removes one.
    pub variables: Vec<(OsString, Option<OsString>)>,
    /// A shell script that is sourced first: `bin/activate` of an environment.
    pub activate: Option<PathBuf>,
    /// A folder that is put before `LD_LIBRARY_PATH`. Not among the variables: the shell needs its own libraries.
    pub libraries: Option<PathBuf>,
}

/// Sources the script, which is argument 1, without arguments of its own, and becomes the program: arguments 3 and up, with
/// argument 2 before `LD_LIBRARY_PATH`. A script that fails does not hinder it: what it said is in the log. Argument 0 is not
/// the script's, for scripts take that as a sign of being run and not sourced.
const ACTIVATE_AND_RUN: &str = r#"script=$1; libraries=$2; shift 2; program=("$@"); set --; source "$script"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"; exec "${program[@]}""#;

impl Interpreter {
    /// A process of it, to be given arguments.
    pub(crate) fn spawn(&self) -> Spawn {
        let bash = self.activate.is_some().then(|| find_in(env::var_os("PATH").as_deref(), "bash")).flatten();
        let mut spawn = match (&self.activate, bash) {
            (Some(script), Some(bash)) => {
                let mut spawn = Spawn::new(bash);
                let libraries = self.libraries.clone().unwrap_or_default();
                spawn.argument("-c").argument(ACTIVATE_AND_RUN).argument("bash").argument(script).argument(libraries);
                spawn.argument(&self.program);
                spawn
            }
            // Without bash: the variables are what an activation sets, short of scripts that packages bring.
            _ => {
                let mut spawn = Spawn::new(&self.program);
                if let Some(libraries) = &self.libraries {
                    let value = before(libraries, env::var_os("LD_LIBRARY_PATH"));
                    spawn.variable("LD_LIBRARY_PATH", Some(value));
                }
                spawn
            }
        };
        for (name, value) in &self.variables {
            spawn.variable(name, value.clone());
        }
        spawn
    }
}

/// A list of folders as `PATH` has it, with one more before it.
pub(crate) fn before(first: &Path, rest: Option<OsString>) -> OsString {
    let mut value = first.as_os_str().to_owned();
    if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
        value.push(":");
        value.push(rest);
    }
    value
}

/// The interpreter of a model: that of the environment it names, or the one of the settings; with the packages it asks
/// for, if the settings allow that. Takes long the first time an environment is unpacked or made.
///
/// Errors: there is none, or its environment cannot be used, with the cure.
pub(crate) fn of_model(settings: &Settings, source: &ModelSource, config: &ModelConfig) -> Result<Interpreter> {
    let cache = || cache::folder(settings.get(CACHE_SETTING).map(String::as_str));
    let environment = config.parameters.get(environment::PARAMETER).map(|value| value.string_value.as_str());
    let interpreter = match environment {
        Some(value) if !value.is_empty() => environment::open(value, &source.model_dir, cache)?,
        _ => of_settings(settings)?,
    };
    requirements::apply(interpreter, settings, source, cache)
}

/// The interpreter that the settings name: `executable` as a path, or as a name in the folders of `PATH`; else `python3`.
///
/// Errors: `NotFound` with what was looked for, where, and the cure.
pub(crate) fn of_settings(settings: &Settings) -> Result<Interpreter> {
    find(settings.get(SETTING).map(String::as_str), env::var_os("PATH").as_deref())
}

fn find(wanted: Option<&str>, path: Option<&OsStr>) -> Result<Interpreter> {
    let found = |program: PathBuf| Interpreter { program, ..Interpreter::default() };
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
    find_in(path, name).map(found).ok_or_else(|| {
        Error::not_found(format!(
            "no Python interpreter: '{name}' is in none of the folders of PATH ('{}'); install Python {OLDEST} or later \
             with numpy, or {CURE}",
            path.unwrap_or_default().to_string_lossy()
        ))
    })
}

/// The first program of that name in the folders of `PATH`.
fn find_in(path: Option<&OsStr>, name: &str) -> Option<PathBuf> {
    env::split_paths(path.unwrap_or_default()).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

/// Whether it is a file, or a link to one, that this user may execute.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// What to tell about a worker that ended before it could say anything by itself: how it ended, in the words of
/// [`super::process::Exit`], what it said last on its standard error, and what can be done. An interpreter that is too old
/// or lacks numpy is not among them: the worker's program says so itself.
pub(crate) fn start_failure(program: &Path, ended: &str, stderr: &str) -> String {
    let said = stderr.trim();
    let said = if said.is_empty() { "it said nothing. ".to_owned() } else { format!("it said:\n{said}\n") };
    format!(
        "the Python interpreter '{}' ended before it had imported the model ({ended}); {said}If the \
         interpreter is the reason, {CURE}",
        program.display()
    )
}

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
        let said = start_failure(Path::new("/bin/python"), "exit code 127", "cannot open shared object\n");
        assert_eq!(
            said,
            format!(
                "the Python interpreter '/bin/python' ended before it had imported the model (exit code 127); it said:\n\
                 cannot open shared object\nIf the interpreter is the reason, {CURE}"
            )
        );
        let killed = start_failure(Path::new("/p"), "killed by signal 9 (SIGKILL)", "");
        let expect = "the Python interpreter '/p' ended before it had imported the model (killed by signal 9 (SIGKILL)); it said nothing. ";
        assert_eq!(killed, format!("{expect}If the interpreter is the reason, {CURE}"));
    }
}
