# What every script here shares: where things lie, how to speak, how to reach the cluster. Sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=../versions
source "$here/versions"

# Programs outlive a checkout: building them takes minutes.
programs=${CLUSTER_PROGRAMS:-${XDG_CACHE_HOME:-$HOME/.cache}/triton-operator/cluster-$KUBERNETES_VERSION}
# Several clusters can be up at once: CLUSTER names one of them, the first has no name. They share the programs and nothing else.
suffix=${CLUSTER:+-$CLUSTER}
state=${CLUSTER_STATE:-$root/target/cluster}$suffix
kubeconfig=${E2E_KUBECONFIG:-$state/pki/admin.kubeconfig}
network=kc$suffix                        # network namespace of the control plane
node_network() { echo "kn$1$suffix"; }   # and that of a node, whose control groups are called so, too
export KUBECACHEDIR=$state/kube-cache    # what kubectl and helm remember of the kinds: addresses are the same in every cluster

say() { printf 'cluster: %s\n' "$*"; }
die() { printf 'cluster: %s\n' "$*" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "namespaces and containers need root; run as root, or set E2E_KUBECONFIG to a cluster"; }

# Runs a command where the cluster's addresses are: inside the control plane's namespace, or right here when adopted.
inside() {
    if [ -n "${E2E_KUBECONFIG:-}" ]; then "$@"; else nsenter --net="/run/netns/$network" "$@"; fi
}

kubectl() {
    local program=$programs/kubectl
    [ -x "$program" ] || program=$(type -P kubectl) || die "no kubectl: run e2e/cluster/up, or install one"
    briefly "$program" --kubeconfig "$kubeconfig" "$@"
}

# The same for a Go program that soon ends: it need not look for memory that can be used again.
briefly() { GOGC=off GOMEMLIMIT=256MiB inside "$@"; }

cluster_answers() {
    [ -e "/run/netns/$network" ] && [ -f "$kubeconfig" ] && kubectl get --raw /readyz --request-timeout=5s >/dev/null 2>&1 \
        && [ "$(alive kubelet1)$(alive kubelet2)" = yesyes ]
}

# Waits until a command succeeds: wait_for SECONDS WHAT COMMAND...
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt "$deadline" ] || die "timed out waiting for $what; logs are in $state/logs"
        sleep 0.3
    done
}

# Each program has a name; its process id and log are in the state folder.
start() { # NAME NAMESPACE COMMAND...
    local name=$1 namespace=$2
    shift 2
    mkdir -p "$state/logs"
    # all of them but the pods are written in Go, and there is more memory here than processor time
    GOGC=300 setsid nsenter --net="/run/netns/$namespace" "$@" >"$state/logs/$name.log" 2>&1 </dev/null &
    echo $! >"$state/logs/$name.pid"
}

alive() { # NAME
    local pid
    pid=$(cat "$state/logs/$1.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null && echo yes || echo no
}

stop_programs() { # NAME...  every instance of each: SIGTERM to all of them, then SIGKILL to those that are still there
    local name file pid pids=()
    for name in "$@"; do
        for file in "$state/logs/$name"*.pid; do
            [ -f "$file" ] || continue
            pid=$(cat "$file")
            # A process id may have been given to somebody else since: ours lives in one of our namespaces.
            in_our_namespace "$pid" && kill "$pid" 2>/dev/null && pids+=("$pid")
            rm -f "$file"
        done
    done
    for _ in $(seq 30); do
        [ ${#pids[@]} != 0 ] && kill -0 "${pids[@]}" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "${pids[@]}" 2>/dev/null
    return 0
}

in_our_namespace() { # PID
    local namespace
    for namespace in "$network" "$(node_network 1)" "$(node_network 2)"; do
        [ -e "/run/netns/$namespace" ] || continue
        [ "/proc/$1/ns/net" -ef "/run/netns/$namespace" ] && return 0
    done
    return 1
}

end_control_group() { # NAME
    find /sys/fs/cgroup/pids/"$1" /sys/fs/cgroup/"$1" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -9 2>/dev/null
    return 0
}
