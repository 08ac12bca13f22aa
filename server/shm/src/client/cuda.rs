//! Memory of a GPU that another process has made. The driver's library is opened when it is first asked for, and may be absent.
//!
//! Models run on bytes of the host here, so an input is copied from the device when it is asked for, and an output back to it.

#![allow(unsafe_code)]

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    ptr,
    sync::OnceLock,
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use server_core::error::{Error, Result};

/// Bytes of a handle.
const HANDLE: usize = 64;
/// Access from another device is enabled when it is needed: `CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS`.
const LAZY_PEER_ACCESS: c_uint = 1;

/// `CUipcMemHandle`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handle([c_char; HANDLE]);

/// `CUdeviceptr`.
type DevicePointer = u64;
/// `CUcontext`.
type Context = *mut c_void;

/// Functions of the driver, as `cuda.h` declares them.
struct Driver {
    device_get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int,
    primary_context_retain: unsafe extern "C" fn(*mut Context, c_int) -> c_int,
    primary_context_release: unsafe extern "C" fn(c_int) -> c_int,
    set_current: unsafe extern "C" fn(Context) -> c_int,
    open: unsafe extern "C" fn(*mut DevicePointer, Handle, c_uint) -> c_int,
    close: unsafe extern "C" fn(DevicePointer) -> c_int,
    address_range: unsafe extern "C" fn(*mut DevicePointer, *mut usize, DevicePointer) -> c_int,
    to_host: unsafe extern "C" fn(*mut c_void, DevicePointer, usize) -> c_int,
    to_device: unsafe extern "C" fn(DevicePointer, *const c_void, usize) -> c_int,
}

fn driver() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    DRIVER.get_or_init(|| Driver::load("libcuda.so.1")).as_ref()
}

/// Whether there is a driver, and a GPU.
pub(super) fn is_here() -> bool {
    driver().is_some()
}

impl Driver {
    /// `None` if there is no such library, or it has no GPU.
    fn load(library: &str) -> Option<Self> {
        // SAFETY: dlopen runs the library's initialisers; it is the driver of the system, which anybody may open.
        let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }.ok()?;
        let library: &'static Library = Box::leak(Box::new(library)); // never closed: its functions stay
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type is that of the field, which is what `cuda.h` declares for the name.
                *unsafe { library.get($name) }.ok()?
            };
        }
        let init: unsafe extern "C" fn(c_uint) -> c_int = function!(b"cuInit\0");
        let count: unsafe extern "C" fn(*mut c_int) -> c_int = function!(b"cuDeviceGetCount\0");
        let driver = Self {
            device_get: function!(b"cuDeviceGet\0"),
            primary_context_retain: function!(b"cuDevicePrimaryCtxRetain\0"),
            primary_context_release: function!(b"cuDevicePrimaryCtxRelease_v2\0"),
            set_current: function!(b"cuCtxSetCurrent\0"),
            open: function!(b"cuIpcOpenMemHandle_v2\0"),
            close: function!(b"cuIpcCloseMemHandle\0"),
            address_range: function!(b"cuMemGetAddressRange_v2\0"),
            to_host: function!(b"cuMemcpyDtoH_v2\0"),
            to_device: function!(b"cuMemcpyHtoD_v2\0"),
        };
        let mut devices = 0;
        // SAFETY: `cuInit` takes 0, and `cuDeviceGetCount` writes one int.
        let has_devices = unsafe { init(0) == 0 && count(&raw mut devices) == 0 && devices > 0 };
        has_devices.then_some(driver)
    }
}

/// A device whose context this process has. It is given back when this is dropped.
struct Device {
    driver: &'static Driver,
    device: c_int,
    context: Context,
}

// SAFETY: the driver's contexts may be used by any thread that makes them current.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    fn open(driver: &'static Driver, number: c_int) -> Option<Self> {
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: `cuDeviceGet` writes one int.
        if unsafe { (driver.device_get)(&raw mut device, number) } != 0 {
            return None;
        }
        // SAFETY: `cuDevicePrimaryCtxRetain` writes one context, for a device that the driver has named.
        if unsafe { (driver.primary_context_retain)(&raw mut context, device) } != 0 {
            return None;
        }
        Some(Self { driver, device, context })
    }

    /// Makes it that of this thread; what follows speaks of it.
    fn enter(&self) -> bool {
        // SAFETY: a context that is retained as long as `self`.
        unsafe { (self.driver.set_current)(self.context) == 0 }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained once, in `open`.
        unsafe { (self.driver.primary_context_release)(self.device) };
    }
}

