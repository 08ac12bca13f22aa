"""A server that is killed while requests flow: its launcher keeps its sockets, so that callers wait for the next process.
Lost are the requests in flight at that moment, and nothing else."""

import http.client
import json
import os
import signal
import threading
from pathlib import Path

import make

from serving import Server, program, scaled, until
from talking import PROTOCOLS, add_one, connect

CALLERS = 8
BODY = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})


class Launched(Server):
    """A server as it runs in a pod: behind the launcher, with the models that an agent would have noted."""

    def __init__(self, root, *models):
        super().__init__(root / "repository", "--model-control-mode=explicit", "--exit-on-error=false")
        (root / "startup.json").write_text(json.dumps({"host": "here", "models": models}))
        addresses = [f"--{name}=127.0.0.1:{getattr(self, name)}" for name in ("http", "grpc", "metrics")]
        self.argv = [program("triton-agent"), "launch", f"--root={root}", *addresses, "--", *self.argv]

    def child(self):
        """Process id of the server itself, or None while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def kill_child(self):
        """Kills the server and waits for the next one."""
        last = self.child()
        os.kill(last, signal.SIGKILL)
        until(lambda: self.child() not in (None, last), "another process", process=self.process)


def test_a_killed_server_loses_only_what_was_in_flight(tmp_path):
    make.versions(tmp_path / "repository", name="plus_one", numbers=(1,))
    with Launched(tmp_path, "plus_one") as server:
        counts, lost, is_over = [0] * CALLERS, [], threading.Event()

        def call(number):
            while not is_over.is_set():
                # each request on a connection of its own: those who connect while there is no server are to wait
                connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=scaled(30))
                try:
                    connection.connect()
                except OSError as error:
                    lost.append(("connecting", error))
                    continue
                try:
                    connection.request("POST", "/v2/models/plus_one/infer", BODY)
                    answer = connection.getresponse()
                    assert answer.status == 200, answer.read()
                    counts[number] += 1
                except OSError as error:
                    lost.append(("in flight", error))
                except (http.client.HTTPException, AssertionError) as error:
                    lost.append((type(error).__name__, error))
                finally:
                    connection.close()

        callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            for kill in range(3):
                before = list(counts)
                until(lambda: all(now > then for now, then in zip(counts, before)), "every caller to be served")
                server.kill_child()
            before = list(counts)
            until(lambda: all(now > then for now, then in zip(counts, before)), "every caller to be served again")
        finally:
            is_over.set()
            for caller in callers:
                caller.join()
        # what a process had accepted is lost with it: at most one request of each caller, each time
        assert len(lost) <= 3 * CALLERS, lost
        assert all(where in ("in flight", "RemoteDisconnected") for where, _ in lost), lost
        assert server.log().count("is started again") == 3


def test_clients_that_stay_connected_go_on_with_the_next_process(tmp_path):
    make.versions(tmp_path / "repository", name="plus_one", numbers=(1,))
    with Launched(tmp_path, "plus_one") as server:
        for protocol in PROTOCOLS:
            client = connect(protocol, server)
            assert add_one(protocol, client, "plus_one") == 1
            server.kill_child()
            again = connect(protocol, server)  # clients of gRPC in one process share a connection, and may not have seen yet that it has gone
            until(lambda: answers(protocol, again), "a new client to be answered")
            until(lambda: answers(protocol, client), "the old client to be answered")


def answers(protocol, client):
    try:
        return add_one(protocol, client, "plus_one") == 1
    except Exception:  # the client's own words for a connection that has gone
        return False
