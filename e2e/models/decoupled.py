"""Models of the built-in decoupled backends, which answer one request with any number of responses."""

import make

POLICY = "model_transaction_policy { decoupled: true }\n"


def repeat(root, name="repeat", more=""):
    """Each value of IN is a response, each after its DELAY in milliseconds; the instance takes the next request after WAIT."""
    inputs = [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])]
    return write(root, name, "repeat", inputs, [("OUT", "INT32", [1]), ("IDX", "UINT32", [1])], more)


def square(root, name="square", **parameters):
    """As many responses as IN says, each with that value. `parameters` without their prefix CUSTOM_, e.g. fail_count=1."""
    more = "".join(f'parameters {{ key: "CUSTOM_{key.upper()}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items())
    return write(root, name, "square", [("IN", "INT32", [1])], [("OUT", "INT32", [1])], more)


def iterative(root, name="iterative", strategy="oldest { max_candidate_sequences: 4 }"):
    """Counts INPUT down to 0, a response for each step, and waits in the queue between two of them."""
    batching = f"sequence_batching {{ iterative_sequence: true {strategy} }}\n"
    return write(root, name, "iterative_sequence", [("INPUT", "INT32", [1])], [("OUTPUT", "INT32", [1])], batching, batch=4)


def write(root, name, backend, inputs, outputs, more, batch=0):
    text = make.onnx_config(batch, inputs, outputs, POLICY + more).replace('backend: "onnxruntime"', f'backend: "{backend}"')
    return make.write(root, name, text, {1: None})
