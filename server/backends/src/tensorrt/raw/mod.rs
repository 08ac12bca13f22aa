//! TensorRT's interface for C++, called through the tables of its objects: nothing of TensorRT is needed to build this, and no library
//! besides to run it.
//!
//! [`object`] has the form of objects, [`slots`] the places of their methods for each major version ([`v8`], [`v10`]); [`logger`] and
//! [`allocator`] are objects that TensorRT calls, [`build`] makes plans. Runtimes, engines and contexts are values that destroy what they stand for, in the
//! right order.
//!
//! Source: TensorRT's headers NvInferRuntime.h and NvInferImpl.h.

#![allow(unsafe_code)]

mod allocator;
mod build;
mod dims;
mod logger;
mod major;
mod object;
mod slots;
mod v10;
mod v8;

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt,
    sync::Arc,
};

use server_core::tensor::Shape;

use allocator::Allocator;
pub(super) use build::{Build, Flag};
use dims::{Dims32, Dims64};
pub(super) use logger::take_last_error;
pub(super) use major::Major;
use object::{Object, call};
use slots::{ProfileValues, Slots};

use crate::{
    cuda::{DeviceMemory, Gpu, Stream},
    dylib::{Library, LoadError},
};

/// A version of TensorRT: major, minor, patch and build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) [i32; 4]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}.{build}")
    }
}

/// How contexts get their working memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Strategy {
    /// As much as any profile needs, once.
    #[default]
    Static = 0,
    /// As much as the profile needs, when it is selected.
    OnProfileChange = 1,
}

/// Which of a profile's shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selector {
    /// The smallest.
    Min = 0,
    /// The one it is made for.
    Opt = 1,
    /// The largest.
    Max = 2,
}

/// The functions of an open library.
pub(super) struct Api {
    /// Its version.
    pub(super) version: Version,
    /// Which tables its objects have.
    pub(super) major: Major,
    slots: Slots,
    create_runtime: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    /// What `create_runtime` is told: the version as one number.
    number: c_int,
}

impl Api {
    /// The functions of libnvinfer.
    ///
    /// Errors: `Unsuitable` if it is another library, or of a version whose objects are not known.
    pub(super) fn of(library: &Library) -> Result<Self, LoadError> {
        type Number = unsafe extern "C" fn() -> c_int;
        // SAFETY: the headers of all versions declare these functions so.
        let (create_runtime, number) = unsafe {
            let number: Number = library.function("getInferLibVersion")?;
            (library.function("createInferRuntime_INTERNAL")?, number())
        };
        // SAFETY: as above; they are there since version 10.
        let part = |name| unsafe { library.function::<Number>(name).ok().map(|part| part()) };
        let parts = [
            "getInferLibMajorVersion",
            "getInferLibMinorVersion",
            "getInferLibPatchVersion",
            "getInferLibBuildVersion",
        ];
        let [major, minor, patch, build] = parts.map(part);
        // Before version 10 the number was 1000 * major + 100 * minor + patch, now it is 10000 * major + 100 * minor + patch.
        let version = match (major, minor, patch) {
            (Some(major), Some(minor), Some(patch)) => [major, minor, patch, build.unwrap_or(0)],
            _ => [number / 1000, number / 100 % 10, number % 100, 0],
        };
        let (major, slots) = match version {
            [8, minor, patch, _] if (minor, patch) >= (6, 1) => (Major::Eight, v8::SLOTS),
            [10, ..] => (Major::Ten, v10::SLOTS),
            other => {
                let reason = format!("it is TensorRT {}, this server runs plans with 8.6.1 and 10", Version(other));
                return Err(library.unsuitable(reason));
            }
        };
        Ok(Self { version: Version(version), major, slots, create_runtime, number })
    }

