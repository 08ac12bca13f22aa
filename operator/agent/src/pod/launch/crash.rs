//! How a server process crashed, for the agent beside it. The server notes it as it ends; the launcher keeps that before the next process
//! empties the note. Both files lie beside the launcher's socket, in scratch space.

use std::{
    fs,
    path::{Path, PathBuf},
};

use operator_core::{replica::signal_name, text::one_line};

/// Longest text, in bytes: a server may run whatever its owner wants.
const LONGEST: usize = 512;

/// The file that a server writes as it crashes.
pub(super) fn note(socket: &Path) -> PathBuf {
    socket.with_extension("crash-note")
}

/// The file with what is known of the last crash.
fn kept(socket: &Path) -> PathBuf {
    socket.with_extension("crash")
}

/// Keeps for the agent how a process ended by `signal`, in the server's words where it has left any. Returns them.
pub(super) fn tell(socket: &Path, signal: Option<i32>) -> String {
    let noted = fs::read(note(socket)).unwrap_or_default();
    let noted = String::from_utf8_lossy(&noted[..noted.len().min(LONGEST)]);
    let words = match noted.trim().split_once(": ") {
        Some((_, words)) => one_line(words).into_owned(),
        None => signal.and_then(signal_name).unwrap_or_default(),
    };
    if let Err(error) = fs::write(kept(socket), &words) {
        tracing::warn!(%error, "how the server crashed is not kept for its agent");
    }
    words
}

/// What is known of the last crash of a server whose launcher speaks at `socket`.
pub(in crate::pod) fn last(socket: &Path) -> Option<String> {
    let words = fs::read(kept(socket)).ok()?;
    let words = String::from_utf8_lossy(&words[..words.len().min(LONGEST)]);
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
}
