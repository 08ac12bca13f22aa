"""Has a server look for parts on a picture of a circuit board, and draws what it found into a copy of the picture.

Usage: ask.py [HOST:PORT] [PICTURE] [OUTPUT]      (default: 127.0.0.1:8000, a board drawn now, found.png)
"""

import io
import sys
from collections import Counter
from pathlib import Path

import boards
import numpy as np
import tritonclient.http as httpclient
from PIL import Image, ImageDraw

COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ffd60a", "#ff5fd2", "#40e0ff")
SAMPLE_SEED = 5002  # a board the detector was not trained on


def main(url="127.0.0.1:8000", picture=None, output="found.png"):
    content = Path(picture).read_bytes() if picture else png(boards.board(SAMPLE_SEED, size=(800, 600))[0])
    boxes, scores, labels = find(httpclient.InferenceServerClient(url=url, network_timeout=60), [content])[0]
    draw(Image.open(io.BytesIO(content)).convert("RGB"), boxes, scores, labels).save(output)
    print(", ".join(f"{count} {label}" for label, count in sorted(Counter(labels).items())) or "no parts")
    print(f"drawn into {output}")


def find(client, files):
    """For each picture file: boxes [n, 4] in its pixels (left, top, right, bottom), scores, and labels, the surest first."""
    rows = np.array([[file] for file in files], dtype=np.object_)
    inputs = [httpclient.InferInput("picture", rows.shape, "BYTES")]
    inputs[0].set_data_from_numpy(rows)
    result = client.infer("inspect", inputs)
    boxes, scores, labels = (result.as_numpy(name) for name in ("boxes", "scores", "labels"))
    found = scores > 0  # rows of a picture with fewer parts than another are filled up with zeros
    return [(boxes[n][found[n]], scores[n][found[n]], [label.decode() for label in labels[n][found[n]]]) for n in range(len(files))]


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def draw(picture, boxes, scores, labels):
    pen = ImageDraw.Draw(picture)
    names = list(boards.LABELS)
    for box, score, label in zip(boxes, scores, labels):
        colour = COLOURS[names.index(label) % len(COLOURS)] if label in names else "#ffffff"
        pen.rectangle([float(value) for value in box], outline=colour, width=2)
        text, corner = f"{label} {score:.2f}", (float(box[0]), max(0.0, float(box[1]) - 11))
        pen.rectangle(pen.textbbox(corner, text), fill=colour)
        pen.text(corner, text, fill="black")
    return picture


if __name__ == "__main__":
    main(*sys.argv[1:])
