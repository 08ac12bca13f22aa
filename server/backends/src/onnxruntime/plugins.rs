//! Execution providers that come in libraries of their own: `--backend-config=onnxruntime,ep-library.NAME=PATH`. Each is opened
//! when the first model asks for it, once for the process; what goes wrong fails the models that ask, and is tried again at
//! the next load.
//!
//! Source: onnxruntime_c_api.h, `RegisterExecutionProviderLibrary`, `SessionOptionsAppendExecutionProvider_V2`.

#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    ffi::{CString, c_char},
    path::{Path, PathBuf},
    ptr, slice,
};

use ort::{AsPointer, environment::Environment, session::builder::SessionBuilder};
use parking_lot::Mutex;
use server_core::{
    backend::{Device, Settings},
    error::{Error, Result},
};

use super::{
    newer::{
        APPEND_EXECUTION_PROVIDER, EP_DEVICE_HARDWARE, EP_DEVICE_NAME, EpDevice, GET_EP_DEVICES, HARDWARE_TYPE, Newer,
        REGISTER_EXECUTION_PROVIDER_LIBRARY, text,
    },
    provider_options::Options,
    raw::check,
};

/// How the settings that name such libraries begin.
const SETTING: &str = "ep-library.";
/// `OrtHardwareDeviceType`.
const CPU: i32 = 0;
const GPU: i32 = 1;

/// Libraries that the settings name, and what those that are open offer.
pub(super) struct Plugins {
    paths: BTreeMap<String, PathBuf>,
    open: Mutex<BTreeMap<String, Vec<Offered>>>,
    newer: Option<Newer>,
}

/// A device that a library's provider can use.
#[derive(Clone, Copy)]
struct Offered {
    device: *const EpDevice,
    hardware: i32,
}

// SAFETY: the description belongs to the environment, which lives as long as the process, and is never written to.
unsafe impl Send for Offered {}

impl Plugins {
    /// Those of the settings. None is opened yet.
    pub(super) fn of(settings: &Settings, newer: Option<Newer>) -> Self {
        let named = settings.iter().filter_map(|(key, path)| Some((key.strip_prefix(SETTING)?, path)));
        let paths = named.map(|(name, path)| (name.to_owned(), absolute(path))).collect();
        Self { paths, open: Mutex::default(), newer }
    }

    /// Whether the settings name a library so.
    pub(super) fn has(&self, name: &str) -> bool {
        self.paths.contains_key(name)
    }

    /// Gives the session the provider of that library, for that device: the GPU of that number, or the CPU or, where the provider
    /// has none, another kind of processor.
    ///
    /// Errors: `InvalidArgument` if ONNX Runtime is too old or the library offers no such device; `Internal` if the library cannot be
    /// used, or the provider refuses its options, in ONNX Runtime's words.
    pub(super) fn append(
        &self,
        builder: &SessionBuilder,
        environment: &Environment,
        name: &str,
        options: &Options,
        device: Device,
    ) -> Result<()> {
        let offered = self.offered(environment, name)?;
        let devices: Vec<*const EpDevice> = match device {
            Device::Gpu(id) => {
                let mut gpus = offered.iter().filter(|offered| offered.hardware == GPU);
                gpus.nth(id as usize).into_iter().map(|offered| offered.device).collect()
            }
            Device::Cpu | Device::Model => {
                let cpu = offered.iter().find(|offered| offered.hardware == CPU);
                let other = || offered.iter().find(|offered| offered.hardware != GPU);
                cpu.or_else(other).into_iter().map(|offered| offered.device).collect()
            }
        };
        if devices.is_empty() {
            return Err(Error::invalid_argument(format!(
                "execution provider library '{name}' offers nothing for {} on this machine (it offers: {})",
                match device {
                    Device::Gpu(id) => format!("GPU {id}"),
                    Device::Cpu | Device::Model => "the CPU".to_owned(),
                },
                self.described(&offered)
            )));
        }
        let terminated = |text: &String| {
            let text = CString::new(text.as_str());
            text.map_err(|_| Error::invalid_argument(format!("an option of accelerator '{name}' has a zero byte")))
        };
        let keys = options.keys().map(terminated).collect::<Result<Vec<_>>>()?;
        let values = options.values().map(terminated).collect::<Result<Vec<_>>>()?;
        let starts = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
        let (keys, values) = (starts(&keys), starts(&values));
        let append = self.newer.and_then(|newer| newer.get(&APPEND_EXECUTION_PROVIDER)).ok_or_else(too_old)?;
        // SAFETY: options and environment are valid, the devices belong to the environment, and the three lists are as long as said;
        // the call copies the texts.
        let status = unsafe {
            append(
                builder.ptr().cast_mut(),
                environment.ptr().cast_mut(),
                devices.as_ptr(),
                devices.len(),
                keys.as_ptr(),
                values.as_ptr(),
                keys.len(),
            )
        };
        check(status)
            .map_err(|reason| Error::internal(format!("execution provider library '{name}' cannot start: {reason}")))
    }

