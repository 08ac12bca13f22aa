//! The calls into the shim: the functions and structures of `deploy/shims/torch/triton_torch_shim.h`. All of this backend's unsafe
//! code is here, behind functions that are safe to call.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_void},
    fmt,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::{self, NonNull},
    slice,
};

use bytes::Bytes;
use server_core::{
    backend::Device,
    tensor::{DataType, Shape, byte_count, shape_text},
};
use smallvec::SmallVec;

use super::types;
use crate::{
    dylib::{Library, LoadError},
    native::Fed,
};

/// `TRITON_TORCH_INTERFACE` of the header.
pub(super) const INTERFACE: u32 = 1;

const CPU: i32 = -1;
const AS_SAVED: i32 = -2;

/// What libtorch says when a call fails, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure(pub(super) String);

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How runs of a module are made; what is `None` libtorch decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Modes {
    /// Graphs are optimized.
    pub(super) is_optimized: bool,
    /// Tensors keep nothing for gradients.
    pub(super) has_inference_mode: bool,
    /// cuDNN is used.
    pub(super) has_cudnn: bool,
    /// The executor of scripts learns from runs.
    pub(super) jit_profiling: Option<bool>,
    /// That executor is used.
    pub(super) jit_executor: Option<bool>,
    /// Operations on tensors are fused.
    pub(super) tensor_fuser: Option<bool>,
    /// After each run the GPU gets back what libtorch does not use.
    pub(super) cleans_cache: bool,
}

// === The header ===

#[repr(C)]
struct RawModes {
    optimized: i32,
    inference_mode: i32,
    cudnn: i32,
    jit_profiling: i32,
    jit_executor: i32,
    tensor_fuser: i32,
    cleans_cache: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawText {
    start: *const c_char,
    length: usize,
}

#[repr(C)]
struct RawInput {
    key: *const c_char,
    data_type: i32,
    rank: usize,
    shape: *const i64,
    data: *const c_void,
    texts: *const RawText,
}

#[repr(C)]
struct RawDescription {
    data_type: i32,
    rank: usize,
    shape: *const i64,
    data: *const c_void,
    bytes: usize,
}

#[repr(C)]
struct RawModule {
    _private: [u8; 0],
}

#[repr(C)]
struct RawOutput {
    _private: [u8; 0],
}

type Load = unsafe extern "C" fn(*const c_char, i32, *const RawModes, *mut *mut RawModule) -> *mut c_char;
type Run = unsafe extern "C" fn(
    *const RawModule,
    *const RawInput,
    usize,
    *const usize,
    usize,
    *mut *mut RawOutput,
    *mut usize,
) -> *mut c_char;

/// Declares the functions that every shim of this interface exports, and finds them.
macro_rules! functions {
    ($($field:ident = $symbol:literal: $type:ty),+ $(,)?) => {
        #[derive(Debug)]
        struct Functions { $($field: $type),+ }

        impl Functions {
            fn of(library: &Library) -> Result<Self, LoadError> {
                // SAFETY: the header declares these names with these types, in the version of the interface that was asked for before.
                Ok(unsafe { Self { $($field: library.function::<$type>($symbol)?),+ } })
            }
        }
    };
}

functions! {
    compiled_for = "triton_torch_compiled_for": unsafe extern "C" fn() -> *const c_char,
    found = "triton_torch_found": unsafe extern "C" fn() -> *const c_char,
    has_aoti = "triton_torch_has_aoti": unsafe extern "C" fn() -> i32,
    gpu_count = "triton_torch_gpu_count": unsafe extern "C" fn() -> i32,
    intra_op_threads = "triton_torch_intra_op_threads": unsafe extern "C" fn() -> i32,
    set_intra_op_threads = "triton_torch_set_intra_op_threads": unsafe extern "C" fn(i32) -> *mut c_char,
    set_inter_op_threads = "triton_torch_set_inter_op_threads": unsafe extern "C" fn(i32) -> *mut c_char,
    on_warning = "triton_torch_on_warning": unsafe extern "C" fn(extern "C" fn(*const c_char, usize)),
    free_text = "triton_torch_free_text": unsafe extern "C" fn(*mut c_char),
    load_script = "triton_torch_load_script": Load,
    load_package = "triton_torch_load_package": Load,
    unload = "triton_torch_unload": unsafe extern "C" fn(*mut RawModule),
    argument_count = "triton_torch_argument_count": unsafe extern "C" fn(*const RawModule) -> usize,
    argument_name = "triton_torch_argument_name": unsafe extern "C" fn(*const RawModule, usize) -> *const c_char,
    argument_type = "triton_torch_argument_type": unsafe extern "C" fn(*const RawModule, usize) -> *const c_char,
    call_spec = "triton_torch_call_spec": unsafe extern "C" fn(*const RawModule, usize) -> *const c_char,
    weight_bytes = "triton_torch_weight_bytes": unsafe extern "C" fn(*const RawModule, i32) -> u64,
    run = "triton_torch_run": Run,
    describe = "triton_torch_describe": unsafe extern "C" fn(*const RawOutput, *mut RawDescription),
    string = "triton_torch_string": unsafe extern "C" fn(*const RawOutput, usize) -> RawText,
    free_output = "triton_torch_free_output": unsafe extern "C" fn(*mut RawOutput),
}

/// The version of the interface of an opened library.
///
/// Errors: `Unsuitable` if it is no shim.
pub(super) fn interface(library: &Library) -> Result<u32, LoadError> {
    // SAFETY: the header declares `uint32_t triton_torch_interface(void)` in every version.
    let interface = unsafe { library.function::<unsafe extern "C" fn() -> u32>("triton_torch_interface")? };
    // SAFETY: it takes nothing and touches nothing.
    Ok(unsafe { interface() })
}

// === The library ===

/// An opened shim of this interface.
#[derive(Debug)]
pub(super) struct Shim {
    functions: Functions,
}

impl Shim {
    /// Its functions. libtorch's warnings come to the log of the server from now on.
    ///
    /// Errors: `Unsuitable` if one is missing.
    pub(super) fn of(library: &Library) -> Result<Self, LoadError> {
        let functions = Functions::of(library)?;
        // SAFETY: the function stays where it is, and may be called by any thread.
        unsafe { (functions.on_warning)(warn) };
        Ok(Self { functions })
    }

