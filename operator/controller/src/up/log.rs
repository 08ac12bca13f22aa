//! What a server writes: kept in a file, its last lines at hand for when it dies, and shown on request. A file that has reached its
//! size is kept beside the next one under its name and a number, and the oldest of them goes.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of the end is kept in memory.
const TAIL: usize = 8 * 1024;
/// How many lines are shown of a server that died.
const LAST_LINES: usize = 10;
/// Files that are kept beside the one that is written.
const KEPT_FILES: u32 = 3;

/// Where the messages of one server go.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// `None` after one could not be made: the next is tried when as much has come again.
    file: Option<File>,
    /// Bytes written since the file was made.
    length: u64,
    /// Most bytes of a file, 0 for any number; a line may be cut in two by it.
    size_limit: u64,
    tail: VecDeque<u8>,
    /// In front of lines shown; `None` shows nothing.
    prefix: Option<String>,
    /// The beginning of a line whose end has not come.
    open_line: Vec<u8>,
}

impl Log {
    /// Begins a new file of at most `size_limit` bytes, 0 for any number. With a `prefix`, lines are shown on standard error too.
    pub(crate) fn create(path: &Path, size_limit: u64, prefix: Option<String>) -> io::Result<Self> {
        let (file, tail) = (Some(File::create(path)?), VecDeque::new());
        let inner = Inner { path: path.into(), file, length: 0, size_limit, tail, prefix, open_line: Vec::new() };
        Ok(Self(Arc::new(Mutex::new(inner))))
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
        self.write(bytes);
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

impl Inner {
    /// A full disk must not end the server: what cannot be written is not.
    fn write(&mut self, bytes: &[u8]) {
        // whole lines stay in one file where they can
        let length = bytes.len() as u64;
        if self.size_limit > 0 && self.length + length > self.size_limit {
            let room = usize::try_from(self.size_limit.saturating_sub(self.length)).unwrap_or(usize::MAX);
            let cut = bytes[..room.min(bytes.len())].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let (before, after) = bytes.split_at(cut);
            self.append(before);
            self.rotate();
            self.append(after);
        } else {
            self.append(bytes);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
        }
    }

    /// Begins the next file. Each that is kept gets the next number.
    fn rotate(&mut self) {
        self.file = None;
        for number in (0..KEPT_FILES).rev() {
            let _ = fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1));
        }
        self.file = File::create(&self.path).ok();
        self.length = 0;
    }
}

/// The file itself for 0, and `NAME.1` and so on for those that are kept.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_kept_and_the_end_is_at_hand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        let log = Log::create(&path, 0, None).unwrap();
        let text: String = (0..2000).map(|line| format!("line {line}\n")).collect();
        log.clone().take(text.as_bytes()).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let last = log.last_lines();
        assert_eq!((last.len(), last[9].as_str()), (LAST_LINES, "line 1999"));
        log.clone().take("after\n".as_bytes()).await;
        assert_eq!(log.last_lines(), ["after"]);
    }

    #[tokio::test]
    async fn a_file_that_has_its_size_is_kept_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        let log = Log::create(&path, 100, None).unwrap();
        for line in 0..100 {
            log.lock().add(format!("line number {line:03}\n").as_bytes()); // 16 bytes: six of them fit
        }
        let mut names: Vec<_> = folder.path().read_dir().unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["server.log", "server.log.1", "server.log.2", "server.log.3"]);
        let text = |number| std::fs::read_to_string(numbered(&path, number)).unwrap();
        let kept: String = (0..=KEPT_FILES).rev().map(text).collect();
        assert!((0..=KEPT_FILES).all(|number| text(number).len() <= 100));
        let expect: String = (100 - kept.lines().count()..100).map(|line| format!("line number {line:03}\n")).collect();
        assert_eq!(kept, expect, "nothing is lost between the files");
        assert_eq!(kept.lines().count(), 3 * 6 + 100 % 6);
    }

    #[tokio::test]
    async fn lines_are_whole_in_each_file_also_where_many_come_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        let log = Log::create(&path, 1000, None).unwrap();
        log.lock().add("x".repeat(900).as_bytes());
        log.lock().add(format!("\n{}\n{}", "y".repeat(50), "z".repeat(80)).as_bytes());
        assert_eq!(
            std::fs::read_to_string(numbered(&path, 1)).unwrap(),
            format!("{}\n{}\n", "x".repeat(900), "y".repeat(50))
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "z".repeat(80));
    }
}
