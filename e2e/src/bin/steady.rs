//! Steady load, to count the requests that fail while something is done to the servers: sends the same request again and again
//! at an even rate until standard input ends, and at least so many times. Half of the callers keep their connection for as
//! long as the server does, half make a new one for each request. Nothing is retried, but connections that are refused if that is
//! wanted: what is not answered with 200 counts as failed. Prints one JSON object; ends with 0 only if nothing failed.

use std::{
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Notify, task::JoinSet, time::MissedTickBehavior};

/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(20);
/// Failures described one by one.
const DESCRIBED: usize = 20;

/// Sends the same request again and again until standard input ends.
#[derive(Debug, Clone, Parser)]
struct Cli {
    /// Address to send to
    #[arg(long)]
    address: SocketAddr,
    /// Path to post to
    #[arg(long)]
    path: String,
    /// File with the request's body, JSON
    #[arg(long)]
    body: PathBuf,
    /// Requests per second, all callers together
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Callers; every second one makes a new connection for each request
    #[arg(long, default_value_t = 16)]
    callers: u32,
    /// Requests sent even if standard input ends before
    #[arg(long, default_value_t = 10_000)]
    at_least: u64,
    /// Requests until the load is under way: then `steady` is written to standard error
    #[arg(long, default_value_t = 1)]
    before: u64,
    /// Requests sent after standard input has ended
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// Try connections that are refused again, for as long as an answer may take
    #[arg(long)]
    retry_refused: bool,
    /// Seconds an answer may take
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

/// State shared by all callers.
struct Load {
    cli: Cli,
    body: Bytes,
    begun: Instant,
    /// No more requests than these; `u64::MAX` until standard input has ended.
    last: AtomicU64,
    is_under_way: Notify,
    sent: AtomicU64,
    failed: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    slowest_us: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

/// A request that was not answered with 200.
#[derive(Debug, Clone, Serialize)]
struct Failure {
    at_ms: u128,
    is_connection_kept: bool,
    what: String,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    requests: u64,
    failed: u64,
    connections: u64,
    refused: u64,
    seconds: f64,
    slowest_ms: f64,
    first_failures: &'a [Failure],
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let body = std::fs::read(&cli.body).with_context(|| format!("cannot read {}", cli.body.display()))?.into();
    let callers = cli.callers.max(1);
    let load = Arc::new(Load {
        cli,
        body,
        begun: Instant::now(),
        last: AtomicU64::new(u64::MAX),
        is_under_way: Notify::new(),
        sent: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        slowest_us: AtomicU64::new(0),
        failures: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for number in 0..callers {
        tasks.spawn(call(Arc::clone(&load), number % 2 == 0));
    }
    load.is_under_way.notified().await;
    writeln!(std::io::stderr(), "steady")?;
    let mut input = tokio::io::stdin();
    while input.read(&mut [0; 64]).await? > 0 {}
    let sent = load.sent.load(Ordering::Relaxed);
    load.last.store((sent + load.cli.after).max(load.cli.at_least), Ordering::Relaxed);
    tasks.join_all().await;

    let failures = load.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = load.failed.load(Ordering::Relaxed);
    let summary = Summary {
        requests: load.sent.load(Ordering::Relaxed),
        failed,
        connections: load.connections.load(Ordering::Relaxed),
        refused: load.refused.load(Ordering::Relaxed),
        seconds: load.begun.elapsed().as_secs_f64(),
        slowest_ms: load.slowest_us.load(Ordering::Relaxed) as f64 / 1000.0,
        first_failures: &failures,
    };
    serde_json::to_writer_pretty(std::io::stdout(), &summary)?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One caller, until all is over.
async fn call(load: Arc<Load>, keeps_connection: bool) {
    let pause = Duration::from_secs(load.cli.callers.into()) / load.cli.rate.max(1);
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        ticks.tick().await;
        let number = load.sent.load(Ordering::Relaxed);
        if number >= load.last.load(Ordering::Relaxed) {
            return;
        }
        if number >= load.cli.before {
            load.is_under_way.notify_one();
        }
        load.sent.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let limit = Duration::from_secs(load.cli.timeout);
        let answer = tokio::time::timeout(limit, load.send(&mut connection, keeps_connection));
        match answer.await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}"))) {
            Ok(()) => {
                let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                load.slowest_us.fetch_max(took, Ordering::Relaxed);
            }
            Err(what) => {
                connection = None;
                load.note(what, keeps_connection);
            }
        }
    }
}

impl Load {
    /// Sends one request and reads its answer. A kept connection that the server has closed meanwhile is made anew before.
    async fn send(&self, kept: &mut Option<SendRequest<Full<Bytes>>>, keeps: bool) -> Result<(), String> {
        let mut sender = match still_open(kept.take()).await {
            Some(sender) => sender,
            None => self.connect().await.map_err(|error| format!("connecting: {error}"))?,
        };
        let mut request = Request::post(&self.cli.path)
            .header(header::HOST, self.cli.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(self.body.clone()))
            .map_err(|error| error.to_string())?;
        if !keeps {
            request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        let response = sender.send_request(request).await.map_err(|error| format!("sending: {}", deepest(&error)))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| format!("reading: {}", deepest(&error)))?;
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body.to_bytes())));
        }
        if keeps {
            *kept = Some(sender);
        }
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = loop {
            match TcpStream::connect(self.cli.address).await {
                Err(error) if self.cli.retry_refused && is_refusal(&error) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(AGAIN).await; // the timeout of the request ends this
                }
                other => break other?,
            }
        };
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(sender)
    }

    fn note(&self, what: String, is_connection_kept: bool) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < DESCRIBED {
            failures.push(Failure { at_ms: self.begun.elapsed().as_millis(), is_connection_kept, what });
        }
    }
}

/// Nobody is there, or whoever was is gone before the connection was: nothing was sent.
fn is_refusal(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset)
}

async fn still_open(kept: Option<SendRequest<Full<Bytes>>>) -> Option<SendRequest<Full<Bytes>>> {
    let mut sender = kept?;
    sender.ready().await.is_ok().then_some(sender)
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
