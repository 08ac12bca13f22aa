//! The extension module of a worker, for CPython from 3.8 on: its end of an execute channel that goes through rings in shared memory.
//!
//! `build.rs` compiles this file by itself, without the standard library and without Python; what it uses of libc and of Python's stable ABI
//! is declared here and found in the interpreter that loads it. `stub/triton_python_backend_utils/_rings.py` loads it, and says when it does
//! without. One thread at a time receives and one at a time sends, as the worker's main thread does.

#![no_std]
#![allow(unsafe_code)]

mod libc;
mod python;
#[path = "../ring.rs"]
mod ring;
#[path = "../spin.rs"]
mod spin;

use core::{
    ffi::{c_int, c_void},
    mem::size_of,
    panic::PanicInfo,
    ptr,
    sync::atomic::Ordering::Relaxed,
};

use python::{Method, Module, Object};
use ring::{Corrupt, DOORBELL, MESSAGE_MAX, Next, Pair, Put, Reader, Writer};
use spin::Spin;

/// The worker's end, once there is one.
static mut END: Option<End> = None;

/// A message of the socket that came before its turn.
static mut EARLY: [u8; MESSAGE_MAX] = [0; MESSAGE_MAX];

struct End {
    rings: &'static Pair,
    socket: c_int,
    writer: Writer,
    reader: Reader,
    spin: Spin,
    /// How many bytes of `EARLY` are one; 0 for none.
    early: usize,
}

/// Why nothing was received.
enum Failed {
    /// The system says why: `errno`.
    System(c_int),
    Corrupt,
    /// Python has an exception already.
    Raised,
}

impl From<Corrupt> for Failed {
    fn from(_: Corrupt) -> Self {
        Self::Corrupt
    }
}

static mut METHODS: [Method; 6] = [
    Method::new(
        c"attach",
        attach,
        c"attach(rings, socket): the memory file with the rings, and the socket beside them.",
    ),
    Method::new(
        c"detach",
        detach,
        c"detach(): nothing is received or sent any more; what the other end sees is left as it is.",
    ),
    Method::new(
        c"receive",
        receive,
        c"receive(): the next message; no bytes when the server is gone. Blocks until there is one.",
    ),
    Method::new(c"put", put, c"put(message): whether it had room in the ring."),
    Method::new(
        c"put_elsewhere",
        put_elsewhere,
        c"put_elsewhere(): whether there was room to say that the next message is on the socket.",
    ),
    Method::END,
];

static mut MODULE: Module = Module::new(c"_triton_rings", &raw mut METHODS as *mut Method);

/// What Python calls when it has loaded the module.
#[unsafe(no_mangle)]
pub extern "C" fn PyInit__triton_rings() -> *mut c_void {
    // SAFETY: the definition lives as long as the process, as `PyModule_Create2` asks.
    unsafe { python::PyModule_Create2(&raw mut MODULE, python::ABI_VERSION).cast() }
}

/// The worker's end.
///
/// # Safety
///
/// Called with the interpreter's lock, or by the one thread that receives.
unsafe fn end() -> Option<&'static mut End> {
    // SAFETY: as said; `attach` and `detach` run with the lock while nobody receives or sends.
    unsafe { (*(&raw mut END)).as_mut() }
}

unsafe extern "C" fn attach(_: *mut Object, arguments: *mut Object) -> *mut Object {
    // SAFETY: Python calls with a tuple; what is missing of it is an exception, which is handed on.
    unsafe {
        let (Some(memory), Some(socket)) = (python::number(arguments, 0), python::number(arguments, 1)) else {
            return ptr::null_mut();
        };
        let length = size_of::<Pair>();
        let rings =
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, memory, 0);
        if rings == libc::MAP_FAILED {
            return python::raise_system(libc::errno());
        }
        // A process forked by the model has no such memory: it cannot take or put in what is the worker's to.
        if libc::madvise(rings, length, libc::MADV_DONTFORK) != 0 {
            return python::raise_system(libc::errno());
        }
        // SAFETY: the server's file has that length, cannot be made shorter, and begins with zeros: two empty rings of atomics.
        let rings = &*rings.cast::<Pair>();
        END = Some(End {
            rings,
            socket,
            writer: Writer::default(),
            reader: Reader::default(),
            spin: Spin::default(),
            early: 0,
        });
        python::none()
    }
}

unsafe extern "C" fn detach(_: *mut Object, _: *mut Object) -> *mut Object {
    // SAFETY: with the lock; the memory stays mapped, or never was in this process.
    unsafe {
        END = None;
        python::none()
    }
}

unsafe extern "C" fn put(_: *mut Object, arguments: *mut Object) -> *mut Object {
    // SAFETY: with the lock, and Python calls with a tuple that outlives the call.
    unsafe {
        let Some(message) = python::bytes(arguments, 0) else { return ptr::null_mut() };
        let Some(end) = end() else { return python::bool(true) };
        let put = end.writer.put(&end.rings.to_server, message);
        said(end.socket, put)
    }
}

