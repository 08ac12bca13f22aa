"""Every scene there is, by name: those of cases.py, those of Python models, and those of one part of the surface each."""

import cases
import client_memory
import headers
import model_settings
import namespaces
import overrides
import python_models

SCENES = {
    **cases.SCENES,
    **python_models.SCENES,
    **client_memory.SCENES,
    **headers.SCENES,
    **model_settings.SCENES,
    **namespaces.SCENES,
    **overrides.SCENES,
}
