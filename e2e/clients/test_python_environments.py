"""Which Python runs a model, and what surrounds it: interpreters, environments, requirements, backends written in Python, output."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from serving import ROOT, Server, program, until
from talking import connect, tensor

VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]

# Answers with what it sees, as JSON; imports the module that its request names.
MODEL = """
import importlib, json, os, sys
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            name = pb_utils.get_input_tensor_by_name(request, "MODULE").as_numpy().reshape(-1)[0].decode()
            module = importlib.import_module(name) if name else None
            facts = {
                "version": "%d.%d" % sys.version_info[:2],
                "prefix": os.path.realpath(sys.prefix),
                "numpy": np.__version__,
                "pb_utils": os.path.realpath(pb_utils.__file__),
                "variables": dict(os.environ),
                "word": getattr(module, "WORD", None),
                "pid": os.getpid(),
            }
            array = np.array([json.dumps(facts).encode()], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("FACTS", array)]))
        return responses
"""

CONFIG = """
backend: "{backend}"
input {{ name: "MODULE" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "FACTS" data_type: TYPE_STRING dims: [ 1 ] }}
instance_group {{ kind: KIND_CPU }}
{more}
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_model(repository, name="facts", code=MODEL, backend="python", parameters=None, more=""):
    """A model that says what it sees; `code` None leaves its version without a file."""
    more += "".join(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in (parameters or {}).items())
    write(repository / name / "config.pbtxt", CONFIG.format(backend=backend, more=more))
    (repository / name / "1").mkdir()
    if code is not None:
        write(repository / name / "1/model.py", code)
    return repository / name


def serve(repository, *settings, python=sys.executable, flags=(), **options):
    """A server with that interpreter, what it keeps in a folder of the test."""
    settings = [f"executable={python}", f"cache-directory={repository.parent}/cache", *settings]
    flags = [*(f"--backend-config=python,{setting}" for setting in settings), *flags]
    return Server(repository, *flags, **options)


def facts(server, model="facts", module=""):
    client = connect("http", server)
    given = tensor("http", "MODULE", np.array([module.encode()], dtype=np.object_), "BYTES")
    return json.loads(client.infer(model, [given]).as_numpy("FACTS")[0])


def load_failure(repository, *settings, model="facts", **options):
    """Why the model cannot be loaded."""
    flags = ["--model-control-mode=explicit", *options.pop("flags", [])]
    with serve(repository, *settings, flags=flags, wait="live", **options) as server, pytest.raises(InferenceServerException) as caught:
        connect("http", server).load_model(model)
    return caught.value.message()