unsafe extern "C" fn put_elsewhere(_: *mut Object, _: *mut Object) -> *mut Object {
    // SAFETY: with the lock.
    unsafe {
        let Some(end) = end() else { return python::bool(true) };
        // Its reader is woken by the message itself.
        match end.writer.put_elsewhere(&end.rings.to_server) {
            Ok(put) => python::bool(put != Put::Full),
            Err(Corrupt) => raise(Failed::Corrupt),
        }
    }
}

/// Wakes the server if it is to be woken. Whether there was room.
unsafe fn said(socket: c_int, put: Result<Put, Corrupt>) -> *mut Object {
    // SAFETY: with the lock; the bytes outlive the call.
    unsafe {
        match put {
            Ok(Put::Full) => python::bool(false),
            Ok(Put::Done) => python::bool(true),
            Ok(Put::DoneAndWake) => {
                // If the socket is full there is enough to wake it, and if it is closed nobody is there to be woken.
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                libc::send(socket, DOORBELL.as_ptr().cast(), DOORBELL.len(), flags);
                python::bool(true)
            }
            Err(Corrupt) => raise(Failed::Corrupt),
        }
    }
}

unsafe extern "C" fn receive(_: *mut Object, _: *mut Object) -> *mut Object {
    // SAFETY: with the lock, which is let go of only while nothing of Python is touched.
    unsafe {
        let Some(end) = end() else { return python::new_bytes(0, |_| {}) };
        match next(end) {
            Ok(Some(Next::Here(length))) => {
                python::new_bytes(length, |bytes| end.reader.take(&end.rings.to_worker, bytes))
            }
            Ok(Some(Next::Elsewhere)) => {
                end.reader.take(&end.rings.to_worker, &mut []);
                let early = &*slice_of_early(core::mem::take(&mut end.early));
                python::new_bytes(early.len(), |bytes| bytes.copy_from_slice(early))
            }
            Ok(None) => python::new_bytes(0, |_| {}),
            Err(failed) => raise(failed),
        }
    }
}

/// The next message, which is in the ring or in `EARLY`; `None` when the server is gone.
unsafe fn next(end: &mut End) -> Result<Option<Next>, Failed> {
    let ring = &end.rings.to_worker;
    let mut is_closed = false;
    let mut is_new = true;
    loop {
        let next = end.reader.next(ring)?;
        match next {
            Some(Next::Here(_)) => return Ok(next),
            Some(Next::Elsewhere) if end.early > 0 => return Ok(next),
            None if is_new && end.rings.may_spin.load(Relaxed) != 0 => {
                is_new = false;
                let (spin, reader) = (&mut end.spin, &end.reader);
                // SAFETY: with the lock; nothing of Python is touched while it is let go of.
                unsafe {
                    let thread = python::PyEval_SaveThread();
                    spin.finds(libc::now, || !matches!(reader.next(ring), Ok(None)));
                    python::PyEval_RestoreThread(thread);
                }
                continue;
            }
            _ if is_closed => return Ok(None),
            Some(Next::Elsewhere) => {}
            None if end.reader.may_sleep(ring, 1) => {}
            None => continue,
        }
        // SAFETY: with the lock, and by the only thread that receives.
        let received = unsafe { read(end.socket) };
        end.reader.wake(ring);
        match received {
            Ok(0) => is_closed = true, // what was put in before is still taken
            // SAFETY: so many bytes were read.
            Ok(length) if unsafe { &*slice_of_early(length) } == DOORBELL => {}
            Ok(_) if end.early > 0 => return Err(Failed::Corrupt),
            Ok(length) => end.early = length,
            // SAFETY: with the lock.
            Err(libc::EINTR) if unsafe { python::PyErr_CheckSignals() } == 0 => {}
            Err(libc::EINTR) => return Err(Failed::Raised),
            Err(errno) => return Err(Failed::System(errno)),
        }
    }
}

/// Waits without the lock for what comes on the socket, and reads it into `EARLY`.
unsafe fn read(socket: c_int) -> Result<usize, c_int> {
    // SAFETY: nothing of Python is touched while its lock is let go of, and nobody else reads into that memory.
    unsafe {
        let thread = python::PyEval_SaveThread();
        let length = libc::recv(socket, (&raw mut EARLY).cast(), MESSAGE_MAX, 0);
        let errno = libc::errno();
        python::PyEval_RestoreThread(thread);
        usize::try_from(length).map_err(|_| errno)
    }
}

unsafe fn slice_of_early(length: usize) -> *const [u8] {
    ptr::slice_from_raw_parts((&raw const EARLY).cast(), length)
}

unsafe fn raise(failed: Failed) -> *mut Object {
    // SAFETY: with the lock.
    unsafe {
        match failed {
            Failed::System(errno) => python::raise_system(errno),
            Failed::Corrupt => python::raise_value(c"what the server has put into the ring cannot be read"),
            Failed::Raised => ptr::null_mut(),
        }
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::abort() }
}
