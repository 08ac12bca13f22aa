"""Encrypted front ends, asked by the real clients: who is let in, what comes through, and certificates that change meanwhile."""

import asyncio
import contextlib
import queue
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcclient_aio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpclient_aio
from tritonclient.utils import InferenceServerException

from certificates import Authority, Mounted
from serving import Server, scaled, until
from talking import PROTOCOLS, tensor, wanted

IDENTITY = """backend: "identity"
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
"""
SLOW = IDENTITY + 'parameters { key: "execute_delay_ms" value { string_value: "700" } }'


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def models(folder):
    for name, config in {"identity": IDENTITY, "slow": SLOW}.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    return folder


def flags(service, pair, root=None):
    """Flags that encrypt one front end; with a root its clients need certificates."""
    kind = "use-ssl-mutual" if root else "use-ssl"
    certificate, key = pair
    return [f"--{service}-{kind}=true", f"--{service}-server-cert={certificate}", f"--{service}-server-key={key}"] + (
        [f"--{service}-root-cert={root}"] if root else []
    )


def context(authority, pair=None):
    """What an HTTPS client believes and shows."""
    made = ssl.create_default_context(cafile=authority.root)
    if pair:
        made.load_cert_chain(*pair)
    return made


def client(protocol, server, authority, pair=None, **more):
    """A tritonclient over TLS."""
    if protocol == "http":
        return httpclient.InferenceServerClient(f"localhost:{server.http}", ssl=True, ssl_context_factory=lambda: context(authority, pair), **more)
    shown = {"certificate_chain": str(pair[0]), "private_key": str(pair[1])} if pair else {}
    return grpcclient.InferenceServerClient(f"localhost:{server.grpc}", ssl=True, root_certificates=str(authority.root), **shown, **more)


def echo(protocol, asked, values, model="identity"):
    """Sends a tensor; whether the same comes back."""
    answer = asked.infer(model, [tensor(protocol, "INPUT0", values, "FP32")], outputs=[wanted(protocol, "OUTPUT0")])
    return np.array_equal(answer.as_numpy("OUTPUT0"), values)


def is_ready(server, authority, pair=None):
    """Whether HTTPS says that the server is ready; false while nobody listens."""
    with contextlib.suppress(OSError):
        return client("http", server, authority, pair).is_server_ready()
    return False


@contextlib.contextmanager
def serving(models, authority, pair, *more, root=None, shown=None):
    """A server with both front ends encrypted."""
    with Server(models, *flags("http", pair, root), *flags("grpc", pair, root), *more, wait=None) as server:
        until(lambda: is_ready(server, authority, shown), "HTTPS to be ready", server.deadline, server.process)
        yield server


@pytest.fixture(scope="module")
def server(models, authority):
    with serving(models, authority, authority.issue()) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(models, authority, tmp_path_factory):
    """A server that wants certificates of another authority, which it has beside its own."""
    clients = Authority(tmp_path_factory.mktemp("clients"), "clients")
    with serving(models, authority, authority.issue(), root=clients.root, shown=clients.issue("me")) as running:
        yield running, clients


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_of_every_size_come_through(server, authority, protocol):
    asked = client(protocol, server, authority)
    for count in (0, 1, 1000, 150_528, 5_000_000):
        assert echo(protocol, asked, np.arange(count, dtype=np.float32)), count


def test_options_that_http_clients_offer(server, authority):
    url = f"localhost:{server.http}"
    for options in (
        {"ssl_options": {"ca_certs": str(authority.root)}},
        {"insecure": True, "ssl_options": {"ca_certs": str(authority.root)}, "ssl_context_factory": lambda: context(authority)},
    ):
        assert httpclient.InferenceServerClient(url, ssl=True, **options).is_server_live(), options
    doubtful = httpclient.InferenceServerClient(url, ssl=True)  # believes in the roots of the machine
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        doubtful.is_server_live()
    said = subprocess.run(["curl", "--silent", "--show-error", "--cacert", authority.root, f"https://{url}/v2/health/ready"], capture_output=True)
    assert (said.returncode, said.stdout) == (0, b""), said.stderr


def test_grpc_streams(server, authority):
    asked, answers = client("grpc", server, authority), queue.Queue()
    asked.start_stream(lambda result, error: answers.put((result, error)))
    for count in (1, 200_000):
        values = np.arange(count, dtype=np.float32)
        asked.async_stream_infer("identity", [tensor("grpc", "INPUT0", values, "FP32")])
        result, error = answers.get(timeout=scaled(20))
        assert error is None and np.array_equal(result.as_numpy("OUTPUT0"), values)
    asked.stop_stream()


