# Kubernetes, etcd and helm from their Go modules, at the versions pinned in programs/. Sourced by up.

build_programs() {
    mkdir -p "$programs"
    local stamp
    exec 8>"$programs/lock" # one at a time, whichever checkout it is of
    flock 8
    stamp=$(cat "$here"/programs/*/go.sum "$here/pause/pause.c" - <<<"$KUBERNETES_VERSION $HELM_VERSION $ETCD_VERSION" | sha256sum)
    if [ "$(cat "$programs/stamp" 2>/dev/null)" = "$stamp" ]; then exec 8>&- && return; fi
    type -P go >/dev/null || die "no go: the cluster's programs are built from their modules with it"
    local prefix=k8s.io/component-base/version program
    local flags="-s -w -X $prefix.gitVersion=v$KUBERNETES_VERSION -X $prefix.gitMajor=1 -X $prefix.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION")"
    for program in kubectl kubelet kube-proxy kube-scheduler kube-controller-manager kube-apiserver; do
        say "building $program $KUBERNETES_VERSION (minutes the first time)"
        go_build kubernetes "$flags" "$program" "k8s.io/kubernetes/cmd/$program"
    done
    say "building helm $HELM_VERSION"
    go_build kubernetes "-s -w -X helm.sh/helm/v3/internal/version.version=v$HELM_VERSION" helm helm.sh/helm/v3/cmd/helm
    say "building etcd $ETCD_VERSION"
    go_build etcd "-s -w" etcd go.etcd.io/etcd/server/v3
    cc -O2 -static -o "$programs/pause" "$here/pause/pause.c"
    echo "$stamp" >"$programs/stamp"
    exec 8>&- # what is started later must not hold it
}

go_build() { # MODULE LDFLAGS NAME PACKAGE
    local log builder waited=0
    log=$(mktemp)
    (cd "$here/programs/$1" && CGO_ENABLED=0 exec go build -v -mod=mod -trimpath -ldflags "$2" -o "$programs/$3" "$4") 2>"$log" &
    builder=$!
    while kill -0 "$builder" 2>/dev/null; do
        sleep 1
        [ $((++waited % 60)) != 0 ] || say "building $3: $(wc -l <"$log") packages after $((waited / 60)) min"
    done
    wait "$builder" || { cat "$log" >&2; rm -f "$log"; die "$3 was not built"; }
    rm -f "$log"
}
