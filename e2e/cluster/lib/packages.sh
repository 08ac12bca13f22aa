# Debian's part of a node: container runtime, network plug-ins, packet filter. Sourced by up.

install_packages() {
    local package missing=()
    for package in containerd runc containernetworking-plugins iptables conntrack iproute2 openssl buildah mmdebstrap; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    type -P apt-get >/dev/null || die "missing programs and no apt-get: install ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
