//! How a server process crashed, for the agent beside it. The server notes it as it ends; the launcher keeps that before the next process
//! empties the note. Both files lie beside the launcher's socket, in scratch space.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use operator_core::{replica::signal_name, text::one_line};
use rustix::fs::{Mode, OFlags};

/// Longest text, in bytes: a server may run whatever its owner wants.
const LONGEST: u64 = 512;

/// The file that a server writes as it crashes.
pub(super) fn note(socket: &Path) -> PathBuf {
    socket.with_extension("crash-note")
}

/// The file with what is known of the last crash.
fn kept(socket: &Path) -> PathBuf {
    socket.with_extension("crash")
}

/// The beginning of a file that the server's container may have put there: no link is followed to what only the agent may read, and
/// nothing is waited for.
fn beginning(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Keeps for the agent how a process ended by `signal`, in the server's words where it has left any. Returns them.
pub(super) fn tell(socket: &Path, signal: Option<i32>) -> String {
    let noted = beginning(&note(socket)).unwrap_or_default();
    let words = match noted.trim().split_once(": ") {
        Some((_, words)) => one_line(words).into_owned(),
        None => signal.and_then(signal_name).unwrap_or_default(),
    };
    _ = fs::remove_file(kept(socket)); // whatever lies there is not written into
    let file = File::create_new(kept(socket));
    if let Err(error) = file.and_then(|mut file| file.write_all(words.as_bytes())) {
        tracing::warn!(%error, "how the server crashed is not kept for its agent");
    }
    words
}

/// What is known of the last crash of a server whose launcher speaks at `socket`.
pub(in crate::pod) fn last(socket: &Path) -> Option<String> {
    let words = beginning(&kept(socket)).ok()?;
    Some(one_line(&words).into_owned()).filter(|words| !words.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_crash_is_told_in_the_words_of_the_server_or_by_its_signal() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("launcher.sock");
        assert_eq!(last(&socket), None);
        let check = |noted: Option<&[u8]>, signal, expect: &str| {
            match noted {
                Some(noted) => fs::write(note(&socket), noted).unwrap(),
                None => drop(fs::remove_file(note(&socket))),
            }
            assert_eq!(tell(&socket, signal), expect);
            assert_eq!(last(&socket).unwrap_or_default(), expect);
        };
        let words = "SIGSEGV, executing instance 'a_0' of model 'a'";
        check(Some(format!("Signal (11) received: {words}\n").as_bytes()), Some(11), words);
        // the next process has emptied it, and had no time to write
        check(Some(b""), Some(9), "SIGKILL");
        check(None, Some(34), "signal 34");
        check(None, None, "");
        check(Some(b"\xff: one\ntwo"), Some(6), "one two");
        check(Some(&[b'x'; 5000]), Some(6), "SIGABRT");
    }
    #[test]
    fn only_files_that_lie_there_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("launcher.sock");
        fs::write(folder.path().join("secret"), "Signal (11) received: secret").unwrap();
        for path in [note(&socket), kept(&socket)] {
            std::os::unix::fs::symlink(folder.path().join("secret"), path).unwrap();
        }
        assert_eq!(last(&socket), None);
        assert_eq!(tell(&socket, Some(11)), "SIGSEGV");
        assert_eq!(last(&socket).as_deref(), Some("SIGSEGV"));
        assert_eq!(fs::read_to_string(folder.path().join("secret")).unwrap(), "Signal (11) received: secret");
        // nobody writes into these: reading them would never end
        for path in [note(&socket), kept(&socket)] {
            fs::remove_file(&path).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .unwrap();
        }
        assert_eq!(last(&socket), None);
        assert_eq!(tell(&socket, Some(6)), "SIGABRT");
        assert_eq!(last(&socket).as_deref(), Some("SIGABRT"));
    }
}
