"""Python models that answer over time: response senders, decoupled models, coroutines, cancellation and further turns."""

import json
import socket
import time

import numpy as np
import pytest
import python_model
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from serving import Server, scaled, until
from talking import PROTOCOLS, connect, statistics, tensor
from test_decoupled import Stream, events, post

TENSORS = python_model.tensors(["CODE STRING 1"], ["OUT INT32 -1"])
DECOUPLED = "model_transaction_policy { decoupled: true }\n"

# Waits in execute until the caller of its request has left, without a sender.
LEFT = """
import time

class TritonPythonModel:
    def execute(self, requests):
        file = requests[0].inputs()[0].as_numpy()[0].decode()
        open(file + ".runs", "w").close()
        deadline = time.monotonic() + 30
        while not requests[-1].is_cancelled() and time.monotonic() < deadline:
            time.sleep(0.005)
        with open(file, "w") as left:
            left.write(str([request.is_cancelled() for request in requests]))
        return [pb_utils.InferenceResponse([]) for _ in requests]
"""

# Runs the code of its requests, with `request` and `out(number)`, a response; `answer` is what execute returns.
SCRIPTED = """
import gc
import threading
import time

def out(*numbers, **options):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(numbers, np.int32))], **options)

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

def run(request, **names):
    names.update(globals(), request=request, sender=request.get_response_sender())
    exec(request.inputs()[0].as_numpy()[0].decode(), names)
    return names.get("answer")

def in_thread(function):
    threading.Thread(target=function).start()

class TritonPythonModel:
    def execute(self, requests):
        answers = [run(request, self=self) for request in requests]
        return answers[0] if len(answers) == 1 else None
"""

COROUTINE = """
import asyncio

class TritonPythonModel:
    running = most = 0

    async def execute(self, requests):
        senders = [request.get_response_sender() for request in requests]
        for request, sender in zip(requests, senders):
            waits = int(request.inputs()[0].as_numpy()[0])
            if waits < 0:
                await asyncio.sleep(0)
                raise ValueError("fewer than none")
            TritonPythonModel.running += 1
            TritonPythonModel.most = max(self.most, self.running)
            for _ in range(waits):
                await asyncio.sleep(0.1)
            TritonPythonModel.running -= 1
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([self.most], np.int32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

AWAITED = """
import asyncio

class TritonPythonModel:
    async def execute(self, requests):
        await asyncio.sleep(0.01)
        if requests[0].request_id() == "fails":
            await self.fail()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([7], np.int32))]) for _ in requests]

    async def fail(self):
        raise ValueError("after a wait")
"""

# Counts down from its input: one response for each turn.
TURNS = """
class TritonPythonModel:
    def initialize(self, args):
        self.left = {}

    def execute(self, requests):
        for request in requests:
            sequence = request.correlation_id()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.left[sequence] = int(request.inputs()[0].as_numpy().flat[0])
            self.left[sequence] -= 1
            response = pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([[self.left[sequence]]], np.int32))])
            sender = request.get_response_sender()
            if self.left[sequence] > 0:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                sender.send(response)
            else:
                sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Counts in a thread of its own, with the sender of the first turn, and takes turns until that has ended.
COUNTS_BESIDE = """
import threading


class TritonPythonModel:
    def initialize(self, args):
        self.threads = {}

    def execute(self, requests):
        for request in requests:
            sequence, sender = request.correlation_id(), request.get_response_sender()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                end = int(request.inputs()[0].as_numpy().flat[0])
                self.threads[sequence] = threading.Thread(target=self.count, args=(sender, end))
                self.threads[sequence].start()
            if self.threads[sequence].is_alive():
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            else:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def count(self, sender, end):
        for number in range(end):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([[number]], np.int32))]))
"""

# Answers at the third turn.
THIRD_TURN = """
class TritonPythonModel:
    def initialize(self, args):
        self.turns = 0

    def execute(self, requests):
        self.turns += 1
        if self.turns % 3:
            for request in requests:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            return [None for _ in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([[self.turns]], np.int32))]) for _ in requests]
"""

