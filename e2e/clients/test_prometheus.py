"""What Prometheus makes of a server: the recording rules and alerts that the operator writes, and every query of the Grafana board, in a
real Prometheus that asks a real server under load."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import make
import numpy as np
import pytest
import yaml

from serving import ROOT, Server, free_ports, scaled, until
from talking import connect, tensor

BUILT = ROOT / "operator" / "core" / "tests" / "built"
BOARD = ROOT / "deploy" / "observability" / "triton-servers.json"
ADAPTER = ROOT / "deploy" / "observability" / "prometheus-adapter.yaml"
MINE = {"namespace": "ml", "pod": "vision-0", "tritonserver": "vision"}

# What a machine without GPUs and without a cluster cannot tell, as the server and the operator write it.
STANDING_IN = """\
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 1000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 600
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.5
triton_operator_server_models{server="vision",server_namespace="ml",state="desired"} 3
triton_operator_server_models{server="vision",server_namespace="ml",state="failed"} 0
triton_operator_server_models{server="vision",server_namespace="ml",state="loaded"} 3
triton_operator_server_replicas{server="vision",server_namespace="ml",state="ready"} 1
triton_operator_server_replicas{server="vision",server_namespace="ml",state="wanted"} 1
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")) and not os.environ.get("CI"),
    reason="skipped: no prometheus on this machine (Debian: apt-get install prometheus)",
)


def groups(case):
    """The groups of the PrometheusRule among what the operator builds for a case."""
    objects = yaml.safe_load_all((BUILT / f"{case}.out").read_text())
    return next(it["spec"]["groups"] for it in objects if it["kind"] == "PrometheusRule")


def cases():
    return [it.stem for it in sorted(BUILT.glob("*.out")) if "kind: PrometheusRule" in it.read_text()]


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=scaled(60))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("case", cases())
def test_rules_are_what_prometheus_takes(case, tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": groups(case)}))
    assert "SUCCESS" in promtool("check", "rules", file)
    for rule in (rule for group in groups(case) for rule in group["rules"] if "alert" in rule):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule
        assert rule["annotations"]["summary"] and len(rule["annotations"]["description"]) > 100, f"what to do about {rule['alert']}"


# --- alerts: each is raised by what it is for and by nothing else ------------------------------------------------------------------------

POD = 'namespace="ml",pod="vision-0",tritonserver="vision"'
OPERATOR = 'server_namespace="ml",server="vision"'
UP = {f"up{{{POD}}}": "1x30"}
READY = {f'triton_operator_server_replicas{{{OPERATOR},state="wanted"}}': "2x30", f'triton_operator_server_replicas{{{OPERATOR},state="ready"}}': "2x30"}
OLDEST = f'tritonserver_queue_oldest_age_us{{{POD},model="m",version="1"}}'
TIME = f'tritonserver_queue_time_us{{{POD},model="m",version="1"}}'
EXITS = f'tritonserver_queue_exits{{{POD},model="m",version="1"}}'
FAILED = f'triton_operator_server_models{{{OPERATOR},state="failed"}}'
SUCCESS = f'nv_inference_request_success{{{POD},model="m",version="1"}}'
REJECTED = f'nv_inference_request_failure{{{POD},model="m",reason="REJECTED",version="1"}}'
OTHER = f'nv_inference_request_failure{{{POD},model="m",reason="OTHER",version="1"}}'
GIB = 1 << 30


@pytest.mark.parametrize(
    ("series", "raised"),
    [
        ({**UP, **READY}, []),
        ({**UP, **READY, f'triton_operator_server_replicas{{{OPERATOR},state="ready"}}': "0x30"}, ["NoReadyReplicas"]),
        ({f"up{{{POD}}}": "0x30"}, ["NoReadyReplicas"]),
        ({}, ["NoReadyReplicas"]),
        (UP, []),
        # at rest: the operator says that none is wanted
        ({key: "0x30" for key in READY}, []),
        # two operators tell the same
        ({**UP, **READY, f'{FAILED[:-1]},instance="a"}}': "1x30", f'{FAILED[:-1]},instance="b"}}': "1x30"}, ["ModelLoadFailed"]),
        ({**UP, **READY, FAILED: "0x30"}, []),
        # 100 requests a minute that wait 60 ms each, 40 ms each; none leaves the queue
        ({**UP, TIME: "0+6000000x30", EXITS: "0+100x30", OLDEST: "60000x30"}, ["QueueLatencyHigh"]),
        ({**UP, TIME: "0+4000000x30", EXITS: "0+100x30", OLDEST: "40000x30"}, []),
        ({**UP, TIME: "0+60000000x30", EXITS: "0x30", OLDEST: "0+60000000x30"}, ["PendingStuck", "QueueLatencyHigh"]),
        ({**UP, TIME: "0x30", EXITS: "0x30", OLDEST: "0x30"}, []),
        ({**UP, SUCCESS: "0+90x30", REJECTED: "0+10x30"}, ["RequestsRejected"]),
        ({**UP, SUCCESS: "0x30", REJECTED: "0+10x30"}, ["RequestsRejected"]),
        ({**UP, SUCCESS: "0+96x30", REJECTED: "0+4x30", OTHER: "0+50x30"}, []),
        ({**UP, SUCCESS: "0x30", REJECTED: "0x30"}, []),
        ({**UP, f'nv_gpu_memory_used_bytes{{{POD},gpu_uuid="a"}}': f"{10 * GIB}x30", f'nv_gpu_memory_used_bytes{{{POD},gpu_uuid="b"}}': f"{9 * GIB}x30"}, ["GPUMemoryNearBudget"]),
        ({**UP, f'nv_gpu_memory_used_bytes{{{POD},gpu_uuid="a"}}': f"{10 * GIB}x30"}, []),
        # of another server
        ({**UP, **READY, OLDEST.replace("vision", "other"): "0+60000000x30", FAILED.replace("vision", "other"): "1x30"}, []),
    ],
)
def test_alerts_are_raised_by_what_they_are_for(series, raised, tmp_path):
    rules, test = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups("everything")}))
    labels = 'alertstate="firing",namespace="ml",tritonserver="vision"'
    query = f"count by (alertname, severity) (ALERTS{{{labels}}}) > 0"
    severity = {rule["alert"]: rule["labels"]["severity"] for group in groups("everything") for rule in group["rules"] if "alert" in rule}
    expected = [{"labels": f'{{alertname="TritonServer{name}", severity="{severity[f"TritonServer{name}"]}"}}', "value": 1} for name in raised]
    test.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(rules)],
                "evaluation_interval": "1m",
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": [{"series": key, "values": values} for key, values in series.items()],
                        "promql_expr_test": [{"expr": query, "eval_time": "25m", "exp_samples": expected}],
                    }
                ],
            }
        )
    )
    promtool("test", "rules", test)