    /// The version of libtorch that it was compiled for.
    pub(super) fn compiled_for(&self) -> String {
        // SAFETY: answers a static, terminated string.
        unsafe { owned_text((self.functions.compiled_for)()) }
    }

    /// The version of libtorch that the loader has found.
    pub(super) fn found(&self) -> String {
        // SAFETY: answers a terminated string that is written by the first call alone; calls are made under a lock.
        unsafe { owned_text((self.functions.found)()) }
    }

    /// Whether it reads packages of AOTInductor.
    pub(super) fn has_packages(&self) -> bool {
        // SAFETY: takes nothing and touches nothing.
        unsafe { (self.functions.has_aoti)() != 0 }
    }

    /// How many GPUs libtorch can use.
    pub(super) fn gpu_count(&self) -> u32 {
        // SAFETY: may be called at any time.
        u32::try_from(unsafe { (self.functions.gpu_count)() }).unwrap_or(0)
    }

    /// Threads within an operation.
    pub(super) fn intra_op_threads(&self) -> i32 {
        // SAFETY: may be called at any time.
        unsafe { (self.functions.intra_op_threads)() }
    }

    /// Changes that number.
    pub(super) fn set_intra_op_threads(&self, count: i32) -> Result<(), Failure> {
        // SAFETY: may be called at any time; a number that is none fails.
        self.check(unsafe { (self.functions.set_intra_op_threads)(count) })
    }

    /// Sets the number of threads between operations.
    ///
    /// Errors: they have been started.
    pub(super) fn set_inter_op_threads(&self, count: i32) -> Result<(), Failure> {
        // SAFETY: may be called at any time; a number that is none fails.
        self.check(unsafe { (self.functions.set_inter_op_threads)(count) })
    }

    /// Reads a TorchScript file.
    pub(super) fn load_script(&'static self, file: &Path, device: Device, modes: &Modes) -> Result<Module, Failure> {
        self.load(self.functions.load_script, file, device, modes)
    }

    /// Reads a package of AOTInductor.
    pub(super) fn load_package(&'static self, file: &Path, device: Device, modes: &Modes) -> Result<Module, Failure> {
        self.load(self.functions.load_package, file, device, modes)
    }

    fn load(&'static self, load: Load, file: &Path, device: Device, modes: &Modes) -> Result<Module, Failure> {
        let path = CString::new(file.as_os_str().as_bytes());
        let path = path.map_err(|_| Failure(format!("the path {} contains a zero byte", file.display())))?;
        let number = |mode: Option<bool>| mode.map_or(-1, i32::from);
        let modes = RawModes {
            optimized: modes.is_optimized.into(),
            inference_mode: modes.has_inference_mode.into(),
            cudnn: modes.has_cudnn.into(),
            jit_profiling: number(modes.jit_profiling),
            jit_executor: number(modes.jit_executor),
            tensor_fuser: number(modes.tensor_fuser),
            cleans_cache: modes.cleans_cache.into(),
        };
        let mut module = ptr::null_mut();
        // SAFETY: path and modes live through the call, which copies them; a new module is written.
        self.check(unsafe { load(path.as_ptr(), device_number(device), &modes, &mut module) })?;
        let pointer = NonNull::new(module).ok_or_else(|| Failure("no module came back".into()))?;
        Ok(Module { shim: self, pointer })
    }

