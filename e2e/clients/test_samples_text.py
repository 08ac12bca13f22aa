"""The text sample: a tokenizer in Python, a sentence encoder in ONNX and the two as one model, beside what others make of the same texts."""

import json
import sys
import types

import numpy as np
import pytest
import tritonclient.http as httpclient

import samples
from bringing_up import Up
from serving import ROOT, Server

RECORDED = json.loads((ROOT / "e2e/fixtures/text/recorded.json").read_text())
EMBEDDED = [one for one in RECORDED if "embedding" in one]
TOLERANCE = 2e-5  # of numbers whose squares add up to 1; other kernels add in another order


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with the model repository of the sample in `text`."""
    folder = tmp_path_factory.mktemp("samples")
    export = samples.module(samples.SAMPLES / "text/export.py", "text_export")
    export.write(folder / "text")
    return folder


@pytest.fixture(scope="module")
def ask():
    return samples.module(samples.SAMPLES / "text/ask.py", "text_ask")


@pytest.fixture
def pieces(made, monkeypatch):
    """The tokenizer, outside any server."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    version = made / "text/tokenizer/1"
    with open(version / "vocab.txt", encoding="utf-8") as file:
        return samples.module(version / "model.py", "text_tokenizer").WordPieces(file)


def test_texts_are_cut_as_others_cut_them(pieces):
    for one in RECORDED:
        assert pieces.encode(one["text"], 256) == one["ids"], one["text"]


def test_a_text_cannot_say_where_it_begins_and_ends(pieces):
    numbers = pieces.encode("one [SEP] two [CLS]", 256)
    assert numbers[0] == pieces.begin and numbers[-1] == pieces.end
    assert not {pieces.begin, pieces.end} & set(numbers[1:-1])


def test_embeddings_are_those_of_the_model(made, ask):
    expected = np.array([one["embedding"] for one in EMBEDDED])
    texts = [one["text"] for one in EMBEDDED]
    with Server(made / "text", env={"PATH": samples.path_with_this_python()}) as server:
        client = httpclient.InferenceServerClient(url=server.url)
        together = ask.embed(client, texts)
        alone = np.concatenate([ask.embed(client, [text]) for text in texts])
    for got in (together, alone):
        assert got.shape == expected.shape and got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_the_sample_is_brought_up_and_finds_what_is_meant(made, ask):
    with Up(samples.SAMPLES / "text", flags=[f"--volume=models={made}"], env={"PATH": samples.path_with_this_python()}) as up:
        up.wait_for("Ready: ")
        said = samples.run("text/ask.py", up.url).splitlines()
        assert said[0] == ask.QUESTION and len(said) == 1 + ask.SHOWN
        assert said[1].endswith("To reset your password, follow the link on the sign-in page."), said
        for question, nearest in (("When do you open on weekends?", "Our shop is closed on Sundays and on public holidays."), ("sleeping pets", "A cat sleeps on the sofa in the afternoon sun.")):
            assert samples.run("text/ask.py", up.url, question).splitlines()[1].endswith(nearest), question
