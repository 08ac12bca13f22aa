"""An etcd and an API server of their own in a network namespace of their own: nothing else writes there, and no node is needed."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import waiting

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "e2e" / "cluster"
ADDRESS = "10.89.0.1"  # as the certificates say
OPERATOR = "scale-operator"  # a user as others are: requests of administrators pass the API server's queues

READY = 'source "$1/lib/common.sh"; source "$1/lib/packages.sh"; source "$1/lib/programs.sh"; install_packages >&2; build_programs >&2; echo "$programs"'
CERTIFICATES = 'source "$1/lib/common.sh"; source "$1/lib/certificates.sh"; make_certificates; cd "$state/pki"; client "$2" "/CN=$2" 2>/dev/null'


class ControlPlane:
    """Use as a context. Commands given to `run` and `start` are inside its network."""

    def __init__(self):
        self.name = f"scale-{uuid.uuid4().hex[:6]}"
        self.state = Path(tempfile.mkdtemp(prefix="triton-scale-"))
        self.processes = []

    def __enter__(self):
        try:
            self.bring_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def bring_up(self):
        programs = Path(self.script(READY).strip().splitlines()[-1])
        self.kubectl_program = programs / "kubectl"
        self.script(CERTIFICATES, OPERATOR)
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{ADDRESS}/32", "dev", "lo"]):
            subprocess.run(["ip", "-n", self.name, *words], check=True)
        pki = self.state / "pki"
        self.etcd = self.start("etcd", [programs / "etcd", "--data-dir", self.state / "etcd", "--unsafe-no-fsync", "--quota-backend-bytes", str(4 << 30)])
        self.server = self.start("kube-apiserver", [
            programs / "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={ADDRESS}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",  # nobody is there who would make the accounts of namespaces
            f"--tls-cert-file={pki}/kube-apiserver.crt",
            f"--tls-private-key-file={pki}/kube-apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/service-accounts.pub",
            f"--service-account-signing-key-file={pki}/service-accounts.key",
        ])
        waiting.until(lambda: self.kubectl("get", "--raw", "/readyz", stderr=subprocess.DEVNULL), "the API server", 120, pause=0.3, means_no=(subprocess.CalledProcessError,))
        self.kubectl("create", "clusterrolebinding", OPERATOR, "--clusterrole=cluster-admin", f"--user={OPERATOR}")
        self.kubectl("apply", "--server-side", "-k", ROOT / "crds" / "yaml")
        established = lambda: self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s", stderr=subprocess.DEVNULL)
        waiting.until(established, "the definitions", 60, pause=0.3, means_no=(subprocess.CalledProcessError,))

    def __exit__(self, *_):
        for process in reversed(self.processes):
            end(process)
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.state, ignore_errors=True)

    def script(self, text, *arguments):
        command = ["bash", "-euc", text, "bash", str(CLUSTER), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "CLUSTER_STATE": str(self.state)}).stdout

    def inside(self, command):
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, command)]

    def start(self, name, command, user="admin"):
        """A process whose log is in the state folder. `nsenter` becomes the program, so its process id is the program's."""
        environment = {**os.environ, "KUBECONFIG": str(self.state / "pki" / f"{user}.kubeconfig")}
        with open(self.state / f"{name}.log", "ab") as log:
            process = subprocess.Popen(self.inside(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        self.processes.append(process)
        return process

    def stop(self, process):
        self.processes.remove(process)
        end(process)

    def run(self, command, **options):
        environment = {**os.environ, "KUBECONFIG": str(self.state / "pki" / "admin.kubeconfig")}
        return subprocess.run(self.inside(command), check=True, stdout=subprocess.PIPE, text=True, env=environment, **options).stdout

    def kubectl(self, *arguments, **options):
        return self.run([self.kubectl_program, *arguments], **options)

    def writes(self):
        """Requests that write, as the API server counts them, by verb and resource; what it writes about itself is not in them."""
        page = self.kubectl("get", "--raw", "/metrics")
        found = {}
        for labels, count in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", page, re.MULTILINE):
            of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if of["verb"] in ("POST", "PUT", "PATCH", "APPLY", "DELETE") and of["resource"] not in ("leases", "selfsubjectaccessreviews", "subjectaccessreviews"):
                name = "/".join(filter(None, [of["verb"], of["resource"], of["subresource"]]))
                found[name] = found.get(name, 0) + float(count)
        return found


def end(process):
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
        return
    process.kill()
    process.wait()