def test_clients_of_asyncio_with_keep_alive(server, authority):
    async def ask():
        async with httpclient_aio.InferenceServerClient(f"localhost:{server.http}", ssl=True, ssl_context=context(authority)) as asked:
            assert await asked.is_server_ready()
        options = grpcclient_aio.KeepAliveOptions(keepalive_time_ms=60_000, keepalive_permit_without_calls=True)
        async with grpcclient_aio.InferenceServerClient(
            f"localhost:{server.grpc}", ssl=True, root_certificates=str(authority.root), keepalive_options=options
        ) as asked:
            return await asked.is_server_ready()

    assert asyncio.run(ask())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_with_roots_only_clients_with_a_certificate_of_theirs_are_let_in(mutual, authority, protocol):
    server, clients = mutual
    assert echo(protocol, client(protocol, server, authority, clients.issue("me")), np.ones(1000, np.float32))
    for pair in (None, authority.issue("somebody")):
        with pytest.raises((InferenceServerException, OSError)):
            client(protocol, server, authority, pair).is_server_live()
    certificate, key = clients.issue("me again")
    assert echo(protocol, client(protocol, server, authority, (certificate, key)), np.ones(1, np.float32))
    if protocol == "http":
        options = {"ca_certs": str(authority.root), "certfile": str(certificate), "keyfile": str(key)}
        assert httpclient.InferenceServerClient(f"localhost:{server.http}", ssl=True, ssl_options=options).is_server_live()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificates_of_version_1_are_good_on_both_sides(models, authority, protocol):
    """`openssl x509 -req` without extensions made no others before OpenSSL 3.2, and most instructions for gRPC use it so."""
    shown = authority.issue("client", old=True)
    with Server(models, *flags(protocol, authority.issue(old=True), authority.root), wait=None) as server:
        service = "HTTPService" if protocol == "http" else "GRPCInferenceService"
        until(lambda: f"Started {service}" in server.log(), "the server", server.deadline, server.process)
        assert echo(protocol, client(protocol, server, authority, shown), np.ones(5, np.float32))
        with pytest.raises((InferenceServerException, OSError)):
            client(protocol, server, authority).is_server_live()


def test_the_metrics_page_is_encrypted_if_asked_for(models, authority):
    with Server(models, *flags("metrics", authority.issue())) as server:
        with urllib.request.urlopen(f"https://localhost:{server.metrics}/metrics", context=context(authority), timeout=scaled(20)) as page:
            assert b"nv_inference_request_success" in page.read()


def test_who_does_not_encrypt_is_told_or_refused_at_once(server, authority):
    status, headers, body = server.request("GET", "/v2/health/live")
    assert status == 400 and b"send the request to https://" in body and headers["content-type"] == "application/json"
    plain = grpcclient.InferenceServerClient(server.grpc_url)
    begun = time.monotonic()
    with pytest.raises(InferenceServerException):
        plain.is_server_live(client_timeout=scaled(15))
    assert time.monotonic() - begun < scaled(15)
    assert is_ready(server, authority)


def test_who_encrypts_where_nothing_is_encrypted_is_refused_at_once(models, authority):
    with Server(models) as server:
        for protocol in PROTOCOLS:
            with pytest.raises((InferenceServerException, OSError)):
                client(protocol, server, authority).is_server_live()
        assert server.status("/v2/health/ready") == 200


