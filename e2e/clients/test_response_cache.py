"""Responses that are answered from the cache, asked by the real client: from the server's memory and from a real Redis, which also goes
away, comes back, wants a password and TLS."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import tritonclient.http as httpclient

import python_model
from certificates import Authority
from serving import Server, free_ports, until
from talking import PROTOCOLS, connect, statistics, tensor, wanted

TENSORS = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"])
CACHED = "response_cache { enable: true }\n"

# Counts its executions: an answer from the cache is that of an earlier one.
COUNTING = """
class TritonPythonModel:
    count = 0

    def execute(self, requests):
        responses = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            if (values < 0).any():
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("below zero")))
                continue
            self.count += 1
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values * 0 + self.count)]))
        return responses
"""


class Redis:
    """A Redis server of Debian's, on a port of its own. It may be stopped and started again."""

    def __init__(self, folder, *flags, port=None):
        self.port = port or free_ports(1)[0]
        plain = [] if "--tls-port" in flags else ["--port", str(self.port)]
        self.argv = ["redis-server", *plain, "--save", "", "--appendonly", "no", "--dir", str(folder), "--bind", "127.0.0.1", *map(str, flags)]
        self.cli, self.process = ["redis-cli", "-p", str(self.port)], None

    def start(self, asking=()):
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL)
        until(lambda: self.ask(*asking, "PING") == "PONG", "Redis answers", 20, self.process)
        return self

    def ask(self, *words):
        return subprocess.run([*self.cli, *words], capture_output=True, text=True).stdout.strip()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


@pytest.fixture
def redis(tmp_path):
    """A way to start Redis servers, which end with the test."""
    if not shutil.which("redis-server"):
        why = "redis-server is not installed (Debian: apt-get install redis-server)"
        assert not os.environ.get("CI"), why
        pytest.skip(why)
    with contextlib.ExitStack() as stack:

        def start(*flags, asking=(), **options):
            one = Redis(tmp_path, *flags, **options)
            stack.callback(one.stop)
            return one.start(asking)

        yield start


@pytest.fixture(scope="module")
def models(folder):
    python_model.write(folder, "cached", COUNTING, CACHED + TENSORS)
    python_model.write(folder, "plain", COUNTING, TENSORS)
    return folder


def flags(cache, **settings):
    return [f"--cache-config={cache},{key}={value}" for key, value in settings.items()]


def ask(protocol, client, values, model="cached", **options):
    """What the model counted when it computed this answer."""
    answer = client.infer(model, [tensor(protocol, "IN", np.array(values, np.float32), "FP32")], outputs=[wanted(protocol, "OUT")], **options)
    return int(answer.as_numpy("OUT")[0])


def counts(client, model="cached"):
    """Hits, misses, executions, successes."""
    (entry,) = statistics(client, model)
    stats = entry["inference_stats"]
    number = lambda event: int(stats.get(event, {}).get("count", 0))  # noqa: E731
    return number("cache_hit"), number("cache_miss"), int(entry.get("execution_count", 0)), number("success")


def test_the_servers_memory(models):
    with Server(models, *flags("local", size=1 << 20)) as server:
        client = connect("http", server)
        first = ask("http", client, [1, 2])
        for protocol in PROTOCOLS:
            assert ask(protocol, connect(protocol, server), [1, 2], request_id="another", parameters={"a": "b"}) == first
        assert counts(client) == (2, 1, 1, 3)
        assert ask("http", client, [2, 1]) != first
        for _ in range(2):
            with pytest.raises(Exception, match="below zero"):
                ask("http", client, [-1.0])
        assert counts(client)[0] == 2, "errors are not kept"
        assert ask("http", client, [1, 2], model="plain") != ask("http", client, [1, 2], model="plain")
        large = np.arange(300_000)
        assert ask("http", client, large) != ask("http", client, large), "larger than the cache"
        page = server.request("GET", "/metrics", port=server.metrics)[2].decode()
        assert 'nv_cache_num_hits_per_model{model="cached",version="1"} 2\n' in page and "nv_cache_num_entries 2\n" in page


