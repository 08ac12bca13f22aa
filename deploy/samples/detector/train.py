"""Trains the detector of this sample on generated boards and makes its model repository.

A picture of 640x640 gives 25200 rows of 85 numbers, as YOLO has them: three anchors in each cell of three grids (80x80, 40x40, 20x20); a row
is the middle and the size of a box in pixels, how sure it is that a part is there, and a probability for each of 80 classes, of which the
boards use six. Training takes a minute or two on two cores and needs numpy alone; what it made is kept in the user's cache.

Usage: train.py [FOLDER]      (default: target/samples/detector in the project root); with e2e/env done, in .venv/bin/python
"""

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import boards
import numpy as np
import onnx
from network import Adam, Network
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

HERE = Path(__file__).resolve().parent
SIDE, CLASSES = 640, 80
STRIDES = (8, 16, 32)
ANCHORS = np.array(
    [[(18, 18), (26, 13), (13, 26)], [(40, 40), (44, 18), (18, 44)], [(80, 66), (90, 23), (23, 90)]], np.float32
)  # width and height in pixels, for each stride
LIKE = 1.8  # an anchor is responsible for boxes at most so many times as wide and as high as it is, or as narrow and as low
PER_ANCHOR = 5 + len(boards.LABELS)

TRAINED_ON, CROP, BATCH, STEPS = 200, 320, 8, 800
FIRST_SEED = 1000  # of the boards trained on: FIRST_SEED to FIRST_SEED + TRAINED_ON


def main(folder=None):
    folder = Path(folder or HERE.parents[2] / "target/samples/detector")
    write(folder)
    print(f"the model repository is in {folder}")


def write(folder):
    """The whole repository. Files are put in place complete or not at all; those that would not change are left alone."""
    for source in sorted((HERE / "models").rglob("*")):
        if source.is_file() and source.suffix in (".py", ".pbtxt", ".txt"):
            put(folder / source.relative_to(HERE / "models"), source.read_bytes())
    (folder / "inspect/1").mkdir(parents=True, exist_ok=True)
    put(folder / "pcb_detector/1/model.onnx", trained())


