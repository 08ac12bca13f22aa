"""Our answers beside the recorded answers of a real Triton: the same, letter by letter, except where differences.py says why not."""

import json
import os
import sys
from pathlib import Path

import ask
import client_memory
import differences
import pytest
import python_differences
import repository
import scenes

from serving import Server, until

# Python models run in the interpreter that runs the tests: it has numpy.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "golden"


def recorded(scene):
    return json.loads((RECORDED / f"{scene}.json").read_text())["cases"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """All our answers of a scene, asked once in order: some cases depend on what came before them."""
    known = {}

    def of(scene_name):
        if scene_name not in known:
            scene = scenes.SCENES[scene_name]
            folder = tmp_path_factory.mktemp(scene_name)
            repository.write_scene(folder, scene, "identity")
            flags = [*scene["flags"], *scene.get("our_flags", [])]
            with client_memory.segments(scene), Server(repository.folders(folder, scene), *flags, env={"PATH": PATH}, wait="live") as server:
                until(lambda: "Started HTTPService" in server.log(), "the start-up set to be loaded or refused")
                asked = repository.for_backend(scene["cases"], "identity")
                known[scene_name] = {case["name"]: without_paths(ask.ask(case, server.http, server.grpc, server.metrics), folder) for case in asked}
        return known[scene_name]

    return of


def without_paths(answer, folder):
    """The answer with the repository and Python's own files called as in the recordings."""
    text = json.dumps(answer)
    for place, word in ((folder, "MODELS"), (Path(json.__file__).parents[1], "PYTHON"), (client_memory.PREFIX, "SEGMENT_")):
        text = text.replace(json.dumps(str(place))[1:-1], word)
    return json.loads(text)


@pytest.mark.parametrize(("scene", "case"), [(scene, case["name"]) for scene, all_of in scenes.SCENES.items() for case in all_of["cases"]])
def test_we_answer_as_triton_does(answers, scene, case):
    if (scene, case) in differences.SILENT:
        pytest.skip(f"skipped: {differences.SILENT[scene, case]}")
    entry = recorded(scene)[case]
    got, answer = (differences.without_chance(scene, case, answer) for answer in (answers(scene)[case], entry["answer"]))
    wanted = differences.settle(differences.expected(scene, case, answer), got)
    assert readable(differences.comparable(got)) == readable(differences.comparable(wanted)), entry["asked"]


def readable(answer):
    """Text that pytest shows line by line."""
    return json.dumps(answer, indent=1, ensure_ascii=False, sort_keys=True)


def test_every_difference_is_about_a_case_that_exists():
    known = {(scene, case["name"]) for scene, all_of in scenes.SCENES.items() for case in all_of["cases"]}
    assert set(differences.DIFFERENCES) | set(differences.SILENT) | set(python_differences.LINES) <= known


def test_every_case_is_recorded():
    for scene, all_of in scenes.SCENES.items():
        assert list(recorded(scene)) == [case["name"] for case in all_of["cases"]], f"record {scene} again"
