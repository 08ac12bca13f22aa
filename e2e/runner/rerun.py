"""Runs pytest and, where single tests failed, runs each of these again alone, up to twice. A test that then passes is flaky: it is named with
the reason of its failure and counts as passed. A run may have three flaky tests; with a fourth it fails.

    rerun.py [--ledger FILE] SELECTION... -- OPTIONS...

SELECTION is what pytest runs first: folders, -k, --numprocesses. OPTIONS go to every run, those of single tests included. The ledger holds the
flaky tests of a whole run, one line of JSON each: calls with the same ledger share the three. Status: 0 if every test passed in the end, else
pytest's. Last line of the output: the counts after all reruns."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAKY_AT_MOST = 3
ATTEMPTS = 2
SOME_FAILED = 1  # pytest's status when it ran to its end and tests failed


@dataclass
class Outcomes:
    """What became of each test of one run of pytest."""

    passed: set = field(default_factory=set)
    failed: dict = field(default_factory=dict)
    skipped: set = field(default_factory=set)
    broken_files: dict = field(default_factory=dict)


def read(lines):
    """Outcomes from the record. A test that fails in any of its phases has failed, whatever the other phases say."""
    found = Outcomes()
    for line in lines:
        entry = json.loads(line)
        if "file" in entry:
            found.broken_files[entry["file"]] = entry["reason"]
        elif entry["outcome"] == "failed":
            found.failed.setdefault(entry["test"], entry["reason"])
        else:
            (found.skipped if entry["outcome"] == "skipped" else found.passed).add(entry["test"])
    found.passed -= found.failed.keys() | found.skipped
    found.skipped -= found.failed.keys()
    return found


def run_pytest(arguments):
    """Status and outcomes of one run. What pytest prints goes where our output goes."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as record:
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "RERUN_RECORD": record.name, "PYTHONPATH": path}
        sys.stdout.flush()
        status = subprocess.run([sys.executable, "-m", "pytest", "-p", "record", f"--rootdir={os.getcwd()}", *arguments], env=environment).returncode
        return status, read(record)


def flaky_so_far(ledger):
    return len(ledger.read_text().splitlines()) if ledger and ledger.exists() else 0


def rerun(outcomes, options, left):
    """Runs each failed test again; returns the flaky ones with their first reason. Does nothing where more failed than may be flaky."""
    flaky = {}
    if len(outcomes.failed) > left:
        print(f"\nrerun: {len(outcomes.failed)} tests failed and {left} more may be flaky in this run: none is run again")
        return flaky
    for test, reason in list(outcomes.failed.items()):
        for attempt in range(1, ATTEMPTS + 1):
            print(f"\nrerun: {test}, again alone, attempt {attempt} of {ATTEMPTS}")
            status, again = run_pytest([test, *options])
            if status == 0 and test in again.passed:
                flaky[test] = reason
                break
    return flaky


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path)
    divided = arguments.index("--") if "--" in arguments else len(arguments)
    own, selection = parser.parse_known_args(arguments[:divided])
    options = arguments[divided + 1 :]

    status, outcomes = run_pytest([*selection, *options])
    if status == SOME_FAILED and not outcomes.broken_files:
        for test, reason in rerun(outcomes, options, FLAKY_AT_MOST - flaky_so_far(own.ledger)).items():
            del outcomes.failed[test]
            outcomes.passed.add(test)
            print(f"flaky: {test} ({reason})")
            if own.ledger:
                with own.ledger.open("a") as ledger:
                    ledger.write(json.dumps({"test": test, "reason": reason}) + "\n")
        if not outcomes.failed:
            status = 0
    for test, reason in (outcomes.failed | outcomes.broken_files).items():
        print(f"still failed: {test} ({reason})")
    failed = len(outcomes.failed) + len(outcomes.broken_files)
    print(f"after reruns: {len(outcomes.passed)} passed, {failed} failed, {len(outcomes.skipped)} skipped")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