    /// What reads plans, for the GPU of this thread. `None` if it cannot be made, see [`take_last_error`].
    pub(super) fn runtime(&'static self) -> Option<Runtime> {
        // SAFETY: the logger is static; the answer is a runtime that is ours, or none.
        unsafe {
            let object = Object::of((self.create_runtime)(logger::logger(), self.number))?;
            Some(Runtime { api: self, object })
        }
    }
}

/// Registers the layers of TensorRT's own plugin library. Whether that went well.
///
/// Errors: it is another library.
pub(super) fn register_plugins(library: &Library) -> Result<bool, LoadError> {
    // SAFETY: the header declares it so; the logger is static.
    unsafe {
        let register: unsafe extern "C" fn(*mut c_void, *const c_char) -> bool =
            library.function("initLibNvInferPlugins")?;
        Ok(register(logger::logger(), c"".as_ptr()))
    }
}

/// Reads plans.
pub(super) struct Runtime {
    api: &'static Api,
    object: Object,
}

impl Runtime {
    /// Lets plans bring code that runs on the host: those that were built to run with other versions do.
    pub(super) fn allow_host_code(&mut self) {
        let slot = self.api.slots.runtime.allow_host_code;
        // SAFETY: `void setEngineHostCodeAllowed(bool)`.
        unsafe { call!(self.object, slot, fn(bool), true) };
    }

    /// How many deep-learning accelerators there are.
    pub(super) fn dla_cores(&self) -> i32 {
        // SAFETY: `int32_t getNbDLACores() const`.
        unsafe { call!(self.object, self.api.slots.runtime.dla_cores, fn() -> i32,) }
    }

    /// Has plans run on that one of them.
    pub(super) fn set_dla_core(&mut self, core: i32) {
        // SAFETY: `void setDLACore(int32_t)`.
        unsafe { call!(self.object, self.api.slots.runtime.set_dla_core, fn(i32), core) };
    }

    /// The engine of a plan. `None` if it is not one for this version and this GPU, see [`take_last_error`].
    pub(super) fn engine(self, plan: &[u8]) -> Option<Engine> {
        let slot = self.api.slots.runtime.deserialize;
        let (start, length) = (plan.as_ptr().cast::<c_void>(), plan.len());
        // SAFETY: `ICudaEngine* deserializeCudaEngine(void const*, size_t)`, and with a pointer to factories in version 8. The engine
        // keeps nothing of the plan's bytes.
        let object = unsafe {
            let answered = match self.api.major {
                Major::Eight => call!(
                    self.object,
                    slot,
                    fn(*const c_void, usize, *mut c_void) -> *mut c_void,
                    start,
                    length,
                    std::ptr::null_mut()
                ),
                Major::Ten => call!(self.object, slot, fn(*const c_void, usize) -> *mut c_void, start, length),
            };
            Object::of(answered)?
        };
        Some(Engine { object, runtime: self })
    }
}

/// A plan that was read, ready to run.
pub(super) struct Engine {
    object: Object,
    // after the engine
    runtime: Runtime,
}

impl Engine {
    fn slots(&self) -> &slots::EngineSlots {
        &self.runtime.api.slots.engine
    }

    /// The version's tables.
    pub(super) fn major(&self) -> Major {
        self.runtime.api.major
    }

    /// Number of inputs and outputs.
    pub(super) fn tensors(&self) -> i32 {
        // SAFETY: `int32_t getNbIOTensors() const`.
        unsafe { call!(self.object, self.slots().tensors, fn() -> i32,) }
    }

