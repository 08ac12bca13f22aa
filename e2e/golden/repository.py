"""The model repositories the recorded cases talk to.

Written twice from the same lines: with Triton's Python backend for recording, with the identity backend for replaying.
Both copy INPUT<k> to OUTPUT<k>; everything the cases look at happens before or after that.
"""

from pathlib import Path

import pipelines
import stateful

MODEL_PY = '''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        wanted = request.requested_output_names()
        tensors = [(t.name().replace("INPUT", "OUTPUT"), t.as_numpy()) for t in request.inputs()]
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, data) for name, data in tensors if name in wanted])
'''


def tensors(inputs):
    """Configuration text of the inputs given as (data type, dims), and of the outputs that mirror them."""
    line = '{{ name: "{}{}" data_type: TYPE_{} dims: {} }}'
    ins = ", ".join(line.format("INPUT", k, kind, dims) for k, (kind, dims) in enumerate(inputs))
    outs = ", ".join(line.format("OUTPUT", k, kind, dims) for k, (kind, dims) in enumerate(inputs))
    return f"input [ {ins} ]\noutput [ {outs} ]\n"


TYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "STRING"]

# name -> configuration without name and backend
GOOD = {
    "single": "max_batch_size: 8\n" + tensors([("FP32", [4])]),
    "two": "max_batch_size: 8\n" + tensors([("FP32", [4]), ("FP32", [4])]),
    "nobatch": "max_batch_size: 0\n" + tensors([("FP32", [2, 2])]),
    "wild": "max_batch_size: 0\n" + tensors([("FP32", [-1])]),
    "wilder": "max_batch_size: 0\n" + tensors([("FP32", [-1, -1])]),
    "wildbatch": "max_batch_size: 4\n" + tensors([("INT32", [-1, 3])]),
    "text": "max_batch_size: 4\n" + tensors([("STRING", [2])]),
    "text_one": "max_batch_size: 0\n" + tensors([("STRING", [1])]),
    "batched": "max_batch_size: 8\n"
    + tensors([("FP32", [4])])
    + "dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 100 }\n",
    "optional": 'max_batch_size: 4\ninput [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] }, '
    '{ name: "INPUT1" data_type: TYPE_FP32 dims: [ 4 ] optional: true } ]\n'
    'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n',
    **{f"type_{kind.lower()}": "max_batch_size: 0\n" + tensors([(kind, [-1])]) for kind in TYPES},
}

# Several versions: folder names, then the policy.
VERSIONED = {
    "versions_specific": (["1", "2", "3"], "version_policy: { specific { versions: [ 1, 3 ] } }\n"),
    "versions_all": (["1", "2"], "version_policy: { all { } }\n"),
    "versions_latest": (["1", "2", "7"], ""),
}

# Broken before a backend sees them: the answers do not depend on the backend.
BROKEN = {
    "bad_field": "max_batch_size: 1\nno_such_field: 3\n" + tensors([("FP32", [4])]),
    "bad_syntax": "max_batch_size: \n{" + tensors([("FP32", [4])]),
    "bad_enum": "max_batch_size: 1\n" + tensors([("FLOAT", [4])]),
    "bad_dims": 'max_batch_size: 1\ninput [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 0 ] } ]\n'
    + 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n',
    "bad_batch": "max_batch_size: -1\n" + tensors([("FP32", [4])]),
    "bad_preferred": "max_batch_size: 4\n" + tensors([("FP32", [4])]) + "dynamic_batching { preferred_batch_size: [ 8 ] }\n",
    "zero_preferred": "max_batch_size: 4\n" + tensors([("FP32", [4])]) + "dynamic_batching { preferred_batch_size: [ 0 ] }\n",
    "bad_priority": "max_batch_size: 4\n"
    + tensors([("FP32", [4])])
    + "dynamic_batching { priority_levels: 2 default_priority_level: 5 }\n",
    "bad_reshape": "max_batch_size: 0\n"
    + 'input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 3 ] } } ]\n'
    + 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n',
    "no_data_type": 'max_batch_size: 1\ninput [ { name: "INPUT0" dims: [ 4 ] } ]\n'
    + 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n',
    "no_dims": 'max_batch_size: 1\ninput [ { name: "INPUT0" data_type: TYPE_FP32 } ]\n'
    + 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n',
    "no_input_name": "max_batch_size: 1\ninput [ { data_type: TYPE_FP32 dims: [ 4 ] } ]\n"
    + 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n',
    "gpu_group": "max_batch_size: 1\n" + tensors([("FP32", [4])]) + "instance_group [ { kind: KIND_GPU gpus: [ 0 ] } ]\n",
    "cpu_group_gpus": "max_batch_size: 1\n" + tensors([("FP32", [4])]) + "instance_group [ { kind: KIND_CPU gpus: [ 0 ] } ]\n",
    "model_group_gpus": "max_batch_size: 1\n" + tensors([("FP32", [4])]) + "instance_group [ { kind: KIND_MODEL gpus: [ 0 ] } ]\n",
}

def limited(*resources, priority=0, count=1):
    """Instances that need resources: (name, count), or (name, count, True) for a global one."""
    lines = ", ".join(f'{{ name: "{name}" count: {n} {"global: true" if shared else ""} }}' for name, n, shared in ((*one, False)[:3] for one in resources))
    rate = f"rate_limiter {{ resources [ {lines} ] priority: {priority} }}" if resources else f"rate_limiter {{ priority: {priority} }}"
    return "max_batch_size: 8\n" + tensors([("FP32", [4])]) + f"instance_group [ {{ kind: KIND_CPU count: {count} {rate} }} ]\n"


