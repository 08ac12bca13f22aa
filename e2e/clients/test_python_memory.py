"""Memory that Python models share with the server: which tensors are copied, how it grows, and that it is given back."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import processes
import pytest
import python_model
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, connect, tensor

MIB = 1 << 20
LARGE = MIB // 4
"""Numbers in a tensor of 1 MiB."""

ONE = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"])
PLACED = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1", "PLACE INT64 4"])

# Where an array lies: inode of the memory file, offset of the array, start and end of the mapping. All 0 if it lies in none.
PLACE = """
def place(array):
    address = array.__array_interface__["data"][0]
    for line in open("/proc/self/maps"):
        extent, _, _, _, inode = line.split()[:5]
        start, end = (int(number, 16) for number in extent.split("-"))
        if start <= address < end and "memfd:" in line:
            return np.array([int(inode), address - start, start, end], np.int64)
    return np.zeros(4, np.int64)

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            array = request.inputs()[0].as_numpy()
            where = place(array)
            {change}
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array), pb_utils.Tensor("PLACE", where)]))
        return responses
"""
VIEW = PLACE.format(change="pass")
IN_PLACE = PLACE.format(change="array += 1")
FRESH = PLACE.format(change="array = array + 1")

KEEPING = """
class TritonPythonModel:
    def initialize(self, args):
        self.kept = []

    def execute(self, requests):
        responses = []
        for request in requests:
            array = request.inputs()[0].as_numpy()
            self.kept.append(array)
            sums = np.array([kept.sum() for kept in self.kept], np.float32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", sums)]))
        return responses
"""


ASKING = """
class TritonPythonModel:
    def execute(self, requests):
        array = requests[0].inputs()[0].as_numpy()
        before = array.copy()
        question = pb_utils.InferenceRequest(model_name="in_place", requested_output_names=["OUT", "PLACE"], inputs=[pb_utils.Tensor("IN", array)])
        answer = question.exec()
        if answer.has_error():
            raise answer.error()
        if not (array == before).all():
            raise ValueError("the input was changed")
        return [pb_utils.InferenceResponse(answer.output_tensors())]
"""

FAILING = """
class TritonPythonModel:
    def execute(self, requests):
        arrays = [request.inputs()[0].as_numpy() for request in requests]
        raise ValueError("not today")
"""

DROPPING = """
class TritonPythonModel:
    last = None

    def execute(self, requests):
        self.last, before = requests[0].inputs()[0].as_numpy(), self.last
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.last if before is None else before)])]
"""


def pipeline(steps, outputs):
    """An ensemble; each step is (model, input, {output: tensor})."""
    text = 'platform: "ensemble"\ninput [{ name: "IN" data_type: TYPE_FP32 dims: [-1] }]\n'
    for name, kind in outputs.items():
        text += f'output [{{ name: "{name}" data_type: TYPE_{kind} dims: [-1] }}]\n'
    body = ""
    for model, source, targets in steps:
        maps = "".join(f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in targets.items())
        body += f'step [{{ model_name: "{model}" model_version: -1 input_map {{ key: "IN" value: "{source}" }} {maps} }}]\n'
    return text + f"ensemble_scheduling {{ {body} }}\n"


def write_pipeline(folder, name, *args):
    place = Path(folder, name)
    (place / "1").mkdir(parents=True)
    (place / "config.pbtxt").write_text(pipeline(*args))


@pytest.fixture(scope="module")
def server(folder):
    for name, code in (("view", VIEW), ("in_place", IN_PLACE), ("fresh", FRESH)):
        python_model.write(folder, name, code, PLACED)
    python_model.write(folder, "keeping", KEEPING, ONE)
    python_model.write(folder, "asking", ASKING, PLACED)
    kinds = {"FIRST": "INT64", "SECOND": "INT64", "OUT": "FP32"}
    for first in ("view", "in_place", "fresh"):
        steps = [(first, "IN", {"OUT": "between", "PLACE": "FIRST"}), ("view", "between", {"OUT": "OUT", "PLACE": "SECOND"})]
        write_pipeline(folder, f"{first}_then_view", steps, kinds)
    both = [("in_place", "IN", {"OUT": "OUT", "PLACE": "FIRST"}), ("in_place", "IN", {"OUT": "OTHER", "PLACE": "SECOND"})]
    write_pipeline(folder, "both_write", both, {**kinds, "OTHER": "FP32"})
    settings = ["shm-region-prefix-name=ours_", f"shm-default-byte-size={4 * MIB}", f"shm-growth-byte-size={3 * MIB}", "shm-idle-seconds=1"]
    with Server(folder, *(f"--backend-config=python,{setting}" for setting in settings)) as running:
        yield running


def ask(server, protocol, model, data):
    return connect(protocol, server).infer(model, [tensor(protocol, "IN", data, "FP32")])


def workers(server):
    """Process ids of the workers."""
    return processes.children(server.process.pid)


def mapped(pid, name="ours_"):
    """Inode and length of every memory file that a process has mapped."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if f"memfd:{name}" in line:
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            found.append((int(line.split()[4]), end - start))
    return found


