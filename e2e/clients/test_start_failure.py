"""A server that could not start and runs on with --exit-on-error=false: it is neither live nor ready, and says why."""

import json

import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import connect


def test_a_server_whose_start_failed_is_not_live_and_says_why(tmp_path):
    missing = tmp_path / "nowhere"
    with Server(missing, "--exit-on-error=false", wait=None, expect_exit=None) as server:
        until(lambda: server.status("/v2/health/live") == 400, "the server to say that it is not live", process=server.process)
        assert server.status("/v2/health/ready") == 400
        client = connect("grpc", server)
        assert not client.is_server_live() and not client.is_server_ready()
        assert client.get_server_metadata().name == json.loads(server.request("GET", "/v2")[2])["name"], "metadata is still answered"
        with pytest.raises(InferenceServerException):
            client.load_model("anything")
        assert str(missing) in server.log(), server.log()