    /// What a library offers; it is opened if it is not open yet.
    fn offered(&self, environment: &Environment, name: &str) -> Result<Vec<Offered>> {
        let mut open = self.open.lock();
        if let Some(offered) = open.get(name) {
            return Ok(offered.clone());
        }
        let path = self.paths.get(name).ok_or_else(|| unnamed(name))?;
        let before: Vec<*const EpDevice> = self.devices(environment)?.iter().map(|offered| offered.device).collect();
        self.register(environment, name, path)?;
        let mut offered = self.devices(environment)?;
        offered.retain(|offered| !before.contains(&offered.device));
        tracing::info!(name, path = %path.display(), offers = self.described(&offered), "opened execution provider library");
        open.insert(name.to_owned(), offered.clone());
        Ok(offered)
    }

    fn register(&self, environment: &Environment, name: &str, path: &Path) -> Result<()> {
        let register = self.newer.and_then(|newer| newer.get(&REGISTER_EXECUTION_PROVIDER_LIBRARY));
        let register = register.ok_or_else(too_old)?;
        let has_nul =
            |_| Error::invalid_argument(format!("the path of execution provider library '{name}' has a zero byte"));
        let file = CString::new(path.as_os_str().as_encoded_bytes()).map_err(has_nul)?;
        let known_as = CString::new(name).map_err(has_nul)?;
        // SAFETY: the environment is valid and both texts are terminated; the call copies them.
        check(unsafe { register(environment.ptr().cast_mut(), known_as.as_ptr(), file.as_ptr()) }).map_err(|reason| {
            Error::internal(format!(
                "execution provider library '{name}' ({}) cannot be used: {reason}; \
                 --backend-config=onnxruntime,{SETTING}{name}=PATH names its file",
                path.display()
            ))
        })
    }

    /// All devices of all providers.
    fn devices(&self, environment: &Environment) -> Result<Vec<Offered>> {
        let newer = self.newer.ok_or_else(too_old)?;
        let list = newer.get(&GET_EP_DEVICES).ok_or_else(too_old)?;
        let hardware = newer.get(&EP_DEVICE_HARDWARE).ok_or_else(too_old)?;
        let kind = newer.get(&HARDWARE_TYPE).ok_or_else(too_old)?;
        let (mut start, mut count) = (ptr::null(), 0);
        // SAFETY: writes the address of a list of the environment's, and its length.
        check(unsafe { list(environment.ptr(), &mut start, &mut count) })?;
        if start.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: as the call has said; the list is read before another library is registered, for the lock is held.
        let devices = unsafe { slice::from_raw_parts(start, count) };
        // SAFETY: each is a device of the environment's.
        let of = |&device| Offered { device, hardware: unsafe { kind(hardware(device)) } };
        Ok(devices.iter().map(of).collect())
    }

    /// For people: `NAME on CPU, NAME on GPU`.
    fn described(&self, offered: &[Offered]) -> String {
        let name = self.newer.and_then(|newer| newer.get(&EP_DEVICE_NAME));
        let one = |offered: &Offered| {
            let hardware = ["CPU", "GPU", "NPU"].get(usize::try_from(offered.hardware).unwrap_or(usize::MAX));
            // SAFETY: the device is the environment's, and the name belongs to it.
            let name = name.and_then(|name| unsafe { text(name(offered.device)) }).unwrap_or("a provider");
            format!("{name} on {}", hardware.unwrap_or(&"other hardware"))
        };
        match offered {
            [] => "nothing".to_owned(),
            some => some.iter().map(one).collect::<Vec<_>>().join(", "),
        }
    }
}

fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

fn unnamed(name: &str) -> Error {
    Error::internal(format!("no setting names execution provider library '{name}'"))
}

fn too_old() -> Error {
    Error::invalid_argument("libraries of execution providers need ONNX Runtime 1.22 or newer")
}
