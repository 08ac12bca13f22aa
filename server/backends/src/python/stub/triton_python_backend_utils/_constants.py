"""Constants by the names Triton gives them: flags of requests and responses, kinds of memory."""

from enum import Enum, IntEnum

from ._arguments import incompatible_arguments

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2


class Choice(IntEnum):
    """An enumeration that compares and converts like a number, and shows itself by name in every version of Python."""

    __str__ = Enum.__str__
    __repr__ = Enum.__repr__

    def __format__(self, form):
        return format(str(self), form)


class MemoryType(Choice):
    """Where the outputs of a model should lie that another model calls."""

    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


TRITONSERVER_MEMORY_GPU = MemoryType.TRITONSERVER_MEMORY_GPU
TRITONSERVER_MEMORY_CPU = MemoryType.TRITONSERVER_MEMORY_CPU


class PreferredMemory(object):
    """A wish where the outputs of a called model should lie.

    Raises: ``TypeError`` if the type is no ``MemoryType`` or the device no number.
    Source: Triton Python backend, "Business Logic Scripting".
    """

    __slots__ = ("preferred_memory_type", "preferred_device_id")

    def __init__(self, preferred_memory_type, preferred_device_id=0):
        if not isinstance(preferred_memory_type, MemoryType) or not isinstance(preferred_device_id, int):
            raise incompatible_arguments(
                "PreferredMemory(preferred_memory_type: MemoryType, preferred_device_id: int = 0)",
                2,
                ("preferred_memory_type", preferred_memory_type),
                ("preferred_device_id", preferred_device_id, 0),
            )
        self.preferred_memory_type = preferred_memory_type
        self.preferred_device_id = preferred_device_id


NO_PREFERRED_MEMORY = PreferredMemory.__new__(PreferredMemory)
"""No wish: what requests have that say nothing of it."""
NO_PREFERRED_MEMORY.preferred_memory_type = None
NO_PREFERRED_MEMORY.preferred_device_id = 0
