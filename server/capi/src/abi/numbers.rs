//! Enumerations of the C headers, by value. They are numbers and no Rust enums, for a library may pass any.

use server_core::{error::Code, tensor::DataType as CoreDataType};

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident { $($constant:ident = $value:literal $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) u32);

        #[allow(dead_code)] // the whole enumeration, as the header has it
        impl $name {
            $(pub(crate) const $constant: Self = Self($value);)+

            /// The name that users read; `None` for a number that the header does not have.
            pub(crate) fn text(self) -> Option<&'static std::ffi::CStr> {
                match self.0 {
                    $($value => Some($text),)+
                    _ => None,
                }
            }
        }
    )+};
}

numbers! {
    /// `TRITONSERVER_DataType`.
    DataType {
        INVALID = 0 c"<invalid>",
        BOOL = 1 c"BOOL",
        UINT8 = 2 c"UINT8",
        UINT16 = 3 c"UINT16",
        UINT32 = 4 c"UINT32",
        UINT64 = 5 c"UINT64",
        INT8 = 6 c"INT8",
        INT16 = 7 c"INT16",
        INT32 = 8 c"INT32",
        INT64 = 9 c"INT64",
        FP16 = 10 c"FP16",
        FP32 = 11 c"FP32",
        FP64 = 12 c"FP64",
        BYTES = 13 c"BYTES",
        BF16 = 14 c"BF16",
    }

    /// `TRITONSERVER_MemoryType`.
    MemoryType {
        CPU = 0 c"CPU",
        CPU_PINNED = 1 c"CPU_PINNED",
        GPU = 2 c"GPU",
    }

    /// `TRITONSERVER_ParameterType`.
    ParameterType {
        STRING = 0 c"STRING",
        INT = 1 c"INT",
        BOOL = 2 c"BOOL",
        DOUBLE = 3 c"DOUBLE",
        BYTES = 4 c"BYTES",
    }

    /// `TRITONSERVER_InstanceGroupKind`.
    InstanceGroupKind {
        AUTO = 0 c"AUTO",
        CPU = 1 c"CPU",
        GPU = 2 c"GPU",
        MODEL = 3 c"MODEL",
    }

    /// `TRITONSERVER_LogLevel`.
    LogLevel {
        INFO = 0 c"INFO",
        WARN = 1 c"WARNING",
        ERROR = 2 c"ERROR",
        VERBOSE = 3 c"VERBOSE",
    }

    /// `TRITONSERVER_LogFormat`.
    LogFormat {
        DEFAULT = 0 c"default",
        ISO8601 = 1 c"ISO8601",
    }

    /// `TRITONSERVER_Error_Code`.
    ErrorCode {
        UNKNOWN = 0 c"Unknown",
        INTERNAL = 1 c"Internal",
        NOT_FOUND = 2 c"Not found",
        INVALID_ARG = 3 c"Invalid argument",
        UNAVAILABLE = 4 c"Unavailable",
        UNSUPPORTED = 5 c"Unsupported",
        ALREADY_EXISTS = 6 c"Already exists",
        CANCELLED = 7 c"Cancelled",
    }

    /// `TRITONSERVER_MetricFormat`.
    MetricFormat {
        PROMETHEUS = 0 c"PROMETHEUS",
    }

    /// `TRITONSERVER_MetricKind`.
    MetricKind {
        COUNTER = 0 c"COUNTER",
        GAUGE = 1 c"GAUGE",
        HISTOGRAM = 2 c"HISTOGRAM",
    }

    /// `TRITONSERVER_InferenceTraceLevel`: flags.
    TraceLevel {
        DISABLED = 0 c"DISABLED",
        MIN = 1 c"MIN",
        MAX = 2 c"MAX",
        TIMESTAMPS = 4 c"TIMESTAMPS",
        TENSORS = 8 c"TENSORS",
    }

    /// `TRITONSERVER_InferenceTraceActivity`.
    TraceActivity {
        REQUEST_START = 0 c"REQUEST_START",
        QUEUE_START = 1 c"QUEUE_START",
        COMPUTE_START = 2 c"COMPUTE_START",
        COMPUTE_INPUT_END = 3 c"COMPUTE_INPUT_END",
        COMPUTE_OUTPUT_START = 4 c"COMPUTE_OUTPUT_START",
        COMPUTE_END = 5 c"COMPUTE_END",
        REQUEST_END = 6 c"REQUEST_END",
        TENSOR_QUEUE_INPUT = 7 c"TENSOR_QUEUE_INPUT",
        TENSOR_BACKEND_INPUT = 8 c"TENSOR_BACKEND_INPUT",
        TENSOR_BACKEND_OUTPUT = 9 c"TENSOR_BACKEND_OUTPUT",
        CUSTOM_ACTIVITY = 10 c"CUSTOM_ACTIVITY",
    }

    /// `TRITONSERVER_ModelControlMode`.
    ModelControlMode {
        NONE = 0 c"NONE",
        POLL = 1 c"POLL",
        EXPLICIT = 2 c"EXPLICIT",
    }

    /// `TRITONSERVER_RateLimitMode`.
    RateLimitMode {
        OFF = 0 c"OFF",
        EXEC_COUNT = 1 c"EXEC_COUNT",
    }

    /// `TRITONBACKEND_ArtifactType`.
    ArtifactType {
        FILESYSTEM = 0 c"FILESYSTEM",
    }

    /// `TRITONBACKEND_ExecutionPolicy`.
    ExecutionPolicy {
        BLOCKING = 0 c"BLOCKING",
        DEVICE_BLOCKING = 1 c"DEVICE_BLOCKING",
    }
}