def test_junk_inside_and_outside_of_tls_disturbs_nobody(server, authority):
    for port in (server.http, server.grpc):
        for junk in (b"\x16", b"\x16\x03\x01\xff\xff" + b"\xff" * 5000, b"\x80" * 5000, b"\x15\x03\x03\x00\x02\x02\x28"):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), scaled(20)) as raw:
                raw.sendall(junk)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(1000):
                    pass
        for junk in (b"\0" * 5000, b"GET / HTTP/9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), scaled(20)) as raw:
                with context(authority).wrap_socket(raw, server_hostname="localhost") as inside:
                    inside.sendall(junk)
                    while inside.recv(1000):
                        pass
    assert is_ready(server, authority) and client("grpc", server, authority).is_server_ready()


@contextlib.contextmanager
def clients_at_work(server, authority):
    """Clients of both protocols, some of which connect anew for each request. Afterwards none of them may have failed."""
    stop, errors, done = threading.Event(), [], [0] * 4

    def work(index, protocol, is_fresh):
        values, asked = np.arange(3000, dtype=np.float32), None
        try:
            while not stop.is_set():
                asked = client(protocol, server, authority) if asked is None or is_fresh else asked
                assert echo(protocol, asked, values)
                done[index] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the test fails with it
            errors.append(f"{protocol}, {'new' if is_fresh else 'lasting'} connections: {error!r}")

    kinds = [(protocol, is_fresh) for protocol in PROTOCOLS for is_fresh in (True, False)]
    threads = [threading.Thread(target=work, args=(index, *kind)) for index, kind in enumerate(kinds)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join(scaled(30))
    assert not errors and all(done), (errors, done)


def served(port):
    """The certificate that a front end shows, PEM."""
    return ssl.get_server_certificate(("localhost", port))


def text(certificate):
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(certificate.read_text()))


def test_new_certificates_are_used_without_a_failed_request(models, authority, tmp_path):
    secret = Mounted(tmp_path / "secret")
    first, second, third = (authority.issue() for _ in range(3))
    secret.update(*first)
    with serving(models, authority, (secret.certificate, secret.key)) as server, clients_at_work(server, authority) as done:
        assert served(server.http) == served(server.grpc) == text(first[0])
        for certificate, key in (second, third):
            secret.update(certificate, key)
            until(lambda: served(server.http) == served(server.grpc) == text(certificate), "the new certificate", 20)
        # what is no good changes nothing, and is complained about once by each front end
        junk = tmp_path / "junk"
        junk.write_text("no certificate")
        secret.update(junk, third[1])
        complaint = "holds no certificate: expected PEM with a line '-----BEGIN CERTIFICATE-----'. The certificate that was read before stays in use"
        until(lambda: server.log().count(complaint) == 2, "complaints", 30)
        before = list(done)
        until(lambda: all(now > then for now, then in zip(done, before)), "all clients to go on", 20)
        secret.update(*first)
        until(lambda: served(server.http) == served(server.grpc) == text(first[0]), "the good certificate", 20)
        assert server.log().count(complaint) == 2


def has_waiting(server, model):
    """Whether the metrics page shows a request of the model that waits."""
    page = server.request("GET", "/metrics", port=server.metrics)[2].decode()
    return any(
        line.startswith("nv_inference_pending_request_count{") and f'model="{model}"' in line and not line.endswith(" 0") for line in page.splitlines()
    )


def test_requests_in_flight_are_answered_before_the_end(models, authority):
    # with time to leave, since one of the two requests may still be on its way when the other is seen to wait
    with serving(models, authority, authority.issue(), "--drain-delay-secs=2") as server:
        answers = queue.Queue()

        def ask(protocol):
            try:
                answers.put(echo(protocol, client(protocol, server, authority), np.ones(7, np.float32), "slow"))
            except Exception as error:  # noqa: BLE001 - shown by the assertion
                answers.put(error)

        threads = [threading.Thread(target=ask, args=(protocol,)) for protocol in PROTOCOLS]
        for thread in threads:
            thread.start()
        until(lambda: has_waiting(server, "slow"), "a request to wait", 20)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(scaled(30))
        assert [answers.get_nowait() for _ in threads] == [True, True]


@pytest.mark.parametrize("service", ["http", "grpc", "metrics"])
def test_files_that_are_no_good_end_the_start(models, authority, tmp_path, service):
    certificate, key = authority.issue()
    _, other_key = authority.issue()
    junk, empty = tmp_path / "junk", tmp_path / "empty"
    junk.write_bytes(b"\0\xff junk")
    empty.write_text("")
    title = {"http": "HTTP", "grpc": "GRPC", "metrics": "Metrics"}[service]
    for pair, root, problem in (
        ((tmp_path / "nowhere", key), None, f"--{service}-server-cert '{tmp_path}/nowhere' cannot be read: No such file or directory"),
        ((junk, key), None, f"--{service}-server-cert '{junk}' holds no certificate: expected PEM"),
        ((certificate, empty), None, f"--{service}-server-key '{empty}' is empty: expected PEM"),
        ((certificate, other_key), None, f"--{service}-server-key '{other_key}' holds a key that does not belong to the certificate"),
        ((certificate, key), junk, f"--{service}-root-cert '{junk}' holds no certificate: expected PEM"),
    ):
        with Server(models, *flags(service, pair, root), wait=None, expect_exit=1) as server:
            server.process.wait(scaled(30))
        assert f"failed to start {title} service: Invalid argument - {problem}" in server.log()
