"""Exceptions of execute and their tracebacks, and everything a model may fail of while it is loaded."""

import cases
from python_models.snippets import SNIPPETS, snippet

IO = 'input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]\noutput [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\ninstance_group [ { kind: KIND_CPU } ]\n'
ONE = cases.ask(cases.tensor("IN", [1], "INT32", [1]))
HEAD = "import triton_python_backend_utils as pb_utils\n\n\n"

# Bodies of execute, and functions beside it.
RAISING = {
    "value_error": 'raise ValueError("a text")',
    "no_text": "raise ValueError",
    "two_arguments": 'raise ValueError("one", 2)',
    "several_lines": 'raise RuntimeError("one\\ntwo\\n\\nfour")',
    "not_ascii": 'raise RuntimeError("é 日本 \\U0001f600 \\"quoted\\"")',
    "key_error": 'return {}["missing"]',
    "attribute_error": "return requests.nothing",
    "zero_division": "return 1 / 0",
    "assertion": "assert 1 == 2",
    "assertion_with_text": 'assert 1 == 2, "unequal"',
    "stop_iteration": "return next(iter([]))",
    "os_error": 'return open("/nowhere/at/all")',
    "unicode_error": 'return b"\\xff".decode()',
    "import_error": "import nothing_of_the_kind",
    "model_exception": 'raise pb_utils.TritonModelException("of the model")',
    "system_exit": "raise SystemExit(3)",
    "keyboard_interrupt": "raise KeyboardInterrupt()",
    "nested": "return outer(3)",
    "recursive": "return deeper(3)",
    "in_lambda": "return (lambda: 1 / 0)()",
    "in_comprehension": "return [1 / number for number in (1, 0)]",
    "in_class": "return Own().work()",
    "own_class": 'raise OwnError("mine")',
    "own_text": 'raise OwnText("mine")',
    "inner_class": 'raise Outer.Inner("mine")',
    "a_cause": 'try:\n            1 / 0\n        except ZeroDivisionError as error:\n            raise ValueError("above") from error',
    "a_context": 'try:\n            1 / 0\n        except ZeroDivisionError:\n            raise ValueError("while handling")',
    "no_context": 'try:\n            1 / 0\n        except ZeroDivisionError:\n            raise ValueError("alone") from None',
    "raised_again": "try:\n            1 / 0\n        except ZeroDivisionError:\n            raise",
    "in_finally": 'try:\n            1 / 0\n        finally:\n            {}["k"]',
    "in_eval": 'return eval("1 / 0")',
    "in_numpy": "import numpy as np\n        return np.zeros((2, 3)) @ np.zeros((2, 3))",
    "a_warning": 'raise UserWarning("careful")',
    "a_group": 'raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])',
    "with_a_note": 'error = ValueError("noted")\n        error.add_note("the note")\n        raise error',
    "str_fails": "raise StrFails()",
}
BESIDE = '''

def outer(depth):
    return inner(depth)


def inner(depth):
    raise LookupError(f"at depth {depth}")


def deeper(depth):
    return deeper(depth - 1) if depth else 1 / 0


class Own:
    def work(self):
        return self.really()

    @staticmethod
    def really():
        raise ArithmeticError("in a method")


class OwnError(Exception):
    pass


class OwnText(Exception):
    def __str__(self):
        return "the text of my own"


class StrFails(Exception):
    def __str__(self):
        raise ValueError("no text to be had")


class Outer:
    class Inner(Exception):
        pass
'''


def model(body, head=HEAD, beside=BESIDE):
    return f"{head}class TritonPythonModel:\n    def execute(self, requests):\n        {body}\n{beside}"


def named(files, name):
    return {**files, "config.pbtxt": f'name: "{name}"\nbackend: "python"\n{IO}'}


RAISES = {name: named({"1/model.py": model(body)}, name) for name, body in RAISING.items() if name != "keyboard_interrupt"}
RAISES["in_a_file_beside"] = named(
    {"1/model.py": model("return helper.work()", HEAD + "import helper\n\n\n", ""), "1/helper.py": "def work():\n    raise ValueError('in the helper')\n"}, "in_a_file_beside"
)
RAISES["keyboard_interrupt"] = named({"1/model.py": model(RAISING["keyboard_interrupt"])}, "keyboard_interrupt")
# The whole batch fails with what one of its requests did; each of its callers is told.
RAISES["in_finalize"] = named(
    {"1/model.py": model("return [pb_utils.InferenceResponse([]) for _ in requests]", beside="\n    def finalize(self):\n        raise ValueError('at the end')\n")}, "in_finalize"
)
RAISES["async_nested"] = named(
    {
        "1/model.py": HEAD
        + "import asyncio\n\n\nasync def outer():\n    await asyncio.sleep(0)\n    return await inner()\n\n\nasync def inner():\n    raise ValueError('deep in a coroutine')\n\n\n"
        "class TritonPythonModel:\n    async def execute(self, requests):\n        return await outer()\n"
    },
    "async_nested",
)

GOOD = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"