ITERATIVE = python_model.tensors(["INPUT INT32 1"], ["OUTPUT INT32 1"], batch=4) + "sequence_batching { iterative_sequence: true oldest { max_candidate_sequences: 4 } }\n"


@pytest.fixture(scope="module")
def server(folder):
    python_model.write(folder, "once", SCRIPTED, TENSORS)
    python_model.write(folder, "many", SCRIPTED, TENSORS + DECOUPLED)
    python_model.write(folder, "left", LEFT, TENSORS)
    numbers = python_model.tensors(["IN INT32 1"], ["OUT INT32 1"])
    python_model.write(folder, "awaited", AWAITED, numbers)
    python_model.write(folder, "coroutine", COROUTINE, numbers + DECOUPLED)
    python_model.write(folder, "turns", TURNS, ITERATIVE + DECOUPLED)
    python_model.write(folder, "third_turn", THIRD_TURN, ITERATIVE)
    python_model.write(folder, "counts_beside", COUNTS_BESIDE, ITERATIVE + DECOUPLED)
    with Server(folder) as running:
        yield running


def code(text, protocol="grpc"):
    return [tensor(protocol, "CODE", np.array([text.encode()], object), "BYTES")]


def number(value, name="IN", shape=(1,)):
    return [tensor("grpc", name, np.full(shape, value, np.int32), "INT32")]


def ask(server, text, model="once", protocol="http", **options):
    """What the model answers, or the text of the error."""
    client = connect(protocol, server)
    try:
        return client.infer(model, code(text, protocol), **options).as_numpy("OUT").tolist()
    except InferenceServerException as error:
        return error.message()


def responses(server, text, **options):
    """All responses of a stream: numbers, texts of errors, None for an end alone."""
    with Stream(server) as stream:
        stream.send("many", code(text), enable_empty_final_response=True, **options)
        got = []
        while True:
            _, value, is_final = stream.next()
            got.append(value)
            if is_final is not False and (is_final or value == "the last error"):
                return got


def stat(server, model):
    return statistics(connect("http", server), model)[0]


# === senders of models that answer once ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_response_may_be_sent_instead_of_returned(server, protocol):
    for text in (
        "sender.send(out(1), FINAL); answer = [None]",
        "sender.send(out(1)); sender.send(flags=FINAL)",
        "sender.send(out(1), flags=FINAL)",
        "in_thread(lambda: (time.sleep(0.05), sender.send(out(1), FINAL))); answer = [None]",
        "get = request.get_response_sender; del sender; in_thread(lambda: (time.sleep(0.05), get().send(out(1), FINAL)))",
        "answer = [out(1)]",
    ):
        assert ask(server, text, protocol=protocol) == [1], text


def test_a_sent_response_is_there_before_execute_is_over(server):
    started = time.monotonic()
    assert ask(server, "sender.send(out(2), FINAL); time.sleep(1)") == [2]
    assert time.monotonic() - started < 0.9


