"""How an exception of the model is told to the server."""

from ._errors import ReturnError, TritonError, TritonModelException

OWN_FOLDER = __file__.rpartition("/")[0] + "/"

COROUTINE = 0x80
"""The flag of a code object that is a coroutine's."""


def describe(error):
    """Type, text and place of an exception, innermost frame first; and the code of Triton's error."""
    kind = type(error)
    if kind is ReturnError:
        return str(error), int(TritonError.INTERNAL)
    name = kind.__name__
    if issubclass(kind, TritonModelException) and kind.__module__ == TritonModelException.__module__:
        name = "%s.%s" % (kind.__module__, name)
    text = "%s: %s" % (name, error)
    frames = _frames(error.__traceback__)
    if frames:
        text += "\n\nAt:\n" + "".join("  %s(%d): %s\n" % frame for frame in frames)
    return text, int(TritonError.INTERNAL)


def _frames(traceback):
    """File, line and function of each frame of the model, from where the exception was raised out to its outermost one."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith((OWN_FOLDER, "<frozen importlib")):
            frames.append((code.co_filename, traceback.tb_lineno, code.co_name, code.co_flags))
        traceback = traceback.tb_next
    frames.reverse()
    for index, (_, _, _, flags) in enumerate(frames):
        if flags & COROUTINE:
            del frames[index + 1 :]  # as Triton shows it: a coroutine that has ended knows nobody who awaited it
            break
    return [frame[:3] for frame in frames]
