//! TensorRT 8.6.1.

use super::slots::{ContextSlots, EngineSlots, ProfileValues, RuntimeSlots, Slots};

/// Checked against the headers of 8.6.1.
pub(super) const SLOTS: Slots = Slots {
    runtime: RuntimeSlots { deserialize: 2, set_dla_core: 3, dla_cores: 5, allow_host_code: 20 },
    engine: EngineSlots {
        create_context: 11,
        device_memory: 14,
        profiles: 22,
        has_implicit_batch: 30,
        tensor_shape: 34,
        tensor_type: 35,
        tensor_location: 36,
        is_shape: 37,
        tensor_mode: 38,
        profile_shape: 44,
        tensors: 45,
        tensor_name: 46,
        tensor_components: 51,
        tensor_format: 52,
        tensor_vectorized_dim: 54,
        profile_values: ProfileValues::ByBinding { binding: 3, values: 24 },
    },
    context: ContextSlots {
        set_profile: 25,
        set_input_shape: 29,
        tensor_shape: 30,
        set_address: 32,
        infer_shapes: 35,
        set_allocator: 39,
        max_output_size: 41,
        enqueue: 44,
    },
};
