//! The access log: one line of JSON per request, written by a thread of its own. Whoever answers requests never waits for it: where the
//! file is slower than they are, lines are dropped and counted.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// Lines that may wait to be written.
const WAITING: usize = 16_384;
/// Longer paths are cut. Units: bytes.
const MAX_PATH: usize = 2048;

/// What is said of one request.
#[derive(Debug, Clone)]
pub struct Access {
    /// `http` or `grpc`.
    pub protocol: &'static str,
    /// Who asked, where the system says it.
    pub client: Option<SocketAddr>,
    /// Method of HTTP.
    pub method: String,
    /// Path without a query.
    pub path: String,
    /// Status of the protocol: 200, or of gRPC 0 for a call that ended well.
    pub status: u32,
    /// From the head of the request until the response was there, or for a stream its beginning.
    pub took: Duration,
}

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    time_unix_ms: u64,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    method: &'a str,
    path: &'a str,
    status: u32,
    duration_us: u64,
}

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<(SystemTime, Access)>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Begins to write to the end of a file.
    ///
    /// Errors: it cannot be opened, or no thread can be started.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        Self::to(File::options().create(true).append(true).open(path)?)
    }

    fn to(file: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let (lines, waiting) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let log = Arc::new(Self { lines, dropped: dropped.clone() });
        thread::Builder::new()
            .name("access log".into())
            .spawn(move || write(&waiting, BufWriter::new(file), &dropped))?;
        Ok(log)
    }

    /// Adds a line, or counts it as dropped. Never waits.
    pub fn add(&self, mut access: Access) {
        if access.path.len() > MAX_PATH {
            let end = access.path.floor_char_boundary(MAX_PATH);
            access.path.truncate(end);
        }
        if self.lines.try_send((SystemTime::now(), access)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written: too many waited, or the file did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Writes until nobody is left who adds lines. What was written is in the file whenever nothing waits.
fn write(waiting: &Receiver<(SystemTime, Access)>, mut file: BufWriter<impl Write>, dropped: &AtomicU64) {
    let mut is_told = false;
    while let Ok(first) = waiting.recv() {
        let mut outcome = Ok(());
        let mut count = 0;
        for (at, access) in std::iter::once(first).chain(waiting.try_iter().take(WAITING)) {
            count += 1;
            outcome = outcome.and_then(|()| write_line(&mut file, at, &access));
        }
        match outcome.and_then(|()| file.flush()) {
            Ok(()) => is_told = false,
            Err(error) => {
                dropped.fetch_add(count, Ordering::Relaxed);
                if !is_told {
                    tracing::warn!("the access log cannot be written: {error}: lines are dropped until it can");
                    is_told = true;
                }
            }
        }
    }
}

fn write_line(file: &mut impl Write, at: SystemTime, access: &Access) -> io::Result<()> {
    let whole = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
    let line = Line {
        time_unix_ms: whole(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()),
        protocol: access.protocol,
        client: access.client.map(|client| client.ip().to_string()),
        method: &access.method,
        path: &access.path,
        status: access.status,
        duration_us: whole(access.took.as_micros()),
    };
    serde_json::to_writer(&mut *file, &line)?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use parking_lot::Mutex;

    use super::*;

    fn access(path: &str) -> Access {
        Access {
            protocol: "http",
            client: Some("127.0.0.1:9".parse().unwrap()),
            method: "POST".into(),
            path: path.into(),
            status: 200,
            took: Duration::from_micros(1500),
        }
    }

    #[track_caller]
    fn until(is_so: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(std::time::Instant::now() < deadline, "it did not come");
            thread::yield_now();
        }
    }

    #[test]
    fn a_request_is_a_line_of_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&path).unwrap();
        log.add(access("/v2/models/a\"b\n/infer"));
        log.add(access(&"ä".repeat(MAX_PATH)));
        until(|| std::fs::read_to_string(&path).unwrap().lines().count() == 2);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["path"], "/v2/models/a\"b\n/infer");
        assert_eq!((&lines[0]["status"], &lines[0]["duration_us"]), (&200.into(), &1500.into()));
        assert_eq!((&lines[0]["protocol"], &lines[0]["client"]), (&"http".into(), &"127.0.0.1".into()));
        assert_eq!(lines[1]["path"].as_str().map(str::len), Some(MAX_PATH));
        assert_eq!(log.dropped(), 0);
    }

    /// A file that takes nothing until it may, and then says that it is full.
    struct Stuck(mpsc::Receiver<()>, Arc<Mutex<u32>>);

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            *self.1.lock() += 1;
            let _ = self.0.recv();
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_file_that_is_stuck_and_what_is_dropped_is_counted() {
        let (go_on, may_go_on) = mpsc::channel();
        let writes = Arc::new(Mutex::new(0));
        let log = AccessLog::to(Stuck(may_go_on, writes.clone())).unwrap();
        log.add(access("/first"));
        until(|| *writes.lock() > 0);
        for _ in 0..WAITING + 100 {
            log.add(access("/"));
        }
        assert_eq!(log.dropped(), 100);
        drop(go_on);
        until(|| log.dropped() == WAITING as u64 + 101);
    }
}
