//! What one inference allocates, from the socket and back. It guards the fast path against growth nobody notices.
//!
//! With `SITES=1` it prints where the allocations of one request are made.

#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr)] // counts in an allocator; helpers of tests

mod harness;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use harness::{TestServer, one_tensor};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static PRINTS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IS_PRINTING: Cell<bool> = const { Cell::new(false) };
}

fn count(size: usize) {
    COUNT.fetch_add(1, SeqCst);
    if PRINTS.load(SeqCst) && !IS_PRINTING.replace(true) {
        eprintln!("--- {size} bytes\n{}", std::backtrace::Backtrace::force_capture());
        IS_PRINTING.set(false);
    }
}

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sends the request and reads as much as the first response had, without allocating.
fn exchange(stream: &mut TcpStream, request: &[u8], response: &mut [u8]) {
    stream.write_all(request).unwrap();
    stream.read_exact(response).unwrap();
}

#[test]
fn an_inference_makes_few_allocations() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(TestServer::with(&[("floats", &one_tensor("FP32", "[ 16 ]", ""))]));
    let json = r#"{"inputs":[{"name":"INPUT0","shape":[16],"datatype":"FP32","parameters":{"binary_data_size":64}}],"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}}]}"#;
    let head = format!(
        "POST /v2/models/floats/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nInference-Header-Content-Length: {}\r\n\
         Content-Length: {}\r\n\r\n",
        json.len(),
        json.len() + 64
    );
    let request = [head.as_bytes(), json.as_bytes(), &[0; 64]].concat();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut response = vec![0; 4096];
    stream.write_all(&request).unwrap();
    let length = stream.read(&mut response).unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
    for _ in 0..200 {
        exchange(&mut stream, &request, &mut response[..length]); // until buffers have their size
    }
    if std::env::var_os("SITES").is_some() {
        PRINTS.store(true, SeqCst);
        exchange(&mut stream, &request, &mut response[..length]);
        PRINTS.store(false, SeqCst);
    }
    const REQUESTS: u64 = 1000;
    let before = COUNT.load(SeqCst);
    for _ in 0..REQUESTS {
        exchange(&mut stream, &request, &mut response[..length]);
    }
    let count = (COUNT.load(SeqCst) - before) as f64 / REQUESTS as f64;
    assert!(count <= 9.0, "{count} allocations per request");
}