RATE_LIMITED = {
    "r_priority_only": limited(priority=2),
    "r_declared": limited(("R1", 2)),
    "r_declared_global": limited(("G", 3, True)),
    "r_not_declared": limited(("R9", 7)),
    "r_not_declared_more": limited(("R9", 9)),
    "r_too_many": limited(("R1", 5)),
    "r_too_many_global": limited(("G", 4, True)),
    "r_other_kind": limited(("R1", 1, True)),
    "r_other_kind_of_own": limited(("R8", 1), ("R8", 1, True)),
    "r_two_instances": limited(("R1", 2), count=2),
    "r_no_name": limited(("", 1)),
    "r_no_count": limited(("R7", 0)),
}


def write_model(root, name, config, backend, versions=("1",), code=MODEL_PY):
    """One model folder. `backend` is python or identity, or None where the configuration names its own."""
    folder = Path(root) / name
    folder.mkdir(parents=True)
    head = f'name: "{name}"\n' if "name_is_given" not in config else ""
    head += f'backend: "{backend}"\n' if backend else ""
    (folder / "config.pbtxt").write_text(head + config.replace("name_is_given", "name"))
    for version in versions:
        (folder / version).mkdir()
        if backend == "python":
            (folder / version / "model.py").write_text(code)
    return folder


def write_good(root, backend):
    """Everything that loads."""
    for name, config in GOOD.items():
        write_model(root, name, config, backend)
    for name, (versions, policy) in VERSIONED.items():
        write_model(root, name, "max_batch_size: 8\n" + tensors([("FP32", [4])]) + policy, backend, versions)
    labels = 'max_batch_size: 4\ninput [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
    labels += 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]\n'
    folder = write_model(root, "labelled", labels, backend)
    (folder / "labels.txt").write_text("cat\ndog\nbird\nfish\n")


def write_broken(root, backend):
    """What must not load, each for one reason."""
    for name, config in BROKEN.items():
        write_model(root, name, config, backend)
    one = "max_batch_size: 1\n" + tensors([("FP32", [4])])
    write_model(root, "no_version", one, backend, versions=())
    write_model(root, "wrong_versions", one, backend, versions=("0", "01", "one"))
    write_model(root, "policy_unmet", one + "version_policy: { specific { versions: [ 5 ] } }\n", backend)
    write_model(root, "wrong_name", one + 'name_is_given: "another"\n', backend)
    write_model(root, "no_backend", one + 'backend: "nosuchbackend"\n', None)
    write_model(root, "bad_platform", one + 'platform: "nosuch_platform"\n', None)
    write_model(root, "bad_pair", one + 'platform: "onnxruntime_onnx"\nbackend: "tensorrt"\n', None)
    write_model(root, "nothing_said", one, None)


def write_ensembles(root, graphs, versions=("1",)):
    for name, config in graphs.items():
        write_model(root, name, config, None, versions)


def write_stateful(root, models, code, backend):
    """Models that a test backend runs here, and a Python model there."""
    for name, (test_backend, config) in models.items():
        write_model(root, name, config, "python" if backend == "python" else test_backend, code=code)


def write_files(folder, files):
    """A model folder of files given as {path: text or bytes}; a path that ends with a slash is an empty folder."""
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if path.endswith("/") else place.write_bytes(text.encode() if isinstance(text, str) else text)


def write_scene(root, scene, backend):
    """The repository of one scene of cases.py."""
    if scene.get("good"):
        write_good(root, backend)
    if scene.get("broken"):
        write_broken(root, backend)
    if scene.get("ensembles"):
        write_ensembles(root, pipelines.GOOD)
        write_ensembles(root, {"e_no_platform": pipelines.WITHOUT_PLATFORM})
        write_ensembles(root, {"e_no_version": pipelines.GOOD["e_one"]}, versions=())
        write_ensembles(root, {"e_two_versions": pipelines.GOOD["e_one"]}, versions=("1", "3"))
    if scene.get("rate_limited"):
        for name, config in RATE_LIMITED.items():
            write_model(root, name, config, backend)
    if scene.get("sequences"):
        write_stateful(root, stateful.SEQUENCES, stateful.SUM_PY, backend)
    if scene.get("broken_sequences"):
        write_stateful(root, {name: ("sequence", config) for name, config in stateful.BROKEN_SEQUENCES.items()}, stateful.SUM_PY, backend)
    if scene.get("repeats"):
        write_stateful(root, stateful.REPEATS, stateful.REPEAT_PY, backend)
        write_ensembles(root, stateful.OVER_REPEATS)
    for name, files in scene.get("files", {}).items():
        write_files(Path(root) / name, files)
    for place, (_, models) in zip(folders(root, scene), scene.get("repositories", {}).items(), strict=False):
        for name, files in models.items():
            write_files(place / name, files)
    if scene.get("broken_ensembles"):
        write_ensembles(root, pipelines.BROKEN)


def folders(root, scene):
    """The repositories of a scene: `root`, or folders in it that the scene names."""
    return [Path(root) / name for name in scene["repositories"]] if "repositories" in scene else [Path(root)]


def for_backend(cases, backend):
    """The cases with the name of the backend filled in where a configuration travels in the request."""
    return [{**case, "body": case["body"].replace(b"BACKEND", backend.encode())} if case.get("body") else case for case in cases]
