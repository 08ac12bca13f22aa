"""How the program starts, refuses to start, and ends."""

import re
import signal
import socket
import subprocess
import time

import make
import pytest
import requests

from serving import Server, free_ports, program, scaled, until
from talking import add_one, connect
from under_way import two_under_way


def run(*flags, timeout=scaled(60)):
    done = subprocess.run([program("tritonserver"), *map(str, flags)], capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout + done.stderr


def test_an_unknown_flag_is_named_and_ends_with_1(tmp_path):
    code, said = run(f"--model-repository={tmp_path}", "--no-such-flag=1")
    assert code == 1 and "no-such-flag" in said and "Usage" in said


def test_a_bad_value_is_named_and_ends_with_1(tmp_path):
    code, said = run(f"--model-repository={tmp_path}", "--http-port=eighty")
    assert code == 1 and "http-port" in said and "eighty" in said


def test_help_shows_the_flags_and_ends_with_0():
    code, said = run("--help")
    assert code == 0
    for flag in ("--model-repository", "--http-port", "--grpc-port", "--metrics-port", "--model-control-mode", "--backend-config", "--exit-timeout-secs"):
        assert flag in said


def test_without_a_repository_it_does_not_start():
    code, said = run()
    assert code == 1 and "--model-repository must be specified" in said


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        http, grpc = free_ports(2)
        ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={port}"]
        code, said = run(f"--model-repository={tmp_path}", *ports, "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1")
    assert code == 1 and f"Socket '127.0.0.1:{port}' already in use" in said


def test_flags_may_be_written_in_two_words_and_shortened(tmp_path):
    http, grpc, metrics = map(str, free_ports(3))
    flags = ["--model-store", str(tmp_path), "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics, "--log-warn=false"]
    process = subprocess.Popen([program("tritonserver"), *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: answers(http), "the server to be ready", process=process)
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=scaled(60))[0]
    assert process.returncode == 0, said


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_front_ends_can_be_switched_off(tmp_path):
    with Server(tmp_path, "--allow-grpc=false", "--allow-metrics=false") as server:
        for port in (server.grpc, server.metrics):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 1).close()


def test_it_says_where_it_listens(tmp_path):
    with Server(tmp_path) as server:
        until(lambda: "Started Metrics Service" in server.log(), "the log to name the ports")
        said = server.log()
    assert re.search(rf"Started GRPCInferenceService at 127\.0\.0\.1:{server.grpc}", said)
    assert re.search(rf"Started HTTPService at 127\.0\.0\.1:{server.http}", said)
    assert re.search(rf"Started Metrics Service at 127\.0\.0\.1:{server.metrics}", said)


def test_live_at_once_and_ready_when_all_are_loaded(tmp_path):
    make.versions(tmp_path)
    make.identity(tmp_path, "slow_to_load", creation_delay_sec=4)
    with Server(tmp_path, wait="live") as server:
        assert server.status("/v2/health/ready") == 400, "live before the slow model is loaded"
        assert connect("grpc", server).is_server_live() and not connect("grpc", server).is_server_ready()
        until(lambda: server.status("/v2/models/versions/ready") == 200, "the quick model")
        assert server.status("/v2/models/slow_to_load/ready") != 200
        until(lambda: server.status("/v2/health/ready") == 200, "the whole start-up set")
        assert server.status("/v2/models/slow_to_load/ready") == 200


def test_a_strict_start_ends_with_1_when_a_model_is_broken(tmp_path):
    make.versions(tmp_path)
    make.write(tmp_path, "corrupt", None, {1: b"no graph"})
    http, grpc, metrics = free_ports(3)
    code, said = run(f"--model-repository={tmp_path}", f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}")
    assert code == 1
    assert "error: creating server: Internal - failed to load all models" in said
    assert "corrupt" in said


@pytest.mark.parametrize("strict", (True, False))
def test_a_lenient_start_serves_what_it_can(tmp_path, strict):
    make.versions(tmp_path)
    make.write(tmp_path, "corrupt", None, {1: b"no graph"})
    with Server(tmp_path, "--exit-on-error=false", f"--strict-readiness={str(strict).lower()}", wait="live") as server:
        until(lambda: server.status("/v2/models/versions/ready") == 200, "the good model")
        assert add_one("http", connect("http", server), "versions") == 3
        until(lambda: "UNAVAILABLE" in server.request("POST", "/v2/repository/index")[2].decode(), "the broken one to be refused")
        assert server.status("/v2/health/ready") == (400 if strict else 200)


def test_a_missing_runtime_library_is_named_with_its_cure(tmp_path):
    make.versions(tmp_path)
    make.identity(tmp_path, "unharmed")
    argv = [program("tritonserver"), "--backend-config=onnxruntime,library=/nowhere/libonnxruntime.so"]
    with Server(tmp_path, "--exit-on-error=false", argv=argv, wait="live") as server:
        until(lambda: server.status("/v2/models/unharmed/ready") == 200, "a model that needs no library")
        index = until(lambda: (text := server.request("POST", "/v2/repository/index")[2].decode()) and "UNAVAILABLE" in text and text, "the other to be refused")
    assert "/nowhere/libonnxruntime.so" in index, index


def test_requests_under_way_finish_after_sigterm(tmp_path):
    make.identity(tmp_path, "slow", execute_delay_ms=1000)
    with Server(tmp_path) as server:
        with two_under_way(server, "http", "grpc") as results:
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)  # a second one changes nothing
        server.process.wait(scaled(30))
    assert results == [True, True]


def test_while_leaving_it_takes_nothing_new(tmp_path):
    make.identity(tmp_path, "slow", execute_delay_ms=3000)
    with Server(tmp_path) as server, requests.Session() as kept:
        assert kept.get(f"http://{server.url}/v2/health/ready").status_code == 200
        with two_under_way(server, "grpc", "http") as results:
            server.process.send_signal(signal.SIGTERM)
            until(lambda: refused(server, kept), "new work to be refused")
            assert results == [], "what was under way is still under way"
    assert results == [True, True]


def refused(server, kept):
    """Whether a probe on an open connection is answered with 503, or the connection is closed."""
    try:
        return kept.get(f"http://{server.url}/v2/health/ready", timeout=5).status_code == 503
    except requests.ConnectionError:
        return True


def test_the_exit_timeout_ends_what_does_not_end_itself(tmp_path):
    make.identity(tmp_path, "slow", execute_delay_ms=20000)
    with Server(tmp_path, "--exit-timeout-secs=1", expect_exit=1) as server:
        with two_under_way(server, "http", "grpc") as results:
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(scaled(60))
            assert 1 <= time.monotonic() - start < 18, "it does not wait for what runs: 20 s and 20 s more"
    assert len(results) == 2 and True not in results


def test_an_idle_connection_does_not_hold_the_server_back(tmp_path):
    with Server(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.http)) as idle, socket.create_connection(("127.0.0.1", server.grpc)):
            idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(4096).startswith(b"HTTP/1.1 200")
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(scaled(60))
            assert time.monotonic() - start < 15, "the exit timeout is 30 s"
