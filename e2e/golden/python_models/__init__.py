"""Scenes of Python models: the same `model.py` for the recorded Triton and for us. One module per topic."""

from python_models import api, auto_complete, bls, errors, metrics, rescheduling, responses, senders, tensors

SCENES = {
    "python_api": api.SCENE,
    "python_tensors": tensors.SCENE,
    "python_responses": responses.SCENE,
    "python_raises": errors.RAISE_SCENE,
    "python_loads": errors.LOAD_SCENE,
    "python_auto_complete": auto_complete.SCENE,
    "python_bls": bls.SCENE,
    "python_bls_control": bls.CONTROL_SCENE,
    "python_metrics": metrics.SCENE,
    "python_rescheduling": rescheduling.SCENE,
    "python_senders": senders.SINGLE_SCENE,
    "python_decoupled": senders.DECOUPLED_SCENE,
}
