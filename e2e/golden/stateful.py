"""Models whose requests form sequences, and models with many responses per request: for recording as Python models, for replaying with the test
backends that do the same."""

# The sum of a sequence's inputs so far. Under the direct strategy row k of a batch is always the same sequence; under the oldest, CORRID says which.
SUM_PY = '''
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(place, request) for place, request in enumerate(requests)]

    def answer(self, place, request):
        tensors = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
        key = tensors["CORRID"][0] if "CORRID" in tensors else place
        if not tensors["READY"][0]:
            return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.zeros((1, 1), np.int32))])
        value = int(tensors["INPUT"][0])
        self.sums[key] = value if tensors["START"][0] else self.sums.get(key, 0) + value
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([[self.sums[key]]], np.int32).reshape(request.inputs()[0].as_numpy().shape))])
'''

REPEAT_PY = '''
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            values, delays = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("IN", "DELAY"))
            for place, (value, delay) in enumerate(zip(values, delays)):
                time.sleep(delay / 1000)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value], np.int32)), pb_utils.Tensor("IDX", np.array([place], np.uint32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
'''

IO = 'input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\noutput [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
SIGNALS = (
    '{ name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] }, '
    '{ name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] }'
)


def corrid(kind):
    return f', {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_{kind} }} ] }}'


def sequences(batch, strategy, more="", signals=SIGNALS):
    return f"max_batch_size: {batch}\n{IO}sequence_batching {{ {strategy} control_input [ {signals} ] {more} }}\ninstance_group [ {{ kind: KIND_CPU }} ]\n"


# The test backend that does the same, then the configuration.
SEQUENCES = {
    "s_direct": ("sequence", sequences(4, "")),
    "s_direct_named": ("sequence", sequences(4, "direct { }", "max_sequence_idle_microseconds: 60000000")),
    "s_direct_one": ("sequence", sequences(0, "direct { }")),
    "s_oldest": ("dyna_sequence", sequences(4, "oldest { max_candidate_sequences: 4 }", signals=SIGNALS + corrid("UINT64"))),
    "s_oldest_bare": ("dyna_sequence", sequences(4, "oldest { }", signals=SIGNALS + corrid("UINT64"))),
}

BROKEN_SEQUENCES = {
    "y_no_control_name": sequences(4, "", signals='{ control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] }'),
    "y_control_twice": sequences(4, "", signals=SIGNALS + ', { name: "S2" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] }'),
    "y_two_kinds_of_values": sequences(4, "", signals='{ name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] fp32_false_true: [ 0, 1 ] } ] }'),
    "y_one_value": sequences(4, "", signals='{ name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0 ] } ] }'),
    "y_no_values": sequences(4, "", signals='{ name: "START" control [ { kind: CONTROL_SEQUENCE_START } ] }'),
    "y_id_type": sequences(4, "", signals=SIGNALS + corrid("FP32")),
    "y_id_values": sequences(4, "", signals='{ name: "C" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 int32_false_true: [ 0, 1 ] } ] }'),
    "y_utilization": sequences(4, "direct { minimum_slot_utilization: 1.5 }"),
    "y_preferred": sequences(4, "oldest { max_candidate_sequences: 4 preferred_batch_size: [ 8 ] }"),
    "y_state_type": sequences(4, "", 'state [ { input_name: "SI" output_name: "SO" data_type: TYPE_INT32 dims: [ 1 ] initial_state: { name: "i" data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } } ]'),
    "y_state_dims": sequences(4, "", 'state [ { input_name: "SI" output_name: "SO" data_type: TYPE_INT32 dims: [ 1, 2 ] initial_state: { name: "i" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } } ]'),
    "y_state_open": sequences(4, "", 'state [ { input_name: "SI" output_name: "SO" data_type: TYPE_INT32 dims: [ -1 ] initial_state: { name: "i" data_type: TYPE_INT32 dims: [ -1 ] zero_data: true } } ]'),
    "y_state_no_name": sequences(4, "", 'state [ { input_name: "SI" output_name: "SO" data_type: TYPE_INT32 dims: [ 1 ] initial_state: { data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } } ]'),
    "y_state_twice": sequences(4, "", 'state [ { input_name: "SI" output_name: "SO" data_type: TYPE_INT32 dims: [ 1 ] }, { input_name: "SI" output_name: "SP" data_type: TYPE_INT32 dims: [ 1 ] } ]'),
    "y_state_no_input": sequences(4, "", 'state [ { output_name: "SO" data_type: TYPE_INT32 dims: [ 1 ] } ]'),
    "y_state_growable": sequences(4, "", 'state [ { input_name: "SI" output_name: "SO" data_type: TYPE_INT32 dims: [ 1 ] use_growable_memory: true } ]'),
    "y_state_no_file": sequences(4, "", 'state [ { input_name: "SI" output_name: "SO" data_type: TYPE_INT32 dims: [ 1 ] initial_state: { name: "i" data_type: TYPE_INT32 dims: [ 1 ] data_file: "absent" } } ]'),
    "y_and_batching": sequences(4, "") + "dynamic_batching { }\n",
}

REPEAT = (
    'max_batch_size: 0\nmodel_transaction_policy { decoupled: true }\ninput [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] }, { name: "DELAY" data_type: TYPE_UINT32 dims: [ -1 ] }, '
    '{ name: "WAIT" data_type: TYPE_UINT32 dims: [ 1 ] } ]\noutput [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] }, { name: "IDX" data_type: TYPE_UINT32 dims: [ 1 ] } ]\n'
)
REPEATS = {"repeat": ("repeat", REPEAT)}
OVER_REPEATS = {
    "e_repeat": 'platform: "ensemble"\nmax_batch_size: 0\ninput [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] }, { name: "DELAY" data_type: TYPE_UINT32 dims: [ -1 ] }, '
    '{ name: "WAIT" data_type: TYPE_UINT32 dims: [ 1 ] } ]\noutput [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
    'ensemble_scheduling { step [ { model_name: "repeat" model_version: -1 input_map { key: "IN" value: "IN" } input_map { key: "DELAY" value: "DELAY" } input_map { key: "WAIT" value: "WAIT" } '
    'output_map { key: "OUT" value: "OUT" } } ] }\n',
    "e_repeat_then": 'platform: "ensemble"\nmax_batch_size: 0\ninput [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] }, { name: "DELAY" data_type: TYPE_UINT32 dims: [ -1 ] }, '
    '{ name: "WAIT" data_type: TYPE_UINT32 dims: [ 1 ] } ]\noutput [ { name: "OUT" data_type: TYPE_INT32 dims: [ -1 ] }, { name: "IDX" data_type: TYPE_UINT32 dims: [ 1 ] } ]\n'
    'ensemble_scheduling { step [ { model_name: "repeat" model_version: -1 input_map { key: "IN" value: "IN" } input_map { key: "DELAY" value: "DELAY" } input_map { key: "WAIT" value: "WAIT" } '
    'output_map { key: "OUT" value: "each" } output_map { key: "IDX" value: "IDX" } }, '
    '{ model_name: "type_int32" model_version: -1 input_map { key: "INPUT0" value: "each" } output_map { key: "OUTPUT0" value: "OUT" } } ] }\n',
}
