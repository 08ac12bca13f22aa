//! Where the methods of TensorRT's objects lie in their tables, one file for each major version.
//!
//! TensorRT has an interface for C++ alone. Its objects are pairs of a table of their own and a pointer to an implementation, whose table
//! has the methods in the order of `NvInferImpl.h`, behind the two entries of the destructor (Itanium C++ ABI, which Linux uses on x86-64
//! and aarch64). New methods come last within a major version, so a table serves all its minor versions. The numbers are those that a
//! compiler gives the headers.

/// The methods that this backend calls, each by its place in the table of its class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    pub(super) runtime: RuntimeSlots,
    pub(super) engine: EngineSlots,
    pub(super) context: ContextSlots,
}

/// `apiv::VRuntime`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RuntimeSlots {
    /// `deserializeCudaEngine(void const*, size_t)`; version 8 has a third argument, a null pointer.
    pub(super) deserialize: usize,
    /// `setDLACore(int32_t)`.
    pub(super) set_dla_core: usize,
    /// `getNbDLACores()`.
    pub(super) dla_cores: usize,
    /// `setEngineHostCodeAllowed(bool)`.
    pub(super) allow_host_code: usize,
}

/// `apiv::VCudaEngine`.
#[derive(Debug, Clone, Copy)]
pub(super) struct EngineSlots {
    /// `createExecutionContext(ExecutionContextAllocationStrategy)`; version 8 has no argument.
    pub(super) create_context: usize,
    /// `getDeviceMemorySize()`.
    pub(super) device_memory: usize,
    /// `getNbOptimizationProfiles()`.
    pub(super) profiles: usize,
    /// `hasImplicitBatchDimension()`.
    pub(super) has_implicit_batch: usize,
    /// `getNbIOTensors()`.
    pub(super) tensors: usize,
    /// `getIOTensorName(int32_t)`.
    pub(super) tensor_name: usize,
    /// `getTensorShape(char const*)`.
    pub(super) tensor_shape: usize,
    /// `getTensorDataType(char const*)`.
    pub(super) tensor_type: usize,
    /// `getTensorLocation(char const*)`.
    pub(super) tensor_location: usize,
    /// `isShapeInferenceIO(char const*)`.
    pub(super) is_shape: usize,
    /// `getTensorIOMode(char const*)`.
    pub(super) tensor_mode: usize,
    /// `getTensorFormatV2(char const*, int32_t)`.
    pub(super) tensor_format: usize,
    /// `getTensorComponentsPerElementV2(char const*, int32_t)`.
    pub(super) tensor_components: usize,
    /// `getTensorVectorizedDimV2(char const*, int32_t)`.
    pub(super) tensor_vectorized_dim: usize,
    /// `getProfileShape(char const*, int32_t, OptProfileSelector)`.
    pub(super) profile_shape: usize,
    /// Values of shape tensors in a profile.
    pub(super) profile_values: ProfileValues,
}

/// How a profile says the values of shape tensors.
#[derive(Debug, Clone, Copy)]
pub(super) enum ProfileValues {
    /// `getProfileShapeValues(int32_t profile, int32_t binding, OptProfileSelector)` of 32 bits each, the binding by
    /// `getBindingIndex(char const*)`.
    ByBinding { binding: usize, values: usize },
    /// `getProfileTensorValues(char const*, int32_t, OptProfileSelector)` of 32 bits each, and since `since` (minor version)
    /// `getProfileTensorValuesV2` of 64.
    ByName { narrow: usize, wide: usize, since: i32 },
}

/// `apiv::VExecutionContext`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContextSlots {
    /// `setOptimizationProfileAsync(int32_t, cudaStream_t)`.
    pub(super) set_profile: usize,
    /// `setInputShape(char const*, Dims const&)`.
    pub(super) set_input_shape: usize,
    /// `getTensorShape(char const*)`.
    pub(super) tensor_shape: usize,
    /// `setTensorAddress(char const*, void*)`.
    pub(super) set_address: usize,
    /// `inferShapes(int32_t, char const**)`.
    pub(super) infer_shapes: usize,
    /// `setOutputAllocator(char const*, IOutputAllocator*)`.
    pub(super) set_allocator: usize,
    /// `getMaxOutputSize(char const*)`.
    pub(super) max_output_size: usize,
    /// `enqueueV3(cudaStream_t)`.
    pub(super) enqueue: usize,
}