# --- a real server -----------------------------------------------------------------------------------------------------------------------


class Prometheus:
    """A Prometheus that asks a server each second, with the rules of a case over a shorter window."""

    def __init__(self, folder, targets):
        self.port = free_ports(1)[0]
        rules = json.loads(re.sub(r"\[\d+s\]", "[5s]", json.dumps(groups("everything"))))
        for group in rules:
            group["interval"] = "1s"
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "pods", "static_configs": [{"targets": targets, "labels": MINE}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.argv = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
        self.argv += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        self.output = folder / "log"

    def __enter__(self):
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(self.argv, stdout=output, stderr=subprocess.STDOUT)
        with self.ended_after_failure():
            until(self.is_ready, "Prometheus", 60, self.process)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(scaled(30))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @contextlib.contextmanager
    def ended_after_failure(self):
        try:
            yield
        except BaseException as error:
            self.__exit__()
            error.add_note(self.output.read_text())
            raise

    def is_ready(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
            return True

    def query(self, expression):
        """Labels and value of each series that an expression has now."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=scaled(10)) as answer:
            found = json.load(answer)["data"]["result"]
        return [(it["metric"], float(it["value"][1])) for it in found]


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with what this machine cannot tell."""

    def do_GET(self):
        body = STANDING_IN.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def under_load(tmp_path_factory):
    """A server whose one instance takes 20 ms, asked by four callers at once; an ensemble of it, asked by one; and its Prometheus."""
    folder = tmp_path_factory.mktemp("models")
    io = 'input {{ name: "{}" data_type: TYPE_INT32 dims: -1 }} output {{ name: "{}" data_type: TYPE_INT32 dims: -1 }}'
    slow = 'backend: "identity" dynamic_batching { default_queue_policy { max_queue_size: 3 } } max_batch_size: 1 '
    slow += io.format("INPUT0", "OUTPUT0") + ' parameters { key: "execute_delay_ms" value { string_value: "20" } } instance_group { count: 1 kind: KIND_CPU }'
    make.write(folder, "slow", slow, {1: None})
    both = 'platform: "ensemble" max_batch_size: 1 ' + io.format("A", "B")
    both += ' ensemble_scheduling { step { model_name: "slow" model_version: -1 input_map { key: "INPUT0" value: "A" } output_map { key: "OUTPUT0" value: "B" } } }'
    make.write(folder, "whole", both, {1: None})
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    stop = threading.Event()
    with Server(folder) as server:
        targets = [f"127.0.0.1:{server.metrics}", f"127.0.0.1:{page.server_port}"]

        def ask(name, input_name):
            with contextlib.closing(connect("http", server)) as client:
                values = [tensor("http", input_name, np.array([[1]], np.int32), "INT32")]
                while not stop.is_set():
                    with contextlib.suppress(Exception):  # some are rejected: the queue is short
                        client.infer(name, values)

        with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as prometheus, ThreadPoolExecutor(8) as callers:
            futures = [callers.submit(ask, *who) for who in [("slow", "INPUT0")] * 5 + [("whole", "A")]]
            try:
                yield prometheus
            finally:
                stop.set()
                [future.result(scaled(30)) for future in futures]
                page.shutdown()


def test_every_recording_rule_has_one_series_for_the_pod_and_one_for_the_server(under_load):
    until(lambda: under_load.query("triton:saturation_percent:server > 50"), "the load to show", 60)
    for name, least, most in [
        ("queue_latency_us", 20_000, 200_000),  # two to three requests before it, 20 ms each
        ("queued_requests", 1, 4),
        ("pending_requests", 1, 4),
        ("saturation_percent", 50, 101),
    ]:
        for level, labels in [("pod", MINE), ("server", {key: MINE[key] for key in ("namespace", "tritonserver")})]:
            metric = f"triton:{name}:{level}"
            found = until(lambda metric=metric: under_load.query(metric), metric, 30)
            assert len(found) == 1, found
            assert {key: value for key, value in found[0][0].items() if key != "__name__"} == labels
            assert least <= found[0][1] <= most, (metric, found)
    # the ensemble has requests of its own, and is not among what waits
    assert under_load.query('nv_inference_request_success{model="whole"} > 0')
    assert not under_load.query('tritonserver_queue_time_us{model="whole"}')


def expressions(board):
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_the_board_is_one_that_grafana_takes():
    board = json.loads(BOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) and board["uid"] and board["title"] and board["schemaVersion"] >= 36
    variables = [it["name"] for it in board["templating"]["list"]]
    assert variables == ["datasource", "namespace", "tritonserver", "model", "pod"]
    assert board["templating"]["list"][0]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(it["datasource"] == source for it in board["templating"]["list"][1:])
    places = []
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for other in places:
            apart = place["x"] >= other["x"] + other["w"] or other["x"] >= place["x"] + place["w"]
            apart = apart or place["y"] >= other["y"] + other["h"] or other["y"] >= place["y"] + place["h"]
            assert apart, f"{panel['title']} lies upon another one"
        places.append(place)
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["targets"] and panel["datasource"] == source, panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)) and all(target["datasource"] == source for target in panel["targets"])
    used = set(re.findall(r"\$(\w+)", " ".join(expression for _, expression in expressions(board)))) - {"__rate_interval"}
    assert used == set(variables) - {"datasource"}, "each choice has an effect"


