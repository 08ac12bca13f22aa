"""Adds up what the runners of `e2e/test` have counted, from their logs.

    tally.py [--cargo LOG] [--pytest NAME=LOG]... [--ledger FILE]

Prints a line `skipped` per reason, a line `counted` per runner, a line `flaky:` per flaky test, and last the sum as
`N passed, N failed, N skipped`. A log that is not there has counted nothing. Status: 0; judging is the caller's."""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;", re.MULTILINE)
PYTEST = re.compile(r"^after reruns: (\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
CARGO_SKIPS = re.compile(r"skipped: (.*)$", re.MULTILINE)
PYTEST_SKIPS = re.compile(r"^SKIPPED \[\d+\] \S+ (?:skipped: )?(.*)$", re.MULTILINE)


def total(pattern, text):
    """Passed, failed and skipped of every closing line in a log."""
    return tuple(sum(map(int, numbers)) for numbers in zip(*pattern.findall(text), (0, 0, 0)))


def text_of(path):
    path = Path(path)
    return path.read_text(errors="replace") if path.exists() else ""


def lines(cargo, pytests, ledger):
    """The lines of the summary. `cargo` is the text of a log or None, `pytests` are texts by name, `ledger` is a text."""
    runners = ([("cargo", CARGO, CARGO_SKIPS, cargo)] if cargo is not None else []) + [(name, PYTEST, PYTEST_SKIPS, text) for name, text in pytests.items()]
    sums = Counter()
    skips, counts = [], []
    for name, pattern, why, text in runners:
        passed, failed, skipped = total(pattern, text)
        sums.update(passed=passed, failed=failed, skipped=skipped)
        skips += [f"skipped   {name}: {reason}" for reason in sorted(set(why.findall(text)))]
        counts.append(f"counted   {name}: {passed} passed, {failed} failed, {skipped} skipped")
    flaky = [f"flaky: {one['test']} ({one['reason']})" for one in map(json.loads, ledger.splitlines())]
    return [*skips, *counts, *flaky, f"{sums['passed']} passed, {sums['failed']} failed, {sums['skipped']} skipped"]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cargo")
    parser.add_argument("--pytest", action="append", default=[], metavar="NAME=LOG")
    parser.add_argument("--ledger", default="/dev/null")
    options = parser.parse_args(arguments)
    pytests = {name: text_of(log) for name, log in (one.split("=", 1) for one in options.pytest)}
    print("\n".join(lines(None if options.cargo is None else text_of(options.cargo), pytests, text_of(options.ledger))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
