"""What the tests of deploy/samples share: a module out of a file of the samples, and the sample brought up as its README says."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from serving import ROOT, scaled

SAMPLES = ROOT / "deploy/samples"


def module(path, name):
    """A Python file as a module of that name. It may import files beside it, whatever else goes by their names in this process."""
    path = Path(path)
    siblings = {file.stem for file in path.parent.glob("*.py")}
    hidden = {sibling: sys.modules.pop(sibling) for sibling in siblings if sibling in sys.modules}
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    finally:
        sys.path.remove(str(path.parent))
        for sibling in siblings:
            sys.modules.pop(sibling, None)
        sys.modules.update(hidden)


def run(script, *arguments, cwd=None):
    """What a script of a sample prints, as a user runs it."""
    done = subprocess.run([sys.executable, SAMPLES / script, *map(str, arguments)], capture_output=True, text=True, timeout=scaled(120), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def path_with_this_python():
    """A PATH on which `python3` is the interpreter that runs the tests: it has what the models of the samples import."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
