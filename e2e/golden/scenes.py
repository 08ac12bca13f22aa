"""Every scene there is, by name: those of cases.py, and those of Python models."""

import cases
import python_models

SCENES = {**cases.SCENES, **python_models.SCENES}
