"""Requests a model hands back to be executed again (set_release_flags), and sequences of requests."""

import cases

# Counts down: handed back as long as more than one is left, each time with a response.
COUNT_PY = '''
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.decoupled = pb_utils.using_decoupled_model_transaction_policy(json.loads(args["model_config"]))
        self.left = {}
        self.runs = 0

    def execute(self, requests):
        answers = []
        for request in requests:
            self.runs += 1
            tensors = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
            key = request.correlation_id()
            start = bool(request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
            if start:
                self.left[key] = int(tensors["IN"][0])
            self.left[key] -= 1
            line = json.dumps({"left": self.left[key], "start": start, "flags": request.flags(), "inputs": sorted(tensors), "START": tensors.get("START", np.zeros(0)).tolist()})
            output = pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array([[line]], dtype=np.object_))])
            again = self.left[key] > 0
            if again:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            if self.decoupled:
                request.get_response_sender().send(output, 0 if again else pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            else:
                answers.append(None if again else output)
        return None if self.decoupled else answers
'''

WRONG_PY = COUNT_PY.replace("answers.append(None if again else output)", "answers.append(output)")

# Counts down, and sends with the sender of its first turn in every one.
KEPT_PY = '''
import numpy as np
import triton_python_backend_utils as pb_utils


def said(line):
    return pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array([[line]], dtype=np.object_))])


class TritonPythonModel:
    def initialize(self, args):
        self.left, self.kept = {}, {}

    def execute(self, requests):
        for request in requests:
            key, sender = request.correlation_id(), request.get_response_sender()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.left[key], self.kept[key] = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().flat[0]), sender
            left = self.left[key] = self.left[key] - 1
            self.kept[key].send(said("first sender, %d left" % left))
            if left > 0:
                sender.send(said("own sender, %d left" % left))
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            else:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''

IO = 'max_batch_size: 4\ninput [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]\noutput [ { name: "SAID" data_type: TYPE_STRING dims: [ 1 ] } ]\ninstance_group [ { kind: KIND_CPU } ]\n'
ITERATIVE = (
    "sequence_batching { iterative_sequence: true oldest { max_candidate_sequences: 4 } "
    'control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ] }\n'
)
DECOUPLED = "model_transaction_policy { decoupled: true }\n"


def model(code, more):
    return {"config.pbtxt": f'backend: "python"\n{IO}{more}', "1/model.py": code}


FILES = {
    "count": model(COUNT_PY, ITERATIVE),
    "count_decoupled": model(COUNT_PY, ITERATIVE + DECOUPLED),
    "kept_senders": model(KEPT_PY, ITERATIVE + DECOUPLED),
    "returns_a_response": model(WRONG_PY, ITERATIVE),
    "not_iterative": model(COUNT_PY, ""),
}


def ask(name, model, value, **more):
    return cases.infer(name, model, cases.ask(cases.tensor("IN", [1, 1], "INT32", [value]), **more))


def stream_of(name, model, *values):
    requests = []
    for value in values:
        request = cases.pb.ModelInferRequest(model_name=model)
        request.inputs.add(name="IN", datatype="INT32", shape=[1, 1])
        request.raw_input_contents.append(value.to_bytes(4, "little"))
        requests.append(request)
    return {"name": name, "stream": requests}


CASES = [
    ask("one run", "count", 1),
    ask("three runs", "count", 3),
    ask("an id is kept", "count", 2, id="mine"),
    stream_of("decoupled: one run", "count_decoupled", 1),
    stream_of("decoupled: three runs", "count_decoupled", 3),
    stream_of("decoupled: the sender of the first run", "kept_senders", 3),
    ask("a response for a request handed back", "returns_a_response", 2),
    ask("a response where none is handed back", "returns_a_response", 1),
    ask("handed back without a sequence batcher", "not_iterative", 2),
    cases.http("statistics", "GET", "/v2/models/count/stats"),
]

SCENE = {"files": FILES, "flags": [], "cases": CASES}
