"""How well a server finds parts: precision and recall over boards that the detector was not trained on.

A part counts as found where a box of its label shares at least half of what both cover with it; each box finds one part at most.

Usage: measure.py [HOST:PORT] [BOARDS]      (default: 127.0.0.1:8000, all that are held back)
"""

import sys

import ask
import boards
import numpy as np
import tritonclient.http as httpclient

HELD_BACK = range(5000, 5040)  # seeds of boards no training sees
SIZES = ((640, 640), (800, 600), (500, 620))


def main(url="127.0.0.1:8000", boards_asked=len(HELD_BACK)):
    print(measure(httpclient.InferenceServerClient(url=url, network_timeout=60), HELD_BACK[: int(boards_asked)]))


def measure(client, seeds=HELD_BACK, at_once=4):
    """Asks about a board of each seed, several with one request."""
    tally, seeds = Tally(), list(seeds)
    for start in range(0, len(seeds), at_once):
        drawn = [boards.board(seed, size=SIZES[seed % len(SIZES)]) for seed in seeds[start : start + at_once]]
        found = ask.find(client, [ask.png(picture) for picture, _ in drawn])
        for (boxes, _, labels), (_, parts) in zip(found, drawn):
            tally.add(boxes, labels, parts)
    return tally


class Tally:
    """Counts over many pictures."""

    def __init__(self):
        self.right = self.found = self.parts = 0

    def add(self, boxes, labels, parts):
        """Boxes found in a picture, the surest first, with their labels; `parts` as boards.board gives them."""
        free = list(range(len(parts)))
        for box, label in zip(boxes, labels):
            likeness = [overlap(box, parts[number][:4]) if boards.LABELS[int(parts[number][4])] == label else 0 for number in free]
            if likeness and max(likeness) >= 0.5:
                self.right += 1
                del free[int(np.argmax(likeness))]
        self.found += len(boxes)
        self.parts += len(parts)

    @property
    def precision(self):
        return self.right / max(1, self.found)

    @property
    def recall(self):
        return self.right / max(1, self.parts)

    def __str__(self):
        return f"{self.parts} parts, {self.found} boxes, {self.right} right: precision {self.precision:.3f}, recall {self.recall:.3f}"


def overlap(one, other):
    """What two boxes share, as a part of what both cover."""
    size = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = size.clip(0).prod()
    return shared / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - shared)


if __name__ == "__main__":
    main(*sys.argv[1:])