    /// Name of an input or output. `None` if there is none of that number.
    pub(super) fn tensor_name(&self, index: i32) -> Option<CString> {
        // SAFETY: `char const* getIOTensorName(int32_t) const`: null, or a text that lives as long as the engine.
        unsafe {
            let name = call!(self.object, self.slots().tensor_name, fn(i32) -> *const c_char, index);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_owned())
        }
    }

    /// Its shape; -1 is any. `None` if the rank is open.
    pub(super) fn tensor_shape(&self, name: &CStr) -> Option<Shape> {
        let slot = self.slots().tensor_shape;
        // SAFETY: `Dims getTensorShape(char const*) const`.
        unsafe {
            match self.major() {
                Major::Eight => call!(self.object, slot, fn(*const c_char) -> Dims32, name.as_ptr()).shape(),
                Major::Ten => call!(self.object, slot, fn(*const c_char) -> Dims64, name.as_ptr()).shape(),
            }
        }
    }

    fn number(&self, slot: usize, name: &CStr) -> i32 {
        // SAFETY: callers pass slots of `int32_t method(char const*) const`, or of an enum of that size.
        unsafe { call!(self.object, slot, fn(*const c_char) -> i32, name.as_ptr()) }
    }

    /// Its element type, `nvinfer1::DataType`.
    pub(super) fn tensor_type(&self, name: &CStr) -> i32 {
        self.number(self.slots().tensor_type, name)
    }

    /// Whether it is an input.
    pub(super) fn is_input(&self, name: &CStr) -> bool {
        self.number(self.slots().tensor_mode, name) == 1
    }

    /// Whether it lies in host memory.
    pub(super) fn is_on_host(&self, name: &CStr) -> bool {
        self.number(self.slots().tensor_location, name) == 1
    }

    /// Whether shapes are computed from its values, or it is computed from shapes.
    pub(super) fn is_shape(&self, name: &CStr) -> bool {
        // SAFETY: `bool isShapeInferenceIO(char const*) const`.
        unsafe { call!(self.object, self.slots().is_shape, fn(*const c_char) -> bool, name.as_ptr()) }
    }

    fn number_in(&self, profile: i32, slot: usize, name: &CStr) -> i32 {
        // SAFETY: callers pass slots of `int32_t method(char const*, int32_t profile) const`, or of an enum of that size.
        unsafe { call!(self.object, slot, fn(*const c_char, i32) -> i32, name.as_ptr(), profile) }
    }

    /// How its elements lie in memory in a profile, `nvinfer1::TensorFormat`.
    pub(super) fn tensor_format(&self, name: &CStr, profile: i32) -> i32 {
        self.number_in(profile, self.slots().tensor_format, name)
    }

    /// The dimension whose elements are kept together in a profile, and how many of them; -1 for none.
    pub(super) fn vectorized(&self, name: &CStr, profile: i32) -> (i32, i32) {
        let slots = self.slots();
        let [dimension, components] =
            [slots.tensor_vectorized_dim, slots.tensor_components].map(|slot| self.number_in(profile, slot, name));
        (dimension, components)
    }

    /// Number of optimization profiles.
    pub(super) fn profiles(&self) -> i32 {
        // SAFETY: `int32_t getNbOptimizationProfiles() const`.
        unsafe { call!(self.object, self.slots().profiles, fn() -> i32,) }
    }

    /// Whether batches are no dimension of its tensors, as in plans from before version 8.5.
    pub(super) fn has_implicit_batch(&self) -> bool {
        // SAFETY: `bool hasImplicitBatchDimension() const`.
        unsafe { call!(self.object, self.slots().has_implicit_batch, fn() -> bool,) }
    }

    /// Working memory of one context on the GPU, in bytes.
    pub(super) fn context_memory(&self) -> usize {
        // SAFETY: `size_t getDeviceMemorySize() const`.
        unsafe { call!(self.object, self.slots().device_memory, fn() -> usize,) }
    }

    /// A shape of an input in a profile.
    pub(super) fn profile_shape(&self, name: &CStr, profile: i32, which: Selector) -> Option<Shape> {
        let (slot, which) = (self.slots().profile_shape, which as i32);
        // SAFETY: `Dims getProfileShape(char const*, int32_t, OptProfileSelector) const`.
        unsafe {
            match self.major() {
                Major::Eight => {
                    call!(self.object, slot, fn(*const c_char, i32, i32) -> Dims32, name.as_ptr(), profile, which)
                        .shape()
                }
                Major::Ten => {
                    call!(self.object, slot, fn(*const c_char, i32, i32) -> Dims64, name.as_ptr(), profile, which)
                        .shape()
                }
            }
        }
    }

    /// The values of a shape tensor in a profile, `count` of them.
    pub(super) fn profile_values(&self, name: &CStr, profile: i32, which: Selector, count: usize) -> Option<Vec<i64>> {
        let which = which as i32;
        let minor = self.runtime.api.version.0[1];
        // SAFETY: the methods that `ProfileValues` names; they answer null, or `count` values that live as long as the engine.
        unsafe {
            let (narrow, wide) = match self.slots().profile_values {
                ProfileValues::ByBinding { binding, values } => {
                    let binding = self.number(binding, name);
                    let narrow = call!(self.object, values, fn(i32, i32, i32) -> *const i32, profile, binding, which);
                    (narrow, std::ptr::null())
                }
                ProfileValues::ByName { narrow, wide, since } => {
                    let has_wide = minor >= since;
                    let wide = if has_wide { self.values(wide, name, profile, which) } else { std::ptr::null::<i64>() };
                    // A plan whose builder was told 32 bits each has none of 64.
                    let narrow = if wide.is_null() {
                        self.values(narrow, name, profile, which)
                    } else {
                        std::ptr::null::<i32>()
                    };
                    (narrow, wide)
                }
            };
            if !wide.is_null() {
                return Some(std::slice::from_raw_parts(wide, count).to_vec());
            }
            let narrow = (!narrow.is_null()).then(|| std::slice::from_raw_parts(narrow, count));
            narrow.map(|values| values.iter().map(|&value| i64::from(value)).collect())
        }
    }

    /// # Safety
    /// The slot is of a method `T const* method(char const*, int32_t, OptProfileSelector) const`.
    unsafe fn values<T>(&self, slot: usize, name: &CStr, profile: i32, which: i32) -> *const T {
        // SAFETY: as the caller says.
        unsafe { call!(self.object, slot, fn(*const c_char, i32, i32) -> *const T, name.as_ptr(), profile, which) }
    }

    /// What runs it. `None` if there is not enough memory, see [`take_last_error`].
    pub(super) fn context(self: &Arc<Self>, strategy: Strategy) -> Option<Context> {
        let slot = self.slots().create_context;
        // SAFETY: `IExecutionContext* createExecutionContext()`, with a strategy since version 10; the answer is ours, or none.
        unsafe {
            let answered = match self.major() {
                Major::Eight => call!(self.object, slot, fn() -> *mut c_void,),
                Major::Ten => call!(self.object, slot, fn(i32) -> *mut c_void, strategy as i32),
            };
            Some(Context { object: Object::of(answered)?, allocators: Vec::new(), engine: self.clone() })
        }
    }
}

