"""Who controls a server: TritonModels do, and no client of its Service unless the server says so."""

import json
import sys

from kube import ECHO, ROOT, SERVER, inside, until

CALLS = ROOT / "e2e" / "common" / "control_calls.py"
REFUSED = {"http": "403", "grpc": "StatusCode.PERMISSION_DENIED"}
# what a user may ask of callers of the ports: it must not be asked of the agent
RESTRICTED = SERVER.replace(
    "server: {",
    "server: {extraArgs: ["
    "'--http-restricted-api=model-repository,metadata,statistics:key=secret', "
    "'--grpc-restricted-protocol=model-repository:key=secret', "
    "'--http-header-forward-pattern=.*'], ",
)


def outcomes(namespace, protocol):
    """What became of every control call of a client of the Service."""
    return json.loads(inside(sys.executable, CALLS, protocol, namespace.address(port=protocol), "echo"))


def test_no_client_of_the_service_controls_a_server_unless_it_says_so(namespace):
    namespace.apply(RESTRICTED, ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    lives = namespace.lives()
    for protocol, refused in REFUSED.items():
        for call, refusal in outcomes(namespace, protocol).items():
            assert refusal and refusal[0] == refused and "--public-control=true" in refusal[1], (protocol, call, refusal)
    assert namespace.infer() == [1, 2]

    # models still come, change and go by their resources
    namespace.apply(ECHO.replace("{name: echo}", "{name: second}"))
    namespace.wait("tmod/second")
    assert namespace.infer("second") == [1, 2]
    namespace.patch("tmod/echo", source={"inline": {"files": {"1/about.txt": "another content"}}})
    namespace.wait("tmod/echo")
    namespace.kubectl("delete", "tmod/second", "--wait=false")
    until(lambda: "unknown model" in ask(namespace, "second"), "the deleted model to be gone")
    assert namespace.lives() == lives, "a container was replaced"

    # the server says that its clients may
    namespace.patch("tsrv/vision", control="Public", server={"extraArgs": []})
    namespace.wait("tsrv/vision", deadline=120)
    namespace.wait("tmod/echo")
    until(lambda: outcomes(namespace, "http")["load"] is None, "a load over HTTP")
    assert outcomes(namespace, "grpc")["load"] is None
    assert namespace.infer() == [1, 2]

    # and what would open the ports behind its back is refused with the cure
    namespace.patch("tsrv/vision", control=None, server={"extraArgs": ["--public-c=true"]})
    message = namespace.wait("tsrv/vision", status="False", reason="InvalidSpec")["message"]
    assert "--public-control" in message and "spec.control" in message, message


def ask(namespace, model):
    return inside("curl", "-sS", "-m", "10", f"http://{namespace.address()}/v2/models/{model}/config")
