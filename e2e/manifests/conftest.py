import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import schemas  # noqa: E402


@pytest.fixture(scope="session")
def conform():
    """Holds texts with manifests against the schemas of a version of Kubernetes."""
    import tools

    schemas.make()
    places = [part for place in schemas.locations() for part in ("-schema-location", str(place))]

    def check(text, version):
        tools.run("kubeconform", "-strict", "-kubernetes-version", version, *places, "-", stdin=text)

    return check
