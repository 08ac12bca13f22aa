"""A picture file (PNG, JPEG and what else Pillow reads) to what the detector takes: 640x640 pixels from 0 to 1, one plane for each colour.

The picture keeps its proportions; what remains of the square is grey. How it was placed goes along, so that boxes found in the square can be
given in pixels of the picture.
"""

import io

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image, ImageOps

SIDE = 640
GREY = 114 / 255
LARGEST = 50_000_000  # pixels


class TritonPythonModel:
    def execute(self, requests):
        return [answer(request) for request in requests]


def answer(request):
    files = pb_utils.get_input_tensor_by_name(request, "picture").as_numpy().ravel()
    images = np.full((len(files), 3, SIDE, SIDE), GREY, np.float32)
    placed = np.empty((len(files), 5), np.float32)
    for number, file in enumerate(files):
        try:
            placed[number] = place(open_picture(file), images[number])
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"picture {number} of the request cannot be read: {error}"))
    return pb_utils.InferenceResponse([pb_utils.Tensor("images", images), pb_utils.Tensor("placed", placed)])


def open_picture(file):
    picture = Image.open(io.BytesIO(file))
    if picture.width * picture.height > LARGEST:
        raise ValueError(f"it has {picture.width}x{picture.height} pixels, at most {LARGEST} are read")
    return ImageOps.exif_transpose(picture).convert("RGB")


def place(picture, square):
    """Writes the picture into the middle of the square; returns scale, left, top, and the picture's width and height."""
    scale = min(SIDE / picture.width, SIDE / picture.height)
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    small = picture if (width, height) == picture.size else picture.resize((width, height), Image.Resampling.BILINEAR)
    np.divide(np.asarray(small).transpose(2, 0, 1), np.float32(255), out=square[:, top : top + height, left : left + width])
    return scale, left, top, picture.width, picture.height
