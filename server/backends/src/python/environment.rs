//! The environment that a model names with its parameter `EXECUTION_ENV_PATH`: a folder, or an archive as `conda-pack`
//! and `venv-pack` make it, which is unpacked once per content. Its interpreter runs the model, with the variables that
//! an activation sets.

use std::{
    collections::hash_map::DefaultHasher,
    env,
    ffi::OsString,
    fs,
    fs::File,
    hash::{Hash, Hasher},
    io,
    io::{BufReader, Read, Seek},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::read::MultiGzDecoder;
use server_core::error::{Error, Result};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{
    cache::{self, CacheError},
    interpreter::{Interpreter, before, is_executable},
    tool,
};

/// The parameter.
pub(crate) const PARAMETER: &str = "EXECUTION_ENV_PATH";
/// What it may contain: the folder of the model.
const MODEL_DIRECTORY: &str = "$$TRITON_MODEL_DIRECTORY";
/// How long an archive may take to be unpacked, by this or another process.
const UNPACKED_WITHIN: Duration = Duration::from_secs(1800);
/// How long its own `conda-unpack` may take.
const FIXED_WITHIN: Duration = Duration::from_secs(300);
/// Most that an archive may hold, in bytes: the largest environments (CUDA, several frameworks) have about 20 GiB.
const MOST_BYTES: u64 = 64 << 30;

/// The interpreter of the environment that the value of [`PARAMETER`] names, for a model in that folder. `cache` gives
/// the folder to unpack into.
///
/// Errors: the environment is not there, cannot be unpacked, or has no interpreter; in Triton's words where it has them.
pub(crate) fn open(
    value: &str,
    model_dir: &Path,
    cache: impl FnOnce() -> Result<PathBuf, CacheError>,
) -> Result<Interpreter> {
    let wanted = value.replace(MODEL_DIRECTORY, &model_dir.to_string_lossy());
    let path = fs::canonicalize(&wanted)
        .map_err(|_| Error::internal(format!("Failed to get the canonical path for {wanted}.")))?;
    if path.is_dir() {
        return of_folder(&path);
    }
    let folder = cache().and_then(|cache| unpack_once(&path, &cache, MOST_BYTES));
    of_folder(
        &folder.map_err(|error| Error::internal(format!("cannot unpack {} ({PARAMETER}): {error}", path.display())))?,
    )
}

/// The interpreter of an environment that lies in a folder.
fn of_folder(folder: &Path) -> Result<Interpreter> {
    let activate = Some(folder.join("bin/activate")).filter(|script| script.is_file());
    let programs = ["bin/python3", "bin/python"].map(|name| folder.join(name));
    let Some(program) = programs.iter().find(|program| is_executable(program)) else {
        let folder = folder.display();
        if let Some((link, target)) = programs.iter().find_map(|link| Some((link, fs::read_link(link).ok()?))) {
            let (link, target) = (link.display(), target.display());
            return Err(Error::internal(format!(
                "{link} leads to {target}, which is not here: the environment was made on another machine. Install that \
                 interpreter, or make the environment with conda-pack, which packs the interpreter too"
            )));
        }
        let what = match activate {
            None => format!(
                "Path {folder}/bin/activate does not exist. The Python environment should contain an 'activate' script"
            ),
            Some(_) => format!("The Python environment {folder} has no interpreter"),
        };
        return Err(Error::internal(format!("{what}, and bin/python3 or bin/python.")));
    };
    let libraries = Some(folder.join("lib"));
    Ok(Interpreter { program: program.clone(), variables: variables(folder, env::var_os("PATH")), activate, libraries })
}

/// What Triton sets for an environment beside `LD_LIBRARY_PATH`, and `CONDA_PREFIX` for one of conda. The script
/// `bin/activate` comes after.
fn variables(folder: &Path, path: Option<OsString>) -> Vec<(OsString, Option<OsString>)> {
    let prompt = format!("({})", folder.display());
    let mut variables: Vec<(OsString, Option<OsString>)> = vec![
        ("VIRTUAL_ENV".into(), Some(folder.into())),
        ("VIRTUAL_ENV_PROMPT".into(), Some(prompt.into())),
        ("PATH".into(), Some(before(&folder.join("bin"), path))),
        ("PYTHONHOME".into(), None),
    ];
    if folder.join("conda-meta").is_dir() {
        variables.push(("CONDA_PREFIX".into(), Some(folder.into())));
    }
    variables
}

/// The archive's content in the cache, unpacked now if it is not there yet.
fn unpack_once(archive: &Path, cache: &Path, most_bytes: u64) -> Result<PathBuf, CacheError> {
    let failed = |error: io::Error| CacheError::Build(error.to_string());
    let name = format!("env-{}", content_hash(archive, cache).map_err(failed)?);
    cache::build_once(cache, &name, UNPACKED_WITHIN, |folder| {
        info!(archive = %archive.display(), folder = %folder.display(), "unpacking a Python environment");
        unpack(archive, folder, most_bytes)?;
        fix_paths(folder, &cache.join(format!("{name}.log")));
        Ok(())
    })
}

/// Hash of the archive's content. An archive of gigabytes is read once: what its hash was is kept beside, under its
/// path, size and time of change.
fn content_hash(archive: &Path, cache: &Path) -> io::Result<String> {
    let mut file = File::open(archive)?;
    let known = file.metadata()?;
    let mut identity = DefaultHasher::new();
    (archive, known.dev(), known.ino(), known.size(), known.mtime(), known.mtime_nsec()).hash(&mut identity);
    let note = cache.join(format!("archive-{:016x}", identity.finish()));
    if let Ok(hash) = fs::read_to_string(&note)
        && hash.len() == 32
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(hash);
    }
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            length => hash.update(&piece[..length]),
        }
    }
    let hash = hex::encode(&hash.finalize()[..16]);
    let _ = fs::write(note, &hash); // read anew next time if it cannot be kept
    Ok(hash)
}

