//! The access log: one line of JSON per request, written by a thread of its own. Whoever answers requests never waits for it: where the
//! file is slower than they are, lines are dropped and counted. The thread gathers lines for a moment before it writes them, so that
//! requests in quick succession neither wake it nor cost a system call one by one.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// Lines that may wait to be written.
const WAITING: usize = 16_384;
/// How long the thread gathers lines once there is one.
const GATHERS: Duration = Duration::from_millis(5);
/// Lines that are written together. Units: bytes.
const WRITTEN_TOGETHER: usize = 64 << 10;
/// Longer paths are cut. Units: bytes.
const MAX_PATH: usize = 2048;
/// How long [`AccessLog::flush`] waits before it looks again for room among the lines that wait.
const FLUSH_PAUSE: Duration = Duration::from_millis(5);

/// What is said of one request.
#[derive(Debug, Serialize)]
struct Line {
    time_unix_ms: u64,
    protocol: &'static str,
    /// Who asked, where the system says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: Cow<'static, str>,
    /// Without a query.
    path: String,
    status: u32,
    duration_us: u64,
    response_bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    aborted: bool,
}

/// What the thread gets.
#[derive(Debug)]
enum Item {
    Line(Box<Line>),
    /// What came before is to be in the file when this is answered.
    Flush(SyncSender<()>),
}

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    items: SyncSender<Item>,
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
        let (items, waiting) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let log = Arc::new(Self { items, dropped: dropped.clone() });
        thread::Builder::new()
            .name("access log".into())
            .spawn(move || write(&waiting, BufWriter::with_capacity(WRITTEN_TOGETHER, file), &dropped))?;
        Ok(log)
    }

    /// A request begins: it becomes a line when what is returned is dropped. `path` is without a query.
    pub fn begin(
        self: &Arc<Self>,
        protocol: Protocol,
        client: Option<SocketAddr>,
        method: &str,
        path: &str,
    ) -> Box<Access> {
        Box::new(Access {
            log: self.clone(),
            began: Instant::now(),
            line: Some(Box::new(Line {
                time_unix_ms: 0,
                protocol: protocol.name(),
                client: client.map(|client| client.ip()),
                method: method_name(method),
                path: path[..path.floor_char_boundary(MAX_PATH)].to_owned(),
                status: protocol.unanswered(),
                duration_us: 0,
                response_bytes: 0,
                aborted: true,
            })),
        })
    }

    /// Waits until the lines that were added are in the file, for as long as that at most.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, is_done) = sync_channel(1);
        let mut item = Item::Flush(done);
        while let Err(TrySendError::Full(back)) = self.items.try_send(item) {
            if Instant::now() >= deadline {
                return; // the disk hangs: the thread ends with the process
            }
            thread::sleep(FLUSH_PAUSE);
            item = back;
        }
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    /// Lines that were not written: too many waited, or the file did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Adds a line, or counts it as dropped. Never waits.
    fn add(&self, line: Box<Line>) {
        if self.items.try_send(Item::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Over what a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// gRPC.
    Grpc,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }

    /// The status of a request whose client left before there was one: that of proxies for HTTP, and `CANCELLED` of gRPC.
    fn unanswered(self) -> u32 {
        match self {
            Self::Http => 499,
            Self::Grpc => 1,
        }
    }
}

/// The name of a method, without memory of its own for those that nearly all requests have.
fn method_name(method: &str) -> Cow<'static, str> {
    match method {
        "POST" => Cow::Borrowed("POST"),
        "GET" => Cow::Borrowed("GET"),
        other => Cow::Owned(other.to_owned()),
    }
}

/// A request under way. It becomes a line when it is dropped.
#[derive(Debug)]
pub struct Access {
    log: Arc<AccessLog>,
    began: Instant,
    /// Until it is added.
    line: Option<Box<Line>>,
}

impl Access {
    /// Its status is known. Without, it is that of a client that has left.
    pub fn answered(&mut self, status: u32) {
        self.line.iter_mut().for_each(|line| line.status = status);
    }

