"""The cluster as a user has it: kubectl, helm, and requests from inside its network. Everything waits with a deadline."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "e2e" / "common"))

import waiting  # noqa: E402
from api import Api, Refused  # noqa: E402

CLUSTER = ROOT / "e2e" / "cluster"


def called(stem, cluster):
    """A name of one of several clusters, as e2e/cluster/lib/common.sh has it; the first has no name."""
    return f"{stem}-{cluster}" if cluster else stem


def state_of(cluster):
    return Path(called(os.environ.get("CLUSTER_STATE") or ROOT / "target" / "cluster", cluster))


CLUSTER_NAME = os.environ.get("CLUSTER", "")
STATE = state_of(CLUSTER_NAME)
NETWORK = called("kc", CLUSTER_NAME)  # network namespace of the control plane
IS_OURS = not os.environ.get("E2E_KUBECONFIG")
API = Api(NETWORK, STATE / "pki")  # of our own cluster

OPERATOR = "triton-operator"  # namespace, release and account of the operator under test
OPERATORS = ("-l", "app.kubernetes.io/component=operator")  # the operator's own pods, beside which activators run
VERSION = re.search(r"^appVersion: (.+)$", (ROOT / "charts/triton-operator/Chart.yaml").read_text(), re.MULTILINE).group(1)
SERVER_IMAGE = os.environ.get("E2E_SERVER_IMAGE", f"localhost/tritonserver:{VERSION}")
NEXT_SERVER_IMAGE = os.environ.get("E2E_NEXT_SERVER_IMAGE", f"{SERVER_IMAGE}-next")

ECHO = """
apiVersion: triton-operator.dev/v1alpha1
kind: TritonModel
metadata: {name: echo}
spec:
  serverRef: {name: vision}
  config:
    backend: identity
    inputs: [{name: INPUT0, dataType: TYPE_FP32, dims: [-1]}]
    outputs: [{name: OUTPUT0, dataType: TYPE_FP32, dims: [-1]}]
  source: {inline: {files: {"1/about.txt": "gives back what it gets"}}}
  loadPolicy: {settleTime: 1s, retry: {limit: 2, backoff: 1s}}
"""

SERVER = """
apiVersion: triton-operator.dev/v1alpha1
kind: TritonServer
metadata: {name: vision}
spec:
  replicas: 1
  resources: {requests: {cpu: 10m, memory: 64Mi}}
  probes: {startup: {periodSeconds: 1}, readiness: {periodSeconds: 1, failureThreshold: 1}}
  server: {drainDelay: 3s, drainTimeout: 20s, exitTimeout: 10s}
"""

# the drain outlasts the time until every node has learned that a pod leaves
TWO_REPLICAS = SERVER.replace("replicas: 1", "replicas: 2").replace("drainDelay: 3s", "drainDelay: 5s")

CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: by-hand
  resources: {requests: {storage: 1Gi}}
"""


# The label by which the owner of a Secret lets models use it.
MARK = "triton-operator.dev/model-access=true"


class Failed(AssertionError):
    """A command that did not end with 0."""