/// Unpacks a tar archive, compressed with gzip or not. Nothing is written outside of the folder.
fn unpack(archive: &Path, folder: &Path, most_bytes: u64) -> Result<(), CacheError> {
    let failed = |error: io::Error| CacheError::Build(error.to_string());
    let mut file = File::open(archive).map_err(failed)?;
    let mut magic = [0; 6];
    let length = file.read(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let file = BufReader::with_capacity(1 << 18, file);
    let bytes: Box<dyn Read> = match &magic[..length] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
        [b'B', b'Z', b'h', ..] => return Err(other_format("bzip2")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(other_format("zstd")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(other_format("xz")),
        [b'P', b'K', ..] => return Err(other_format("zip")),
        _ => Box::new(file),
    };
    let mut archive = tar::Archive::new(bytes);
    archive.set_preserve_mtime(true); // compiled files of Python are valid for one time of change
    let mut total = 0u64;
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        total = total.saturating_add(entry.size()).saturating_add(512); // files without content take room too
        if total > most_bytes {
            return Err(CacheError::Build(format!("it holds more than {most_bytes} bytes")));
        }
        unpack_entry(&mut entry, folder)?;
    }
    Ok(())
}

fn unpack_entry<R: Read>(entry: &mut tar::Entry<'_, R>, folder: &Path) -> Result<(), CacheError> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    match entry.unpack_in(folder) {
        Ok(true) if entry.header().entry_type().is_dir() => {
            // A folder that may not be written into could be neither filled nor removed.
            let path = folder.join(entry.path().map_err(|error| CacheError::Build(error.to_string()))?);
            let mode = fs::metadata(&path).map_or(0o700, |found| found.mode()) & 0o777 | 0o700;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(|error| CacheError::Unusable { path, reason: error.to_string() })
        }
        Ok(true) => Ok(()),
        Ok(false) => Err(CacheError::Build(format!("its entry '{name}' leads out of the folder"))),
        Err(error) => {
            // The crate wraps what the system said into "failed to unpack".
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Err(CacheError::Build(format!("its entry '{name}': {reason}")))
        }
    }
}

fn other_format(name: &str) -> CacheError {
    CacheError::Build(format!(
        "it is compressed with {name}; tar archives without compression and with gzip are read (.tar, .tar.gz)"
    ))
}