def environment(folder, numpy=True):
    """A virtual environment with the packages of the one that runs the tests, or with none."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    if numpy:
        packages = next(folder.glob("lib/python3*/site-packages"))
        write(packages / "of_the_tests.pth", sysconfig.get_path("purelib") + "\n")
    return folder


def wheel(folder, name="of_the_test", word="from the wheel"):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"WORD = {word!r}\n")
        about = f"{name}-1.0.dist-info"
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")


def kept(repository, prefix):
    """Folders of that kind in the cache."""
    return [path for path in (repository.parent / "cache").iterdir() if path.name.startswith(prefix) and path.is_dir()]


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


# --- interpreters -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_supported_version_of_python_runs_a_model(repository, version):
    python = ROOT / "target/python-versions" / version / "bin/python"
    if not python.exists():
        pytest.skip(f"no Python {version} with NumPy: e2e/pb_utils/versions makes one where the interpreter is installed")
    write_model(repository)
    with serve(repository, python=python) as server:
        seen = facts(server)
    assert seen["version"] == version
    assert Path(seen["prefix"]) == python.parents[1].resolve()


def test_the_interpreter_may_come_from_the_path(repository, tmp_path):
    made = environment(tmp_path / "env")
    write_model(repository)
    path = f"{made}/bin:{os.environ['PATH']}"
    cache = f"--backend-config=python,cache-directory={tmp_path}/cache"
    with Server(repository, cache, argv=[program("tritonserver")], env={"PATH": path}) as server:
        assert facts(server)["prefix"] == str(made.resolve())


def test_a_missing_interpreter_is_the_reason_of_the_failed_load(repository, tmp_path):
    write_model(repository)
    reason = load_failure(repository, python="/nowhere/python3")
    assert "/nowhere/python3" in reason and "--backend-config=python,executable=PATH" in reason
    (tmp_path / "empty").mkdir()
    cache = f"--backend-config=python,cache-directory={tmp_path}/cache"
    argv = [program("tritonserver"), "--model-control-mode=explicit"]
    with Server(repository, cache, argv=argv, env={"PATH": f"{tmp_path}/empty"}, wait="live") as server:
        with pytest.raises(InferenceServerException, match="python3") as caught:
            connect("http", server).load_model("facts")
        assert f"{tmp_path}/empty" in caught.value.message() and "EXECUTION_ENV_PATH" in caught.value.message()
        index = connect("http", server).get_model_repository_index()
        assert "python3" in index[0]["reason"]


def test_missing_numpy_is_the_reason_of_the_failed_load(repository, tmp_path):
    write_model(repository)
    python = environment(tmp_path / "bare", numpy=False) / "bin/python"
    reason = load_failure(repository, python=python)
    assert "numpy" in reason and "pip install numpy" in reason and str(python) in reason, reason


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_an_old_interpreter_is_the_reason_of_the_failed_load(repository, version):
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [path for path in pyenv.glob(f"versions/{version}.*/bin/python") if path.exists()]
    if not found:
        pytest.skip(f"no Python {version} on this machine")
    write_model(repository)
    reason = load_failure(repository, python=found[0])
    assert version in reason and "3.8" in reason and "--backend-config=python,executable=PATH" in reason, reason


def test_a_program_that_is_no_python_is_the_reason_of_the_failed_load(repository):
    write_model(repository)
    reason = load_failure(repository, python="/bin/false")
    assert "/bin/false" in reason and "exit code 1" in reason, reason


# --- environments -------------------------------------------------------------------------------------------------------------------------


def test_a_model_brings_an_environment_as_a_folder(repository):
    model = write_model(repository, parameters={"EXECUTION_ENV_PATH": "$$TRITON_MODEL_DIRECTORY/env"})
    made = environment(model / "env")
    with (made / "bin/activate").open("a") as script:
        script.write("export FROM_ACTIVATE=yes\n")
    write(next(made.glob("lib/python3*/site-packages")) / "of_the_test.py", "WORD = 'from the environment'\n")
    with serve(repository, python="/nowhere/python3") as server:
        seen = facts(server, module="of_the_test")
    assert (seen["prefix"], seen["word"]) == (str(made.resolve()), "from the environment")
    variables = seen["variables"]
    assert variables["FROM_ACTIVATE"] == "yes"
    assert variables["VIRTUAL_ENV"] == str(made.resolve())
    assert variables["PATH"].startswith(f"{made.resolve()}/bin:")
    assert variables["LD_LIBRARY_PATH"].split(":")[0] == f"{made.resolve()}/lib"


def test_an_environment_in_the_models_folder_is_no_reason_to_load_it_anew(repository):
    model = write_model(repository, parameters={"EXECUTION_ENV_PATH": "$$TRITON_MODEL_DIRECTORY/env"})
    made = environment(model / "env")
    with serve(repository, flags=["--model-control-mode=explicit", "--load-model=facts"]) as server:
        before = facts(server)["pid"]
        subprocess.run([made / "bin/python", "-m", "compileall", "-q", model / "1"], check=True)
        assert (model / "1/__pycache__").is_dir()
        connect("http", server).load_model("facts")
        assert facts(server)["pid"] == before
        write(model / "1/model.py", MODEL + "# changed\n")
        connect("http", server).load_model("facts")
        assert facts(server)["pid"] != before


def test_models_bring_an_environment_as_an_archive(repository, tmp_path):
    made = environment(tmp_path / "env")
    write(next(made.glob("lib/python3*/site-packages")) / "of_the_test.py", "WORD = 'from the archive'\n")
    write(made / "bin/conda-unpack", "import sys; open(sys.prefix + '/fixed', 'w').close()\n")
    for name in ("one", "two"):
        model = write_model(repository, name, parameters={"EXECUTION_ENV_PATH": "$$TRITON_MODEL_DIRECTORY/env.tar.gz"})
        if name == "one":
            with tarfile.open(model / "env.tar.gz", "w:gz") as archive:
                archive.add(made, ".")
        else:
            shutil.copy(repository / "one/env.tar.gz", model / "env.tar.gz")
    shutil.rmtree(made)
    with serve(repository, python="/nowhere/python3") as server:
        seen = [facts(server, name, "of_the_test") for name in ("one", "two")]
    (unpacked,) = kept(repository, "env-")
    assert [(one["prefix"], one["word"]) for one in seen] == [(str(unpacked.resolve()), "from the archive")] * 2
    assert (unpacked / "fixed").exists(), "conda-unpack of the archive was run"


def test_an_activation_script_may_find_itself_by_its_name(repository):
    model = write_model(repository, parameters={"EXECUTION_ENV_PATH": "$$TRITON_MODEL_DIRECTORY/env"})
    made = environment(model / "env")
    write(made / "bin/activate", '[ "$0" != "${BASH_SOURCE[0]}" ] || exit 33\nexport FROM_ACTIVATE="$# $(dirname "${BASH_SOURCE[0]}")"\n')
    with serve(repository) as server:
        assert facts(server)["variables"]["FROM_ACTIVATE"] == f"0 {made.resolve()}/bin"


def test_an_environment_that_cannot_be_used_is_the_reason_of_the_failed_load(repository):
    model = write_model(repository, parameters={"EXECUTION_ENV_PATH": "$$TRITON_MODEL_DIRECTORY/env"})
    assert f"Failed to get the canonical path for {model}/env." in load_failure(repository)
    (model / "env").mkdir()
    expected = f"Path {model.resolve()}/env/bin/activate does not exist. The Python environment should contain an 'activate' script"
    assert expected in load_failure(repository)
    (model / "env").rmdir()
    write(model / "env", "this is no archive")
    assert "cannot unpack" in load_failure(repository)


# --- requirements -------------------------------------------------------------------------------------------------------------------------


def test_requirements_become_an_environment(repository):
    model = write_model(repository)
    wheel(model / "wheels")
    write(model / "requirements.txt", "--no-index\n--find-links wheels\nof-the-test==1.0\n")
    for _ in range(2):
        with serve(repository, "requirements=true") as server:
            seen = facts(server, module="of_the_test")
        assert seen["word"] == "from the wheel"
        (made,) = kept(repository, "requirements-")
        assert seen["prefix"] == str(made.resolve())
    with serve(repository) as server, pytest.raises(InferenceServerException, match="of_the_test"):
        facts(server, module="of_the_test")  # not without being asked


def test_requirements_that_cannot_be_installed_are_the_reason_of_the_failed_load(repository):
    model = write_model(repository)
    write(model / "1/requirements.txt", "--no-index\nthere-is-no-such-package\n")
    reason = load_failure(repository, "requirements=true")
    assert "No matching distribution found for there-is-no-such-package" in reason
    assert str(model / "1/requirements.txt") in reason and "PIP_INDEX_URL" in reason
    assert not kept(repository, "requirements-")


def test_without_a_network_requirements_say_so(repository):
    model = write_model(repository)
    write(model / "requirements.txt", "there-is-no-such-package==1\n")
    nobody = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    reason = load_failure(repository, "requirements=true", env=nobody)
    assert "refused" in reason and "No matching distribution found" in reason, reason
    assert "Without a network" in reason and "--find-links" in reason, reason


# --- backends written in Python -----------------------------------------------------------------------------------------------------------


def test_a_backend_may_be_written_in_python(repository, tmp_path):
    write(tmp_path / "backends/of_my_own/model.py", "import helper\n" + MODEL)
    write(tmp_path / "backends/of_my_own/helper.py", "WORD = 'from the backend'\n")
    for name in ("one", "two"):
        write_model(repository, name, code=None, backend="of_my_own")
    flags = [f"--backend-directory={tmp_path}/backends"]
    with serve(repository, flags=flags) as server:
        seen = [facts(server, name, "helper") for name in ("one", "two")]
        assert [one["word"] for one in seen] == ["from the backend"] * 2
        config = connect("http", server).get_model_config("one")
        assert (config["backend"], config["runtime"]) == ("of_my_own", "model.py")
        assert connect("http", server).get_model_metadata("one")["platform"] == "of_my_own"
        assert "have no effect" not in server.log()  # the field was set by the server


def test_a_backend_that_is_not_there_is_named(repository, tmp_path):
    write_model(repository, code=None, backend="of_my_own")
    (tmp_path / "backends/of_my_own").mkdir(parents=True)
    reason = load_failure(repository, flags=[f"--backend-directory={tmp_path}/backends"])
    assert "unable to find backend library for backend 'of_my_own', try specifying runtime on the model configuration." in reason
    assert f"none in {tmp_path}/backends/of_my_own" in reason


# --- the files of the worker ---------------------------------------------------------------------------------------------------------------


def test_the_worker_runs_from_a_folder_beside_the_program_or_from_the_cache(repository, tmp_path):
    write_model(repository)
    with serve(repository, env={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
        seen = facts(server)
    (stub,) = kept(repository, "stub-")
    assert Path(seen["pb_utils"]).is_relative_to(stub.resolve())
    assert list(stub.glob("*/__pycache__/_worker.*.pyc")), "the next worker need not compile the files"
    assert not list(repository.rglob("__pycache__")), "nothing is written into a model's folder"

    (tmp_path / "bin").mkdir()
    shutil.copy(program("tritonserver"), tmp_path / "bin/tritonserver")
    shutil.copytree(stub, tmp_path / "bin/python")
    with serve(repository, argv=[str(tmp_path / "bin/tritonserver")]) as server:
        assert Path(facts(server)["pb_utils"]).is_relative_to((tmp_path / "bin/python").resolve())


# --- processes ----------------------------------------------------------------------------------------------------------------------------


def test_what_a_model_prints_comes_out_as_it_is(repository):
    code = MODEL.replace(
        "        responses = []\n",
        "        responses = []\n"
        "        print('said by print')\n"
        "        print('said on stderr', file=sys.stderr)\n"
        "        import threading\n"
        "        threading.Thread(target=lambda: 1 / 0).start()\n",
    )
    write_model(repository, code=code)
    with serve(repository) as server:
        facts(server)
        for words in ("said by print", "said on stderr", "ZeroDivisionError"):
            until(lambda: words in server.log(), f"{words!r} in the log")
        log = server.log()
    for words in ("said by print", "said on stderr"):
        assert [line for line in log.splitlines() if words in line] == [words]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_worker_leaves_ctrl_c_to_the_server(repository):
    write_model(repository)
    with serve(repository) as server:
        pid = facts(server)["pid"]
        os.kill(pid, signal.SIGINT)
        assert facts(server)["pid"] == pid


def test_a_worker_dies_with_a_server_that_is_killed(repository):
    code = MODEL.replace("        responses = []\n", "        responses = []\n        import threading\n        threading.Thread(target=spin).start()\n")
    code += "\n\ndef spin():\n    while True:\n        pass\n"  # never looks at its channels
    write_model(repository, code=code)
    with serve(repository, expect_exit=None) as server:
        pid = facts(server)["pid"]
        assert not gone(pid)
        server.kill()
        until(lambda: gone(pid), "the worker to be gone")