/// Memory of another process on a GPU.
pub(super) struct Memory {
    device: Device,
    device_id: u64,
    start: DevicePointer,
    len: usize,
}

impl Memory {
    /// Opens what a handle of the driver (`cudaIpcMemHandle_t`) stands for.
    ///
    /// Errors: `InvalidArgument` in Triton's words: there is no GPU, or what was said of the memory is not so.
    pub(super) fn open(region: &str, handle: &[u8], device_id: u64, byte_size: u64) -> Result<Self> {
        match driver() {
            Some(driver) => Self::open_by(driver, region, handle, device_id, byte_size),
            None => Err(Error::invalid_argument(format!(
                "failed to register CUDA shared memory region: '{region}', GPUs not supported"
            ))),
        }
    }

    fn open_by(driver: &'static Driver, region: &str, handle: &[u8], device_id: u64, byte_size: u64) -> Result<Self> {
        let Ok(handle) = <[u8; HANDLE]>::try_from(handle) else {
            return Err(Error::invalid_argument("failed to register shared memory region: invalid args"));
        };
        let unknown = || Error::invalid_argument("failed to register shared memory region: invalid args");
        let number = c_int::try_from(device_id).map_err(|_| unknown())?;
        let device = Device::open(driver, number).filter(Device::enter).ok_or_else(unknown)?;
        let mut start = 0;
        // SAFETY: `cuIpcOpenMemHandle` writes one pointer; it refuses handles that it did not make.
        let opened =
            unsafe { (driver.open)(&raw mut start, Handle(handle.map(|byte| byte as c_char)), LAZY_PEER_ACCESS) };
        if opened != 0 {
            tracing::debug!(region, code = opened, "a CUDA handle cannot be opened");
            return Err(unknown());
        }
        let mut memory = Self { device, device_id, start, len: 0 };
        let (mut base, mut size) = (0, 0);
        // SAFETY: `cuMemGetAddressRange` writes a pointer and a length.
        let is_known = unsafe { (driver.address_range)(&raw mut base, &raw mut size, start) } == 0;
        let left = (base as usize).checked_add(size).and_then(|end| end.checked_sub(start as usize)).unwrap_or(0);
        match usize::try_from(byte_size) {
            Ok(len) if is_known && len > 0 && len <= left => memory.len = len,
            _ => {
                return Err(Error::invalid_argument(format!(
                    "failed to register shared memory region '{region}': invalid args"
                )));
            }
        }
        Ok(memory)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn device_id(&self) -> u64 {
        self.device_id
    }

    /// Copies bytes to the host.
    ///
    /// Errors: `Internal`, the driver refuses.
    pub(super) fn read(&self, offset: usize, len: usize) -> Result<Vec<u8>> {
        self.check(offset, len);
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: `len` bytes inside the memory that is open, to as many of the vector, which are written when it is 0.
        unsafe {
            let copied = self.device.enter()
                && (self.device.driver.to_host)(bytes.as_mut_ptr() as *mut c_void, self.start + offset as u64, len)
                    == 0;
            if !copied {
                return Err(self.failed("read"));
            }
            bytes.set_len(len);
        }
        Ok(bytes)
    }

    /// Copies bytes to the device.
    ///
    /// Errors: `Internal`, the driver refuses.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len());
        let target = self.start + offset as u64;
        // SAFETY: as many bytes as `bytes` has, inside the memory that is open.
        let copied = self.device.enter()
            && unsafe { (self.device.driver.to_device)(target, bytes.as_ptr().cast::<c_void>(), bytes.len()) } == 0;
        if copied { Ok(()) } else { Err(self.failed("write")) }
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "{len} bytes at {offset} of {}", self.len);
    }

    #[cold]
    fn failed(&self, step: &str) -> Error {
        Error::internal(format!("unable to {step} shared memory on GPU {}", self.device_id))
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("device_id", &self.device_id).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.device.enter() {
            // SAFETY: opened once, in `open`.
            unsafe { (self.device.driver.close)(self.start) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

    use super::*;

    /// Memory of one device, 16 bytes of which the handle of ones stands for, from the fourth on.
    static MEMORY: [std::sync::atomic::AtomicU8; 20] = [const { std::sync::atomic::AtomicU8::new(0) }; 20];
    const SKIP: u64 = 4;
    /// Contexts and handles that are open.
    static OPEN: AtomicI32 = AtomicI32::new(0);
    static DRIVER: Driver = Driver {
        device_get,
        primary_context_retain,
        primary_context_release,
        set_current,
        open,
        close,
        address_range,
        to_host,
        to_device,
    };

    fn base() -> DevicePointer {
        MEMORY.as_ptr() as DevicePointer
    }

    unsafe extern "C" fn device_get(device: *mut c_int, number: c_int) -> c_int {
        // SAFETY: the caller gives one int.
        unsafe { *device = number + 40 };
        c_int::from(number != 0)
    }

    unsafe extern "C" fn primary_context_retain(context: *mut Context, device: c_int) -> c_int {
        assert_eq!(device, 40);
        // SAFETY: the caller gives one context.
        unsafe { *context = 7 as Context };
        OPEN.fetch_add(1, SeqCst);
        0
    }

    unsafe extern "C" fn primary_context_release(_: c_int) -> c_int {
        OPEN.fetch_sub(1, SeqCst);
        0
    }

    unsafe extern "C" fn set_current(context: Context) -> c_int {
        c_int::from(context.addr() != 7)
    }

    unsafe extern "C" fn open(start: *mut DevicePointer, handle: Handle, flags: c_uint) -> c_int {
        assert_eq!(flags, LAZY_PEER_ACCESS);
        if handle.0 != [1; HANDLE] {
            return 201;
        }
        // SAFETY: the caller gives one pointer.
        unsafe { *start = base() + SKIP };
        OPEN.fetch_add(1, SeqCst);
        0
    }

    unsafe extern "C" fn close(start: DevicePointer) -> c_int {
        assert_eq!(start, base() + SKIP);
        OPEN.fetch_sub(1, SeqCst);
        0
    }

    unsafe extern "C" fn address_range(start: *mut DevicePointer, size: *mut usize, _: DevicePointer) -> c_int {
        // SAFETY: the caller gives one of each.
        unsafe { (*start, *size) = (base(), MEMORY.len()) };
        0
    }

    unsafe extern "C" fn to_host(target: *mut c_void, source: DevicePointer, len: usize) -> c_int {
        for index in 0..len {
            let byte = MEMORY[(source - base()) as usize + index].load(SeqCst);
            // SAFETY: the caller gives `len` bytes.
            unsafe { *target.cast::<u8>().add(index) = byte };
        }
        0
    }

    unsafe extern "C" fn to_device(target: DevicePointer, source: *const c_void, len: usize) -> c_int {
        for index in 0..len {
            // SAFETY: the caller gives `len` bytes.
            let byte = unsafe { *source.cast::<u8>().add(index) };
            MEMORY[(target - base()) as usize + index].store(byte, SeqCst);
        }
        0
    }

    /// With a driver that keeps its devices in memory of the host. One test, for it counts what is open.
    #[test]
    fn memory_of_a_device_is_opened_read_written_and_closed() {
        let open = |handle: &[u8], device, size| Memory::open_by(&DRIVER, "r", handle, device, size);
        let memory = open(&[1; HANDLE], 0, 12).unwrap();
        assert_eq!((memory.len(), memory.device_id()), (12, 0));
        memory.write(2, b"abc").unwrap();
        assert_eq!(memory.read(1, 5).unwrap(), b"\0abc\0");
        assert_eq!(MEMORY[6].load(SeqCst), b'a');
        assert_eq!(memory.read(12, 0).unwrap(), b"");
        assert_eq!(OPEN.load(SeqCst), 2);
        drop(memory);
        assert_eq!(OPEN.load(SeqCst), 0);

        let invalid = "failed to register shared memory region: invalid args";
        for (handle, device) in [([0; HANDLE], 0), ([1; HANDLE], 1), ([1; HANDLE], u64::MAX)] {
            assert_eq!(open(&handle, device, 1).unwrap_err(), Error::invalid_argument(invalid));
        }
        assert_eq!(open(&[1; 3], 0, 1).unwrap_err(), Error::invalid_argument(invalid));
        for size in [0, 17, u64::MAX] {
            let text = "failed to register shared memory region 'r': invalid args";
            assert_eq!(open(&[1; HANDLE], 0, size).unwrap_err(), Error::invalid_argument(text));
        }
        open(&[1; HANDLE], 0, 16).unwrap();
        assert_eq!(OPEN.load(SeqCst), 0, "what was refused is closed as well");
    }

    #[test]
    fn a_library_that_is_not_there_is_no_driver() {
        assert!(Driver::load("libcuda_of_nobody.so.1").is_none());
        assert!(Driver::load("libc.so.6").is_none());
    }
}
