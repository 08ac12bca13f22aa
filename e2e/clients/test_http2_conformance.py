"""The gRPC port, judged by h2spec: 146 things that a server of HTTP/2 has to do when a client does something, mostly something wrong."""

import subprocess
from xml.etree import ElementTree

import pytest

from certificates import Authority
from serving import ROOT, Server, scaled

CASES = 146
# A server may answer GET before the client has sent what is wrong. So often such a case is tried again.
TRIES = 10
# h2spec sends GET without a body, which no gRPC server answers with more than a status, and begins with the defaults of HTTP/2. So these cases do not
# come to what they are about; `test_http2.py` has a test of each with calls of gRPC.
NEEDS_A_BODY = "the response to GET has no DATA frame"
NOT_FOR_GRPC = {
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"): NEEDS_A_BODY,
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream"): NEEDS_A_BODY,
    ("http2/6.5.3", "Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE"): NEEDS_A_BODY,
    ("http2/6.9.1", "Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame"): NEEDS_A_BODY,
    ("http2/6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame"): NEEDS_A_BODY,
    ("http2/6.9.2", "Sends a SETTINGS frame for window size to be negative"): NEEDS_A_BODY,
    ("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE"): "the frame has 20 kB, and the server takes 1 MiB",
    ("http2/5.1.2", "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded"): "GET is answered at once",
}


@pytest.fixture(scope="module")
def h2spec():
    done = subprocess.run([ROOT / "e2e" / "h2spec"], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.strip()


def judged(h2spec, server, report, *flags):
    """What h2spec says of each case: nothing where it passed, why it did not, or `skipped`."""
    address = ["--host", "127.0.0.1", "--port", server.grpc, "--timeout", round(scaled(2))]
    command = [h2spec, "--strict", "--junit-report", report, *address, *flags]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=scaled(300))
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    cases = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = (case.get("package"), case.get("classname"))
        said = [(one.text or "").strip().replace("\n", ", not ") or one.tag for one in case]
        # a name that h2spec uses twice passes when both do
        cases[name] = cases.get(name) or ", ".join(said)
    return cases, sum(1 for _ in ElementTree.parse(report).iter("testcase"))


def was_answered(said):
    """The call was answered, with headers alone, before what is wrong had come: the case has to be tried again."""
    return "HEADERS Frame (" in said and "flags:0x05" in said


@pytest.mark.parametrize("connection", ("plain", "tls"))
def test_it_does_what_the_specifications_ask(folder, tmp_path, h2spec, connection):
    flags, client = [], []
    if connection == "tls":
        certificate, key = Authority(tmp_path / "authority").issue()
        flags = ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
        client = ["--tls", "--insecure"]
    with Server(folder, *flags) as server:
        cases, count = judged(h2spec, server, tmp_path / "report.xml", *client)
        assert count == CASES and cases.keys() >= NOT_FOR_GRPC.keys()
        wrong = {name: said for name, said in cases.items() if said and name not in NOT_FOR_GRPC}
        for _ in range(TRIES):
            sections = {section for (section, _), said in wrong.items() if was_answered(said)}
            if sections:
                again, _ = judged(h2spec, server, tmp_path / "report.xml", *client, *sections)
                wrong = {name: again.get(name, said) for name, said in wrong.items() if again.get(name, said)}
    assert not wrong, "\n" + "\n".join(f"{section} {name}: {said}" for (section, name), said in wrong.items())