def test_what_a_sender_refuses(server):
    def refused(model, *calls):
        tries = "\n".join(f"try: {call}\nexcept Exception as error: errors.append(type(error).__name__ + ': ' + str(error))" for call in calls)
        text = f"errors = []\n{tries}\nrequest.get_response_sender().send(pb_utils.InferenceResponse(error=pb_utils.TritonError(chr(10).join(errors))), FINAL)"
        if model == "many":
            with Stream(server) as stream:
                stream.send(model, code(text))
                return stream.next()[1].split("\n")
        return ask(server, text).split("\n")

    unable = "TritonModelException: Unable to send response. "
    for model in ("once", "many"):
        assert refused(model, "sender.send(out(1), 2)", "sender.send()", "sender.send(None, 0)", "sender.send('text')", "type(sender)()") == [
            unable + "Unsupported flag provided.",
            "TritonModelException: Inference Response object must be provided when the response flags is set to zero.",
            "TritonModelException: Inference Response object must be provided when the response flags is set to zero.",
            "TypeError: send(): incompatible function arguments. The following argument types are supported:",
            "    1. (self: c_python_backend_utils.InferenceResponseSender, response: c_python_backend_utils.InferenceResponse = None, flags: int = 0) -> None",
            "",
            "Invoked with: 'text', 0",
            "TypeError: c_python_backend_utils.InferenceResponseSender: No constructor defined!",
        ]
    assert refused("once", "sender.send(flags=FINAL)") == [unable + "Non-decoupled model cannot send complete final before sending a response."]
    late = """
sender.send(out(3), FINAL)
errors = []
for arguments in ((out(4),), (None, FINAL)):
    try: sender.send(*arguments)
    except pb_utils.TritonModelException as error: errors.append(str(error))
self.errors = errors
"""
    for model, first in (("once", "Non-decoupled model cannot send more than one response."), ("many", "Response sender has been closed.")):
        with Stream(server) as stream:
            stream.send(model, code(late))
            assert stream.next()[1] == 3
            stream.send(model, code("sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('|'.join(self.errors))), FINAL)"))
            assert stream.next()[1] == f"Unable to send response. {first}|Unable to send response. Response sender has been closed."


def test_a_response_is_not_sent_and_returned(server):
    assert ask(server, "sender.send(out(1)); answer = [out(2)]") == (
        "Failed to process the request(s) for model 'once_0', message: "
        "Unable to send response. Non-decoupled model cannot send more than one response."
    )
    assert ask(server, "sender.send(out(5), FINAL); answer = [out(6)]") == [5]
    assert ask(server, "answer = [out(1)]") == [1]


def test_a_forgotten_request_is_an_error_at_once(server):
    for text in ("pass", "answer = [None]", "del sender"):
        assert "the model let go of the request without a final response" in ask(server, text)
    with Stream(server) as stream:
        stream.send("many", code("sender.send(out(1)); sender.send(out(2))"))
        assert [stream.next()[1] for _ in range(2)] == [1, 2]
        assert "let go of the request after 2 responses without a final response" in stream.next()[1]
        # kept, it stays open until it is let go of
        stream.send("many", code("self.kept = request; sender.send(out(3))"))
        assert stream.next()[1] == 3
        stream.send("many", code("sender.send(out(4), FINAL)"))
        assert stream.next()[1] == 4
        stream.send("many", code("del self.kept; sender.send(out(5), FINAL)"))
        assert {stream.next()[1] for _ in range(2)} > {5}


# === decoupled models ===


def test_responses_come_in_the_order_in_which_they_were_sent(server):
    text = """
for number in range(1000):
    sender.send(out(*([number] * (1 if number % 7 else 20000))))
sender.send(flags=FINAL)
"""
    assert responses(server, text) == [*range(1000), None]


def test_threads_send_side_by_side(server):
    text = """
def some(first):
    for number in range(first, first + 100):
        sender.send(out(number))
threads = [threading.Thread(target=some, args=(first,)) for first in (0, 1000, 2000)]
[thread.start() for thread in threads]
in_thread(lambda: ([thread.join() for thread in threads], sender.send(flags=FINAL)))
"""
    got = responses(server, text)
    assert got[-1] is None and len(got) == 301
    for first in (0, 1000, 2000):
        assert [value for value in got[:-1] if first <= value < first + 1000] == list(range(first, first + 100))


def test_ends_and_errors_of_streams(server):
    error = "pb_utils.InferenceResponse(error=pb_utils.TritonError('{}', pb_utils.TritonError.NOT_FOUND))"
    assert responses(server, "sender.send(flags=FINAL)") == [None]
    assert responses(server, "sender.send(out(1), FINAL)") == [1]
    assert responses(server, f"sender.send(out(1)); sender.send({error.format('an error')}); sender.send(out(2)); sender.send(flags=FINAL)") == [
        1,
        "an error",
        2,
        None,
    ]
    assert responses(server, f"sender.send(out(1)); sender.send({error.format('the last error')}, FINAL)") == [1, "the last error"]