/// `TRITONSERVER_RequestFlag`.
pub(crate) mod request_flag {
    pub(crate) const SEQUENCE_START: u32 = 1;
    pub(crate) const SEQUENCE_END: u32 = 2;
}

/// `TRITONSERVER_RequestReleaseFlag`.
pub(crate) mod release_flag {
    pub(crate) const ALL: u32 = 1;
    pub(crate) const RESCHEDULE: u32 = 2;
}

/// `TRITONSERVER_ResponseCompleteFlag`.
pub(crate) mod response_flag {
    pub(crate) const FINAL: u32 = 1;
}

/// `TRITONSERVER_ModelBatchFlag`, `TRITONSERVER_ModelIndexFlag`, `TRITONSERVER_ModelTxnPropertyFlag`.
#[allow(dead_code)] // the whole enumeration, as the header has it
pub(crate) mod model_flag {
    pub(crate) const BATCH_UNKNOWN: u32 = 1;
    pub(crate) const BATCH_FIRST_DIM: u32 = 2;
    pub(crate) const INDEX_READY: u32 = 1;
    pub(crate) const TXN_ONE_TO_ONE: u32 = 1;
    pub(crate) const TXN_DECOUPLED: u32 = 2;
}

impl DataType {
    /// The type of a tensor; `None` for `INVALID` and numbers that the header does not have.
    pub(crate) fn to_core(self) -> Option<CoreDataType> {
        CoreDataType::ALL.get((self.0 as usize).checked_sub(1)?).copied()
    }

    /// The number of a type.
    pub(crate) fn of(data_type: CoreDataType) -> Self {
        Self(u32::from(data_type as u8) + 1) // both have the same order
    }
}

impl ErrorCode {
    /// The number of a class of errors.
    pub(crate) fn of(code: Code) -> Self {
        match code {
            Code::Unknown => Self::UNKNOWN,
            Code::Internal => Self::INTERNAL,
            Code::NotFound => Self::NOT_FOUND,
            Code::InvalidArgument => Self::INVALID_ARG,
            Code::Unavailable => Self::UNAVAILABLE,
            Code::Unsupported => Self::UNSUPPORTED,
            Code::AlreadyExists => Self::ALREADY_EXISTS,
            Code::Cancelled => Self::CANCELLED,
        }
    }

    /// The class of errors; a number that the header does not have is unknown.
    pub(crate) fn to_core(self) -> Code {
        match self {
            Self::INTERNAL => Code::Internal,
            Self::NOT_FOUND => Code::NotFound,
            Self::INVALID_ARG => Code::InvalidArgument,
            Self::UNAVAILABLE => Code::Unavailable,
            Self::UNSUPPORTED => Code::Unsupported,
            Self::ALREADY_EXISTS => Code::AlreadyExists,
            Self::CANCELLED => Code::Cancelled,
            _ => Code::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_classes_of_errors_survive_both_ways() {
        for data_type in CoreDataType::ALL {
            assert_eq!(DataType::of(data_type).to_core(), Some(data_type));
        }
        assert_eq!(DataType::of(CoreDataType::Bf16), DataType::BF16);
        assert!(DataType::INVALID.to_core().is_none() && DataType(99).to_core().is_none());
        for number in 0..8 {
            assert_eq!(ErrorCode::of(ErrorCode(number).to_core()), ErrorCode(number));
        }
        assert_eq!(ErrorCode(99).to_core(), Code::Unknown);
    }
}
