"""The operator's alerts, run by promtool over made-up numbers."""

import shutil
import subprocess

import pytest
import yaml

from tools import NAMESPACE, by_name, objects, template

OF = f'job="triton-operator-metrics",namespace="{NAMESPACE}"'


def promtool(folder, *arguments):
    if not shutil.which("promtool"):
        pytest.fail("promtool is missing: Debian's package prometheus has it")
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path):
    made = by_name(objects(template("--set", "metrics.rules.enabled=true")))["PrometheusRule", NAMESPACE, "triton-operator"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(made["spec"]))
    return tmp_path


def series(name, labels, values):
    return {"series": f"{name}{{{OF}{labels}}}", "values": values}


def test_alerts_come_when_they_should_and_at_no_other_time(rules):
    leader = series("triton_operator_leader", "", "1x60")
    standby = series("triton_operator_leader", ',pod="b"', "0x60")
    failing = series("triton_operator_reconcile_total", ',outcome="failed"', "0+2x60")
    one_failure = series("triton_operator_reconcile_total", ',outcome="failed"', "0x10 1x50")
    not_ready = series("triton_operator_resources", ',kind="TritonModel",ready="false"', "2x60")
    of_another = {"series": 'triton_operator_leader{job="other-metrics",namespace="x"}', "values": "0x60"}
    cases = [
        ([leader, standby, one_failure, of_another], {}),
        ([standby], {"TritonOperatorDoesNotWork": [{}]}),
        ([], {"TritonOperatorDoesNotWork": [{}]}),
        ([leader, failing], {"TritonOperatorReconcilesFail": [{}]}),
        ([leader, not_ready], {"TritonResourcesNotReady": [{"kind": "TritonModel"}]}),
    ]
    severity = {"TritonOperatorDoesNotWork": "critical"}
    made = yaml.safe_load((rules / "rules.yaml").read_text())["groups"][0]["rules"]
    tests = []
    for input_series, fired in cases:
        alerts = []
        for rule in made:
            name = rule["alert"]
            wanted = [{"exp_labels": {"severity": severity.get(name, "warning"), **labels}} for labels in fired.get(name, [])]
            alerts.append({"eval_time": "50m", "alertname": name, "exp_alerts": wanted})
            alerts.append({"eval_time": "1m", "alertname": name, "exp_alerts": []})
        tests.append({"interval": "1m", "input_series": input_series, "alert_rule_test": alerts})
    for test in tests:
        for alert in test["alert_rule_test"]:
            for expected in alert["exp_alerts"]:
                rule = next(it for it in made if it["alert"] == alert["alertname"])
                value = {"TritonOperatorReconcilesFail": "20", "TritonResourcesNotReady": "2"}.get(alert["alertname"], "0")
                fill = lambda text: text.replace("{{ $value | humanize }}", value).replace("{{ $value }}", value).replace("{{ $labels.kind }}", "TritonModel")  # noqa: E731
                expected["exp_annotations"] = {key: fill(text) for key, text in rule["annotations"].items()}
    (rules / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    promtool(rules, "check", "rules", "rules.yaml")
    promtool(rules, "test", "rules", "test.yaml")
