"""Shared by all tests: where the modules are, a folder of models per test module, and short ways to ask a server."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("common", "models", "golden"))]


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: takes long; run by `e2e/test soak` only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A temporary folder that lives as long as the tests of one file."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True, scope="session")
def only_this_machine():
    """No proxy between the tests and the loopback interface."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"


def gpu_is_here():
    """Whether this machine has an NVIDIA GPU the server could use."""
    return Path("/dev/nvidia0").exists()