    /// Takes the text of an error and gives it back.
    fn check(&self, text: *mut c_char) -> Result<(), Failure> {
        if text.is_null() {
            return Ok(());
        }
        // SAFETY: a text is terminated, and the caller's until it is given back, once.
        unsafe {
            let failure = Failure(owned_text(text).trim_end().to_owned());
            (self.functions.free_text)(text);
            Err(failure)
        }
    }
}

const fn device_number(device: Device) -> i32 {
    match device {
        Device::Cpu => CPU,
        Device::Gpu(id) => id.cast_signed(),
        Device::Model => AS_SAVED,
    }
}

/// SAFETY: the text is terminated, and nobody changes it during the call.
unsafe fn owned_text(text: *const c_char) -> String {
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// libtorch's warnings in the server's log.
extern "C" fn warn(text: *const c_char, length: usize) {
    // SAFETY: the shim passes that many bytes, which live through the call.
    let text = unsafe { slice::from_raw_parts(text.cast::<u8>(), length) };
    tracing::warn!(target: "pytorch", "{}", String::from_utf8_lossy(text).trim_end());
}

// === Modules ===

/// A loaded model file.
#[derive(Debug)]
pub(super) struct Module {
    shim: &'static Shim,
    pointer: NonNull<RawModule>,
}

// SAFETY: the header says that modules may be run, and so read, by several threads at once, and given back by any.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// One input of a run, in the order of the module's arguments.
pub(super) struct Given<'a> {
    /// Its key, where the module takes a dictionary.
    pub(super) key: Option<&'a CStr>,
    /// What it is.
    pub(super) value: &'a Fed<'a>,
}

/// The outputs of one run that were asked for, and how many there are. More than eight cost an allocation.
pub(super) struct Outputs {
    /// `None` for one that there is not.
    pub(super) wanted: SmallVec<[Option<Output>; 8]>,
    /// All of them.
    pub(super) count: usize,
}

impl Module {
    /// Names and types of the arguments of a script.
    pub(super) fn arguments(&self) -> Vec<(String, String)> {
        let Functions { argument_count, argument_name, argument_type, .. } = &self.shim.functions;
        // SAFETY: the module is valid; the texts are terminated and live as long as it.
        unsafe {
            let argument = |index| {
                let (name, word) =
                    (argument_name(self.pointer.as_ptr(), index), argument_type(self.pointer.as_ptr(), index));
                (owned_text(name), owned_text(word))
            };
            (0..argument_count(self.pointer.as_ptr())).map(argument).collect()
        }
    }

    /// The trees of a package's inputs and outputs, in JSON.
    pub(super) fn call_spec(&self) -> (String, String) {
        // SAFETY: the module is valid; the texts are terminated and live as long as it.
        let part = |index| unsafe { owned_text((self.shim.functions.call_spec)(self.pointer.as_ptr(), index)) };
        (part(0), part(1))
    }

    /// Bytes of a script's parameters and buffers on a device.
    pub(super) fn weight_bytes(&self, device: Device) -> u64 {
        // SAFETY: the module is valid.
        unsafe { (self.shim.functions.weight_bytes)(self.pointer.as_ptr(), device_number(device)) }
    }

