"""The operator on bad days: killed after any of its writes, with an API server that fails in every way it can, beside another operator,
and not there at all. It runs as a process here, through a proxy that does what it is told (`faulty_api.py`), with the rights of the chart;
the installed one is scaled away meanwhile."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import waiting
from faulty_api import FAULTS
from kube import ECHO, NETWORK, NEXT_SERVER_IMAGE, OPERATOR, OPERATORS, ROOT, SERVER, SERVER_IMAGE, STATE, kubectl, until

pytestmark = pytest.mark.our_cluster

PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / os.environ.get("TRITON_PROFILE", "debug") / "triton-operator"
INSIDE = ["nsenter", f"--net=/run/netns/{NETWORK}"]

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: faulty, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: operator, user: {{}}}}]
contexts: [{{name: faulty, context: {{cluster: faulty, user: operator, namespace: {namespace}}}}}]
current-context: faulty
"""


METRICS_API = "apiservice/v1beta2.custom.metrics.k8s.io"


@pytest.fixture(scope="module", autouse=True)
def installed_operator_is_away(operator):
    """And with it its metrics API: no namespace can be deleted while an API that the cluster lists has nobody who answers."""
    code, said = kubectl("get", METRICS_API, "-o", "json", check=False)
    metrics_api = json.loads(said) if code == 0 else None
    operator.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=0")
    until(lambda: not operator.items("pods", *OPERATORS), "the installed operator to be gone", 60)
    if metrics_api:
        kubectl("delete", METRICS_API)
    yield
    if metrics_api:
        of = metrics_api["metadata"]
        metrics_api["metadata"] = {field: of[field] for field in ("name", "labels", "annotations") if field in of}
        metrics_api.pop("status", None)
        kubectl("create", "-f", "-", stdin=json.dumps(metrics_api))
    operator.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=1")
    operator.kubectl("rollout", "status", f"deployment/{OPERATOR}", "--timeout=60s")


