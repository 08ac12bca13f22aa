"""Loads the extension module through which the execute channel uses rings in shared memory.

The server passes it as a memory file, so it needs no folder that it may be loaded from. An interpreter that cannot load it does without:
another one than CPython, one without the global lock, one of another architecture. Everything works the same through the socket.
"""

import os
import sys

NAME = "_triton_rings"


def attach(rings_fd, extension_fd, socket_fd):
    """The module, which has the worker's end of the rings; ``None`` if there are none, or this interpreter cannot load it. Closes the two
    memory files.
    """
    if rings_fd < 0:
        return None
    try:
        module = load("/proc/self/fd/%d" % extension_fd)
        module.attach(rings_fd, socket_fd)
        return module
    except (ImportError, OSError):
        return None
    finally:
        os.close(rings_fd)
        os.close(extension_fd)


def load(path):
    """The extension module in that file.

    Raises: ``ImportError``.
    """
    if sys.implementation.name != "cpython" or "t" in getattr(sys, "abiflags", ""):
        raise ImportError("the module is for CPython with its global lock")
    from _imp import create_dynamic, exec_dynamic
    from importlib.machinery import ModuleSpec

    module = create_dynamic(ModuleSpec(NAME, None, origin=path))
    exec_dynamic(module)
    return module
