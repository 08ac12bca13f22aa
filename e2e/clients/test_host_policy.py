"""Host policies: instances, and the workers of Python models, run on the processors that the command line says."""

import os

import make
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, add_one, connect, tensor

# Answers with the processors that the worker's threads may run on, one bit each; those of threads that came with the import, too.
MODEL = """
import os
import threading

import numpy as np
import triton_python_backend_utils as pb_utils

came_early = threading.Event()
helper = threading.Thread(target=came_early.wait, daemon=True)
helper.start()


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def execute(self, requests):
        sets = {tuple(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")}
        bits = [sum(1 << core for core in cores) for cores in sorted(sets)]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([bits], np.int64))]) for _ in requests]
"""
CONFIG = """
backend: "python"
max_batch_size: 4
input {{ name: "IN" data_type: TYPE_INT64 dims: [ 1 ] }}
output {{ name: "OUT" data_type: TYPE_INT64 dims: [ -1 ] }}
instance_group {{ kind: KIND_CPU {} }}
"""


def processors(protocol, client, model):
    """Bit sets of processors of the worker's threads, each once."""
    given = tensor(protocol, "IN", np.zeros((1, 1), np.int64), "INT64")
    return client.infer(model, [given]).as_numpy("OUT").reshape(-1).tolist()


def write(folder, name, group=""):
    make.write(folder, name, CONFIG.format(group), {"1": MODEL.encode()}, "model.py")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_workers_run_where_the_policy_of_their_instance_says(tmp_path, protocol):
    cores = sorted(os.sched_getaffinity(0))
    first, last = cores[0], cores[-1]
    if first == last:
        pytest.skip("this machine lets the tests use one processor only")
    write(tmp_path, "named", 'host_policy: "near"')
    write(tmp_path, "unnamed")
    write(tmp_path, "free", 'host_policy: "unknown"')
    make.versions(tmp_path, name="onnx", numbers=(1,))
    flags = [f"--host-policy=near,cpu-cores={first}-{first}", f"--host-policy=cpu,cpu-cores={last}-{last}"]
    with Server(tmp_path, *flags) as server:
        client = connect(protocol, server)
        assert processors(protocol, client, "named") == [1 << first]
        assert processors(protocol, client, "unnamed") == [1 << last]
        assert processors(protocol, client, "free") == [sum(1 << core for core in cores)]
        assert add_one(protocol, client, "onnx") == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_policy_that_cannot_be_followed_fails_the_load_in_triton_s_words(tmp_path, protocol):
    write(tmp_path, "m")
    with Server(tmp_path, "--model-control-mode=explicit", "--host-policy=cpu,cpu-cores=0") as server:
        with pytest.raises(InferenceServerException) as caught:
            connect(protocol, server).load_model("m")
        format_ = "host policy setting 'cpu-cores' format is '<lower_cpu_core_id>-<upper_cpu_core_id>'. Got 0;"
        assert f"version 1 is at UNAVAILABLE state: Invalid argument: {format_}" in caught.value.message()
    with Server(tmp_path, "--host-policy=cpu", wait=None, expect_exit=1) as server:
        until(lambda: server.process.poll() is not None, "the server to refuse the flag", 30)
        assert "--host-policy option format is '<policy name>,<setting>=<value>'. Got cpu" in server.log()
