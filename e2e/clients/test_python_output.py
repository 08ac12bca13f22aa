"""What Python models print: it reaches the server's outputs whatever it is, and holds nobody up."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import python_model
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import connect, tensor

NUMBERS = python_model.tensors(["IN INT64 -1"], ["OUT INT64 -1"])

PRINTS = """
import ctypes, os, sys

class TritonPythonModel:
    def execute(self, requests):
        order = requests[0].request_id()
        if order == "flood":
            for number in range(300000):
                sys.stdout.write("line number %d of a flood\\n" % number)
            print("the flood is over")
        elif order == "endless line":
            sys.stderr.write("x" * 50000000)
            print("after the endless line", file=sys.stderr)
        elif order == "binary":
            os.write(1, bytes(range(256)) * 10 + b"\\nafter the binary\\n")
        elif order == "no newline":
            os.write(2, b"without an end")
            os._exit(1)
        elif order == "crash":
            print("last words to stdout")
            print("last words to stderr", file=sys.stderr)
            os.abort()
        elif order == "raise":
            raise ValueError("not this one")
        elif order == "say":
            print('a "word" to stdout')
            print("\tand one to stderr", file=sys.stderr)
        elif order == "c":
            library = ctypes.CDLL(None)
            library.puts(b"from the C library")
            library.fflush(None)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1, np.int64))]) for _ in requests]

    def finalize(self):
        print("words at the end")
"""


@pytest.fixture(scope="module")
def server(folder):
    python_model.write(folder, "prints", PRINTS, NUMBERS)
    with Server(folder) as running:
        yield running


def ask(server, order):
    connect("http", server).infer("prints", [tensor("http", "IN", np.zeros(1, np.int64), "INT64")], request_id=order)


def memory(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"^RssAnon:\s*(\d+) kB", status, re.MULTILINE)[1]) >> 10


@pytest.mark.parametrize("order, words", [("flood", "the flood is over"), ("endless line", "after the endless line"), ("binary", "after the binary")])
def test_output_of_any_kind_is_logged_and_takes_no_memory(server, order, words):
    ask(server, "")
    before = memory(server)
    ask(server, order)
    until(lambda: words in server.log(), words)
    assert memory(server) < before + 50
    ask(server, "")


@pytest.mark.parametrize("order, words", [("crash", ["last words to stdout", "last words to stderr"]), ("no newline", ["without an end"])])
def test_what_was_written_before_a_worker_died_is_logged(server, order, words):
    with pytest.raises(InferenceServerException, match="is not healthy"):
        ask(server, order)
    for word in words:
        until(lambda: word in server.log().splitlines(), word)  # noqa: B023 - polled here


def test_the_c_library_writes_to_the_log_too(server):
    ask(server, "c")
    until(lambda: "from the C library" in server.log(), "the line in the log")


def test_what_finalize_prints_is_logged(folder):
    with Server(folder, "--model-control-mode=explicit", "--load-model=prints", wait="ready") as server:
        client = connect("http", server)
        client.unload_model("prints")
        until(lambda: "words at the end" in server.log(), "the line in the log")


def test_a_line_is_the_models_own_whatever_the_server_logs(folder):
    with Server(folder, "--log-info=false", "--log-warning=false", "--log-error=false") as server:
        ask(server, "say")
        for line in ['a "word" to stdout', "\tand one to stderr"]:
            until(lambda: line in server.log().splitlines(), line)  # noqa: B023 - polled here


def test_a_json_log_stays_json_and_names_the_model(folder):
    with Server(folder, "--log-format=json", "--log-info=false") as server:
        ask(server, "say")
        until(lambda: "stdout" in server.log() and "stderr" in server.log(), "both lines")
        said = [(line["level"], line["message"], line["model"]) for line in map(json.loads, server.log().splitlines()) if "model" in line]
        assert sorted(said) == [("INFO", 'a "word" to stdout', "prints"), ("WARN", "\tand one to stderr", "prints")]


def test_what_execute_raises_is_logged_with_its_place(server):
    with pytest.raises(InferenceServerException, match="not this one"):
        ask(server, "raise")
    failed = r"""E\d{4} .*\] "Failed to process the request\(s\) for model 'prints_0', message: ValueError: not this one\\n\\nAt:\\n  .*model\.py\(\d+\): execute"""
    until(lambda: re.search(failed, server.log()), "the line in the log")


def test_a_model_that_raises_on_every_request_fills_no_log(folder):
    count, began = 400, time.monotonic()
    with Server(folder) as server:
        for _ in range(count):
            with pytest.raises(InferenceServerException, match="not this one"):
                ask(server, "raise")
        seconds = time.monotonic() - began
    lines = server.log().count("ValueError: not this one")
    left_out = sum(int(number) for number in re.findall(r"(\d+) more failures of model 'prints_0' are not in the log", server.log()))
    assert lines <= 10 * (seconds + 1) and lines + left_out == count
