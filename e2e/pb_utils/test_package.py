"""The package as a whole: how much it brings along, and by which names it is known."""

import json
import subprocess
import sys

from conftest import STUB

# What a worker starts with, beyond NumPy: each of these costs every model some memory and time.
ALLOWED = {"_contextvars", "_json", "json", "json.decoder", "json.encoder", "json.scanner", "mmap", "marshal", "_socket", "_queue", "c_python_backend_utils"}

IMPORTING = """
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import numpy
before = set(sys.modules)
import triton_python_backend_utils
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_importing_it_brings_little_else():
    done = subprocess.run([sys.executable, "-c", IMPORTING, str(STUB)], stdout=subprocess.PIPE, timeout=60, check=True)
    others = {name for name in json.loads(done.stdout) if name.split(".")[0] != "triton_python_backend_utils"}
    assert others <= ALLOWED


def test_it_is_known_by_both_of_its_names():
    import triton_python_backend_utils

    import c_python_backend_utils

    assert c_python_backend_utils is triton_python_backend_utils