/// What runs an engine: one run at a time, in the order of one stream.
pub(super) struct Context {
    object: Object,
    // after the context
    allocators: Vec<(CString, Allocator)>,
    engine: Arc<Engine>,
}

impl Context {
    fn slots(&self) -> &slots::ContextSlots {
        &self.engine.runtime.api.slots.context
    }

    /// Chooses the profile of the runs that follow on that stream. Whether there is such a profile.
    pub(super) fn set_profile(&mut self, profile: i32, stream: &Stream) -> bool {
        // SAFETY: `bool setOptimizationProfileAsync(int32_t, cudaStream_t)`.
        unsafe { call!(self.object, self.slots().set_profile, fn(i32, *mut c_void) -> bool, profile, stream.handle()) }
    }

    /// Says the shape of an input. Whether the profile allows it.
    pub(super) fn set_input_shape(&mut self, name: &CStr, shape: &[i64]) -> bool {
        let slot = self.slots().set_input_shape;
        // SAFETY: `bool setInputShape(char const*, Dims const&)`.
        unsafe {
            match self.engine.major() {
                Major::Eight => Dims32::of(shape).is_some_and(|dims| {
                    call!(self.object, slot, fn(*const c_char, *const Dims32) -> bool, name.as_ptr(), &raw const dims)
                }),
                Major::Ten => Dims64::of(shape).is_some_and(|dims| {
                    call!(self.object, slot, fn(*const c_char, *const Dims64) -> bool, name.as_ptr(), &raw const dims)
                }),
            }
        }
    }

