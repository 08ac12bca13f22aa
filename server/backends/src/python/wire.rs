//! What stands where in the messages between server and worker. `stub/triton_python_backend_utils/_channel.py` and
//! `_response.py` name the same numbers. Messages of the execute channel go through rings (`ring.rs`) where the worker could load the
//! extension module; else, and on all other channels, through sockets.
//!
//! ```text
//! server -> worker, execute channel                              answer
//! (START,)                        nothing: it has started       (OK, whether it uses the rings from here on)
//! (LOAD, settings)                import the model               (OK, None)
//! (COMPLETE, config, normalised)  auto_complete_config           (OK, config or None)      config: JSON text
//! (INITIALIZE, args, settings)    make the instance              (OK, whether it has is_ready)
//! (EXECUTE, requests)             run a batch                    (OK, results) released    or FAILED for all
//! (EXECUTE_EACH, messages)        run each of several batches    answers one after the other, as to each EXECUTE
//! (READY,)                        answer READY on the channel whose descriptor the next message carries   (OK, None)
//! (FINALIZE,)                     finalize, then exit            (OK, None)
//!
//! server -> worker, a channel for that alone, at any time
//! (READY,)                        is_ready                       (OK, bool)
//!
//! any answer                      (FAILED, text, code)
//! request                         (slot, id, inputs, names of outputs or None, rest or None)
//! rest                            (correlation id, flags, timeout in microseconds, parameters as JSON text, trace or None)
//! trace                           (number, context as JSON text or None)
//! result                          (OUTPUTS, tensors, parameters) (ERROR, text, code) (RAISED, text) (NOTHING,) (RESCHEDULED,)
//! tensor                          (name, type, shape, data)
//! data of an input                bytes | (handle, segment, offset, length)
//! data of an output               bytes | (IN_SEGMENT, segment, offset, length), in the answer to a batch also (IN_INPUT, handle, offset, length)
//! released                        handles of inputs that nobody looks at any more; absent if there are none
//!
//! worker -> server, a call channel                               answer; before it, any number of EXECUTE, with their answers
//! (EXEC, execution or None, wants all, called) released          (OK, (is last, result))   also of NEXT
//! (NEXT,)                         the next response              result NOTHING: the end, without a response
//! (CANCEL,)                       no more responses              (OK, None)
//! (LOAD_MODEL, name, config, files) (UNLOAD_MODEL, name, with dependents)                  (OK, None)
//! (IS_READY, name, version)                                      (OK, bool)
//! (METRIC, FAMILY, number, name, description, kind)              (OK, None)
//! (METRIC, SERIES, number, family, labels, buckets or None)      (OK, None)
//! (METRIC, INCREMENT SET OBSERVE, number, value, wants answer)   (OK, None)   or none
//! (METRIC, VALUE, number)                                        (OK, float)
//! (METRIC, DROP_FAMILY, number)                                  none
//!
//! called                          (model, version, id, inputs, outputs, correlation id, flags, timeout, parameters or None,
//!                                 number of the trace or None)
//! (EXECUTE, execution, requests)  server -> worker: run a batch in the middle of the call; answer as on the execute channel
//!
//! worker -> server, events channel: no answer
//! (LOG, level, file, line, text)  a line of the log
//! (RELEASED, handles)             inputs that nobody looks at any more
//! (OPEN_CALL_CHANNEL, number)     the next message carries its descriptor
//! (CANCEL_CALL, number, request)  that request on that channel is given up: its number among those of the channel, from 1
//! (BATCH_FAILED, text)           what a batch raised, for the log
//! (RESPONSE, slot, result, is last)   of a request that is answered by its response sender: NOTHING is an end without a further
//!                                 response, (DROPPED,) one that the model forgot; the slot is free after the last
//!
//! status page                     a byte for each slot: bit 0 the caller has left, bit 1 its reader is behind
//!
//! both ways, before a message that needs it
//! (SEGMENT, id, length)           memory to map; the next message carries its descriptor
//! (FORGET, id)                    it is not used any more
//! (IN_SEGMENT, id, offset, length) in place of a message that is too large
//! ```

/// Bytes of the largest message on a channel.
pub(super) use super::ring::MESSAGE_MAX;

/// Bytes of the largest tensor that travels inside a message.
pub(super) const INLINE_MAX: usize = 16 << 10;

/// Kinds of messages.
pub(super) mod kind {
    pub(in super::super) const START: i64 = 0;
    pub(in super::super) const LOAD: i64 = 1;
    pub(in super::super) const COMPLETE: i64 = 2;
    pub(in super::super) const INITIALIZE: i64 = 3;
    pub(in super::super) const EXECUTE: i64 = 4;
    pub(in super::super) const READY: i64 = 5;
    pub(in super::super) const FINALIZE: i64 = 6;
    pub(in super::super) const SEGMENT: u64 = 7;
    pub(in super::super) const FORGET: u64 = 8;
    pub(in super::super) const IN_SEGMENT: u64 = 9;
    pub(in super::super) const EXECUTE_EACH: i64 = 10;
}

/// The first item of an answer.
pub(super) mod answer {
    pub(in super::super) const OK: u64 = 0;
    pub(in super::super) const FAILED: u64 = 1;
}

/// Kinds of messages on the events channel.
pub(super) mod event {
    pub(in super::super) const LOG: u64 = 20;
    pub(in super::super) const RELEASED: u64 = 21;
    pub(in super::super) const RESPONSE: u64 = 23;
    pub(in super::super) const OPEN_CALL_CHANNEL: u64 = 22;
    pub(in super::super) const CANCEL_CALL: u64 = 30;
    pub(in super::super) const BATCH_FAILED: u64 = 31;
}

/// Kinds of calls.
pub(super) mod call {
    pub(in super::super) const EXEC: u64 = 40;
    pub(in super::super) const NEXT: u64 = 41;
    pub(in super::super) const CANCEL: u64 = 42;
    pub(in super::super) const LOAD_MODEL: u64 = 43;
    pub(in super::super) const UNLOAD_MODEL: u64 = 44;
    pub(in super::super) const IS_READY: u64 = 45;
    pub(in super::super) const METRIC: u64 = 46;
}

/// Kinds of calls for metrics.
pub(super) mod metric {
    pub(in super::super) const FAMILY: u64 = 0;
    pub(in super::super) const SERIES: u64 = 1;
    pub(in super::super) const INCREMENT: u64 = 2;
    pub(in super::super) const SET: u64 = 3;
    pub(in super::super) const OBSERVE: u64 = 4;
    pub(in super::super) const VALUE: u64 = 5;
    pub(in super::super) const DROP_FAMILY: u64 = 6;
}

/// Kinds of results of one request.
pub(super) mod result {
    pub(in super::super) const OUTPUTS: u64 = 0;
    pub(in super::super) const ERROR: u64 = 1;
    pub(in super::super) const NOTHING: u64 = 2;
    pub(in super::super) const RESCHEDULED: u64 = 3;
    pub(in super::super) const RAISED: u64 = 4;
    pub(in super::super) const DROPPED: u64 = 5;
}

/// Where the data of an output lies.
pub(super) mod place {
    pub(in super::super) const IN_INPUT: u64 = 0;
    pub(in super::super) const IN_SEGMENT: u64 = 1;
}
