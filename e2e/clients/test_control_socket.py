"""A server with a control socket: the real clients change nothing over its ports, and everything over the socket."""

import contextlib
import json
import signal
import socket
import stat
import threading

import make
import pytest
from control_calls import outcomes

from serving import Server, program, runtime_library
from talking import PROTOCOLS, add_one, connect, is_ready
from waiting import until

PUBLIC = "start the server with --public-control=true"
REFUSED = {"http": "403", "grpc": "StatusCode.PERMISSION_DENIED"}


@pytest.fixture(scope="module", autouse=True)
def models(folder):
    make.versions(folder)


@pytest.fixture
def control(tmp_path):
    return tmp_path / "control.sock"


def controlled(folder, control, *flags):
    return Server(folder, "--model-control-mode=explicit", "--load-model=versions", f"--control-socket={control}", *flags)


@contextlib.contextmanager
def port_of(path):
    """A port of loopback that leads to a Unix socket, for clients that know only ports."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends = []

    def copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve():
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                ends.extend((near, far))
                far.connect(str(path))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        for end in [listener, *ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_client_controls_the_server_over_its_ports(folder, control, protocol):
    with controlled(folder, control, "--allow-client-shm=true") as server:
        client = connect(protocol, server)
        address = server.url if protocol == "http" else server.grpc_url
        for name, refusal in outcomes(protocol, address, "versions").items():
            assert refusal and refusal[0] == REFUSED[protocol], (name, refusal)
            assert f"control socket '{control}' only" in refusal[1] and PUBLIC in refusal[1], (name, refusal)
        # what only asks is answered, and the model serves as before
        assert "strange" not in str(client.get_model_repository_index())
        assert not client.get_system_shared_memory_status() or protocol == "grpc"
        assert is_ready(client, "versions") and add_one(protocol, client, "versions") == 3


def test_a_client_controls_the_server_over_the_socket(folder, control):
    restricted = "--http-restricted-api=model-repository,inference,metadata:key=secret"
    with controlled(folder, control, restricted, "--allow-client-shm=true", "--http-header-forward-pattern=.*") as server:
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        assert server.status("/v2") == 403  # restricted on the port, as before
        with port_of(control) as port:
            done = outcomes("http", f"127.0.0.1:{port}", "versions")
            refused = {name: refusal for name, refusal in done.items() if refusal}
            # no GPU, no such region, and no settings: the server's own reasons, as on a port without a control socket
            assert not any(refusal[0] == "403" for refusal in refused.values()), refused
            assert not {"load", "load with files", "unload", "unregister all system"} & refused.keys(), refused
    assert not control.exists(), "the socket is left behind"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_ports_stay_open_for_control_where_that_is_said(folder, control, protocol):
    with controlled(folder, control, "--public-control=true") as server:
        client = connect(protocol, server)
        client.unload_model("versions")
        until(lambda: not is_ready(client, "versions"), "the model to be gone")
        client.load_model("versions")
        assert is_ready(client, "versions") and control.is_socket()


def test_a_server_that_was_killed_is_replaced_at_its_socket(folder, control):
    server = controlled(folder, control)
    server.expect_exit = -signal.SIGKILL
    with server:
        server.kill()
    assert control.is_socket()
    with controlled(folder, control), port_of(control) as port:
        assert outcomes("http", f"127.0.0.1:{port}", "versions")["load"] is None


def test_junk_at_the_socket_disturbs_nobody(folder, control):
    with controlled(folder, control) as server:
        idle = []
        for junk in (b"", b"\x00" * 100, b"GET /v2 HTTP/9.9\r\n\r\n", b"POST /v2/repository/models/versions/load HTTP/1.1\r\ncontent-length: 99\r\n\r\n{"):
            for _ in range(50):
                stranger = socket.socket(socket.AF_UNIX)
                stranger.connect(str(control))
                stranger.sendall(junk)
                idle.append(stranger)
        with port_of(control) as port:
            assert server.request("GET", "/v2/models/versions/ready", port=port)[0] == 200
            index = json.loads(server.request("POST", "/v2/repository/index", port=port)[2])
        assert {one["name"] for one in index} == {"versions"}
        for stranger in idle:
            stranger.close()


def test_what_is_in_the_way_is_not_replaced(folder, control):
    control.write_text("mine")
    argv = [program("tritonserver"), f"--backend-config=onnxruntime,library={runtime_library()}"]
    with Server(folder, f"--control-socket={control}", argv=argv, wait=None, expect_exit=1) as server:
        until(lambda: server.process.poll() is not None, "the server to end")
        assert f"failed to start Control service: Unavailable - '{control}' is there and is no socket" in server.log()
    assert control.read_text() == "mine"
