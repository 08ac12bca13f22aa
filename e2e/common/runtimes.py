"""Native runtimes that e2e/runtimes/install has put into target/runtimes, for tests and the bench."""

import os
from pathlib import Path

RUNTIMES = Path(__file__).resolve().parents[2] / "target" / "runtimes"


def runtime(name, file):
    """The library of a runtime: the one file below target/runtimes/NAME that `file` matches. Without it a test is skipped, or fails with CI=true."""
    import pytest

    found = sorted((RUNTIMES / name).glob(file))
    if found:
        return str(found[0])
    why = f"no {name}: e2e/runtimes/install puts it into target/runtimes"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
