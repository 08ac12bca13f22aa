//! The builder of TensorRT 10 and its ONNX parser: from a network to the bytes of a plan.
//!
//! Source: TensorRT's headers NvInfer.h, NvInferImpl.h and NvOnnxParser.h of version 10.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr::NonNull,
    slice,
};

use server_core::tensor::Shape;

use super::{
    Selector,
    dims::Dims64,
    logger,
    object::{Object, Virtual, call, implementation_of, method_of},
};
use crate::dylib::{Library, LoadError};

/// `nvinfer1::BuilderFlag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tensorrt) enum Flag {
    /// Layers may run in half precision.
    Fp16 = 0,
    /// Layers may run in 8 bits, as the network's quantization says.
    Int8 = 1,
    /// The plan brings a runtime that later versions can use.
    VersionCompatible = 13,
    /// Layers may run in 8-bit floats, as the network's quantization says.
    Fp8 = 15,
    /// Layers may run in brain floats.
    Bf16 = 17,
}

/// Places in the tables of version 10, checked as those of the runtime are.
mod slot {
    pub(super) const BUILDER_CONFIG: usize = 7;
    pub(super) const BUILDER_NETWORK: usize = 8;
    pub(super) const BUILDER_PROFILE: usize = 9;
    pub(super) const BUILDER_BUILD: usize = 14;
    pub(super) const CONFIG_SET_FLAG: usize = 11;
    pub(super) const CONFIG_ADD_PROFILE: usize = 25;
    pub(super) const CONFIG_MEMORY_LIMIT: usize = 43;
    pub(super) const CONFIG_LEVEL: usize = 47;
    pub(super) const CONFIG_HARDWARE: usize = 49;
    pub(super) const PROFILE_DIMENSIONS: usize = 2;
    pub(super) const NETWORK_INPUTS: usize = 14;
    pub(super) const NETWORK_INPUT: usize = 15;
    pub(super) const TENSOR_NAME: usize = 3;
    pub(super) const TENSOR_DIMENSIONS: usize = 5;
    pub(super) const MEMORY_DATA: usize = 2;
    pub(super) const MEMORY_SIZE: usize = 3;
    // of `IParser` and `IParserError`, whose tables have no destructor in front
    pub(super) const PARSER_FILE: usize = 1;
    pub(super) const PARSER_ERRORS: usize = 5;
    pub(super) const PARSER_ERROR: usize = 6;
    pub(super) const PARSER_DELETE: usize = 9;
    pub(super) const ERROR_TEXT: usize = 1;
    pub(super) const ERROR_NODE_NAME: usize = 6;
}

/// A network that becomes a plan. What is destroyed first comes first.
pub(in crate::tensorrt) struct Build {
    parser: Option<Parser>,
    config: Object,
    network: Object,
    builder: Object,
}

/// `nvonnxparser::IParser`.
struct Parser(NonNull<Virtual>);

impl Build {
    /// An empty network for the GPU of this thread. `None` if TensorRT refuses, see [`super::take_last_error`].
    ///
    /// `is_strongly_typed`: layers run in the types that the network says.
    /// Errors: the library has no builder.
    pub(in crate::tensorrt) fn new(library: &Library, is_strongly_typed: bool) -> Result<Option<Self>, LoadError> {
        type Create = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
        type Version = unsafe extern "C" fn() -> c_int;
        // SAFETY: the header declares them so; the logger is static.
        let answered = unsafe {
            let (create, version) = (
                library.function::<Create>("createInferBuilder_INTERNAL")?,
                library.function::<Version>("getInferLibVersion")?,
            );
            create(logger::logger(), version())
        };
        // SAFETY: builders, networks and configurations are ours. `INetworkDefinition* createNetworkV2(uint32_t)`,
        // `IBuilderConfig* createBuilderConfig()`.
        Ok(unsafe {
            let made = || {
                let builder = Object::of(answered)?;
                let flags = u32::from(is_strongly_typed) << 1; // kSTRONGLY_TYPED
                let network = Object::of(call!(builder, slot::BUILDER_NETWORK, fn(u32) -> *mut c_void, flags))?;
                let config = Object::of(call!(builder, slot::BUILDER_CONFIG, fn() -> *mut c_void,))?;
                Some(Self { parser: None, config, network, builder })
            };
            made()
        })
    }

