"""Pictures of circuit boards with known parts on them, drawn by a generator: the same seed gives the same picture.

What is not a part is drawn as well (traces, vias, pads, print, holes), and every picture has its own board colour, light, blur and noise.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

LABELS = ("chip", "resistor", "capacitor", "led", "connector", "crystal")
BOARDS = ((22, 92, 48), (16, 74, 40), (26, 58, 128), (128, 24, 28), (34, 34, 38), (70, 100, 30))
TABLES = ((176, 168, 158), (120, 96, 72), (208, 208, 204), (88, 92, 98), (150, 130, 104))
GOLD, SILVER = (212, 176, 84), (196, 198, 200)
FINE = 2  # pictures are drawn this much larger, then reduced: smooth edges


def board(seed, size=(640, 640), parts=26):
    """A picture (RGB) and its parts: rows of left, top, right, bottom in pixels and the number of the label; float32 [parts, 5]."""
    rng = np.random.default_rng(seed)
    width, height = size
    image = Image.new("RGB", (width * FINE, height * FINE), shade(rng, pick(rng, TABLES), 20))
    draw = Draw(image)
    margin = rng.integers(4, max(5, min(size) // 14), 4)
    edge = (margin[0], margin[1], width - margin[2], height - margin[3])
    colour = shade(rng, pick(rng, BOARDS), 14)
    draw.rectangle(edge, colour, radius=8)
    decorate(rng, draw, edge, colour)

    found = []
    for _ in range(parts * 6):
        if len(found) == parts:
            break
        label = int(rng.choice(len(LABELS), p=(0.2, 0.2, 0.2, 0.16, 0.12, 0.12)))
        w, h = SIZES[LABELS[label]](rng)
        if rng.random() < 0.5:
            w, h = h, w
        left, top = rng.uniform(edge[0] + 4, edge[2] - w - 4), rng.uniform(edge[1] + 4, edge[3] - h - 4)
        box = (left, top, left + w, top + h)
        if any(box[0] < x1 + 5 and x0 - 5 < box[2] and box[1] < y1 + 5 and y0 - 5 < box[3] for x0, y0, x1, y1, _ in found):
            continue
        PARTS[LABELS[label]](rng, draw, box)
        found.append((*box, label))
    return photograph(rng, image.reduce(FINE)), np.array(found, np.float32).reshape(-1, 5)


def photograph(rng, image):
    """The same under uneven light, a little out of focus, with the noise of a camera."""
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    pixels = np.asarray(image, np.float32)
    height, width = pixels.shape[:2]
    angle = rng.uniform(0, 2 * math.pi)
    across = np.linspace(-1, 1, width)[None] * math.cos(angle) + np.linspace(-1, 1, height)[:, None] * math.sin(angle)
    light = (rng.uniform(0.8, 1.15) + rng.uniform(0, 0.16) * across).astype(np.float32)
    pixels = pixels * light[..., None] * rng.uniform(0.94, 1.06, 3).astype(np.float32)
    pixels += rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(2, 7))
    return Image.fromarray(pixels.clip(0, 255, out=pixels).astype(np.uint8))


class Draw:
    """Shapes in pixels of the finished picture."""

    def __init__(self, image):
        self.draw = ImageDraw.Draw(image)

    def rectangle(self, box, fill, radius=0, outline=None):
        box = [round(value * FINE) for value in box]
        if box[2] > box[0] and box[3] > box[1]:
            self.draw.rounded_rectangle(box, round(radius * FINE), fill, outline, FINE)

    def ellipse(self, box, fill, outline=None, width=1.0):
        box = [round(value * FINE) for value in box]
        if box[2] > box[0] and box[3] > box[1]:
            self.draw.ellipse(box, fill, outline, round(width * FINE))

    def line(self, points, fill, width):
        self.draw.line([(x * FINE, y * FINE) for x, y in points], fill, max(1, round(width * FINE)), joint="curve")


def pick(rng, choices):
    return choices[rng.integers(len(choices))]


def shade(rng, colour, by):
    """A colour near another; all of its parts change alike, then each a little."""
    change = rng.uniform(-by, by) + rng.uniform(-by / 3, by / 3, 3)
    return tuple(int(np.clip(value + more, 0, 255)) for value, more in zip(colour, change))


def decorate(rng, draw, edge, colour):
    """What lies on a board beside its parts."""
    left, top, right, bottom = edge
    trace = tuple(min(255, int(value * 1.25) + 14) for value in colour)
    for _ in range(int((right - left) * (bottom - top) / 9000)):
        x, y = rng.uniform(left + 8, right - 8), rng.uniform(top + 8, bottom - 8)
        points, width = [(x, y)], rng.uniform(1.2, 3)
        for _ in range(rng.integers(1, 4)):
            dx, dy = pick(rng, ((1, 0), (0, 1), (1, 1), (1, -1), (-1, 0), (0, -1)))
            length = rng.uniform(10, 90)
            x, y = np.clip(x + dx * length, left + 6, right - 6), np.clip(y + dy * length, top + 6, bottom - 6)
            points.append((x, y))
        draw.line(points, trace, width)
        r = rng.uniform(2, 4)
        draw.ellipse((x - r, y - r, x + r, y + r), shade(rng, pick(rng, (GOLD, SILVER)), 15))
        draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), (30, 30, 30))
    for _ in range(int((right - left) * (bottom - top) / 16000)):
        x, y = rng.uniform(left + 10, right - 40), rng.uniform(top + 10, bottom - 16)
        print_colour = shade(rng, (224, 226, 222), 20)
        if rng.random() < 0.6:
            for number in range(rng.integers(2, 5)):
                strokes = rng.uniform(0, 7, (3, 2)) + (x + number * 8, y)
                draw.line([tuple(point) for point in strokes], print_colour, 1.2)
        else:
            w, h = rng.uniform(12, 60), rng.uniform(10, 40)
            corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y))
            draw.line(corners, print_colour, 1)
    for x in (left + 14, right - 14):
        for y in (top + 14, bottom - 14):
            if rng.random() < 0.6:
                draw.ellipse((x - 8, y - 8, x + 8, y + 8), GOLD)
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), (40, 40, 40))


# === the parts, each within its box ===


def chip(rng, draw, box):
    left, top, right, bottom = box
    body, pin, pitch = shade(rng, (38, 38, 42), 14), shade(rng, SILVER, 15), rng.uniform(6, 10)
    inset = min(right - left, bottom - top) * 0.13
    sides = pick(rng, ("tall", "wide", "both"))
    if sides != "tall":
        for x in np.arange(left + inset + pitch / 2, right - inset - pitch / 4, pitch):
            draw.rectangle((x - pitch / 4, top, x + pitch / 4, bottom), pin)
    if sides != "wide":
        for y in np.arange(top + inset + pitch / 2, bottom - inset - pitch / 4, pitch):
            draw.rectangle((left, y - pitch / 4, right, y + pitch / 4), pin)
    beside, above = inset * (sides != "wide"), inset * (sides != "tall")
    draw.rectangle((left + beside, top + above, right - beside, bottom - above), body, radius=2)
    r = inset * 0.35
    x, y = left + inset * 2, top + inset * 2
    draw.ellipse((x - r, y - r, x + r, y + r), tuple(value + 50 for value in body))


def ends(draw, box, part, fill):
    """The two ends of a long part."""
    left, top, right, bottom = box
    if right - left > bottom - top:
        draw.rectangle((left, top, left + (right - left) * part, bottom), fill)
        draw.rectangle((right - (right - left) * part, top, right, bottom), fill)
    else:
        draw.rectangle((left, top, right, top + (bottom - top) * part), fill)
        draw.rectangle((left, bottom - (bottom - top) * part, right, bottom), fill)


def resistor(rng, draw, box):
    draw.rectangle(box, shade(rng, pick(rng, ((28, 26, 26), (150, 120, 84), (40, 60, 110))), 14))
    ends(draw, box, 0.24, shade(rng, SILVER, 18))


def capacitor(rng, draw, box):
    left, top, right, bottom = box
    rim = (right - left) * 0.08
    draw.ellipse(box, shade(rng, pick(rng, ((40, 44, 60), (90, 60, 50), (60, 60, 64))), 14))
    inner = (left + rim, top + rim, right - rim, bottom - rim)
    draw.ellipse(inner, shade(rng, SILVER, 16))
    start = rng.integers(0, 4) * 90
    draw.draw.chord([round(value * FINE) for value in inner], start - 38, start + 38, shade(rng, (44, 44, 50), 12))


def led(rng, draw, box):
    left, top, right, bottom = box
    colour = shade(rng, pick(rng, ((232, 60, 50), (250, 200, 60), (90, 230, 110), (90, 150, 250))), 16)
    draw.rectangle(box, shade(rng, (232, 230, 222), 10), radius=1.5)
    w, h = (right - left) * 0.16, (bottom - top) * 0.16
    draw.ellipse((left + w, top + h, right - w, bottom - h), colour)
    draw.ellipse((left + 2.4 * w, top + 2.4 * h, right - 2.4 * w, bottom - 2.4 * h), tuple(min(255, value + 70) for value in colour))


def connector(rng, draw, box):
    left, top, right, bottom = box
    draw.rectangle(box, shade(rng, pick(rng, ((236, 232, 216), (40, 40, 44), (226, 216, 120))), 12), outline=(90, 90, 90))
    wide, pitch = right - left > bottom - top, rng.uniform(10, 14)
    length, across = (right - left, bottom - top) if wide else (bottom - top, right - left)
    r = min(across * 0.2, pitch * 0.3)
    for along in np.arange(pitch * 0.7, length - pitch * 0.4, pitch):
        x, y = (left + along, top + across / 2) if wide else (left + across / 2, top + along)
        draw.rectangle((x - r, y - r, x + r, y + r), shade(rng, GOLD, 12))


def crystal(rng, draw, box):
    left, top, right, bottom = box
    radius = min(right - left, bottom - top) / 2
    draw.rectangle(box, shade(rng, (140, 142, 146), 12), radius=radius)
    draw.rectangle((left + 3, top + 3, right - 3, bottom - 3), shade(rng, (206, 208, 210), 12), radius=radius - 3)


PARTS = {"chip": chip, "resistor": resistor, "capacitor": capacitor, "led": led, "connector": connector, "crystal": crystal}


def round_part(least, most):
    def size(rng):
        side = rng.uniform(least, most)
        return side, side

    return size


SIZES = {
    "chip": lambda rng: (rng.uniform(42, 120), rng.uniform(42, 90)),
    "resistor": lambda rng: (rng.uniform(22, 44), rng.uniform(11, 18)),
    "capacitor": round_part(26, 60),
    "led": round_part(13, 24),
    "connector": lambda rng: (rng.uniform(56, 130), rng.uniform(18, 28)),
    "crystal": lambda rng: (rng.uniform(40, 70), rng.uniform(17, 26)),
}
