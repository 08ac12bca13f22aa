"""Reads a metrics page as a scraper does: strictly, so that a page Prometheus would refuse fails the test."""

import re
from dataclasses import dataclass, field

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


@dataclass
class Page:
    """Families by name, and samples by name and labels."""

    help: dict = field(default_factory=dict)
    types: dict = field(default_factory=dict)
    samples: dict = field(default_factory=dict)

    def value(self, name, **labels):
        """The one sample of that name and exactly these labels."""
        return self.samples[name, frozenset(labels.items())]

    def find(self, name, **labels):
        """Every sample of that name with at least these labels."""
        wanted = labels.items()
        return {key[1]: value for key, value in self.samples.items() if key[0] == name and wanted <= dict(key[1]).items()}


def read(text):
    """Errors: a line that is no sample, a family in two places, a sample without a type, a sample twice."""
    assert text.endswith("\n"), "the last line ends with a line feed"
    page, family, closed = Page(), None, set()
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, word, name, rest = line.split(" ", 3)
            if name != family:
                assert name not in closed, f"{name} in two places"
                closed.add(family)
                family = name
            target = page.help if word == "HELP" else page.types
            assert name not in target, f"{word} of {name} twice"
            target[name] = rest
        elif line and not line.startswith("#"):
            sample = SAMPLE.match(line)
            assert sample, f"no sample: {line}"
            name, labels, value = sample.groups()
            assert re.sub("_(bucket|sum|count)$", "", name) == family or name == family, f"{name} outside its family {family}"
            found = LABEL.findall(labels or "")
            assert "".join(f'{k}="{v}",' for k, v in found).rstrip(",") == (labels or "").rstrip(","), f"labels of: {line}"
            key = (name, frozenset(found))
            assert key not in page.samples, f"twice: {line}"
            assert family in page.types, f"no type: {line}"
            page.samples[key] = float(value)
    return page
