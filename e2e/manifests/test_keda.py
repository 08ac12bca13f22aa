"""ScaledObjects that are built, judged by KEDA's own types and checks (`e2e/keda`). What its client makes of the operator's answers is
looked at on a cluster (`e2e/cluster/tests/test_autoscaling.py`)."""

import json
import os
import subprocess

import pytest

from tools import ROOT

JUDGE = ROOT / "target" / "keda" / "judge"
BUILT = sorted((ROOT / "operator" / "core" / "tests" / "built").glob("keda*.out"))

pytestmark = pytest.mark.skipif(not JUDGE.exists() and not os.environ.get("CI"), reason="skipped: no judge of KEDA's (e2e/keda/build builds it)")


def check(file):
    return subprocess.run([JUDGE, "check", file], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("file", BUILT, ids=lambda file: file.stem)
def test_keda_takes_what_is_built(file):
    done = check(file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("minReplicaCount: 0", "minReplicaCount: 9", "MinReplicaCount"),
        ("pollingInterval: 10", "pollInterval: 10", 'unknown field "pollInterval"'),
        ("failureThreshold: 3", "failureThreshold: -3", "FailureThreshold"),
    ],
)
def test_it_would_not_take_anything(tmp_path, before, after, said):
    text = BUILT[0].read_text()
    assert before in text
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace(before, after))
    done = check(wrong)
    assert done.returncode == 1 and said in done.stderr, done