    /// So many bytes more of its response were handed to the connection.
    pub fn sent(&mut self, bytes: usize) {
        self.line.iter_mut().for_each(|line| line.response_bytes += bytes as u64);
    }

    /// All of its response was handed to the connection.
    pub fn ended(&mut self) {
        self.line.iter_mut().for_each(|line| line.aborted = false);
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        let whole = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
        line.duration_us = whole(self.began.elapsed().as_micros());
        line.time_unix_ms = whole(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis());
        self.log.add(line);
    }
}

/// Writes until nobody is left who adds lines. What was gathered is in the file before the next is.
fn write(waiting: &Receiver<Item>, mut file: BufWriter<impl Write>, dropped: &AtomicU64) {
    let mut is_told = false;
    while let Ok(first) = waiting.recv() {
        thread::sleep(GATHERS); // who adds a line meanwhile wakes nobody
        let mut outcome = Ok(());
        let mut count = 0;
        let mut flushes = Vec::new();
        for item in std::iter::once(first).chain(waiting.try_iter().take(WAITING)) {
            match item {
                Item::Line(line) => {
                    count += 1;
                    outcome = outcome.and_then(|()| write_line(&mut file, &line));
                }
                Item::Flush(done) => flushes.push(done),
            }
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
        flushes.iter().for_each(|done| _ = done.try_send(()));
    }
}

fn write_line(file: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use parking_lot::Mutex;

    use super::*;

    fn begin(log: &Arc<AccessLog>, path: &str) -> Box<Access> {
        log.begin(Protocol::Http, Some("127.0.0.1:9".parse().unwrap()), "POST", path)
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
        let mut whole = begin(&log, "/v2/models/a\"b\n/infer");
        whole.answered(200);
        [5, 6].iter().for_each(|bytes| whole.sent(*bytes));
        whole.ended();
        drop(whole);
        drop(begin(&log, &"ä".repeat(MAX_PATH)));
        drop(log.begin(Protocol::Grpc, None, "POST", "/"));
        log.flush(Duration::from_secs(60));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["path"], "/v2/models/a\"b\n/infer");
        assert_eq!((&lines[0]["status"], &lines[0]["response_bytes"]), (&200.into(), &11.into()));
        assert_eq!((&lines[0]["protocol"], &lines[0]["client"]), (&"http".into(), &"127.0.0.1".into()));
        assert!(lines[0].get("aborted").is_none() && lines[0]["duration_us"].is_u64());
        assert_eq!(lines[1]["path"].as_str().map(str::len), Some(MAX_PATH));
        assert_eq!((&lines[1]["status"], &lines[1]["aborted"]), (&499.into(), &true.into()));
        assert_eq!((&lines[2]["protocol"], &lines[2]["status"], lines.len()), (&"grpc".into(), &1.into(), 3));
        assert_eq!(log.dropped(), 0);
    }

    /// A file that counts how often it is written to.
    #[derive(Clone, Default)]
    struct Counting(Arc<Mutex<u32>>);

    impl Write for Counting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            *self.0.lock() += 1;
            Ok(())
        }
    }

    #[test]
    fn lines_of_one_moment_are_written_together() {
        let file = Counting::default();
        let began = Instant::now();
        let log = AccessLog::to(file.clone()).unwrap();
        for _ in 0..WAITING / 2 {
            drop(begin(&log, "/"));
        }
        log.flush(Duration::from_secs(60));
        let most = began.elapsed().as_millis() / GATHERS.as_millis();
        let times = *file.0.lock();
        assert!(times >= 1 && u128::from(times) <= most, "{times} times in {most} moments");
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
        drop(begin(&log, "/first"));
        until(|| *writes.lock() > 0);
        for _ in 0..WAITING + 100 {
            drop(begin(&log, "/"));
        }
        assert_eq!(log.dropped(), 100);
        log.flush(Duration::from_millis(1)); // it does not wait for the file either
        drop(go_on);
        until(|| log.dropped() == WAITING as u64 + 101);
    }
}
