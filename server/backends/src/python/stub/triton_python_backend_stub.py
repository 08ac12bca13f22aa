"""The program of a worker: one instance of one Python model.

Usage: triton_python_backend_stub.py EXECUTE_FD EVENTS_FD STATUS_FD RINGS_FD EXTENSION_FD SEGMENT_PREFIX SEGMENT_BYTES GROWTH_BYTES NAME

The server passes the file descriptors, the two for rings if it wants them used (else they are -1), and NAME so that lists of processes
tell workers apart.
"""

import os
import sys


def main():
    execute_fd, events_fd, status_fd, rings_fd, extension_fd = map(int, sys.argv[1:6])
    if sys.version_info < (3, 8):
        return refuse(execute_fd, "is older than Python 3.8", "install a newer one")
    import _signal  # absent from Python 2

    prefix, smallest, growth = sys.argv[6], int(sys.argv[7]), int(sys.argv[8])
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write("triton_python_backend_stub")
    except OSError:
        pass  # only a name
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # a matter of the server, as with Triton
    sys.stdout.reconfigure(line_buffering=True)
    folder = os.path.dirname(os.path.abspath(__file__))
    # Nothing of ours hides what a model imports; the last place is the folder that the server was started in, as with Triton.
    sys.path[:] = [place for place in sys.path if place != folder] + [folder, ""]
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        what = "cannot import numpy, which every Python model needs (%s)" % error
        return refuse(execute_fd, what, "install it there with '%s -m pip install numpy'" % sys.executable)
    sys.dont_write_bytecode = False  # the next worker need not compile our files, whatever is wanted for others
    from triton_python_backend_utils import _worker

    sys.dont_write_bytecode = True  # a model's folder is not ours to write in
    sys.argv[:] = [""]
    _worker.run(execute_fd, events_fd, status_fd, rings_fd, extension_fd, prefix, smallest, growth)


def refuse(execute_fd, what, cure):
    """Answers the server's first message: this interpreter cannot run a model. Runs on Python 2 as well."""
    import marshal

    text = (
        u"the Python interpreter '%s' (%s) %s: %s, or name another interpreter with "
        u"--backend-config=python,executable=PATH or the model's parameter EXECUTION_ENV_PATH"
    ) % (sys.executable, sys.version.split()[0], what, cure)
    os.read(execute_fd, 1 << 16)
    os.write(execute_fd, marshal.dumps((1, text, 1), 2))


if __name__ == "__main__":
    main()
