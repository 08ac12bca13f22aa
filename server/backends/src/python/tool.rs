//! Runs a program that prepares an environment (`venv`, `pip`, `conda-unpack`) to its end, within a time. All that it
//! says goes to a file; what it said last is part of a failure.

use std::{
    fmt, fs,
    fs::{File, OpenOptions},
    io,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use super::process::{Exit, Spawn};

/// How many of its last lines a failure quotes.
const LAST_LINES: usize = 12;
/// How many of its last bytes are looked at for them.
const LAST_BYTES: u64 = 4 << 10;

/// Why the program did not do it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be started, or its file not be written.
    NotStarted(io::Error),
    /// It was ended after that time. With what it said last.
    TooSlow(Duration, String),
    /// It ended so. With what it said last.
    Ended(Exit, String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, said) = match self {
            Failure::NotStarted(error) => return write!(f, "it cannot be started: {error}"),
            Failure::TooSlow(limit, said) => (format!("it was not done within {} s", limit.as_secs()), said),
            Failure::Ended(exit, said) => (exit.to_string(), said),
        };
        if said.is_empty() {
            write!(f, "{what}; it said nothing")
        } else {
            write!(f, "{what}; it said at last:\n{said}")
        }
    }
}

/// Runs it, adding what it says to the file `log`. What it prints goes there too.
///
/// Errors: it did not exit with code 0 within `timeout`.
pub(crate) fn run(spawn: Spawn, log: &Path, timeout: Duration) -> Result<(), Failure> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log).map_err(Failure::NotStarted)?;
    let began_at = file.metadata().map_err(Failure::NotStarted)?.len();
    let process = spawn.run_into(&file).map_err(Failure::NotStarted)?;
    match process.wait_timeout(timeout) {
        Some(Exit::Code(0)) => Ok(()),
        Some(exit) => Err(Failure::Ended(exit, last_lines(log, began_at))),
        None => {
            process.end(Duration::from_secs(1));
            Err(Failure::TooSlow(timeout, last_lines(log, began_at)))
        }
    }
}

/// Runs it like [`run`] and returns what it printed, of which `log` keeps a copy.
///
/// Errors: those of [`run`].
pub(crate) fn output(spawn: Spawn, log: &Path, timeout: Duration) -> Result<String, Failure> {
    let began_at = fs::metadata(log).map_or(0, |known| known.len());
    run(spawn, log, timeout)?;
    read_from(log, began_at).map_err(Failure::NotStarted)
}

fn last_lines(log: &Path, began_at: u64) -> String {
    let length = fs::metadata(log).map_or(0, |known| known.len());
    let text = read_from(log, began_at.max(length.saturating_sub(LAST_BYTES))).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

fn read_from(log: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Spawn {
        let mut spawn = Spawn::new("/bin/sh");
        spawn.argument("-c").argument(script);
        spawn
    }

    #[test]
    fn a_failure_quotes_what_was_said_last() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        let run = |script: &str, timeout| run(shell(script), &log, timeout).map_err(|failure| failure.to_string());
        let long = Duration::from_secs(20);
        run("echo earlier", long).unwrap();
        assert_eq!(run("exit 2", long).unwrap_err(), "exit code 2; it said nothing");
        assert_eq!(run("echo out; echo err >&2; exit 2", long).unwrap_err(), "exit code 2; it said at last:\nout\nerr");
        let many = run("seq 1000; kill -9 $$", long).unwrap_err();
        assert!(many.starts_with("killed by signal 9") && many.ends_with("\n999\n1000"), "{many}");
        assert_eq!(many.lines().count(), 1 + LAST_LINES);
        let slow = run("echo began; exec sleep 1000", Duration::from_millis(300)).unwrap_err();
        assert!(slow.starts_with("it was not done within 0 s"), "{slow}");
        assert!(fs::read_to_string(&log).unwrap().starts_with("earlier\n"));
    }

    #[test]
    fn output_is_only_that_of_this_run() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        for word in ["one", "two"] {
            let text = output(shell(&format!("echo {word}")), &log, Duration::from_secs(20)).unwrap();
            assert_eq!(text, format!("{word}\n"));
        }
    }
}
