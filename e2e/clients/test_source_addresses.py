"""Addresses that no source may have, as `triton-operator up` tells of them: written out and after a redirect. Nothing is sent to them."""

import http.server
import threading

import pytest

from bringing_up import Up, write

SERVER = "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonServer\nmetadata: {name: test}\nspec: {server: {exitTimeout: 10s, drainDelay: 0s}}\n"


@pytest.fixture
def redirecting():
    """Address of a web server that sends everybody to a cloud's metadata service."""

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/model.onnx"
        server.shutdown()


@pytest.mark.parametrize("address", [None, "http://169.254.169.254/m", "http://[::ffff:169.254.169.254]/m", "http://0.0.0.0:1/m"])
def test_the_address_of_a_metadata_service_is_refused(address, redirecting, tmp_path):
    file = tmp_path / "all.yaml"
    source = f"http: {{uri: '{address or redirecting}'}}"
    head = "---\napiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {name: thief}\nspec:\n  serverRef: {name: test}\n"
    write(file, SERVER, head + f"  format: onnx\n  source: {{{source}}}\n")
    with Up(file) as up:
        up.wait_for("AddressRefused", 20)
        assert "--volume NAME=DIR" in up.said()