def test_memory_stays_within_the_size(models):
    with Server(models, *flags("local", size=2 << 20)) as server:
        client = connect("http", server)

        def resident():
            return int(open(f"/proc/{server.process.pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        row = np.zeros(16 << 10, np.float32)  # 64 KiB
        for number in range(60):
            row[0] = number
            ask("http", client, row)
        before = resident()
        for number in range(60, 460):
            row[0] = number
            ask("http", client, row)
        assert resident() - before < 12 << 20, "25 MiB of responses went through a cache of two"


def test_redis_is_shared_by_servers_of_the_same_model(models, tmp_path, redis):
    one = redis()
    address = flags("redis", host="127.0.0.1", port=one.port)
    with Server(models, *address) as server:
        client = connect("http", server)
        first = ask("http", client, [1, 2])
        assert ask("http", client, [1, 2]) == first and counts(client) == (1, 1, 1, 2)
        large = np.arange(1 << 20)
        assert ask("http", client, large) == ask("http", client, large)
    with Server(models, *address) as server:
        client = connect("grpc", server)
        assert ask("grpc", client, [1, 2]) == first and counts(client) == (1, 0, 0, 1), "another process finds it"
        assert "tritonserver/cached/1/" in one.ask("KEYS", "*")
        for key in one.ask("KEYS", "tritonserver/cached/1/*").split():
            one.ask("SET", key, "junk")
        ask("grpc", client, [1, 2])
        assert counts(client)[:2] == (1, 1), "what is no entry counts as none"
    shutil.copytree(models, tmp_path / "other")
    python_model.write(tmp_path / "other", "cached", COUNTING + "# changed\n", CACHED + TENSORS)
    with Server(tmp_path / "other", *address) as server:
        client = connect("http", server)
        ask("http", client, [1, 2])
        assert counts(client)[:2] == (0, 1), "another model of that name has entries of its own"


def test_redis_goes_away_and_comes_back_under_load(models, redis):
    one = redis()
    with Server(models, *flags("redis", host="127.0.0.1", port=one.port, socket_timeout=300)) as server:
        client, is_over, errors, slowest = connect("http", server), threading.Event(), [], [0.0]

        def load(caller):
            with httpclient.InferenceServerClient(server.url) as own:
                number = 0
                while not is_over.is_set():
                    number += 1
                    began = time.monotonic()
                    try:
                        ask("http", own, [caller, number % 5])
                    except Exception as error:
                        errors.append(error)
                    slowest[0] = max(slowest[0], time.monotonic() - began)

        callers = [threading.Thread(target=load, args=(caller,)) for caller in range(4)]
        [caller.start() for caller in callers]
        hits = lambda: counts(client)[0]  # noqa: E731
        try:
            until(lambda: hits() > 50, "requests are answered from Redis")
            one.stop()
            until(lambda: "is lost" in server.log(), "the loss is in the log")
            before, executions = hits(), counts(client)[2]
            until(lambda: counts(client)[2] > executions + 50, "requests go on without Redis")
            one.start()
            until(lambda: hits() > before + 50, "Redis is asked again")
            one.process.send_signal(signal.SIGSTOP)
            executions = counts(client)[2]
            until(lambda: counts(client)[2] > executions + 50, "requests go on while Redis hangs")
            one.process.send_signal(signal.SIGCONT)
            before = hits()
            until(lambda: hits() > before + 50, "Redis is asked again")
        finally:
            is_over.set()
            [caller.join() for caller in callers]
        assert not errors, errors[:3]
        assert server.log().count("is lost") < 20, "not once for each request"
        assert slowest[0] < 10


def test_redis_with_a_password(models, redis):
    one = redis("--requirepass", "secret", asking=("-a", "secret", "--no-auth-warning"))
    address = {"host": "127.0.0.1", "port": one.port}
    with Server(models, *flags("redis", **address, password="secret")) as server:
        client = connect("http", server)
        assert ask("http", client, [1]) == ask("http", client, [1])
    with Server(models, *flags("redis", **address), env={"TRITONCACHE_REDIS_PASSWORD": "secret"}) as server:
        assert ask("http", connect("http", server), [1]) and counts(connect("http", server))[0] == 1
    with Server(models, *flags("redis", **address), wait=None, expect_exit=1) as server:
        server.process.wait(30)
    assert re.search("Failed to initialize RedisCache: .*NOAUTH.*give a 'password'", server.log())
    with Server(models, *flags("redis", **address, password="wrong"), wait=None, expect_exit=1) as server:
        server.process.wait(30)
    assert "error: creating server: Internal - Failed to initialize RedisCache: " in server.log()
    assert "wrong" not in server.log().replace("WRONGPASS", ""), "passwords are not logged"


def test_redis_over_tls(models, tmp_path, redis):
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    certificate, key = authority.issue()
    port = free_ports(1)[0]
    mutual = ["--tls", "--cacert", authority.root, "--cert", certificate, "--key", key]
    encrypted = ["--port", "0", "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority.root]
    redis(*encrypted, port=port, asking=tuple(map(str, mutual)))
    address = {"host": "127.0.0.1", "port": port, "tls_enabled": "true", "cacert": authority.root}
    with Server(models, *flags("redis", **address, cert=certificate, key=key, sni="localhost")) as server:
        client = connect("http", server)
        assert ask("http", client, [1]) == ask("http", client, [1]) and counts(client)[0] == 1
    for wrong in ({"cacert": stranger.root}, {"sni": "elsewhere"}, {"tls_enabled": "false", "connect_timeout": 500}, {"cacert": models}):
        settings = {**address, "cert": certificate, "key": key, **wrong}
        with Server(models, *flags("redis", **settings), wait=None, expect_exit=1) as server:
            server.process.wait(30)
        assert "Failed to initialize RedisCache: " in server.log(), wrong