def test_every_query_of_the_board_has_an_answer(under_load):
    board = json.loads(BOARD.read_text())
    until(lambda: under_load.query("triton:saturation_percent:pod > 50"), "the load to show", 60)
    for title, expression in expressions(board):
        query = re.sub(r"\$(namespace|tritonserver|model|pod)\b", ".*", expression).replace("$__rate_interval", "5s")
        found = until(lambda query=query: under_load.query(query), f"{title}: {query}", 30)
        assert all(value == value for _, value in found), f"{title}: not a number in {found}"
    for variable in board["templating"]["list"][1:]:
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
        found = under_load.query(re.sub(r"\$\w+", ".*", series))
        assert found and all(label in labels for labels, _ in found), variable["name"]


def test_no_alert_is_raised_by_numbers_that_are_fine(under_load):
    until(lambda: under_load.query("triton:saturation_percent:pod > 50"), "the load to show", 60)
    raised = {labels["alertname"] for labels, _ in under_load.query("ALERTS")}
    assert raised <= {"TritonServerQueueLatencyHigh", "TritonServerRequestsRejected"}, raised


def test_prometheus_adapter_is_told_how_to_ask_for_every_metric(under_load):
    until(lambda: under_load.query("triton:saturation_percent:pod > 50"), "the load to show", 60)
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    names = re.findall(r'"(triton_\w+)"', (ROOT / "operator" / "core" / "src" / "load.rs").read_text())
    assert sorted({rule["name"]["as"] for rule in rules}) == sorted(set(names))
    for rule in rules:
        assert under_load.query(rule["seriesQuery"]), rule
        for more, least in [("", 1), (',model=~"slow|other"', 1), (',model=~"other"', 0)]:
            query = rule["metricsQuery"].replace("[1m]", "[5s]").replace("<<.GroupBy>>", "pod")
            query = query.replace("<<.LabelMatchers>>", f'namespace="ml",pod=~"vision-0|vision-1"{more}')
            found = until(lambda query=query, least=least: [under_load.query(query)] if not least else under_load.query(query), query, 30)
            assert found == [[]] if not least else [labels for labels, _ in found] == [{"pod": "vision-0"}], (query, found)
            assert not least or found[0][1] > 0.5, (query, found)


def test_what_keda_asks_has_one_number_for_an_answer(under_load):
    until(lambda: under_load.query("triton:saturation_percent:pod > 50"), "the load to show", 60)
    objects = [it for file in sorted(BUILT.glob("*.out")) for it in yaml.safe_load_all(file.read_text())]
    triggers = [trigger for it in objects if it["kind"] == "ScaledObject" for trigger in it["spec"]["triggers"]]
    queries = [trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "prometheus"]
    assert len(queries) >= 4
    for query in queries:
        mine = re.sub(r'namespace="[^"]*",tritonserver="[^"]*"', 'namespace="ml",tritonserver="vision"', query)
        mine = re.sub(r'model=~"[^"]*"', 'model=~"slow"', mine).replace("[1m]", "[5s]")
        found = until(lambda mine=mine: under_load.query(mine), mine, 30)
        assert len(found) == 1 and found[0][1] > 0.5, (mine, found)