    /// Whether all shapes of inputs and values of shape tensors are known.
    pub(super) fn knows_shapes(&mut self) -> bool {
        // SAFETY: `int32_t inferShapes(int32_t, char const**)`: how many inputs lack theirs.
        unsafe {
            call!(self.object, self.slots().infer_shapes, fn(i32, *mut *const c_char) -> i32, 0, std::ptr::null_mut())
                == 0
        }
    }

    /// The shape of an output for the shapes of inputs that were said; -1 where it depends on data.
    pub(super) fn tensor_shape(&self, name: &CStr) -> Option<Shape> {
        let slot = self.slots().tensor_shape;
        // SAFETY: `Dims getTensorShape(char const*) const`.
        unsafe {
            match self.engine.major() {
                Major::Eight => call!(self.object, slot, fn(*const c_char) -> Dims32, name.as_ptr()).shape(),
                Major::Ten => call!(self.object, slot, fn(*const c_char) -> Dims64, name.as_ptr()).shape(),
            }
        }
    }

    /// The most bytes that an output takes for the shapes of inputs that were said.
    pub(super) fn max_output_size(&self, name: &CStr) -> Option<usize> {
        // SAFETY: `int64_t getMaxOutputSize(char const*) const`: -1 if it is not known.
        let size = unsafe { call!(self.object, self.slots().max_output_size, fn(*const c_char) -> i64, name.as_ptr()) };
        usize::try_from(size).ok()
    }

    /// Says where a tensor lies: on the GPU, or on the host for one that [is there](Engine::is_on_host).
    ///
    /// # Safety
    /// So many bytes as the tensor has lie there until the run has ended, and nobody else writes them.
    pub(super) unsafe fn set_address(&mut self, name: &CStr, address: u64) -> bool {
        // SAFETY: `bool setTensorAddress(char const*, void*)`; the rest is the caller's.
        unsafe { call!(self.object, self.slots().set_address, fn(*const c_char, u64) -> bool, name.as_ptr(), address) }
    }

    /// Has an output's memory allocated on the GPU while the context runs: for one whose size depends on data. Whether it takes that.
    pub(super) fn allocate_output(&mut self, name: &CStr, gpu: &Arc<Gpu>) -> bool {
        let mut allocator = Allocator::new(self.engine.major(), gpu);
        let (slot, address) = (self.slots().set_allocator, allocator.address());
        self.allocators.push((name.to_owned(), allocator));
        // SAFETY: `bool setOutputAllocator(char const*, IOutputAllocator*)`; the allocator goes after the context.
        unsafe { call!(self.object, slot, fn(*const c_char, *mut c_void) -> bool, name.as_ptr(), address) }
    }

    /// Memory and shape of such an output after a run.
    pub(super) fn allocated(&self, name: &CStr) -> Option<(&DeviceMemory, &Shape)> {
        self.allocators.iter().find(|(known, _)| **known == *name).and_then(|(_, allocator)| allocator.output())
    }

    /// Gives a run to the stream. `false` if something is missing or went wrong, see [`take_last_error`].
    pub(super) fn enqueue(&mut self, stream: &Stream) -> bool {
        // SAFETY: `bool enqueueV3(cudaStream_t)`; where tensors lie was said by those who vouch for it.
        unsafe { call!(self.object, self.slots().enqueue, fn(*mut c_void) -> bool, stream.handle()) }
    }
}