def test_an_exception_is_the_last_word_of_what_is_open(server):
    with Stream(server) as stream:
        stream.send("many", code("sender.send(out(1)); sender.send(out(2)); raise ValueError('in the middle')"))
        assert [stream.next()[1] for _ in range(2)] == [1, 2]
        assert stream.next()[1].startswith("Failed to process the request(s) for model 'many_0', message: ValueError: in the middle\n\nAt:\n  <string>(1): <module>\n")
        stream.send("many", code("answer = [out(1)]"))
        assert stream.next()[1] == (
            "Failed to process the request(s) for model 'many_0', message: "
            "Python model 'many' is using the decoupled mode and the execute function must return None."
        )
        stream.send("many", code("sender.send(out(1), FINAL); raise ValueError('nobody hears it')"))
        assert stream.next()[1] == 1
        stream.send("many", code("sender.send(out(2), FINAL)"))
        assert stream.next()[1] == 2 and stream.answers.empty()


def test_generate_and_its_events(server):
    text = "for number in range(3): sender.send(out(number, number, parameters={'number': number}))\nsender.send(flags=FINAL)"
    _, answer = post(server, "/v2/models/many/generate_stream", {"CODE": text})
    assert [(event["OUT"], event["number"]) for event in events(answer)] == [([number] * 2, number) for number in range(3)]
    _, answer = post(server, "/v2/models/many/generate", {"CODE": "sender.send(out(9), FINAL)"})
    assert (answer.status, json.loads(answer.read())["OUT"]) == (200, 9)
    _, answer = post(server, "/v2/models/once/generate", {"CODE": "sender.send(out(8), FINAL)"})
    assert json.loads(answer.read())["OUT"] == 8
    error = "sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('none', pb_utils.TritonError.NOT_FOUND)), FINAL)"
    for model, path in [("many", "generate"), ("once", "generate"), ("many", "generate_stream")]:
        _, answer = post(server, f"/v2/models/{model}/{path}", {"CODE": error})
        assert (answer.status, answer.read().decode().removeprefix("data: ").strip()) == (400, '{"error":"none"}')


def test_statistics_of_streams(server):
    before = stat(server, "many")
    responses(server, "sender.send(out(1)); sender.send(out(2)); sender.send(flags=FINAL)")
    after = stat(server, "many")
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    until(lambda: stat(server, "many")["execution_count"] == before["execution_count"] + 1, "execute to be over", 20)
    done = lambda one, index: one["response_stats"][index]["success"]["count"]  # noqa: E731
    assert all(done(after, index) == done(before, index) + 1 for index in ("0", "1"))
    before = stat(server, "once")
    ask(server, "sender.send(out(1), FINAL)")
    after = stat(server, "once")
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][part]["count"] == before["inference_stats"][part]["count"] + 1
    until(lambda: stat(server, "once")["execution_count"] == before["execution_count"] + 1, "execute to be over", 20)


SENDS_ERROR = "sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('no')), FINAL)"


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        ("once", SENDS_ERROR, ["no"]),
        ("once", "answer = [pb_utils.InferenceResponse(error=pb_utils.TritonError('no'))]", ["no"]),
        ("many", SENDS_ERROR, ["no"]),
        ("many", f"sender.send(out(1)); {SENDS_ERROR}", [1, "no"]),
    ],
)
def test_a_request_that_is_answered_with_an_error_was_executed(server, model, text, expected):
    counts = lambda: {part: stat(server, model)["inference_stats"][part]["count"] for part in ("success", "fail")}  # noqa: E731
    before = counts()
    with Stream(server) as stream:
        stream.send(model, code(text))
        assert [stream.next()[1] for _ in expected] == expected
    assert counts() == {"success": before["success"] + 1, "fail": before["fail"]}


# === cancelling ===


WAITS = """
self.heard = None
def wait():
    open({file!r}, "w").close()
    deadline = time.monotonic() + 30
    while not {who}.is_cancelled() and time.monotonic() < deadline:
        time.sleep(0.005)
    self.heard = {who}.is_cancelled()
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("", pb_utils.TritonError.CANCELLED)), FINAL)
{start}
"""


