"""A pytest plugin that writes down what became of each test, one line of JSON per report, as it happens. With several processes the one that
collects their reports writes. Load it with `-p record`; the file is named by RERUN_RECORD."""

import json
import os


def reason(report):
    """The last line of what went wrong: for an assertion its first line, for a crashed process what pytest says about it."""
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    text = crash.message if crash else str(report.longrepr or "")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].strip() if crash and lines else lines[-1].strip() if lines else ""


class Record:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1)

    def write(self, **fields):
        self.file.write(json.dumps(fields) + "\n")

    def pytest_runtest_logreport(self, report):
        if report.failed or report.skipped or report.when == "call":
            # an expected failure is reported as skipped, one that passed as passed
            why = reason(report) if report.failed else ""
            self.write(test=report.nodeid, outcome=report.outcome, when=report.when, reason=why)

    def pytest_collectreport(self, report):
        if report.failed:
            self.write(file=report.nodeid, outcome="failed", reason=reason(report))


def pytest_configure(config):
    # processes of xdist have `workerinput`: their reports reach the first one
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Record(os.environ["RERUN_RECORD"]))