def run(*command, stdin=None, check=True, deadline=180):
    """Output of a command. With `check=False`, (exit code, everything it said)."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=waiting.scaled(deadline))
    if not check:
        return done.returncode, done.stdout + done.stderr
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def kubectl(*arguments, **options):
    return run(CLUSTER / "kubectl", *arguments, **options)


def helm(*arguments, **options):
    return run(CLUSTER / "helm", *arguments, **options)


def inside(*command, **options):
    return run(CLUSTER / "inside", *command, **options)


def until(ask, what, deadline=60.0):
    """The first answer of `ask` that holds. A failed command and an answer without the field count as no."""
    return waiting.until(ask, what, deadline, pause=0.2, means_no=(Failed, KeyError, IndexError, json.JSONDecodeError))


class Namespace:
    """One namespace and what stands in it."""

    def __init__(self, name):
        self.name = name

    def kubectl(self, *arguments, **options):
        return kubectl("-n", self.name, *arguments, **options)

    def restart(self, deployment):
        """Begins to replace the pods of a deployment; kubectl refuses that where another test did so within the same second."""
        until(lambda: self.kubectl("rollout", "restart", f"deployment/{deployment}", check=False)[0] == 0, f"a restart of {deployment}")

    def apply(self, *texts):
        return self.kubectl("apply", "-f", "-", stdin="\n---\n".join(texts))

    def patch(self, what, **spec):
        """Changes fields of the spec, as somebody with an editor would."""
        return self.kubectl("patch", what, "--type=merge", "-p", json.dumps({"spec": spec}))

    def get(self, what, *arguments):
        selector = arguments[1] if arguments[:1] == ("-l",) and len(arguments) == 2 else None
        if IS_OURS and (not arguments or selector):
            try:
                return API.get(self.name, what, selector)
            except Refused as error:
                raise Failed(str(error)) from error
        return json.loads(self.kubectl("get", what, *arguments, "-o", "json"))

    def items(self, kind, *arguments):
        return self.get(kind, *arguments)["items"]

    def condition(self, what, kind="Ready"):
        """A condition of the present generation, or an empty one."""
        found = self.get(what)
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"].get("generation"):
            return {}
        return next((it for it in status.get("conditions", []) if it["type"] == kind), {})

    def wait(self, what, kind="Ready", status="True", reason=None, deadline=90.0):
        def holds():
            condition = self.condition(what, kind)
            right = condition.get("status") == status and reason in (None, condition.get("reason"))
            return condition if right else None

        try:
            return until(holds, f"{kind}={status} {reason or ''} of {what}", deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from error

    def pods(self, server="vision"):
        """Pods of a server that are not on their way out, by name."""
        pods = self.items("pods", "-l", f"app.kubernetes.io/name=triton-server,app.kubernetes.io/instance={server}")
        return {pod["metadata"]["name"]: pod for pod in pods if "deletionTimestamp" not in pod["metadata"]}

    def has_settled(self, server="vision"):
        """Whether every content is proven, and no replica has anything to adopt: of that the operator writes nothing more."""
        manifest = self.get(f"configmap/{server}-models")["data"]["manifest.json"]
        is_at_work = any("triton-operator.dev/adopt" in pod["metadata"].get("annotations", {}) for pod in self.pods(server).values())
        return '"rollout"' not in manifest and not is_at_work

    def lives(self, server="vision"):
        """What changes when a pod is replaced or one of its containers starts anew."""
        return {
            (pod["metadata"]["uid"], container["name"], container["restartCount"])
            for pod in self.pods(server).values()
            for kind in ("initContainerStatuses", "containerStatuses")
            for container in pod["status"].get(kind, [])
        }

    def address(self, server="vision", port="http"):
        spec = self.get(f"service/{server}")["spec"]
        number = next(it["port"] for it in spec["ports"] if it["name"] == port)
        return f"{spec['clusterIP']}:{number}"

    def infer(self, model="echo", data=(1.0, 2.0), server="vision"):
        """One request through the Service."""
        body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [len(data)], "data": list(data)}]}
        url = f"http://{self.address(server)}/v2/models/{model}/infer"
        answer = json.loads(inside("curl", "-sS", "-m", "10", url, "-d", json.dumps(body)))
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["outputs"][0]["data"]

    def describe(self):
        """What somebody who wonders would look at."""
        looks = [
            ("get", "tsrv,tmod,pods,events", "-o", "wide"),
            ("get", "tsrv,tmod", "-o", "jsonpath={range .items[*]}{.kind} {.metadata.name}: {.status.conditions}{'\\n'}{end}"),
        ]
        return "\n".join(self.kubectl(*look, check=False)[1] for look in looks)


def recovered(namespace, before):
    """Two ready replicas again, and not the ones of before."""
    until(lambda: namespace.lives() != before, "something to have happened")
    namespace.wait("tsrv/vision", deadline=120)
    until(lambda: namespace.get("tmod/echo")["status"]["loadedReplicas"] == "2/2", "the model on both replicas", 120)


# --- the API's record of writes (only in a cluster of our own) --------------------------------------------------------------------------


WRITES = {"create", "update", "patch", "delete", "deletecollection"}
RECORD = STATE / "logs" / "audit.jsonl"
# and those of the other clusters that the tests run on, whose names are in E2E_CLUSTERS
RECORDS = [RECORD, *(state_of(name) / "logs" / "audit.jsonl" for name in os.environ.get("E2E_CLUSTERS", "").split())]


class Audit:
    """Writes by the operator in a namespace, from now on."""

    def __init__(self, namespace):
        self.namespace = namespace.name
        self.log = RECORD
        self.start = self.log.stat().st_size

    def writes(self):
        """Verb, kind and name of each write."""
        user = f"system:serviceaccount:{OPERATOR}:{OPERATOR}"
        found = []
        with self.log.open("rb") as log:
            log.seek(self.start)
            for line in log:
                if user.encode() not in line or not line.endswith(b"\n"):
                    continue
                event = json.loads(line)
                of = event.get("objectRef", {})
                is_write = event["verb"] in WRITES
                if is_write and event["user"]["username"] == user and of.get("namespace") == self.namespace:
                    name = "/".join(filter(None, [of["resource"], of.get("subresource"), of.get("name")]))
                    found.append(f"{event['verb']} {name} {event['responseStatus']['code']}")
        return found

    def quiet(self, seconds):
        """Waits until nothing was written for so long; returns what was written before."""
        before, since = self.writes(), time.monotonic()
        while time.monotonic() - since < seconds:
            time.sleep(0.5)
            now = self.writes()
            if now != before:
                before, since = now, time.monotonic()
        return before


def requests_of(account, record, since="9999"):
    """Every request of an account in a record: (group, resource, verb), and those that its rights did not cover since that time."""
    user = f"system:serviceaccount:{account}:{account}"
    done, refused = set(), []
    with record.open("rb") as log:
        for line in log:
            if user.encode() not in line or not line.endswith(b"\n"):
                continue
            event = json.loads(line)
            of = event.get("objectRef", {})
            if event["user"]["username"] != user or "resource" not in of:
                continue
            what = of.get("apiGroup", ""), "/".join(filter(None, [of["resource"], of.get("subresource")]))
            if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
                if event["requestReceivedTimestamp"][: len("2026-01-01T00:00:00")] >= since.rstrip("Z"):
                    refused.append((*what, event["verb"], of.get("namespace"), of.get("name")))
                continue
            done.add((*what, event["verb"]))
            if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
                done.add((*what, "create"))  # an apply of what was not there yet needs both
    return done, refused


# --- processes of containers (only in a cluster of our own) --------------------------------------------------------------------------------


def container_id(pod, name):
    statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", [])
    status = next(it for it in statuses if it["name"] == name)
    return status["containerID"].removeprefix("containerd://")


def containerd(pod, *arguments):
    """ctr on the node of a pod."""
    node = pod["spec"]["nodeName"].removeprefix("kn")
    return run("ctr", "-a", STATE / f"node{node}" / "containerd.sock", "-n", "k8s.io", *arguments)


def first_process(pod, container):
    """Process id, as the machine counts, of the first process of a container."""
    wanted = container_id(pod, container)
    rows = (line.split() for line in containerd(pod, "tasks", "ls").splitlines())
    return next(int(row[1]) for row in rows if row[0] == wanted)


def child(pod, container):
    """Process id of what the first process of a container has started."""
    first = first_process(pod, container)
    return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])


def kill(process, number=signal.SIGKILL):
    """Sends a signal to a process, as the machine might."""
    os.kill(process, number)


def environment(pod, container="server"):
    """Environment of a container as the node gave it, device plug-ins included."""
    spec = json.loads(containerd(pod, "containers", "info", container_id(pod, container)))
    return dict(pair.split("=", 1) for pair in spec["Spec"]["process"]["env"])


# --- load -----------------------------------------------------------------------------------------------------------------------------------


# Enough to see what a disturbance costs; a soak run keeps it up.
AT_LEAST = 20_000 if os.environ.get("E2E_SOAK") else 2_000


@contextlib.contextmanager
def load(namespace, model="echo", server="vision", rate=400, may_fail=False, retry_refused=False, at_least=AT_LEAST):
    """Steady requests through the Service: before, while and after the block runs, `at_least` of them. Fails if one of them did, unless that is
    the caller's to judge. With `retry_refused` its clients try refused connections again, as most do."""
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / os.environ.get("TRITON_PROFILE", "debug") / "steady"
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}]}
    result = {}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(body, file)
        file.flush()
        flags = [f"--address={namespace.address(server)}", f"--path=/v2/models/{model}/infer", f"--body={file.name}"]
        flags += [f"--at-least={at_least}", f"--before={rate}", f"--after={rate}", f"--rate={rate}"]
        flags += ["--retry-refused"] if retry_refused else []
        command = [str(part) for part in [CLUSTER / "inside", program, *flags]]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            if process.stderr.readline() != "steady\n":
                raise AssertionError(f"no load: {process.communicate(timeout=waiting.scaled(60))}")
            yield result
        except BaseException:
            process.kill()
            process.communicate()
            raise
        out, err = process.communicate(timeout=waiting.scaled(300))
    if not out:
        raise AssertionError(f"steady said nothing: {err}")
    result.update(json.loads(out))
    print(f"load: {result['requests']} requests, {result['failed']} failed, {result['refused']} connections refused, slowest {result['slowest_ms']:.0f} ms")
    assert result["requests"] >= at_least
    assert may_fail or result["failed"] == 0, json.dumps(result, indent=1)


@contextlib.contextmanager
def load_over_grpc(namespace, model="echo", server="vision"):
    """The same over gRPC, with the public client, for as long as the block runs."""
    program = ROOT / "e2e" / "cluster" / "tests" / "steady_grpc.py"
    command = [str(part) for part in [CLUSTER / "inside", sys.executable, program, namespace.address(server, "grpc"), model]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if process.stderr.readline() != "steady\n":
            raise AssertionError(f"no load: {process.communicate(timeout=waiting.scaled(60))}")
        yield
    except BaseException:
        process.kill()
        process.communicate()
        raise
    out, err = process.communicate(timeout=waiting.scaled(60))
    if not out:
        raise AssertionError(f"the clients said nothing: {err}")
    result = json.loads(out)
    print(f"over gRPC: {result['requests']} requests, {result['failed']} failed, {result['longest_gap']:.1f} s without one at most")
    assert result["failed"] == 0, json.dumps(result, indent=1)
