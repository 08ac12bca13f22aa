//! Has repository agents do their work on a model's folder, before the model is loaded from it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use md5::{Digest, Md5};
use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    repository::agents,
};

use crate::loader;

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// Runs the agents of a configuration. Blocks while files are read; nothing is kept of them.
///
/// Errors: in Triton's words, an agent that there is not, or a file that is not as it should be.
pub(crate) fn run(config: &ModelConfig, model_dir: &Path, directory: &str) -> Result<()> {
    for check in agents::checksums(config, directory)? {
        // a configuration may come from a client, who must not learn of files elsewhere
        let path = model_dir.join(loader::inside(&check.file)?);
        let actual = md5(&path).map_err(|error| {
            Error::invalid_argument(format!("failed to open text file for read {}: {error}", check.file))
        })?;
        check.compare(&actual)?;
    }
    Ok(())
}

/// The checksum of a file, in hexadecimal digits. Errors: it is no file, or cannot be read.
fn md5(path: &Path) -> io::Result<String> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let (mut digest, mut file) = (Md5::new(), File::open(path)?);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => digest.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
