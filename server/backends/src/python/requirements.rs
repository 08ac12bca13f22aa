//! The packages that a model asks for: with the setting `requirements=true`, a `requirements.txt` beside `model.py`
//! becomes a virtual environment, made once per content and interpreter. It sees all that the interpreter has, numpy
//! above all; what is asked for comes before that.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use server_core::{
    backend::{ModelSource, Settings},
    error::{Error, Result},
};
use sha2::{Digest, Sha256};
use tracing::info;

use super::{
    cache::{self, CacheError},
    interpreter::{Interpreter, before, is_executable},
    process::Spawn,
    tool,
};

/// The setting that turns it on.
const SETTING: &str = "requirements";
/// The setting that says how long an installation may take.
const TIMEOUT_SETTING: &str = "requirements-timeout-seconds";
/// How long it may take without that setting.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long the interpreter may take to describe itself.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(60);
/// The file.
const FILE: &str = "requirements.txt";
/// Describes the interpreter, a fact a line: activation scripts may print, too.
const DESCRIBE: &str = "\
import importlib.util, os, sys
print('@version', sys.version.replace('\\n', ' '))
print('@folder', 'python%d.%d' % sys.version_info[:2])
print('@prefix', sys.prefix)
print('@pip', importlib.util.find_spec('pip') is not None)
for path in sys.path:
    if os.path.basename(path) in ('site-packages', 'dist-packages') and os.path.isdir(path):
        print('@packages', ascii(path))
";

/// What is known about an interpreter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Description {
    /// Version and build.
    version: String,
    /// `pythonX.Y`, the name of its folder below `lib`.
    folder: String,
    /// Where it is installed.
    prefix: String,
    has_pip: bool,
    /// Folders with its packages, as literals of Python.
    packages: Vec<String>,
}

/// The interpreter for a model: the given one, or that of an environment with what the model's `requirements.txt` asks
/// for, made now if nobody has made it yet. `cache` gives the folder to make it in.
///
/// Errors: `InvalidArgument` for a setting that is none; `Internal` if it cannot be made, with what `pip` said last.
pub(crate) fn apply(
    interpreter: Interpreter,
    settings: &Settings,
    source: &ModelSource,
    cache: impl FnOnce() -> Result<PathBuf, CacheError>,
) -> Result<Interpreter> {
    if !is_wanted(settings)? {
        return Ok(interpreter);
    }
    let timeout = timeout(settings)?;
    let files = [&source.version_dir, &source.model_dir].map(|folder| folder.join(FILE));
    let Some(file) = files.iter().find(|file| file.is_file()) else { return Ok(interpreter) };
    let failed = |reason: String| {
        Error::internal(format!("cannot install what {} of model '{}' asks for: {reason}", file.display(), source.name))
    };
    let content = fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    let cache = cache().map_err(|error| failed(error.to_string()))?;
    let description = describe(&interpreter, &cache).map_err(failed)?;
    let name = format!("requirements-{}", key(&content, file, &description));
    let log = cache.join(format!("{name}.log"));
    let made = cache::build_once(&cache, &name, timeout, |folder| {
        info!(model = source.name, file = %file.display(), log = %log.display(), "installing what a model asks for");
        make(&interpreter, &description, file, folder, &log, timeout).map_err(CacheError::Build)
    });
    let folder = made.map_err(|error| failed(error.to_string()))?;
    Ok(of_environment(&interpreter, &folder))
}

fn is_wanted(settings: &Settings) -> Result<bool> {
    match settings.get(SETTING).map(String::as_str) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(other) => Err(Error::invalid_argument(format!(
            "--backend-config=python,{SETTING}={other}: the value is 'true' or 'false'"
        ))),
    }
}

fn timeout(settings: &Settings) -> Result<Duration> {
    let Some(value) = settings.get(TIMEOUT_SETTING) else { return Ok(TIMEOUT) };
    value.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(|| {
        Error::invalid_argument(format!(
            "--backend-config=python,{TIMEOUT_SETTING}={value}: the value is a number of seconds above 0"
        ))
    })
}

fn describe(interpreter: &Interpreter, cache: &Path) -> Result<Description, String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut spawn = interpreter.spawn();
    spawn.argument("-c").argument(DESCRIBE);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let log = cache.join(format!("describe-{}-{number}.log", std::process::id()));
    let said = tool::output(spawn, &log, DESCRIBED_WITHIN);
    let _ = fs::remove_file(log);
    parse_description(&said.map_err(|failure| format!("{}: {failure}", interpreter.program.display()))?)
        .ok_or_else(|| format!("{} does not describe itself as Python does", interpreter.program.display()))
}

fn parse_description(said: &str) -> Option<Description> {
    let mut description = Description::default();
    for (word, value) in said.lines().filter_map(|line| line.split_once(' ')) {
        match word {
            "@version" => description.version = value.into(),
            "@folder" => description.folder = value.into(),
            "@prefix" => description.prefix = value.into(),
            "@pip" => description.has_pip = value == "True",
            "@packages" => description.packages.push(value.into()),
            _ => {}
        }
    }
    Some(description).filter(|description| description.folder.starts_with("python"))
}

