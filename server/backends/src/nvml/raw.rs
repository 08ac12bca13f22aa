//! Functions of NVIDIA's management library, as its header declares them.
//!
//! Source: NVML API reference.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr,
};

use crate::dylib::{Library, LoadError};

/// Every function returns 0 when it has done what it says.
type Status = c_int;

/// A GPU, for as long as the process lives: the library is never shut down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Device(*mut c_void);

// SAFETY: NVML is thread-safe, and a device handle is a name that any thread may use.
#[allow(unsafe_code)]
unsafe impl Send for Device {}

/// `nvmlMemory_t`, bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) total: u64,
    _free: u64,
    pub(super) used: u64,
}

/// `nvmlUtilization_t`, per cent.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Utilization {
    gpu: c_uint,
    _memory: c_uint,
}

type Get<T> = unsafe extern "C" fn(*mut c_void, *mut T) -> Status;

/// The library, begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nvml {
    count: unsafe extern "C" fn(*mut c_uint) -> Status,
    handle_by_index: unsafe extern "C" fn(c_uint, *mut *mut c_void) -> Status,
    uuid: unsafe extern "C" fn(*mut c_void, *mut c_char, c_uint) -> Status,
    utilization: Get<Utilization>,
    memory: Get<Memory>,
    power_usage: Get<c_uint>,
    power_limit: Get<c_uint>,
    energy: Get<u64>,
}

impl Nvml {
    /// Begins.
    ///
    /// Errors: a function is missing, or the driver does not answer.
    #[allow(unsafe_code)]
    pub(super) fn begin(library: Library) -> Result<Self, LoadError> {
        // SAFETY: the types are those that nvml.h declares for these names; strings of nvmlErrorString are static.
        unsafe {
            let init: unsafe extern "C" fn() -> Status = library.function("nvmlInit_v2")?;
            let status = init();
            if status != 0 {
                let text: unsafe extern "C" fn(Status) -> *const c_char = library.function("nvmlErrorString")?;
                let text = text(status);
                let reason = if text.is_null() {
                    status.to_string()
                } else {
                    CStr::from_ptr(text).to_string_lossy().into_owned()
                };
                return Err(library.unsuitable(format!("nvmlInit_v2 failed: {reason}")));
            }
            Ok(Self {
                count: library.function("nvmlDeviceGetCount_v2")?,
                handle_by_index: library.function("nvmlDeviceGetHandleByIndex_v2")?,
                uuid: library.function("nvmlDeviceGetUUID")?,
                utilization: library.function("nvmlDeviceGetUtilizationRates")?,
                memory: library.function("nvmlDeviceGetMemoryInfo")?,
                power_usage: library.function("nvmlDeviceGetPowerUsage")?,
                power_limit: library.function("nvmlDeviceGetEnforcedPowerLimit")?,
                energy: library.function("nvmlDeviceGetTotalEnergyConsumption")?,
            })
        }
    }

    /// All GPUs that the driver shows.
    #[allow(unsafe_code)]
    pub(super) fn devices(&self) -> Vec<Device> {
        let mut count = 0;
        // SAFETY: it writes one number.
        if unsafe { (self.count)(&raw mut count) } != 0 {
            return Vec::new();
        }
        let device = |index| {
            let mut handle = ptr::null_mut();
            // SAFETY: it writes one handle.
            (unsafe { (self.handle_by_index)(index, &raw mut handle) } == 0).then_some(Device(handle))
        };
        (0..count).filter_map(device).collect()
    }

    /// `GPU-...`
    #[allow(unsafe_code)]
    pub(super) fn uuid(&self, device: Device) -> Option<String> {
        let mut text = [0u8; 96]; // as long as NVML ever writes
        // SAFETY: it writes a C string into at most so many bytes.
        let status = unsafe { (self.uuid)(device.0, text.as_mut_ptr().cast(), text.len() as c_uint) };
        let text = CStr::from_bytes_until_nul(&text).ok().filter(|_| status == 0)?;
        Some(text.to_string_lossy().into_owned())
    }

    /// Part of the last moments in which it computed, per cent.
    pub(super) fn utilization_percent(&self, device: Device) -> Option<u32> {
        get(self.utilization, device).map(|utilization| utilization.gpu)
    }

    /// Its memory.
    pub(super) fn memory(&self, device: Device) -> Option<Memory> {
        get(self.memory, device)
    }

    /// Milliwatts.
    pub(super) fn power_usage_mw(&self, device: Device) -> Option<u32> {
        get(self.power_usage, device)
    }

    /// Milliwatts.
    pub(super) fn power_limit_mw(&self, device: Device) -> Option<u32> {
        get(self.power_limit, device)
    }

    /// Millijoules since the driver was loaded.
    pub(super) fn energy_mj(&self, device: Device) -> Option<u64> {
        get(self.energy, device)
    }
}

/// What a function tells of a GPU; `None` if this GPU does not tell it.
#[allow(unsafe_code)]
fn get<T: Default>(function: Get<T>, device: Device) -> Option<T> {
    let mut value = T::default();
    // SAFETY: `function` is of NVML and writes one `T`; the handle came from NVML.
    (unsafe { function(device.0, &raw mut value) } == 0).then_some(value)
}