class Api:
    """A proxy before the API server."""

    def __init__(self):
        kubeconfig = STATE / "pki" / "admin.kubeconfig"
        command = [*INSIDE, sys.executable, str(Path(__file__).with_name("faulty_api.py")), str(kubeconfig)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = queue.Queue()
        threading.Thread(target=lambda: [self.said.put(json.loads(line)) for line in self.process.stdout], daemon=True).start()
        self.port = self.hear("port", 30)

    def hear(self, what, deadline):
        """The next word about `what`; nothing if none comes in time."""
        ends = time.monotonic() + waiting.scaled(deadline)
        while (left := ends - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                said = self.said.get(timeout=left)
                if what in said:
                    self.recent = said.get("recent", [])
                    return said[what]
        return None

    def plan(self, **order):
        """What is done from now on. Returns how many writes were carried out before."""
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        writes = self.hear("writes", 30)
        assert writes is not None, "the proxy does not answer"
        return writes

    def writes(self):
        return self.plan(count=True)

    @contextlib.contextmanager
    def operator(self, namespace, image=SERVER_IMAGE):
        """An operator of one namespace that works through this proxy; it is killed at the end."""
        with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as config, tempfile.TemporaryFile("w+") as log:
            config.write(KUBECONFIG.format(port=self.port, namespace=namespace.name))
            config.flush()
            flags = [f"--image={image}", f"--watch-namespaces={namespace.name}", "--leader-election=false", "--metrics-address=127.0.0.1:0"]
            environment = {**os.environ, "KUBECONFIG": config.name}
            process = subprocess.Popen([*INSIDE, str(PROGRAM), "run", *flags], env=environment, stdout=log, stderr=log)
            try:
                yield process
                assert process.poll() is None, "it ended by itself"
            except BaseException:
                log.seek(0)
                print("\n".join(log.read().splitlines()[-40:]))
                raise
            finally:
                process.kill()
                process.wait()

    def close(self):
        self.process.kill()
        self.process.wait()


def quiet(apis, seconds, deadline=60):
    """Waits until nothing was written through any of them for so long; returns how much was before."""
    writes = lambda: [api.writes() for api in apis]
    before, since, ends = writes(), time.monotonic(), time.monotonic() + waiting.scaled(deadline)
    while time.monotonic() - since < seconds:
        assert time.monotonic() < ends, "they go on writing:\n" + "\n".join(line for api in apis for line in api.recent)
        time.sleep(0.25)
        if (now := writes()) != before:
            before, since = now, time.monotonic()
    return before


@pytest.fixture
def apis():
    """Makes proxies."""
    made = []

    def make():
        made.append(Api())
        return made[-1]

    yield make
    for api in made:
        api.close()


KINDS = "deployments,services,configmaps,serviceaccounts,poddisruptionbudgets,pods"
EXPECTED = {
    ("Deployment", "vision"),
    ("Service", "vision"),
    ("ConfigMap", "vision-models"),
    ("ServiceAccount", "vision"),
    ("Pod", "vision"),
}


def objects(namespace):
    """Kinds and names of what there is, without what every namespace has; each pod by the name of its server."""
    found = [(it["kind"], it["metadata"]["name"], it["metadata"].get("labels", {})) for it in namespace.items(KINDS)]
    shared = ("kube-root-ca.crt", "default")
    names = [(kind, labels["app.kubernetes.io/instance"] if kind == "Pod" else name) for kind, name, labels in found if name not in shared]
    return sorted(names)


def is_ready(namespace, what):
    return namespace.condition(what).get("status") == "True"


SECOND = ECHO.replace("name: echo", "name: second")


def test_invariant_13_an_operator_killed_after_any_of_its_writes_goes_on_where_it_was(namespace, apis):
    api, kills = apis(), []

    def converge(has_converged):
        """Starts one operator after the other; each may write once, never learns what came of it, and is killed. Until it has converged and
        the last one had nothing to write."""
        count = 0
        while True:
            api.plan(stop_after=1)
            with api.operator(namespace):
                has_written = api.hear("stopped", 3) is not None
            count += has_written
            if not has_written and has_converged():
                break
            assert count < 60, namespace.describe()
        kills.append(count)

    namespace.apply(SERVER, ECHO)
    converge(lambda: is_ready(namespace, "tsrv/vision") and is_ready(namespace, "tmod/echo") and namespace.has_settled())
    assert objects(namespace) == sorted(EXPECTED)
    assert namespace.infer() == [1, 2]
    lives = namespace.lives()
    namespace.apply(SECOND)
    namespace.kubectl("delete", "tmod/echo")
    converge(lambda: is_ready(namespace, "tmod/second") and is_ready(namespace, "tsrv/vision") and namespace.has_settled())
    assert namespace.infer("second") == [1, 2]
    assert namespace.lives() == lives
    assert objects(namespace) == sorted(EXPECTED)
    # whoever comes last finds nothing left to do, and no object was written more often than once
    before = api.plan(fault=None)
    with api.operator(namespace):
        time.sleep(2)
        assert quiet([api], 3) == [before]
    assert namespace.get("deployment/vision")["metadata"]["generation"] == 1
    print(f"killed after each of {kills} writes")


def test_invariant_14_every_fault_of_the_api_server_is_outlasted(namespaces, apis):
    """All at once, each in a namespace with an operator of its own: the first request of each verb and path fails."""
    cases = [(fault, apis(), namespaces()) for fault in FAULTS]
    with contextlib.ExitStack() as stack:
        for fault, api, namespace in cases:
            api.plan(fault=fault)
            namespace.apply(SERVER, ECHO)
            stack.enter_context(api.operator(namespace))
        for fault, _, namespace in cases:
            until(lambda: is_ready(namespace, "tmod/echo"), f"the model to be ready in spite of {fault}", 150)
        for fault, api, namespace in cases:
            api.plan(fault=fault if fault != "silent" else None)  # once more; the longest wait of a client is long enough once
            namespace.patch("tsrv/vision", service={"annotations": {"changed": "yes"}})
            namespace.kubectl("delete", "tmod/echo")
            namespace.apply(SECOND)
        for fault, api, namespace in cases:
            annotations = lambda: namespace.get("service/vision")["metadata"].get("annotations", {})
            until(lambda: annotations().get("changed") == "yes", f"the change in spite of {fault}", 120)
            until(lambda: is_ready(namespace, "tmod/second"), f"the other model in spite of {fault}", 120)
            assert objects(namespace) == sorted(EXPECTED), fault
            api.plan(fault=None)
        quiet([api for _, api, _ in cases], 4)
        for fault, _, namespace in cases:
            assert namespace.get("deployment/vision")["metadata"]["generation"] == 1, fault


def test_invariant_12_two_operators_of_different_versions_do_not_fight(namespace, apis):
    """What differs between versions, as far as one build can show it: the image that servers get by default. The election, which keeps two
    from working at once, is off."""
    older, newer = apis(), apis()
    namespace.apply(SERVER, ECHO)
    with older.operator(namespace, SERVER_IMAGE):
        until(lambda: is_ready(namespace, "tmod/echo"), "the model")
        lives = namespace.lives()
        with newer.operator(namespace, NEXT_SERVER_IMAGE):
            namespace.apply(SECOND)
            until(lambda: is_ready(namespace, "tmod/second"), "the model that came later")
            until(namespace.has_settled, "its content to be proven")
            before = quiet([older, newer], 4)
            namespace.kubectl("annotate", "tsrv/vision", "somebody=looks")
            time.sleep(4)
            after = [older.writes(), newer.writes()]
            assert sum(after) - sum(before) <= 2, "they write by turns"  # one may have been due
            assert namespace.lives() == lives
            assert namespace.get("deployment/vision")["metadata"]["generation"] == 1


def test_invariant_15_a_pod_that_restarts_while_no_operator_is_there_loads_its_models(namespace, apis):
    namespace.apply(SERVER, ECHO, SECOND)
    with apis().operator(namespace):
        until(lambda: is_ready(namespace, "tmod/echo") and is_ready(namespace, "tmod/second"), "the models", 90)
    before = set(namespace.pods())
    namespace.kubectl("delete", "pod", *before, "--wait=false")
    until(lambda: set(namespace.pods()) - before, "another pod", 60)
    for model in ("echo", "second"):
        until(lambda: namespace.infer(model) == [1, 2], f"answers of {model}", 60)


def test_invariant_19_nothing_hangs_when_all_is_deleted_while_no_operator_is_there(namespaces, apis):
    kept, whole = namespaces(), namespaces()
    with contextlib.ExitStack() as stack:
        for namespace in (kept, whole):
            namespace.apply(SERVER, ECHO)
            stack.enter_context(apis().operator(namespace))
        for namespace in (kept, whole):
            until(lambda: is_ready(namespace, "tmod/echo"), "the model", 90)
    kept.kubectl("delete", "tsrv/vision", "tmod/echo", "--timeout=30s")
    until(lambda: not objects(kept), "everything to be gone", 60)
    whole.kubectl("delete", "namespace", whole.name, "--timeout=60s")


def test_invariant_21_an_operator_outlives_its_definitions_and_goes_on_when_they_are_back(namespace, apis):
    names = ["tritonservers.triton-operator.dev", "tritonmodels.triton-operator.dev"]
    saved = [json.loads(kubectl("get", "crd", name, "-o", "json")) for name in names]
    for definition in saved:
        definition.pop("status")
        of = definition["metadata"]
        definition["metadata"] = {field: of[field] for field in ("name", "labels", "annotations") if of.get(field)}
    namespace.apply(SERVER, ECHO)
    with apis().operator(namespace) as process:
        until(lambda: is_ready(namespace, "tmod/echo"), "the model", 90)
        try:
            kubectl("delete", "crd", *names, "--timeout=60s")
            until(lambda: kubectl("get", "--raw", "/apis/triton-operator.dev/v1alpha1", check=False)[0] != 0, "the kinds to be unknown", 60)
            assert process.poll() is None, "it ended by itself"
        finally:
            kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": saved}))
            kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in names), "--timeout=30s")
        until(lambda: namespace.apply(SERVER, ECHO), "the resources to be taken", 30)
        # watches begin again after pauses of up to half a minute
        until(lambda: is_ready(namespace, "tmod/echo"), "the model in spite of it", 120)
    assert objects(namespace) == sorted(EXPECTED)
