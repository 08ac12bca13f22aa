"""Caches and repository agents in C, compiled against our headers; and NVIDIA's own cache library, where `e2e/golden/install` has fetched it."""

import os
import subprocess

import numpy as np
import pytest
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

import real
from pages import read
from serving import ROOT, Server, until

CAPI = ROOT / "server" / "capi"
CONFIG = "backend: 'identity'\nmax_batch_size: 8\ninput { name: 'INPUT0' data_type: TYPE_INT32 dims: [1] }\noutput { name: 'OUTPUT0' data_type: TYPE_INT32 dims: [1] }\n"
CACHED = CONFIG + "response_cache { enable: true }\n"


def compile_library(source, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [os.environ.get("CC", "cc"), "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-o", path, "-I", CAPI / "include"]
    subprocess.run([*command, CAPI / "tests" / "libraries" / f"{source}.c"], check=True)


def model(folder, name, config):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(config)


def ask(client, name, value):
    array = np.array([[value]], np.int32)
    tensor = httpclient.InferInput("INPUT0", array.shape, "INT32")
    tensor.set_data_from_numpy(array)
    return client.infer(name, [tensor]).as_numpy("OUTPUT0").tolist()


def hits(client, name):
    statistics = client.get_inference_statistics(name)["model_stats"][0]
    return statistics["inference_stats"]["cache_hit"]["count"], statistics["inference_stats"]["cache_miss"]["count"]


def check_caches(models, flags, family, env=None):
    with Server(models, *flags, env=env) as server, httpclient.InferenceServerClient(server.url) as client:
        for value in (7, 7, 8, 7):
            assert ask(client, "cached", value) == [[value]]
        assert hits(client, "cached") == (2, 2)
        page = read(server.request("GET", "/metrics", port=server.metrics)[2].decode())
        assert family in page.types, "the library's own metrics are on the page"


def test_a_cache_in_c_keeps_responses(tmp_path):
    caches, models = tmp_path / "caches", tmp_path / "models"
    compile_library("cache", caches / "of_c" / "libtritoncache_of_c.so")
    model(models, "cached", CACHED)
    check_caches(models, [f"--cache-directory={caches}", "--cache-config=of_c,anything=1"], "entries_of_c")


def test_a_cache_that_refuses_ends_the_start(tmp_path):
    caches, models = tmp_path / "caches", tmp_path / "models"
    compile_library("cache", caches / "of_c" / "libtritoncache_of_c.so")
    model(models, "cached", CACHED)
    for flag, text in [("of_c,refuse=1", "the cache was told to refuse"), ("local,library=libtritoncache_gone.so", "libtritoncache_gone.so")]:
        server = Server(models, f"--cache-directory={caches}", f"--cache-config={flag}", wait=None, expect_exit=1)
        with server:
            until(lambda: server.process.poll() is not None, "the server ends")
        assert text in server.log()


@pytest.mark.skipif(not real.HOME.exists(), reason="skipped: e2e/golden/install has not fetched NVIDIA's libraries")
def test_the_cache_library_of_nvidia_keeps_responses(tmp_path):
    packages = next(real.HOME.glob("venv/lib/python3.*/site-packages"))
    model(tmp_path, "cached", CACHED)
    flags = [f"--cache-directory={packages}/pytriton/tritonserver/caches", "--cache-config=local,library=libtritoncache_local.so"]
    check_caches(tmp_path, [*flags, "--cache-config=local,size=1048576"], "nv_cache_util", env=real.command()[1])


@pytest.fixture
def agents(tmp_path):
    compile_library("agent", tmp_path / "agents" / "of_c" / "libtritonrepoagent_of_c.so")
    models = tmp_path / "models"
    models.mkdir()
    with Server(models, f"--repoagent-directory={tmp_path}/agents", "--model-control-mode=explicit") as server:
        with httpclient.InferenceServerClient(server.url) as client:
            yield tmp_path, client


def with_agent(folder, name, agent="of_c", **parameters):
    parameters["calls"] = folder / f"{name}.txt"
    given = "".join(f"parameters {{ key: '{key}' value: '{value}' }}" for key, value in parameters.items())
    model(folder / "models", name, f"{CONFIG}model_repository_agents {{ agents {{ name: '{agent}' {given} }} }}\n")
    return lambda: (folder / f"{name}.txt").read_text().splitlines() if (folder / f"{name}.txt").exists() else []


def test_an_agent_hears_what_becomes_of_a_model(agents):
    folder, client = agents
    calls = with_agent(folder, "followed")
    client.load_model("followed")
    assert ask(client, "followed", 3) == [[3]]
    assert calls() == ["initialize", "load", "load complete"]
    client.unload_model("followed")
    until(lambda: calls()[3:] == ["unload", "unload complete", "finalize"], "the agent hears of the end")


def test_an_agent_refuses_a_model(agents):
    folder, client = agents
    calls = with_agent(folder, "refused", refuse="yes")
    with pytest.raises(InferenceServerException):
        client.load_model("refused")
    reason = next(entry["reason"] for entry in client.get_model_repository_index() if entry["name"] == "refused")
    assert "the agent was told to refuse" in reason
    assert calls() == ["initialize", "load", "load fail", "finalize"]


def test_an_agent_has_a_model_loaded_from_elsewhere(agents):
    folder, client = agents
    calls = with_agent(folder, "moved", rows=3)
    client.load_model("moved")
    assert client.get_model_config("moved")["max_batch_size"] == 3
    assert ask(client, "moved", 5) == [[5]]
    client.load_model("moved")  # nothing has changed
    assert ask(client, "moved", 6) == [[6]]
    client.unload_model("moved")
    until(lambda: calls().count("initialize") == calls().count("finalize") == 2, "every load has ended")


def test_a_load_that_fails_later_is_told(agents):
    folder, client = agents
    calls = with_agent(folder, "late")
    config = folder / "models" / "late" / "config.pbtxt"
    config.write_text(config.read_text().replace("identity", "nosuchbackend"))
    with pytest.raises(InferenceServerException):
        client.load_model("late")
    assert calls() == ["initialize", "load", "load fail", "finalize"]


def test_an_agent_that_there_is_not_is_named_with_the_place(agents):
    folder, client = agents
    with_agent(folder, "nobody", agent="nobody")
    with pytest.raises(InferenceServerException):
        client.load_model("nobody")
    reason = next(entry["reason"] for entry in client.get_model_repository_index() if entry["name"] == "nobody")
    assert f"unable to find 'libtritonrepoagent_nobody.so' for repo agent 'nobody', searched: {folder}/agents" in reason
