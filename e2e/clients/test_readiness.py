"""Questions about readiness: they never fail, whatever the model."""

import make
import pytest

from serving import Server, until
from talking import PROTOCOLS, connect


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_is_not_there_is_not_ready(tmp_path, protocol):
    make.versions(tmp_path)
    make.identity(tmp_path, "slow_to_load", creation_delay_sec=2)
    flags = ("--model-control-mode=explicit", "--load-model=slow_to_load")
    with Server(tmp_path, *flags, wait="live") as server:
        client = connect(protocol, server)
        assert client.is_model_ready("slow_to_load") is False, "it is loading"
        assert client.is_model_ready("unknown") is False
        assert client.is_model_ready("versions") is False, "it was never loaded"
        until(lambda: client.is_model_ready("slow_to_load"), "the model to be loaded", process=server.process)
        client.load_model("versions")
        assert client.is_model_ready("versions") is True
        assert client.is_model_ready("versions", "3") is True
        assert client.is_model_ready("versions", "7") is False, "no such version"
        client.unload_model("versions")
        until(lambda: client.is_model_ready("versions") is False, "the model to be unloaded", process=server.process)