def put(path, content):
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def trained():
    """The trained model's file: from the cache, where one lies that these very scripts made, else trained now."""
    scripts = b"".join((HERE / name).read_bytes() for name in ("boards.py", "network.py", "train.py"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triton-operator/samples"
    path = cache / f"detector-{hashlib.sha256(scripts).hexdigest()[:16]}.onnx"
    if not path.exists():
        print("training the detector, a minute or two", file=sys.stderr)
        put(path, to_onnx(train()).SerializeToString())
    return path.read_bytes()


# === training ===


def train(say=lambda line: print(line, file=sys.stderr)):
    started = time.monotonic()
    rng = np.random.default_rng(7)
    drawn = [resized(*boards.board(FIRST_SEED + number, size=(side, side))) for number, side in enumerate(rng.integers(560, 840, TRAINED_ON))]
    pictures = [np.asarray(picture, np.float32) / 255 for picture, _ in drawn]
    network = Network(7, 3 * PER_ANCHOR)
    for head in network.heads:
        head.bias.reshape(3, -1)[:, 4] = -5  # nearly nothing is a part, to begin with
    adam = Adam(network.layers())
    say(f"{TRAINED_ON} boards drawn in {time.monotonic() - started:.0f} s")
    for step in range(STEPS):
        chosen = [crop(rng, pictures[number], drawn[number][1]) for number in rng.integers(0, TRAINED_ON, BATCH)]
        raw = network.forward(np.stack([picture for picture, _ in chosen]))
        loss, gradients = losses(raw, [parts for _, parts in chosen])
        network.backward(gradients)
        adam.update(6e-3 * min(1, (step + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * step / STEPS)) + 2e-5)
        if step % 100 == 0 or step == STEPS - 1:
            say(f"step {step:4d}   loss {loss:.3f}   {time.monotonic() - started:.0f} s")
    return network


def resized(picture, parts):
    """A board as large as what the detector looks at: cameras come nearer or less near."""
    scale = SIDE / picture.width
    return picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), parts * np.array([scale, scale, scale, scale, 1], np.float32)


def crop(rng, picture, parts):
    """A square out of a board, turned over or not, with the parts whose middle is in it."""
    left, top = rng.integers(0, SIDE - CROP + 1, 2)
    picture = picture[top : top + CROP, left : left + CROP]
    boxes = parts - np.array([left, top, left, top, 0], np.float32)
    if rng.random() < 0.5:
        picture, boxes = picture[:, ::-1], boxes * [-1, 1, -1, 1, 1] + [CROP, 0, CROP, 0, 0]
    if rng.random() < 0.5:
        picture, boxes = picture[::-1], boxes * [1, -1, 1, -1, 1] + [0, CROP, 0, CROP, 0]
    middle, size = (boxes[:, :2] + boxes[:, 2:4]) / 2, abs(boxes[:, 2:4] - boxes[:, :2])
    inside = ((middle > 0) & (middle < CROP)).all(axis=1)
    return picture, np.column_stack([middle, size, boxes[:, 4]])[inside]


def losses(raw, parts):
    """The loss of a batch, and its gradient by the raw outputs. `parts`: for each picture rows of middle, size and label."""
    total, gradients = 0.0, []
    found = max(1, sum(len(one) for one in parts))
    for level, stride, anchors in zip(raw, STRIDES, ANCHORS):
        batch, height, width = level.shape[:3]
        out = 1 / (1 + np.exp(-level.reshape(batch, height, width, 3, PER_ANCHOR)))
        gradient = np.zeros_like(out)
        where, wanted = responsible(parts, stride, anchors, height, width)

        # Is a part there? The more wrong a cell without one is, the more it counts.
        there = np.zeros(out.shape[:-1], np.float32)
        there[where] = 1
        sure = out[..., 4]
        error = np.where(there, 1 - sure, sure)
        weight = error**1.5 / found
        total += float(-(weight * np.log(1 - error + 1e-7)).sum())
        gradient[..., 4] = weight * (sure - there)

        if len(wanted):
            box, classes = out[where][:, :4], out[where][:, 5:]
            off = box - wanted[:, :4]
            is_label = np.eye(len(boards.LABELS), dtype=np.float32)[wanted[:, 4].astype(int)]
            total += float((10 * off**2).sum() - np.log(1 - abs(is_label - classes) + 1e-7).sum() * 0.5) / found
            own = np.zeros((len(wanted), PER_ANCHOR), np.float32)
            own[:, :4] = 20 * off * box * (1 - box) / found
            own[:, 5:] = 0.5 * (classes - is_label) / found
            own[:, 4] = gradient[where][:, 4]
            gradient[where] = own
        gradients.append(gradient.reshape(level.shape))
    return total, gradients


def responsible(parts, stride, anchors, height, width):
    """Which cells and anchors should find a part, as an index, and what the first four outputs and the label should be there.

    A part belongs to the cell of its middle and to the next ones beside and above or below, to each anchor of about its size.
    """
    cells = {}
    for number, rows in enumerate(parts):
        for x, y, w, h, label in rows:
            for anchor, (aw, ah) in enumerate(anchors):
                if max(w / aw, aw / w, h / ah, ah / h) > LIKE:
                    continue
                cx, cy = x / stride, y / stride
                column, row = int(cx), int(cy)
                beside = column + (1 if cx - column > 0.5 else -1)
                above = row + (1 if cy - row > 0.5 else -1)
                for i, j in ((row, beside), (above, column), (row, column)):
                    if 0 <= i < height and 0 <= j < width:
                        want = ((cx - j + 0.5) / 2, (cy - i + 0.5) / 2, np.sqrt(w / aw) / 2, np.sqrt(h / ah) / 2, label)
                        cells[number, i, j, anchor] = want
    index = tuple(np.array(list(cells), int).reshape(-1, 4).T)
    return index, np.array(list(cells.values()), np.float32).reshape(-1, 5)


# === the model as a graph ===


def to_onnx(network):
    """The trained network with what makes boxes in pixels of its outputs: `images` [batch, 3, 640, 640] from 0 to 1 to `output`
    [batch, 25200, 85]."""
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind, inputs, name, outputs=None, **attributes):
        nodes.append(helper.make_node(kind, inputs, outputs or [name], name=name, **attributes))
        return name

    def layer(conv, name, x):
        its_nodes, its_constants, out = conv.nodes(name, x)
        nodes.extend(its_nodes)
        constants.extend(its_constants)
        return out

    x = node("Sub", [node("Mul", ["images", constant("four", np.float32(4))], "scaled"), constant("two", np.float32(2))], "centred")
    x = layer(network.stem, "stem", x)
    rows = []
    for number, (stage, head, stride, anchors) in enumerate(zip(network.stages, network.heads, STRIDES, ANCHORS)):
        for depth, conv in enumerate(stage):
            x = layer(conv, f"stage{number}.{depth}", x)
        side, at = SIDE // stride, f"level{number}"
        raw = layer(head, f"{at}.head", x)
        raw = node("Reshape", [raw, constant(f"{at}.apart", np.array([0, 3, PER_ANCHOR, side * side], np.int64))], f"{at}.raw")
        out = node("Sigmoid", [node("Transpose", [raw], f"{at}.cells", perm=[0, 1, 3, 2])], f"{at}.out")  # [batch, anchor, cell, number]
        middle, size, rest = f"{at}.xy", f"{at}.wh", f"{at}.rest"
        node("Split", [out, constant(f"{at}.parts", np.array([2, 2, PER_ANCHOR - 4], np.int64))], f"{at}.split", [middle, size, rest], axis=3)
        row, column = np.divmod(np.arange(side * side), side)
        corner = (np.column_stack([column, row]) - 0.5).astype(np.float32) * stride
        middle = node("Mul", [middle, constant(f"{at}.reach", np.float32(2 * stride))], f"{at}.off")
        middle = node("Add", [middle, constant(f"{at}.corners", corner)], f"{at}.middle")
        size = node("Mul", [node("Mul", [size, size], f"{at}.squared"), constant(f"{at}.anchors", 4 * anchors[:, None])], f"{at}.size")
        boxes_of = node("Concat", [middle, size, rest], f"{at}.boxes", axis=3)
        rows.append(node("Reshape", [boxes_of, constant(f"{at}.flat", np.array([0, 3 * side * side, PER_ANCHOR], np.int64))], f"{at}.rows"))
    rows = node("Concat", rows, "boxes", axis=1)
    unused = np.array([0, 0, 0, 0, 0, CLASSES - len(boards.LABELS)], np.int64)
    node("Pad", [rows, constant("unused_classes", unused)], "output")

    total = sum(3 * (SIDE // stride) ** 2 for stride in STRIDES)
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", total, 5 + CLASSES])]
    graph = helper.make_graph(nodes, "pcb_detector", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="detector/train.py")
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
