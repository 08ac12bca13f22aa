"""A proxy between an operator and the API server that does what networks and API servers do on a bad day. Run as a program in the network
of the control plane; it is told what to do by lines of JSON on its input and says what happened by lines on its output.

    {"stop_after": N}   from now on, N writes are carried out; the answer to the last of them and everything after it is withheld
    {"fault": NAME}     from now on, the first request of each verb and path fails in this way (see FAULTS); watches are disturbed by
                        `gone` and `lose`
    {"fault": null}     nothing is disturbed
    {"count": true}     says how many writes were carried out so far, and which were the newest
"""

import base64
import contextlib
import http.client
import json
import ssl
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

ACCOUNT = "system:serviceaccount:triton-operator:triton-operator"
GROUPS = ["system:serviceaccounts", "system:serviceaccounts:triton-operator", "system:authenticated"]

# How a request fails: the status it is answered with, or what becomes of its connection.
FAULTS = {
    "conflict": 409,
    "throttled": 429,
    "error": 500,
    "unavailable": 503,
    "closed_before": "closed before the request is carried out",
    "closed_after": "carried out, and closed before the answer",
    "silent": "never answered",
    "gone": "watches end with 410 after a moment",
    "lose": "watches lose every other event and end with 410 after a moment",
}
REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
WATCH_LIVES = 2.0  # seconds


class Plan:
    """What is to be done to requests."""

    def __init__(self):
        self.lock = threading.Lock()
        self.round = 0  # a request withheld in one round ends with it
        self.stop_after = None
        self.fault = None
        self.seen = set()
        self.writes = 0
        self.recent = []  # the newest of them

    def take(self, order):
        with self.lock:
            if "count" not in order:
                self.round += 1
                self.stop_after = order.get("stop_after")
                self.fault = order.get("fault")
                self.seen = set()
            say({"writes": self.writes, "recent": self.recent})

    def begin(self, method, path):
        """The fault of a request, and the round it belongs to."""
        with self.lock:
            if self.stop_after == 0:
                return "withheld", self.round
            request = (method, path)
            is_new = request not in self.seen
            self.seen.add(request)
            is_hit = is_new and self.fault in FAULTS and self.fault not in ("gone", "lose")
            if is_hit and self.fault == "conflict" and method == "GET":
                is_hit = False
            # one is enough: a client waits long for each
            if is_hit and self.fault == "silent":
                is_hit = method != "GET" and not any(it == "silent" for it in self.seen)
                if is_hit:
                    self.seen.add("silent")
            return (self.fault if is_hit else None), self.round

    def carried_out(self, method, path, body):
        """A request was carried out. Whether its answer is to be withheld."""
        if method == "GET":
            return False
        with self.lock:
            self.writes += 1
            self.recent = [*self.recent[-9:], f"{method} {path} {body.decode(errors='replace')[:2000]}"]
            if not self.stop_after:
                return self.stop_after == 0
            self.stop_after -= 1
            if self.stop_after == 0:
                say({"stopped": self.writes})
            return self.stop_after == 0

    def withhold(self, round):
        while self.round == round:
            time.sleep(0.02)


def say(what):
    print(json.dumps(what), flush=True)


class Upstream:
    """The API server, as a kubeconfig names it."""

    def __init__(self, kubeconfig):
        import yaml

        config = yaml.safe_load(open(kubeconfig))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.address = urlsplit(cluster["server"]).netloc

        with tempfile.TemporaryDirectory() as folder:

            def file(entry, name):
                if name in entry:
                    return entry[name]
                copy = Path(folder, name)
                copy.write_bytes(base64.b64decode(entry[f"{name}-data"]))
                return copy

            self.tls = ssl.create_default_context(cafile=file(cluster, "certificate-authority"))
            self.tls.load_cert_chain(file(user, "client-certificate"), file(user, "client-key"))

    def send(self, method, target, headers, body):
        connection = http.client.HTTPSConnection(self.address, context=self.tls, timeout=600)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.putheader("Host", self.address)
        connection.putheader("Impersonate-User", ACCOUNT)
        for group in GROUPS:
            connection.putheader("Impersonate-Group", group)
        connection.endheaders(body or None)
        return connection, connection.getresponse()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan = upstream = None

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def exchange(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        is_watch = "watch=true" in query.split("&")
        fault, round = self.plan.begin(self.command, f"{path} watch" if is_watch else path)
        if fault in ("withheld", "silent", "closed_before"):
            if fault != "closed_before":
                self.plan.withhold(round)
            self.close_connection = True
            return
        status = FAULTS.get(fault)
        if isinstance(status, int):
            self.refuse(status)
            return
        keep = [(name, value) for name, value in self.headers.items() if name.lower() not in ("host", "accept-encoding", "connection")]
        connection, response = self.upstream.send(self.command, self.path, keep, body)
        with contextlib.closing(connection):
            if is_watch and response.status == 200:
                self.stream(response)
                return
            data = response.read()
        if self.plan.carried_out(self.command, path, body):
            self.plan.withhold(round)
            self.close_connection = True
            return
        if fault == "closed_after":
            self.close_connection = True
            return
        self.send_response(response.status)
        self.send_header("Content-Type", response.getheader("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = exchange

    def refuse(self, status):
        text = json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": REASONS[status], "message": "a bad day"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, response):
        """Hands on the events of a watch, a line each."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        fault, round, ends, events = self.plan.fault, self.plan.round, None, 0
        if fault in ("gone", "lose"):
            # the API server is silent for longer than a watch is to live
            response.fp.raw._sock.settimeout(WATCH_LIVES)
            ends = time.monotonic() + WATCH_LIVES
        while ends is None or time.monotonic() < ends:
            try:
                line = response.readline()
            except TimeoutError:
                break
            if not line or self.plan.round != round:
                return
            events += 1
            if fault != "lose" or events % 2:
                self.chunk(line)
        gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"}
        self.chunk(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
        self.chunk(b"")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def main():
    Handler.plan, Handler.upstream = Plan(), Upstream(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say({"port": server.server_port})
    for line in sys.stdin:
        Handler.plan.take(json.loads(line))


if __name__ == "__main__":
    main()
