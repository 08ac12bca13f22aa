use std::{fs, process::Command};

use super::*;
use crate::abi::export::exports;

exports! {
    /// A function that only tests have.
    fn TRITONSERVER_TestTwice(number: i64) -> i64 {
        number * 2
    }
}

/// Compiles C to a library in that folder, linked against a library of that name, which is gone when it is opened.
#[track_caller]
fn compile(folder: &Path, code: &str, server: &str) -> PathBuf {
    let (stub, source, library) = (folder.join(server), folder.join("code.c"), folder.join("libtriton_code.so"));
    fs::write(&source, code).unwrap();
    let compiler = |arguments: &[&str]| {
        let status = Command::new("cc").args(["-shared", "-fPIC"]).args(arguments).status().unwrap();
        assert!(status.success(), "cc {arguments:?}");
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    compiler(&["-x", "c", "/dev/null", &format!("-Wl,-soname,{server}"), "-o", &text(&stub)]);
    compiler(&[&text(&source), "-Wl,--no-as-needed", &text(&stub), "-o", &text(&library)]);
    fs::remove_file(stub).unwrap();
    library
}

const CALLS: &str = "
    extern long TRITONSERVER_TestTwice(long);
    extern void TRITONBACKEND_OfNoServer(void) __attribute__((weak));
    long four_times(long number) {
        return TRITONBACKEND_OfNoServer ? -1 : TRITONSERVER_TestTwice(TRITONSERVER_TestTwice(number));
    }
";

/// What a library that asks for the server by that name answers.
#[track_caller]
#[allow(unsafe_code)]
fn check_found_by(server: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = compile(folder.path(), CALLS, server);
    provide(&path).unwrap();
    // SAFETY: the library is the one above, and so is the type of its function.
    let answer = unsafe {
        let library = Library::open(Some(&path), RTLD_NOW).unwrap();
        library.get::<unsafe extern "C" fn(i64) -> i64>("four_times").unwrap()(10)
    };
    assert_eq!(answer, 40);
}

#[test]
fn a_library_finds_the_server_by_the_usual_name() {
    check_found_by("libtritonserver.so");
}

#[test]
fn a_library_finds_the_server_by_the_name_a_wheel_gave_it() {
    check_found_by("libtritonserver-717102f0.so");
}

#[test]
fn a_library_that_names_no_server_finds_it_too() {
    check_found_by("libm.so.6"); // any other library that is there
}

#[test]
fn functions_that_there_are_not_are_named_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let code = "
        extern void TRITONSERVER_Zeta(void), TRITONCACHE_Alpha(void), TRITONSERVER_TestTwice(long), other(void);
        void call(void) { TRITONSERVER_Zeta(); TRITONCACHE_Alpha(); TRITONSERVER_TestTwice(1); other(); }
    ";
    let path = compile(folder.path(), code, "libtritonserver.so");
    let error = provide(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "library {} needs functions of Triton's C interface that this server does not have: TRITONCACHE_Alpha, \
             TRITONSERVER_Zeta; it may be written for a newer Triton",
            path.display()
        )
    );
}

#[test]
fn files_that_are_no_libraries_are_refused_whatever_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let good = fs::read(compile(folder.path(), CALLS, "libtritonserver.so")).unwrap();
    let path = folder.path().join("libtriton_junk.so");
    assert!(matches!(provide(&path), Err(ImportError::Unreadable { .. })), "there is no such file");
    fs::write(&path, "text").unwrap();
    let error = provide(&path).unwrap_err().to_string();
    assert!(error.contains("libtriton_junk.so cannot be opened: it is not a shared library: "), "{error}");
    for length in (0..good.len()).step_by(97) {
        fs::write(&path, &good[..length]).unwrap();
        let _ = provide(&path); // cut short anywhere: an error or not, and no panic
    }
    for place in (0..good.len()).step_by(61) {
        let mut bad = good.clone();
        bad[place] ^= 0xff;
        fs::write(&path, &bad).unwrap();
        let _ = provide(&path);
    }
}

#[test]
fn every_function_is_listed_once() {
    let mut names: Vec<&str> = crate::EXPORTS.iter().flat_map(|list| list.iter()).map(|export| export.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}
