"""Texts to the numbers of their word pieces: the uncased BERT vocabulary, which lies in vocab.txt beside this file.

A word becomes the longest pieces of the vocabulary that make it up; those after the first are written there with ## in front.
"""

import json
import os
import unicodedata

import numpy as np
import triton_python_backend_utils as pb_utils

LONGEST_WORD = 100  # in characters; a longer one is unknown


class WordPieces:
    """The vocabulary, and how a text is cut into pieces of it."""

    def __init__(self, lines):
        self.numbers = {line.rstrip("\n"): number for number, line in enumerate(lines)}
        self.unknown, self.begin, self.end = (self.numbers[name] for name in ("[UNK]", "[CLS]", "[SEP]"))
        self.known = {}

    def encode(self, text, longest):
        """Numbers of at most `longest` pieces, those that begin and end every text included."""
        pieces = [self.begin]
        for word in words(text):
            pieces += self.of_word(word)
            if len(pieces) >= longest:
                break
        return pieces[: longest - 1] + [self.end]

    def of_word(self, word):
        found = self.known.get(word)
        if found is None:
            found = self.cut(word)
            if len(self.known) < 50000:
                self.known[word] = found
        return found

    def cut(self, word):
        if len(word) > LONGEST_WORD:
            return [self.unknown]
        pieces, start = [], 0
        while start < len(word):
            before = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self.numbers.get(before + word[start:end])
                if number is not None:
                    break
            else:
                return [self.unknown]
            pieces.append(number)
            start = end
        return pieces


def words(text):
    """Words in lower case without accents; each punctuation mark and each Chinese character is one by itself."""
    spaced = []
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char) == "Zs":
            spaced.append(" ")
        elif char in "\0\ufffd" or unicodedata.category(char).startswith("C"):
            continue
        elif is_chinese(ord(char)):
            spaced.append(" " + char + " ")
        else:
            spaced.append(char)
    plain = unicodedata.normalize("NFD", "".join(spaced)).lower()
    separated = []
    for char in plain:
        if unicodedata.category(char) == "Mn":
            continue
        separated.append(" " + char + " " if is_punctuation(char) else char)
    return "".join(separated).split()


def is_punctuation(char):
    code = ord(char)
    return 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126 or unicodedata.category(char).startswith("P")


CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_chinese(code):
    return code >= 0x3400 and any(first <= code <= last for first, last in CHINESE)


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.longest = int(parameters["max_tokens"]["string_value"])
        self.step = int(parameters["pad_to_multiple_of"]["string_value"])
        with open(os.path.join(os.path.dirname(__file__), "vocab.txt"), encoding="utf-8") as file:
            self.pieces = WordPieces(file)

    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel()
            rows = [self.pieces.encode(text.decode("utf-8", "replace"), self.longest) for text in texts]
            # Lengths are rounded up: requests of about the same length then have the same shape, and may share a batch of the encoder.
            length = -(-max(map(len, rows)) // self.step) * self.step
            ids = np.zeros((len(rows), length), np.int64)
            mask = np.zeros((len(rows), length), np.int64)
            for row, numbers in enumerate(rows):
                ids[row, : len(numbers)] = numbers
                mask[row, : len(numbers)] = 1
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)]))
        return responses
