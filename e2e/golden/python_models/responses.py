"""Responses and their errors: codes over HTTP and gRPC, parameters, and what execute may return."""

from python_models.snippets import ASYNC_SNIPPETS, SNIPPETS, rpc, snippet

CODES = ["UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED"]


def refused(code):
    return f"answer = [pb_utils.InferenceResponse(error=pb_utils.TritonError('the {code} text é', pb_utils.TritonError.{code}))]"


def returned(name, expression, *more, **members):
    return snippet(name, f"answer = {expression}", *more, **members)


ERRORS = """
    E = pb_utils.TritonError
    error = E("text")
    say(type(error).__name__, error.message(), error.code(), str(error.code()), repr(error.code()), type(error.code()).__name__)
    say([(name, getattr(E, name)) for name in dir(E) if name.isupper()])
    attempt(lambda: E("text", E.NOT_FOUND).code() == E.NOT_FOUND)
    attempt(lambda: E(message="by name", code=E.CANCELLED).message())
    attempt(lambda: E())
    attempt(lambda: E(3))
    attempt(lambda: E(None))
    attempt(lambda: E("text", 3).code())
    attempt(lambda: E("text", "NOT_FOUND"))
    attempt(lambda: E("").message())
    attempt(lambda: E(b"bytes").message())
    attempt(lambda: issubclass(E, BaseException))
    attempt(lambda: E("a") == E("a"))
    attempt(lambda: pb_utils.TritonErrorCode)
    def throw():
        raise pb_utils.TritonModelException("of mine")
    attempt(throw)
    attempt(lambda: pb_utils.TritonModelException("a", 2).args)
    attempt(lambda: pb_utils.TritonModelException().args)
"""

MADE = """
    R, T, E = pb_utils.InferenceResponse, pb_utils.Tensor, pb_utils.TritonError
    tensor = T("SAID", np.array(["x"], dtype=object))
    def form(made):
        return [t.name() for t in made.output_tensors()], made.has_error(), made.error() and made.error().message()
    attempt(lambda: form(R([tensor])))
    attempt(lambda: form(R(output_tensors=[tensor])))
    attempt(lambda: form(R([])))
    attempt(lambda: form(R((tensor,))))
    attempt(lambda: form(R([tensor], None)))
    attempt(lambda: form(R([tensor], E("both"))))
    attempt(lambda: form(R([], E("only an error"))))
    attempt(lambda: form(R(output_tensors=[tensor], error=E("by name"))))
    attempt(lambda: form(R(error=E("without tensors"))))
    attempt(lambda: R(error="text"))
    attempt(lambda: R(error=ValueError("x")))
    attempt(lambda: form(R()))
    attempt(lambda: R([1]))
    attempt(lambda: R([None]))
    attempt(lambda: R([tensor, None]))
    attempt(lambda: R(tensor))
    attempt(lambda: R(None))
    attempt(lambda: R({"SAID": tensor}))
    attempt(lambda: R([tensor]).error())
    attempt(lambda: R([tensor]).has_error())
    made = R([tensor, T("OUT_FP32", np.zeros(1, np.float32))])
    say(type(made.output_tensors()).__name__, made.output_tensors()[0] is tensor, made.output_tensors() is made.output_tensors())
    attempt(lambda: setattr(made, "mine", 1))
"""

PARAMETERS = """
    def form(parameters):
        made = pb_utils.InferenceResponse([], parameters=parameters)
        return type(made.parameters()).__name__, made.parameters()
    attempt(lambda: form({"a": 1, "b": True, "c": "x"}))
    attempt(lambda: form({"a": 1.5}))
    attempt(lambda: form({}))
    attempt(lambda: form(None))
    attempt(lambda: form({"a": None}))
    attempt(lambda: form({1: "a"}))
    attempt(lambda: form({"a": [1]}))
    attempt(lambda: form("text"))
"""

PARAMETERED = (
    "answer = [pb_utils.InferenceResponse([pb_utils.Tensor('SAID', np.array(['x'], dtype=object))], "
    "parameters={'number': 7, 'negative': -1, 'yes': True, 'text': 'é \"'})]"
)

CASES = [
    *[snippet(f"error {code}", refused(code)) for code in CODES],
    *[rpc(f"gRPC error {code}", refused(code)) for code in CODES],
    snippet("error without a code", "answer = [pb_utils.InferenceResponse(error=pb_utils.TritonError('plain'))]"),
    snippet("error of several lines", "answer = [pb_utils.InferenceResponse(error=pb_utils.TritonError('one\\n\"two\"\\tthree'))]"),
    snippet("error without a text", "answer = [pb_utils.InferenceResponse(error=pb_utils.TritonError(''))]"),
    snippet("an error beside tensors", "answer = [pb_utils.InferenceResponse([pb_utils.Tensor('SAID', np.array(['x'], dtype=object))], pb_utils.TritonError('both'))]"),
    snippet("an error and an id", refused("NOT_FOUND"), id="my-id"),
    rpc("gRPC error of several lines", "answer = [pb_utils.InferenceResponse(error=pb_utils.TritonError('one\\ntwo é'))]"),
    snippet("error objects", ERRORS),
    snippet("responses made", MADE),
    snippet("parameters of a response", PARAMETERS),
    snippet("parameters of a response over HTTP", PARAMETERED),
    rpc("gRPC parameters of a response", PARAMETERED),
    returned("returns an empty list", "[]"),
    returned("returns one too many", "[response('a'), response('b')]"),
    returned("returns a tuple", "(response('a'),)"),
    returned("returns a generator", "(response('a') for _ in range(1))"),
    returned("returns a response alone", "response('a')"),
    returned("returns a text", "'text'"),
    returned("returns a number", "3"),
    returned("returns a dictionary", "{}"),
    returned("returns a list of texts", "['text']"),
    returned("returns a list of tensors", "[pb_utils.Tensor('SAID', np.array(['x'], dtype=object))]"),
    returned("returns a list of an exception", "[ValueError('x')]"),
    returned("returns a list of an error", "[pb_utils.TritonError('x')]"),
    returned("returns a subclass of list", "type('Mine', (list,), {})([response('a')])"),
    returned("returns a subclass of a response", "[type('Mine', (pb_utils.InferenceResponse,), {})([pb_utils.Tensor('SAID', np.array(['x'], dtype=object))])]"),
    returned("async: returns a text", "'text'", model="async_snippets"),
    returned("async: returns one too many", "[response('a'), response('b')]", model="async_snippets"),
    returned("answers after all that", "[response('still here')]"),
]

SCENE = {"files": {"snippets": SNIPPETS, "async_snippets": ASYNC_SNIPPETS}, "flags": [], "cases": CASES}
