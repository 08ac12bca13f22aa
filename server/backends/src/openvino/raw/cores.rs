//! What reads models and makes them ready to run.

#![allow(unsafe_code)]

use std::{ffi::CStr, path::Path, ptr, slice};

use super::{Api, Compiled, Devices, Failure, Handle, Model, Object, Result, terminated};

/// What reads and compiles models.
pub(crate) struct Core(Handle);

impl Core {
    /// A new one. Weights are read, not mapped: a file that is written over while its model serves must not end the process.
    pub(crate) fn new(api: &'static Api) -> Result<Self> {
        // SAFETY: the pair of functions for cores.
        let core = unsafe { api.object("creating core", api.core_free, |core| (api.core_create)(core)) }?;
        // SAFETY: a null device means all; name and value are terminated.
        let status =
            unsafe { (api.core_set_property)(core.get(), ptr::null(), c"ENABLE_MMAP".as_ptr(), c"NO".as_ptr()) };
        api.check("configuring openvino core", status)?;
        Ok(Self(core))
    }

    /// The names of the devices that there are.
    pub(crate) fn devices(&self) -> Result<Vec<String>> {
        let api = self.0.api;
        let mut devices = Devices { names: ptr::null_mut(), count: 0 };
        // SAFETY: fills the list in, which holds so many terminated texts until it is released.
        unsafe {
            api.check("getting devices", (api.core_get_available_devices)(self.0.get(), &mut devices))?;
            if devices.names.is_null() {
                return Ok(Vec::new());
            }
            let names = slice::from_raw_parts(devices.names, devices.count);
            let names = names.iter().map(|&name| CStr::from_ptr(name).to_string_lossy().into_owned()).collect();
            (api.available_devices_free)(&mut devices);
            Ok(names)
        }
    }

    /// The names of the properties that a device knows.
    pub(crate) fn properties(&self, device: &str) -> Result<Vec<String>> {
        let names = self.property(device, "SUPPORTED_PROPERTIES")?;
        Ok(names.split([' ', ',']).map(str::to_owned).collect())
    }

    /// A property of a device, in OpenVINO's words.
    pub(crate) fn property(&self, device: &str, name: &str) -> Result<String> {
        const DOING: &str = "getting properties";
        let (device, name) = (terminated(DOING, device)?, terminated(DOING, name)?);
        let api = self.0.api;
        let mut text = ptr::null_mut();
        // SAFETY: core and texts are valid; the call writes the address of a new text.
        let value = unsafe {
            api.check(DOING, (api.core_get_property)(self.0.get(), device.as_ptr(), name.as_ptr(), &mut text))?;
            api.take(text)
        };
        Ok(value.unwrap_or_default())
    }

    /// Sets a property of a device, for models that are compiled without it.
    pub(crate) fn set(&self, device: &str, name: &str, value: &str) -> Result<()> {
        const DOING: &str = "configuring openvino core";
        let [device, name, value] = [device, name, value].map(|text| terminated(DOING, text));
        let (device, name, value) = (device?, name?, value?);
        let api = self.0.api;
        // SAFETY: core and texts are valid through the call.
        api.check(DOING, unsafe {
            (api.core_set_property)(self.0.get(), device.as_ptr(), name.as_ptr(), value.as_ptr())
        })
    }

    /// Loads a library with operations.
    pub(crate) fn add_extension(&self, library: &Path) -> Result<()> {
        const DOING: &str = " loading custom CPU extensions";
        let path = terminated(DOING, &library.display().to_string())?;
        let add = self.0.api.core_add_extension;
        let add = add.ok_or_else(|| Failure::without(DOING, "this version of OpenVINO cannot do that from C"))?;
        // SAFETY: the core is valid and the path terminated.
        self.0.api.check(DOING, unsafe { add(self.0.get(), path.as_ptr()) })
    }

    /// Reads a model file; weights of OpenVINO's own form lie beside it.
    pub(crate) fn read(&self, file: &Path) -> Result<Model> {
        const DOING: &str = "reading model";
        let path = terminated(DOING, &file.display().to_string())?;
        let api = self.0.api;
        // SAFETY: core and path are valid; without a path of the weights they are looked for beside the model.
        let read =
            |model: *mut Object| unsafe { (api.core_read_model)(self.0.get(), path.as_ptr(), ptr::null(), model) };
        // SAFETY: the pair of functions for models.
        unsafe { api.object(DOING, api.model_free, read) }.map(Model)
    }

    /// Reads a model without weights from its text.
    pub(crate) fn read_text(&self, text: &str) -> Result<Model> {
        let api = self.0.api;
        let read = |model: *mut Object| {
            let (start, length) = (text.as_ptr().cast(), text.len());
            // SAFETY: the text is as long as said; there are no weights.
            unsafe { (api.core_read_model_from_memory_buffer)(self.0.get(), start, length, ptr::null_mut(), model) }
        };
        // SAFETY: the pair of functions for models.
        unsafe { api.object("reading model", api.model_free, read) }.map(Model)
    }

    /// Makes a model ready to run on a device, with these properties.
    pub(crate) fn compile(&self, model: &Model, device: &str, properties: &[(&str, String)]) -> Result<Compiled> {
        const DOING: &str = "loading model";
        const MOST: usize = 8;
        let device = terminated(DOING, device)?;
        let texts = properties.iter().flat_map(|(name, value)| [terminated(DOING, name), terminated(DOING, value)]);
        let texts = texts.collect::<Result<Vec<_>>>()?;
        if texts.len() > 2 * MOST {
            return Err(Failure::without(DOING, "too many properties"));
        }
        let at = |index: usize| texts.get(index).map_or(ptr::null(), |text| text.as_ptr());
        let api = self.0.api;
        let compile = |compiled: *mut Object| {
            let (core, model, device, count) = (self.0.get(), model.0.get(), device.as_ptr(), texts.len());
            // SAFETY: everything is valid through the call, which reads as many texts as it is told; there may be more.
            unsafe {
                (api.core_compile_model)(
                    core,
                    model,
                    device,
                    count,
                    compiled,
                    at(0),
                    at(1),
                    at(2),
                    at(3),
                    at(4),
                    at(5),
                    at(6),
                    at(7),
                    at(8),
                    at(9),
                    at(10),
                    at(11),
                    at(12),
                    at(13),
                    at(14),
                    at(15),
                )
            }
        };
        // SAFETY: the pair of functions for compiled models.
        unsafe { api.object(DOING, api.compiled_model_free, compile) }.map(Compiled)
    }
}
