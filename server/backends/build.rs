//! Writes the list of files that a Python worker runs (`src/python/stub`), each with its bytes, for `python/stub_files.rs`.

use std::{
    env,
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

const STUB: &str = "src/python/stub";

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
    Ok(())
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
