"""Workers of Python models that hang, and the ends of workers: each is over in time, with all processes that the model had started."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import python_model
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, connect, is_ready, tensor

NUMBERS = python_model.tensors(["IN INT64 -1"], ["OUT INT64 -1"])
LIMIT = "--backend-config=python,stub-timeout-seconds=1"
CURE = r"--backend-config=python,stub-timeout-seconds sets the limit\)"

HANGS = """
import os, time

def hang(where):
    print("hangs in", where)
    while os.environ.get("HANG_NOWHERE") is None:
        time.sleep(0.01)

class TritonPythonModel:
    def initialize(self, args):
        if "%(where)s" == "initialize":
            hang("initialize")

    def execute(self, requests):
        if requests[0].request_id() == "hang":
            hang("execute")
        pid = np.array([os.getpid()], np.int64)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pid)]) for _ in requests]

    def finalize(self):
        if "%(where)s" == "finalize":
            hang("finalize")
"""

SLOW_THE_SECOND_TIME = """
import os, time

class TritonPythonModel:
    def initialize(self, args):
        mark = os.path.join(args["model_repository"], "second")
        if os.path.exists(os.path.join(args["model_repository"], "first")):
            with open(mark + ".part", "w") as file:
                file.write(str(os.getpid()))
            os.rename(mark + ".part", mark)
            time.sleep(3600)
        open(os.path.join(args["model_repository"], "first"), "w").close()

    def execute(self, requests):
        os._exit(1)
"""

HAS_CHILDREN = """
import multiprocessing, os, subprocess, time

class TritonPythonModel:
    def initialize(self, args):
        self.program = subprocess.Popen(["sleep", "3600"])
        self.process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
        self.process.start()

    def execute(self, requests):
        pids = np.array([os.getpid(), self.program.pid, self.process.pid], np.int64)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pids)]) for _ in requests]
"""


@pytest.fixture(scope="module")
def models(folder):
    for where in ("execute", "initialize", "finalize"):
        python_model.write(folder, f"hang_{where}", HANGS % {"where": where}, NUMBERS)
    python_model.write(folder, "children", HAS_CHILDREN, NUMBERS)
    return folder


def explicit(folder, *flags, **options):
    return Server(folder, "--model-control-mode=explicit", *flags, **options)


def pids_of(client, model, order="", protocol="http"):
    inputs = [tensor(protocol, "IN", np.zeros(1, np.int64), "INT64")]
    return [int(pid) for pid in client.infer(model, inputs, request_id=order).as_numpy("OUT")]


def runs(pid):
    """Whether the process is there, and not just a zombie that its new parent has not looked at."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def workers_of(server, model):
    return processes.workers(server.process.pid, model)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_execution_that_hangs_is_ended_at_the_limit_and_the_next_one_runs(models, protocol):
    with explicit(models, LIMIT, wait="live") as server:
        client = connect(protocol, server)
        client.load_model("hang_execute")
        [before] = pids_of(client, "hang_execute", protocol=protocol)
        with pytest.raises(InferenceServerException, match=r"'hang_execute_0(_0)?' is not healthy. \(execute did not end within 1 s .*" + CURE):
            pids_of(client, "hang_execute", "hang", protocol)
        assert pids_of(client, "hang_execute", protocol=protocol) != [before]
        assert not runs(before)
        assert is_ready(client, "hang_execute")


def test_without_the_setting_an_execution_may_take_its_time(models):
    with explicit(models, wait="live") as server:
        client = connect("http", server, concurrency=2)
        client.load_model("hang_execute")
        [pid] = pids_of(client, "hang_execute")
        waiting = client.async_infer("hang_execute", [tensor("http", "IN", np.zeros(1, np.int64), "INT64")], request_id="hang")
        until(lambda: Path(f"/proc/{pid}/wchan").exists() and runs(pid), "the worker")
        os.kill(pid, signal.SIGKILL)  # the test has the time, too, to see that nothing else ends it
        with pytest.raises(InferenceServerException, match="SIGKILL"):
            waiting.get_result(timeout=60)


def test_an_initialize_that_hangs_is_the_reason_why_the_load_failed(models):
    with explicit(models, LIMIT, wait="live") as server:
        client = connect("http", server)
        with pytest.raises(InferenceServerException, match=r"initialize did not end within 1 s .*" + CURE):
            client.load_model("hang_initialize")
        assert "initialize did not end within 1 s" in str(client.get_model_repository_index())
        assert workers_of(server, "hang_initialize") == []


