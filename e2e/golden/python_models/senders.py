"""Response senders: of models with one response per request, and of decoupled models."""

from python_models.snippets import ASYNC_SNIPPETS, DECOUPLED_SNIPPETS, SNIPPETS, rpc, snippet, stream

FINAL = "pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL"

# What the sender of a single response allows. Each sends the lines it has said as its last act where it still can.
SINGLE = {
    "response with the final flag": f"request.get_response_sender().send(response('a'), {FINAL})\nanswer = None",
    "flags by name": f"request.get_response_sender().send(response=response('a'), flags={FINAL})\nanswer = None",
    "None in the list": f"request.get_response_sender().send(response('a'), {FINAL})\nanswer = [None]",
    "response, then the final flag": f"sender = request.get_response_sender()\nsender.send(response('a'))\nsender.send(flags={FINAL})\nanswer = None",
    "the flag of a number": "request.get_response_sender().send(response('a'), 1)\nanswer = None",
    "an error": f"request.get_response_sender().send(pb_utils.InferenceResponse(error=pb_utils.TritonError('by sender', pb_utils.TritonError.NOT_FOUND)), {FINAL})\nanswer = None",
    "from a thread after execute": f"""
        sender = request.get_response_sender()
        def later():
            time.sleep(0.05)
            sender.send(response('from a thread'), {FINAL})
        threading.Thread(target=later).start()
        answer = None
    """,
    "unknown flag": f"""
        sender = request.get_response_sender()
        attempt(lambda: sender.send(response('a'), 2))
        attempt(lambda: sender.send(response('a'), -1))
        attempt(lambda: sender.send(response('a'), 4))
        attempt(lambda: sender.send(flags=8))
        sender.send(response(), {FINAL})
        answer = None
    """,
    "nothing to send": f"""
        sender = request.get_response_sender()
        attempt(lambda: sender.send())
        attempt(lambda: sender.send(None))
        attempt(lambda: sender.send(None, 0))
        sender.send(response(), {FINAL})
        answer = None
    """,
    "final before any response": f"""
        sender = request.get_response_sender()
        attempt(lambda: sender.send(flags={FINAL}))
        sender.send(response(), {FINAL})
        answer = None
    """,
    "things that are no response": f"""
        sender = request.get_response_sender()
        attempt(lambda: sender.send("text"))
        attempt(lambda: sender.send([response('a')]))
        attempt(lambda: sender.send(response('a'), "1"))
        attempt(lambda: sender.send(response('a'), None))
        attempt(lambda: sender.send(response('a'), nothing=1))
        sender.send(response(), {FINAL})
        answer = None
    """,
    "returned as well": f"request.get_response_sender().send(response('sent'), {FINAL})\nanswer = [response('returned')]",
    "a sender that is not used": "sender = request.get_response_sender()\nanswer = [response('returned')]",
    "the same sender twice": "say(request.get_response_sender() is request.get_response_sender())",
    "cancelled": f"sender = request.get_response_sender()\nsay(sender.is_cancelled(), request.is_cancelled())\nsender.send(response(), {FINAL})\nanswer = None",
    "no tensors": f"request.get_response_sender().send(pb_utils.InferenceResponse([]), {FINAL})\nanswer = None",
    "attributes": "attempt(lambda: setattr(request.get_response_sender(), 'mine', 1))\nattempt(lambda: pb_utils.InferenceResponseSender)",
}

# What a sender says when it is too late: said to the model's memory, asked by the next case.
LATE = {
    "two responses": "sender = request.get_response_sender()\nsender.send(response('a'))\nattempt(lambda: sender.send(response('b')))\n",
    "two responses and the flag": f"sender = request.get_response_sender()\nsender.send(response('a'))\nattempt(lambda: sender.send(response('b'), {FINAL}))\nsender.send(flags={FINAL})\n",
    "after the final flag": f"sender = request.get_response_sender()\nsender.send(response('a'), {FINAL})\nattempt(lambda: sender.send(response('b')))\nattempt(lambda: sender.send(response('b'), {FINAL}))\n",
    "the final flag twice": f"sender = request.get_response_sender()\nsender.send(response('a'), {FINAL})\nattempt(lambda: sender.send(flags={FINAL}))\n",
    "cancelled after the end": f"sender = request.get_response_sender()\nsender.send(response('a'), {FINAL})\nattempt(lambda: sender.is_cancelled())\n",
    "nothing after the end": f"sender = request.get_response_sender()\nsender.send(response('a'), {FINAL})\nattempt(lambda: sender.send())\n",
    "unknown flag after the end": f"sender = request.get_response_sender()\nsender.send(response('a'), {FINAL})\nattempt(lambda: sender.send(flags=3))\n",
}


