"""Which test programs are run, and what is said of them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import crates  # noqa: E402


def artifact(path, kind="test", is_test=True, **more):
    """cargo's message about a program."""
    target = {"name": path.name, "kind": [kind]}
    return {"reason": "compiler-artifact", "executable": str(path), "manifest_path": str(path.parent / "Cargo.toml"), "target": target, "profile": {"test": is_test}} | more


@pytest.fixture
def script(tmp_path):
    def make(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return make


def test_only_tests_are_run_and_large_programs_come_first(script):
    small, large, program = script("small", "true"), script("large", "true # much longer than the other"), script("program", "true")
    messages = [
        artifact(small),
        artifact(large, kind="lib"),
        artifact(program, kind="bin", is_test=False),
        artifact(program) | {"executable": None},
        {"reason": "build-finished", "success": True},
    ]
    found = crates.programs("\n".join(["a warning", *map(json.dumps, messages)]))
    assert [(one.command[0], one.name.split()[1]) for one in found] == [(str(large), "unittests"), (str(small), "tests")]


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("echo in $(basename $PWD) for $CARGO_MANIFEST_DIR with $1", 0, "with --show-output"),
        ("echo broken >&2; exit 101", 101, "broken"),
        ("echo begun; exec sleep 60", 1, "it has not ended after 0.5 s"),
    ],
)
def test_a_program_runs_in_its_folder_and_not_for_ever(script, tmp_path, text, status, says):
    path = script("program", text)
    (program,) = crates.programs(json.dumps(artifact(path)))
    ended, said, seconds = crates.run(program, [], 0.5)
    assert (ended, says in said, seconds < 30) == (status, True, True), said
    if status == 0:
        assert f"in {tmp_path.name} for {tmp_path}" in said
