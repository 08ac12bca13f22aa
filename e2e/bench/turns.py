"""Targets measured in turns, so that a change in what else the machine does meets all of them."""

import contextlib
import copy
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Callable

import load
from serving import free_ports, program, until


@dataclass(frozen=True)
class Target:
    """One thing to measure: `call(seconds)` returns a Round."""

    name: str
    callers: int
    call: Callable


def in_turns(targets, options):
    """Rounds by target: every target once per round. The first round warms up and is not counted: it
    is as long as the others, for some libraries compile a model in its first runs."""
    rounds = {target: [] for target in targets}
    for turn in range(options.rounds + 1):
        for target in targets:
            one = target.call(options.seconds)
            if turn:
                rounds[target].append(one)
        print(f"round {turn} of {options.rounds} done", file=sys.stderr)
    return rounds


def longer(options, seconds):
    """The options with rounds of so many seconds at least: for runs that take milliseconds, enough of them for a rate."""
    options = copy.copy(options)
    options.seconds = max(options.seconds, seconds)
    return options


def each(rounds, name, callers, field):
    """A field of every round of one target."""
    return next([getattr(one, field) for one in all_of] for target, all_of in rounds.items() if (target.name, target.callers) == (name, callers))


def ratio(rounds, name, base, callers, field):
    """A target over another, round by round: what slows the machine slows both."""
    pairs = zip(each(rounds, name, callers, field), each(rounds, base, callers, field))
    return load.spread(one / other for one, other in pairs)


class Running:
    """A program on one port, with the attributes of a Server that the load tools need."""

    def __init__(self, process, port):
        self.process, self.http, self.grpc = process, port, port


@contextlib.contextmanager
def echo(name, env=None):
    """One of the echo programs."""
    with listening(name, lambda address: [address], env) as running:
        yield running


@contextlib.contextmanager
def bare_exchange(protocol, length):
    """A server that throws requests away and answers each with so many bytes: what the exchange of bytes alone takes."""
    with listening("large", lambda address: ["serve", protocol, address, str(length)]) as running:
        yield running


@contextlib.contextmanager
def listening(name, arguments, env=None):
    """A program on one port."""
    (port,) = free_ports(1)
    process = subprocess.Popen([program(name), *arguments(f"127.0.0.1:{port}")], env=env)
    try:
        until(lambda: listens(port), f"{name} to listen", process=process)
        yield Running(process, port)
    finally:
        process.kill()
        process.wait()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def http_target(name, server, model, inputs, callers):
    """Binary requests over HTTP. `inputs` as `load.http_body` takes them."""
    body, json_length = load.http_body(inputs)
    url = f"http://127.0.0.1:{server.http}/v2/models/{model}/infer"
    return Target(name, callers, lambda seconds: load.wrk(url, server.process.pid, body, callers, seconds, json_length=json_length))


def grpc_target(name, server, model, inputs, callers):
    """The same requests over gRPC."""
    body = load.grpc_body(model, inputs)
    return Target(name, callers, lambda seconds: load.h2load(server.grpc, server.process.pid, body, callers, seconds))


def large_target(protocol):
    """A target function for requests of megabytes over `http` or `grpc`."""

    def target(name, server, model, inputs, callers):
        body, json_length = load.http_body(inputs) if protocol == "http" else (load.grpc_body(model, inputs), 0)
        port = server.http if protocol == "http" else server.grpc
        return Target(name, callers, lambda seconds: load.large(protocol, port, server.process.pid, body, callers, seconds, model, json_length))

    return target
