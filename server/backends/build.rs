//! Writes the list of files that a Python worker runs (`src/python/stub`), each with its bytes, for `python/stub_files.rs`; and compiles
//! the extension module that it loads (`src/python/extension`), for `python/rings.rs`.

use std::{
    env,
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const STUB: &str = "src/python/stub";

/// The module, and what it has in common with the server.
const EXTENSION: [&str; 2] = ["src/python/extension", "src/python/ring.rs"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={STUB}");

    let root = Path::new(&env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is set by cargo")?).join(STUB);
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();

    let mut list = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("names of stub files are UTF-8")?;
        writeln!(list, "    ({name:?}, include_bytes!({file:?}) as &[u8]),")?;
    }
    list.push_str("]\n");
    let out_dir = env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?;
    fs::write(Path::new(&out_dir).join("stub_files.rs"), list)?;
    compile_extension(&Path::new(&out_dir).join("worker_extension.so"))
}

/// Compiles the extension module with the compiler of the server, and its linker: it needs `core` alone, no Python and no C library. It is
/// small and quick whatever the profile of the server.
fn compile_extension(library: &Path) -> Result<(), Box<dyn Error>> {
    EXTENSION.iter().for_each(|path| println!("cargo:rerun-if-changed={path}"));
    let target = env::var("TARGET")?;
    let mut compiler = Command::new(env::var_os("RUSTC").ok_or("RUSTC is set by cargo")?);
    compiler.args([
        "--crate-name",
        "worker_extension",
        "--crate-type",
        "cdylib",
        "--edition",
        "2024",
        "--target",
        &target,
    ]);
    compiler.args(["-C", "opt-level=3", "-C", "codegen-units=1", "-C", "panic=abort", "-C", "strip=symbols"]);
    // All that it calls is in the interpreter that loads it, whatever C library that has.
    compiler.args(["-C", "target-feature=-crt-static", "-C", "link-arg=-nostdlib"]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        compiler.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let compiled = compiler.arg("-o").arg(library).arg(Path::new(EXTENSION[0]).join("lib.rs")).status()?;
    if compiled.success() { Ok(()) } else { Err(format!("cannot compile {}: {compiled}", EXTENSION[0]).into()) }
}

/// All files below a folder, except what Python itself writes there.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_wanted = path.extension().is_some_and(|ending| ending == "py" || ending == "pyi" || ending == "typed");
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "__pycache__") {
                collect(&path, files)?;
            }
        } else if is_wanted {
            files.push(path);
        }
    }
    Ok(())
}
