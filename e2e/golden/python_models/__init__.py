"""Scenes of Python models: the same `model.py` for the recorded Triton and for us. One module per topic, each with its SCENE."""

from python_models import api, tensors

TOPICS = {"api": api, "tensors": tensors}

SCENES = {f"python_{name}": topic.SCENE for name, topic in TOPICS.items()}