# What loads badly: the text of model.py.
BROKEN = {
    "no_class": "class Another:\n    pass\n",
    "empty_file": "",
    "no_execute": "class TritonPythonModel:\n    pass\n",
    "execute_is_a_number": "class TritonPythonModel:\n    execute = 3\n",
    "class_is_a_function": "def TritonPythonModel():\n    return None\n",
    "class_is_a_number": "TritonPythonModel = 3\n",
    "syntax_error": "class TritonPythonModel:\n    def execute(self, requests)\n        return []\n",
    "indentation_error": "class TritonPythonModel:\ndef execute(self):\n    pass\n",
    "tab_error": "if True:\n\tx = 1\n        y = 2\n",
    "null_byte": "x = 1\x00\n",
    "missing_import": "import nothing_of_the_kind\n" + GOOD,
    "missing_name": "from json import nothing\n" + GOOD,
    "raises_on_import": 'raise RuntimeError("while importing")\n',
    "raises_deeper_on_import": "def inner():\n    return 1 / 0\n\n\ninner()\n",
    "exits_on_import": "import sys\n\nsys.exit(4)\n",
    "init_raises": "class TritonPythonModel:\n    def __init__(self):\n        raise ValueError('in init')\n\n    def execute(self, requests):\n        return []\n",
    "init_wants_more": "class TritonPythonModel:\n    def __init__(self, more):\n        pass\n\n    def execute(self, requests):\n        return []\n",
    "initialize_raises": "class TritonPythonModel:\n    def initialize(self, args):\n        raise ValueError('in initialize')\n\n    def execute(self, requests):\n        return []\n",
    "initialize_raises_deeper": "def inner(args):\n    return args['nothing']\n\n\nclass TritonPythonModel:\n    def initialize(self, args):\n        inner(args)\n\n    def execute(self, requests):\n        return []\n",
    "initialize_model_exception": HEAD
    + "class TritonPythonModel:\n    def initialize(self, args):\n        raise pb_utils.TritonModelException('refused é')\n\n    def execute(self, requests):\n        return []\n",
    "initialize_without_args": "class TritonPythonModel:\n    def initialize(self):\n        pass\n\n    def execute(self, requests):\n        return []\n",
    "initialize_exits": "import sys\n\n\nclass TritonPythonModel:\n    def initialize(self, args):\n        sys.exit(5)\n\n    def execute(self, requests):\n        return []\n",
    "initialize_hard_exit": "import os\n\n\nclass TritonPythonModel:\n    def initialize(self, args):\n        os._exit(6)\n\n    def execute(self, requests):\n        return []\n",
    "hard_exit_on_import": "import os\n\nos._exit(7)\n",
}
LOADS = {name: named({"1/model.py": text}, name) for name, text in BROKEN.items()}
LOADS["no_file"] = named({"1/": ""}, "no_file")
LOADS["other_file_name"] = {"config.pbtxt": f'name: "other_file_name"\nbackend: "python"\ndefault_model_filename: "mine.py"\n{IO}', "1/mine.py": model("1 / 0", beside="")}
LOADS["other_file_name_missing"] = {"config.pbtxt": f'name: "other_file_name_missing"\nbackend: "python"\ndefault_model_filename: "mine.py"\n{IO}', "1/model.py": GOOD}
LOADS["missing_environment"] = {
    "config.pbtxt": f'name: "missing_environment"\nbackend: "python"\n{IO}parameters: {{ key: "EXECUTION_ENV_PATH" value: {{ string_value: "$$TRITON_MODEL_DIRECTORY/nothing.tar.gz" }} }}\n',
    "1/model.py": GOOD,
}
LOADS["wrong_force_cpu"] = {
    "config.pbtxt": f'name: "wrong_force_cpu"\nbackend: "python"\n{IO}parameters: {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: {{ string_value: "maybe" }} }}\n',
    "1/model.py": GOOD,
}
LOADS["two_files"] = {"config.pbtxt": f'name: "two_files"\nbackend: "python"\nplatform: "python"\n{IO}', "1/model.py": GOOD}

RAISE_CASES = [cases.infer(f"raises {name}", name, ONE) for name in RAISES]
RAISE_CASES += [
    cases.infer(f"after {name}", name, ONE) for name in ("value_error", "nested", "async_nested")
]
RAISE_CASES.append(snippet("of a batch of one", "raise ValueError('with an id')", id="seven"))

LOAD_CASES = []
for name in LOADS:
    LOAD_CASES += [cases.http(f"load {name}", "POST", f"/v2/repository/models/{name}/load")]
LOAD_CASES += [cases.infer(f"infer on {name}", name, ONE) for name in ("no_class", "syntax_error", "no_execute", "execute_is_a_number", "class_is_a_function", "other_file_name")]
LOAD_CASES += [cases.http("index", "POST", "/v2/repository/index")]

RAISE_SCENE = {"files": {**RAISES, "snippets": SNIPPETS}, "flags": [], "cases": RAISE_CASES}
LOAD_SCENE = {"files": LOADS, "flags": ["--model-control-mode=explicit", "--backend-config=python,stub-timeout-seconds=10"], "cases": LOAD_CASES}