    /// Reads an ONNX file into the network, with the weights that lie beside it.
    ///
    /// Errors: the parser's library cannot be used; or what the parser complains about, in its words.
    pub(in crate::tensorrt) fn parse(
        &mut self,
        library: &Library,
        file: &CStr,
    ) -> Result<Result<(), String>, LoadError> {
        type Create = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> *mut c_void;
        type Version = unsafe extern "C" fn() -> c_int;
        // SAFETY: the header declares them so; the network is live, and outlives the parser.
        let answered = unsafe {
            let create = library.function::<Create>("createNvOnnxParser_INTERNAL")?;
            let version = library.function::<Version>("getNvOnnxParserVersion")?;
            create(self.network.address(), logger::logger(), version())
        };
        let Some(parser) = NonNull::new(answered.cast::<Virtual>()) else {
            return Ok(Err("there is no parser".into()));
        };
        let parser = self.parser.insert(Parser(parser));
        Ok(if parser.parse(file) { Ok(()) } else { Err(parser.complaint()) })
    }

    /// Names and shapes of the network's inputs; -1 is any.
    pub(in crate::tensorrt) fn inputs(&self) -> Vec<(CString, Shape)> {
        // SAFETY: `int32_t getNbInputs() const`, `ITensor* getInput(int32_t) const`; of a tensor `char const* getName() const` and
        // `Dims getDimensions() const`. Tensors are the network's.
        unsafe {
            let count = call!(self.network, slot::NETWORK_INPUTS, fn() -> i32,);
            let input = |index| {
                let tensor = call!(self.network, slot::NETWORK_INPUT, fn(i32) -> *mut c_void, index);
                let tensor = implementation_of(tensor)?.as_ptr();
                let name: unsafe extern "C" fn(*mut Virtual) -> *const c_char = method_of(tensor, slot::TENSOR_NAME);
                let shape: unsafe extern "C" fn(*mut Virtual) -> Dims64 = method_of(tensor, slot::TENSOR_DIMENSIONS);
                Some((CStr::from_ptr(name(tensor)).to_owned(), shape(tensor).shape()?))
            };
            (0..count).filter_map(input).collect()
        }
    }

    /// Sets a flag.
    pub(in crate::tensorrt) fn set_flag(&mut self, flag: Flag) {
        // SAFETY: `void setFlag(BuilderFlag)`.
        unsafe { call!(self.config, slot::CONFIG_SET_FLAG, fn(c_int), flag as c_int) };
    }

    /// How much is tried for a faster plan, 0 to 5.
    pub(in crate::tensorrt) fn set_level(&mut self, level: i32) {
        // SAFETY: `void setBuilderOptimizationLevel(int32_t)`.
        unsafe { call!(self.config, slot::CONFIG_LEVEL, fn(i32), level) };
    }

    /// Most working memory of a layer on the GPU, in bytes.
    pub(in crate::tensorrt) fn set_workspace(&mut self, bytes: usize) {
        const WORKSPACE: c_int = 0; // MemoryPoolType::kWORKSPACE
        // SAFETY: `void setMemoryPoolLimit(MemoryPoolType, size_t)`.
        unsafe { call!(self.config, slot::CONFIG_MEMORY_LIMIT, fn(c_int, usize), WORKSPACE, bytes) };
    }

    /// Has the plan run on all GPUs since Ampere, not only on this kind.
    pub(in crate::tensorrt) fn run_on_many_gpus(&mut self) {
        const AMPERE_PLUS: c_int = 1; // HardwareCompatibilityLevel::kAMPERE_PLUS
        // SAFETY: `void setHardwareCompatibilityLevel(HardwareCompatibilityLevel)`.
        unsafe { call!(self.config, slot::CONFIG_HARDWARE, fn(c_int), AMPERE_PLUS) };
    }

