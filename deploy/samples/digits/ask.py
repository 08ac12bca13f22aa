"""Sends handwritten digits that the model has never seen to a server, and shows what it makes of them.

Usage: ask.py [HOST:PORT] [ROW]      (default: 127.0.0.1:8000, the first of the 360 held digits)
"""

import sys
from pathlib import Path

import numpy as np
import tritonclient.http as httpclient

GREYS = " .:-=+*#%@"


def main(url="127.0.0.1:8000", row="0"):
    held = np.loadtxt(Path(__file__).with_name("held.csv"), delimiter=",", dtype=np.float32)
    pixels, truth = held[:, :64], held[:, 64].astype(int)
    client = httpclient.InferenceServerClient(url=url)

    row = int(row)
    probabilities, digit = infer(client, pixels[row : row + 1])
    print(picture(pixels[row], [
        f"the server says   {digit[0]}",
        f"it is             {truth[row]}",
        "",
        "probabilities",
        *(f"  {number}  {probabilities[0, number]:.3f}" for number in np.argsort(-probabilities[0])[:3]),
    ]))  # fmt: skip

    answers = np.concatenate([infer(client, pixels[start : start + 60])[1] for start in range(0, len(pixels), 60)])
    right = int((answers == truth).sum())
    print(f"\nall {len(truth)} held digits: {right} right ({right / len(truth):.1%})")
    return 0 if digit[0] == truth[row] else 1


def infer(client, rows):
    """Probabilities and likeliest digit of each row."""
    inputs = [httpclient.InferInput("pixels", rows.shape, "FP32")]
    inputs[0].set_data_from_numpy(rows)
    result = client.infer("digits", inputs)
    return result.as_numpy("probabilities"), result.as_numpy("digit").ravel()


def picture(pixels, beside):
    """Eight lines of two characters per pixel, with text to their right."""
    lines = ["".join(GREYS[min(int(grey / 16 * len(GREYS)), len(GREYS) - 1)] * 2 for grey in line) for line in pixels.reshape(8, 8)]
    beside = beside + [""] * (len(lines) - len(beside))
    return "\n".join(f"    {line}      {text}".rstrip() for line, text in zip(lines, beside))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