/// Lets the environment's own `conda-unpack` replace the paths of the machine it was made on. A failure is told and no
/// more: most environments work without.
fn fix_paths(folder: &Path, log: &Path) {
    let script = folder.join("bin/conda-unpack");
    let Some(mut interpreter) = script.is_file().then(|| of_folder(folder).ok()).flatten() else { return };
    interpreter.activate = None; // it may need the paths to be right
    let mut spawn = interpreter.spawn();
    spawn.argument(&script).directory(folder);
    if let Err(failure) = tool::run(spawn, log, FIXED_WITHIN) {
        warn!(folder = %folder.display(), log = %log.display(), %failure, "conda-unpack of a Python environment failed");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// A shell that stands for an interpreter: says what it sees.
    const PYTHON: &str = "#!/bin/sh\necho \"$0|$VIRTUAL_ENV|$FROM_SCRIPT|${LD_LIBRARY_PATH%%:*}|$*\"\n";

    fn put(path: &Path, content: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn environment(folder: &Path) {
        put(&folder.join("bin/python3"), PYTHON, 0o755);
        put(
            &folder.join("bin/activate"),
            "[ \"$0\" != \"$BASH_SOURCE\" ] || exit 33\nexport FROM_SCRIPT=\"sourced with $# arguments\"\nfalse\n",
            0o644,
        );
    }

    fn no_cache() -> Result<PathBuf, CacheError> {
        panic!("nothing is to be unpacked")
    }

    fn said_by(interpreter: &Interpreter) -> String {
        let mut spawn = interpreter.spawn();
        spawn.argument("a").argument("b c");
        let mut text = String::new();
        File::from(spawn.run().unwrap().stdout).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_folder_is_activated_and_its_interpreter_runs() {
        let model = tempfile::tempdir().unwrap();
        let folder = model.path().canonicalize().unwrap().join("my env");
        environment(&folder);
        let interpreter = open("$$TRITON_MODEL_DIRECTORY/my env", model.path(), no_cache).unwrap();
        let (program, folder) = (folder.join("bin/python3"), folder.display().to_string());
        let expect = format!("{}|{folder}|sourced with 0 arguments|{folder}/lib|a b c\n", program.display());
        assert_eq!(said_by(&interpreter), expect);
        let without_bash = Interpreter { activate: None, ..interpreter };
        assert_eq!(said_by(&without_bash), expect.replace("sourced with 0 arguments", ""));
    }

    #[test]
    fn variables_are_those_an_activation_sets() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("conda-meta")).unwrap();
        let all = variables(folder.path(), Some("/usr/bin".into()));
        let text = |(name, value): &(OsString, Option<OsString>)| {
            format!(
                "{}={}",
                name.display(),
                value.as_ref().map_or("-".into(), |value| value.to_string_lossy().into_owned())
            )
        };
        let root = folder.path().display();
        assert_eq!(
            all.iter().map(text).collect::<Vec<_>>(),
            [
                format!("VIRTUAL_ENV={root}"),
                format!("VIRTUAL_ENV_PROMPT=({root})"),
                format!("PATH={root}/bin:/usr/bin"),
                "PYTHONHOME=-".to_owned(),
                format!("CONDA_PREFIX={root}"),
            ]
        );
    }

    #[track_caller]
    fn check_refused(prepare: impl Fn(&Path), expect: &str) {
        let model = tempfile::tempdir().unwrap();
        let root = model.path().canonicalize().unwrap();
        prepare(&root);
        let cache = || Ok(root.clone());
        let message = open(&format!("{MODEL_DIRECTORY}/env"), &root, cache).unwrap_err().message;
        assert_eq!(message.replace(root.to_str().unwrap(), "M"), expect);
    }

    #[test]
    fn what_is_no_environment_is_refused() {
        check_refused(|_| {}, "Failed to get the canonical path for M/env.");
        check_refused(
            |root| fs::create_dir(root.join("env")).unwrap(),
            "Path M/env/bin/activate does not exist. The Python environment should contain an 'activate' script, and \
             bin/python3 or bin/python.",
        );
        check_refused(
            |root| put(&root.join("env/bin/activate"), "", 0o644),
            "The Python environment M/env has no interpreter, and bin/python3 or bin/python.",
        );
        check_refused(
            |root| {
                fs::create_dir_all(root.join("env/bin")).unwrap();
                symlink("/elsewhere/python3", root.join("env/bin/python3")).unwrap();
            },
            "M/env/bin/python3 leads to /elsewhere/python3, which is not here: the environment was made on another machine. \
             Install that interpreter, or make the environment with conda-pack, which packs the interpreter too",
        );
        check_refused(
            |root| fs::write(root.join("env"), b"PK\x03\x04").unwrap(),
            "cannot unpack M/env (EXECUTION_ENV_PATH): it is compressed with zip; tar archives without compression and with \
             gzip are read (.tar, .tar.gz)",
        );
    }

    /// An archive with an environment, and one file more under that raw name.
    fn archive(path: &Path, more: Option<(&[u8], tar::EntryType, &str)>) {
        let folder = tempfile::tempdir().unwrap();
        environment(folder.path());
        put(&folder.path().join("bin/conda-unpack"), "", 0o755);
        symlink("python3", folder.path().join("bin/python")).unwrap();
        fs::set_permissions(folder.path().join("bin"), fs::Permissions::from_mode(0o555)).unwrap();
        let file = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
        let mut archive = tar::Builder::new(file);
        archive.follow_symlinks(false);
        archive.append_dir_all(".", folder.path()).unwrap();
        if let Some((name, kind, link)) = more {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(kind);
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            header.set_mode(0o644);
            header.set_size(0);
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap();
        fs::set_permissions(folder.path().join("bin"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn an_archive_is_unpacked_once_and_its_paths_are_fixed() {
        let (model, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        archive(&model.path().join("env.tar.gz"), None);
        fs::copy(model.path().join("env.tar.gz"), model.path().join("same.tar.gz")).unwrap();
        let ask = |name: &str| {
            open(&format!("{MODEL_DIRECTORY}/{name}"), model.path(), || Ok(cache.path().into())).unwrap().program
        };
        let program = ask("env.tar.gz");
        assert!(program.starts_with(cache.path()) && is_executable(&program));
        let folder = program.parent().unwrap();
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(folder.join("python")).unwrap(), Path::new("python3"));
        let before = fs::metadata(&program).unwrap().ino();
        assert_eq!((ask("same.tar.gz"), ask("env.tar.gz")), (program.clone(), program.clone()));
        assert_eq!(fs::metadata(&program).unwrap().ino(), before);

        let root = folder.parent().unwrap();
        let log = fs::read_to_string(root.with_extension("log")).unwrap();
        assert!(log.contains("/bin/conda-unpack"), "the interpreter ran it: {log}");
    }

    #[test]
    fn nothing_is_written_outside_of_the_folder() {
        let check = |name: &[u8], kind, link: &str, expect: &str| {
            let (model, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            archive(&model.path().join("env"), Some((name, kind, link)));
            let message =
                open("$$TRITON_MODEL_DIRECTORY/env", model.path(), || Ok(cache.path().into())).unwrap_err().message;
            assert!(message.contains(expect), "{message}");
            let mut left = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let is_known = |name: OsString| {
                name.to_string_lossy().starts_with("archive-") || name.to_string_lossy().ends_with(".lock")
            };
            assert!(left.all(is_known), "nothing half unpacked stays");
        };
        check(b"../evil", tar::EntryType::Regular, "", "'../evil' leads out of the folder");
        check(b"lib/../../evil", tar::EntryType::Regular, "", "leads out of the folder");
        check(b"hard", tar::EntryType::Link, "../../../etc/passwd", "its entry 'hard'");
    }

    #[test]
    fn too_much_is_refused() {
        let place = tempfile::tempdir().unwrap();
        archive(&place.path().join("env"), None);
        let error = unpack_once(&place.path().join("env"), place.path(), 10).unwrap_err();
        assert_eq!(error.to_string(), "it holds more than 10 bytes");
        fs::write(place.path().join("no"), "this is no archive at all").unwrap();
        assert!(unpack_once(&place.path().join("no"), place.path(), MOST_BYTES).is_err());
    }
}
