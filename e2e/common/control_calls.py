"""Every call of a tritonclient that changes what a server serves, or how, each made as a stranger would. As a program: prints what became
of them as JSON.

    control_calls.py http|grpc ADDRESS [MODEL]
"""

import base64
import importlib
import json
import sys

OVERRIDE = {
    "backend": "identity",
    "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
}
HANDLE = base64.b64encode(bytes(64))


def calls(client, model):
    """The calls by name. The model is unloaded and loaded again; `strange` is a model of the caller's own."""
    return {
        "load": lambda: client.load_model(model),
        "load with files": lambda: client.load_model("strange", config=json.dumps(OVERRIDE), files={"file:1/x": b"x"}),
        "unload": lambda: client.unload_model("strange"),
        "trace settings": lambda: client.update_trace_settings(settings={"trace_rate": "9"}),
        "trace settings of a model": lambda: client.update_trace_settings(model, {"trace_rate": "9"}),
        "log settings": lambda: client.update_log_settings({"log_verbose_level": 1}),
        "register system": lambda: client.register_system_shared_memory("region", "/region", 64),
        "unregister system": lambda: client.unregister_system_shared_memory("region"),
        "unregister all system": lambda: client.unregister_system_shared_memory(),
        "register cuda": lambda: client.register_cuda_shared_memory("region", HANDLE, 0, 64),
        "unregister cuda": lambda: client.unregister_cuda_shared_memory("region"),
        "unregister all cuda": lambda: client.unregister_cuda_shared_memory(),
    }


def outcomes(protocol, address, model):
    """Of each call the status and the reason of its refusal; None if it was done."""
    client = importlib.import_module(f"tritonclient.{protocol}").InferenceServerClient(address)

    def outcome(call):
        try:
            call()
        except Exception as error:  # both clients raise their own kind
            return [str(error.status()), error.message()]
        return None

    return {name: outcome(call) for name, call in calls(client, model).items()}


if __name__ == "__main__":
    print(json.dumps(outcomes(sys.argv[1], sys.argv[2], (sys.argv + ["echo"])[3])))
