"""The package that models import, without a server. These tests run in every version of Python the package supports, so they keep to 3.8."""

import sys
from pathlib import Path

STUB = Path(__file__).resolve().parents[2] / "server/backends/src/python/stub"
sys.dont_write_bytecode = True  # the folder is built into the server
sys.path.insert(0, str(STUB))
