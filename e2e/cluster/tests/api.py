"""Objects read from the API server of our own cluster over one connection. A kubectl for each look costs a processor a tenth of a second, and
tests look several times a second while they wait."""

import ctypes
import http.client
import json
import socket
import ssl
import threading
from urllib.parse import quote, urlencode

HOST, PORT = "10.89.0.1", 6443
CLONE_NEWNET = 0x40000000
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Refused(Exception):
    """What the API server says where it does not give what was asked for."""


def connected(network):
    """A socket to the API server from inside a network namespace. A thread enters it for as long as that takes: a socket stays where it
    was made."""
    made = []

    def connect():
        with open(f"/run/netns/{network}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                made.append(OSError(ctypes.get_errno(), f"cannot enter {network}"))
                return
        try:
            made.append(socket.create_connection((HOST, PORT), timeout=30))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


class Connection(http.client.HTTPSConnection):
    def __init__(self, network, pki):
        context = ssl.create_default_context(cafile=pki / "ca.crt")
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        super().__init__(HOST, PORT, timeout=30, context=context)
        self.network, self.tls = network, context

    def connect(self):
        self.sock = self.tls.wrap_socket(connected(self.network), server_hostname=HOST)


class Api:
    """What `kubectl get -o json` gives, without kubectl."""

    def __init__(self, network, pki):
        self.network, self.pki = network, pki
        self.connection = None
        self.kinds = {}
        self.lock = threading.Lock()

    def ask(self, path, accept="application/json"):
        """The answer to GET. A connection that the server has closed meanwhile is made anew once."""
        with self.lock:
            for attempt in range(2):
                try:
                    self.connection = self.connection or Connection(self.network, self.pki)
                    self.connection.request("GET", path, headers={"Accept": accept})
                    answer = self.connection.getresponse()
                    status, body = answer.status, answer.read()
                    break
                except (OSError, http.client.HTTPException) as error:
                    self.close()
                    if attempt == 1:
                        raise Refused(f"GET {path}: {error!r}") from error
        if status != 200:
            raise Refused(f"GET {path}: {status} {body.decode(errors='replace')}")
        return json.loads(body)

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def discover(self):
        """Every kind by each name that kubectl takes: (path of its version, plural, kind, whether it lies in a namespace)."""
        kinds = {}
        for root in ("/api", "/apis"):
            for group in self.ask(root, DISCOVERY)["items"]:
                group_name = group["metadata"].get("name", "")
                for version in group["versions"]:
                    at = f"{group_name}/{version['version']}" if group_name else version["version"]
                    for of in version.get("resources", []):
                        found = f"{root}/{at}", at, of["resource"], of["responseKind"]["kind"], of["scope"] == "Namespaced"
                        names = [of["resource"], of.get("singularResource", ""), *of.get("shortNames", []), of["responseKind"]["kind"].lower()]
                        for name in filter(None, names):
                            kinds.setdefault(name, found)
                            kinds.setdefault(f"{name}.{group_name}", found)
        self.kinds = kinds

    def kind(self, name):
        if name not in self.kinds:
            self.discover()
        if name not in self.kinds:
            raise Refused(f'the server does not have a resource type "{name}"')
        return self.kinds[name]

    def get(self, namespace, what, selector=None):
        """One object, KIND/NAME, or a list of those of KIND[,KIND...] that a selector of labels takes."""
        if "/" in what:
            name, of = what.split("/", 1)
            return self.object(namespace, name, of)
        items = [item for name in what.split(",") for item in self.list(namespace, name, selector)]
        return {"apiVersion": "v1", "kind": "List", "items": items}

    def path(self, namespace, name):
        root, version, plural, kind, has_namespace = self.kind(name)
        return f"{root}/namespaces/{namespace}/{plural}" if has_namespace else f"{root}/{plural}", version, kind

    def object(self, namespace, name, of):
        path, _, _ = self.path(namespace, name)
        return plain(self.ask(f"{path}/{quote(of)}"))

    def list(self, namespace, name, selector):
        path, version, kind = self.path(namespace, name)
        query = f"?{urlencode({'labelSelector': selector})}" if selector else ""
        items = self.ask(path + query)["items"]
        return [plain({"apiVersion": version, "kind": kind, **item}) for item in items]


def plain(item):
    """As kubectl shows it: without the record of who set which field."""
    item["metadata"].pop("managedFields", None)
    return item