def remembered(code):
    closing = "" if FINAL in code else f"attempt(lambda: sender.send(flags={FINAL}))\n"
    return f"{code}{closing}model.kept['said'] = request and say.__self__.lines\nanswer = None"


# Each on a model of its own: the recorded instance answers nothing afterwards.
RAISED = {
    "raised after the answer": f"request.get_response_sender().send(response('sent'), {FINAL})\nraise ValueError('afterwards')",
    "raised before the answer": "sender = request.get_response_sender()\nraise ValueError('before')",
}

SINGLE_CASES = [snippet(name, code) for name, code in SINGLE.items()]
for name, code in LATE.items():
    SINGLE_CASES += [snippet(name, remembered(code)), snippet(f"{name}: what was said", "answer = [response(*model.kept['said'])]")]
SINGLE_CASES += [
    snippet("async: response with the final flag", SINGLE["response with the final flag"], model="async_snippets"),
    snippet("async: from a task", f"sender = request.get_response_sender()\nawait asyncio.sleep(0.01)\nsender.send(response('a'), {FINAL})\nanswer = None", model="async_snippets"),
    rpc("gRPC response with the final flag", SINGLE["response with the final flag"]),
]

SINGLE_CASES += [snippet(name, code, model=name.replace(" ", "_")) for name, code in RAISED.items()]

SEND = "sender = request.get_response_sender()\n"


def ended(code):
    return f"{SEND}{code}\nsender.send(flags={FINAL})\nanswer = None"


DECOUPLED = {
    "no response": f"{SEND}sender.send(flags={FINAL})\nanswer = None",
    "one response, then the end": ended("sender.send(response('a'))"),
    "one response with the end": f"{SEND}sender.send(response('a'), {FINAL})\nanswer = None",
    "three responses": ended("for k in range(3):\n    sender.send(response(k))"),
    "three responses, the last with the end": f"{SEND}for k in range(3):\n    sender.send(response(k), {FINAL} if k == 2 else 0)\nanswer = None",
    "an error in the middle": ended("sender.send(response('a'))\nsender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('in the middle', pb_utils.TritonError.INVALID_ARG)))\nsender.send(response('b'))"),
    "an error with the end": f"{SEND}sender.send(response('a'))\nsender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('at the end')), {FINAL})\nanswer = None",
    "only an error": f"{SEND}sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('only')), {FINAL})\nanswer = None",
    "a response without tensors": f"{SEND}sender.send(pb_utils.InferenceResponse([]), {FINAL})\nanswer = None",
    "from a thread": f"""
        sender = request.get_response_sender()
        def later():
            for k in range(3):
                time.sleep(0.02)
                sender.send(response(k))
            sender.send(flags={FINAL})
        threading.Thread(target=later).start()
        answer = None
    """,
    "two threads, one after the other": f"""
        sender = request.get_response_sender()
        def work(k):
            sender.send(response(k))
        for k in range(4):
            thread = threading.Thread(target=work, args=(k,))
            thread.start()
            thread.join()
        sender.send(flags={FINAL})
        answer = None
    """,
    "returns a list": ended("sender.send(response('a'))").replace("answer = None", "answer = [response('returned')]"),
    "returns an empty list": ended("sender.send(response('a'))").replace("answer = None", "answer = []"),
    "returns a text": ended("sender.send(response('a'))").replace("answer = None", "answer = 'text'"),
    "returns a list of None": ended("sender.send(response('a'))").replace("answer = None", "answer = [None]"),
    "raises before any response": "raise ValueError('before any response')",
    "raises after a response": f"{SEND}sender.send(response('a'))\nraise ValueError('after a response')",
    "raises after the end": f"{SEND}sender.send(response('a'), {FINAL})\nraise ValueError('after the end')",
    "after the end": f"{SEND}sender.send(response('a'), {FINAL})\nattempt(lambda: sender.send(response('b')))\nattempt(lambda: sender.send(flags={FINAL}))\nattempt(lambda: sender.is_cancelled())\nmodel.kept['said'] = say.__self__.lines\nanswer = None",
    "after the end: what was said": f"{SEND}sender.send(response(*model.kept['said']), {FINAL})\nanswer = None",
    "wrong flags": f"{SEND}attempt(lambda: sender.send(response('a'), 5))\nattempt(lambda: sender.send())\nattempt(lambda: sender.send(flags=2))\nsender.send(response(), {FINAL})\nanswer = None",
    "attributes": f"say(request.is_cancelled(), request.get_response_sender().is_cancelled(), request.request_id(), request.parameters())\n{SEND}sender.send(response(), {FINAL})\nanswer = None",
    "a large response": f"{SEND}sender.send(pb_utils.InferenceResponse([pb_utils.Tensor('OUT_FP32', np.arange(100000, dtype=np.float32)[::25000])]), {FINAL})\nanswer = None",
    "an output not configured": f"{SEND}sender.send(pb_utils.InferenceResponse([pb_utils.Tensor('NOTHING', np.zeros(1, np.float32))]), {FINAL})\nanswer = None",
    "an input handed on": f"{SEND}sender.send(pb_utils.InferenceResponse([pb_utils.Tensor('SAID', request.inputs()[0].as_numpy())]), {FINAL})\nanswer = None",
    "still here": f"{SEND}sender.send(response('still here'), {FINAL})\nanswer = None",
}

