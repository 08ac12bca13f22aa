//! Cache libraries: `libtritoncache_NAME.so` as a [`server_core::response_cache::EntryStore`], and the functions `TRITONCACHE_*` that
//! it calls. An entry is one buffer of bytes, which go to and from the library's memory by copies: what it keeps is its own.
//!
//! Source: `tritoncache.h` 0.1 of triton-inference-server/core.

use std::{
    ffi::{CString, c_char, c_void},
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use parking_lot::Mutex;
use server_core::{
    error::{Code, Error, Result},
    response_cache::EntryStore,
};

use crate::{
    abi::{
        Handle, Out, Status,
        export::exports,
        handle::objects,
        numbers::MemoryType,
        objects::{Attributes, BufferAttributes, result_of, text},
    },
    library::{open, required},
    server::allocator::UserPointer,
};

objects! {
    40: Entry => "TRITONCACHE_CacheEntry",
    41: Allocator => "TRITONCACHE_Allocator",
}

/// Caches of the server's own.
const BUILT_IN: [&str; 2] = ["local", "redis"];

/// Version of `tritoncache.h` that is followed.
const API_VERSION: (u32, u32) = (0, 1);

type Initialize = unsafe extern "C" fn(*mut *mut c_void, *const c_char) -> Status;
type Finalize = unsafe extern "C" fn(*mut c_void) -> Status;
type Access = unsafe extern "C" fn(*mut c_void, *const c_char, Handle<Entry>, Handle<Allocator>) -> Status;

/// A cache that a library keeps.
pub struct CacheLibrary {
    cache: UserPointer,
    finalize: Finalize,
    insert: Access,
    look_up: Access,
}

/// What is kept under one key, while the library looks at it.
#[derive(Default)]
pub(crate) struct Entry(Mutex<Vec<Piece>>);

/// Memory of the library, or of the entry that it is to keep.
#[derive(Clone, Copy)]
struct Piece {
    base: UserPointer,
    byte_size: usize,
}

/// What copies an entry, in the direction that is wanted.
pub(crate) enum Allocator {
    /// From here to the library.
    ToLibrary(Bytes),
    /// From the library to here.
    FromLibrary(Mutex<Option<Vec<u8>>>),
}

impl CacheLibrary {
    /// The library that a cache is to be: one that is chosen by `library=libtritoncache_NAME.so`, which lies in the directory's folder
    /// of that name, or by its path; or that of a name which is not built in. `None` for a cache that is.
    pub fn chosen(name: &str, settings: &[(String, String)], directory: &Path) -> Option<Result<Self>> {
        let file = settings.iter().rev().find(|(key, _)| key == "library").map(|(_, file)| Path::new(file));
        let usual = PathBuf::from(format!("libtritoncache_{name}.so"));
        let is_plain = |path: &Path| path.components().eq([Component::Normal(path.as_os_str())]);
        let path = match file {
            Some(path) if !is_plain(path) => path.to_owned(),
            Some(file) => directory.join(name).join(file),
            None if BUILT_IN.contains(&name) || !is_plain(Path::new(name)) => return None,
            None => directory.join(name).join(&usual),
        };
        if !path.is_file() {
            // of a name that nobody knows, the caches that are built in are to be told
            return file
                .map(|_| Err(Error::not_found(format!("unable to find '{}' for cache '{name}'", path.display()))));
        }
        let settings: serde_json::Map<_, _> = settings
            .iter()
            .filter(|(key, _)| key != "library")
            .map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())))
            .collect();
        Some(Self::open(&path, &serde_json::Value::from(settings).to_string()))
    }

    /// Opens the library in that file and has it make its cache, with the settings as JSON.
    ///
    /// Errors: it cannot be opened, lacks a function, or does not want to.
    #[allow(unsafe_code)]
    pub fn open(path: &Path, config: &str) -> Result<Self> {
        let library = open(path)?;
        let initialize: Initialize = required(library, c"TRITONCACHE_CacheInitialize", path)?;
        let finalize: Finalize = required(library, c"TRITONCACHE_CacheFinalize", path)?;
        let insert: Access = required(library, c"TRITONCACHE_CacheInsert", path)?;
        let look_up: Access = required(library, c"TRITONCACHE_CacheLookup", path)?;
        let (mut cache, config) = (std::ptr::null_mut(), text(config));
        // SAFETY: the type is that of the header, with the address of a variable and a text that lives during the call.
        result_of(unsafe { initialize(&raw mut cache, config.as_ptr()) })?;
        if cache.is_null() {
            return Err(Error::internal(format!("library {} made no cache, and no error either", path.display())));
        }
        Ok(Self { cache: UserPointer(cache), finalize, insert, look_up })
    }

    #[allow(unsafe_code)]
    fn access(&self, access: Access, key: &str, entry: Entry, allocator: Allocator) -> (Result<()>, Option<Bytes>) {
        let (entry, allocator, key): (_, _, CString) = (Handle::new(entry), Handle::new(allocator), text(key));
        // SAFETY: the type is that of the header; the cache is what the library gave, and the rest lives during the call.
        let result = result_of(unsafe { access(self.cache.0, key.as_ptr(), entry, allocator) });
        let _ = entry.take(); // both were lent
        let copied = match allocator.take().as_deref() {
            Ok(Allocator::FromLibrary(copied)) => copied.lock().take().map(Bytes::from),
            _ => None,
        };
        (result, copied)
    }
}

