"""What callers read of an exception of the model."""

import asyncio

import pytest
from triton_python_backend_utils import _errors, _traceback

MODEL = '''\
import triton_python_backend_utils as pb_utils

def inner(word):
    raise ValueError(word)

def outer(word):
    inner(word)

def again():
    try:
        1 / 0
    except ZeroDivisionError:
        raise

def last():
    try:
        1 / 0
    finally:
        {}["k"]

def cause():
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise ValueError("above") from error

def helper():
    pb_utils.get_input_config_by_name(None, "IN")

class Outer:
    class Inner(Exception):
        pass

class Silent(Exception):
    def __str__(self):
        raise LookupError("no text")

def thrown(kind, *arguments):
    raise kind(*arguments)

async def coroutine():
    await awaited()

async def awaited():
    raise ValueError("deep")
'''

SPACE = {}
exec(compile(MODEL, "/models/m/1/model.py", "exec"), SPACE)


def described(function, *arguments):
    """What is said of the exception of a call, without this file, whose frame stands for the caller's."""
    try:
        function(*arguments)
    except BaseException as error:
        text, code = _traceback.describe(error)
    assert code == 1
    lines = text.split("\n")
    return "\n".join(line for line in lines if __file__ not in line and "_pytest" not in line and "pluggy" not in line and "runpy" not in line)


def at(*lines):
    """The end of a text: line and function of each frame."""
    return "\n\nAt:\n" + "".join("  /models/m/1/model.py(%d): %s\n" % line for line in lines)


def test_frames_stand_from_the_inside_out():
    assert described(SPACE["outer"], "w").startswith("ValueError: w" + at((4, "inner"), (7, "outer")))


def test_the_line_is_where_the_frame_was_last():
    assert described(SPACE["again"]).startswith("ZeroDivisionError: division by zero" + at((13, "again")))
    assert described(SPACE["last"]).startswith("KeyError: 'k'" + at((19, "last")))


def test_causes_are_not_shown():
    assert described(SPACE["cause"]).startswith("ValueError: above" + at((25, "cause")))


def test_frames_of_the_package_are_not_shown():
    assert described(SPACE["helper"]).startswith("AttributeError: 'NoneType' object has no attribute 'get'" + at((28, "helper")))


@pytest.mark.parametrize(
    "kind, arguments, text",
    (
        (ValueError, (), "ValueError: <EMPTY MESSAGE>"),
        (ValueError, ("one", 2), "ValueError: ('one', 2)"),
        (RuntimeError, ("one\ntwo é 日本",), "RuntimeError: one\ntwo é 日本"),
        (KeyError, ("k",), "KeyError: 'k'"),
        (SystemExit, (3,), "SystemExit: 3"),
        (KeyboardInterrupt, (), "KeyboardInterrupt: <EMPTY MESSAGE>"),
        (SPACE["Outer"].Inner, ("mine",), "Inner: mine"),
        (_errors.TritonModelException, ("of the model",), "TritonModelException: of the model"),
        (ValueError, ("half a pair: \ud800",), "ValueError: half a pair: \\ud800"),
    ),
)
def test_type_and_text_stand_first(kind, arguments, text):
    assert described(SPACE["thrown"], kind, *arguments).startswith(text + at((39, "thrown")))


def test_a_text_that_fails_says_why():
    text = described(SPACE["thrown"], SPACE["Silent"])
    assert text.startswith("Silent: <MESSAGE UNAVAILABLE DUE TO ANOTHER EXCEPTION>" + at((39, "thrown")))
    assert text.endswith("\n\nMESSAGE UNAVAILABLE DUE TO EXCEPTION: LookupError: no text" + at((36, "__str__")))


def test_a_coroutine_stands_alone():
    try:
        asyncio.run(SPACE["coroutine"]())
    except ValueError as error:
        assert _traceback.describe(error)[0] == "ValueError: deep" + at((45, "awaited"))


def test_without_a_place_there_is_none():
    assert _traceback.describe(ValueError("never raised"))[0] == "ValueError: never raised"


def test_what_was_returned_wrongly_is_the_text_alone():
    def returned():
        raise _errors.ReturnError("Expected a list.")

    assert described(returned) == "Expected a list."