def test_an_interpreter_that_hangs_is_the_reason_why_the_load_failed(models, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 3600\n")
    program.chmod(0o755)
    with explicit(models, LIMIT, f"--backend-config=python,executable={program}", wait="live") as server:
        client = connect("http", server)
        with pytest.raises(InferenceServerException, match=r"its interpreter did not start within 1 s .*" + CURE):
            client.load_model("hang_execute")


def test_a_finalize_that_hangs_delays_neither_unload_nor_exit_beyond_its_limit(models):
    with explicit(models, LIMIT, "--load-model=hang_finalize", wait="live") as server:
        client = connect("http", server)
        until(lambda: is_ready(client, "hang_finalize"), "the model")
        [pid] = pids_of(client, "hang_finalize")
        client.unload_model("hang_finalize")
        until(lambda: not runs(pid), "the end of the worker", 20)
        until(lambda: "finalize did not end within 1 s" in server.log(), "the reason in the log")
        client.load_model("hang_finalize")
        [pid] = pids_of(client, "hang_finalize")
    assert not runs(pid)


def test_an_unload_ends_a_restart_that_is_under_way(folder, tmp_path):
    python_model.write(tmp_path, "slow", SLOW_THE_SECOND_TIME, NUMBERS)
    with explicit(tmp_path, wait="live") as server:
        client = connect("http", server)
        client.load_model("slow")
        with pytest.raises(InferenceServerException, match="exit code 1"):
            pids_of(client, "slow")
        until((tmp_path / "slow" / "second").exists, "another worker")
        pid = int((tmp_path / "slow" / "second").read_text())
        assert runs(pid)
        client.unload_model("slow")
        until(lambda: not runs(pid), "the end of the worker that was starting", 20)
        until(lambda: workers_of(server, "slow") == [], "no worker")


def test_the_end_of_a_server_ends_a_restart_that_is_under_way(tmp_path):
    python_model.write(tmp_path, "slow", SLOW_THE_SECOND_TIME, NUMBERS)
    with Server(tmp_path) as server:
        client = connect("http", server)
        with pytest.raises(InferenceServerException, match="exit code 1"):
            pids_of(client, "slow")
        until((tmp_path / "slow" / "second").exists, "another worker")
        began = time.monotonic()
    assert time.monotonic() - began < 20
    until(lambda: not runs(int((tmp_path / "slow" / "second").read_text())), "the end of the worker")


def test_processes_of_a_model_end_with_its_worker(models):
    with explicit(models, wait="live") as server:
        client = connect("http", server)
        client.load_model("children")
        before = pids_of(client, "children")
        assert all(map(runs, before))
        os.kill(before[0], signal.SIGKILL)
        until(lambda: not any(map(runs, before)), "the end of all of them")
        until(lambda: is_ready(client, "children"), "a new worker")
        after = pids_of(client, "children")
        assert not set(before) & set(after) and all(map(runs, after))
        client.unload_model("children")
        until(lambda: not any(map(runs, after)), "the end of all of them")


def test_processes_of_models_end_when_the_exit_timeout_passes(models):
    flags = ("--load-model=hang_execute", "--load-model=children", "--exit-timeout-secs=1")
    with explicit(models, *flags, expect_exit=1) as server:
        client = connect("http", server, concurrency=2)
        pids = pids_of(client, "children")
        hanging = client.async_infer("hang_execute", [tensor("http", "IN", np.zeros(1, np.int64), "INT64")], request_id="hang")
        until(lambda: "hangs in execute" in server.log(), "the request that hangs")
    with pytest.raises(Exception):  # noqa: B017 - the connection is gone, in one way or another
        hanging.get_result(timeout=10)
    until(lambda: not any(map(runs, pids)), "the end of every process")


def test_nothing_of_a_server_that_is_killed_stays(models):
    before = set(os.listdir("/dev/shm"))
    with explicit(models, "--load-model=hang_execute", wait="live", expect_exit=None) as server:
        client = connect("http", server)
        until(lambda: is_ready(client, "hang_execute"), "the model")
        [pid] = pids_of(client, "hang_execute")
        server.process.kill()
        until(lambda: not runs(pid), "the end of the worker")
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "triton" in name]
