"""The 25200 rows of a detector in YOLO's form to the parts in the picture: boxes in its pixels, how sure they are, and their labels.

A row is the middle and size of a box, how sure it is that something is there, and a probability for each class. Of boxes of one class that
overlap much, the surest is kept.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        self.labels = np.array([label.encode() for label in parameters["labels"].split(",")], np.object_)
        self.limits = float(parameters["least_score"]), float(parameters["most_overlap"]), int(parameters["most_boxes"])

    def execute(self, requests):
        responses = []
        for request in requests:
            output = pb_utils.get_input_tensor_by_name(request, "output").as_numpy()
            placed = pb_utils.get_input_tensor_by_name(request, "placed").as_numpy()
            found = [in_picture(*detect(rows, *self.limits), where) for rows, where in zip(output, placed)]
            responses.append(pb_utils.InferenceResponse(self.tensors(found)))
        return responses

    def tensors(self, found):
        """One row for each picture; a picture with fewer parts than another has scores of 0 and empty labels after its own."""
        most = max(len(scores) for _, scores, _ in found)
        boxes = np.zeros((len(found), most, 4), np.float32)
        scores = np.zeros((len(found), most), np.float32)
        labels = np.full((len(found), most), b"", np.object_)
        for number, (its_boxes, its_scores, classes) in enumerate(found):
            boxes[number, : len(its_boxes)] = its_boxes
            scores[number, : len(its_boxes)] = its_scores
            labels[number, : len(its_boxes)] = self.labels[classes]
        return [pb_utils.Tensor("boxes", boxes), pb_utils.Tensor("scores", scores), pb_utils.Tensor("labels", labels)]


def detect(rows, least_score, most_overlap, most_boxes):
    """Boxes (left, top, right, bottom), scores and classes of one picture's rows [n, 5 + classes], the surest first."""
    rows = rows[rows[:, 4] >= least_score]
    classes = rows[:, 5:].argmax(axis=1)
    scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= least_score]
    rows, scores, classes = rows[order], scores[order], classes[order]
    half = rows[:, 2:4] / 2
    boxes = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
    kept = suppress(boxes, classes, most_overlap, most_boxes)
    return boxes[kept], scores[kept], classes[kept]


def suppress(boxes, classes, most_overlap, most_boxes):
    """Which boxes are left, of boxes in the order in which they are preferred."""
    # Each class is moved to a place of its own, so that boxes of different classes do not meet.
    apart = boxes + (classes * (boxes.max(initial=0) - boxes.min(initial=0) + 1))[:, None]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left, kept = np.arange(len(boxes)), []
    while len(left) and len(kept) < most_boxes:
        best, rest = left[0], left[1:]
        kept.append(best)
        corner = np.maximum(apart[best, :2], apart[rest, :2])
        size = np.clip(np.minimum(apart[best, 2:], apart[rest, 2:]) - corner, 0, None)
        shared = size[:, 0] * size[:, 1]
        left = rest[shared <= most_overlap * (areas[best] + areas[rest] - shared)]
    return np.array(kept, int)


def in_picture(boxes, scores, classes, placed):
    """The same with boxes in pixels of the picture that was placed in the square, none beyond its edges."""
    scale, left, top, width, height = placed
    boxes = (boxes - np.array([left, top, left, top], np.float32)) / scale
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)), scores, classes