    /// Adds a profile: smallest, best and largest shape of each input. Whether TensorRT takes it.
    pub(in crate::tensorrt) fn add_profile(&mut self, shapes: &[(CString, [Shape; 3])]) -> bool {
        // SAFETY: `IOptimizationProfile* createOptimizationProfile()`: it is the builder's. `bool setDimensions(char const*,
        // OptProfileSelector, Dims const&)`, `int32_t addOptimizationProfile(IOptimizationProfile const*)`.
        unsafe {
            let profile = call!(self.builder, slot::BUILDER_PROFILE, fn() -> *mut c_void,);
            let Some(of_profile) = implementation_of(profile).map(NonNull::as_ptr) else { return false };
            let set: unsafe extern "C" fn(*mut Virtual, *const c_char, c_int, *const Dims64) -> bool =
                method_of(of_profile, slot::PROFILE_DIMENSIONS);
            let set = |name: &CStr, which: Selector, shape: &[i64]| {
                Dims64::of(shape).is_some_and(|dims| set(of_profile, name.as_ptr(), which as c_int, &raw const dims))
            };
            shapes.iter().all(|(name, [min, opt, max])| {
                set(name, Selector::Min, min) && set(name, Selector::Opt, opt) && set(name, Selector::Max, max)
            }) && call!(self.config, slot::CONFIG_ADD_PROFILE, fn(*mut c_void) -> i32, profile) >= 0
        }
    }

    /// The plan. `None` if the network cannot be built, see [`super::take_last_error`].
    pub(in crate::tensorrt) fn build(&mut self) -> Option<Vec<u8>> {
        let (network, config) = (self.network.address(), self.config.address());
        // SAFETY: `IHostMemory* buildSerializedNetwork(INetworkDefinition&, IBuilderConfig&)`: it is ours; `void* data() const`,
        // `size_t size() const` of it.
        unsafe {
            let built =
                call!(self.builder, slot::BUILDER_BUILD, fn(*mut c_void, *mut c_void) -> *mut c_void, network, config);
            let memory = Object::of(built)?;
            let start = call!(memory, slot::MEMORY_DATA, fn() -> *const u8,);
            let length = call!(memory, slot::MEMORY_SIZE, fn() -> usize,);
            Some(slice::from_raw_parts(start, length).to_vec())
        }
    }
}

impl Parser {
    fn parse(&mut self, file: &CStr) -> bool {
        const WARNINGS: c_int = 2; // ILogger::Severity
        // SAFETY: `bool parseFromFile(char const*, int)`.
        unsafe {
            let parse: unsafe extern "C" fn(*mut Virtual, *const c_char, c_int) -> bool =
                method_of(self.0.as_ptr(), slot::PARSER_FILE);
            parse(self.0.as_ptr(), file.as_ptr(), WARNINGS)
        }
    }

    /// Its first error: what is wrong, and at which node.
    fn complaint(&self) -> String {
        let parser = self.0.as_ptr();
        // SAFETY: `int getNbErrors() const`, `IParserError const* getError(int) const`; of an error `char const* desc() const` and
        // `char const* nodeName() const`, texts that live as long as the parser.
        unsafe {
            let count: unsafe extern "C" fn(*mut Virtual) -> c_int = method_of(parser, slot::PARSER_ERRORS);
            if count(parser) == 0 {
                return super::take_last_error().unwrap_or_else(|| "the parser does not say why".into());
            }
            let error: unsafe extern "C" fn(*mut Virtual, c_int) -> *mut Virtual =
                method_of(parser, slot::PARSER_ERROR);
            let error = error(parser, 0);
            let text = |slot| {
                let text: unsafe extern "C" fn(*mut Virtual) -> *const c_char = method_of(error, slot);
                let text = text(error);
                if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
            };
            format!("{} (node '{}')", text(slot::ERROR_TEXT), text(slot::ERROR_NODE_NAME))
        }
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        // SAFETY: its deleting destructor, called once.
        unsafe {
            let destroy: unsafe extern "C" fn(*mut Virtual) = method_of(self.0.as_ptr(), slot::PARSER_DELETE);
            destroy(self.0.as_ptr());
        }
    }
}