def memory(server):
    """Bytes that the server and its workers take together, shared pages counted once."""
    total = 0
    for pid in [server.process.pid, *workers(server)]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["view", "in_place", "fresh"])
def test_a_large_input_is_read_where_the_request_was_received(server, protocol, model):
    data = np.random.default_rng(1).random(3 * 640 * 640, np.float32)
    result = ask(server, protocol, model, data)
    np.testing.assert_array_equal(result.as_numpy("OUT"), data if model == "view" else data + 1)
    _inode, offset, _start, _end = result.as_numpy("PLACE")
    # what is copied begins with its segment; what is received there, behind the head of the request, at an aligned place
    assert offset > 0 and offset % 64 == 0


def test_segments_are_used_again(server):
    data = np.ones(LARGE, np.float32)
    inodes = {int(ask(server, "http", "view", data).as_numpy("PLACE")[0]) for _ in range(20)}
    assert len(inodes) <= 5, "a pause of a second lets one go, and there are not many"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_steps_of_an_ensemble_pass_tensors_by_reference(server, protocol):
    data = np.random.default_rng(2).random(LARGE, np.float32)
    for first in ("view", "in_place", "fresh"):
        result = ask(server, protocol, f"{first}_then_view", data)
        np.testing.assert_array_equal(result.as_numpy("OUT"), data if first == "view" else data + 1)
        (one, _, *_), (two, offset, *_) = result.as_numpy("FIRST"), result.as_numpy("SECOND")
        if first == "fresh":
            # it lies in the memory that the first worker wrote it into, behind the word that says that it is in use
            assert one != two and offset == 64
        else:
            assert one == two


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_writes_into_its_input_changes_it_for_nobody_else(server, protocol):
    data = np.random.default_rng(3).random(LARGE, np.float32)
    result = ask(server, protocol, "both_write", data)
    np.testing.assert_array_equal(result.as_numpy("OUT"), data + 1)
    np.testing.assert_array_equal(result.as_numpy("OTHER"), data + 1)
    assert result.as_numpy("FIRST")[0] != result.as_numpy("SECOND")[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_input_that_is_passed_on_to_another_model_stays_as_it_is(server, protocol):
    data = np.random.default_rng(4).random(LARGE, np.float32)
    result = ask(server, protocol, "asking", data)
    np.testing.assert_array_equal(result.as_numpy("OUT"), data + 1)
    _inode, offset, start, end = result.as_numpy("PLACE")
    assert offset == 64 and end > start, "it was copied once, by the worker that asks, behind the head of a segment"


def test_a_model_may_keep_its_inputs(server):
    client, sums = connect("http", server), []
    for number in range(40):
        data = np.full(LARGE, number, np.float32)
        sums.append(data.sum())
        result = client.infer("keeping", [tensor("http", "IN", data, "FP32")])
        np.testing.assert_array_equal(result.as_numpy("OUT"), np.array(sums, np.float32))


def test_names_and_sizes_of_segments_are_those_of_the_settings(server):
    ask(server, "http", "fresh", np.ones(LARGE, np.float32))
    ask(server, "http", "fresh", np.ones(5 * LARGE, np.float32))
    sizes = {length for pid in [server.process.pid, *workers(server)] for _, length in mapped(pid)}
    # at least 4 MiB, rounded up to 3 MiB; as many times 3 MiB as it takes beyond
    assert sizes and all(size >= 6 * MIB and size % (3 * MIB) == 0 for size in sizes), sizes
    assert not [entry for entry in os.listdir("/dev/shm") if entry.startswith("ours_")]


def test_memory_grows_with_tensors_and_is_given_back(folder):
    flags = ("--model-control-mode=explicit", "--load-model=fresh", "--backend-config=python,shm-idle-seconds=1")
    with Server(folder, *flags) as server:
        data = np.ones(32 * LARGE, np.float32)
        ask(server, "http", "fresh", data[:LARGE])
        before, largest, is_over = memory(server), [0], threading.Event()

        def watch():
            while not is_over.wait(0.01):
                largest[0] = max(largest[0], memory(server))

        watcher = threading.Thread(target=watch)
        watcher.start()
        askers = [threading.Thread(target=ask, args=(server, protocol, "fresh", data)) for protocol in PROTOCOLS * 3]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        is_over.set()
        watcher.join()
        assert largest[0] > before + 64 * MIB
        until(lambda: memory(server) < before + 32 * MIB, "the memory of large tensors is given back")
        ask(server, "http", "fresh", data)


def test_a_model_that_keeps_too_much_hears_of_the_limit_and_others_go_on(folder):
    flags = ("--model-control-mode=explicit", "--load-model=keeping", "--load-model=view", f"--backend-config=python,shm-max-byte-size={16 * MIB}")
    with Server(folder, *flags) as server:
        data = np.ones(LARGE, np.float32)
        for _ in range(8):
            ask(server, "http", "keeping", data)
        for protocol in PROTOCOLS:
            with pytest.raises(InferenceServerException) as raised:
                ask(server, protocol, "keeping", data)
            assert raised.value.message().startswith(
                f"no shared memory for an input of {MIB} bytes: the model instance still looks at 8 inputs of {8 * MIB} bytes in all"
            ), raised.value
        np.testing.assert_array_equal(ask(server, "http", "view", data).as_numpy("OUT"), data)
        # what fits into a message takes no shared memory
        assert ask(server, "http", "keeping", data[:10]).as_numpy("OUT").shape == (9,)


def test_inputs_of_requests_that_fail_and_inputs_that_are_dropped_later_are_taken_back(folder):
    python_model.write(folder, "failing", FAILING, ONE)
    python_model.write(folder, "dropping", DROPPING, ONE)
    models = ("--model-control-mode=explicit", "--load-model=failing", "--load-model=dropping")
    with Server(folder, *models, f"--backend-config=python,shm-max-byte-size={8 * MIB}") as server:
        data = np.ones(LARGE, np.float32)
        for _ in range(12):
            with pytest.raises(InferenceServerException, match="not today"):
                ask(server, "http", "failing", data)
        for _ in range(12):
            np.testing.assert_array_equal(ask(server, "http", "dropping", data).as_numpy("OUT"), data)


def test_a_killed_server_leaves_nothing(folder):
    before = set(os.listdir("/dev/shm"))
    with Server(folder, "--model-control-mode=explicit", "--load-model=fresh", "--load-model=keeping", expect_exit=None) as server:
        for model in ("fresh", "keeping"):
            ask(server, "http", model, np.ones(LARGE, np.float32))
        pids = workers(server)
        assert len(pids) == 2
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        until(lambda: not any(is_running(pid) for pid in pids), "the workers end with the server")
    assert set(os.listdir("/dev/shm")) <= before


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("setting", ["shm-default-byte-size=much", "shm-growth-byte-size=0", "shm-max-byte-size=-1", "shm-idle-seconds=1.5"])
def test_a_setting_that_is_no_number_says_so(folder, setting):
    key, value = setting.split("=")
    flags = ("--model-control-mode=explicit", "--load-model=view", "--exit-on-error=false", f"--backend-config=python,{setting}")
    with Server(folder, *flags, wait="live") as server:
        until(lambda: "python" in server.request("POST", "/v2/repository/index")[2].decode(), "the reason of the failed load")
        reason = server.request("POST", "/v2/repository/index")[2].decode()
        unit = "seconds" if "seconds" in key else "bytes"
        assert f"--backend-config=python,{key} must be a number of {unit}, not '{value}'" in reason
