"""How an exception of the model is told to the server: in the form that Triton's worker gives it."""

from ._errors import ReturnError, TritonError

COROUTINE = 0x80
"""The flag of a code object that is a coroutine's."""

OWN_FOLDER = __file__.rpartition("/")[0].rpartition("/")[0] + "/"


def describe(error):
    """Type, text and place of an exception, innermost frame first; and the code of Triton's error.

    Frames of this package are left out: in Triton they are compiled code. Causes and contexts are not shown.
    """
    code = int(TritonError.INTERNAL)
    if type(error) is ReturnError:
        return str(error), code
    more = ""
    try:
        text = str(error) or "<EMPTY MESSAGE>"
    except Exception as failure:
        text = "<MESSAGE UNAVAILABLE DUE TO ANOTHER EXCEPTION>"
        more = "\nMESSAGE UNAVAILABLE DUE TO EXCEPTION: " + describe(failure)[0]
    text = "%s: %s" % (type(error).__name__, text)
    frames = _frames(error.__traceback__)
    if frames:
        text += "\n\nAt:\n" + "".join("  %s(%d): %s\n" % frame for frame in frames)
    # Half of a pair of surrogates is no text that the server could read.
    return (text + more).encode("utf-8", "backslashreplace").decode("utf-8"), code


def _frames(traceback):
    """File, line and function of each frame of the model: from where the exception was raised, out to what we called.

    A coroutine ends the list, as in Triton: when it has ended, most versions of Python no longer know who awaited it.
    """
    frames = []
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = None if traceback is None else traceback.tb_frame
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(OWN_FOLDER):
            frames.append((code.co_filename, frame.f_lineno, code.co_name))
            if code.co_flags & COROUTINE:
                break
        elif frames:
            break  # below this is what called us: our own code, and perhaps another call of the model
        frame = frame.f_back
    return frames