@pytest.mark.parametrize("model", ["once", "many"])
@pytest.mark.parametrize("who", ["sender", "request"])
@pytest.mark.parametrize("start", ["wait()", "in_thread(wait)"])
def test_a_model_hears_that_its_caller_has_left(server, model, who, start, tmp_path):
    def count():
        return stat(server, model)["inference_stats"]["fail"]["count"]

    before, file = count(), tmp_path / "runs"
    with Stream(server) as stream:
        text = WAITS.format(who=who, start=start, file=str(file))
        stream.send(model, code("assert not request.is_cancelled() and not sender.is_cancelled()\n" + text))
        until(file.exists, "the model to run", 20)
        stream.client.stop_stream(cancel_requests=True)
        until(lambda: count() > before, "the request to end", 20)
    with Stream(server) as stream:
        stream.send(model, code("sender.send(out(int(self.heard)), FINAL)"))
        assert stream.next()[1] == 1


def test_requests_without_a_sender_hear_it_as_well(server, tmp_path):
    file = tmp_path / "left"
    with Stream(server) as stream:
        stream.send("left", code(str(file)))
        until(file.with_suffix(".runs").exists, "the model to run", 20)
        stream.client.stop_stream(cancel_requests=True)
        until(lambda: file.exists() and file.read_text(), "the model to hear it", 20)
    assert file.read_text() == "[True]"


def test_a_model_says_that_it_gave_up(server):
    text = "sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('given up', pb_utils.TritonError.CANCELLED)), FINAL)"
    with pytest.raises(InferenceServerException) as raised:
        connect("grpc", server).infer("once", code(text))
    assert (raised.value.status(), raised.value.message()) == ("StatusCode.CANCELLED", "given up")


# === readers that stop ===


