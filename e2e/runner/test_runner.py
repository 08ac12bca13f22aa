"""The runner on small folders of tests that fail as often as each case wants."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tally  # noqa: E402

RERUN = Path(__file__).parent / "rerun.py"

# Each test counts its own runs in a file: what is remembered must survive the process.
HEAD = """
import os, pathlib, pytest

def fails(name, times):
    seen = pathlib.Path("runs") / name
    seen.parent.mkdir(exist_ok=True)
    with seen.open("a") as file:
        file.write("x")
    assert len(seen.read_text()) > times, f"{name} failed as it should"
"""


class Folder:
    """Tests in a folder of their own, and what the runner says of them."""

    def __init__(self, path):
        self.path = path

    def write(self, text, name="test_it.py"):
        (self.path / name).write_text(HEAD + textwrap.dedent(text))

    def rerun(self, *selection, ledger=None, options=("-q", "-p", "no:cacheprovider")):
        command = [sys.executable, RERUN, *(["--ledger", ledger] if ledger else []), ".", *selection, "--", *options]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        done = subprocess.run(list(map(str, command)), cwd=self.path, env=environment, capture_output=True, text=True, timeout=120)
        said = done.stdout.splitlines()
        flaky = [line for line in said if line.startswith("flaky: ")]
        return done.returncode, said[-1], flaky, done.stdout + done.stderr

    def runs(self, name):
        return len((self.path / "runs" / name).read_text())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_what_passes_is_run_once(folder):
    folder.write("def test_good(): fails('good', 0)\n@pytest.mark.skip\ndef test_out(): pass")
    status, last, flaky, _ = folder.rerun()
    assert (status, last, flaky, folder.runs("good")) == (0, "after reruns: 1 passed, 0 failed, 1 skipped", [], 1)


@pytest.mark.parametrize("parallel", ((), ("--numprocesses=2", "--dist=loadfile")), ids=("alone", "in parallel"))
def test_what_passes_when_run_again_is_green_and_named_with_its_reason(folder, parallel):
    folder.write("def test_good(): fails('good', 0)\ndef test_once(): fails('once', 1)\n@pytest.mark.parametrize('n', ['a b'])\ndef test_twice(n): fails('twice', 2)")
    status, last, flaky, _ = folder.rerun(*parallel)
    assert (status, last) == (0, "after reruns: 3 passed, 0 failed, 0 skipped")
    assert sorted(flaky) == [
        "flaky: test_it.py::test_once (AssertionError: once failed as it should)",
        "flaky: test_it.py::test_twice[a b] (AssertionError: twice failed as it should)",
    ]
    assert (folder.runs("good"), folder.runs("once"), folder.runs("twice")) == (1, 2, 3), "only what failed runs again, and only as often as needed"


def test_what_fails_three_times_has_failed(folder):
    folder.write("def test_bad(): fails('bad', 3)\ndef test_once(): fails('once', 1)")
    status, last, flaky, said = folder.rerun()
    assert (status, last, len(flaky), folder.runs("bad")) == (1, "after reruns: 1 passed, 1 failed, 0 skipped", 1, 3)
    assert "still failed: test_it.py::test_bad (AssertionError: bad failed as it should)" in said


def test_setup_and_teardown_count_as_the_test(folder):
    folder.write("@pytest.fixture\ndef before(): fails('setup', 1)\n@pytest.fixture\ndef after():\n  yield\n  fails('teardown', 1)\ndef test_a(before): pass\ndef test_b(after): pass")
    status, last, flaky, _ = folder.rerun()
    assert (status, last, len(flaky)) == (0, "after reruns: 2 passed, 0 failed, 0 skipped", 2)


def test_three_flaky_tests_are_accepted_and_a_fourth_is_not(folder):
    folder.write("\n".join(f"def test_{n}(): fails('t{n}', 1)" for n in range(3)))
    assert folder.rerun()[:2] == (0, "after reruns: 3 passed, 0 failed, 0 skipped")
    folder.write("\n".join(f"def test_{n}(): fails('u{n}', 1)" for n in range(4)))
    status, last, flaky, said = folder.rerun()
    assert (status, last, flaky, folder.runs("u0")) == (1, "after reruns: 0 passed, 4 failed, 0 skipped", [], 1), said


def test_several_calls_share_the_three_through_the_ledger(folder, tmp_path_factory):
    ledger = tmp_path_factory.mktemp("ledger") / "flaky.jsonl"
    folder.write("def test_0(): fails('a', 1)\ndef test_1(): fails('b', 1)")
    assert folder.rerun(ledger=ledger)[0] == 0
    folder.write("def test_0(): fails('c', 1)")
    assert folder.rerun(ledger=ledger)[0] == 0
    assert [json.loads(line)["test"] for line in ledger.read_text().splitlines()] == ["test_it.py::test_0", "test_it.py::test_1", "test_it.py::test_0"]
    folder.write("def test_0(): fails('d', 1)")
    assert folder.rerun(ledger=ledger)[0] == 1


def test_a_file_that_cannot_be_read_is_no_flake(folder):
    folder.write("import nothing_of_that_name")
    folder.write("def test_once(): fails('once', 1)", "test_other.py")
    status, last, flaky, _ = folder.rerun()
    assert status != 0 and last == "after reruns: 0 passed, 1 failed, 0 skipped" and flaky == []


def test_no_tests_at_all_is_a_failure(folder):
    assert folder.rerun("-k", "nothing")[:2] == (5, "after reruns: 0 passed, 0 failed, 0 skipped")


def test_a_process_that_dies_in_a_test_is_run_again(folder):
    folder.write("def test_dies():\n  try: fails('dies', 1)\n  except AssertionError: os._exit(9)\ndef test_good(): pass")
    status, last, flaky, said = folder.rerun("--numprocesses=2")
    assert (status, last, len(flaky)) == (0, "after reruns: 2 passed, 0 failed, 0 skipped", 1), said
    assert "crashed while running" in flaky[0]


CARGO = """
test a ... ok
skipped: no runtime library
test result: ok. 10 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s
test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
"""
CLIENTS = "SKIPPED [3] e2e/clients/test_golden.py:45: skipped: not ours\n1 failed, 7 passed, 3 skipped in 2s\n1 passed in 1s\nafter reruns: 8 passed, 0 failed, 3 skipped\n"
CLUSTER = "after reruns: 57 passed, 0 failed, 0 skipped\nafter reruns: 24 passed, 1 failed, 0 skipped\n"


def test_the_sum_counts_each_test_once():
    ledger = '{"test": "x.py::test_y", "reason": "AssertionError: no"}\n'
    assert tally.lines(CARGO, {"pytest": CLIENTS, "cluster": CLUSTER}, ledger) == [
        "skipped   cargo: no runtime library",
        "skipped   pytest: not ours",
        "counted   cargo: 15 passed, 2 failed, 1 skipped",
        "counted   pytest: 8 passed, 0 failed, 3 skipped",
        "counted   cluster: 81 passed, 1 failed, 0 skipped",
        "flaky: x.py::test_y (AssertionError: no)",
        "104 passed, 3 failed, 4 skipped",
    ]


def test_a_log_that_is_not_there_has_counted_nothing():
    assert tally.lines("", {}, "")[-1] == "0 passed, 0 failed, 0 skipped"
