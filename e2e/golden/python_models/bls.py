"""Requests a model makes of other models: to what, with what, and what comes back; loading and unloading by a model."""

import cases
from python_models.snippets import ASYNC_SNIPPETS, DECOUPLED_SNIPPETS, SNIPPETS, snippet, stream

ECHO_PY = '''
import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        value = given["IN"]
        if value.reshape(-1)[0] == -1:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("refused by the target", pb_utils.TritonError.NOT_FOUND))
        if value.reshape(-1)[0] == -2:
            raise ValueError("raised by the target")
        seen = {
            "id": request.request_id(),
            "correlation": request.correlation_id(),
            "flags": request.flags(),
            "timeout": request.timeout(),
            "parameters": json.loads(request.parameters()),
            "wanted": sorted(request.requested_output_names()),
        }
        outputs = [pb_utils.Tensor("OUT", value), pb_utils.Tensor("SEEN", np.array([json.dumps(seen, sort_keys=True)], dtype=np.object_))]
        return pb_utils.InferenceResponse(outputs)
'''

REPEAT_PY = '''
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """As many responses as the input says; a negative number ends with an error after as many."""

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count = int(request.inputs()[0].as_numpy().reshape(-1)[0])
            for number in range(abs(count)):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.float32))]))
            if count < 0:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("at the end")))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''

# Asks while it is made ready: allowed or not?
EARLY_PY = '''
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.said = []
        try:
            request = pb_utils.InferenceRequest(model_name="echo", requested_output_names=["OUT"], inputs=[pb_utils.Tensor("IN", np.ones(1, np.float32))])
            response = request.exec()
            self.said.append(response.error().message() if response.has_error() else "answered")
        except Exception as error:
            self.said.append(type(error).__name__ + ": " + str(error))
        try:
            self.said.append(str(pb_utils.is_model_ready("early")))
        except Exception as error:
            self.said.append(type(error).__name__ + ": " + str(error))

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array(self.said, dtype=np.object_))]) for _ in requests]
'''

ECHO_IO = 'input [ { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] } ]\noutput [ { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "SEEN" data_type: TYPE_STRING dims: [ 1 ] } ]\n'
CPU = "instance_group [ { kind: KIND_CPU } ]\n"
ECHO = {"config.pbtxt": f'backend: "python"\n{ECHO_IO}{CPU}', "1/model.py": ECHO_PY}
BATCHED = {"config.pbtxt": f'backend: "python"\nmax_batch_size: 4\n{ECHO_IO}{CPU}', "1/model.py": ECHO_PY}
REPEAT = {
    "config.pbtxt": f'backend: "python"\ninput [ {{ name: "IN" data_type: TYPE_INT32 dims: [ 1 ] }} ]\noutput [ {{ name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }} ]\n'
    f"{CPU}model_transaction_policy {{ decoupled: true }}\n",
    "1/model.py": REPEAT_PY,
}
EARLY = {
    "config.pbtxt": f'backend: "python"\ninput [ {{ name: "IN" data_type: TYPE_INT32 dims: [ 1 ] }} ]\noutput [ {{ name: "SAID" data_type: TYPE_STRING dims: [ -1 ] }} ]\n{CPU}',
    "1/model.py": EARLY_PY,
}

HELP = """
def show(result):
    if result.has_error():
        return "error", result.error().message(), str(result.error().code()), len(result.output_tensors())
    return [(tensor.name(), tensor.as_numpy().tolist()) for tensor in result.output_tensors()]

def ask(model_name="echo", values=(1, 2), outputs=("OUT",), kind=np.float32, name="IN", **more):
    tensor = pb_utils.Tensor(name, np.array(values, kind))
    return pb_utils.InferenceRequest(model_name=model_name, requested_output_names=list(outputs), inputs=[tensor], **more)
"""


def bls(name, code, **more):
    return snippet(name, f"{HELP}\n{code}", **more)


BASIC = {
    "one output": "attempt(lambda: show(ask().exec()))",
    "two outputs": 'attempt(lambda: show(ask(outputs=("OUT", "SEEN")).exec()))',
    "outputs in the other order": 'attempt(lambda: show(ask(outputs=("SEEN", "OUT")).exec()))',
    "what the target sees": 'attempt(lambda: show(ask(outputs=("SEEN",), request_id="id é", correlation_id=7, flags=3, timeout=5000000, parameters={"a": 1, "b": "x", "c": True}).exec()))',
    "a correlation id of text": 'attempt(lambda: show(ask(outputs=("SEEN",), correlation_id="seven").exec()))',
    "a version": "attempt(lambda: show(ask(model_version=1).exec()))",
    "a version that is not there": "attempt(lambda: show(ask(model_version=9).exec()))",
    "version zero": "attempt(lambda: show(ask(model_version=0).exec()))",
    "an unknown model": 'attempt(lambda: show(ask("nosuch").exec()))',
    "no model name": 'attempt(lambda: show(ask("").exec()))',
    "an unknown output": 'attempt(lambda: show(ask(outputs=("NOTHING",)).exec()))',
    "a known and an unknown output": 'attempt(lambda: show(ask(outputs=("OUT", "NOTHING")).exec()))',
    "no outputs wanted": "attempt(lambda: show(ask(outputs=()).exec()))",
    "an unknown input": 'attempt(lambda: show(ask(name="NOTHING").exec()))',
    "a wrong type": "attempt(lambda: show(ask(kind=np.int32).exec()))",
    "a wrong shape": "attempt(lambda: show(ask(values=[[1, 2], [3, 4]]).exec()))",
    "no inputs": 'attempt(lambda: show(pb_utils.InferenceRequest(model_name="echo", requested_output_names=["OUT"], inputs=[]).exec()))',
    "an input too many": 'tensors = [pb_utils.Tensor(name, np.ones(1, np.float32)) for name in ("IN", "MORE")]\nattempt(lambda: show(pb_utils.InferenceRequest(model_name="echo", requested_output_names=["OUT"], inputs=tensors).exec()))',
    "the target answers an error": "attempt(lambda: show(ask(values=[-1]).exec()))",
    "the target raises": "attempt(lambda: show(ask(values=[-2]).exec()))",
    "a batch too large": 'attempt(lambda: show(ask("batched", values=[[1]] * 5).exec()))',
    "a batch": 'attempt(lambda: show(ask("batched", values=[[1], [2], [3]]).exec()))',
    "an empty batch": 'attempt(lambda: show(ask("batched", values=np.zeros((0, 1))).exec()))',
    "an empty tensor": "attempt(lambda: show(ask(values=[]).exec()))",
    "a large tensor": "result = ask(values=np.arange(100000)).exec().output_tensors()[0].as_numpy()\nsay(result.shape, result.sum(dtype=np.float64).tolist(), result.flags.writeable)",
    "a request used twice": "again = ask()\nsay(show(again.exec()), show(again.exec()))",
    "preferred memory": "attempt(lambda: show(ask(preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)).exec()))",
    "the trace handed on": "attempt(lambda: show(ask(trace=request.trace()).exec()))",
    "wrong arguments of exec": 'attempt(lambda: ask().exec("yes"))\nattempt(lambda: ask().exec(execution_timeout=3))\nattempt(lambda: ask().exec(decoupled=False) is not None)',
    "one after the other": "say([show(ask(values=[k]).exec())[0][1] for k in range(20)])",
    "from threads": """
results = [None] * 8
def work(k):
    results[k] = show(ask(values=[k]).exec())
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
say(results)
""",
    "type of the result": "result = ask().exec()\nsay(type(result).__name__, type(result.output_tensors()[0]).__name__, result.output_tensors()[0].is_cpu(), result.output_tensors()[0].shape())",
    "handed on as the answer": 'result = ask(outputs=("OUT",)).exec()\nanswer = [pb_utils.InferenceResponse([pb_utils.Tensor("OUT_FP32", result.output_tensors()[0].as_numpy())])]',
    "a decoupled target, not asked so": 'attempt(lambda: show(ask("repeat", [2], kind=np.int32).exec()))',
    "a decoupled target": 'attempt(lambda: [show(one) for one in ask("repeat", [3], kind=np.int32).exec(decoupled=True)])',
    "a decoupled target, no responses": 'attempt(lambda: [show(one) for one in ask("repeat", [0], kind=np.int32).exec(decoupled=True)])',
    "a decoupled target that ends with an error": 'attempt(lambda: [show(one) for one in ask("repeat", [-2], kind=np.int32).exec(decoupled=True)])',
    "a target of one response, asked as decoupled": "attempt(lambda: [show(one) for one in ask().exec(decoupled=True)])",
    "an unknown target, asked as decoupled": 'attempt(lambda: [show(one) for one in ask("nosuch").exec(decoupled=True)])',
    "a refused request, asked as decoupled": "attempt(lambda: [show(one) for one in ask(kind=np.int32).exec(decoupled=True)])",
    "the iterator": """
iterator = ask("repeat", [2], kind=np.int32).exec(decoupled=True)
say(type(iterator).__module__, type(iterator).__name__, iter(iterator) is iterator, [name for name in dir(iterator) if not name.startswith("_")])
say(show(next(iterator)), show(next(iterator)))
attempt(lambda: show(next(iterator)))
attempt(lambda: show(next(iterator)))
attempt(lambda: [show(one) for one in iterator])
""",
    "the iterator, left early": 'iterator = ask("repeat", [5], kind=np.int32).exec(decoupled=True)\nsay(show(next(iterator)))\ndel iterator\nsay(show(ask().exec()))',
    "the iterator, twice": 'iterator = ask("repeat", [2], kind=np.int32).exec(decoupled=True)\nsay([show(one) for one in iterator])\nattempt(lambda: [show(one) for one in iterator])',
    "async_exec without a loop": "attempt(lambda: ask().async_exec())",
}

ASYNC = {
    "async: one": "result = await ask().async_exec()\nsay(show(result))",
    "async: several at once": "say([show(one) for one in await asyncio.gather(*[ask(values=[k]).async_exec() for k in range(6)])])",
    "async: an unknown model": 'result = await ask("nosuch").async_exec()\nsay(show(result))',
    "async: the target raises": "result = await ask(values=[-2]).async_exec()\nsay(show(result))",
    "async: decoupled": 'say([show(one) for one in await ask("repeat", [3], kind=np.int32).async_exec(decoupled=True)])',
    "async: the type of what is awaited": "coroutine = ask().async_exec()\nsay(type(coroutine).__name__)\nawait coroutine",
    "async: exec blocks": "say(show(ask().exec()))",
}

CONTROL = {
    "ready": 'attempt(lambda: pb_utils.is_model_ready("echo"))\nattempt(lambda: pb_utils.is_model_ready("nosuch"))\nattempt(lambda: pb_utils.is_model_ready("echo", "1"))\nattempt(lambda: pb_utils.is_model_ready(model_name="echo", model_version="1"))',
    "ready, an unknown version": 'attempt(lambda: pb_utils.is_model_ready("echo", "9"))',
    "ready, no version": 'attempt(lambda: pb_utils.is_model_ready("echo", ""))',
    "ready, wrong types": 'attempt(lambda: pb_utils.is_model_ready("echo", 1))\nattempt(lambda: pb_utils.is_model_ready())',
    "unload": 'attempt(lambda: pb_utils.unload_model("batched"))\nattempt(lambda: pb_utils.is_model_ready("batched"))\nattempt(lambda: show(ask("batched", values=[[1]]).exec()))',
    "load": 'attempt(lambda: pb_utils.load_model("batched"))\nattempt(lambda: pb_utils.is_model_ready("batched"))\nattempt(lambda: show(ask("batched", values=[[1]]).exec()))',
    "unload with dependents": 'attempt(lambda: pb_utils.unload_model("batched", True))\nattempt(lambda: pb_utils.unload_model("batched", unload_dependents=True))\nattempt(lambda: pb_utils.is_model_ready("batched"))',
    "unload what is unknown": 'attempt(lambda: pb_utils.unload_model("nosuch"))\nattempt(lambda: pb_utils.unload_model(""))\nattempt(lambda: pb_utils.unload_model())',
    "load with a blank name": 'attempt(lambda: pb_utils.load_model(""))',
    "load with a configuration": 'attempt(lambda: pb_utils.load_model("batched", config=\'{"backend": "python", "max_batch_size": 2}\'))\nattempt(lambda: show(ask("batched", values=[[1]] * 3).exec()))',
    "load with files": """
files = {"file:1/model.py": MODEL.encode()}
config = json.dumps({"backend": "python", "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}], "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]}]})
attempt(lambda: pb_utils.load_model(model_name="brought", config=config, files=files))
attempt(lambda: pb_utils.is_model_ready("brought"))
attempt(lambda: show(ask("brought", values=[21]).exec()))
attempt(lambda: pb_utils.unload_model("brought"))
""",
    "load with files and no configuration": 'attempt(lambda: pb_utils.load_model("brought", files={"file:1/model.py": b"x"}))',
    "load of wrong types": 'attempt(lambda: pb_utils.load_model(3))\nattempt(lambda: pb_utils.load_model())\nattempt(lambda: pb_utils.load_model("batched", config={"a": 1}))',
    "load from a broken model": 'attempt(lambda: pb_utils.load_model("broken"))\nattempt(lambda: pb_utils.is_model_ready("broken"))',
}

BROUGHT_PY = '''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy() * 2)]) for request in requests]
'''


def control(name, code):
    return bls(name, f"MODEL = {BROUGHT_PY!r}\n{code}" if "MODEL" in code else code)


CASES = [bls(f"bls: {name}", code) for name, code in BASIC.items()]
CASES += [bls(f"bls: {name}", code, model="async_snippets") for name, code in ASYNC.items()]
CASES += [
    cases.infer("bls while a model is made ready", "early", cases.ask(cases.tensor("IN", [1], "INT32", [1]))),
    stream("bls of a decoupled model", f'{HELP}\nsay(show(ask().exec()))\nsay([show(one) for one in ask("repeat", [2], kind=np.int32).exec(decoupled=True)])'),
]
CONTROL_CASES = [control(name, code) for name, code in CONTROL.items()]

FILES = {"snippets": SNIPPETS, "async_snippets": ASYNC_SNIPPETS, "snippets_decoupled": DECOUPLED_SNIPPETS, "echo": ECHO, "batched": BATCHED, "repeat": REPEAT}
SCENE = {"files": {**FILES, "early": EARLY}, "flags": [], "cases": CASES}
BROKEN = {**ECHO, "1/model.py": "raise ValueError('while importing')\n"}
CONTROL_SCENE = {
    "files": {**FILES, "broken": BROKEN},
    "flags": ["--model-control-mode=explicit", *[f"--load-model={name}" for name in ("snippets", "echo", "batched")]],
    "cases": CONTROL_CASES,
}
