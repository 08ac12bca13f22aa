"""The options of e2e/cluster/suite: whatever it does not take is refused before it builds, brings a cluster up or takes one down."""

import subprocess
from pathlib import Path

import pytest

SUITE = Path(__file__).resolve().parents[1] / "cluster" / "suite"


@pytest.fixture
def run(tmp_path):
    """Runs a copy of the beginning of the suite, up to where it does anything; `began`, if it came as far."""
    beginning, did = SUITE.read_text().split("\ne2e/env\n")
    assert "part " in did and "trap " in did
    copy = beginning.replace('"${BASH_SOURCE[0]}"', f'"{SUITE}"') + "\necho began\n"
    (tmp_path / "suite").write_text(copy)
    return lambda *options: subprocess.run(["bash", tmp_path / "suite", *options], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("options", [[], ["-k", "drained", "--keep"], ["-k", "--not-an-option"], ["-x", "--maxfail", "2"], ["e2e/cluster/tests/test_faults.py::test_x"]])
def test_what_it_takes(run, options):
    ended = run(*options)
    assert (ended.returncode, ended.stdout) == (0, "began\n"), ended.stderr


@pytest.mark.parametrize("options", [["--kepe"], ["-k", "drained", "--bogus"], ["no-such-file"], ["-k"], ["--keep", "--maxfail"]])
def test_what_it_refuses(run, options):
    ended = run(*options)
    assert ended.returncode == 2 and "began" not in ended.stdout and "suite: " in ended.stderr
    assert "e2e/cluster/suite -k drained --keep" in ended.stderr or "no-such-file" in ended.stderr


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_all_it_gives(run, option):
    ended = run(option)
    assert ended.returncode == 0 and "e2e/cluster/suite -k drained --keep" in ended.stdout and "began" not in ended.stdout