/// Names an environment. One that files beside it take part in (other lists, wheels) is of that folder only.
fn key(content: &str, file: &Path, description: &Description) -> String {
    let lines = content.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let is_local = lines.clone().any(|line| line.starts_with('-') || line.contains('/'));
    let place = if is_local { file.to_string_lossy() } else { "".into() };
    let mut hash = Sha256::new();
    for part in [content, &description.version, &description.prefix, &place] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

fn make(
    interpreter: &Interpreter,
    description: &Description,
    file: &Path,
    folder: &Path,
    log: &Path,
    timeout: Duration,
) -> Result<(), String> {
    let mut venv = interpreter.spawn();
    venv.argument("-m").argument("venv");
    if description.has_pip {
        venv.argument("--without-pip"); // the interpreter's own sees the new environment, and needs no seconds to be copied
    }
    venv.argument(folder);
    tool::run(venv, log, timeout).map_err(|failure| {
        format!(
            "{} -m venv: {failure}\nInstall its module venv, on Debian the package python3-venv; the log is {}",
            interpreter.program.display(),
            log.display()
        )
    })?;

    // Like --system-site-packages, also for an interpreter that is itself of a virtual environment.
    let link = folder.join("lib").join(&description.folder).join("site-packages/of_the_interpreter.pth");
    let lines = description.packages.iter().map(|path| format!("import site; site.addsitedir({path})\n"));
    fs::write(&link, lines.collect::<String>()).map_err(|error| format!("{}: {error}", link.display()))?;

    let pip = pip(&of_environment(interpreter, folder), file);
    tool::run(pip, log, timeout).map_err(|failure| {
        format!(
            "pip: {failure}\nWithout a network, name a package index that can be reached with PIP_INDEX_URL, or put wheels \
             beside the model and the line '--no-index --find-links FOLDER' into {FILE}; more time: \
             --backend-config=python,{TIMEOUT_SETTING}=SECONDS; the log is {}",
            log.display()
        )
    })
}

fn pip(environment: &Interpreter, file: &Path) -> Spawn {
    let mut spawn = environment.spawn();
    for argument in ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-color"] {
        spawn.argument(argument);
    }
    spawn.argument("--progress-bar").argument("off").argument("-r").argument(file);
    if let Some(folder) = file.parent() {
        spawn.directory(folder); // paths in the file are seen from there
    }
    // Into this environment and nowhere else, whatever the user's own pip is set to.
    spawn.variable("PIP_USER", Some("0".into())).variable("PIP_TARGET", None).variable("PIP_PREFIX", None);
    if env::var_os("PIP_RETRIES").is_none() {
        spawn.variable("PIP_RETRIES", Some("2".into())); // without a network the default takes most of a minute
    }
    spawn
}

