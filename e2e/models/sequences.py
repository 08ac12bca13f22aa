"""Models whose requests form sequences: test backends that add up, and ONNX models that keep their sums as implicit state."""

import graphs
import make
import numpy as np
from onnx import helper

SIGNALS = {
    "START": "kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ]",
    "READY": "kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ]",
    "END": "kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ]",
}


def controls(*names, identity=None):
    """Control inputs: signals by name, and CORRID of a type."""
    listed = [f'control_input {{ name: "{name}" control {{ {SIGNALS[name]} }} }}' for name in names]
    if identity:
        listed.append(f'control_input {{ name: "CORRID" control {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_{identity} }} }}')
    return "\n".join(listed)


def sums(root, name, batching, batch=4, instances=1, delay_ms=0, more=""):
    """A model of one of the test backends: dyna_sequence where `batching` gives it CORRID, else sequence."""
    backend = "dyna_sequence" if "CORRID" in batching else "sequence"
    config = (
        f'backend: "{backend}"\nmax_batch_size: {batch}\ninput [ {make.tensor("INPUT", "INT32", [1])} ]\noutput [ {make.tensor("OUTPUT", "INT32", [1])} ]\n'
        f"instance_group [ {{ kind: KIND_CPU count: {instances} }} ]\nsequence_batching {{\n{batching}\n}}\n"
        f'parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}\n{more}'
    )
    return make.write(root, name, config, {1: None})


def stateful_graph():
    """OUTPUT = SUM_OUT = the sum of INPUT since START; SEEN_OUT = SEEN_IN with INPUT behind it; TEXT_OUT = TEXT_IN."""
    nodes = [
        helper.make_node("Where", ["STARTS", "zero", "SUM_IN"], ["before"]),
        helper.make_node("Cast", ["START"], ["STARTS"], to=9),
        helper.make_node("Add", ["before", "INPUT"], ["SUM_OUT"]),
        helper.make_node("Identity", ["SUM_OUT"], ["OUTPUT"]),
        helper.make_node("Concat", ["SEEN_IN", "INPUT"], ["SEEN_OUT"], axis=1),
        helper.make_node("Identity", ["TEXT_IN"], ["TEXT_OUT"]),
    ]
    one, open_shape = ("n", 1), ("n", "k")
    inputs = [("INPUT", "INT32", one), ("START", "INT32", one), ("SUM_IN", "INT32", one), ("SEEN_IN", "INT32", open_shape), ("TEXT_IN", "STRING", one)]
    outputs = [("OUTPUT", "INT32", one), ("SUM_OUT", "INT32", one), ("SEEN_OUT", "INT32", ("n", "m")), ("TEXT_OUT", "STRING", one)]
    nodes = [nodes[1], nodes[0], *nodes[2:]]
    return graphs.model(nodes, [graphs.value(*it) for it in inputs], [graphs.value(*it) for it in outputs], zero=np.zeros(1, np.int32))


def stateful(root, name, strategy, batch=4, instances=1):
    """The graph above: the sum starts at zeros, what was seen at the two numbers of a file, the text at an empty one."""
    states = (
        'state { input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_INT32 dims: [ 1 ] use_same_buffer_for_input_output: true }\n'
        'state { input_name: "SEEN_IN" output_name: "SEEN_OUT" data_type: TYPE_INT32 dims: [ -1 ]\n'
        '        initial_state: { name: "before" data_type: TYPE_INT32 dims: [ 2 ] data_file: "before" } }\n'
        'state { input_name: "TEXT_IN" output_name: "TEXT_OUT" data_type: TYPE_STRING dims: [ 1 ] initial_state: { name: "none" data_type: TYPE_STRING dims: [ 1 ] zero_data: true } }'
    )
    batching = f"sequence_batching {{\n{strategy}\n{controls('START')}\n{states}\n}}\ninstance_group [ {{ kind: KIND_CPU count: {instances} }} ]\n"
    outputs = [("OUTPUT", "INT32", [1]), ("SEEN_OUT", "INT32", [-1])]
    config = make.onnx_config(batch, [("INPUT", "INT32", [1])], outputs, batching)
    folder = make.write(root, name, config, {1: stateful_graph()})
    (folder / "initial_state").mkdir(exist_ok=True)
    (folder / "initial_state" / "before").write_bytes(np.array([-1, -2], np.int32).tobytes())
    return folder
