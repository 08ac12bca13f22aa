"""GPUs: pods that ask for some get them, pods that ask for more than there are say so. The nodes offer two pretend ones each."""

import pytest

from kube import ECHO, SERVER, environment, load, until

WITH_GPU = SERVER.replace("replicas: 1", "replicas: 2") + "  gpu: {count: 1}\n"


@pytest.mark.our_cluster
def test_each_pod_sees_its_own_gpu(namespace):
    namespace.apply(WITH_GPU, ECHO)
    namespace.wait("tsrv/vision")
    seen = [(pod["spec"]["nodeName"], environment(pod)["NVIDIA_VISIBLE_DEVICES"]) for pod in namespace.pods().values()]
    assert len(seen) == 2 and all(devices for _, devices in seen)
    assert len(set(seen)) == 2, f"two pods share a GPU: {seen}"
    for pod in namespace.pods().values():
        server = next(it for it in pod["spec"]["containers"] if it["name"] == "server")
        assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert "NVIDIA_VISIBLE_DEVICES" not in environment(pod, "agent")


@pytest.mark.parametrize(
    "gpu", ["{count: 3}", "{count: 1, resourceName: nvidia.com/mig-1g.10gb}"], ids=["too many", "of a kind nobody has"]
)
def test_gpus_that_do_not_exist_are_told_in_the_schedulers_words(namespace, gpu):
    namespace.apply(SERVER + f"  gpu: {gpu}\n", ECHO)
    condition = namespace.wait("tsrv/vision", status="False", reason="Unschedulable")
    assert "Insufficient nvidia.com/" in condition["message"], condition
    until(lambda: "nvidia.com/" in namespace.condition("tmod/echo")["message"], "the model to say so")
    # a spec that fits gets its pods
    namespace.patch("tsrv/vision", gpu={"count": 1, "resourceName": "nvidia.com/gpu"})
    namespace.wait("tmod/echo")
    assert namespace.infer() == [1, 2]


def test_models_beyond_the_gpu_memory_are_left_out_and_say_so(namespace):
    claim = "  gpuMemory: {}\n"
    namespace.apply(
        SERVER + "  gpu: {count: 1, memoryPerReplica: 10Gi, memoryReserve: 10%}\n",
        ECHO + claim.format("6Gi") + "  priority: 1\n",
        ECHO.replace("name: echo", "name: large") + claim.format("6Gi"),
    )
    namespace.wait("tmod/echo")
    namespace.wait("tmod/large", status="False", reason="InsufficientGPUMemory")
    assert namespace.condition("tmod/large", "FitsMemory")["status"] == "False"
    namespace.patch("tmod/large", gpuMemory="2Gi")
    namespace.wait("tmod/large")


def test_a_new_template_that_cannot_run_ends_no_pod_that_serves(namespace):
    namespace.apply(SERVER + "  gpu: {count: 1}\n", ECHO)
    namespace.wait("tmod/echo")
    before = namespace.lives()
    with load(namespace):
        namespace.patch("tsrv/vision", gpu={"count": 3})
        namespace.wait("tsrv/vision", status="False", reason="Unschedulable")
        image = {"repository": "localhost/tritonserver", "tag": "no-such-tag"}
        namespace.patch("tsrv/vision", gpu={"count": 1}, image=image)
        condition = namespace.wait("tsrv/vision", status="False", reason="ImagePullBackOff")
        assert "no-such-tag" in condition["message"], condition
        assert before <= namespace.lives(), "the old pod serves"
        namespace.patch("tsrv/vision", image=None)
        namespace.wait("tsrv/vision")
    assert namespace.lives() == before


def test_without_a_spare_gpu_new_pods_get_those_of_old_ones(namespace, next_image):
    namespace.apply(SERVER.replace("replicas: 1", "replicas: 2") + "  gpu: {count: 2}\n", ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    before = set(namespace.pods())
    surge = lambda: namespace.get("deployment/vision")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert surge() == 1
    with load(namespace):
        namespace.patch("tsrv/vision", image=next_image)
        until(lambda: not before & set(namespace.pods()), "new pods", 120)
        namespace.wait("tsrv/vision")
    until(lambda: surge() == 1, "the pace of the next rollout")
