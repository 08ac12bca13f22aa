# Network namespaces: kc for the control plane, with a bridge; kn1 and kn2 for the nodes. The machine's own network is
# not touched. Nodes are 10.89.0.11 and .12, their pods 10.90.1.0/24 and 10.90.2.0/24, Services 10.96.0.0/16.
# Sourced by up.

make_network() {
    local node
    ip netns add kc
    ip -n kc link set lo up
    ip -n kc link add bridge0 type bridge
    ip -n kc addr add 10.89.0.1/24 dev bridge0
    ip -n kc link set bridge0 up
    nsenter --net=/run/netns/kc sysctl -qw net.ipv4.ip_forward=1
    for node in 1 2; do
        ip netns add "kn$node"
        ip -n "kn$node" link set lo up
        ip link add "node$node" netns kc type veth peer name eth0 netns "kn$node"
        ip -n kc link set "node$node" master bridge0 up
        ip -n "kn$node" addr add "10.89.0.1$node/24" dev eth0
        ip -n "kn$node" link set eth0 up
        ip -n "kn$node" route add default via 10.89.0.1
        nsenter --net="/run/netns/kn$node" sysctl -qw net.ipv4.ip_forward=1
        ip -n kc route add "10.90.$node.0/24" via "10.89.0.1$node"
    done
    ip -n kn1 route add 10.90.2.0/24 via 10.89.0.12
    ip -n kn2 route add 10.90.1.0/24 via 10.89.0.11
    # Whoever stands in kc reaches Services through the first node's kube-proxy.
    ip -n kc route add 10.96.0.0/16 via 10.89.0.11
}
