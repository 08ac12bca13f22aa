"""Poll mode over both protocols: models follow their folders, callers notice nothing of a reload, nobody else loads and unloads."""

import shutil
import threading

import graphs
import make
import onnx
import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, add_one, connect, is_ready

POLL = ("--model-control-mode=poll", "--repository-poll-secs=1")


def states(client):
    """The index: what is READY, and the reason where there is one."""
    index = client.get_model_repository_index()
    entries = index if isinstance(index, list) else index.models
    field = (lambda entry, name: entry.get(name, "")) if isinstance(index, list) else getattr
    return {(field(one, "name"), field(one, "version")): (field(one, "state"), field(one, "reason")) for one in entries}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_models_follow_their_folders(tmp_path, protocol):
    make.versions(tmp_path, name="a", numbers=(1,))
    with Server(tmp_path, *POLL) as server:
        client = connect(protocol, server)
        assert add_one(protocol, client, "a") == 1
        make.versions(tmp_path, name="b", numbers=(1,))
        until(lambda: is_ready(client, "b"), "b to come")
        (tmp_path / "a" / "2").mkdir()
        onnx.save(graphs.add(2), tmp_path / "a" / "2" / "model.onnx")
        until(lambda: is_ready(client, "a", "2") and not is_ready(client, "a", "1"), "version 2 of a in place of 1")
        assert add_one(protocol, client, "a") == 2
        shutil.rmtree(tmp_path / "b")
        until(lambda: states(client) == {("a", "1"): ("UNAVAILABLE", "unloaded"), ("a", "2"): ("READY", "")}, "b to go")
        assert server.status("/v2/health/ready") == 200
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed if polling is enabled"):
                call("a")


def test_a_file_that_is_half_written_takes_nothing_down(tmp_path):
    make.versions(tmp_path, name="m", numbers=(1,))
    model = tmp_path / "m" / "1" / "model.onnx"
    with Server(tmp_path, *POLL) as server:
        client = connect("http", server)
        failures, is_over = [], threading.Event()

        def ask():
            own = connect("http", server)
            while not is_over.is_set():
                try:
                    assert add_one("http", own, "m") in (1, 5)
                except Exception as error:  # whatever it is, a caller has noticed
                    failures.append(error)

        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            new = graphs.add(5).SerializeToString()
            model.write_bytes(new[: len(new) // 2])  # and the writer stalls
            until(lambda: states(client)["m", "1"][1] != "", "the reason of the half file in the index")
            assert states(client)["m", "1"][0] == "READY" and server.status("/v2/health/ready") == 200
            model.write_bytes(new)
            until(lambda: add_one("http", client, "m") == 5, "the whole file")
            until(lambda: states(client)["m", "1"] == ("READY", ""), "the reason to be gone")
        finally:
            is_over.set()
            for caller in callers:
                caller.join()
        assert not failures, failures[:3]


def test_a_server_stops_at_once_while_it_polls(tmp_path):
    """Leaving the server expects exit code 0."""
    make.versions(tmp_path, name="m", numbers=(1,))
    with Server(tmp_path, "--model-control-mode=poll", "--repository-poll-secs=3600", deadline=10) as server:
        assert add_one("http", connect("http", server), "m") == 1


def test_a_start_with_a_broken_model_ends_the_server_unless_told_otherwise(tmp_path):
    make.versions(tmp_path, name="m", numbers=(1,))
    good = (tmp_path / "m" / "1" / "model.onnx").read_bytes()
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"junk")
    with Server(tmp_path, *POLL, wait=None, expect_exit=1) as server:
        until(lambda: server.process.poll() is not None, "the server to end", 30)
        assert "error: creating server: Internal - failed to load all models" in server.log()
    with Server(tmp_path, *POLL, "--exit-on-error=false", wait="live") as server:
        until(lambda: "Started HTTPService" in server.log(), "the end of the start")
        assert server.status("/v2/health/ready") == 400
        (tmp_path / "m" / "1" / "model.onnx").write_bytes(good)
        until(lambda: server.status("/v2/health/ready") == 200, "the mended model")
