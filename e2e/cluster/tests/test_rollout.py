"""A new content of a model comes to one replica first. What fails there goes no further."""

from kube import ECHO, SERVER, load, until

THREE = SERVER.replace("replicas: 1", "replicas: 3")


def test_a_content_that_does_not_load_stops_at_the_first_replica(namespace):
    namespace.apply(THREE, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    with load(namespace):
        namespace.patch("tmod/echo", config={"backend": "nowhere"})
        condition = namespace.wait("tmod/echo", status="False", reason="LoadFailed")
        assert "nowhere" in condition["message"] and "no further replica" in condition["message"], condition
        (failure,) = namespace.get("tmod/echo")["status"]["failures"]
        assert failure["pod"] in namespace.pods()
        # a new replica serves what is proven
        namespace.patch("tsrv/vision", replicas=4)
        until(lambda: len(namespace.pods()) == 4, "a fourth pod")
        namespace.wait("tsrv/vision")
        (still,) = namespace.get("tmod/echo")["status"]["failures"]
        assert still["pod"] == failure["pod"]
        namespace.patch("tmod/echo", config={"backend": "identity"})
        namespace.wait("tmod/echo")
    assert namespace.get("tmod/echo")["status"]["loadedReplicas"] == "4/4"
