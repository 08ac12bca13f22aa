//! TensorRT 10.

use super::slots::{ContextSlots, EngineSlots, ProfileValues, RuntimeSlots, Slots};

/// Checked against the headers of 10.0, 10.11, 10.15 and 10.16.
pub(super) const SLOTS: Slots = Slots {
    runtime: RuntimeSlots { deserialize: 3, set_dla_core: 5, dla_cores: 7, allow_host_code: 21 },
    engine: EngineSlots {
        create_context: 5,
        device_memory: 7,
        profiles: 10,
        has_implicit_batch: 15,
        tensor_shape: 19,
        tensor_type: 20,
        tensor_location: 21,
        is_shape: 22,
        tensor_mode: 23,
        profile_shape: 29,
        tensors: 30,
        tensor_name: 31,
        tensor_components: 35,
        tensor_format: 36,
        tensor_vectorized_dim: 38,
        profile_values: ProfileValues::ByName { narrow: 11, wide: 54, since: 11 },
    },
    context: ContextSlots {
        set_profile: 17,
        set_input_shape: 21,
        tensor_shape: 22,
        set_address: 24,
        infer_shapes: 28,
        set_allocator: 32,
        max_output_size: 34,
        enqueue: 37,
    },
};
