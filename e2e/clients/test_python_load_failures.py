"""Python models that do not load: the reason says what is wrong, in the answer to the load and in the index, and no process is left."""


import processes
import pytest
import python_model
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import connect

CLASS = "class TritonPythonModel:\n    def execute(self, requests):\n        pass\n"
INITIALIZE = CLASS + "    def initialize(self, args):\n        import os, signal, sys\n        "
COMPLETE = CLASS + "    @staticmethod\n    def auto_complete_config(config):\n        import os\n        "

REASONS = {
    "syntax": ("def broken(:\n", r"SyntaxError: .*model\.py, line 4"),
    "missing_import": ("import no_such_module\n" + CLASS, r"ModuleNotFoundError: No module named 'no_such_module'\n\nAt:\n .*model\.py\(4\): <module>"),
    "missing_class": ("answer = 42\n", r"AttributeError: module '1\.model' has no attribute 'TritonPythonModel'"),
    "raises": (INITIALIZE + "{}['key']\n", r"KeyError: 'key'\n\nAt:\n .*model\.py\(9\): initialize"),
    "raises_in_complete": (COMPLETE + "raise ValueError('of no use')\n", r"ValueError: of no use\n\nAt:\n .*model\.py\(10\): auto_complete_config"),
    "leaves": (INITIALIZE + "sys.exit(3)\n", r"SystemExit: 3"),
    "exits": (INITIALIZE + "os._exit(3)\n", r"Stub process 'exits_0(_0)?' is not healthy\. \(exit code 3\)"),
    "killed": (INITIALIZE + "os.kill(os.getpid(), signal.SIGKILL)\n", r"Stub process 'killed_0(_0)?' is not healthy\. \(killed by signal 9 \(SIGKILL\)\)"),
    "segfaults": (INITIALIZE + "os.kill(os.getpid(), signal.SIGSEGV)\n", r"\(killed by signal 11 \(SIGSEGV\)\)"),
    "says_why": (INITIALIZE + "os.write(2, b'no device')\n        os._exit(6)\n", r"Stub process 'says_why_0(_0)?' is not healthy\. \(exit code 6\) It said last:\nno device"),
    "exits_in_complete": (COMPLETE + "os._exit(4)\n", r"Stub process 'exits_in_complete(_0)?' is not healthy\. \(exit code 4\)"),
    "exits_on_import": ("import os, sys\nprint('no licence', file=sys.stderr)\nos._exit(5)\n", r"ended before it had imported the model \(exit code 5\); it said:\nno licence"),
}


@pytest.fixture(scope="module")
def server(folder):
    for name, (code, _) in REASONS.items():
        python_model.write(folder, name, code)
    python_model.write(folder, "no_interpreter", CLASS, 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/nowhere/env.tar.gz" } }')
    with Server(folder, "--model-control-mode=explicit", wait="live") as running:
        yield running


def children(server):
    return processes.children(server.process.pid)


@pytest.mark.parametrize("model", REASONS)
def test_the_reason_of_a_failed_load_says_what_is_wrong(server, model):
    client = connect("http", server)
    with pytest.raises(InferenceServerException) as raised:
        client.load_model(model)
    assert_matches(REASONS[model][1], raised.value.message())
    [entry] = [entry for entry in client.get_model_repository_index() if entry["name"] == model]
    assert entry["state"] == "UNAVAILABLE"
    assert_matches(REASONS[model][1], entry["reason"])
    until(lambda: children(server) == [], "no process")


def test_a_missing_environment_is_the_reason(server):
    with pytest.raises(InferenceServerException, match=r"Failed to get the canonical path for /nowhere/env\.tar\.gz"):
        connect("http", server).load_model("no_interpreter")


def test_a_missing_interpreter_is_the_reason(folder):
    with Server(folder, "--model-control-mode=explicit", "--backend-config=python,executable=/nowhere/python3", wait="live") as server:
        with pytest.raises(InferenceServerException, match=r"the Python interpreter '/nowhere/python3' of .* is not an executable file; choose one"):
            connect("http", server).load_model("missing_class")


def assert_matches(pattern, text):
    import re

    assert re.search(pattern, text, re.DOTALL), f"{pattern}\ndoes not match\n{text}"
