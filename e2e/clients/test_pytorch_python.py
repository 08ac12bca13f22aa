"""PyTorch models that are written in Python (`runtime: "model.py"`): their class, their weights, what passes in and out, what is refused.

Runs where a Python has torch and NumPy: Debian's, or the one that E2E_TORCH_PYTHON names."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

import python_model
from serving import Server
from talking import PROTOCOLS, connect, statistics, tensor

PYTHON = os.environ.get("E2E_TORCH_PYTHON", "/usr/bin/python3")

MODELS = {
    # a class among others, with weights; a helper that cannot be made without arguments comes first by name
    "scores": """
        class Block(torch.nn.Module):
            def __init__(self, width):
                super().__init__()
                self.layer = torch.nn.Linear(width, 2)

            def forward(self, x):
                return self.layer(x)

        class Scores(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.block = Block(3)

            def forward(self, x):
                if (x < 0).any():
                    raise ValueError("no score below zero")
                return self.block(x)
    """,
    "sums": """
        class Sums(torch.nn.Module):
            def forward(self, a, b):
                return a + b, (a - b).sum()
    """,
    "named": """
        class Named(torch.nn.Module):
            def forward(self, x, bias=None):
                return {"TWICE": x * 2, "BIASED": x if bias is None else x + bias, "unused": x}
    """,
    "words": """
        class Words(torch.nn.Module):
            def forward(self, texts):
                return [text.upper() for text in texts]
    """,
    "rows": """
        class Rows(torch.nn.Module):
            def forward(self, x):
                return x + len(x)
    """,
    # called as something that it imports
    "colorsys": """
        import colorsys

        class Hue(torch.nn.Module):
            def forward(self, x):
                return torch.tensor([colorsys.rgb_to_hsv(*row) for row in x.tolist()])
    """,
    "halves": """
        class Halves(torch.nn.Module):
            def forward(self, x):
                return x / 2
    """,
    "threads": """
        class Threads(torch.nn.Module):
            def forward(self, x):
                return torch.tensor([torch.get_num_threads(), torch.get_num_interop_threads(), int(torch.is_inference_mode_enabled())])
    """,
    "short": """
        class Short(torch.nn.Module):
            def forward(self, x):
                return x[:1]
    """,
}
MODELS["words_together"] = MODELS["words"]
TOGETHER = "dynamic_batching { preferred_batch_size: [%d] max_queue_delay_microseconds: 60000000 }\n"
CONFIGS = {
    "scores": python_model.tensors(["X FP32 3"], ["Y FP32 2"], 8),
    "rows": python_model.tensors(["X FP32 3"], ["Y FP32 3"], 8) + TOGETHER % 7,
    "colorsys": python_model.tensors(["X FP32 3"], ["Y FP32 3"], 8),
    "scripted": python_model.tensors(["X FP32 3"], ["Y FP32 2"], 8),
    "sums": python_model.tensors(["A INT64 -1", "B INT64 -1"], ["SUM INT64 -1", "TOTAL INT64 1"]),
    "named": python_model.tensors(["X FP32 -1"], ["BIASED FP32 -1", "TWICE FP32 -1"], 4)
    + 'input [{ name: "BIAS" data_type: TYPE_FP32 dims: [1] optional: true }]\n',
    "words": python_model.tensors(["IN STRING 1"], ["OUT STRING 1"], 4),
    "words_together": python_model.tensors(["IN STRING 1"], ["OUT STRING 1"], 4) + TOGETHER % 3,
    "halves": python_model.tensors(["X BF16 -1"], ["Y BF16 -1"], 4),
    "threads": python_model.tensors(["X FP32 1"], ["N INT64 3"])
    + 'parameters { key: "NUM_THREADS" value { string_value: "2" } }\nparameters { key: "NUM_INTEROP_THREADS" value { string_value: "3" } }\n',
    "short": python_model.tensors(["X FP32 1"], ["Y FP32 1"], 4),
}

NO_CLASS = "answer = 42\n"
EMPTY = "class Empty(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
ONE = python_model.tensors(["X FP32 1"], ["Y FP32 1"])


def parameter(name, value):
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'


# code, configuration, and what is said of the model
WRONG = {
    "no_file": (None, ONE, "No model found in"),
    "no_class": (NO_CLASS, ONE, "Cannot find a subclass of torch.nn.Module"),
    "arguments": ("class Wide(torch.nn.Module):\n    def __init__(self, width):\n        pass\n", ONE, "give those of Wide defaults"),
    "threads_none": (EMPTY, ONE + parameter("NUM_THREADS", "many"), "parameter 'NUM_THREADS' must be a number of threads from 1 on, not 'many'"),
    "compile_list": (EMPTY, ONE + parameter("TORCH_COMPILE_OPTIONAL_PARAMETERS", "[1]"), "must be a JSON object"),
    "compile_model": (
        EMPTY,
        ONE + parameter("TORCH_COMPILE_OPTIONAL_PARAMETERS", '{\\"model\\": 1}'),
        "'model' is not an optional parameter for 'torch.compile'",
    ),
    "decoupled": (EMPTY, ONE + "model_transaction_policy { decoupled: true }\n", "answers each request once"),
    "foreign": (EMPTY, python_model.tensors(["X UINT64 1"], ["Y FP32 1"]), "input 'X' is TYPE_UINT64, and PyTorch"),
    "weights": (EMPTY, ONE, "model.pt is no state dictionary of Empty"),
}

# Writes weights, and the same module as TorchScript; says what the module makes of ones.
MAKE = """
import sys, torch
sys.path.insert(0, sys.argv[1] + "/scores/1")
from model import Scores
torch.manual_seed(7)
module = Scores().eval()
torch.save(module.state_dict(), sys.argv[1] + "/scores/1/model.pt")
torch.jit.trace(module.block, torch.ones(1, 3)).save(sys.argv[1] + "/scripted/1/model.pt")
print(*module(torch.ones(1, 3)).tolist()[0])
"""


def write(folder, name, code, config):
    place = python_model.write(folder, name, "", config)
    config = place.with_name("config.pbtxt")
    config.write_text(config.read_text().replace('backend: "python"', 'backend: "pytorch"\nruntime: "model.py"'))
    (place / "model.py").unlink()
    if code is not None:
        (place / "model.py").write_text("import torch\n" + python_model.textwrap.dedent(code))
    return place


@pytest.fixture(scope="module")
def python():
    if subprocess.run([PYTHON, "-c", "import torch, numpy"], capture_output=True, timeout=120).returncode != 0:
        assert os.environ.get("CI") != "true", f"{PYTHON} has no torch"
        pytest.skip(f"skipped: {PYTHON} has no torch (Debian: apt-get install python3-torch python3-numpy)")
    return PYTHON


@pytest.fixture(scope="module")
def ones(python, folder):
    """What the module with the weights makes of ones."""
    for name, config in CONFIGS.items():
        write(folder, name, MODELS.get(name), config)
    for name, (code, config, _) in WRONG.items():
        write(folder, name, code, config)
    (folder / "weights" / "1" / "model.pt").write_bytes(b"not a state dictionary")
    made = subprocess.run([python, "-c", MAKE, folder], capture_output=True, text=True, timeout=300, check=True)
    return np.array(made.stdout.split(), np.float32)


@pytest.fixture(scope="module")
def server(python, folder, ones):
    loads = [f"--load-model={name}" for name in CONFIGS]
    with Server(folder, f"--backend-config=python,executable={python}", "--model-control-mode=explicit", *loads, deadline=240) as running:
        yield running


def numbers(protocol, server, model, inputs, **options):
    tensors = [tensor(protocol, name, array, kind) for name, (kind, array) in inputs.items()]
    return connect(protocol, server).infer(model, tensors, **options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["scores", "scripted"])
def test_a_module_runs_with_its_weights(server, ones, protocol, model):
    result = numbers(protocol, server, model, {"X": ("FP32", np.ones((2, 3), np.float32))})
    np.testing.assert_allclose(result.as_numpy("Y"), [ones, ones], rtol=1e-5)


def test_requests_that_wait_run_as_one_batch_and_each_gets_its_rows(server):
    def batches():
        found = statistics(connect("http", server), "rows")[0].get("batch_stats", [])
        return sum(one["compute_infer"]["count"] for one in found if one["batch_size"] == 7)

    inputs = [np.full((rows, 3), 10 * rows, np.float32) for rows in (1, 2, 3, 1)]
    before = batches()
    with ThreadPoolExecutor(len(inputs)) as pool:
        results = list(pool.map(lambda x: numbers("grpc", server, "rows", {"X": ("FP32", x)}).as_numpy("Y"), inputs))
    assert [y.tolist() for y in results] == [(x + 7).tolist() for x in inputs]
    assert batches() == before + 1


def test_a_request_that_cannot_be_read_fails_alone(server):
    def ask(text):
        try:
            return numbers("grpc", server, "words_together", {"IN": ("BYTES", np.array([[text]], np.object_))}).as_numpy("OUT").tolist()
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        first, failed, last = pool.map(ask, (b"a", b"\xff", b"b"))
    assert (first, last) == ([[b"A"]], [[b"B"]])
    assert "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff" in failed


def test_a_model_may_be_called_as_what_it_imports(server):
    result = numbers("http", server, "colorsys", {"X": ("FP32", np.array([[0, 0, 4]], np.float32))})
    np.testing.assert_allclose(result.as_numpy("Y"), [[2 / 3, 1, 4]], rtol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_module_raises_is_the_answer_and_it_serves_on(server, protocol):
    with pytest.raises(InferenceServerException, match="no score below zero"):
        numbers(protocol, server, "scores", {"X": ("FP32", np.full((1, 3), -1, np.float32))})
    numbers(protocol, server, "scores", {"X": ("FP32", np.ones((1, 3), np.float32))})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arguments_and_outputs_are_in_the_order_of_the_configuration(server, protocol):
    a, b = np.array([5, 7], np.int64), np.array([1, 2], np.int64)
    result = numbers(protocol, server, "sums", {"B": ("INT64", b), "A": ("INT64", a)})
    assert result.as_numpy("SUM").tolist() == [6, 9] and result.as_numpy("TOTAL").tolist() == [9]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dictionary_names_outputs_and_an_input_may_be_left_out(server, protocol):
    x = np.array([[1, 2]], np.float32)
    result = numbers(protocol, server, "named", {"X": ("FP32", x)})
    assert result.as_numpy("TWICE").tolist() == [[2, 4]] and result.as_numpy("BIASED").tolist() == [[1, 2]]
    result = numbers(protocol, server, "named", {"X": ("FP32", x), "BIAS": ("FP32", np.array([[10]], np.float32))})
    assert result.as_numpy("BIASED").tolist() == [[11, 12]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_strings_are_lists(server, protocol):
    texts = np.array([["ärger"], [""], ["a" * 40_000]], np.object_)
    result = numbers(protocol, server, "words", {"IN": ("BYTES", texts)})
    assert result.as_numpy("OUT").shape == (3, 1)
    assert [text.decode() for text in result.as_numpy("OUT").reshape(-1)] == ["ÄRGER", "", "A" * 40_000]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_type_that_numpy_lacks_passes(server, protocol):
    result = numbers(protocol, server, "halves", {"X": ("BF16", np.array([[1, 3]], ml_dtypes.bfloat16))})
    assert result.as_numpy("Y").astype(np.float32).tolist() == [[0.5, 1.5]]


def test_threads_are_as_the_parameters_say_and_gradients_are_off(server):
    assert numbers("http", server, "threads", {"X": ("FP32", np.zeros(1, np.float32))}).as_numpy("N").tolist() == [2, 3, 1]


def test_an_output_without_a_row_for_each_input_is_an_error(server):
    with pytest.raises(InferenceServerException, match=r"output 'Y' has 1 rows for a batch of 2"):
        numbers("http", server, "short", {"X": ("FP32", np.zeros((2, 1), np.float32))})


def test_the_configuration_shows_the_runtime(server):
    config = connect("http", server).get_model_config("scores")
    assert (config["backend"], config["runtime"], config["platform"]) == ("pytorch", "model.py", "pytorch_libtorch")
    assert config["default_model_filename"] == ""


@pytest.mark.parametrize("model", WRONG)
def test_what_cannot_be_run_says_why(server, model):
    with pytest.raises(InferenceServerException) as error:
        connect("http", server).load_model(model)
    assert WRONG[model][2] in str(error.value)


def test_an_interpreter_without_torch_is_named_with_the_cure(folder, ones):
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, timeout=120).returncode == 0:
        pytest.skip("skipped: the interpreter of the tests has torch")
    with Server(folder, "--model-control-mode=explicit") as running:
        with pytest.raises(InferenceServerException, match="has no torch, which a PyTorch model in Python needs.*EXECUTION_ENV_PATH"):
            connect("http", running).load_model("sums")
