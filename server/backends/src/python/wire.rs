//! What stands where in the messages between server and worker. `stub/triton_python_backend_utils/_channel.py` and
//! `_response.py` name the same numbers.
//!
//! ```text
//! server -> worker, execute channel                              answer
//! (LOAD, settings)                import the model               (OK, None)
//! (COMPLETE, config)              auto_complete_config           (OK, config or None)      config: JSON text
//! (INITIALIZE, args, settings)    make the instance              (OK, None)
//! (EXECUTE, requests)             run a batch                    (OK, results) released    or FAILED for all
//! (READY,)                        is_ready                       (OK, bool)
//! (FINALIZE,)                     finalize, then exit            (OK, None)
//!
//! any answer                      (FAILED, text, code)
//! request                         (slot, id, inputs, names of outputs or None, rest or None)
//! rest                            (correlation id, flags, timeout in microseconds, parameters as JSON text, trace)
//! result                          (OUTPUTS, tensors, parameters) (ERROR, text, code) (NOTHING,) (RESCHEDULED,)
//! tensor                          (name, type, shape, data)
//! data of an input                bytes | (handle, segment, offset, length)
//! data of an output               bytes | (IN_INPUT, handle, offset, length) | (IN_SEGMENT, segment, offset, length)
//! released                        handles of inputs that nobody looks at any more; absent if there are none
//!
//! both ways, before a message that needs it
//! (SEGMENT, id, length)           memory to map; the next message carries its descriptor
//! (FORGET, id)                    it is not used any more
//! (IN_SEGMENT, id, offset, length) in place of a message that is too large
//! ```

/// Bytes of the largest message on a channel.
pub(super) const MESSAGE_MAX: usize = 64 << 10;

/// Bytes of the largest tensor that travels inside a message.
pub(super) const INLINE_MAX: usize = 16 << 10;

/// Kinds of messages.
pub(super) mod kind {
    pub(in super::super) const LOAD: i64 = 1;
    pub(in super::super) const COMPLETE: i64 = 2;
    pub(in super::super) const INITIALIZE: i64 = 3;
    pub(in super::super) const EXECUTE: i64 = 4;
    pub(in super::super) const READY: i64 = 5;
    pub(in super::super) const FINALIZE: i64 = 6;
    pub(in super::super) const SEGMENT: u64 = 7;
    pub(in super::super) const FORGET: u64 = 8;
    pub(in super::super) const IN_SEGMENT: u64 = 9;
}

/// The first item of an answer.
pub(super) mod answer {
    pub(in super::super) const OK: u64 = 0;
    pub(in super::super) const FAILED: u64 = 1;
}

/// Kinds of messages on the events channel.
pub(super) mod event {
    pub(in super::super) const RELEASED: u64 = 21;
}

/// Kinds of results of one request.
pub(super) mod result {
    pub(in super::super) const OUTPUTS: u64 = 0;
    pub(in super::super) const ERROR: u64 = 1;
    pub(in super::super) const NOTHING: u64 = 2;
    pub(in super::super) const RESCHEDULED: u64 = 3;
}

/// Where the data of an output lies.
pub(super) mod place {
    pub(in super::super) const IN_INPUT: u64 = 0;
    pub(in super::super) const IN_SEGMENT: u64 = 1;
}