impl EntryStore for CacheLibrary {
    fn look_up(&self, key: &str) -> Result<Option<Bytes>> {
        let (result, copied) =
            self.access(self.look_up, key, Entry::default(), Allocator::FromLibrary(Mutex::default()));
        match result {
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(copied),
        }
    }

    fn insert(&self, key: &str, bytes: Bytes) -> Result<()> {
        let base = UserPointer(bytes.as_ptr().cast_mut().cast());
        let entry = Entry(Mutex::new(vec![Piece { base, byte_size: bytes.len() }]));
        match self.access(self.insert, key, entry, Allocator::ToLibrary(bytes)).0 {
            Err(error) if error.code != Code::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for CacheLibrary {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the type is that of the header; the cache is what the library gave, and nobody uses it any more.
        if let Err(error) = result_of(unsafe { (self.finalize)(self.cache.0) }) {
            tracing::error!("a cache library did not end its cache: {error}");
        }
    }
}

exports! {
    /// The version of the interface.
    fn TRITONCACHE_ApiVersion(major: Out<u32>, minor: Out<u32>) {
        major.set(API_VERSION.0)?;
        minor.set(API_VERSION.1)
    }

    /// How many buffers an entry has.
    fn TRITONCACHE_CacheEntryBufferCount(entry: Handle<Entry>, count: Out<usize>) {
        count.set(entry.get()?.0.lock().len())
    }

    /// Adds a buffer of the library to an entry.
    fn TRITONCACHE_CacheEntryAddBuffer(
        entry: Handle<Entry>,
        base: *mut c_void,
        attributes: Handle<BufferAttributes>,
    ) {
        let byte_size = byte_size_of(attributes)?;
        let piece = piece(base, byte_size)?;
        entry.get()?.0.lock().push(piece);
        Ok(())
    }

    /// A buffer of an entry, for as long as the call of the library lasts.
    fn TRITONCACHE_CacheEntryGetBuffer(
        entry: Handle<Entry>,
        index: usize,
        base: Out<*mut c_void>,
        attributes: Handle<BufferAttributes>,
    ) {
        let entry = entry.get()?;
        let pieces = entry.0.lock();
        let piece = pieces.get(index).ok_or_else(|| out_of_bounds(index, pieces.len()))?;
        *attributes.get()?.0.lock() = Attributes::of_host(piece.byte_size);
        base.set(piece.base.0)
    }

    /// Puts a buffer of the library in place of one of an entry; without attributes it is as large.
    fn TRITONCACHE_CacheEntrySetBuffer(
        entry: Handle<Entry>,
        index: usize,
        base: *mut c_void,
        attributes: Handle<BufferAttributes>,
    ) {
        let byte_size = if attributes.is_null() { None } else { Some(byte_size_of(attributes)?) };
        let entry = entry.get()?;
        let mut pieces = entry.0.lock();
        let count = pieces.len();
        let place = pieces.get_mut(index).ok_or_else(|| out_of_bounds(index, count))?;
        *place = piece(base, byte_size.unwrap_or(place.byte_size))?;
        Ok(())
    }

    /// Copies between the buffers of an entry, which are the library's by now, and the server.
    fn TRITONCACHE_Copy(allocator: Handle<Allocator>, entry: Handle<Entry>) {
        let pieces = entry.get()?.0.lock().clone();
        allocator.get()?.copy(&pieces)
    }
}

impl Allocator {
    #[allow(unsafe_code)]
    fn copy(&self, pieces: &[Piece]) -> Result<()> {
        match self {
            Self::ToLibrary(bytes) => {
                let [piece] = pieces else { return Err(differs(pieces.len(), 1)) };
                if piece.byte_size < bytes.len() {
                    return Err(differs(piece.byte_size, bytes.len()));
                }
                if std::ptr::eq(piece.base.0.cast(), bytes.as_ptr()) {
                    return Err(Error::invalid_argument("the entry has no buffer of the cache to copy to"));
                }
                // SAFETY: the header binds the library to set a buffer of its own of the size that it says.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), piece.base.0.cast::<u8>(), bytes.len()) };
            }
            Self::FromLibrary(copied) => {
                let mut all = Vec::new();
                for piece in pieces {
                    // SAFETY: the header binds the library to add buffers of the size that it says.
                    all.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.base.0.cast(), piece.byte_size) });
                }
                *copied.lock() = Some(all);
            }
        }
        Ok(())
    }
}

fn piece(base: *mut c_void, byte_size: usize) -> Result<Piece> {
    if base.is_null() || byte_size > isize::MAX as usize {
        return Err(Error::invalid_argument(format!("a buffer of an entry has no {byte_size} bytes at {base:p}")));
    }
    Ok(Piece { base: UserPointer(base), byte_size })
}

fn byte_size_of(attributes: Handle<BufferAttributes>) -> Result<usize> {
    let attributes = *attributes.get()?.0.lock();
    match attributes.memory_type {
        MemoryType::CPU | MemoryType::CPU_PINNED => Ok(attributes.byte_size),
        _ => Err(Error::invalid_argument("Only input buffers in CPU memory are allowed in cache currently")),
    }
}

fn out_of_bounds(index: usize, count: usize) -> Error {
    Error::invalid_argument(format!("index was greater than count: there is no buffer {index} in an entry of {count}"))
}

fn differs(got: usize, wanted: usize) -> Error {
    Error::invalid_argument(format!("an entry of {wanted} cannot be copied into {got}"))
}