ASYNC_DECOUPLED = {
    "async: three responses": f"{SEND}for k in range(3):\n    await asyncio.sleep(0.01)\n    sender.send(response(k))\nsender.send(flags={FINAL})\nanswer = None",
    "async: raises": "await asyncio.sleep(0)\nraise ValueError('in a coroutine')",
    "async: returns a list": f"{SEND}sender.send(response('a'), {FINAL})\nanswer = []",
    "async: a task goes on after execute": f"""
        sender = request.get_response_sender()
        async def later():
            await asyncio.sleep(0.05)
            sender.send(response('later'), {FINAL})
        asyncio.create_task(later())
        answer = None
    """,
}

FINAL_WANTED = {"triton_enable_empty_final_response": True}
DECOUPLED_CASES = [stream(name, code) for name, code in DECOUPLED.items()]
DECOUPLED_CASES += [stream(f"{name}, empty final wanted", DECOUPLED[name], **FINAL_WANTED) for name in ("no response", "one response, then the end", "one response with the end", "three responses", "an error with the end")]
DECOUPLED_CASES += [stream(name, code, model="async_decoupled") for name, code in ASYNC_DECOUPLED.items()]
DECOUPLED_CASES += [
    stream("two requests in a stream", DECOUPLED["three responses"], DECOUPLED["three responses"]),
    rpc("gRPC without a stream", DECOUPLED["one response, then the end"], model="snippets_decoupled"),
    snippet("HTTP", DECOUPLED["one response, then the end"], model="snippets_decoupled"),
]

SINGLE_SCENE = {"files": {"snippets": SNIPPETS, "async_snippets": ASYNC_SNIPPETS, **{name.replace(" ", "_"): SNIPPETS for name in RAISED}}, "flags": [], "cases": SINGLE_CASES}
DECOUPLED_SCENE = {
    "files": {
        "snippets_decoupled": DECOUPLED_SNIPPETS,
        "async_decoupled": {**ASYNC_SNIPPETS, "config.pbtxt": DECOUPLED_SNIPPETS["config.pbtxt"]},
    },
    "flags": [],
    "cases": DECOUPLED_CASES,
}
