"""The detector sample: a picture file in, parts out, through two Python models and an ONNX graph that our own script trained."""

import numpy as np
import pytest
import tritonclient.http as httpclient
from PIL import Image
from tritonclient.utils import InferenceServerException

import samples
from bringing_up import Up
from serving import Server

PRECISION, RECALL = 0.85, 0.85  # far below what training reaches, far above what anything broken would


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with the model repository of the sample in `detector`; trained when no cache has it."""
    folder = tmp_path_factory.mktemp("samples")
    samples.module(samples.SAMPLES / "detector/train.py", "detector_train").write(folder / "detector")
    return folder


@pytest.fixture(scope="module")
def sample():
    """The module that measures; it has those that ask and that draw boards."""
    return samples.module(samples.SAMPLES / "detector/measure.py", "detector_measure")


@pytest.fixture(scope="module")
def server(made):
    with Server(made / "detector", env={"PATH": samples.path_with_this_python()}) as running:
        yield running


@pytest.fixture
def client(server):
    return httpclient.InferenceServerClient(url=server.url, network_timeout=60)


def test_parts_of_boards_it_never_saw_are_found(client, sample):
    tally = sample.measure(client)
    assert tally.parts >= 900
    assert tally.precision >= PRECISION and tally.recall >= RECALL, str(tally)


def test_the_detector_has_the_form_of_yolo(client):
    model = client.get_model_config("pcb_detector")
    assert [one["dims"] for one in model["input"] + model["output"]] == [[3, 640, 640], [25200, 85]]
    images = np.zeros((2, 3, 640, 640), np.float32)
    inputs = [httpclient.InferInput("images", images.shape, "FP32")]
    inputs[0].set_data_from_numpy(images)
    assert client.infer("pcb_detector", inputs).as_numpy("output").shape == (2, 25200, 85)


def test_each_picture_of_a_request_has_its_own_parts(client, sample):
    boards, ask = sample.boards, sample.ask
    files = [ask.png(boards.board(seed, size=(640, 640), parts=parts)[0]) for seed, parts in ((6000, 5), (6001, 20))]
    together, alone = ask.find(client, files), [ask.find(client, [file])[0] for file in files]
    for (boxes, scores, labels), (same_boxes, same_scores, same_labels) in zip(together, alone):
        assert labels == same_labels and len(labels) == len(boxes) == len(scores)
        np.testing.assert_allclose(boxes, same_boxes, atol=0.1)
        np.testing.assert_allclose(scores, same_scores, atol=1e-3)
    assert len(together[0][2]) < len(together[1][2])


def test_what_is_no_picture_is_the_error_of_its_request(client, sample):
    with pytest.raises(InferenceServerException, match="picture 0 of the request cannot be read"):
        sample.ask.find(client, [b"no picture"])
    # Each machine trains a detector of its own, and none is never wrong.
    empty = [sample.boards.board(seed, size=(640, 640), parts=0)[0] for seed in range(6002, 6010)]
    found = [labels for _, _, labels in sample.ask.find(client, [sample.ask.png(board) for board in empty])]
    assert found.count([]) >= 4, "nothing is found on most boards without parts"
    assert len(sample.ask.find(client, [sample.ask.png(Image.new("RGB", (30, 20)))])) == 1, "a picture may be small"


def test_the_sample_is_brought_up_and_draws_what_it_found(made, sample, tmp_path):
    with Up(samples.SAMPLES / "detector", flags=[f"--volume=models={made}"], env={"PATH": samples.path_with_this_python()}) as up:
        up.wait_for("Ready: ")
        said = samples.run("detector/ask.py", up.url, cwd=tmp_path)
        assert "drawn into found.png" in said and "chip" in said, said
        boards, ask = sample.boards, sample.ask
        board, parts = boards.board(ask.SAMPLE_SEED, size=(800, 600))
        drawn = np.asarray(Image.open(tmp_path / "found.png"), int)
        assert drawn.shape == (600, 800, 3)
        changed = abs(drawn - np.asarray(board, int)).max(axis=2) > 40
        rims = [changed[int(y0) - 3 : int(y1) + 4, int(x0) - 3 : int(x1) + 4].any() for x0, y0, x1, y1, _ in parts]
        assert np.mean(rims) > 0.7, "most parts have a rectangle around them"
        board.save(tmp_path / "board.jpg", quality=95)
        again = samples.run("detector/ask.py", up.url, tmp_path / "board.jpg", tmp_path / "again.png", cwd=tmp_path)
        assert "chip" in again and (tmp_path / "again.png").exists()
