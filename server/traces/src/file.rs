//! Trace files, written by a thread of their own. What a setting collects goes into `PATH.N`, from 0, whenever it has as many
//! traces as its log frequency says, when it traces every request and its count is used up, and when it ends with a log
//! frequency; else into `PATH` itself, which is a whole JSON document after every write. Where a count is awaited, nothing goes
//! into `PATH` before the setting ends without it.
//!
//! What waits and what is collected is bounded: a queue that is full drops traces, a setting that collects for long gets
//! its next file early. A file that cannot be written is told once until one can be again.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::trace::{Epoch, Event, Finished};

use crate::json;

/// Bytes of traces that wait for the thread, about; more are dropped.
const MAX_QUEUED: usize = 64 << 20;
/// Bytes of text that a setting collects before it gets its next file, whatever its log frequency says.
const MAX_COLLECTED: usize = 32 << 20;
/// Bytes that an event takes while it waits, about.
const EVENT_BYTES: usize = 128;

/// Takes traces and writes them.
pub struct Files {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    written: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    is_closed: bool,
    has_ended: bool,
}

enum Item {
    Trace(Box<Finished>),
    Retired(u64),
}

impl Files {
    /// Starts the thread. Files are called `path`, or `path` with a number behind it.
    ///
    /// Errors: there is no thread to be had.
    pub(crate) fn start(path: PathBuf, clock: Epoch) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(path, clock, shared.clone());
        let thread = thread::Builder::new().name("trace-files".into()).spawn(move || writer.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Queues a trace, or drops it. Never waits for the disk. One of a request that was refused before any model had it is none,
    /// as in Triton.
    pub(crate) fn take(&self, trace: Finished) {
        if !trace.events.iter().any(|event| matches!(event, Event::Model { .. })) {
            return;
        }
        let bytes = trace.events.len() * EVENT_BYTES + trace.tensor_bytes;
        let mut queue = self.shared.queue.lock();
        if queue.is_closed || queue.bytes + bytes > MAX_QUEUED {
            drop(queue);
            self.shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        queue.bytes += bytes;
        queue.items.push_back(Item::Trace(Box::new(trace)));
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// No more traces come of that setting.
    pub(crate) fn retire(&self, stream: u64) {
        let mut queue = self.shared.queue.lock();
        if !queue.has_ended {
            queue.items.push_back(Item::Retired(stream));
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Traces in files.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Relaxed)
    }

    /// Traces that found no room, in the queue or on the disk.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Takes nothing more, and blocks until what was taken is written, for as long as that at most.
    pub(crate) fn close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut queue = self.shared.queue.lock();
        queue.is_closed = true;
        self.shared.changed.notify_all();
        while !queue.has_ended {
            if self.shared.changed.wait_until(&mut queue, deadline).timed_out() {
                return; // the disk hangs: the thread ends with the process
            }
        }
        drop(queue);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    path: PathBuf,
    clock: Epoch,
    shared: Arc<Shared>,
    /// By setting.
    collected: HashMap<u64, Collected>,
    /// `path` itself, once something was written there.
    main: Option<File>,
    next_index: u64,
    is_failing: bool,
}

/// What a setting has collected and not written.
#[derive(Default)]
struct Collected {
    text: String,
    traces: u64,
    /// Traces of the setting in all.
    total: u64,
    log_frequency: u32,
    /// Every request is traced until the count is used up: all of them are to be in one file.
    awaits_count: bool,
}

impl Writer {
    fn new(path: PathBuf, clock: Epoch, shared: Arc<Shared>) -> Self {
        Self { path, clock, shared, collected: HashMap::new(), main: None, next_index: 0, is_failing: false }
    }

    fn run(&mut self) {
        loop {
            let mut queue = self.shared.queue.lock();
            while queue.items.is_empty() && !queue.is_closed {
                self.shared.changed.wait(&mut queue);
            }
            let items = std::mem::take(&mut queue.items);
            queue.bytes = 0;
            let is_last = items.is_empty();
            drop(queue);
            items.into_iter().for_each(|item| self.handle(item));
            self.flush_all(is_last);
            if is_last {
                self.shared.queue.lock().has_ended = true;
                self.shared.changed.notify_all();
                return;
            }
        }
    }

    fn handle(&mut self, item: Item) {
        let trace = match item {
            Item::Trace(trace) => trace,
            Item::Retired(stream) => {
                self.flush(stream, true);
                self.collected.remove(&stream);
                return;
            }
        };
        let (stream, values) = (trace.stream.number(), *trace.stream.values());
        let collected = self.collected.entry(stream).or_default();
        json::write(&trace, &self.clock, &mut collected.text);
        collected.traces += 1;
        collected.total += 1;
        collected.log_frequency = values.log_frequency;
        collected.awaits_count = values.rate == 1 && values.count > 0;
        let is_used_up =
            collected.awaits_count && u64::try_from(values.count).is_ok_and(|count| collected.total >= count);
        let is_due = values.log_frequency > 0 && collected.traces >= u64::from(values.log_frequency);
        if is_used_up || is_due || (collected.text.len() > MAX_COLLECTED && !collected.is_for_main_file()) {
            self.write_indexed(stream);
        } else if collected.text.len() > MAX_COLLECTED {
            self.flush(stream, false);
        }
    }

    /// Writes what goes into `path` itself, as nothing more waits; at the end all.
    fn flush_all(&mut self, is_end: bool) {
        let waiting: Vec<u64> = self.collected.keys().copied().collect();
        for stream in waiting {
            let collected = &self.collected[&stream];
            if is_end || (collected.is_for_main_file() && !collected.awaits_count) {
                self.flush(stream, is_end);
            }
        }
    }

    /// Writes what a setting has collected where it belongs without being due.
    fn flush(&mut self, stream: u64, is_end: bool) {
        let Some(collected) = self.collected.get_mut(&stream).filter(|collected| collected.traces > 0) else { return };
        if !collected.is_for_main_file() {
            if is_end {
                self.write_indexed(stream);
            }
            return;
        }
        let (text, traces) = collected.take();
        // of tensors there may be none to tell of
        let result = if text.is_empty() { Ok(()) } else { append(&mut self.main, &self.path, &text) };
        self.note(traces, result, &self.path.clone());
    }

    fn write_indexed(&mut self, stream: u64) {
        let Some(collected) = self.collected.get_mut(&stream).filter(|collected| collected.traces > 0) else { return };
        let (text, traces) = collected.take();
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{}", self.next_index));
        self.next_index += 1;
        let path = PathBuf::from(path);
        let result = std::fs::write(&path, format!("[{text}]"));
        if result.is_err() {
            let _ = std::fs::remove_file(&path); // half a document helps nobody
        }
        self.note(traces, result, &path);
    }

    fn note(&mut self, traces: u64, result: io::Result<()>, path: &std::path::Path) {
        match result {
            Ok(()) => {
                self.shared.written.fetch_add(traces, Relaxed);
                if std::mem::replace(&mut self.is_failing, false) {
                    tracing::info!("traces are written again, to '{}'", path.display());
                }
            }
            Err(error) => {
                self.shared.dropped.fetch_add(traces, Relaxed);
                if !std::mem::replace(&mut self.is_failing, true) {
                    let path = path.display();
                    tracing::error!(
                        "cannot write traces to '{path}': {error}. They are dropped until a file can be written: see to the \
                         disk, or to the path given with --trace-config triton,file=<path>"
                    );
                }
            }
        }
    }
}

impl Collected {
    /// Whether its traces go into the one file: nothing ever gathers them.
    fn is_for_main_file(&self) -> bool {
        self.log_frequency == 0
    }

    fn take(&mut self) -> (String, u64) {
        (std::mem::take(&mut self.text), std::mem::take(&mut self.traces))
    }
}

/// Appends to the document at `path`, which is begun anew by the first write. What is written in part is taken back.
fn append(main: &mut Option<File>, path: &std::path::Path, text: &str) -> io::Result<()> {
    let (file, start) = match main {
        Some(file) => (file, ","),
        None => {
            let file = File::create(path)?;
            (main.insert(file), "[")
        }
    };
    // over the bracket that ends the document
    let end = file.seek(SeekFrom::End(0))?;
    let place = end.saturating_sub(1);
    let start = if end == 0 { "[" } else { start };
    file.seek(SeekFrom::Start(place))?;
    let written = file.write_all(format!("{start}{text}]").as_bytes());
    if written.is_err() {
        file.set_len(place)?;
        if end > 0 {
            file.seek(SeekFrom::Start(place))?;
            file.write_all(b"]")?;
        }
    }
    written
}

#[cfg(test)]
mod tests;