/// The interpreter of an environment made from another: activated like that one, and found first.
fn of_environment(interpreter: &Interpreter, folder: &Path) -> Interpreter {
    let mut interpreter = interpreter.clone();
    let names = ["bin/python3", "bin/python"].map(|name| folder.join(name));
    interpreter.program = names.iter().find(|name| is_executable(name)).unwrap_or(&names[0]).clone();
    let inherited = interpreter.variables.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = before(&folder.join("bin"), inherited.unwrap_or_else(|| env::var_os("PATH")));
    interpreter.variables.retain(|(name, _)| name != "PATH" && name != "VIRTUAL_ENV");
    interpreter.variables.push(("PATH".into(), Some(path)));
    interpreter.variables.push(("VIRTUAL_ENV".into(), Some(folder.into())));
    interpreter
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::unix::fs::MetadataExt};

    use super::*;
    use crate::python::interpreter;

    fn settings(entries: &[(&str, &str)]) -> Settings {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_are_checked() {
        let wanted = |value: &str| is_wanted(&settings(&[(SETTING, value)])).map_err(|error| error.message);
        assert_eq!((wanted("true"), wanted("false"), is_wanted(&settings(&[]))), (Ok(true), Ok(false), Ok(false)));
        assert_eq!(
            wanted("yes").unwrap_err(),
            "--backend-config=python,requirements=yes: the value is 'true' or 'false'"
        );
        let limit = |value: &str| timeout(&settings(&[(TIMEOUT_SETTING, value)])).map_err(|error| error.message);
        assert_eq!(limit("5"), Ok(Duration::from_secs(5)));
        assert!(limit("0").is_err() && limit("soon").unwrap_err().contains("a number of seconds"));
    }

    #[test]
    fn a_description_is_found_among_other_words() {
        let said = "welcome\n@version 3.11.7 (main)\n@folder python3.11\n@prefix /usr\n@pip True\n@packages '/a b'\n@packages '/c'\n";
        let description = parse_description(said).unwrap();
        let packages = vec!["'/a b'".to_owned(), "'/c'".to_owned()];
        let (version, folder, prefix) = ("3.11.7 (main)".into(), "python3.11".into(), "/usr".into());
        assert_eq!(description, Description { version, folder, prefix, has_pip: true, packages });
        assert_eq!(parse_description("no"), None);
    }

    #[test]
    fn environments_are_shared_unless_files_beside_take_part() {
        let of = |content: &str, file: &str, version: &str| {
            key(content, Path::new(file), &Description { version: version.into(), ..Description::default() })
        };
        assert_eq!(of("numpy\n", "/a", "3.11"), of("numpy\n", "/b", "3.11"));
        assert_ne!(of("numpy\n", "/a", "3.11"), of("numpy\n", "/a", "3.12"));
        assert_ne!(of("numpy\n", "/a", "3.11"), of("numpy<2\n", "/a", "3.11"));
        assert_ne!(of("-r more.txt\n", "/a", "3.11"), of("-r more.txt\n", "/b", "3.11"));
        assert_ne!(of("./x.whl\n", "/a", "3.11"), of("./x.whl\n", "/b", "3.11"));
    }

    /// A model with that list, a cache, and the interpreter of this machine; `None` if it has none that can make
    /// environments, which is told.
    fn model(requirements: &str) -> Option<(tempfile::TempDir, ModelSource, Interpreter)> {
        let place = tempfile::tempdir().unwrap();
        let interpreter = interpreter::of_settings(&Settings::new()).ok();
        let describes = interpreter.as_ref().and_then(|interpreter| describe(interpreter, place.path()).ok());
        let (Some(interpreter), Some(Description { has_pip: true, .. })) = (interpreter, describes) else {
            println!("skipped: no python3 with pip in PATH");
            return None;
        };
        let model_dir = place.path().join("model");
        fs::create_dir_all(model_dir.join("1")).unwrap();
        fs::write(model_dir.join(FILE), requirements).unwrap();
        let version_dir = model_dir.join("1");
        Some((place, ModelSource { model_dir, version_dir, name: "m".into(), version: 1 }, interpreter))
    }

    fn said_by(interpreter: &Interpreter, program: &str) -> String {
        let mut spawn = interpreter.spawn();
        spawn.argument("-c").argument(program);
        let spawned = spawn.run().unwrap();
        let mut text = String::new();
        File::from(spawned.stdout).read_to_string(&mut text).unwrap();
        File::from(spawned.stderr).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_list_becomes_an_environment_once() {
        let wheels = "--no-index --find-links wheels\nof-the-test==1.0\n";
        let Some((place, source, interpreter)) = model(wheels) else { return };
        let wheel = source.model_dir.join("wheels/of_the_test-1.0-py3-none-any.whl");
        fs::create_dir(wheel.parent().unwrap()).unwrap();
        let pack = format!(
            "import zipfile; w = zipfile.ZipFile({wheel:?}, 'w'); d = 'of_the_test-1.0.dist-info/'\n\
             w.writestr('of_the_test.py', 'WORD = \"from the wheel\"')\n\
             w.writestr(d + 'METADATA', 'Metadata-Version: 2.1\\nName: of-the-test\\nVersion: 1.0\\n')\n\
             w.writestr(d + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
             w.writestr(d + 'RECORD', '')\nw.close()"
        );
        assert_eq!(said_by(&interpreter, &pack), "");

        let on = settings(&[(SETTING, "true")]);
        let ask = || apply(interpreter.clone(), &on, &source, || Ok(place.path().into())).unwrap();
        let made = ask();
        let program = "import of_the_test, pip; print(of_the_test.WORD)"; // pip is of the interpreter
        assert_eq!(said_by(&made, program), "from the wheel\n");
        let inode = || fs::metadata(made.program.parent().unwrap()).unwrap().ino();
        let before = inode();
        assert_eq!((ask(), inode()), (made.clone(), before));

        let off = apply(interpreter.clone(), &Settings::new(), &source, || panic!("not asked for")).unwrap();
        assert_eq!(off, interpreter);
    }

    #[test]
    fn what_cannot_be_installed_is_told_with_the_words_of_pip() {
        let Some((place, source, interpreter)) = model("--no-index\nthere-is-no-such-package==1\n") else { return };
        let on = settings(&[(SETTING, "true")]);
        let ask = || apply(interpreter.clone(), &on, &source, || Ok(place.path().into())).unwrap_err().message;
        for message in [ask(), ask()] {
            assert!(message.starts_with("cannot install what "), "{message}");
            assert!(message.contains("No matching distribution found for there-is-no-such-package==1"), "{message}");
            assert!(message.contains("--no-index --find-links") && message.contains(".log"), "{message}");
        }
        let left = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap());
        let environments = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("requirements-"));
        assert!(environments.into_iter().all(|entry| entry.path().is_file()), "a half-made environment stays");
    }
}