def test_a_reader_that_stops_holds_up_its_own_sender_only(server):
    text = """
self.sent = 0
def flood():
    while not sender.is_cancelled():
        sender.send(out(*range(100)))
        self.sent += 1
    sender.send(flags=FINAL)
in_thread(flood)
"""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.http))
        body = json.dumps({"CODE": text}).encode()
        slow.sendall(b"POST /v2/models/many/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with Stream(server) as stream:

            def sent():
                stream.send("many", code("sender.send(out(getattr(self, 'sent', 0)), FINAL)"))
                return stream.next()[1]

            seen = [0]
            until(lambda: seen.append(sent()) or len(seen) > 12 and seen[-1] > 0 and len(set(seen[-10:])) == 1, "the sender to wait", 30)
            assert seen[-1] < 20_000
    with Stream(server) as stream:
        stream.send("many", code("in_thread(lambda: (time.sleep(0.2), sender.send(out(threading.active_count()), FINAL)))"))
        assert stream.next()[1] is not None
        flooding = "sum(thread.name.startswith('Thread') for thread in threading.enumerate())"
        until(lambda: ask_many(stream, f"sender.send(out({flooding}), FINAL)") == 0, "the sender to go on", 20)


def ask_many(stream, text):
    stream.send("many", code(text))
    return stream.next()[1]


# === coroutines ===


def test_a_coroutine_is_awaited(server):
    client = connect("grpc", server)
    assert client.infer("awaited", number(1)).as_numpy("OUT").tolist() == [7]
    with pytest.raises(InferenceServerException) as raised:
        client.infer("awaited", number(1), request_id="fails")
    text = raised.value.message()
    assert text.startswith("Failed to process the request(s) for model 'awaited_0', message: ValueError: after a wait\n\nAt:\n"), text
    assert text.count("\n") == 4 and text.endswith("): fail\n"), "a coroutine does not know who awaits it"


def test_coroutines_of_decoupled_models_run_side_by_side(server):
    with Stream(server) as stream:
        for _ in range(20):
            stream.send("coroutine", number(3))
        assert max(stream.next()[1] for _ in range(20)) == 20
        stream.send("coroutine", number(-1), request_id="x")
        assert stream.next()[1].startswith("Failed to process the request(s) for model 'coroutine_0', message: ValueError: fewer than none\n\nAt:\n")
        stream.send("coroutine", number(0))
        assert stream.next()[1] == 20


# === further turns ===


def test_a_request_may_have_many_turns(server):
    with Stream(server) as stream:
        for count in (5, 6, 7):
            stream.send("turns", number(count, "INPUT", (1, 1)), request_id=str(count), enable_empty_final_response=True)
        answers = [stream.next() for _ in range(18)]
        for count in (5, 6, 7):
            assert [value for one, value, _ in answers if one == str(count)] == list(range(count - 1, -1, -1))
    client = connect("grpc", server)
    assert client.infer("third_turn", number(0, "INPUT", (1, 1))).as_numpy("OUTPUT").tolist() == [[3]]


def test_a_sender_may_be_used_in_further_turns_and_between_them(server):
    with Stream(server) as stream:
        for count in (200, 300, 400):
            stream.send("counts_beside", number(count, "INPUT", (1, 1)), request_id=str(count), enable_empty_final_response=True)
        answers = [stream.next() for _ in range(903)]
        for count in (200, 300, 400):
            assert [(value, is_final) for one, value, is_final in answers if one == str(count)] == [*((value, False) for value in range(count)), (None, True)]


def test_a_model_that_takes_no_turns_cannot_ask_for_one(server):
    text = "request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE); answer = [{}]"
    assert ask(server, text.format("None")) == (
        "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured to handle such a flag."
    )
    assert ask(server, text.format("out(1)")) == (
        "Failed to process the request(s) for model 'once_0', message: Expected a None object in the execute function return list for "
        "reschduled request, found type '<class 'c_python_backend_utils.InferenceResponse'>'."
    ).replace("<class 'c_python_backend_utils.InferenceResponse'>", found_type(server))
    assert ask(server, "request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL); answer = [out(1)]") == [1]


def found_type(server):
    """How a class of the package shows itself in that server's Python."""
    return ask(server, "raise ValueError(str(pb_utils.InferenceResponse))").split("ValueError: ", 1)[1].split("\n")[0]


def test_a_request_that_its_caller_left_and_its_model_kept_keeps_no_server_running(folder):
    with Server(folder, "--model-control-mode=explicit", "--load-model=many") as running:
        with Stream(running) as stream:
            stream.send("many", code("self.kept = sender; sender.send(out(3))"))
            assert stream.next()[1] == 3
            stream.client.stop_stream(cancel_requests=True)


def test_requests_that_are_open_end_at_once_with_their_worker(folder):
    with Server(folder, "--model-control-mode=explicit", "--load-model=many", expect_exit=None) as running:
        with Stream(running) as stream:
            stream.send("many", code("self.kept = sender; sender.send(out(3))"))
            assert stream.next()[1] == 3
            stream.send("many", code("import os; in_thread(lambda: (time.sleep(0.1), os._exit(3))); self.other = sender"))
            texts = [stream.next()[1] for _ in range(2)]
            assert all(text.startswith("Stub process 'many_0' is not healthy.") for text in texts), texts


def test_the_server_ends_while_requests_are_open(folder):
    with Server(folder, "--model-control-mode=explicit", "--load-model=many", "--exit-timeout-secs=2", expect_exit=None) as running:
        with Stream(running) as stream:
            stream.send("many", code("self.kept = request; sender.send(out(3))"))
            assert stream.next()[1] == 3
            started = time.monotonic()
            running.process.terminate()
            running.process.wait(scaled(20))
            assert time.monotonic() - started < scaled(15)
    with Server(folder, "--model-control-mode=explicit", "--load-model=many") as running:
        with Stream(running) as stream:
            stream.send("many", code("sender.send(out(3)); in_thread(lambda: (time.sleep(0.5), sender.send(out(4), FINAL)))"))
            assert stream.next()[1] == 3
            connect("http", running).unload_model("many")
            assert stream.next()[1] == 4
