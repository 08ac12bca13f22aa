"""A resource metrics API (metrics.k8s.io) for clusters that have none: processor time of pods, as their kubelets measure it, for a
HorizontalPodAutoscaler of `type: Resource`. It stands in for metrics-server, which does the same, for as long as a measurement takes.

    cpu_metrics.py KUBECTL ADDRESS PORT CERTIFICATE KEY      serves until it is ended"""

import json
import re
import ssl
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PERIOD = 5.0  # seconds between two looks; metrics-server's default is 15
WINDOW = 15.0
SAMPLE = re.compile(r'container_cpu_usage_seconds_total\{container="([^"]+)",namespace="([^"]+)",pod="([^"]+)"\} (\S+)')
PATH = re.compile(r"/apis/metrics\.k8s\.io/v1beta1/namespaces/([^/]+)/pods$")

looks = []  # (time, {(namespace, pod, container): seconds})


def kubectl(*arguments):
    return subprocess.run([sys.argv[1], *arguments], capture_output=True, text=True, check=True, timeout=20).stdout


def look():
    nodes = kubectl("get", "nodes", "-o", "name").split()
    found = {}
    for node in nodes:
        page = kubectl("get", "--raw", f"/api/v1/nodes/{node.removeprefix('node/')}/proxy/metrics/resource")
        for container, namespace, pod, seconds in SAMPLE.findall(page):
            found[namespace, pod, container] = float(seconds)
    looks.append((time.monotonic(), found))
    while len(looks) > 2 and looks[1][0] < looks[-1][0] - WINDOW:
        looks.pop(0)


def follow():
    while True:
        try:
            look()
        except subprocess.SubprocessError as error:
            print(f"cannot ask a kubelet: {error}", file=sys.stderr)
        time.sleep(PERIOD)


def usage(namespace, selector):
    if len(looks) < 2:
        return []
    (first, before), (last, after) = looks[0], looks[-1]
    names = kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "name").split()
    items = []
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name in (name.removeprefix("pod/") for name in names):
        containers = [
            {"name": key[2], "usage": {"cpu": f"{max(0, int((seconds - before[key]) / (last - first) * 1e9))}n", "memory": "0"}}
            for key, seconds in after.items()
            if key[:2] == (namespace, name) and key in before
        ]
        if containers:
            items.append({"metadata": {"name": name, "namespace": namespace}, "timestamp": now, "window": "15s", "containers": containers})
    return items


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        listed = PATH.match(url.path)
        if listed:
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            body = {"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": usage(listed[1], selector)}
        elif url.path == "/apis/metrics.k8s.io/v1beta1":
            pods = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}
            body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": [pods]}
        else:
            body = {}
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    address, port, certificate, key = sys.argv[2:]
    threading.Thread(target=follow, daemon=True).start()
    server = ThreadingHTTPServer((address, int(port)), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
