"""`deploy/cargo-build` ends as cargo does, whether or not a terminal watches."""

import os
import subprocess
from pathlib import Path

import pytest

CARGO_BUILD = Path(__file__).resolve().parents[2] / "deploy" / "cargo-build"


@pytest.mark.parametrize("status", (0, 101))
def test_it_ends_as_cargo_does(tmp_path, status):
    cargo = tmp_path / "cargo"
    cargo.write_text(f"#!/bin/sh\necho 'what cargo says' >&2\nexit {status}\n")
    cargo.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([CARGO_BUILD, "--workspace"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, "what cargo says\n")
