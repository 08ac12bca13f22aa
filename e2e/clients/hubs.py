"""Places that models are fetched from by name: a hub of repositories as the Hugging Face Hub is from outside, and a registry, which is crane's, with a
gate before it that wants tokens. `test_hub_sources.py` asks both with the clients of the real ones, too."""

import base64
import contextlib
import functools
import hashlib
import http.client
import io
import json
import subprocess
import tarfile
import tempfile
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from serving import ROOT, everything_in, free_ports, scaled, until


class Web:
    """A web server; `answer(request)` answers whatever is asked. Use as a context manager."""

    def __init__(self, answer, host="127.0.0.1"):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                answer(self)

            do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.address = f"{host}:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def reply(request, status, body=b"", **headers):
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


# --- a hub ------------------------------------------------------------------------------------------------------------------------------


class Hub:
    """Repositories of models. Large files lie at another server, to which the hub redirects. Use as a context manager."""

    TOKEN = "hf_of_the_tests"
    PAGE = 2  # files on one page of a listing

    def __init__(self, host="127.0.0.1"):
        self.repos, self.stored = {}, {}
        self.asked, self.storage_asked = [], []  # method, path and Authorization of each request
        self.cut = None  # so many bytes of the next answer of the storage
        self.web, self.storage = Web(self.answer, host), Web(self.answer_from_storage, host)

    def __enter__(self):
        self.web.__enter__()
        self.storage.__enter__()
        self.endpoint = f"http://{self.web.address}"
        return self

    def __exit__(self, *_):
        self.web.__exit__()
        self.storage.__exit__()

    def commit(self, repo, files, gated=False, large=(".onnx", ".bin")):
        """Makes `main` of the repository a new commit with these files; returns the commit."""
        content = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in files.items()}, sort_keys=True)
        commit = hashlib.sha1(content.encode()).hexdigest()
        known = self.repos.setdefault(repo, {"commits": {}, "refs": {}})
        known["gated"] = gated
        known["commits"][commit] = {path: (data, path.endswith(large)) for path, data in files.items()}
        known["refs"]["main"] = commit
        return commit

    def answer(self, request):
        url = urllib.parse.urlsplit(request.path)
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        self.asked.append((request.command, request.path, request.headers.get("Authorization")))
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        name, rest = "/".join(parts[:2]), parts[2:]
        authorization = request.headers.get("Authorization")
        if authorization not in (None, f"Bearer {self.TOKEN}"):
            return reply(request, 401, b'{"error":"Invalid credentials in Authorization header"}')
        repo = self.repos.get(name)
        if repo is None:
            status = 401 if authorization is None else 404
            return reply(request, status, b'{"error":"Repository not found"}', X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        what, revision = (rest + ["revision", "main"])[:2] if is_api else rest[:2]
        commit = repo["refs"].get(revision, revision)
        files = repo["commits"].get(commit)
        if files is None:
            return reply(request, 404, b'{"error":"Invalid rev id"}', X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        if is_api:
            return getattr(self, f"answer_{what}")(request, name, commit, files, dict(urllib.parse.parse_qsl(url.query)))
        if repo["gated"] and authorization is None:
            return reply(request, 401, b"", X_Error_Code="GatedRepo", X_Error_Message="Access to it is restricted. You must be authenticated")
        return self.answer_resolve(request, commit, files, "/".join(rest[2:]))

    def answer_revision(self, request, name, commit, files, _):
        info = {
            "_id": commit[:24],
            "id": name,
            "modelId": name,
            "author": name.split("/")[0],
            "sha": commit,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": False,
            "gated": "auto" if self.repos[name]["gated"] else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }
        reply(request, 200, json.dumps(info).encode(), Content_Type="application/json")

    def answer_tree(self, request, name, commit, files, query):
        folders = {path.rsplit("/", 1)[0] for path in files if "/" in path}
        entries = [{"type": "directory", "oid": commit, "size": 0, "path": folder} for folder in sorted(folders)]
        for path, (content, is_large) in sorted(files.items()):
            entry = {"type": "file", "oid": git_name(content), "size": len(content), "path": path}
            if is_large:
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        start = int(query.get("cursor", 0))
        more = {}
        if start + self.PAGE < len(entries):
            next_page = f"{self.endpoint}/api/models/{name}/tree/{commit}?recursive=true&cursor={start + self.PAGE}"
            more = {"Link": f'<{next_page}>; rel="next"'}
        reply(request, 200, json.dumps(entries[start : start + self.PAGE]).encode(), Content_Type="application/json", **more)

    def answer_resolve(self, request, commit, files, path):
        if path not in files:
            return reply(request, 404, b"Entry not found", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        content, is_large = files[path]
        if not is_large:
            return reply(request, 200, content, ETag=f'"{git_name(content)}"', X_Repo_Commit=commit)
        name = hashlib.sha256(content).hexdigest()
        self.stored[name] = content
        where = f"http://{self.storage.address}/{name}?signature=of-the-hub"
        reply(request, 302, b"", Location=where, X_Repo_Commit=commit, X_Linked_ETag=f'"{name}"', X_Linked_Size=str(len(content)))

    def answer_from_storage(self, request):
        self.storage_asked.append((request.command, request.headers.get("Range"), request.headers.get("Authorization")))
        name = urllib.parse.urlsplit(request.path).path.strip("/")
        content = self.stored[name]
        status, more, start = 200, {}, 0
        if wanted := request.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status, more = 206, {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        if self.cut is not None:
            cut, self.cut = self.cut, None
            request.send_response(200)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content[:cut])
            request.close_connection = True
            return
        reply(request, status, content[start:], ETag=f'"{name}"', Accept_Ranges="bytes", **more)


def git_name(content):
    """What git calls a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


# --- a registry -------------------------------------------------------------------------------------------------------------------------


@functools.cache
def crane_program():
    return subprocess.run([ROOT / "e2e" / "crane"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def crane(*arguments, env=None):
    """What crane prints."""
    done = subprocess.run([crane_program(), *map(str, arguments)], capture_output=True, text=True, timeout=scaled(60), env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Registry:
    """crane's registry, which everybody may read and write. Use as a context manager."""

    def __init__(self, host="127.0.0.1"):
        (port,) = free_ports(1)
        self.address = f"{host}:{port}"
        self.output = tempfile.TemporaryFile(mode="w+b")

    def __enter__(self):
        command = [crane_program(), "registry", "serve", "--address", self.address]
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT)
        try:
            asks = lambda: requests.get(f"http://{self.address}/v2/", timeout=scaled(5)).ok
            until(asks, "the registry to start", 30, self.process, pause=0.05, means_no=(OSError,))
        except BaseException as error:
            self.__exit__()
            raise AssertionError(f"{error}\n{everything_in(self.output)}") from error
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def push_image(self, reference, *layers):
        """An image of layers, each a dictionary of contents by path."""
        with tempfile.TemporaryDirectory() as folder:
            flags = []
            for number, layer in enumerate(layers):
                path = Path(folder, f"{number}.tar")
                path.write_bytes(tar_of(layer))
                flags.append(f"--new_layer={path}")
            crane("append", "--insecure", "--oci-empty-base", *flags, f"--new_tag={self.address}/{reference}")

    def push_artifact(self, name, tag, layers, config_type="application/vnd.cncf.model.config.v1+json"):
        """An artifact of layers (media type, annotations, content), by the requests of the distribution specification."""
        config = self.push_blob(name, b"{}")
        listed = [{"mediaType": kind, **self.push_blob(name, content), "annotations": notes} for kind, notes, content in layers]
        manifest = {"schemaVersion": 2, "artifactType": "application/vnd.cncf.model.manifest.v1+json", "config": {"mediaType": config_type, **config}, "layers": listed}
        headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        done = requests.put(f"http://{self.address}/v2/{name}/manifests/{tag}", json.dumps(manifest), headers=headers, timeout=scaled(10))
        done.raise_for_status()
        return done.headers["Docker-Content-Digest"]

    def push_blob(self, name, content):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        begun = requests.post(f"http://{self.address}/v2/{name}/blobs/uploads/", timeout=scaled(10))
        begun.raise_for_status()
        where = urllib.parse.urljoin(f"http://{self.address}/", begun.headers["Location"])
        requests.put(where, content, params={"digest": digest}, timeout=scaled(10)).raise_for_status()
        return {"digest": digest, "size": len(content)}


def tar_of(files):
    """A tar archive of contents by path."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


class Gate:
    """Stands before a registry: who reads needs a token, and who has user name and password gets one. Use as a context manager."""

    USER, PASSWORD, TOKEN = "reader", "of-the-tests", "a-token-of-the-gate"

    def __init__(self, registry):
        self.registry, self.web = registry, Web(self.answer)
        self.tokens = 0

    def __enter__(self):
        self.web.__enter__()
        self.address = self.web.address
        return self

    def __exit__(self, *_):
        self.web.__exit__()

    def login(self):
        """The text of a .dockerconfigjson."""
        return json.dumps({"auths": {self.address: {"auth": base64.b64encode(f"{self.USER}:{self.PASSWORD}".encode()).decode()}}})

    def answer(self, request):
        authorization = request.headers.get("Authorization")
        if request.path.startswith("/token"):
            basic = "Basic " + base64.b64encode(f"{self.USER}:{self.PASSWORD}".encode()).decode()
            self.tokens += 1
            return reply(request, 200, json.dumps({"token": self.TOKEN}).encode()) if authorization == basic else reply(request, 401)
        if authorization != f"Bearer {self.TOKEN}":
            challenge = f'Bearer realm="http://{self.address}/token",service="tests"'
            return reply(request, 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}', WWW_Authenticate=challenge)
        with contextlib.closing(http.client.HTTPConnection(self.registry.address, timeout=scaled(30))) as connection:
            connection.request(request.command, request.path, headers={"Accept": request.headers.get("Accept", "*/*")})
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() in ("content-type", "docker-content-digest")}
            reply(request, response.status, response.read(), **kept)