    /// Runs the module on all its inputs, and answers the outputs of these indexes.
    ///
    /// Errors: whatever the model finds wrong. The module is as good as before.
    pub(super) fn run(&self, inputs: &[Given<'_>], wanted: &[usize]) -> Result<Outputs, Failure> {
        let mut texts: SmallVec<[Vec<RawText>; 1]> = SmallVec::new(); // inputs point to their elements, which do not move
        let mut raw: SmallVec<[RawInput; 8]> = SmallVec::with_capacity(inputs.len());
        for Given { key, value } in inputs {
            let mut input = RawInput {
                key: key.map_or(ptr::null(), CStr::as_ptr),
                data_type: types::number(type_of(value)),
                rank: shape_of(value).len(),
                shape: shape_of(value).as_ptr(),
                data: ptr::null(),
                texts: ptr::null(),
            };
            match value {
                Fed::Numbers { data_type, shape, bytes } => {
                    let size = data_type.byte_size().unwrap_or(1);
                    if byte_count(*data_type, shape) != Some(bytes.len()) {
                        let text = format!(
                            "{} bytes are not a {data_type} tensor of shape {}",
                            bytes.len(),
                            shape_text(shape)
                        );
                        return Err(Failure(text));
                    }
                    if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(size) {
                        return Err(Failure("the bytes of an input are not aligned to their type".into()));
                    }
                    input.data = bytes.as_ptr().cast();
                }
                Fed::Strings { shape, elements } => {
                    let text = |text: &[u8]| RawText { start: text.as_ptr().cast(), length: text.len() };
                    let elements: Vec<RawText> = elements.iter().map(text).collect();
                    if shape.len() != 1 || usize::try_from(shape[0]) != Ok(elements.len()) {
                        let (count, shape) = (elements.len(), shape_text(shape));
                        return Err(Failure(format!("{count} strings are not a list of shape {shape}")));
                    }
                    input.texts = elements.as_ptr();
                    texts.push(elements);
                }
            }
            raw.push(input);
        }
        let mut outputs: SmallVec<[*mut RawOutput; 8]> = SmallVec::from_elem(ptr::null_mut(), wanted.len());
        let mut count = 0;
        // SAFETY: the lists are as long as said and live through the call, as does all that inputs point to; each has as many bytes as
        // type and shape ask for, or as many strings, as was checked above. Outputs are written where there is room for each of them.
        let failed = unsafe {
            (self.shim.functions.run)(
                self.pointer.as_ptr(),
                raw.as_ptr(),
                raw.len(),
                wanted.as_ptr(),
                wanted.len(),
                outputs.as_mut_ptr(),
                &mut count,
            )
        };
        drop(texts);
        let wanted =
            outputs.into_iter().map(|output| NonNull::new(output).map(|pointer| Output::of(self.shim, pointer)));
        let wanted = wanted.collect();
        self.shim.check(failed)?;
        Ok(Outputs { wanted, count })
    }
}

const fn type_of(value: &Fed<'_>) -> DataType {
    match value {
        Fed::Numbers { data_type, .. } => *data_type,
        Fed::Strings { .. } => DataType::Bytes,
    }
}

fn shape_of<'a>(value: &'a Fed<'_>) -> &'a [i64] {
    match value {
        Fed::Numbers { shape, .. } | Fed::Strings { shape, .. } => shape,
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the module is owned and given back once.
        unsafe { (self.shim.functions.unload)(self.pointer.as_ptr()) }
    }
}

// === Outputs ===

/// One output of a run, in host memory, which is its own.
#[derive(Debug)]
pub(super) struct Output {
    shim: &'static Shim,
    pointer: NonNull<RawOutput>,
    /// libtorch's number.
    pub(super) number: i32,
    /// Of the whole batch.
    pub(super) shape: Shape,
    start: *const u8,
    length: usize,
}

// SAFETY: the tensor or list is nobody else's, is only read, and may be given back by any thread.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    fn of(shim: &'static Shim, pointer: NonNull<RawOutput>) -> Self {
        let nothing = RawDescription { data_type: 0, rank: 0, shape: ptr::null(), data: ptr::null(), bytes: 0 };
        let mut described = nothing;
        // SAFETY: the output is valid; the call fills the description in.
        unsafe { (shim.functions.describe)(pointer.as_ptr(), &mut described) };
        let RawDescription { data_type: number, rank, shape, data, bytes } = described;
        // SAFETY: the shape has `rank` extents, and lives as long as the output.
        let shape = if rank == 0 { Shape::new() } else { unsafe { slice::from_raw_parts(shape, rank) }.into() };
        Self { shim, pointer, number, shape, start: data.cast(), length: if data.is_null() { 0 } else { bytes } }
    }

    /// Its elements, row by row; nothing of strings.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: start and length are those of the tensor's own memory, which lives as long as the output and is not written to.
        unsafe { slice::from_raw_parts(self.start, self.length) }
    }

    /// The same, shared: the tensor lives until the last holder drops them.
    pub(super) fn into_bytes(self) -> Bytes {
        if self.length == 0 { Bytes::new() } else { Bytes::from_owner(Kept(self)) }
    }

    /// The string of that index in a list.
    pub(super) fn string(&self, index: usize) -> &[u8] {
        // SAFETY: the output is valid; the text lives as long as it.
        let text = unsafe { (self.shim.functions.string)(self.pointer.as_ptr(), index) };
        if text.length == 0 {
            return &[];
        }
        // SAFETY: as above.
        unsafe { slice::from_raw_parts(text.start.cast(), text.length) }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: the output is owned and given back once.
        unsafe { (self.shim.functions.free_output)(self.pointer.as_ptr()) }
    }
}

/// An output that somebody still reads.
struct Kept(Output);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}
