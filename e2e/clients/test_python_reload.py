"""`--backend-config=python,reload=true`: a Python model whose files change runs the new ones, without a request to the server."""

import os
import threading

import numpy as np
import pytest
import python_model
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import connect, is_ready, tensor

NUMBERS = python_model.tensors(["IN INT64 -1"], ["OUT INT64 -1"])

ANSWERS = """
import os
%(imports)s

class TritonPythonModel:
    def execute(self, requests):
        if requests[0].request_id() == "exit":
            os._exit(1)
        answer = np.array([%(answer)s, os.getpid()], np.int64)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", answer)]) for _ in requests]

    def finalize(self):
        print("finalized", %(answer)s)
"""

STREAMS = """
import threading

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request,)).start()

    def answer(self, request):
        sender = request.get_response_sender()
        for _ in range(%(count)s):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([%(count)s], np.int64))]))
            if request.request_id() == "slow":
                while not os.path.exists("%(go)s"):
                    time.sleep(0.01)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

import os, time
"""


def write(folder, name, answer, imports=""):
    return python_model.write(folder, name, ANSWERS % {"answer": answer, "imports": imports}, NUMBERS)


def ask(client, model, order=""):
    """The answer, and the worker's process."""
    result = client.infer(model, [tensor("http", "IN", np.zeros(1, np.int64), "INT64")], request_id=order)
    return [int(value) for value in result.as_numpy("OUT")]


def serve(folder, *flags, reload="true"):
    return Server(folder, f"--backend-config=python,reload={reload}", *flags)


def test_a_model_that_changes_runs_its_new_code(tmp_path):
    write(tmp_path, "model", 1)
    with serve(tmp_path) as server:
        client = connect("http", server)
        answer, before = ask(client, "model")
        assert answer == 1
        write(tmp_path, "model", 2)
        until(lambda: ask(client, "model")[0] == 2, "the new code")
        until(lambda: not os.path.exists(f"/proc/{before}"), "the end of the old worker")
        assert "finalized 1" in server.log() and "have changed: it runs the new ones" in server.log()


def test_a_module_beside_the_model_counts(tmp_path):
    place = write(tmp_path, "model", "beside.ANSWER", "from . import beside")
    (place / "beside.py").write_text("ANSWER = 1\n")
    with serve(tmp_path) as server:
        client = connect("http", server)
        assert ask(client, "model")[0] == 1
        (place / "beside.py").write_text("ANSWER = 22\n")
        until(lambda: ask(client, "model")[0] == 22, "the new code")


def test_a_change_that_cannot_be_imported_leaves_the_old_code_and_says_so(tmp_path):
    place = write(tmp_path, "model", 1)
    with serve(tmp_path) as server:
        client = connect("http", server)
        worker = ask(client, "model")
        (place / "model.py").write_text("def broken(:\n")

        def is_told():
            assert ask(client, "model") == worker
            return "goes on with the old ones: SyntaxError" in str(client.get_model_repository_index())

        until(is_told, "the reason in the index")
        assert "goes on with the old ones: SyntaxError" in server.log()
        assert is_ready(client, "model")
        write(tmp_path, "model", 3)
        until(lambda: ask(client, "model")[0] == 3, "the new code")
        assert "goes on with the old ones" not in str(client.get_model_repository_index())


def test_a_model_that_dies_again_and_again_is_tried_again_when_it_changes(tmp_path):
    write(tmp_path, "model", "os._exit(3)")
    with serve(tmp_path) as server:
        client = connect("http", server)
        for _ in range(6):  # the next one would be started after more than a second
            with pytest.raises(InferenceServerException):
                ask(client, "model")
        write(tmp_path, "model", 4)

        def answers():
            try:
                return ask(client, "model")[0] == 4
            except InferenceServerException:
                return False

        until(answers, "the new code")


def test_requests_that_the_old_code_has_are_answered_by_it(tmp_path):
    go = tmp_path / "go"
    models = tmp_path / "models"
    config = NUMBERS + "model_transaction_policy { decoupled: true }"
    python_model.write(models, "model", STREAMS % {"count": 2, "go": go}, config)
    with serve(models) as server:
        inputs = [tensor("grpc", "IN", np.zeros(1, np.int64), "INT64")]

        def stream(order):
            """The answers so far, and a client to be closed."""
            client, answers = connect("grpc", server), []
            client.start_stream(lambda result, error: answers.append(error or (list(result.as_numpy("OUT") if result.as_numpy("OUT") is not None else []))))
            client.async_stream_infer("model", inputs, request_id=order, enable_empty_final_response=True)
            return client, answers

        slow, slowly = stream("slow")
        until(lambda: slowly == [[2]], "the first response")
        python_model.write(models, "model", STREAMS % {"count": 3, "go": go}, config)

        def is_new():
            client, answers = stream("")
            try:
                until(lambda: len(answers) > 1 and answers[-1] == [], "the end of the answers")
            finally:
                client.stop_stream()
            return answers == [[3], [3], [3], []]

        until(is_new, "the new code")
        go.touch()
        until(lambda: slowly == [[2], [2], []], "the end of the old answers")
        slow.stop_stream()


def test_no_request_fails_while_code_changes(tmp_path):
    write(tmp_path, "model", 1)
    with serve(tmp_path) as server:
        failures, answers, stop = [], [], threading.Event()

        def call():
            client = connect("http", server)
            while not stop.is_set():
                try:
                    answers.append(ask(client, "model")[0])
                except InferenceServerException as error:
                    failures.append(error)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for answer in (2, 3, 4):
            write(tmp_path, "model", answer)
            until(lambda: answers and answers[-1] == answer, "the new code")  # noqa: B023 - polled here
        stop.set()
        for caller in callers:
            caller.join(60)
        assert not failures


def test_without_the_setting_nothing_is_looked_at(tmp_path):
    write(tmp_path, "model", 1)
    with serve(tmp_path, reload="false") as server:
        client = connect("http", server)
        worker = ask(client, "model")
        write(tmp_path, "model", 2)
        os.utime(tmp_path / "model" / "1" / "model.py", (1, 1))
        assert [ask(client, "model") for _ in range(3)] == [worker] * 3


def test_a_value_that_is_no_boolean_is_refused(tmp_path):
    write(tmp_path, "model", 1)
    with Server(tmp_path, "--backend-config=python,reload=yes", "--exit-on-error=false", wait="live") as server:
        until(lambda: "python,reload=yes: the value is 'true' or 'false'" in server.log(), "the reason in the log")
