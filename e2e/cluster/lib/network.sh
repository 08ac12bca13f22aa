# Network namespaces: kc for the control plane, with a bridge; kn1 and kn2 for the nodes (of a cluster with a name: kc-NAME and so on). The
# machine's own network is not touched, and no cluster sees another: all have the same addresses. Nodes are 10.89.0.11 and .12, their pods
# 10.90.1.0/24 and 10.90.2.0/24, Services 10.96.0.0/16.
# Sourced by up.

make_network() {
    local node own
    ip netns add "$network"
    ip -n "$network" link set lo up
    ip -n "$network" link add bridge0 type bridge
    ip -n "$network" addr add 10.89.0.1/24 dev bridge0
    ip -n "$network" link set bridge0 up
    nsenter --net="/run/netns/$network" sysctl -qw net.ipv4.ip_forward=1
    for node in 1 2; do
        own=$(node_network "$node")
        ip netns add "$own"
        ip -n "$own" link set lo up
        ip link add "node$node" netns "$network" type veth peer name eth0 netns "$own"
        ip -n "$network" link set "node$node" master bridge0 up
        ip -n "$own" addr add "10.89.0.1$node/24" dev eth0
        ip -n "$own" link set eth0 up
        ip -n "$own" route add default via 10.89.0.1
        nsenter --net="/run/netns/$own" sysctl -qw net.ipv4.ip_forward=1
        ip -n "$network" route add "10.90.$node.0/24" via "10.89.0.1$node"
    done
    ip -n "$(node_network 1)" route add 10.90.2.0/24 via 10.89.0.12
    ip -n "$(node_network 2)" route add 10.90.1.0/24 via 10.89.0.11
    # Whoever stands in kc reaches Services through the first node's kube-proxy.
    ip -n "$network" route add 10.96.0.0/16 via 10.89.0.11
}
