# Pretend GPUs: our own device plugin beside each kubelet offers two of them, so that scheduling on nvidia.com/gpu and
# NVIDIA_VISIBLE_DEVICES are really decided here. Sourced by up.

start_gpus() { # NUMBER
    local plugins=$state/node$1/kubelet/device-plugins
    wait_for 60 "the kubelet's plug-in socket on node $1" test -S "$plugins/kubelet.sock"
    on_node "$1" gpus "$root/target/debug/pretend_gpus" "$GPUS_PER_NODE" "$plugins"
}

build_gpus() {
    say "building the pretend GPUs"
    "$root/e2e/build"
}
