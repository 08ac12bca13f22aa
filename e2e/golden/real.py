"""The real Triton that `e2e/golden/install` puts into target/golden, as a program to start."""

import os
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / "target" / "golden"


def command():
    """The command, and what it needs in its environment: its libraries, and the interpreter its models run in."""
    packages = next(HOME.glob("venv/lib/python3.*/site-packages"))
    argv = [str(packages / "pytriton/tritonserver/bin/tritonserver"), f"--backend-directory={HOME}/backends"]
    return argv, {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "PATH": path(), "PYTHONDONTWRITEBYTECODE": "1"}


def path():
    """PATH with the interpreter of its models first."""
    return f"{HOME}/venv/bin:{os.environ['PATH']}"
