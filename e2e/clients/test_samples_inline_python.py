"""The sample whose model is written in the resource itself."""

import numpy as np
import pytest
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

import samples
from bringing_up import Up, write
from serving import until


def test_a_python_model_written_in_the_resource_is_served_and_follows_its_text(tmp_path):
    text = (samples.SAMPLES / "inline-python.yaml").read_text()
    file = tmp_path / "all.yaml"
    write(file, text)
    with Up(file, env={"PATH": samples.path_with_this_python()}) as up:
        up.wait_for("Ready: ")
        client = httpclient.InferenceServerClient(url=up.url)
        assert summary(client, [1, 2, 4, 5]) == {"mean": 3.0, "deviation": np.float32(np.std([1, 2, 4, 5]))}
        with pytest.raises(InferenceServerException, match="there is no mean of no numbers"):
            summary(client, [])
        # Broken, it goes on as it was; mended, it follows.
        write(file, text.replace("import numpy as np", "import numpy as np, nowhere_to_be_found"))
        up.wait_for("nowhere_to_be_found")
        assert summary(client, [1, 3])["mean"] == 2
        write(file, text.replace("values.mean()", "values.mean() + 100"))
        until(lambda: summary(client, [1, 3])["mean"] == 102, "the changed model", process=up.process)


def summary(client, numbers):
    """What the model of the sample answers."""
    values = np.array(numbers, np.float32)
    inputs = [httpclient.InferInput("values", values.shape, "FP32")]
    inputs[0].set_data_from_numpy(values)
    result = client.infer("summary", inputs)
    return {name: result.as_numpy(name)[0] for name in ("mean", "deviation")}
