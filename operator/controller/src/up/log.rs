//! What a server writes: kept in a file, its last lines at hand for when it dies, and shown on request.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of the end is kept in memory.
const TAIL: usize = 8 * 1024;
/// How many lines are shown of a server that died.
const LAST_LINES: usize = 10;

/// Where the messages of one server go.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    file: File,
    tail: VecDeque<u8>,
    /// In front of lines shown; `None` shows nothing.
    prefix: Option<String>,
    /// The beginning of a line whose end has not come.
    open_line: Vec<u8>,
}

impl Log {
    /// Begins a new file. With a `prefix`, lines are shown on standard error too.
    pub(crate) fn create(path: &Path, prefix: Option<String>) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self(Arc::new(Mutex::new(Inner { file, tail: VecDeque::new(), prefix, open_line: Vec::new() }))))
    }

    /// Takes in everything `reader` gives, until it ends.
    pub(crate) async fn take(self, mut reader: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            self.lock().add(&buffer[..length]);
        }
    }

    /// The last lines, and from then on none of them any more.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let tail: Vec<u8> = self.lock().tail.drain(..).collect();
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        // the first one may have lost its beginning
        let skip = lines.len().saturating_sub(LAST_LINES).max(usize::from(tail.len() >= TAIL));
        lines.into_iter().skip(skip).map(str::to_owned).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, bytes: &[u8]) {
        let _ = self.file.write_all(bytes); // a full disk must not end the server
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
        let Some(prefix) = &self.prefix else { return };
        let mut out = io::stderr().lock();
        for byte in bytes {
            if *byte == b'\n' || self.open_line.len() > TAIL {
                let _ = writeln!(out, "{prefix}{}", String::from_utf8_lossy(&self.open_line));
                self.open_line.clear();
            }
            if *byte != b'\n' {
                self.open_line.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_kept_and_the_end_is_at_hand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        let log = Log::create(&path, None).unwrap();
        let text: String = (0..2000).map(|line| format!("line {line}\n")).collect();
        log.clone().take(text.as_bytes()).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let last = log.last_lines();
        assert_eq!((last.len(), last[9].as_str()), (LAST_LINES, "line 1999"));
        log.clone().take("after\n".as_bytes()).await;
        assert_eq!(log.last_lines(), ["after"]);
    }
}
