//! Memory for an output whose size depends on data: an object that looks to TensorRT like an `IOutputAllocator`.

use std::{
    ffi::{c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::Arc,
};

use server_core::tensor::Shape;

use super::{
    dims::{Dims32, Dims64},
    major::Major,
    object::Method,
};
use crate::cuda::{DeviceMemory, Gpu};

/// Gives an output as much memory of a GPU as it asks for, keeps it, and remembers the output's shape.
pub(super) struct Allocator {
    object: Box<Object>,
}

/// What TensorRT sees begins with the table.
#[repr(C)]
struct Object {
    _table: *const Method,
    gpu: Arc<Gpu>,
    memory: Option<DeviceMemory>,
    shape: Option<Shape>,
}

// SAFETY: it is only used by the thread that runs the context it was given to.
unsafe impl Send for Allocator {}

struct Table<const N: usize>([Method; N]);
// SAFETY: functions.
unsafe impl<const N: usize> Sync for Table<N> {}

/// `getInterfaceVersion`, `reallocateOutput`, `notifyShape`, and the destructor twice.
static TABLE_8: Table<5> =
    Table([version as Method, reallocate as Method, notify_32 as Method, destroy as Method, destroy as Method]);
/// `getAPILanguage`, `getInterfaceInfo` and the destructor twice of `IVersionedInterface`; then `reallocateOutput`,
/// `reallocateOutputAsync` and `notifyShape`.
static TABLE_10: Table<7> = Table([
    language as Method,
    interface as Method,
    destroy as Method,
    destroy as Method,
    reallocate as Method,
    reallocate_async as Method,
    notify_64 as Method,
]);

/// `InterfaceInfo`.
#[repr(C)]
struct InterfaceInfo {
    kind: *const c_char,
    major: c_int,
    minor: c_int,
}

impl Allocator {
    /// Without memory at first.
    pub(super) fn new(major: Major, gpu: &Arc<Gpu>) -> Self {
        let table = match major {
            Major::Eight => TABLE_8.0.as_ptr(),
            Major::Ten => TABLE_10.0.as_ptr(),
        };
        Self { object: Box::new(Object { _table: table, gpu: gpu.clone(), memory: None, shape: None }) }
    }

    /// What a context takes. It stays where it is as long as this is not dropped.
    pub(super) fn address(&mut self) -> *mut c_void {
        ptr::from_mut::<Object>(&mut self.object).cast()
    }

    /// The output's memory and shape of the last run.
    pub(super) fn output(&self) -> Option<(&DeviceMemory, &Shape)> {
        Some((self.object.memory.as_ref()?, self.object.shape.as_ref()?))
    }
}

/// The object behind a pointer that TensorRT was given.
///
/// # Safety
/// It is one of [`Allocator::address`], whose allocator is live and not used meanwhile.
unsafe fn object<'a>(this: *mut c_void) -> &'a mut Object {
    // SAFETY: as the caller says.
    unsafe { &mut *this.cast::<Object>() }
}

extern "C" fn reallocate(
    this: *mut c_void,
    _: *const c_char,
    _: *mut c_void,
    size: u64,
    _alignment: u64,
) -> *mut c_void {
    let grow = || {
        // SAFETY: TensorRT was given the address, and calls within a run of the context.
        let object = unsafe { object(this) };
        let size = usize::try_from(size).ok()?;
        if object.memory.as_ref().is_none_or(|memory| memory.len() < size) {
            object.memory = None; // first gives back what it has
            object.memory = DeviceMemory::new(&object.gpu, size).ok();
        }
        object.memory.as_ref().map(DeviceMemory::address) // aligned to 256, as all memory of the driver is
    };
    let address = catch_unwind(AssertUnwindSafe(grow)).ok().flatten();
    ptr::with_exposed_provenance_mut(address.unwrap_or(0) as usize)
}

extern "C" fn reallocate_async(
    this: *mut c_void,
    name: *const c_char,
    current: *mut c_void,
    size: u64,
    alignment: u64,
    _stream: *mut c_void,
) -> *mut c_void {
    reallocate(this, name, current, size, alignment)
}

extern "C" fn notify_32(this: *mut c_void, _: *const c_char, dims: *const Dims32) {
    // SAFETY: as in `reallocate`; the dimensions are live for as long as the call lasts.
    unsafe { object(this).shape = (*dims).shape() };
}

extern "C" fn notify_64(this: *mut c_void, _: *const c_char, dims: *const Dims64) {
    // SAFETY: as in `notify_32`.
    unsafe { object(this).shape = (*dims).shape() };
}

extern "C" fn version(_: *mut c_void) -> c_int {
    1
}

extern "C" fn language(_: *mut c_void) -> c_int {
    0 // C++
}

extern "C" fn interface(_: *mut c_void) -> InterfaceInfo {
    InterfaceInfo { kind: c"IOutputAllocator".as_ptr(), major: 1, minor: 0 }
}

extern "C" fn destroy(_: *mut c_void) {}
