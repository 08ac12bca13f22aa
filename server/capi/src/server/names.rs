//! Numbers of the interface as text, and types as sizes.

use crate::abi::{
    Text,
    export::exports,
    numbers::{DataType, InstanceGroupKind, MemoryType, ParameterType, TraceActivity, TraceLevel},
};

const INVALID: &std::ffi::CStr = c"<invalid>";

exports! {
    /// The name of a type of elements.
    fn TRITONSERVER_DataTypeString(data_type: DataType) -> Text {
        Text::of(data_type.text().unwrap_or(INVALID))
    }

    /// The type of that name; `INVALID` if there is none.
    fn TRITONSERVER_StringToDataType(name: Text) -> DataType {
        let known = |name: &str| server_core::tensor::DataType::from_wire_name(name).map(DataType::of);
        name.get().ok().and_then(|name| known(&name)).unwrap_or(DataType::INVALID)
    }

    /// Bytes of one element; 0 if they differ, or there is no such type.
    fn TRITONSERVER_DataTypeByteSize(data_type: DataType) -> u32 {
        let bytes = data_type.to_core().and_then(server_core::tensor::DataType::byte_size);
        bytes.map_or(0, |bytes| u32::try_from(bytes).unwrap_or(0))
    }

    /// The name of a kind of memory.
    fn TRITONSERVER_MemoryTypeString(memory_type: MemoryType) -> Text {
        Text::of(memory_type.text().unwrap_or(INVALID))
    }

    /// The name of a kind of parameter.
    fn TRITONSERVER_ParameterTypeString(kind: ParameterType) -> Text {
        Text::of(kind.text().unwrap_or(INVALID))
    }

    /// The name of a kind of instance group.
    fn TRITONSERVER_InstanceGroupKindString(kind: InstanceGroupKind) -> Text {
        Text::of(kind.text().unwrap_or(INVALID))
    }

    /// The name of a level of traces.
    fn TRITONSERVER_InferenceTraceLevelString(level: TraceLevel) -> Text {
        Text::of(level.text().unwrap_or(c"<unknown>"))
    }

    /// The name of an activity of traces.
    fn TRITONSERVER_InferenceTraceActivityString(activity: TraceActivity) -> Text {
        Text::of(activity.text().unwrap_or(c"<unknown>"))
    }
}
