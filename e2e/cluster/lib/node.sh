# One node: containerd, kubelet, kube-proxy in a network namespace and a mount namespace of their own. Sourced by up.

start_node() { # NUMBER
    local node=$1 folder=$state/node$1
    mkdir -p "$folder"/{containerd,run,cni,kubelet,pods} /var/lib/kubelet
    containerd_config "$node" "$folder" >"$folder/containerd.toml"
    cni_config "$node" "$folder" >"$folder/cni/10-bridge.conflist"
    kubelet_config "$node" "$folder" >"$folder/kubelet.yaml"
    proxy_config "$node" >"$folder/proxy.yaml"
    control_group "$(node_network "$node")"
    # The kubelet's device-plugin and pod-resources sockets have built-in paths: each node sees its own folder there.
    start "node$node" "$(node_network "$node")" unshare -m bash -c '
        set -e
        mount --make-rprivate /
        mount --bind "$0/kubelet" "$0/kubelet"
        mount --bind "$0/kubelet" /var/lib/kubelet
        mount --make-rshared /
        echo $$ >"$0/mounts.pid"
        exec sleep infinity' "$folder"
    wait_for 20 "the mounts of node $node" test -s "$folder/mounts.pid"
    on_node "$node" containerd containerd -c "$folder/containerd.toml"
    wait_for 30 "containerd of node $node" test -S "$folder/containerd.sock"
    import_image "$node" "$(pause_image)"
    on_node "$node" kubelet "$programs/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$state/pki/kn$node.kubeconfig" \
        --hostname-override="kn$node" --node-ip="10.89.0.1$node" --root-dir=/var/lib/kubelet --cert-dir="$folder/cert"
    on_node "$node" proxy "$programs/kube-proxy" --config="$folder/proxy.yaml"
}

on_node() { # NUMBER NAME COMMAND...  in the node's network and mounts
    local node=$1 program=$2
    shift 2
    start "$program$node" "$(node_network "$node")" nsenter --mount="/proc/$(cat "$state/node$node/mounts.pid")/ns/mnt" "$@"
}

import_image() { # NUMBER ARCHIVE
    ctr -a "$state/node$1/containerd.sock" -n k8s.io images import --all-platforms "$2" >/dev/null
}

# The pod sandbox's image, made of our own program: there is no registry to pull one from.
pause_image() {
    local archive=$programs/pause.oci.tar container mount
    if [ ! -f "$archive" ]; then
        container=$(buildah from scratch)
        buildah copy -q "$container" "$programs/pause" /pause >/dev/null
        buildah config --entrypoint '["/pause"]' "$container"
        buildah commit -q "$container" localhost/pause:1 >/dev/null
        buildah rm "$container" >/dev/null
        buildah push -q localhost/pause:1 "oci-archive:$archive:localhost/pause:1"
    fi
    echo "$archive"
}

control_group() { # NAME  in every controller, with the processors filled in as version 1 wants
    local controller file
    [ -d /sys/fs/cgroup/pids ] || return 0
    for controller in /sys/fs/cgroup/*/; do
        case $controller in */unified/) ;; *) mkdir -p "$controller$1" ;; esac
    done
    for file in cpus mems; do
        [ -f "/sys/fs/cgroup/cpuset/cpuset.$file" ] && cat "/sys/fs/cgroup/cpuset/cpuset.$file" >"/sys/fs/cgroup/cpuset/$1/cpuset.$file"
    done
    # All pods of a node together would else have the share of the processors that a single process outside has.
    [ -f "/sys/fs/cgroup/cpu/$1/cpu.shares" ] && echo 8192 >"/sys/fs/cgroup/cpu/$1/cpu.shares"
    return 0
}

containerd_config() { # NUMBER FOLDER
    cat <<TOML
version = 2
root = "$2/containerd"
state = "$2/run"
[grpc]
  address = "$2/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$2/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
TOML
}

cni_config() { # NUMBER FOLDER
    cat <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$2/ipam", "ranges": [[{"subnet": "10.90.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
}

kubelet_config() { # NUMBER FOLDER
    cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://$2/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$(node_network "$1")          # two kubelets under one root remove each other's pods
failCgroupV1: false
failSwapOn: false
resolvConf: ""
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
podLogsDir: $2/pods
syncFrequency: 10s
nodeStatusUpdateFrequency: 4s
YAML
}

proxy_config() { # NUMBER
    cat <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.90.0.0/16
clientConnection: {kubeconfig: $state/pki/kube-proxy.kubeconfig}
hostnameOverride: kn$1
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}   # not writable everywhere
YAML
}
