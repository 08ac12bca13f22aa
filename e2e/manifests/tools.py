"""What the tests of manifests share: the programs, what the chart renders, objects of a text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "triton-operator"
INSTALL = ROOT / "deploy" / "manifests"
NAMESPACE = "triton-operator"

# Every minor version of Kubernetes that the chart takes and whose schemas there are.
KUBERNETES = ["1.33.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0"]


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML as Kubernetes reads it, where `=` is a text like any other."""


Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


def _programs():
    script = 'source e2e/cluster/lib/common.sh && echo "$programs"'
    return Path(subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip())


PROGRAMS = Path(os.environ["CLUSTER_PROGRAMS"]) if "CLUSTER_PROGRAMS" in os.environ else _programs()


class Failed(AssertionError):
    """A program that did not end with 0."""


def run(program, *arguments, stdin=None):
    """Output of one of the programs that `build` makes."""
    command = [str(PROGRAMS / program), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, cwd=ROOT)
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def template(*arguments, kubernetes="1.33.0", values=None):
    """What the chart makes, as text. `values`: further ones, as a mapping."""
    more = ["-f", "-"] if values is not None else []
    text = json.dumps(values) if values is not None else None
    return run("helm", "template", "triton-operator", CHART, "--namespace", NAMESPACE, "--kube-version", kubernetes, *more, *arguments, stdin=text)


def objects(text):
    """Objects of a text with several documents."""
    return [it for it in yaml.load_all(text, Loader) if it]


def by_name(items):
    """Objects by kind, namespace and name; each may be there once."""
    found = {}
    for it in items:
        key = it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"]
        assert key not in found, f"{key} is there twice"
        found[key] = it
    return found


if __name__ == "__main__":
    sys.exit("used by the tests")
